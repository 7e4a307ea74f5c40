"""The training commands, small: data in, weights out, resumed, exported, and used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dartblur_train.checkpoints import load_checkpoint, save_checkpoint
from dartblur_train.dart_training import DartArgs, train_dart
from dartblur_train.data.labels import DataError
from dartblur_train.detector_training import DetectorArgs, DetectorTrainer, train_detector
from dartblur_train.patches import PatchGeometry


def small_detector(data: Path, out: Path, steps: int) -> DetectorArgs:
    return DetectorArgs(data, out, steps=steps, batch=2, every=2, workers=0, precision="fp32")


def small_dart(data: Path, out: Path, weights: Path, steps: int) -> DartArgs:
    return DartArgs(
        data, out, weights, steps=steps, batch=2, size=96, every=1, check_images=2, geometry=PatchGeometry(32)
    )


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_detector_trains_saves_and_resumes(drawn_faces: Path, tmp_path: Path) -> None:
    file = train_detector(small_detector(drawn_faces, tmp_path, 2))
    assert file.is_file()
    first = load_checkpoint(tmp_path / "last.pt")
    assert first["step"] == 2
    train_detector(small_detector(drawn_faces, tmp_path, 4))
    second = load_checkpoint(tmp_path / "last.pt")
    assert second["step"] == 4
    measured = [row for row in log_of(tmp_path) if "ap50_20px" in row]
    assert [row["step"] for row in measured] == [2, 4]
    assert all(0 <= row["ap50_20px"] <= 1 for row in measured)


def test_a_resumed_trainer_stands_where_it_stood(drawn_faces: Path, tmp_path: Path) -> None:
    trained = DetectorTrainer(small_detector(drawn_faces, tmp_path, 4))
    batch = (
        torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8),
        torch.tensor([[[10.0, 10, 40, 40]]] * 2),
        torch.ones(2, 1, dtype=torch.bool),
        torch.zeros(2, 1, dtype=torch.bool),
    )
    trained.train_step(batch)
    trained.save()
    resumed = DetectorTrainer(small_detector(drawn_faces, tmp_path, 4))
    resumed.resume()
    assert resumed.step == 1
    assert trained.train_step(batch) == resumed.train_step(batch)
    pairs = zip(trained.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_generator_trains_saves_and_resumes(drawn_faces: Path, retinaface_weights: Path, tmp_path: Path) -> None:
    train_dart(small_dart(drawn_faces, tmp_path, retinaface_weights, 1))
    file = train_dart(small_dart(drawn_faces, tmp_path, retinaface_weights, 2))
    assert file.is_file()
    assert (tmp_path / "step-2.png").is_file()
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 2
    measured = [row for row in log_of(tmp_path) if "operational_dart" in row]
    assert [row["step"] for row in measured] == [1, 2]


def test_a_checkpoint_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(file, {"step": 1})

    def killed(*_: object) -> None:
        (tmp_path / "last.pt.partial").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(file, {"step": 2})
    assert load_checkpoint(file)["step"] == 1


@pytest.mark.parametrize("change", [{"size": "huge"}, {"data": Path("/nowhere")}])
def test_bad_arguments_are_named(drawn_faces: Path, tmp_path: Path, change: dict[str, object]) -> None:
    args = {"data": drawn_faces, "out": tmp_path, "steps": 1} | change
    with pytest.raises(DataError, match=r"size: expected one of|is not there"):
        train_detector(DetectorArgs(**args))  # type: ignore[arg-type]


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "dartblur", "train", "detector", "--data", str(tmp_path), "--out", str(tmp_path / "o")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "wider_face_train_bbx_gt.txt is not there" in result.stderr


def test_from_pictures_to_an_anonymized_picture(drawn_faces: Path, retinaface_weights: Path, tmp_path: Path) -> None:
    """The whole chain by its commands: train, train, export, run."""
    train_detector(small_detector(drawn_faces, tmp_path / "detector", 2))
    train_dart(small_dart(drawn_faces, tmp_path / "dart", retinaface_weights, 1))

    def dartblur(*arguments: object) -> str:
        command = [sys.executable, "-m", "dartblur", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    bundle, picture = tmp_path / "bundle", drawn_faces / "widerface" / "val" / "images" / "0--Drawn" / "0.png"
    weights = (
        *("--detector", tmp_path / "detector" / "detector.safetensors"),
        *("--generator", tmp_path / "dart" / "generator.safetensors"),
    )
    told = dartblur("export", *weights, "--out", bundle, "--frame", "320x256")
    assert "fused.onnx: PyTorch and ONNX Runtime differ by at most" in told
    dartblur("run", picture, tmp_path / "out.png", "--model", bundle)
    assert (tmp_path / "out.png").is_file()
