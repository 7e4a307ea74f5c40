"""The command's choice of a backend, and what the doctor says of each."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import dartblur.session as session
from dartblur import BackendError
from dartblur.backends.fake import FakeBackend
from dartblur.cli import app


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    import cv2

    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(2):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((40, 60, 3), 200, np.uint8))
    return folder


def call(*arguments: Any) -> Any:
    from typer.testing import CliRunner

    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "gpu"], "backend: expected one of auto, cpu, tensorrt, onnxruntime-gpu, got 'gpu'"),
        (["--backend", "tensorrt"], "expected an engine, got none: .*dartblur build"),
        (["--backend", "cpu", "--engine", "x.engine"], "expected no engine, got x.engine"),
        (["--engine", "x.engine"], r"x.engine.*nothing is there"),
    ],
)
def test_a_choice_that_can_not_be_met_is_an_error_and_leaves_nothing(
    pictures: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = call("run", pictures, tmp_path / "out", *options)
    assert result.exit_code != 0
    assert type(result.exception).exit_code == 2  # type: ignore[union-attr]
    with pytest.raises(type(result.exception), match=message):
        raise result.exception
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="this machine may have a GPU")
def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu(pictures: Path, tmp_path: Path) -> None:
    result = call("run", pictures, tmp_path / "out", "--backend", "onnxruntime-gpu")
    assert isinstance(result.exception, BackendError)
    assert not (tmp_path / "out").exists()


def test_the_backend_is_told_the_frame_size_and_closed(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Closing(FakeBackend):
        def close(self) -> None:
            seen.append("closed")

    def load(choice: Any) -> FakeBackend:
        seen.append((choice.name, choice.frame))
        return Closing()

    monkeypatch.setattr(session, "load_backend", load)
    video = tmp_path / "in.mp4"
    with av.open(str(video), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="bgr24")))
        container.mux(stream.encode(None))
    for source, target in ((pictures, tmp_path / "out"), (video, tmp_path / "out.mp4")):
        assert call("run", source, target).exit_code == 0
    assert seen == [("auto", None), "closed", ("auto", (96, 64)), "closed"], "pictures differ in size"


def test_the_doctor_says_of_each_backend_whether_it_works_and_why_not() -> None:
    result = call("doctor")
    text = " ".join(result.output.replace("│", " ").split())
    for part in ("backend cpu", "backend tensorrt", "backend onnxruntime-gpu", "CUDA operations"):
        assert part in text
    assert result.exit_code == 0
    assert "an empty 1280x720 frame took" in text
    if importlib.util.find_spec("pycuda") is None:
        assert "PyCUDA can't be" in text or "tensorrt can't be" in text
