"""Generators on disk: the weights, which network they belong to, and how it is applied."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .application import Application
from .checkpoints import save_weights_file, start_from
from .data.labels import DataError
from .frames import FrameApplication
from .nets.unet import GENERATORS, EdgeUNet, PublishedUNet
from .patches import PatchApplication, PatchGeometry

MODES = ("patch", "frame")


def build_application(mode: str, geometry: PatchGeometry | None = None) -> Application:
    """The way of that name; raises `DataError` for any other."""
    if mode not in MODES:
        raise DataError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    return FrameApplication() if mode == "frame" else PatchApplication(geometry or PatchGeometry())


def save_generator(
    file: Path, generator: EdgeUNet | PublishedUNet, name: str, application: Application, steps: int
) -> None:
    """Writes ``.safetensors``, whole or not at all.

    Args:
        file: where to.
        generator, name: the network, and its name in `GENERATORS`.
        application: how it was trained to be applied.
        steps: how long it was trained.
    """
    metadata = {"kind": "generator", "generator": name, "steps": str(steps), **application.metadata}
    save_weights_file(file, generator.state_dict(), metadata)


def load_generator(file: Path) -> tuple[EdgeUNet | PublishedUNet, Application, dict[str, str]]:
    """A generator in evaluation mode, how it is applied, and what its file says about it.

    Args:
        file: ``.safetensors`` of a training run, or the folder of a bundle.

    Raises:
        DataError: the file is missing, or is not of a generator.
    """
    metadata = _bundle_metadata(file) if file.is_dir() else _metadata(file)
    name = metadata.get("generator")
    if metadata.get("kind") != "generator" or name not in GENERATORS:
        raise DataError(
            f"{file}: expected weights of a generator ({', '.join(sorted(GENERATORS))}), "
            f"got kind {metadata.get('kind')!r}, generator {name!r}"
        )
    generator = GENERATORS[name]()
    start_from(generator, file / "generator.onnx" if file.is_dir() else file, "generator.")
    geometry = None
    if metadata.get("mode", "patch") == "patch":
        try:
            geometry = PatchGeometry(int(metadata["patch_size"]), float(metadata["context"]))
        except (KeyError, ValueError) as error:
            raise DataError(f"{file}: expected patch_size and context of a generator: {error}") from error
    return generator.eval(), build_application(metadata.get("mode", "patch"), geometry), metadata


def _metadata(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise DataError(f"{file} is not there: expected weights from 'dartblur train dart', or a bundle")
    try:
        with safe_open(file, "pt") as archive:
            return dict(archive.metadata() or {})
    except SafetensorError as error:
        raise DataError(f"{file}: expected a safetensors file: {error}") from error


def _bundle_metadata(folder: Path) -> dict[str, str]:
    try:
        metadata: dict[str, str] = json.loads((folder / "manifest.json").read_text())["provenance"]["generator"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: expected a bundle whose manifest.json tells of its generator: {error}") from error
    return metadata
