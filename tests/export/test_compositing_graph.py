"""Graphs that redact: the standard operators against the native operation, and what stands around them."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.version_converter import convert_version

import dartblur_ops as ops
from dartblur import load_bundle
from dartblur.boxes import scale_boxes
from dartblur.errors import BundleError
from dartblur_export import compositing_graph
from dartblur_export.compositing_function import DOMAIN, OPERATOR, compositing_function
from dartblur_export.compositing_graph import verify_compositing, with_compositing, without_function
from dartblur_export.errors import ParityError

from .conftest import HELD, MANIFEST, SLOTS, MakeBundle, tiny_graph

ANY_SIZE: tuple[int | str, ...] = ("batch", "height", "width")
CONTEXT, SIDE = 1.6, 16
CASES = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@functools.lru_cache
def function_session(kind: int, threshold: float, box_scale: float) -> Any:
    """A model of the node alone; all sizes are free."""
    types = {
        "frames": (kind, 4),
        "patches": (kind, 5),
        "boxes": (TensorProto.FLOAT, 3),
        "scores": (TensorProto.FLOAT, 2),
    }
    values = [helper.make_tensor_value_info(name, kind, [None] * rank) for name, (kind, rank) in types.items()]
    node = helper.make_node(
        OPERATOR,
        list(types),
        ["redacted"],
        domain=DOMAIN,
        threshold=threshold,
        box_scale=box_scale,
        context=CONTEXT,
        margin=ops.patch_margin(SIDE, CONTEXT),
        plugin_namespace=DOMAIN,
        plugin_version="1",
    )
    graph = helper.make_graph([node], "node", values, [helper.make_tensor_value_info("redacted", kind, [None] * 4)])
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)],
        functions=[compositing_function()],
        ir_version=9,
    )
    onnx.checker.check_model(model, full_check=True)
    return session_of(model.SerializeToString())


def session_of(data: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def fused_graph(half: bool = False, sizes: Any = ANY_SIZE) -> bytes:
    """The tiny graph in the operators' version that fused graphs have."""
    model = convert_version(onnx.load_from_string(tiny_graph(half, sizes)), 18)
    data: bytes = model.SerializeToString()
    return data


def by_slots(
    frames: NDArray[np.uint8],
    patches: NDArray[np.float32],
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    threshold: float,
    box_scale: float,
) -> NDArray[np.uint8]:
    """By the native operation, one slot after the other."""
    out = frames.copy()
    height, width = frames.shape[1:3]
    for n, slot in np.ndindex(scores.shape):
        if scores[n, slot] < np.float32(threshold):
            continue
        box = boxes[n, slot]
        if not np.isfinite(box).all():
            box = np.array([0, 0, width, height], np.float32)
        elif box_scale != 1:
            box = np.clip(box, -(2.0**20), 2.0**20).astype(np.float32)
            centre = (box[:2] + box[2:]) * np.float32(0.5)
            half = (box[2:] - box[:2]) * np.float32(0.5) * np.float32(box_scale)
            box = np.concatenate([centre - half, centre + half])
        ops.composite(out[n], patches[n, slot : slot + 1], box[None], CONTEXT)
    return out


def apart(a: NDArray[Any], b: NDArray[Any]) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max(initial=0))


