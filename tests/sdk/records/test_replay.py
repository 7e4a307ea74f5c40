from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data

from dartblur import Anonymizer, InputError, SinkError
from dartblur.anonymizer import METHODS
from dartblur.backends.cpu import CpuBackend
from dartblur.backends.fake import FakeBackend
from dartblur.backends.loading import BackendChoice
from dartblur.bundle import load_bundle
from dartblur.cli import replay_command
from dartblur.cli.signals import Stopper
from dartblur.frame import Frame, Image, RedactedFrame
from dartblur.protection.policy import Protection
from dartblur.protection.zones import Zones
from dartblur.records.audit import AuditLog, Header
from dartblur.records.audit_reading import read_audit
from dartblur.records.replay import NOT_IN_LOG, Renderer
from dartblur.stream import Sink, SinkOptions, Source, SourceInfo, SourceOptions, open_source, run
from dartblur.stream.observers import Observer

WHOLE_LOG = Header("clip", "fake", "", {}, run="r")


class Pictures(Source):
    """A file of these pictures."""

    def __init__(self, images: list[Image], uri: str = "clip") -> None:
        super().__init__()
        self.info = SourceInfo(uri, images[0].shape[1], images[0].shape[0], len(images))
        self._images = images

    def __iter__(self) -> Iterator[Frame]:
        for index, image in enumerate(self._images):
            yield Frame(image.copy(), index, index / 10)


class Kept(Sink):
    """Keeps what it gets, to the bit."""

    def __init__(self) -> None:
        super().__init__("kept")
        self.frames: list[RedactedFrame] = []
        self.images: list[Image] = []

    def _write(self, frame: RedactedFrame) -> None:
        self.frames.append(frame)
        self.images.append(frame.image.copy())

    def commit(self) -> None:
        pass

    def discard(self) -> None:
        pass


def record(
    images: list[Image], anonymizer: Anonymizer, path: Path, *, more: list[Observer] | None = None, **options: Any
) -> Kept:
    """A run with an audit log."""
    kept = Kept()
    with AuditLog.of_file(path) as log:
        log.begin(WHOLE_LOG)
        observers = [log, *(more or [])]
        run(Pictures(images), anonymizer, kept, protection=Protection(timeout=None, **options), observers=observers)
    return kept


def render(images: list[Image], anonymizer: Anonymizer, path: Path, **options: Any) -> Kept:
    """The same, by the log."""
    kept, source = Kept(), Pictures(images)
    renderer = Renderer(anonymizer, read_audit(path), source=source, **options)
    run(source, renderer, kept, protection=Protection.of_pictures())
    return kept


def same(first: Kept, second: Kept) -> bool:
    return len(first.images) == len(second.images) and all(map(np.array_equal, first.images, second.images))


@pytest.fixture(scope="module")
def walk() -> list[Image]:
    """A real face that moves, 5 frames, BGR."""
    picture = cv2.resize(skimage.data.astronaut()[..., ::-1], (384, 384), interpolation=cv2.INTER_AREA)
    return [np.ascontiguousarray(picture[10 + 2 * n : 266 + 2 * n, 60 + 7 * n : 316 + 7 * n]) for n in range(5)]


@pytest.fixture(scope="module")
def real() -> CpuBackend:
    return CpuBackend(load_bundle(), threads=1)


@pytest.mark.parametrize("method", METHODS)
def test_an_unedited_log_gives_the_same_pixels(
    walk: list[Image], real: CpuBackend, tmp_path: Path, method: Any
) -> None:
    anonymizer = Anonymizer(backend=real, method=method)
    zones = Zones(always=["0,0,40,30", "150,200,256,256"])
    first = record(walk, anonymizer, tmp_path / "a.jsonl", zones=zones, lookahead=2, hold=1.0)
    assert all(len(frame.detections) for frame in first.frames)
    assert all("zone" in frame.coverage.reasons for frame in first.frames)

    # The renderer asks for what stands in the log, whatever its anonymizer is set to, and doesn't look.
    blind = Anonymizer(backend=real, method="solid", threshold=0.99, box_scale=2)
    again = render(walk, blind, tmp_path / "a.jsonl")
    assert same(first, again)
    assert all(np.any(image != clear) for image, clear in zip(again.images, walk, strict=True))
    for one, other in zip(first.frames, again.frames, strict=True):
        assert np.array_equal(one.covered, other.covered)
        assert one.coverage.reasons == other.coverage.reasons
        assert (one.method, one.fault) == (other.method, other.fault)
        assert np.array_equal(one.detections.boxes, other.detections.boxes)


