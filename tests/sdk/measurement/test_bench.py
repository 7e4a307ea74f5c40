from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dartblur import load_bundle
from dartblur.anonymizer import Anonymizer
from dartblur.backends.cpu import CpuBackend
from dartblur.backends.fake import FakeBackend
from dartblur.backends.fused_cpu import FusedCpuBackend
from dartblur.cli import main, measuring
from dartblur.errors import SourceError
from dartblur.measurement import machine, sample_frames
from dartblur.measurement.benchmark import Measurement, Times, measure
from dartblur.measurement.timing import ClockedBackend, Watch, clocked_generator

FACE = np.array([[40, 30, 90, 90]], np.float32)
FIGURES = {"p50_ms", "p95_ms", "p99_ms", "mean_ms", "fps"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames, sides odd."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    sample_frames.write_clip(path, 24, (321, 181))
    return path


def slow(seconds: float) -> Callable[[np.ndarray], np.ndarray]:
    def find(image: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return FACE

    return find


def test_every_stage_is_measured(clip: Path, tmp_path: Path) -> None:
    found = measure(str(clip), FakeBackend(lambda image: FACE), tmp_path, 100)
    assert list(found.stages) == ["decode", "detect", "generate+composite", "anonymize", "encode"]
    assert (found.frames, found.faces, found.width, found.height) == (24, 24, 321, 181)
    assert {len(times.each) for times in (*found.stages.values(), found.pipeline)} == {24}
    for times in (*found.stages.values(), found.pipeline):
        figures = times.figures()
        assert set(figures) == FIGURES
        assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
    parts = sum(sum(found.stages[name].each) for name in ("detect", "generate+composite"))
    assert parts <= found.stages["anonymize"].seconds
    assert max(found.pipeline.each) <= found.pipeline.seconds
    assert found.stages["anonymize"].total is None


def test_the_slowest_stage_sets_the_pace(clip: Path, tmp_path: Path) -> None:
    found = measure(str(clip), FakeBackend(slow(0.03)), tmp_path, 20)
    assert found.frames == 20
    assert found.slowest == "anonymize"
    assert found.stages["detect"].figures()["p50_ms"] >= 30
    assert found.stages["generate+composite"].figures()["p50_ms"] < 30
    # It sleeps, so the others have the cores, and no more than the first and last frames are waited for.
    assert 0.9 < found.ratio < 2


def test_figures() -> None:
    times = Times([0.001 * n for n in range(1, 102)])
    figures = times.figures()
    assert (figures["p50_ms"], figures["p95_ms"], figures["p99_ms"]) == (51, 96, 100)
    assert figures["mean_ms"] == 51
    assert figures["fps"] == pytest.approx(1000 / 51, abs=1e-3)
    assert Times([0.001] * 10, total=0.02).figures()["fps"] == 500


def test_the_ratio_is_to_the_slowest_of_the_pipelines_stages() -> None:
    stages = {name: Times([seconds]) for name, seconds in (("decode", 1.0), ("anonymize", 2.0), ("encode", 4.0))}
    found = Measurement(1, stages=stages, pipeline=Times([5.0], 5.0))
    assert (found.slowest, found.ratio) == ("encode", 1.25)


def test_a_stage_within_another_is_taken_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 4.0, 6.0, 10.0, 10.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    watch = Watch()
    with watch("outer"), watch("inner"):
        pass
    with watch("outer"):
        pass
    assert watch.spent == {"inner": 3.0, "outer": 3.0 + 0.5}


class Deep(FakeBackend):
    """Several frames in flight; knows how many there were."""

    depth = 3

    def __init__(self) -> None:
        super().__init__(lambda image: FACE)
        self.open = self.most = 0

    def begin(self, *arguments: Any) -> Any:
        self.open += 1
        self.most = max(self.most, self.open)
        look, close = super().begin(*arguments), []

        def closed() -> None:
            if not close:
                close.append(True)
                self.open -= 1

        look.close = closed  # type: ignore[method-assign]
        return look


def test_throughput_is_measured_with_frames_in_flight(clip: Path, tmp_path: Path) -> None:
    backend = Deep()
    found = measure(str(clip), backend, tmp_path, 24)
    assert backend.most == 3
    assert backend.open == 0
    assert found.stages["anonymize"].total is not None
    assert found.faces == 24, "those of the second round aren't counted"


def test_the_stages_of_the_cpu_backend(tmp_path: Path) -> None:
    backend = CpuBackend(load_bundle())
    sample_frames.write_clip(tmp_path / "clip.mp4", 4, (320, 180))
    generator = backend._generator
    found = measure(str(tmp_path / "clip.mp4"), backend, tmp_path, 4)
    assert set(found.stages) == {"decode", "detect", "generate", "composite", "anonymize", "encode"}
    assert found.faces >= 8
    assert backend._generator is generator, "as it was"
    parts = sum(found.stages[name].seconds for name in ("detect", "generate", "composite"))
    assert 0.5 * found.stages["anonymize"].seconds < parts <= found.stages["anonymize"].seconds


def test_the_stages_of_a_fused_graph() -> None:
    watch, backend = Watch(), FusedCpuBackend(load_bundle())
    frame = sample_frames.faces(320, 180)
    with clocked_generator(backend, watch):
        redacted = Anonymizer(backend=ClockedBackend(backend, watch))(frame)
    assert set(watch.spent) == {"detect+generate", "composite"}
    assert watch.spent["detect+generate"] > watch.spent["composite"] > 0
    assert np.array_equal(redacted.image, Anonymizer(backend=backend)(frame).image), "timing changes nothing"


@pytest.mark.parametrize("single", [True, False])
def test_pictures_can_be_measured(tmp_path: Path, single: bool) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), sample_frames.texture(101 + number, 67, number))
    source = folder / "0.png" if single else folder
    found = measure(str(source), FakeBackend(lambda image: FACE), tmp_path, 10)
    assert found.frames == (1 if single else 3)
    assert len(found.stages["encode"].each) == found.frames


