from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dartblur import load_bundle
from dartblur.backends.base import Defaults, WholeLook
from dartblur.boxes import outermost, scale_boxes
from dartblur.bundle import Bundle, default_bundle, sha256, write_bundle
from dartblur.cli import main
from dartblur.cli.candidates import parse_candidate
from dartblur.detections import Detections
from dartblur.errors import FailClosedError, InputError
from dartblur.measurement import sample_frames
from dartblur.measurement.comparison import Comparison, Subject, Tolerances, _Frame, _matches, compare
from dartblur.passport import Passport, bundle_sha256, passport_path, read_passport, write_passport

_DEFAULT = load_bundle().manifest
MODEL = f"{_DEFAULT.name} {_DEFAULT.version}"
FACE = [40.3, 30.2, 90.7, 88.9]
OTHER = [150.0, 40.0, 180.0, 80.0]
IMAGE = sample_frames.texture(217, 143)


@dataclass
class Scripted:
    """A backend that finds and paints what it is told to."""

    boxes: list[list[float]] = field(default_factory=lambda: [FACE])
    scores: list[float] = field(default_factory=lambda: [0.9])
    shade: int = 100
    spill: int = 0
    full: bool = False
    defaults = Defaults(0.5, 1.2)
    model_name = "scripted"
    depth = at_once = 1
    gpu_frames = False

    def begin(
        self, image: np.ndarray, threshold: float, boxes: np.ndarray | None = None, weak: float | None = None
    ) -> WholeLook:
        return WholeLook(self, image, threshold)

    def close(self) -> None:
        pass

    def detect(self, image: np.ndarray, threshold: float) -> Detections:
        if self.full:
            raise FailClosedError("too many faces")
        scores = np.array(self.scores, np.float32)
        boxes = np.array(self.boxes, np.float32).reshape(-1, 4)
        return Detections(boxes[scores >= threshold], scores[scores >= threshold])

    def redact(self, image: np.ndarray, boxes: np.ndarray, method: str) -> None:
        for x0, y0, x1, y1 in boxes:
            rows = slice(max(0, int(np.floor(y0))), max(0, int(np.ceil(y1))) + self.spill)
            image[rows, max(0, int(np.floor(x0))) : max(0, int(np.ceil(x1)))] = self.shade


def both(a: Scripted, b: Scripted, *, slots: int | None = None) -> Comparison:
    return compare(
        Subject("A", a),
        Subject("B", b, slots),
        [("picture", IMAGE)],
        threshold=0.5,
        box_scale=1.2,
        tolerances=Tolerances(boxes=0.02, scores=0.05, pixels=3),
    )


def test_the_same_is_the_same() -> None:
    found = both(Scripted(), Scripted())
    assert found.passed
    assert (found.faces_a, found.faces_b, found.matched, found.near_ties) == (1, 1, 1, 0)
    assert found.boxes.largest == found.scores.largest == found.pixels.largest == found.own_pixels.largest == 0
    assert found.pixels.count > found.own_pixels.count > 0, "more boxes than the faces are looked at"


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (Scripted(boxes=[]), "found by A only"),
        (Scripted(boxes=[FACE, OTHER], scores=[0.9, 0.7]), "found by B only"),
        (Scripted(boxes=[[43, 30.2, 93.4, 88.9]]), "boxes differ by 0.04"),
        (Scripted(scores=[0.8]), "scores differ by 0.1000"),
        (Scripted(shade=104), "pixels of the same boxes differ by 4"),
        (Scripted(spill=1), "pixels outside the boxes were changed by B"),
        (Scripted(full=True), "refused by B (too many faces), and the other finds 1 faces"),
    ],
)
def test_what_differs_is_told(other: Scripted, word: str) -> None:
    if not other.boxes:
        other.scores = []
    found = both(Scripted(), other, slots=32)
    assert not found.passed
    assert any(word in difference for difference in found.differences), found.differences
    assert all(difference.startswith("picture: ") for difference in found.differences)


def test_three_grey_levels_are_within_the_tolerance() -> None:
    found = both(Scripted(), Scripted(shade=103))
    assert found.passed
    assert found.pixels.largest == 3


@pytest.mark.parametrize(("low", "passed"), [(0.48, True), (0.44, False)])
def test_a_face_near_the_threshold_is_judged_by_its_score(low: float, passed: bool) -> None:
    """Found by one only, but the other has it just below; farther below it is a difference."""
    found = both(Scripted(scores=[0.51]), Scripted(scores=[low]))
    assert found.passed is passed
    assert (found.near_ties, found.only_a) == ((1, 0) if passed else (0, 1))