@pytest.fixture
def noise() -> list[Image]:
    random = np.random.default_rng(5)
    return list(random.integers(1, 256, (6, 64, 96, 3), dtype=np.uint8))


class Failing:
    """Finds one box; breaks at some frames."""

    def __init__(self, *broken: int) -> None:
        self.broken, self.count = broken, -1

    def __call__(self, image: Image) -> np.ndarray:
        self.count += 1
        if self.count in self.broken:
            raise RuntimeError("detector broke")
        return np.array([[8, 8, 40, 40]], np.float32)


def finds_nothing(image: Image) -> np.ndarray:
    raise AssertionError("a replay doesn't look for faces")


BLIND = Anonymizer(backend=FakeBackend(finds_nothing))


@pytest.mark.parametrize("on_fault", ["solid", "hold"])
def test_faults_are_rendered_as_they_were(noise: list[Image], tmp_path: Path, on_fault: Any) -> None:
    failing = Anonymizer(backend=FakeBackend(Failing(0, 3, 4)))
    first = record(noise, failing, tmp_path / "a.jsonl", on_fault=on_fault)
    assert [frame.fault is not None for frame in first.frames] == [True, False, False, True, True, False]
    assert same(first, render(noise, BLIND, tmp_path / "a.jsonl"))
    assert np.array_equal(first.images[3], first.images[2]) == (on_fault == "hold")


@pytest.fixture
def log(noise: list[Image], tmp_path: Path) -> Path:
    """Of a run over the noise."""
    path = tmp_path / "a.jsonl"
    record(noise, Anonymizer(backend=FakeBackend(Failing())), path)
    return path


