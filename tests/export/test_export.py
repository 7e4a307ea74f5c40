from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn.functional import avg_pool2d

import dartblur_export.verification as verification
from dartblur import BundleError, load_bundle
from dartblur.anonymizer import scale_boxes
from dartblur.backends.cpu import CpuBackend
from dartblur.backends.suppression import faces_of
from dartblur.bundle import Manifest, write_bundle
from dartblur.errors import SinkError
from dartblur.measurement.sample_frames import texture
from dartblur_export.checkpoints import load_detector, load_generator
from dartblur_export.errors import CheckpointError, ParityError
from dartblur_export.exporting import ExportArgs, export_bundle
from dartblur_export.fused import DetectorGraph, FusedGraph, FusedSpec
from dartblur_train.checkpoints import IN_HALF
from dartblur_train.nets.detectors import build_detector
from dartblur_train.nets.edge_detector import EdgeDetector, EdgeDetectorSpec
from dartblur_train.nets.unet import EdgeUNet

SPEC = FusedSpec(slots=6, held=2, candidates=64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    detector, generator = EdgeDetector(), EdgeUNet()
    # Without training most scores are alike; spread them, so that the order of detections is well defined.
    torch.nn.init.normal_(detector.predict.weight, std=0.3)
    torch.nn.init.normal_(generator.leave.weight, std=0.1)
    save_file(detector.state_dict(), folder / "detector.safetensors", {"kind": "detector", "detector": "edge-thin"})
    save_file(
        generator.state_dict(),
        folder / "generator.safetensors",
        {"kind": "generator", "generator": "edge", "patch_size": "64", "context": "1.6"},
    )
    return folder / "detector.safetensors", folder / "generator.safetensors"


@pytest.fixture(scope="module")
def bundle(weights: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "bundle"
    export_bundle(ExportArgs(*weights, out, name="test", threshold=0.3, fused=SPEC))
    return out


def test_the_bundle_holds_what_the_plan_says(bundle: Path) -> None:
    manifest = load_bundle(bundle).manifest
    assert manifest.name == "test"
    assert manifest.patch_size == 64
    assert manifest.fused == {"slots": 6, "held": 2}
    assert manifest.figures["parity"]["fused.onnx"]["boxes"] <= 1e-3
    assert manifest.figures["parity"]["fused.onnx"]["pixels"] <= 2 / 255
    assert manifest.figures["parity"]["fused-half.onnx"]["pixels"] <= 3 / 255
    assert set(manifest.files) == {"detector.onnx", "generator.onnx", "fused.onnx", "fused-half.onnx"}
    for name in manifest.files:
        graph = onnx.load(bundle / name)
        onnx.checker.check_model(graph, full_check=True)
        assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}, "standard operators only"


def test_kernels_are_stored_in_half(bundle: Path, weights: tuple[Path, Path]) -> None:
    kernels = [tensor for tensor in onnx.load(bundle / "detector.onnx").graph.initializer if len(tensor.dims) == 4]
    assert len(kernels) > 20
    was = build_detector("edge-thin", weights[0]).state_dict()
    for kernel in kernels:
        name = kernel.name.removeprefix("detector.").removesuffix(IN_HALF)
        assert np.array_equal(onnx.numpy_helper.to_array(kernel), was[name].half().numpy()), name


def test_half_graph_has_half_networks_and_single_precision_boxes(bundle: Path) -> None:
    graph = onnx.load(bundle / "fused-half.onnx").graph
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert {out.name: out.type.tensor_type.elem_type for out in graph.output} == {
        "patches": half,
        "boxes": single,
        "scores": single,
    }
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) == 4 and tensor.name.endswith("weight")]
    assert len(weights) > 40
    assert {tensor.data_type for tensor in weights} == {half}


