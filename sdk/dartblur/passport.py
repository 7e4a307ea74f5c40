"""The engine passport: what an engine was built of and for, in a file beside it.

The engine stays a plain TensorRT file; beside ``NAME.engine`` lies ``NAME.engine.json``. `preflight` reads it and
compares it with the device before anything is loaded, since TensorRT itself only says that it can't, and at times
crashes.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .bundle import DEFAULT_MODEL, MANIFEST, MODELS, Bundle, bundle_path, sha256
from .errors import BackendError, BundleError, SinkError

SCHEMA_VERSION = 1
SEAL = "passport_sha256"
"""The field that holds the hash of all others: it tells edits and damage, not forgery."""

TARGETS = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
"""What engines are built for, and its name for people."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Passport:
    """What an engine says of itself.

    Attributes:
        engine_sha256, engine_bytes: of the engine file.
        bundle_sha256: of the manifest of the bundle that it was built from.
        model, model_version: of that bundle.
        target: ``tensorrt`` or ``tensorrt-rtx``.
        trt_version: of the library that built it; engines run in this version only.
        cuda_version: that the driver supported where it was built; None where there was no driver.
        sm: compute capabilities that it runs on, like ``8.7``.
        device: profile that it was built with.
        gpu: product name of the GPU that it was built on; None when it was built ahead of time.
        precision: ``fp16`` or ``fp32``, of the two networks.
        frame: width and height of the frames, pixels.
        batch: frames at once.
        slots, held: K and M, most faces that are found in a frame and boxes that the caller adds.
        patch_size, patch_context, box_scale, threshold: as the bundle's manifest has them.
        created: date and time of the build, ISO 8601, UTC.
        options: how it was built.
        parity: how far its results are from those of others, as ``dartblur verify`` measured.
        schema_version: of this record.
    """

    engine_sha256: str
    engine_bytes: int
    bundle_sha256: str
    model: str
    model_version: str
    target: str
    trt_version: str
    cuda_version: str | None
    sm: tuple[str, ...]
    device: str
    gpu: str | None
    precision: str
    frame: tuple[int, int]
    batch: int
    slots: int
    held: int
    patch_size: int
    patch_context: float
    box_scale: float
    threshold: float
    created: str
    options: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def inputs(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Element type and shape of the engine's inputs by name."""
        width, height = self.frame
        return {
            "frames": ("uint8", (self.batch, height, width, 3)),
            "held_boxes": ("float32", (self.batch, self.held, 4)),
        }

    def outputs(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Element type and shape of the engine's outputs by name."""
        count, side = self.slots + self.held, self.patch_size
        return {
            "patches": ("float16" if self.precision == "fp16" else "float32", (self.batch, count, 3, side, side)),
            "boxes": ("float32", (self.batch, count, 4)),
            "scores": ("float32", (self.batch, count)),
        }

    def to_json(self) -> str:
        """The text of the passport's file, sealed."""
        values = asdict(self)
        return json.dumps(values | {SEAL: _seal(values)}, indent=2, sort_keys=True) + "\n"


def passport_path(engine: str | Path) -> Path:
    """``NAME.engine.json`` of ``NAME.engine``."""
    engine = Path(engine)
    return engine.with_name(engine.name + ".json")


def bundle_sha256(bundle: Bundle) -> str:
    """sha256 of the bundle's manifest, which in turn names that of every file.

    Raises:
        BundleError: the bundle is no longer where it was read from.
    """
    root = Path(bundle.source)
    try:
        if root.is_dir():
            return sha256((root / MANIFEST).read_bytes())
        with zipfile.ZipFile(root) as archive:
            return sha256(archive.read(MANIFEST))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{root}: expected the bundle that was read before, got {error!r}: copy it again") from error


def file_sha256(file: Path) -> str:
    """Hexadecimal sha256 of a file, read piece by piece."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def build_command(
    *,
    bundle: str | None,
    target: str,
    device: str,
    precision: str | None = None,
    frame: tuple[int, int] | None = None,
    batch: int | None = None,
    engine: Path | None = None,
) -> str:
    """The command line that builds such an engine.

    Args:
        bundle: folder or zip; None for the built-in model.
        target, device: as the command's options.
        precision: as the command's option; None leaves it to the command.
        frame: width and height, pixels; None leaves it to the command.
        batch: frames at once; None leaves it to the command.
        engine: the file to write; None leaves the name to the command. One that exists is to be replaced.
    """
    words = ["dartblur", "build", *([bundle] if bundle else [])]
    words += ["--target", target, "--device", device]
    if precision is not None:
        words += ["--precision", precision]
    if frame is not None:
        words += ["--frame", f"{frame[0]}x{frame[1]}"]
    if batch is not None:
        words += ["--batch", str(batch)]
    if engine is not None:
        words += ["--out", str(engine), *(["--overwrite"] if engine.exists() else [])]
    return shlex.join(words)


def bundle_argument(bundle: Bundle | None) -> str | None:
    """A bundle on the command line of ``dartblur build``; None for the default one, which goes without saying."""
    if bundle is None:
        return None
    built_in = next((name for name in MODELS if Path(bundle.source) == bundle_path(name)), None)
    return None if built_in == DEFAULT_MODEL else built_in or bundle.source


def read_passport(engine: str | Path, bundle: Bundle | None = None, **known: Any) -> Passport:
    """The passport beside an engine; the engine itself is not looked at.

    Args:
        engine: the engine file.
        bundle: what it should be of, for the command in messages.
        known: more for that command: `target`, `frame` and `batch` of `build_command`.

    Raises:
        BundleError: there is none, or it is not one, was edited, or is of an unknown version.
    """
    path = passport_path(engine)
    try:
        return parse_passport(path.read_bytes(), path)
    except FileNotFoundError:
        problem = f"{path}: expected the engine's passport, nothing is there: copy it along with the engine"
    except OSError as error:
        problem = f"{path}: can't be read: {error.strerror}: check its permissions"
    except BundleError as error:
        problem = str(error)
    raise BundleError(f"{problem}; or run: {_build_anew(Path(engine), bundle, **known)}")


def parse_passport(text: bytes, path: Path) -> Passport:
    """The passport in a file's bytes; raises `BundleError` when it is not one, or was edited."""
    again = "copy it and its engine again"
    try:
        values = json.loads(text)
        version = values["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: expected an engine's passport, got {error!r}: {again}") from error
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path}: expected passport schema {SCHEMA_VERSION}, got {version}: update dartblur-edge, or {again}"
        )
    seal = values.pop(SEAL, None)
    if seal != _seal(values):
        raise BundleError(f"{path}: was edited or damaged since it was written (its own hash differs): {again}")
    known = {f.name for f in fields(Passport)}
    values = {name: value for name, value in values.items() if name in known}
    try:
        passport = Passport(**values | {"sm": tuple(values["sm"]), "frame": tuple(values["frame"])})
    except (KeyError, TypeError) as error:
        raise BundleError(f"{path}: lacks a field ({error}): {again}") from error
    return passport