def edit(path: Path, index: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the line of one frame."""
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    change(next(entry for entry in entries if entry.get("index") == index))
    path.write_text("\n".join(json.dumps(entry) for entry in entries))


def blackened(image: Image, x0: int, y0: int, x1: int, y1: int) -> Image:
    image = image.copy()
    image[y0:y1, x0:x1] = 0
    return image


def test_a_log_can_be_edited(noise: list[Image], log: Path) -> None:
    edit(log, 1, lambda entry: entry["covered"].clear())
    edit(log, 2, lambda entry: entry["covered"].append({"box": [50, 10, 60, 20]}))
    edit(log, 3, lambda entry: entry["covered"][0].update(box=[10, 9, 42, 41]))
    images, clear = render(noise, BLIND, log).images, noise
    assert np.array_equal(images[0], blackened(clear[0], 8, 8, 40, 40))
    assert np.array_equal(images[1], clear[1])
    assert np.array_equal(images[2], blackened(blackened(clear[2], 8, 8, 40, 40), 50, 10, 60, 20))
    assert np.array_equal(images[3], blackened(clear[3], 10, 9, 42, 41))
    assert render(noise, BLIND, log).frames[2].coverage.reasons == ("detected", "replay")


def test_each_frame_has_its_method(noise: list[Image], log: Path, real: CpuBackend) -> None:
    edit(log, 0, lambda entry: entry.update(method="solid"))
    edit(log, 1, lambda entry: entry.update(method="pixelate"))
    first, second = render(noise, Anonymizer(backend=real), log).images[:2]
    assert len(np.unique(first[8:40, 8:40].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(second[8:40, 8:40].reshape(-1, 3), axis=0)) == 64


HEADER = 1  # line of the header; frame n stands in line n + 2
BAD = {
    "not json": (3, lambda text: text[:20], "expected a JSON object"),
    "a number": (3, lambda text: "3", "expected a JSON object, got 3"),
    "deep": (3, lambda text: "[" * 100_000, "expected a JSON object"),
    "not text": (3, lambda text: "\udcff\udcfe", "expected a JSON object"),
    "no area": (3, {"covered": [{"box": [8, 8, 8, 40]}]}, "x0 < x1 and y0 < y1"),
    "inverted": (3, {"covered": [{"box": [8, 40, 20, 8]}]}, "x0 < x1 and y0 < y1"),
    "no area in float32": (3, {"covered": [{"box": [1e5, 0, 1e5 + 1e-9, 5]}]}, "x0 < x1 and y0 < y1"),
    "nan": (3, {"covered": [{"box": [8, 8, float("nan"), 40]}]}, "expected a number from"),
    "infinite": (3, {"covered": [{"box": [8, 8, float("inf"), 40]}]}, "expected a number from"),
    "huge": (3, {"covered": [{"box": [8, 8, 10**400, 40]}]}, "expected a number from"),
    "a text": (3, {"covered": [{"box": [8, 8, "40", 40]}]}, "expected a number from"),
    "three edges": (3, {"covered": [{"box": [8, 8, 40]}]}, r"expected \[x0, y0, x1, y1\]"),
    "no list": (3, {"covered": {}}, "covered: expected a list"),
    "covered gone": (3, {"covered": None}, "covered: expected a list"),
    "misspelt": (3, {"coverd": []}, "misspelt"),
    "misspelt in a box": (3, {"covered": [{"box": [1, 2, 3, 4], "reasons": "held"}]}, "misspelt"),
    "reason": (3, {"covered": [{"box": [1, 2, 3, 4], "reason": "boredom"}]}, "reason: expected one of detected"),
    "method": (3, {"method": "crayon"}, "method: expected one of dart"),
    "index": (3, {"index": -1}, "index: expected a whole number"),
    "index of truth": (3, {"index": True}, "index: expected a whole number"),
    "id": (3, {"covered": [{"box": [1, 2, 3, 4], "id": 10**30}]}, "id: expected a whole number"),
    "twice": (3, {"index": 0}, "frame 0 stands twice, first in .*line 2"),
    "size": (3, {"size": [96]}, "size: expected"),
    "fault": (3, {"fault": 5}, "fault: expected a text"),
    "repeat": (3, {"repeat": 5}, "repeat: expected true or false"),
    "score": (3, {"faces": [{"box": [1, 2, 3, 4], "score": None}]}, "score: expected a number"),
    "schema": (HEADER, {"schema": 99}, "expected an audit log of schema 1, got 99"),
    "no header": (HEADER, lambda text: '{"index": 0}', "expected the header"),
    "another run": (3, lambda text: '{"schema": 1, "run": "other"}', "header of another run"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_line_is_named(log: Path, what: str) -> None:
    number, change, expected = BAD[what]
    lines = log.read_text().splitlines()
    old = lines[number - 1]
    lines[number - 1] = change(old) if callable(change) else json.dumps({**json.loads(old), **change})
    log.write_bytes("\n".join([*lines, ""]).encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=rf"{re.escape(str(log))}: line {number}: .*{expected}"):
        read_audit(log)


def test_what_is_no_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    for name, said in (("empty", "empty file"), ("absent", "No such file"), (".", "Is a directory")):
        with pytest.raises(InputError, match=f"expected an audit log, .*{said}"):
            read_audit(tmp_path / name)


def test_a_line_that_was_cut_short_is_named(log: Path) -> None:
    log.write_text(log.read_text()[:-30])
    with pytest.raises(InputError, match=r"line 7: .*cut short: remove it"):
        read_audit(log)


def test_frames_that_the_log_lacks(noise: list[Image], log: Path) -> None:
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:3] + lines[4:]))  # without frame 2
    with pytest.raises(InputError, match=r"a\.jsonl: expected a line for frame 2, got none: give --missing solid"):
        render(noise, BLIND, log)
    frames = render(noise, BLIND, log, missing="solid").frames
    assert [frame.fault for frame in frames] == [None, None, NOT_IN_LOG, None, None, None]
    assert (frames[2].image == frames[2].image[0, 0]).all()
    with pytest.raises(InputError, match="missing: expected one of refuse, solid, got 'clear'"):
        Renderer(BLIND, read_audit(log), missing="clear")  # type: ignore[arg-type]


def test_the_log_of_another_source_is_refused(noise: list[Image], log: Path) -> None:
    with pytest.raises(InputError, match=r"line 2: expected a source of 96x64 pixels, frame 0 has 48x64"):
        render([image[:, :48] for image in noise], BLIND, log)
    with pytest.raises(InputError, match=r"line 6: frame 4 is not in the source, nor are 1 others"):
        render(noise[:4], BLIND, log)
    assert len(render(noise[:4], BLIND, log, shortened=True).frames) == 4


def test_a_source_that_lost_a_frame_is_refused_where_it_did(noise: list[Image], log: Path) -> None:
    """Its other frames are counted on, so each would get the boxes of the one before it."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines[3:]:
        line["time"] += 0.04
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"line 4: expected frame 2 at .* is it the source of the log, undamaged"):
        render(noise, BLIND, log, shortened=True)