@st.composite
def scenes(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Frames darker than 200, patches, boxes that lie anywhere, are empty or not finite, and scores."""
    batch, slots = draw(st.integers(1, 2)), draw(st.integers(1, 5))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frames = random.integers(0, 200, (batch, height, width, 3)).astype(np.uint8)
    patches = random.uniform(-0.1, 1.1, (batch, slots, 3, SIDE, SIDE)).astype(np.float32)
    corners = []
    for _ in range(batch * slots):
        x, y = (
            draw(st.tuples(*[st.floats(-0.5 * side, 1.5 * side, width=32) | st.sampled_from([0.0, 0.5, side])] * 2))
            for side in (float(width), float(height))
        )
        # Sorted mostly, since most random corners would make empty boxes.
        corners.append([min(x), min(y), max(x), max(y)] if draw(st.integers(0, 4)) else [x[0], y[0], x[1], y[1]])
    boxes = np.array(corners, np.float32).reshape(batch, slots, 4)
    if not draw(st.integers(0, 3)):
        boxes[0, 0, draw(st.integers(0, 3))] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e9]))
    choices = st.sampled_from([0.0, 0.375, 0.5, 1.0, np.nan])
    scores = [draw(choices) for _ in range(batch * slots)]
    return frames, patches, boxes, np.array(scores, np.float32).reshape(batch, slots)


@CASES
@given(scenes(), st.sampled_from([1.0, 1.15, 2.0]))
def test_function_does_what_the_native_operation_does(scene: Any, box_scale: float) -> None:
    frames, *rest = scene
    session = function_session(TensorProto.FLOAT, 0.375, box_scale)
    names = ("patches", "boxes", "scores")
    feeds = {"frames": frames.astype(np.float32), **dict(zip(names, rest, strict=True))}
    redacted = session.run(None, feeds)[0]
    np.testing.assert_array_equal(redacted, np.floor(redacted), "whole grey levels")
    assert apart(redacted, by_slots(frames, *rest, 0.375, box_scale)) <= 1

    # In white paint it shows which pixels are covered: the very same ones.
    feeds["patches"] = np.ones_like(rest[0])
    white = session.run(None, feeds)[0]
    expected = by_slots(frames, feeds["patches"], *rest[1:], 0.375, box_scale)
    np.testing.assert_array_equal(white == 255, expected == 255)
    np.testing.assert_array_equal(white, expected)


@CASES
@given(scenes())
def test_later_slots_win(scene: Any) -> None:
    """Each slot in one grey, far from the others'."""
    frames, patches, boxes, scores = scene
    greys = np.linspace(0.2, 1, patches.shape[1], dtype=np.float32)
    patches[:] = greys[:, None, None, None]
    feeds = {"frames": frames.astype(np.float32), "patches": patches, "boxes": boxes, "scores": scores}
    redacted = function_session(TensorProto.FLOAT, 0.375, 1.15).run(None, feeds)[0]
    np.testing.assert_array_equal(redacted, by_slots(frames, patches, boxes, scores, 0.375, 1.15))


@settings(CASES, max_examples=25)
@given(scenes())
def test_function_takes_half_precision(scene: Any) -> None:
    frames, patches, boxes, scores = scene
    half = patches.astype(np.float16)
    feeds = {"frames": frames.astype(np.float16), "patches": half, "boxes": boxes, "scores": scores}
    redacted = function_session(TensorProto.FLOAT16, 0.375, 1.15).run(None, feeds)[0]
    assert redacted.dtype == np.float16
    assert apart(redacted, by_slots(frames, half.astype(np.float32), boxes, scores, 0.375, 1.15)) <= 1


def test_no_context_and_no_number_that_is_none_comes_back() -> None:
    """Black faces in white surroundings, with broken pixels in them, stay black."""
    margin = ops.patch_margin(SIDE, CONTEXT)
    patches = np.ones((1, 8, 3, SIDE, SIDE), np.float32)
    patches[..., margin : SIDE - margin, margin : SIDE - margin] = 0
    patches[..., margin, margin + 1] = np.nan
    patches[..., margin + 2, margin + 1] = -np.inf
    centre = np.stack(np.meshgrid([40, 120, 200, 280], [50, 150]), -1).reshape(1, 8, 2)
    boxes = np.concatenate([centre - 37.3, centre + 37.3], 2).astype(np.float32)
    feeds = {"frames": np.full((1, 200, 320, 3), 90, np.float32), "patches": patches, "boxes": boxes}
    feeds["scores"] = np.ones((1, 8), np.float32)
    redacted = function_session(TensorProto.FLOAT, 0.4, 1.0).run(None, feeds)[0]
    assert set(np.unique(redacted)) == {0, 90}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("sizes", [ANY_SIZE, (2, 48, 64)])
def test_graph_redacts_frames(half: bool, sizes: tuple[int | str, ...]) -> None:
    graph = with_compositing(fused_graph(half, sizes), MANIFEST)
    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    session = session_of(graph)
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        ("redacted", "tensor(uint8)", [*sizes, 3]),
        ("boxes", "tensor(float)", [sizes[0], SLOTS + HELD, 4]),
        ("scores", "tensor(float)", [sizes[0], SLOTS + HELD]),
    ]
    frames = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
    held = np.zeros((2, HELD, 4), np.float32)
    held[0, 1] = [10.5, 8, 30, 40]
    feeds = {"frames": frames, "held_boxes": held}
    redacted, boxes, scores = session.run(None, feeds)
    patches = session_of(fused_graph(half, sizes)).run(["patches"], feeds)[0].astype(np.float32)
    expected = by_slots(frames, patches, boxes, scores, MANIFEST.threshold, MANIFEST.box_scale)
    assert (expected != frames).any()
    assert apart(redacted, expected) <= 1


@pytest.mark.parametrize("score", [0.4, 1.0, np.nan])
def test_frame_with_perhaps_more_faces_than_slots_is_black(score: float) -> None:
    """The tiny graph's score is the largest coordinate; its last slot for a found face takes the first held box."""
    session = session_of(with_compositing(fused_graph(), MANIFEST))
    frames = np.full((2, 8, 8, 3), 200, np.uint8)
    held = np.zeros((2, HELD, 4), np.float32)
    held[0, 0] = score
    redacted = session.run(["redacted"], {"frames": frames, "held_boxes": held})[0]
    assert (redacted[0] == 0).all()
    assert (redacted[1] == 200).all()