def write_passport(engine: str | Path, passport: Passport) -> None:
    """Writes the passport beside its engine; it appears whole or not at all.

    Raises:
        SinkError: it can't be written.
    """
    path = passport_path(engine)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(passport.to_json())
        partial.replace(path)
    except OSError as error:
        raise SinkError(f"{path}: can't be written: {error.strerror}: choose a folder that is writable") from error
    finally:
        partial.unlink(missing_ok=True)


def record_parity(engine: str | Path, name: str, figures: Mapping[str, Any]) -> Passport:
    """Adds measured figures under a name, such as what the engine was compared with; returns the new passport.

    Raises:
        BundleError: there is no sound passport.
        SinkError: it can't be written.
    """
    passport = read_passport(engine)
    passport = replace(passport, parity=passport.parity | {name: dict(figures)})
    write_passport(engine, passport)
    return passport


def preflight(
    engine: str | Path,
    bundle: Bundle | None = None,
    *,
    trt_version: str,
    sm: str,
    target: str = "tensorrt",
    frame: tuple[int, int] | None = None,
    batch: int | None = None,
) -> Passport:
    """Checks, before anything is loaded, that an engine is whole and can run here; returns its passport.

    Args:
        engine: the engine file; its passport lies beside it.
        bundle: the bundle that is used with it; None takes any.
        trt_version: ``__version__`` of the library that is to load it.
        sm: compute capability of the GPU, like ``8.7``.
        target: whose library that is: ``tensorrt`` or ``tensorrt-rtx``.
        frame: width and height of the frames to come, pixels; None takes any.
        batch: frames at once; None takes any.

    Raises:
        BundleError: engine or passport is missing, damaged, edited, from the future, or of another bundle.
        BackendError: it was built for another GPU, library version, frame size or batch. Both name the command that
            builds the right one.
    """
    engine = Path(engine)
    if not engine.is_file():
        anew = _build_anew(engine, bundle, target=target, frame=frame, batch=batch)
        raise BundleError(f"{engine}: expected an engine file, nothing is there: run: {anew}")
    passport = read_passport(engine, bundle, target=target, frame=frame, batch=batch)
    if (problem := damage(engine, passport)) is not None:
        raise BundleError(f"{engine}: {problem}: copy it again, or run: {_mend(engine, passport, bundle)}")
    if bundle is not None and (expected := bundle_sha256(bundle)) != passport.bundle_sha256:
        raise BundleError(
            f"{engine}: built of {passport.model} {passport.model_version} ({passport.bundle_sha256[:12]}...), "
            f"this bundle is {bundle.manifest.name} {bundle.manifest.version} ({expected[:12]}...): "
            f"run: {_mend(engine, passport, bundle)}"
        )
    _check_device(engine, passport, bundle, trt_version=trt_version, sm=sm, target=target)
    _check_size(engine, passport, bundle, frame=frame, batch=batch)
    return passport