def test_pictures_of_a_folder_are_compared_by_name(noise: list[Image], tmp_path: Path) -> None:
    folder, moved, path = tmp_path / "in" / "a", tmp_path / "moved", tmp_path / "a.jsonl"
    folder.mkdir(parents=True)
    for number, image in enumerate(noise[:3]):
        cv2.imwrite(str(folder / f"{number}.png"), image)
    with open_source(folder.parent) as source, AuditLog.of_file(path) as log:
        log.begin(Header(source.info.uri, "fake", "", {}))
        run(source, Anonymizer(backend=FakeBackend(Failing())), Kept(), observers=[log])
    folder.parent.rename(moved)

    def replayed(uri: str) -> int:
        with open_source(uri) as source:
            kept = Kept()
            run(source, Renderer(BLIND, read_audit(path), source=source), kept)
        return len(kept.images)

    assert replayed(str(moved)) == 3
    assert replayed(f"{moved}/**/*.png") == 3
    (moved / "a" / "0.png").rename(moved / "a" / "9.png")
    with pytest.raises(InputError, match=r"line 2: expected .*in/a/0\.png as frame 0, got .*moved/a/1\.png"):
        replayed(str(moved))


def test_rotated_files_are_read_together(noise: list[Image], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    finder = Failing()
    many = [noise[number % 6] for number in range(120)]
    first = Kept()
    for name, images in (("older", noise[:2]), ("clip", many)):
        with AuditLog.of_stream(path, max_bytes=10_000) as log:
            log.begin(Header(name, "fake", "", {}))
            observed = Pictures(images)
            kept = Kept()
            run(observed, Anonymizer(backend=FakeBackend(finder)), kept, observers=[log])
            first = kept
    assert len(list(tmp_path.iterdir())) > 3, "the older run and at least two files of the newer one"
    assert read_audit(path).source == "clip"
    assert same(first, render(many, BLIND, path))

    together = tmp_path / "all.jsonl"
    newest = sorted(tmp_path.glob("a.jsonl.*"), key=lambda file: -int(file.suffix[1:]))[1:]
    together.write_bytes(b"".join(file.read_bytes() for file in [*newest, path]))
    assert same(first, render(many, BLIND, together))


def test_events_and_blank_lines_are_passed_over(noise: list[Image], log: Path) -> None:
    text = log.read_text().replace("\n", '\n\n{"event": "dropped", "message": "x", "of": "", "wall": ""}\n')
    log.write_text(text)
    assert len(render(noise, BLIND, log).images) == 6


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``dartblur replay`` with a fake model."""
    monkeypatch.setattr("dartblur.backends.loading.load_backend", lambda choice: FakeBackend(finds_nothing))

    def call(audit: Path, source: Path, sink: Path, missing: Any = "refuse") -> Any:
        output = SinkOptions(quality=10)
        return replay_command.process(audit, str(source), str(sink), missing, BackendChoice(), Stopper(), output, False)

    return call


def test_the_command_renders_a_folder(
    noise: list[Image], tmp_path: Path, command: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path, out = tmp_path / "in", tmp_path / "a.jsonl", tmp_path / "out"
    folder.mkdir()
    for number, image in enumerate(noise[:3]):
        cv2.imwrite(str(folder / f"{number}.png"), image)
    with open_source(str(folder), SourceOptions()) as source, AuditLog.of_file(path) as log:
        log.begin(Header(source.info.uri, "fake", "f" * 64, {}))
        run(source, Anonymizer(backend=FakeBackend(Failing())), Kept(), observers=[log])
    edit(path, 1, lambda entry: entry["covered"].clear())

    summary = command(path, folder, out)
    assert summary.frames == 3
    for number, clear in enumerate(noise[:3]):
        expected = clear if number == 1 else blackened(clear, 8, 8, 40, 40)
        assert np.array_equal(cv2.imread(str(out / f"{number}.png")), expected)
    told = capsys.readouterr()
    assert "3 frames rendered" in told.out
    assert "the log is of fake (ffffffffffff), this is fake" in told.err, "the log names another model"


def test_the_command_refuses_before_it_writes(
    noise: list[Image], tmp_path: Path, log: Path, command: Callable[..., Any]
) -> None:
    picture, out = tmp_path / "p.png", tmp_path / "out.png"
    cv2.imwrite(str(picture), noise[0])
    with pytest.raises(InputError, match="is not in the source") as refused:
        command(log, picture, out)
    assert refused.value.exit_code == 2
    with pytest.raises(SinkError, match="need two names"):
        command(log, picture, log)
    edit(log, 0, lambda entry: entry.update(size=[1, 1]))
    log.write_text("\n".join(log.read_text().splitlines()[:2]))
    with pytest.raises(InputError, match="expected a source of 1x1 pixels"):
        command(log, picture, out)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))
