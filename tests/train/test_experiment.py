"""The whole chain of the paper's evaluation, small: train g, anonymize, train detectors, measure, attack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch

from dartblur.bundle import default_bundle
from dartblur_ops import patch_mask
from dartblur_train.evaluation.experiment import Row, mean_and_spread
from dartblur_train.evaluation.report import markdown
from dartblur_train.generators import load_generator


def dartblur(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dartblur", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def succeed(*arguments: object) -> str:
    result = dartblur(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def generator(drawn_faces: Path, retinaface_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dart")
    options = ("--steps", 1, "--batch", 1, "--updates", "joint", "--workers", 0, "--target-confidence", 0.5)
    succeed("train", "dart", "--data", drawn_faces, "--out", out, "--weights", retinaface_weights, *options)
    return out / "generator.safetensors"


def test_the_table_is_made_by_one_command_and_goes_on(
    drawn_faces: Path, generator: Path, retinaface_weights: Path, tmp_path: Path
) -> None:
    command = ("evaluate", "fidelity", "--data", drawn_faces / "widerface", "--out", tmp_path)
    methods = ("--method", "gaussian", "--method", f"dart={generator}")
    detectors = ("--detector", f"retinaface={retinaface_weights}", "--detector", "edge-small")
    budget = ("--steps", 2, "--batch", 2, "--workers", 0, "--seeds", 2, "--confidence", 0.2)
    table = succeed(*command, *methods, *detectors, *budget)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["detector"], row["method"]) for row in rows] == [
        (detector, method) for detector in ("retinaface", "edge-small") for method in ("clean", "gaussian", "dart")
    ]
    for row in rows:
        assert len(row["operational"]) == (0 if row["method"] == "clean" else 1)
        assert len(row["post_hoc"]) == len(row["cycle"]) == len(row["ap"]["all"]) == 2
        assert row["post_hoc"] == row["cycle"] or row["method"] != "clean"
    assert "confidence of at least 0.2" in table
    assert "seeds: 0, 1 (2)" in table
    for measure in ("operational", "post_hoc", "cycle"):
        assert cv2.imread(str(tmp_path / f"retinaface-{measure}.png")) is not None
    assert len(list(tmp_path.glob("edge-small-picture-*.jpg"))) == 4
    # What is there is not made again, and gives the same table.
    weights = tmp_path / "detectors" / "edge-small" / "dart-1" / "detector.safetensors"
    made = weights.stat().st_mtime_ns
    assert succeed(*command, *methods, *detectors, *budget) == table
    assert weights.stat().st_mtime_ns == made
    # Figures of different budgets are not mixed.
    other = dartblur(*command, *methods, *detectors, *budget, "--steps", 3)
    assert other.returncode == 2
    assert "settings.json tells of others" in other.stderr


def test_an_attack_is_trained_and_judged(drawn_faces: Path, tmp_path: Path) -> None:
    options = ("--data", drawn_faces, "--method", "gaussian", "--out", tmp_path)
    succeed("train", "recover", *options, "--steps", 2, "--batch", 2, "--workers", 0)
    attacker = tmp_path / "attacker.safetensors"
    figures = json.loads(succeed("evaluate", "recover", *options, "--attacker", attacker, "--smallest", 20))
    assert figures["faces"] == 8
    assert 5 < figures["psnr_redacted"] < 50
    # Two steps from a network that adds nothing: about as far from the clear face as the blurred one.
    assert figures["psnr_recovered"] == pytest.approx(figures["psnr_redacted"], abs=2)
    assert 0 < figures["ssim_redacted"] < 1
    sheet = cv2.imread(str(tmp_path / "recovery.png"))
    assert sheet is not None
    assert sheet.shape == (3 * 64, 8 * 64, 3)
    other = dartblur("evaluate", "recover", *options, "--method", "block", "--attacker", attacker)
    assert other.returncode == 2
    assert "method was 'gaussian', now it is 'block'" in other.stderr


def test_the_built_in_generator_can_be_read_from_its_bundle() -> None:
    """A graph holds the constants that the network makes itself, beside its weights."""
    generator, application, metadata = load_generator(default_bundle())
    assert metadata["generator"] == "edge"
    assert application.metadata["patch_size"] == "64"
    session = onnxruntime.InferenceSession(default_bundle() / "generator.onnx")
    blurred = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    mask = torch.from_numpy(patch_mask(64, 1.6))[None].expand(2, -1, -1, -1)
    with torch.no_grad():
        ours = generator(torch.from_numpy(blurred), mask).numpy()
    assert np.abs(ours - session.run(None, {"blurred": blurred})[0]).max() < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "smear", "--detector", "retinaface"), "--method: expected block, gaussian, pixelate"),
        (("--method", "clean=x", "--detector", "retinaface"), "--method: expected different names, none of them clean"),
        (("--method", "gaussian=", "--detector", "retinaface"), "--method: expected NAME or NAME=FILE"),
        (("--method", "gaussian", "--detector", "nope"), "detector: expected one of"),
    ],
)
def test_bad_options_are_named(drawn_faces: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    result = dartblur("evaluate", "fidelity", "--data", drawn_faces / "widerface", "--out", tmp_path, *options)
    assert result.returncode == 2
    assert message in result.stderr


def test_the_table_tells_mean_and_spread() -> None:
    assert mean_and_spread([0.5]) == (0.5, 0.0)
    assert mean_and_spread([0.4, 0.6]) == pytest.approx((0.5, np.sqrt(0.02)))
    rows = [
        Row("clean", "f", [], [0.9, 0.9], [0.9, 0.9], {"all": [0.8, 0.8]}),
        Row("dart", "f", [0.95], [0.8, 0.9], [0.4, 0.5], {"all": [0.3, 0.4]}),
    ]
    lines = markdown(rows, "How.").splitlines()
    assert lines[4] == "| method | Operational | Post-hoc | Cycle | AP of f_g on clear, all |"
    assert lines[6] == "| clean | - | 90.00 ± 0.00 | 90.00 ± 0.00 | 80.00 ± 0.00 |"
    assert lines[7] == "| dart | 95.00 | 85.00 ± 7.07 | 45.00 ± 7.07 | 35.00 ± 7.07 |"