def damage(engine: Path, passport: Passport) -> str | None:
    """What is wrong with an engine file by its passport, in a few words; None when it is whole."""
    size = engine.stat().st_size
    if size != passport.engine_bytes:
        what = "truncated" if size < passport.engine_bytes else "not the file that was built"
        return f"{what}: expected {passport.engine_bytes} bytes, got {size}"
    if (actual := file_sha256(engine)) != passport.engine_sha256:
        return f"damaged: expected sha256 {passport.engine_sha256[:12]}..., got {actual[:12]}..."
    return None


def _check_device(
    engine: Path, passport: Passport, bundle: Bundle | None, *, trt_version: str, sm: str, target: str
) -> None:
    if (passport.target, passport.trt_version) == (target, trt_version) and sm in passport.sm:
        return
    changes = {"target": target}
    if passport.target != target or sm not in passport.sm:
        changes["device"] = "auto"
    if passport.target == target == "tensorrt-rtx" and sm not in passport.sm:
        # Building ahead of time again would aim at the same GPUs.
        changes["target"] = "tensorrt"
    mend = _mend(engine, passport, bundle, **changes)
    raise BackendError(
        f"{engine}: built for SM {' '.join(passport.sm)} / {TARGETS.get(passport.target, passport.target)} "
        f"{passport.trt_version}, this is SM {sm} / {TARGETS.get(target, target)} {trt_version}: run: {mend}"
    )


def _check_size(
    engine: Path, passport: Passport, bundle: Bundle | None, *, frame: tuple[int, int] | None, batch: int | None
) -> None:
    frame, batch = frame or passport.frame, batch or passport.batch
    if (frame, batch) == (passport.frame, passport.batch):
        return
    raise BackendError(
        f"{engine}: built for {_size(passport.frame, passport.batch)}, these are {_size(frame, batch)}: "
        f"run: {_mend(engine, passport, bundle, frame=frame, batch=batch)}"
    )


def _size(frame: tuple[int, int], batch: int) -> str:
    return f"frames of {frame[0]}x{frame[1]} by {batch}"


def _mend(engine: Path, passport: Passport, bundle: Bundle | None, **changes: Any) -> str:
    """The command that builds the engine anew from the bundle at hand, but for the changes."""
    wanted = {name: getattr(passport, name) for name in ("target", "device", "precision", "frame", "batch")} | changes
    return build_command(bundle=_bundle_of(passport, bundle), engine=engine, **wanted)


def _build_anew(engine: Path, bundle: Bundle | None, **known: Any) -> str:
    """The command that builds an engine for this machine where nothing is known of the one that is there."""
    return build_command(
        bundle=bundle_argument(bundle), engine=engine, **{"target": "tensorrt", "device": "auto"} | known
    )


def _bundle_of(passport: Passport, bundle: Bundle | None) -> str | None:
    if bundle is not None:
        return bundle_argument(bundle)
    for name in MODELS:
        if sha256((bundle_path(name) / MANIFEST).read_bytes()) == passport.bundle_sha256:
            return None if name == DEFAULT_MODEL else name
    # Where the bundle lies isn't in a passport, since it travels between machines.
    return f"BUNDLE-OF-{passport.model}-{passport.model_version}"


def _seal(values: Mapping[str, Any]) -> str:
    return sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())