class Undecided(Scripted):
    """Finds one box or the other, which are both as good: one grey level decides."""

    def detect(self, image: np.ndarray, threshold: float) -> Detections:
        found = super().detect(image, threshold)
        return found if np.array_equal(image, IMAGE) else Detections(found.boxes + np.float32(4), found.scores)


@pytest.mark.parametrize("swap", [False, True])
def test_a_box_that_one_grey_level_moves_is_not_judged(swap: bool) -> None:
    moved = [value + 4 for value in FACE]
    pair = [Undecided(), Scripted([moved])]
    found = both(*(pair[::-1] if swap else pair))
    assert found.passed, found.differences
    assert found.unstable == 1
    assert not both(Undecided(), Scripted([[value + 8 for value in FACE]])).passed


def test_a_frame_with_more_faces_than_slots_is_left_out() -> None:
    crowd = Scripted([FACE, OTHER], [0.9, 0.8])
    found = both(crowd, Scripted(full=True), slots=2)
    assert found.refused == 1
    assert not found.differences
    assert not found.passed, "nothing was compared"
    assert both(Scripted(full=True), Scripted(full=True)).refused == 1


coordinates = st.integers(0, 300)


@given(st.lists(st.tuples(coordinates, coordinates, st.integers(4, 80), st.integers(4, 80)), max_size=8), st.randoms())
def test_boxes_find_their_partners_in_any_order(sides: list[tuple[int, ...]], random: Any) -> None:
    unique = list(dict.fromkeys(sides))
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in unique], np.float32).reshape(-1, 4)
    order = list(range(len(boxes)))
    random.shuffle(order)
    rows, columns = _matches(boxes, boxes[order])
    assert sorted(rows.tolist()) == sorted(order)
    assert all(order[column] == row for row, column in zip(rows, columns, strict=True))


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.floats(-50, 260, width=32)] * 2, *[st.floats(0, 120, width=32)] * 2), max_size=10))
def test_boxes_that_are_compared_share_no_pixel(sides: list[tuple[float, ...]]) -> None:
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in sides], np.float32).reshape(-1, 4)
    frame = _Frame(Comparison(), (Subject("A", Scripted()),) * 2, "", IMAGE, Tolerances(0, 0, 0))
    assert frame._coverage(frame._apart(boxes)).max() <= 1


# The command


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``dartblur verify``: exit code, stdout, stderr."""

    def called(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dartblur", "verify", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        return (0 if code is None else int(code)), *capsys.readouterr()

    return called


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with real faces, of even and odd sizes."""
    folder = tmp_path_factory.mktemp("faces")
    for number, (width, height) in enumerate([(320, 180), (333, 251), (201, 287)]):
        cv2.imwrite(str(folder / f"{number}.png"), sample_frames.faces(width, height))
    return folder