def test_node_is_what_the_plugin_looks_for() -> None:
    model = onnx.load_from_string(with_compositing(fused_graph(half=True), MANIFEST))
    (node,) = (node for node in model.graph.node if node.domain == DOMAIN)
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert node.op_type == "DartBlurComposite"
    assert attributes == {
        "threshold": pytest.approx(MANIFEST.threshold),
        "box_scale": pytest.approx(MANIFEST.box_scale),
        "context": pytest.approx(MANIFEST.patch_context),
        "margin": ops.patch_margin(MANIFEST.patch_size, MANIFEST.patch_context),
        "plugin_namespace": b"dartblur",
        "plugin_version": b"1",
    }
    (function,) = model.functions
    assert (function.domain, function.name) == (node.domain, node.op_type)
    assert set(function.attribute) == set(attributes)
    # TensorRT before 10.8 takes the graph's tensor where a function's input has its name.
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    assert not names & set(function.input)
    assert {node.domain for node in function.node} == {""}


def test_function_can_be_taken_out() -> None:
    graph = with_compositing(fused_graph(), MANIFEST)
    alone = onnx.load_from_string(without_function(graph))
    assert not alone.functions
    assert alone.graph == onnx.load_from_string(graph).graph
    with pytest.raises(BundleError, match="it has none"):
        without_function(alone.SerializeToString())


def test_other_graphs_are_refused() -> None:
    graph = fused_graph()
    with pytest.raises(BundleError, match=r"got frames, held_boxes and redacted, boxes, scores"):
        with_compositing(with_compositing(graph, MANIFEST), MANIFEST)
    with pytest.raises(BundleError, match="expected an ONNX graph"):
        with_compositing(graph[: len(graph) // 2], MANIFEST)
    with pytest.raises(BundleError, match="expected a graph of opset 18, got 17"):
        with_compositing(tiny_graph(half=False), MANIFEST)
    manifest = type(MANIFEST)("tiny", "1", "none", 0.4, 1.15, 8, 1.6)
    with pytest.raises(BundleError, match=r"fused.slots: expected a whole number from 1"):
        with_compositing(graph, manifest)


def test_differing_pixels_are_found(monkeypatch: pytest.MonkeyPatch, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(graphs={"fused.onnx": fused_graph()})
    fused = bundle.graphs["fused.onnx"]
    graph = with_compositing(fused, bundle.manifest)
    assert (verify_compositing("whole.onnx", graph, fused, bundle.manifest).pixels or 0) <= 1 / 255
    other = type(MANIFEST)("tiny", "1", "none", 0.4, 1.5, 8, 1.6, fused=MANIFEST.fused)
    with pytest.raises(ParityError, match=r"whole.onnx: redacted pixels differ by \d+ grey levels"):
        verify_compositing("whole.onnx", with_compositing(fused, other), fused, bundle.manifest)
    monkeypatch.setattr(compositing_graph, "GREY_TOLERANCE", -1)
    with pytest.raises(ParityError, match="nothing was written"):
        verify_compositing("whole.onnx", graph, fused, bundle.manifest)


@pytest.mark.parametrize("name", ["fused.onnx", "fused-half.onnx"])
def test_default_model_hides_a_real_face(name: str) -> None:
    skimage_data = pytest.importorskip("skimage.data")
    bundle = load_bundle()
    graph = with_compositing(bundle.graphs[name], bundle.manifest)
    frame = np.full((243, 417, 3), 90, np.uint8)
    frame[:240, :240] = cv2.resize(skimage_data.astronaut()[:300, 100:400, ::-1], (240, 240))
    held = np.zeros((1, bundle.manifest.fused["held"], 4), np.float32)
    redacted, boxes, scores = session_of(graph).run(None, {"frames": frame[None], "held_boxes": held})
    found = boxes[0, scores[0] >= bundle.manifest.threshold]
    assert len(found) == 1
    assert np.abs(found[0] - (64, 46, 136, 141)).max() < 6, "it is the face"
    changed = (redacted[0] != frame).any(2)
    grown = scale_boxes(found, bundle.manifest.box_scale)
    low, high = np.floor(grown[:, :2]).astype(int).clip(0), np.ceil(grown[:, 2:]).astype(int)
    allowed = np.zeros(frame.shape[:2], bool)
    for (x0, y0), (x1, y1) in zip(low, high, strict=True):
        assert changed[y0:y1, x0:x1].mean() > 0.95
        allowed[y0:y1, x0:x1] = True
    assert not changed[~allowed].any(), "the boxes grown by the model's scale, and nothing else"


def test_tensorrt_rtx_builds_it_without_the_plugin() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(with_compositing(fused_graph(half=True), MANIFEST)), parser.get_error(0).desc()
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("frames", *[(1, 48, 64, 3)] * 3)
    profile.set_shape("held_boxes", *[(1, HELD, 4)] * 3)
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    assert builder.build_serialized_network(network, config).nbytes > 1000
