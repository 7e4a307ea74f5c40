"""What a file is: a bundle, an ONNX graph, an engine or its passport, as plain values for people and programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from .bundle import MANIFEST, bundle_path, load_bundle, sha256
from .errors import BundleError, InputError
from .onnx_outline import read_outline
from .passport import Passport, bundle_sha256, damage, file_sha256, parse_passport, passport_path

PASSPORT_SUFFIX = ".engine.json"
_ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


def inspect_file(path: Path) -> dict[str, Any]:
    """What a file or folder holds; ``kind`` is ``bundle``, ``onnx`` or ``engine``.

    An engine is told by its passport, which is compared with the file: ``problem`` says in words what is wrong with
    the two, and is None when nothing is.

    Raises:
        InputError: there is nothing, or nothing that is known here.
        BundleError: a bundle or graph is damaged.
    """
    path = bundle_path(path)
    if not path.exists():
        raise InputError(
            f"{path}: expected a model's name, a bundle, .onnx or .engine file, nothing is there: check the name"
        )
    if path.name == MANIFEST:
        return _bundle(path.parent)
    if path.is_dir() or path.suffix == ".zip":
        return _bundle(path)
    try:
        if path.suffix == ".onnx":
            return _onnx(path.name, path.read_bytes())
        if path.name.endswith(PASSPORT_SUFFIX):
            return _engine(path.with_name(path.name.removesuffix(".json")))
        if path.suffix in _ENGINE_SUFFIXES or passport_path(path).exists():
            return _engine(path)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    raise InputError(
        f"{path}: expected a bundle (folder or .zip), .onnx, {', '.join(_ENGINE_SUFFIXES)} or {PASSPORT_SUFFIX}"
    )


def _bundle(path: Path) -> dict[str, Any]:
    bundle = load_bundle(path)
    manifest = asdict(bundle.manifest)
    del manifest["files"]
    graphs = [_onnx(name, data) for name, data in bundle.graphs.items()]
    return {"kind": "bundle", "path": str(path), "sha256": bundle_sha256(bundle), **manifest, "graphs": graphs}


def _onnx(name: str, data: bytes) -> dict[str, Any]:
    outline = asdict(read_outline(data, name))
    return {"kind": "onnx", "name": name, "bytes": len(data), "sha256": sha256(data), **outline}


def _engine(engine: Path) -> dict[str, Any]:
    passport, problem = _passport(engine)
    facts: dict[str, Any] = {"kind": "engine", "name": engine.name}
    if engine.is_file():
        facts |= {"bytes": engine.stat().st_size, "sha256": file_sha256(engine)}
        if passport is not None:
            problem = damage(engine, passport)
    else:
        problem = problem or f"the engine itself is missing: expected {engine.name} beside its passport"
    tensors = {} if passport is None else {"inputs": passport.inputs(), "outputs": passport.outputs()}
    told = None if passport is None else asdict(passport)
    return (
        facts
        | {"passport": told, "problem": problem}
        | {
            side: [{"name": name, "type": kind, "shape": shape} for name, (kind, shape) in named.items()]
            for side, named in tensors.items()
        }
    )


def _passport(engine: Path) -> tuple[Passport | None, str | None]:
    """The passport, or what is wrong with it."""
    path = passport_path(engine)
    if not path.exists():
        return None, f"no passport ({path.name}): what it was built for isn't known, and it won't be loaded"
    try:
        return parse_passport(path.read_bytes(), path), None
    except BundleError as error:
        return None, str(error)
