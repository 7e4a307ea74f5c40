"""Reads the trainer's safetensors back into networks."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from dartblur_train.nets.edge_detector import SPECS, EdgeDetector
from dartblur_train.nets.unet import GENERATORS, EdgeUNet, PublishedUNet
from dartblur_train.patches import PatchGeometry

from .errors import CheckpointError


def load_detector(file: Path) -> tuple[EdgeDetector, dict[str, str]]:
    """The detector in evaluation mode, and the file's metadata; raises `CheckpointError`."""
    state, metadata = _read(file, "edge_detector")
    if metadata.get("size") not in SPECS:
        raise CheckpointError(f"{file}: size: expected one of {sorted(SPECS)}, got {metadata.get('size')!r}")
    detector = EdgeDetector(SPECS[metadata["size"]])
    _load(detector, state, file)
    return detector.eval(), metadata


def load_generator(file: Path) -> tuple[EdgeUNet | PublishedUNet, PatchGeometry, dict[str, str]]:
    """The generator in evaluation mode, its geometry, and the file's metadata; raises `CheckpointError`."""
    state, metadata = _read(file, "generator")
    if metadata.get("generator") not in GENERATORS:
        raise CheckpointError(
            f"{file}: generator: expected one of {sorted(GENERATORS)}, got {metadata.get('generator')!r}"
        )
    generator = GENERATORS[metadata["generator"]]()
    _load(generator, state, file)
    geometry = PatchGeometry(int(metadata["patch_size"]), float(metadata["context"]))
    return generator.eval(), geometry, metadata


def _read(file: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not file.is_file():
        raise CheckpointError(f"{file} is not there: expected weights from 'dartblur train'")
    try:
        with safe_open(file, "pt") as archive:
            metadata = archive.metadata() or {}
            state = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CheckpointError(f"{file}: expected a safetensors file: {error}") from error
    if metadata.get("kind") != kind:
        raise CheckpointError(f"{file}: expected weights of kind {kind!r}, got {metadata.get('kind')!r}")
    return state, metadata


def _load(module: torch.nn.Module, state: dict[str, torch.Tensor], file: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{file}: the weights don't fit the network that the file names: {error}") from error
