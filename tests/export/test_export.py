from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

import dartblur_export.verification as verification
from dartblur import BundleError, load_bundle
from dartblur.anonymizer import scale_boxes
from dartblur.backends.cpu import CpuBackend
from dartblur.errors import SinkError
from dartblur_export.checkpoints import load_detector, load_generator
from dartblur_export.errors import CheckpointError, ParityError
from dartblur_export.exporting import ExportArgs, export_bundle
from dartblur_export.fused import FusedGraph, FusedSpec
from dartblur_export.verification import check_picture
from dartblur_train.nets.edge_detector import EdgeDetector, EdgeDetectorSpec
from dartblur_train.nets.unet import EdgeUNet

# Odd on purpose: the pooled cells at the border are cut, and the scale is no simple fraction.
SPEC = FusedSpec(height=243, width=417, batch=2, slots=6, held=2, candidates=64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    detector, generator = EdgeDetector(), EdgeUNet()
    # Without training most scores are alike; spread them, so that the order of detections is well defined.
    torch.nn.init.normal_(detector.predict.weight, std=0.3)
    torch.nn.init.normal_(generator.leave.weight, std=0.1)
    save_file(detector.state_dict(), folder / "detector.safetensors", {"kind": "detector", "detector": "edge-small"})
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
    assert manifest.figures["parity"]["fused.onnx"]["boxes"] <= 1e-3
    assert manifest.figures["parity"]["fused.onnx"]["pixels"] <= 2 / 255
    for name in manifest.files:
        graph = onnx.load(bundle / name)
        onnx.checker.check_model(graph, full_check=True)
        assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}, "standard operators only"


def test_fused_and_cpu_backend_find_and_paint_the_same(bundle: Path) -> None:
    """The whole chain by two ways: one graph, and networks plus native operations."""
    loaded = load_bundle(bundle)
    backend = CpuBackend(loaded)
    session = onnxruntime.InferenceSession(loaded.graphs["fused.onnx"], providers=["CPUExecutionProvider"])
    frames = np.stack([check_picture(SPEC.height, SPEC.width, seed) for seed in (5, 6)])
    held = np.zeros((2, 2, 4), np.float32)
    held[0, 0] = [-15, 100, 90, 220]
    patches, boxes, scores = session.run(None, {"frames": frames, "held_boxes": held})
    assert scores[0, SPEC.slots] == 1
    assert (scores[:, SPEC.slots + 1] == 0).all()
    assert (scores[1, SPEC.slots :] == 0).all()
    for row, frame in enumerate(frames):
        found = backend.detect(frame, float(scores[row, : SPEC.slots].min()) * 0.999)
        expected = boxes[row, : SPEC.slots]
        # A slot's box and the CPU's box of the same rank are the same face.
        count = min(len(found), SPEC.slots)
        assert count == SPEC.slots
        assert np.abs(found.scores[:count] - scores[row, :count]).max() < 1e-3
        side = (expected[:, 2:] - expected[:, :2]).max(1, keepdims=True)
        assert (np.abs(found.boxes[:count] - expected) / side).max() < 5e-3
    import dartblur_ops as ops

    grown = scale_boxes(held[0, :1], loaded.manifest.box_scale)
    blurred = ops.crop_faces(frames[0], grown, 64, loaded.manifest.patch_context)
    painted = backend._generator.run(None, {"blurred": blurred})[0]
    inside = slice(12, 52)
    assert np.abs(painted[0] - patches[0, SPEC.slots])[:, inside, inside].max() <= 2 / 255


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (1080, 1920), (243, 417), (97, 55)])
def test_letterbox_is_the_native_one(weights: tuple[Path, Path], bundle: Path, height: int, width: int) -> None:
    import dartblur_ops as ops

    manifest = load_bundle(bundle).manifest
    graph = FusedGraph(
        EdgeDetector(EdgeDetectorSpec()), EdgeUNet(), manifest, replace(SPEC, height=height, width=width, batch=1)
    )
    frame = check_picture(height, width)
    native, scale = ops.letterbox(frame, graph.input_size)
    ours = graph.letterbox(torch.from_numpy(frame).permute(2, 0, 1)[None].float())[0].numpy()
    assert scale == pytest.approx(graph.scale)
    assert ours.shape == native.shape
    assert np.abs(ours - native).max() < 0.5


def test_cluster_suppression_is_exact_for_chains(weights: tuple[Path, Path], bundle: Path) -> None:
    """A suppresses B, so B can't suppress C: only A and C stay."""
    graph = FusedGraph(EdgeDetector(), EdgeUNet(), load_bundle(bundle).manifest, SPEC)
    chain = torch.tensor([[[0.0, 0, 100, 100], [30, 0, 130, 100], [60, 0, 160, 100], [300, 0, 310, 10]]])
    _, scores = graph.strongest(chain, torch.tensor([[0.9, 0.8, 0.7, 0.6]]))
    assert [round(score, 1) for score in scores[0].tolist() if score] == [0.9, 0.7, 0.6]


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
