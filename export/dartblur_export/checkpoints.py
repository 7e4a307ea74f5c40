"""Reads the trainer's safetensors back into networks that can be exported."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from dartblur_train.data.labels import DataError
from dartblur_train.generators import load_generator as load_any_generator
from dartblur_train.nets.detectors import build_detector
from dartblur_train.nets.edge_detector import EdgeDetector
from dartblur_train.nets.unet import EdgeUNet, PublishedUNet
from dartblur_train.patches import PatchApplication, PatchGeometry

from .errors import CheckpointError


def load_detector(file: Path) -> tuple[EdgeDetector, dict[str, str]]:
    """The edge detector in evaluation mode, and the file's metadata; raises `CheckpointError`."""
    if not file.is_file():
        raise CheckpointError(f"{file} is not there: expected weights from 'dartblur train detector'")
    try:
        with safe_open(file, "pt") as archive:
            metadata: dict[str, str] = archive.metadata() or {}
        detector = build_detector(metadata.get("detector", ""), file) if metadata.get("kind") == "detector" else None
    except SafetensorError as error:
        raise CheckpointError(f"{file}: expected a safetensors file: {error}") from error
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(detector, EdgeDetector):
        raise CheckpointError(
            f"{file}: expected weights of an edge detector, got kind {metadata.get('kind')!r}, "
            f"detector {metadata.get('detector')!r}"
        )
    return detector.eval(), metadata


def load_generator(file: Path) -> tuple[EdgeUNet | PublishedUNet, PatchGeometry, dict[str, str]]:
    """The generator in evaluation mode, its geometry, and the file's metadata; raises `CheckpointError`."""
    try:
        generator, application, metadata = load_any_generator(file)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(application, PatchApplication):
        raise CheckpointError(f"{file}: expected a generator trained with --mode patch, got mode {metadata['mode']!r}")
    return generator, application.geometry, metadata
