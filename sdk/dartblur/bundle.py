"""The model bundle: what export hands to the SDK.

A folder or zip file with ``manifest.json`` and ONNX graphs: ``detector.onnx`` and ``generator.onnx`` for the CPU,
``fused.onnx`` for engines, and where there is one ``fused-half.onnx``, the same with networks in half precision;
``redacting.onnx`` and ``redacting-half.onnx`` go from frame to frame by a plugin of TensorRT. The manifest names the
sha256 of each; a bundle that doesn't match is refused.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import BundleError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
GRAPHS = ("detector.onnx", "generator.onnx", "fused.onnx")
OPTIONAL_GRAPHS = ("fused-half.onnx", "redacting.onnx", "redacting-half.onnx")
FILES = (MANIFEST, *GRAPHS, *OPTIONAL_GRAPHS)
MODELS = ("nano", "small", "base")
"""The models that come with the package, the quickest first."""
DEFAULT_MODEL = "small"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        schema_version: of this record; others than `SCHEMA_VERSION` are refused.
        name, version: of the model.
        license: of the weights.
        files: sha256 of each file by its name.
        long_side: long side that a frame is scaled to for the detector, pixels.
        multiple: both sides of the detector's input are multiples of this.
        threshold: lowest score of a face.
        nms_iou: detections that overlap more are one face.
        box_scale: how much larger than the face the overwritten box is.
        patch_size: side of the generator's patches, pixels.
        patch_context: side of the area a patch shows over the side of the box.
        fused: of the fused graphs: ``slots`` for faces and for ``held`` boxes; ``height``, ``width`` and ``batch`` of
            the frames where the graphs take no others.
        precision: ``float32``.
        provenance: how the weights were trained.
        figures: what was measured of them.
    """

    name: str
    version: str
    license: str
    threshold: float
    box_scale: float
    patch_size: int
    patch_context: float
    long_side: int = 640
    multiple: int = 64
    nms_iou: float = 0.45
    precision: str = "float32"
    fused: dict[str, int] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def detector_size(self, height: int, width: int, long_side: int | None = None) -> tuple[int, int]:
        """Height and width of the detector's input for a frame: scaled to `long_side` (None: its own), then padded."""
        long_side = long_side or self.long_side
        # In whole numbers and rounded up, as the fused graph does it, so that all of the scaled frame has room.
        room = max(height, width) * self.multiple
        rows, columns = ((side * long_side + room - 1) // room for side in (height, width))
        return rows * self.multiple, columns * self.multiple

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle in memory, its files checked against the manifest.

    Attributes:
        manifest: what it says of itself.
        graphs: the ONNX files by name.
        source: where it was read from, for messages.
    """

    manifest: Manifest
    graphs: Mapping[str, bytes]
    source: str


def load_bundle(model: str | Path | None = None) -> Bundle:
    """Reads a bundle: one of `MODELS` by its name, a folder or a zip file; None is the package's default.

    Raises:
        BundleError: a file is missing or differs from the manifest, or the manifest is not one this version reads.
    """
    root = bundle_path(model)
    if not root.exists():
        raise BundleError(
            f"{root}: expected {', '.join(MODELS)}, or a model bundle (folder or .zip), nothing is there: check --model"
        )
    files = _read_zip(root) if root.is_file() else _read_folder(root)
    if MANIFEST not in files:
        raise BundleError(f"{root}: expected a model bundle, it has no {MANIFEST}: make one with 'dartblur export'")
    manifest = parse_manifest(files[MANIFEST], str(root))
    names = (*GRAPHS, *(name for name in OPTIONAL_GRAPHS if name in manifest.files))
    for name in names:
        if name not in manifest.files or name not in files:
            raise BundleError(f"{root}: {name} is missing: export or copy the bundle again")
        if (actual := sha256(files[name])) != manifest.files[name]:
            raise BundleError(
                f"{root}: {name} is damaged: expected sha256 {manifest.files[name][:12]}..., got {actual[:12]}...: "
                "export or copy the bundle again"
            )
    return Bundle(manifest, {name: files[name] for name in names}, str(root))


def bundle_path(model: str | Path | None = None) -> Path:
    """Where a bundle lies: one of `MODELS` by its name, or what the path says; None or ``default`` is the default one.

    A folder here that is called like a model is meant where it is given with its own folder: ``../here/small``.
    """
    name = DEFAULT_MODEL if model is None or str(model) == "default" else str(model)
    return Path(str(resources.files(__package__))) / "models" / name if name in MODELS else Path(name)


def default_bundle() -> Path:
    """Folder of the default model."""
    return bundle_path()


def parse_manifest(text: bytes, source: str) -> Manifest:
    """The manifest in a file's bytes; raises `BundleError` when it is not one."""
    try:
        values = json.loads(text)
        version = values["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{source}: {MANIFEST} is not a bundle's manifest ({error!r}): export it again") from error
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{source}: expected bundle schema {SCHEMA_VERSION}, got {version}: "
            "update dartblur-edge or export the bundle again"
        )
    known = {f.name for f in fields(Manifest)}
    try:
        manifest = Manifest(**{name: value for name, value in values.items() if name in known})
    except TypeError as error:
        raise BundleError(f"{source}: {MANIFEST} lacks a field ({error}): export it again") from error
    _check_ranges(manifest, source)
    return manifest


def write_bundle(folder: Path, manifest: Manifest, graphs: Mapping[str, bytes]) -> Manifest:
    """Writes the graphs and a manifest with their hashes into a folder; returns that manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    hashed = Manifest(**{**asdict(manifest), "files": {name: sha256(graph) for name, graph in graphs.items()}})
    for name, graph in graphs.items():
        (folder / name).write_bytes(graph)
    # The manifest comes last: without it a folder is no bundle.
    (folder / MANIFEST).write_text(hashed.to_json())
    return hashed


def sha256(data: bytes) -> str:
    """Hexadecimal sha256."""
    return hashlib.sha256(data).hexdigest()


def _check_ranges(manifest: Manifest, source: str) -> None:
    ranges = {
        "threshold": (0.0, 1.0),
        "nms_iou": (0.0, 1.0),
        "box_scale": (1.0, 4.0),
        "patch_size": (8, 1024),
        "patch_context": (1.0, 4.0),
        "long_side": (32, 8192),
        "multiple": (1, 256),
    }
    for name, (low, high) in ranges.items():
        value = getattr(manifest, name)
        # Bounds that are whole numbers are those of pixels.
        kind = int if isinstance(low, int) else (int, float)
        if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise BundleError(f"{source}: {name}: expected {what} from {low} to {high}, got {value!r}")
    if not isinstance(manifest.files, dict):
        raise BundleError(f"{source}: files: expected names and their sha256, got {manifest.files!r}")


def _read_folder(root: Path) -> dict[str, bytes]:
    try:
        return {name: (root / name).read_bytes() for name in FILES if (root / name).is_file()}
    except OSError as error:
        raise BundleError(f"{root}: can't be read: {error.strerror}") from error


def _read_zip(root: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(root) as archive:
            return {name: archive.read(name) for name in FILES if name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise BundleError(f"{root}: expected a model bundle (folder or .zip): {error}") from error
