"""Fused graphs that end in redacted frames instead of patches: from frame to frame in one engine.

The last step is one node, ``dartblur::DartBlurComposite``. TensorRT takes the plugin of that name for it
(``cpp_ext/csrc/tensorrt``). Where there is no plugin, as in ONNX Runtime and TensorRT-RTX, an ONNX function of that
name does the same by standard operators.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import dartblur_ops
from dartblur.boxes import scale_boxes
from dartblur.bundle import Manifest
from dartblur.errors import BundleError
from dartblur.measurement.sample_frames import texture

from .compositing_function import DOMAIN, OPERATOR, OPSET, VERSION, compositing_function
from .errors import ParityError
from .verification import Parity

GREY_TOLERANCE = 1
"""Largest difference of a redacted pixel, in grey levels."""

_PREFIX = "compositing."


def with_compositing(graph: bytes, manifest: Manifest) -> bytes:
    """Makes a fused graph redact the frames itself.

    The graph's output ``patches`` gives way to ``redacted``, uint8 ``[N, H, W, 3]`` BGR: the frames with every slot
    that reaches the manifest's threshold overwritten. A frame in which all K slots for found faces are taken may hold
    more faces than that, so all of it becomes black. ``boxes`` and ``scores`` stay.

    Args:
        graph: bytes of ``fused.onnx`` or ``fused-half.onnx``.
        manifest: of the bundle; its `fused` names the number of slots.

    Raises:
        BundleError: it is no fused graph, or the manifest doesn't say how many slots it has.
    """
    model = _load(graph)
    outputs = {output.name: output for output in model.graph.output}
    inputs = {value.name: value for value in model.graph.input}
    if list(outputs) != ["patches", "boxes", "scores"] or "frames" not in inputs:
        raise BundleError(
            f"expected a fused graph with the input frames and the outputs patches, boxes and scores, got "
            f"{', '.join(inputs)} and {', '.join(outputs)}: give the fused.onnx or fused-half.onnx of a bundle"
        )
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if opsets.get("") != OPSET:
        raise BundleError(f"expected a graph of opset {OPSET}, got {opsets.get('')}: export the bundle again")
    kind = outputs["patches"].type.tensor_type.elem_type
    model.graph.node.extend(_nodes(kind, manifest))
    redacted = onnx.ValueInfoProto()
    redacted.CopyFrom(inputs["frames"])
    redacted.name = "redacted"
    kept = [redacted, outputs["boxes"], outputs["scores"]]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    model.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    model.functions.append(compositing_function())
    data: bytes = model.SerializeToString()
    return data


def without_function(graph: bytes) -> bytes:
    """The graph with the node alone, which only the plugin can then do.

    TensorRT before 10.7 (JetPack 6 has 10.3) takes the function even where the plugin is loaded.
    """
    model = _load(graph)
    kept = [function for function in model.functions if (function.domain, function.name) != (DOMAIN, OPERATOR)]
    if len(kept) == len(model.functions):
        raise BundleError(f"expected a graph with the function {DOMAIN}::{OPERATOR}, it has none: use it as it is")
    del model.functions[:]
    model.functions.extend(kept)
    data: bytes = model.SerializeToString()
    return data


def verify_compositing(name: str, graph: bytes, fused: bytes, manifest: Manifest) -> Parity:
    """Compares a graph's redacted frames in ONNX Runtime with those that the SDK makes of the fused graph's patches.

    Args:
        name: of the file, for messages.
        graph: what `with_compositing` has made of `fused`.
        fused: the fused graph.
        manifest: of the bundle.

    Raises:
        ParityError: a pixel differs by more than `GREY_TOLERANCE`.
    """
    whole, parts, worst = _session(graph), _session(fused), 0
    frames, held = _scene(parts)
    feeds = {"frames": frames, "held_boxes": held}
    redacted, boxes, scores = whole.run(["redacted", "boxes", "scores"], feeds)
    patches = parts.run(["patches"], feeds)[0].astype(np.float32)
    for row, frame in enumerate(frames):
        if scores[row, manifest.fused["slots"] - 1] >= manifest.threshold:
            frame[:] = 0
        else:
            found = scores[row] >= np.float32(manifest.threshold)
            grown = scale_boxes(boxes[row, found], manifest.box_scale)
            dartblur_ops.composite(frame, patches[row, found], grown, manifest.patch_context)
        worst = max(worst, int(np.abs(frame.astype(np.int16) - redacted[row]).max()))
    if worst > GREY_TOLERANCE:
        raise ParityError(
            f"{name}: redacted pixels differ by {worst} grey levels, expected at most {GREY_TOLERANCE}: nothing was "
            "written; try other versions of onnxscript and onnxruntime"
        )
    return Parity(name, pixels=worst / 255)


def _nodes(kind: int, manifest: Manifest) -> list[onnx.NodeProto]:
    slots = manifest.fused.get("slots")
    if not isinstance(slots, int) or slots < 1:
        raise BundleError(
            f"fused.slots: expected a whole number from 1 in the manifest, got {slots!r}: export it again"
        )
    composite = helper.make_node(
        OPERATOR,
        [f"{_PREFIX}frames", "patches", "boxes", "scores"],
        [f"{_PREFIX}pasted"],
        name=f"{_PREFIX}composite",
        domain=DOMAIN,
        threshold=manifest.threshold,
        box_scale=manifest.box_scale,
        context=manifest.patch_context,
        margin=dartblur_ops.patch_margin(manifest.patch_size, manifest.patch_context),
        # With its namespace given, TensorRT prefers the plugin to the function.
        plugin_namespace=DOMAIN,
        plugin_version=str(VERSION),
    )
    constants = {
        "last_slot": np.array(slots - 1),
        "threshold": np.array(manifest.threshold, np.float32),
        "axes": np.array([1, 2, 3]),
        "black": np.array(0, helper.tensor_dtype_to_np_dtype(kind)),
    }
    tensors = {f"{_PREFIX}{name}": numpy_helper.from_array(value) for name, value in constants.items()}
    return [
        *(_node("Constant", [], name, value=tensor) for name, tensor in tensors.items()),
        # TensorRT takes bytes at the door and nowhere else, plugins included.
        _node("Cast", ["frames"], f"{_PREFIX}frames", to=kind),
        composite,
        _node("Gather", ["scores", f"{_PREFIX}last_slot"], f"{_PREFIX}weakest", axis=1),
        # Written so that a score that is NaN hides the frame.
        _node("Less", [f"{_PREFIX}weakest", f"{_PREFIX}threshold"], f"{_PREFIX}room_left"),
        _node("Unsqueeze", [f"{_PREFIX}room_left", f"{_PREFIX}axes"], f"{_PREFIX}complete"),
        _node("Where", [f"{_PREFIX}complete", f"{_PREFIX}pasted", f"{_PREFIX}black"], f"{_PREFIX}safe"),
        _node("Cast", [f"{_PREFIX}safe"], "redacted", to=TensorProto.UINT8),
    ]


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    name = f"{_PREFIX}make_{output.removeprefix(_PREFIX)}"
    return helper.make_node(operator, inputs, [output], name=name, **attributes)


def _load(graph: bytes) -> onnx.ModelProto:
    try:
        return onnx.load_from_string(graph)
    except DecodeError as error:
        raise BundleError(
            f"expected an ONNX graph, it is truncated or something else ({error}): export it again"
        ) from error


def _scene(session: Any) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Frames and held boxes that the graph takes: an empty one, and some that overlap and lie over the border."""
    shapes = {value.name: value.shape for value in session.get_inputs()}
    sizes = zip(shapes["frames"][:3], (2, 243, 417), strict=True)
    batch, height, width = (size if isinstance(size, int) else other for size, other in sizes)
    frames = np.stack([texture(width, height, seed) for seed in range(batch)])
    places = np.array([[0, 0, 0, 0], [0.2, 0.3, 0.5, 0.8], [0.4, -0.1, 0.7, 0.6], [0.9, 0.5, 1.2, 0.9]], np.float32)
    held = np.zeros((batch, shapes["held_boxes"][1], 4), np.float32)
    places = places[: held.shape[1]] * np.array([width, height, width, height], np.float32)
    held[:, : len(places)] = places
    return frames, held


def _session(graph: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
