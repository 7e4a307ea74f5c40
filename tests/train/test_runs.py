"""The training commands, small: data in, weights out, resumed, exported, and used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dartblur_train.checkpoints import load_checkpoint, save_checkpoint
from dartblur_train.dart_training import DartArgs, DartTrainer, train_dart
from dartblur_train.data.labels import DataError
from dartblur_train.detector_training import DetectorArgs, DetectorTrainer, train_detector
from dartblur_train.patches import PatchGeometry
from dartblur_train.run import RunArgs, TrainingError, launch, train
from dartblur_train.sources import DataArgs


def small_detector(data: Path, out: Path, steps: int, **changes: Any) -> DetectorArgs:
    run = RunArgs(out, steps, batch=2, every=2, workers=0)
    return replace(DetectorArgs(DataArgs(data), run, sample_size=96, several=False), **changes)


def small_dart(data: Path, out: Path, weights: Path, steps: int, **changes: Any) -> DartArgs:
    run = RunArgs(out, steps, batch=2, every=1, log_every=1, workers=0)
    args = DartArgs(DataArgs(data), run, weights, size=96, check_images=2, geometry=PatchGeometry(32))
    return replace(args, **changes)


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


def weights_in(file: Path) -> dict[str, torch.Tensor]:
    return load_file(file)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def interrupt_at(monkeypatch: pytest.MonkeyPatch, trainer: type, step: int) -> None:
    """The run dies in that step, as if killed: nothing is saved on the way out."""
    whole = trainer.train_step  # type: ignore[attr-defined]

    def train_step(self: Any, batch: Any) -> dict[str, float]:
        if self.step == step:
            raise KeyboardInterrupt
        return whole(self, batch)  # type: ignore[no-any-return]

    monkeypatch.setattr(trainer, "train_step", train_step)


def test_a_killed_detector_run_goes_on_bit_for_bit(
    drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_detector(small_detector(drawn_faces, tmp_path / "whole", 5))
    with monkeypatch.context() as patch:
        interrupt_at(patch, DetectorTrainer, 3)
        with pytest.raises(KeyboardInterrupt):
            train_detector(small_detector(drawn_faces, tmp_path / "killed", 5))
    assert load_checkpoint(tmp_path / "killed" / "last.pt")["step"] == 2
    resumed = train_detector(small_detector(drawn_faces, tmp_path / "killed", 5))
    assert same(weights_in(whole), weights_in(resumed))


@pytest.mark.parametrize("changes", [{}, {"fg_epochs": 1, "epoch": 1}, {"mode": "frame", "augmentation": "published"}])
def test_a_killed_generator_run_goes_on_bit_for_bit(
    drawn_faces: Path,
    retinaface_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    whole = train_dart(small_dart(drawn_faces, tmp_path / "whole", retinaface_weights, 4, **changes))
    with monkeypatch.context() as patch:
        interrupt_at(patch, DartTrainer, 2)
        with pytest.raises(KeyboardInterrupt):
            train_dart(small_dart(drawn_faces, tmp_path / "killed", retinaface_weights, 4, **changes))
    resumed = train_dart(small_dart(drawn_faces, tmp_path / "killed", retinaface_weights, 4, **changes))
    assert same(weights_in(whole), weights_in(resumed))


def test_what_a_run_leaves(drawn_faces: Path, retinaface_weights: Path, tmp_path: Path) -> None:
    train_dart(small_dart(drawn_faces, tmp_path, retinaface_weights, 2))
    rows = log_of(tmp_path)
    assert [row["step"] for row in rows if "cycle" in row] == [1, 2]
    assert all("seconds_left" in row for row in rows if "cycle" in row)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"review", "operational", "post_hoc", "cycle", "f_g", "operational_dart"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("before and after")] == [1, 2]
    picture = cv2.imread(str(tmp_path / "step-2.png"))
    assert picture is not None
    assert picture.shape == (2 * 96, 3 * 96, 3), "clear, Gaussian and g(x) of two pictures"


def test_rounds_of_f_g_alone_come_before_those_of_g(
    drawn_faces: Path, retinaface_weights: Path, tmp_path: Path
) -> None:
    train_dart(small_dart(drawn_faces, tmp_path, retinaface_weights, 6, fg_epochs=2, epoch=1))
    rows = [row for row in log_of(tmp_path) if "f_g" in row]
    assert ["cycle" in row for row in rows] == [False, False, True] * 2


def test_a_checkpoint_of_another_kind_of_run_is_refused(
    drawn_faces: Path, retinaface_weights: Path, tmp_path: Path
) -> None:
    train_dart(small_dart(drawn_faces, tmp_path, retinaface_weights, 1))
    with pytest.raises(DataError, match=r"last.pt is of a run with other options \(generator was 'edge'"):
        train_dart(small_dart(drawn_faces, tmp_path, retinaface_weights, 2, generator="published"))
    # More steps at another rate are the same run.
    train_dart(small_dart(drawn_faces, tmp_path, retinaface_weights, 2, learning_rate_g=1e-4))
    with pytest.raises(DataError, match=r"last.pt stands at step 2, expected at most the 1"):
        train_dart(small_dart(drawn_faces, tmp_path, retinaface_weights, 1))


class Fading:
    """A trainee whose loss goes its own way."""

    def __init__(self, losses: Callable[[int], float], out: Path) -> None:
        self.losses, self.step, self.out = losses, 0, out
        self.options: dict[str, Any] = {}

    def train_step(self, batch: Any) -> dict[str, float]:
        self.step += 1
        return {"loss": self.losses(self.step)}

    def state(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state(self, state: dict[str, Any]) -> None:
        self.step = state["step"]

    def save_weights(self) -> None:
        pass

    def measure(self) -> dict[str, float]:
        return {}

    def picture(self, batch: Any) -> None:
        return None


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (lambda step: float("nan") if step == 205 else 1.0, "the loss is nan, at step 205"),
        (lambda step: 2.0 if step < 150 else 1.05**step, "the loss diverges"),
    ],
)
def test_a_loss_that_runs_away_stops_and_names_the_last_good_checkpoint(
    tmp_path: Path, losses: Callable[[int], float], message: str
) -> None:
    args = RunArgs(tmp_path, 1000, every=100, log_every=100)
    fabric = launch(args)
    with pytest.raises(TrainingError, match=message) as caught:
        train(Fading(losses, tmp_path), iter(lambda: (), None), args, fabric)  # type: ignore[arg-type]
    good = load_checkpoint(tmp_path / "last.pt")["step"]
    assert f"the last good checkpoint is {tmp_path / 'last.pt'} (step {good})" in str(caught.value)


def test_two_processes_train_as_one(drawn_faces: Path, retinaface_weights: Path, tmp_path: Path) -> None:
    """Started by torchrun on two devices: one run, and both processes hold the same weights at its end."""
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*command, str(script), str(drawn_faces), str(retinaface_weights), str(tmp_path)],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    for kind in ("generator", "f_g", "detector"):
        first, second = (load_file(tmp_path / f"{kind}-{rank}.safetensors") for rank in (0, 1))
        assert same(first, second), kind
    assert len([row for row in log_of(tmp_path / "dart") if "cycle" in row]) == 2, "one process writes the log"


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


@pytest.mark.parametrize("content", [b"", b"junk\n", b"\x80\x02}q\x00.", b"PK\x03\x04 cut"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"last.pt: expected a checkpoint or published weights"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_checkpoint_of_something_else_is_named(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "last.pt")
    with pytest.raises(DataError, match="expected a checkpoint or published weights, got list"):
        load_checkpoint(tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detector": "huge"}, "detector: expected one of edge-base, edge-nano, edge-small, edge-thin"),
        ({"source": Path("/nowhere")}, "expected the part 'val' of a data set"),
        ({"sample_size": 100}, "sample size: expected a multiple of 32"),
        ({"augmentation": "none"}, "augmentation: expected one of mosaic, hard, published"),
        ({"augmentation": "published", "tilt": 0.3}, "tilt, paste: expected neither beside published, got 0.3 and 0"),
        ({"augmentation": "published", "paste": 0.1}, "tilt, paste: expected neither beside published, got 0 and 0.1"),
        ({"start": Path("/nowhere.onnx")}, "is not there"),
    ],
)
def test_bad_arguments_are_named(drawn_faces: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = changes.pop("source", drawn_faces)
    with pytest.raises(DataError, match=message):
        train_detector(small_detector(source, tmp_path, 1, **changes))


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "dartblur", "train", "detector", "--data", str(tmp_path), "--out", str(tmp_path / "o")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "wider_face_val_bbx_gt.txt" in result.stderr


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