# Some are odd on purpose: the pooled cells at the border are cut, and the scale is no simple fraction.
@pytest.mark.parametrize(("height", "width"), [(243, 417), (720, 1280), (1281, 720), (64, 48), (1500, 2300)])
def test_fused_and_cpu_backend_find_and_paint_the_same(bundle: Path, height: int, width: int) -> None:
    """The whole chain by two ways: one graph, and networks plus native operations."""
    loaded = load_bundle(bundle)
    backend = CpuBackend(loaded)
    session = onnxruntime.InferenceSession(loaded.graphs["fused.onnx"], providers=["CPUExecutionProvider"])
    frames = np.stack([texture(width, height, seed) for seed in (5, 6, 7)])
    held = np.zeros((3, 2, 4), np.float32)
    held[0, 0] = [-0.04 * width, 0.4 * height, 0.2 * width, 0.9 * height]
    patches, boxes, scores = session.run(None, {"frames": frames, "held_boxes": held})
    assert scores[0, SPEC.slots] == 1
    assert (scores[:, SPEC.slots + 1] == 0).all()
    assert (scores[1:, SPEC.slots :] == 0).all()
    for row, frame in enumerate(frames):
        # A slot's box and the CPU's box of the same rank are the same face, unless their scores are all but equal.
        found = backend.detect(frame, float(scores[row, : SPEC.slots - 1].min()) * 0.99)
        # The last slot's score may be that of the weakest candidate.
        for box, score in zip(boxes[row, : SPEC.slots - 1], scores[row, : SPEC.slots - 1], strict=True):
            side = max(box[2] - box[0], box[3] - box[1])
            near = np.abs(found.boxes - box).max(1) / side + np.abs(found.scores - score)
            assert near.min() < 5e-3
    import dartblur_ops as ops

    grown = scale_boxes(held[0, :1], loaded.manifest.box_scale)
    blurred = ops.crop_faces(frames[0], grown, 64, loaded.manifest.patch_context)
    painted = backend._generator.run(None, {"blurred": blurred})[0]
    inside = slice(12, 52)
    assert np.abs(painted[0] - patches[0, SPEC.slots])[:, inside, inside].max() <= 2 / 255