@pytest.mark.parametrize("runner", ["fused", "fused-half"])
def test_the_fused_graphs_do_what_the_cpu_backend_does(call: Call, faces: Path, runner: str) -> None:
    code, out, err = call("default", f"default:{runner}", "--frames", faces, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["schema_version"] == 1
    assert told["passed"] is True
    assert told["differences"] == []
    assert told["a"] == {"name": "default", "kind": "cpu", "model": MODEL}
    assert told["b"]["kind"] == runner
    assert told["frames"] == {"from": str(faces), "scaled_to": None}
    assert told["tolerances"]["boxes"] == (0.001 if runner == "fused" else 0.02)
    assert set(told["figures"]) == {
        *("frames", "refused", "faces_a", "faces_b", "matched", "near_ties", "unstable"),
        *("only_a", "only_b", "outside"),
        *(f"{name}_{kind}" for name in ("boxes", "scores", "pixels", "own_pixels") for kind in ("max", "mean")),
    }
    assert told["figures"]["frames"] == 3
    assert told["figures"]["matched"] >= 3
    assert told["figures"]["outside"] == 0


def rewritten(bundle: Bundle, graph: str, change: Callable[[np.ndarray], np.ndarray], folder: Path) -> Path:
    """The bundle with the last bias of a graph changed."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(bundle.graphs[graph])
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    biases = [node.input[2] for node in model.graph.node if node.op_type == "Conv" and len(node.input) == 3]
    tensor = weights[biases[-1]]
    value = change(numpy_helper.to_array(tensor)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    write_bundle(folder, bundle.manifest, {**bundle.graphs, graph: model.SerializeToString()})
    return folder


def test_another_generator_is_noticed(call: Call, bundle: Bundle, faces: Path, tmp_path: Path) -> None:
    wrong = rewritten(bundle, "generator.onnx", lambda bias: bias + 0.2, tmp_path / "wrong")
    code, out, _ = call(wrong, f"{wrong}:fused", "--frames", faces)
    assert code == 1
    assert "NOT the same" in out
    assert "pixels of the same boxes differ by" in out
    assert "boxes differ by" not in out.replace("same boxes differ by", ""), "the faces are the same"
    assert "found by A only" not in out
    assert "found by B only" not in out


def test_another_detector_is_noticed(call: Call, bundle: Bundle, faces: Path, tmp_path: Path) -> None:
    wrong = rewritten(bundle, "detector.onnx", lambda bias: bias - 0.5, tmp_path / "wrong")
    code, out, _ = call(wrong, "default", "--frames", faces, "--json")
    assert code == 1
    assert json.loads(out)["passed"] is False


def test_tolerances_can_be_chosen(call: Call, faces: Path) -> None:
    code, out, _ = call("default", "default:fused-half", "--frames", faces, "--tolerance-boxes", "0.0000001")
    assert code == 1
    assert "boxes differ by" in out
    assert call("default", "default:fused-half", "--frames", faces, "--tolerance-pixels", "0")[0] == 1


def test_frames_are_made_where_none_are_given(call: Call) -> None:
    code, out, _ = call("default", "default:fused")
    assert code == 0
    assert "3 textures without faces, and 4 pictures of a real face" in out


def test_without_a_face_it_says_so(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sample_frames, "has_faces", lambda: False)
    strict = tmp_path / "strict"  # a detector may see a face in any texture
    shutil.copytree(default_bundle(), strict)
    manifest = json.loads((strict / "manifest.json").read_text())
    (strict / "manifest.json").write_text(json.dumps(manifest | {"threshold": 0.98}))
    code, out, err = call(strict, f"{strict}:fused")
    assert code == 0
    assert "install scikit-image" in out
    assert "no face was found by both" in err


def test_a_clip_gives_as_many_frames_as_asked_for(call: Call, tmp_path: Path) -> None:
    sample_frames.write_clip(tmp_path / "clip.mp4", 30, (321, 181))
    _, out, _ = call("default", "default:fused", "--frames", tmp_path / "clip.mp4", "--count", 3, "--json")
    assert json.loads(out)["figures"]["frames"] == 3


# Engines, with another backend in TensorRT's place


@pytest.fixture
def engine(bundle: Bundle, tmp_path: Path) -> Path:
    path = tmp_path / "my.engine"
    path.write_bytes(b"engine")
    manifest = bundle.manifest
    passport = Passport(
        engine_sha256=sha256(b"engine"),
        engine_bytes=6,
        bundle_sha256=bundle_sha256(bundle),
        model=manifest.name,
        model_version=manifest.version,
        target="tensorrt",
        trt_version="10.3.0",
        cuda_version="12.6",
        sm=("8.7",),
        device="orin-nano",
        gpu="Orin",
        precision="fp16",
        frame=(320, 192),
        batch=1,
        slots=manifest.fused["slots"],
        held=manifest.fused["held"],
        patch_size=manifest.patch_size,
        patch_context=manifest.patch_context,
        box_scale=manifest.box_scale,
        threshold=manifest.threshold,
        created="2026-11-21T12:00:00+00:00",
    )
    write_passport(path, passport)
    return path


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    import dartblur.backends.trt as trt
    from dartblur.backends.fused_cpu import FusedCpuBackend

    class Stand(FusedCpuBackend):
        def __init__(self, engine: Path) -> None:
            super().__init__(bundle, "fused-half.onnx")

        def begin(self, image: np.ndarray, *arguments: Any) -> Any:
            assert image.shape == (192, 320, 3), "an engine takes frames of its size only"
            return super().begin(image, *arguments)

    monkeypatch.setattr(trt, "TensorRtBackend", Stand)


@pytest.mark.usefixtures("tensorrt")
def test_the_figures_are_written_into_the_passport(call: Call, engine: Path, faces: Path) -> None:
    code, out, _ = call("default", engine, "--frames", faces, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["frames"]["scaled_to"] == [320, 192]
    parity = read_passport(engine).parity[f"cpu, {MODEL}"]
    assert parity["passed"] is True
    assert parity["frames"]["from"] == faces.name, "not where it lies"
    assert parity["figures"] == told["figures"]
    assert call(engine, "default:fused", "--frames", faces)[0] == 0
    assert set(read_passport(engine).parity) == {f"cpu, {MODEL}", f"fused, {MODEL}"}


@pytest.mark.usefixtures("tensorrt")
def test_a_failed_comparison_is_written_too(call: Call, engine: Path, bundle: Bundle, tmp_path: Path) -> None:
    wrong = rewritten(bundle, "generator.onnx", lambda bias: bias + 0.2, tmp_path / "wrong")
    assert call(wrong, engine)[0] == 1
    assert read_passport(engine).parity[f"cpu, {MODEL}"]["passed"] is False


def test_an_engine_that_cannot_run_here_is_refused_in_one_line(call: Call, engine: Path) -> None:
    """No TensorRT, no GPU, or not this engine: whatever comes first."""
    code, out, err = call("default", engine)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert not read_passport(engine).parity


def test_an_engine_without_passport_is_refused_before_it_is_loaded(call: Call, engine: Path) -> None:
    passport_path(engine).unlink()
    code, _, err = call("default", engine)
    assert code == 2
    assert "passport" in err


def test_two_sizes_cannot_be_compared(call: Call, engine: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.engine"
    other.write_bytes(b"engine")
    write_passport(other, replace(read_passport(engine), frame=(640, 360)))
    code, _, err = call(engine, other)
    assert code == 2
    assert "320x192" in err
    assert "640x360" in err


# Weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from dartblur_train.nets.edge_detector import EdgeDetector
    from dartblur_train.nets.unet import EdgeUNet

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    detector, generator = EdgeDetector(), EdgeUNet()
    torch.nn.init.normal_(generator.leave.weight, std=0.1)
    save_file(detector.state_dict(), folder / "detector.safetensors", {"kind": "detector", "detector": "edge-thin"})
    told = {"kind": "generator", "generator": "edge", "patch_size": "64", "context": "1.6"}
    save_file(generator.state_dict(), folder / "generator.safetensors", told)
    torch.nn.init.normal_(generator.leave.weight, std=0.1)
    save_file(generator.state_dict(), folder / "other.safetensors", told)
    return folder


def test_weights_are_compared_in_pytorch(call: Call, weights: Path, faces: Path) -> None:
    pair = f"{weights / 'detector.safetensors'}+{weights / 'generator.safetensors'}"
    code, out, _ = call(weights, pair, "--frames", faces, "--json")
    assert code == 0, out
    assert json.loads(out)["b"]["kind"] == "pytorch"
    assert json.loads(out)["figures"]["pixels_max"] == 0
    other = f"{weights / 'detector.safetensors'}+{weights / 'other.safetensors'}"
    assert call(pair, other, "--frames", faces)[0] == 1


def test_pytorch_and_the_fused_graph_of_other_weights_differ(call: Call, weights: Path, faces: Path) -> None:
    assert call("default", weights, "--frames", faces)[0] == 1


# What can't be compared


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["absent", "default"], "nothing is there"),
        (["default", "default:fast"], "behind the colon"),
        (["default", "absent:fused"], "nothing is there"),
        (["default", "absent.engine"], "passport"),
        (["default", "absent.onnx"], "expected fused.onnx"),
        (["default", "detector.safetensors"], "expected detector and generator"),
        (["default", "a.safetensors+b.safetensors"], "nothing is there"),
        (["default", "default:fused", "--frames", "absent.mp4"], "no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("dartblur: ")
    assert len(err.splitlines()) == 1
    assert word in err


def test_a_damaged_bundle_is_refused(call: Call, bundle: Bundle, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", bundle.manifest, bundle.graphs)
    (tmp_path / "bundle" / "fused.onnx").write_bytes(b"nonsense")
    code, _, err = call("default", tmp_path / "bundle")
    assert code == 2
    assert "fused.onnx is damaged" in err


def test_a_bundle_without_the_graph_is_refused(call: Call, bundle: Bundle, tmp_path: Path) -> None:
    graphs = {name: data for name, data in bundle.graphs.items() if name != "fused-half.onnx"}
    write_bundle(tmp_path / "bundle", bundle.manifest, graphs)
    code, _, err = call("default", f"{tmp_path / 'bundle'}:fused-half")
    assert code == 2
    assert "expected fused-half.onnx" in err


def test_a_graph_is_known_by_its_bundle(bundle: Bundle) -> None:
    candidate = parse_candidate(f"{bundle.source}/fused-half.onnx")
    assert candidate.kind == "fused-half"
    assert not candidate.exact
    with pytest.raises(InputError, match="in its bundle"):
        parse_candidate(f"{bundle.source}/detector.onnx")


def test_faces_of_the_samples_are_covered(bundle: Bundle) -> None:
    """The pictures that are made on the spot do show what they are to show."""
    from dartblur.backends.cpu import CpuBackend

    backend = CpuBackend(bundle)
    for width, height, least in ((1280, 720, 2), (641, 479, 2), (701, 1000, 1), (320, 192, 2)):
        found = backend.detect(sample_frames.faces(width, height, 0.5), 0.35)
        assert len(outermost(scale_boxes(found.boxes, 1.2))) >= least
    assert not len(backend.detect(sample_frames.texture(640, 360), 0.35))
