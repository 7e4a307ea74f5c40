"""``dartblur export``: checkpoints to a verified bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from dartblur.bundle import Manifest, write_bundle
from dartblur.errors import SinkError
from dartblur_train.checkpoints import IN_HALF
from dartblur_train.nets.edge_detector import EdgeDetector
from dartblur_train.nets.unet import EdgeUNet, PublishedUNet
from dartblur_train.patches import PatchGeometry

from .checkpoints import load_detector, load_generator
from .compositing_graph import verify_compositing, with_compositing
from .errors import ParityError
from .fused import MULTIPLE, DetectorGraph, FusedGraph, FusedSpec, GeneratorGraph
from .verification import Parity, verify_detector, verify_fused, verify_generator

OPSET = 18
FUSED = ("fused.onnx", "fused-half.onnx")
REDACTING = {"fused.onnx": "redacting.onnx", "fused-half.onnx": "redacting-half.onnx"}
"""The graphs that go from frame to frame, by those that they are made of."""
MOST_FRAMES, MOST_PIXELS = 64, 8192
"""Upper bounds of the free dimensions: frames at once, and pixels along a side."""
SIDES = {1: "height", 2: "width"}
KERNEL = 4
"""Dimensions of a convolution's kernel."""


@dataclass(frozen=True)
class ExportArgs:
    """What goes into a bundle.

    Attributes:
        detector, generator: weights from ``dartblur train``.
        out: the bundle's folder, not there yet.
        name, version, license: of the model.
        threshold, box_scale: the defaults for its users.
        long_side: that frames are scaled to for the detector, pixels; a multiple of 64.
        fused: sizes of the fused graphs.
        frame: (height, width) of the only frames that the fused graphs take; None: all sizes.
        batch: frames at once in the fused graphs; None: any number.
        compositing: also write the graphs that go from frame to frame, see `compositing_graph`.
        provenance, figures: for the manifest.
    """

    detector: Path
    generator: Path
    out: Path
    name: str = "dartblur-small"
    version: str = "1"
    license: str = "research only: trained on WIDER FACE, CelebA and LFW"
    threshold: float = 0.4
    box_scale: float = 1.15
    long_side: int = 640
    fused: FusedSpec = field(default_factory=FusedSpec)
    frame: tuple[int, int] | None = None
    batch: int | None = None
    compositing: bool = False
    provenance: dict[str, Any] | None = None
    figures: dict[str, Any] | None = None


def export_bundle(args: ExportArgs) -> tuple[Manifest, list[Parity]]:
    """Exports, compares with PyTorch, and only then writes the bundle.

    Raises:
        CheckpointError: weights are missing or of another kind.
        ParityError: ONNX Runtime and PyTorch differ by more than is allowed; nothing is written.
        SinkError: the folder exists already.
    """
    if args.out.exists():
        raise SinkError(f"{args.out} exists: choose another folder or remove it first")
    detector, detector_data = load_detector(args.detector)
    generator, geometry, generator_data = load_generator(args.generator)
    for network in (detector, generator):
        _round_kernels(network)
    provenance = {"detector": detector_data, "generator": generator_data} | (args.provenance or {})
    manifest = Manifest(
        name=args.name,
        version=args.version,
        license=args.license,
        threshold=args.threshold,
        box_scale=args.box_scale,
        long_side=args.long_side,
        multiple=MULTIPLE,
        patch_size=geometry.size,
        patch_context=geometry.context,
        fused=_fused_sizes(args),
        provenance=provenance,
        figures=args.figures or {},
    )
    verified = list(_exported(detector, generator, manifest, args))
    parities = [parity for _, parity in verified]
    graphs = {parity.graph: graph for graph, parity in verified}
    figures = manifest.figures | {"parity": {p.graph: {"boxes": p.boxes, "pixels": p.pixels} for p in parities}}
    return write_bundle(args.out, replace(manifest, figures=figures), graphs), parities


def _exported(
    detector: EdgeDetector, generator: EdgeUNet | PublishedUNet, manifest: Manifest, args: ExportArgs
) -> Iterator[tuple[bytes, Parity]]:
    """One graph after the other, each compared before the next is made."""
    look = DetectorGraph(detector).eval()
    data = detector_onnx(look)
    yield data, verify_detector(look, data, manifest)
    paint = GeneratorGraph(generator, PatchGeometry(manifest.patch_size, manifest.patch_context)).eval()
    data = generator_onnx(paint, manifest.patch_size)
    yield data, verify_generator(paint, data, manifest.patch_size)
    single, half = (FusedGraph(detector, generator, manifest, args.fused, half).eval() for half in (False, True))
    for name, fused in zip(FUSED, (single, half), strict=True):
        data = fused_onnx(fused, args.frame, args.batch)
        yield data, verify_fused(single, name, data, args.frame, args.batch)
        if args.compositing:
            whole = with_compositing(data, manifest)
            yield whole, verify_compositing(REDACTING[name], whole, data, manifest)