def test_a_source_without_frames_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "broken.png").write_bytes(b"nonsense")
    with pytest.raises(SourceError):
        measure(str(tmp_path / "pictures"), FakeBackend(), tmp_path, 10)


# The command


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; nothing may be left there."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scratch: Path
) -> Callable[..., tuple[int, str, str]]:
    """``dartblur bench``: exit code, stdout, stderr."""

    def called(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dartblur", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        return (0 if code is None else int(code)), *capsys.readouterr()

    return called


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "load_backend", lambda choice: FakeBackend(lambda image: FACE))


@pytest.mark.usefixtures("fake")
def test_json_tells_machine_model_source_and_stages(call: Any, clip: Path) -> None:
    code, out, err = call(clip, "--frames", "5", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["schema_version"] == 1
    assert set(told) == {
        *("schema_version", "machine", "backend", "engine", "model", "source", "frame", "frames", "faces", "stages"),
        *("end_to_end", "slowest_stage", "ratio_to_slowest_stage", "notes"),
    }
    assert told["machine"]["processor"]
    assert told["machine"]["cores"] >= 1
    assert told["machine"]["gpu"] is None
    assert (told["model"], told["backend"], told["source"]) == ("fake", "FakeBackend", str(clip))
    assert (told["frame"], told["frames"], told["faces"]) == ([321, 181], 5, 5)
    assert all(set(figures) == FIGURES for figures in told["stages"].values())
    assert set(told["end_to_end"]) == FIGURES | {"cores"}
    assert told["slowest_stage"] in ("decode", "anonymize", "encode")
    assert told["ratio_to_slowest_stage"] > 0
    assert told["notes"] == ["this backend doesn't tell generation and compositing apart"]


@pytest.mark.usefixtures("fake")
def test_without_a_source_a_clip_is_made(call: Any) -> None:
    code, out, _ = call("--frames", "3")
    assert code == 0
    assert "3 frames of 1280x720" in out
    assert "made on the spot" in out
    for name in ("decode", "detect", "encode", "end to end"):
        assert name in out
    assert "times as long as its slowest stage alone" in out


@pytest.mark.usefixtures("fake")
def test_without_faces_it_says_so(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_frames, "has_faces", lambda: False)
    _, out, _ = call("--frames", "2", "--json")
    assert any("scikit-image" in note for note in json.loads(out)["notes"])


def test_the_threads_of_the_model_are_told() -> None:
    told = machine.describe(CpuBackend(load_bundle(), threads=1))
    assert told["model_threads"] == 1
    assert machine.describe(FakeBackend())["model_threads"] is None


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["absent.mp4"], "no such file"),
        (["--backend", "quantum"], "expected one of"),
        (["--backend", "tensorrt"], "expected an engine"),
        (["--engine", "absent.engine"], "passport"),
        (["--model", "absent"], "nothing is there"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("dartblur: ")
    assert len(err.splitlines()) == 1
    assert word in err
