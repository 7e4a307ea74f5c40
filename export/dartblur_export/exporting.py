"""``dartblur export``: checkpoints to a verified bundle."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dartblur.bundle import Manifest, write_bundle
from dartblur.errors import SinkError

from .checkpoints import load_detector, load_generator
from .fused import MULTIPLE, DetectorGraph, FusedGraph, FusedSpec, GeneratorGraph
from .verification import Parity, verify_detector, verify_fused, verify_generator

OPSET = 18


@dataclass(frozen=True)
class ExportArgs:
    """What goes into a bundle.

    Attributes:
        detector, generator: weights from ``dartblur train``.
        out: the bundle's folder, not there yet.
        name, version, license: of the model.
        threshold, box_scale: the defaults for its users.
        fused: sizes of the fused graph.
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
    fused: FusedSpec = field(default_factory=FusedSpec)
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
    provenance = {"detector": detector_data, "generator": generator_data} | (args.provenance or {})
    manifest = Manifest(
        name=args.name,
        version=args.version,
        license=args.license,
        threshold=args.threshold,
        box_scale=args.box_scale,
        multiple=MULTIPLE,
        patch_size=geometry.size,
        patch_context=geometry.context,
        fused={name: getattr(args.fused, name) for name in ("height", "width", "batch", "slots", "held")},
        provenance=provenance,
        figures=args.figures or {},
    )
    fused = FusedGraph(detector, generator, manifest, args.fused).eval()
    detector_graph, generator_graph = DetectorGraph(detector).eval(), GeneratorGraph(generator, geometry).eval()
    graphs = {
        "detector.onnx": detector_onnx(detector_graph),
        "generator.onnx": generator_onnx(generator_graph, geometry.size),
        "fused.onnx": fused_onnx(fused),
    }
    parities = [
        verify_detector(detector_graph, graphs["detector.onnx"], manifest),
        verify_generator(generator_graph, graphs["generator.onnx"], geometry.size),
        verify_fused(fused, graphs["fused.onnx"]),
    ]
    figures = manifest.figures | {"parity": {p.graph: {"boxes": p.boxes, "pixels": p.pixels} for p in parities}}
    return write_bundle(args.out, replace(manifest, figures=figures), graphs), parities


def detector_onnx(graph: DetectorGraph) -> bytes:
    """The detector's ONNX file; batch, height and width are free."""
    batch, rows, columns = (torch.export.Dim(name, min=1) for name in ("batch", "rows", "columns"))
    shapes = {"image": {0: batch, 2: MULTIPLE * rows, 3: MULTIPLE * columns}}
    return _onnx(graph, (torch.zeros(2, 3, 2 * MULTIPLE, 3 * MULTIPLE),), ["image"], ["boxes", "scores"], shapes)


def generator_onnx(graph: GeneratorGraph, size: int) -> bytes:
    """The generator's ONNX file; the number of faces is free."""
    shapes = {"blurred": {0: torch.export.Dim("faces", min=1)}}
    return _onnx(graph, (torch.zeros(3, 3, size, size),), ["blurred"], ["painted"], shapes)


def fused_onnx(graph: FusedGraph) -> bytes:
    """The fused graph's ONNX file; all sizes are fixed."""
    spec = graph.spec
    frames = torch.zeros(spec.batch, spec.height, spec.width, 3, dtype=torch.uint8)
    held = torch.zeros(spec.batch, spec.held, 4)
    return _onnx(graph, (frames, held), ["frames", "held_boxes"], ["patches", "boxes", "scores"], None)


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
        return file.read_bytes()