def detector_onnx(graph: DetectorGraph) -> bytes:
    """The detector's ONNX file; batch, height and width are free."""
    batch, rows, columns = (torch.export.Dim(name, min=1) for name in ("batch", "rows", "columns"))
    shapes = {"image": {0: batch, 2: MULTIPLE * rows, 3: MULTIPLE * columns}}
    return _onnx(graph, (torch.zeros(2, 3, 2 * MULTIPLE, 3 * MULTIPLE),), ["image"], ["boxes", "scores"], shapes)


def generator_onnx(graph: GeneratorGraph, size: int) -> bytes:
    """The generator's ONNX file; the number of faces is free."""
    shapes = {"blurred": {0: torch.export.Dim("faces", min=1)}}
    return _onnx(graph, (torch.zeros(3, 3, size, size),), ["blurred"], ["painted"], shapes)


def fused_onnx(graph: FusedGraph, frame: tuple[int, int] | None = None, batch: int | None = None) -> bytes:
    """The fused graph's ONNX file.

    Args:
        graph: in either precision.
        frame: (height, width) of all frames; None leaves them free, as the dimensions ``height`` and ``width``.
        batch: number of frames; None leaves it free, as the dimension ``batch``.
    """
    height, width = frame or (720, 1280)
    frames = torch.zeros(batch or 2, height, width, 3, dtype=torch.uint8)
    held = torch.zeros(batch or 2, graph.spec.held, 4)
    free: dict[int, Any] = {} if batch else {0: torch.export.Dim("batch", min=1, max=MOST_FRAMES)}
    sides = {} if frame else {axis: torch.export.Dim(name, min=16, max=MOST_PIXELS) for axis, name in SIDES.items()}
    shapes = {"frames": {**free, **sides}, "held_boxes": free}
    inputs, outputs = ["frames", "held_boxes"], ["patches", "boxes", "scores"]
    data = _onnx(graph, (frames, held), inputs, outputs, shapes if free or sides else None)
    _check_dimensions(data, [batch or "batch", *(frame or SIDES.values()), 3])
    return data


def _check_dimensions(data: bytes, expected: list[int | str]) -> None:
    """The exporter fixes a free dimension without a word when something in the graph depends on its value."""
    shape = onnx.load_from_string(data).graph.input[0].type.tensor_type.shape
    found = [dimension.dim_param or dimension.dim_value for dimension in shape.dim]
    if found != expected:
        raise ParityError(f"fused graph: expected frames of {expected}, the exporter made {found}: try another torch")


def _fused_sizes(args: ExportArgs) -> dict[str, int]:
    sizes = {"slots": args.fused.slots, "held": args.fused.held}
    if args.frame:
        sizes |= {"height": args.frame[0], "width": args.frame[1]}
    return sizes | ({"batch": args.batch} if args.batch else {})


def _onnx(
    graph: nn.Module,
    example: tuple[torch.Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    dynamic_shapes: dict[str, Any] | None,
) -> bytes:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / "graph.onnx"
        torch.onnx.export(
            graph,
            example,
            str(file),
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            external_data=False,
            verbose=False,
        )
        return _without_notes(onnx.load(file))


def _without_notes(model: onnx.ModelProto) -> bytes:
    """The exporter notes where in the source each node came from: a third of the file, with the paths of this disk."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info, graph, model):
        part.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("doc_string")
    graph.ClearField("value_info")
    _store_in_half(graph)
    data: bytes = model.SerializeToString()
    return data


def _round_kernels(network: nn.Module) -> None:
    """Rounds the convolutions' kernels to half precision, in place: more moves no box, and doubles the file."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == KERNEL:
                parameter.copy_(parameter.half())


def _store_in_half(graph: onnx.GraphProto) -> None:
    """Stores kernels that half precision holds exactly in it, each with a cast that runtimes do once, at loading."""
    casts = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if tensor.data_type != onnx.TensorProto.FLOAT or values.ndim != KERNEL:
            continue
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}{IN_HALF}"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], f"{name}.cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