@pytest.mark.parametrize("name", ["fused.onnx", "fused-half.onnx"])
@pytest.mark.parametrize(("height", "width"), [(720, 1280), (243, 417), (1000, 701)])
def test_fused_graphs_of_the_default_model_find_real_faces_as_the_cpu_does(name: str, height: int, width: int) -> None:
    """Half precision moves boxes by a thousandth of their size and pixels by less than 3 of 255."""
    skimage_data = pytest.importorskip("skimage.data")
    loaded = load_bundle()
    backend, manifest = CpuBackend(loaded), loaded.manifest
    face = cv2.resize(skimage_data.astronaut()[:300, 100:400, ::-1], (min(height, width) // 2,) * 2)
    frame = np.full((height, width, 3), 90, np.uint8)
    frame[: len(face), : len(face)] = frame[-len(face) :, -len(face) :] = face
    found = backend.detect(frame, manifest.threshold)
    assert len(found) >= 2
    session = onnxruntime.InferenceSession(loaded.graphs[name], providers=["CPUExecutionProvider"])
    held = np.zeros((1, manifest.fused["held"], 4), np.float32)
    patches, boxes, scores = session.run(None, {"frames": frame[None], "held_boxes": held})
    assert (scores[0] >= manifest.threshold).sum() == len(found)
    side = (found.boxes[:, 2:] - found.boxes[:, :2]).max(1, keepdims=True)
    half = name == "fused-half.onnx"
    assert (np.abs(boxes[0, : len(found)] - found.boxes) / side).max() < (1e-2 if half else 1e-3)
    import dartblur_ops as ops

    grown = scale_boxes(boxes[0, : len(found)], manifest.box_scale)
    blurred = ops.crop_faces(frame, grown, manifest.patch_size, manifest.patch_context)
    painted = backend._generator.run(None, {"blurred": blurred})[0]
    inside = slice(12, 52)
    difference = np.abs(painted - patches[0, : len(found)].astype(np.float32))[..., inside, inside]
    assert difference.max() <= (3 if half else 2) / 255


def test_graphs_tell_nothing_of_the_disk_they_were_made_on(bundle: Path) -> None:
    for name, graph in load_bundle(bundle).graphs.items():
        assert str(Path.cwd()).encode() not in graph, name
        assert b"dartblur_train" not in graph, name


@pytest.mark.parametrize(
    ("height", "width"), [(720, 1280), (1080, 1920), (243, 417), (97, 55), (55, 97), (641, 640), (287, 201)]
)
def test_letterbox_is_the_native_one(weights: tuple[Path, Path], bundle: Path, height: int, width: int) -> None:
    import dartblur_ops as ops

    manifest = load_bundle(bundle).manifest
    graph = FusedGraph(EdgeDetector(EdgeDetectorSpec()), EdgeUNet(), manifest, SPEC)
    frame = texture(width, height)
    native, scale = ops.letterbox(frame, manifest.detector_size(height, width))
    ours = graph.letterbox(torch.from_numpy(frame).permute(2, 0, 1)[None].float())[0].numpy()
    assert scale == pytest.approx(640 / max(height, width))
    assert ours.shape == native.shape
    assert np.abs(ours - native).max() < 0.5


@given(st.integers(16, 4096), st.integers(16, 4096))
def test_input_size_is_the_scaled_frame_rounded_up(height: int, width: int) -> None:
    manifest = Manifest("", "", "", 0.5, 1.0, 64, 1.6)
    for side, size in zip((height, width), manifest.detector_size(height, width), strict=True):
        exact = Fraction(side * 640, max(height, width))
        assert size % 64 == 0
        assert exact <= size < exact + 64


def test_fixed_sizes_are_fixed(weights: tuple[Path, Path], tmp_path: Path) -> None:
    args = ExportArgs(*weights, tmp_path / "fixed", fused=SPEC, frame=(243, 417), batch=2)
    manifest, parities = export_bundle(args)
    assert manifest.fused == {"slots": 6, "held": 2, "height": 243, "width": 417, "batch": 2}
    assert [parity.graph for parity in parities[2:]] == ["fused.onnx", "fused-half.onnx"]
    shape = onnx.load(tmp_path / "fixed" / "fused.onnx").graph.input[0].type.tensor_type.shape
    assert [dimension.dim_value for dimension in shape.dim] == [2, 243, 417, 3]


def test_more_candidates_than_places_are_refused(bundle: Path) -> None:
    with pytest.raises(ValueError, match="candidates: expected 6 "):
        FusedGraph(EdgeDetector(), EdgeUNet(), load_bundle(bundle).manifest, replace(SPEC, candidates=5000))


def test_fused_graphs_without_the_half_one_are_still_read(bundle: Path, tmp_path: Path) -> None:
    loaded = load_bundle(bundle)
    graphs = {name: graph for name, graph in loaded.graphs.items() if name != "fused-half.onnx"}
    write_bundle(tmp_path / "old", loaded.manifest, graphs)
    assert set(load_bundle(tmp_path / "old").graphs) == set(graphs)
    (bundle_file := tmp_path / "old" / "manifest.json").write_text(loaded.manifest.to_json())
    assert bundle_file.is_file()
    with pytest.raises(BundleError, match=r"fused-half\.onnx is missing"):
        load_bundle(tmp_path / "old")


def test_cluster_suppression_is_exact_for_chains(weights: tuple[Path, Path], bundle: Path) -> None:
    """A suppresses B, so B can't suppress C: only A and C stay."""
    spec = replace(SPEC, slots=4, candidates=5)
    graph = FusedGraph(EdgeDetector(), EdgeUNet(), load_bundle(bundle).manifest, spec)
    chain = [[0.0, 0, 100, 100], [30, 0, 130, 100], [60, 0, 160, 100], [300, 0, 310, 10], [500, 0, 510, 10]]
    _, scores = graph.strongest(torch.tensor([chain]), torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.0]]))
    assert [round(score, 1) for score in scores[0].tolist()] == [0.9, 0.7, 0.6, 0.0]


@pytest.mark.parametrize("seed", range(5))
def test_the_graph_makes_the_same_faces_of_candidates_as_the_cpu(bundle: Path, seed: int) -> None:
    manifest, spec = load_bundle(bundle).manifest, replace(SPEC, slots=32, candidates=60)
    graph = FusedGraph(EdgeDetector(), EdgeUNet(), manifest, spec)
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 3000, (20, 2)).repeat(3, 0) + random.uniform(-12, 12, (60, 2))
    boxes = np.concatenate([corners, corners + random.uniform(50, 70, (60, 2))], 1).astype(np.float32)
    scores = random.uniform(0.02, 1, 60).astype(np.float32)
    expected = faces_of(boxes, scores, np.zeros(60, bool), 0.3, manifest.nms_iou)
    found, best = (part[0].numpy() for part in graph.strongest(torch.tensor(boxes[None]), torch.tensor(scores[None])))
    strong = best >= 0.3
    assert 10 < strong.sum() == len(expected) < 32
    np.testing.assert_array_equal(best[strong], expected.scores)
    np.testing.assert_allclose(found[strong], expected.boxes, atol=0.01)


def test_faces_that_may_be_missing_show_in_the_last_slot(bundle: Path) -> None:
    """All candidates are one face, so slots stay free; but what came after the last candidate nobody knows."""
    spec = replace(SPEC, slots=3, candidates=4)
    graph = FusedGraph(EdgeDetector(), EdgeUNet(), load_bundle(bundle).manifest, spec)
    one_face = torch.tensor([0.0, 0, 100, 100]).expand(1, 6, 4)
    _, scores = graph.strongest(one_face, torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]]))
    torch.testing.assert_close(scores, torch.tensor([[0.9, 0.0, 0.6]]))


def test_a_score_that_is_nan_shows_in_every_slot(bundle: Path) -> None:
    graph = FusedGraph(EdgeDetector(), EdgeUNet(), load_bundle(bundle).manifest, SPEC)
    scores = torch.rand(2, 500)
    scores[1, 400] = torch.nan
    _, best = graph.strongest(torch.rand(2, 500, 4).cumsum(2), scores)
    assert torch.isfinite(best[0]).all()
    assert torch.isnan(best[1]).all()


@pytest.mark.parametrize("channel", [0, 1, 4], ids=["score", "place", "size"])
@pytest.mark.parametrize("graph", ["fused.onnx", "fused-half.onnx"])
def test_a_detector_that_says_nan_shows_in_the_exported_graph(graph: str, channel: int) -> None:
    """ONNX Runtime's TopK would pass over a NaN without a word."""
    model = onnx.load_from_string(load_bundle().graphs[graph])
    name = "detector.detector.predict.weight"
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name.removesuffix(IN_HALF) == name)
    values = onnx.numpy_helper.to_array(weights).copy()
    values[channel] = np.nan
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    held = np.zeros((1, load_bundle().manifest.fused["held"], 4), np.float32)
    _, _, scores = session.run(None, {"frames": np.zeros((1, 64, 96, 3), np.uint8), "held_boxes": held})
    assert np.isnan(scores[0, : load_bundle().manifest.fused["slots"]]).all()


def test_large_faces_must_be_surer() -> None:
    """The odds fall with the side from 48 to 240 px, in both looks, and nothing else changes."""
    torch.manual_seed(0)
    detector = EdgeDetector().eval()
    torch.nn.init.normal_(detector.predict.weight, std=0.3)
    assert detector.predict.bias is not None
    torch.nn.init.constant_(detector.predict.bias[3:], 1.6)  # 40 to 160 px, in the second look 80 to 320
    image = torch.rand(1, 3, 128, 192) * 255
    with torch.no_grad():
        boxes, scores = DetectorGraph(detector)(image)
        looks = [detector(image), detector(avg_pool2d(image, 2))]
    odds = torch.cat([look.logits for look in looks], 1).exp()
    side = (boxes[..., 2:] - boxes[..., :2]).prod(-1).sqrt()
    expected = odds / (side / 48).clamp(1, 5)
    seen = scores > 0
    assert (seen & (side > 60) & (side < 240)).any()
    assert (seen & (side > 260)).any()
    assert (seen & (side < 48)).any()
    torch.testing.assert_close((scores / (1 - scores))[seen], expected[seen], rtol=1e-4, atol=0)


def test_odd_rounds_of_suppression_are_refused(bundle: Path) -> None:
    with pytest.raises(ValueError, match="rounds: expected an even number"):
        FusedGraph(EdgeDetector(), EdgeUNet(), load_bundle(bundle).manifest, replace(SPEC, rounds=7))


def test_differing_graphs_are_not_written(
    weights: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "PIXEL_TOLERANCE", -1.0)
    with pytest.raises(ParityError, match="nothing was written"):
        export_bundle(ExportArgs(*weights, tmp_path / "out", fused=SPEC))
    assert not (tmp_path / "out").exists()


def test_existing_outputs_and_wrong_weights_are_refused(weights: tuple[Path, Path], tmp_path: Path) -> None:
    detector, generator = weights
    with pytest.raises(SinkError, match="exists"):
        export_bundle(ExportArgs(detector, generator, tmp_path))
    with pytest.raises(CheckpointError, match="expected weights of an edge detector, got kind 'generator'"):
        load_detector(generator)
    with pytest.raises(CheckpointError, match="is not there"):
        load_generator(tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(detector.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        load_detector(broken)


def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    data = bytearray((copy / "detector.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "detector.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"detector.onnx is damaged"):
        load_bundle(copy)
