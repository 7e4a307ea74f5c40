"""``dartblur build``: bundle to engine and passport, on the device or ahead of time; without torch and onnx."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

from dartblur.bundle import Bundle, sha256
from dartblur.errors import BackendError, BundleError, InputError, SinkError
from dartblur.passport import Passport, build_command, bundle_argument, bundle_sha256, passport_path, write_passport

from .devices import DeviceProfile, Gpu, find_profile, present_gpu
from .engine import PRECISIONS, BuiltEngine, EngineRequest, Progress, build_engine

OLDEST = {"tensorrt": (10, 3), "tensorrt-rtx": (1, 1)}

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_INSTALL = {
    "tensorrt": "on a Jetson: sudo apt install python3-libnvinfer, in an environment made with --system-site-packages; "
    "on a PC: pip install 'dartblur-edge[tensorrt]'",
    "tensorrt-rtx": "pip install tensorrt-rtx (x86-64 only)",
}

_POLL_S = 0.05
"""How long a signal may wait while another thread builds."""


@dataclass(frozen=True)
class BuildArgs:
    """What ``dartblur build`` is asked for.

    Attributes:
        target: ``tensorrt`` or ``tensorrt-rtx``.
        device: name of a profile, or ``auto``.
        precision: ``fp16`` or ``fp32``.
        frame: width and height, pixels; None: the graph's own, or else the profile's.
        batch: frames at once; None: the graph's own, or else 1.
        out: the engine's file; None: named by model, device, precision and size, in the current folder.
        workspace_mb: most scratch memory; None: the profile's.
        timing_cache: file of timings, read and written; None: beside the engine.
        overwrite: whether the engine may exist.
    """

    target: str = "tensorrt"
    device: str = "auto"
    precision: str = "fp16"
    frame: tuple[int, int] | None = None
    batch: int | None = None
    out: Path | None = None
    workspace_mb: int | None = None
    timing_cache: Path | None = None
    overwrite: bool = False


def build(bundle: Bundle, args: BuildArgs, progress: Progress) -> tuple[Path, Passport]:
    """Builds an engine and writes it with its passport; both appear whole or not at all.

    What is raised in the main thread meanwhile, such as by a signal, ends the build.

    Raises:
        InputError: an argument can't be, or the graph is of another frame size.
        BundleError: the bundle has no graph of this precision, or one that isn't.
        BackendError: the library is missing or can't build it, or this isn't the device.
        SinkError: the engine exists, or can't be written.
    """
    gpu = present_gpu()
    profile = find_profile(args.device, args.target, gpu)
    _check_place(bundle, args, profile, gpu)
    frame, batch = _sizes(bundle, args, profile)
    out = args.out or Path(_name(bundle, profile, args.precision, frame, batch))
    _check_out(out, args.overwrite)
    ahead = args.target == "tensorrt-rtx"
    cache = None if ahead else args.timing_cache or out.with_suffix(".timings")
    request = EngineRequest(
        graph=_graph(bundle, args),
        graph_name=PRECISIONS[args.precision],
        precision=args.precision,
        frame=frame,
        batch=batch,
        slots=_promised(bundle, "slots"),
        held=_promised(bundle, "held"),
        patch_size=bundle.manifest.patch_size,
        workspace_mb=args.workspace_mb or profile.workspace_mb,
        command=_command(bundle, args, args.target),
        sms=profile.rtx_sms if ahead else (),
        timing_cache=_read_cache(cache),
    )
    trt = load_tensorrt(args.target)
    built = _in_thread(lambda cancelled: build_engine(trt, request, progress, cancelled))
    passport = _passport(bundle, args, profile, gpu, request, built, trt.__version__)
    _write(out, built, passport)
    if cache is not None and built.timing_cache is not None:
        _write_cache(cache, built.timing_cache)
    return out, passport


def load_tensorrt(target: str) -> Any:
    """The library for a target.

    Raises:
        InputError: there is no such target.
        BackendError: it is not installed, can't be loaded, or is too old.
    """
    if target not in _MODULES:
        raise InputError(f"--target: expected {' or '.join(_MODULES)}, got {target!r}")
    name = _MODULES[target]
    try:
        trt = import_module(name)
    except ModuleNotFoundError as error:
        raise BackendError(
            f"--target {target} needs {error.name}, which is not installed: {_INSTALL[target]}"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(f"{name} can't be loaded ({' '.join(str(error).split())}): {_INSTALL[target]}") from error
    version = tuple(int(part) for part in re.findall(r"\d+", trt.__version__)[:2])
    if version < OLDEST[target]:
        oldest = ".".join(map(str, OLDEST[target]))
        raise BackendError(
            f"--target {target}: expected {name} {oldest} or later, got {trt.__version__}: update it"
            + ("; on a Jetson that means JetPack 6.1 or later" if target == "tensorrt" else "")
        )
    return trt


def _check_place(bundle: Bundle, args: BuildArgs, profile: DeviceProfile, gpu: Gpu | None) -> None:
    """Engines of TensorRT are built on the GPU that they run on; those of TensorRT-RTX anywhere, but not for Jetson."""
    if args.target == "tensorrt-rtx":
        if not profile.rtx_sms:
            raise BackendError(
                f"TensorRT-RTX has no engines for {profile.title}: run this on the device itself: "
                f"{_command(bundle, args, 'tensorrt')}"
            )
        if args.timing_cache is not None:
            raise InputError("--timing-cache: TensorRT-RTX times nothing ahead of time: leave the option out")
        return
    if gpu is None:
        raise BackendError(
            "engines of TensorRT are built on the device, and this machine has no GPU (its driver's libcuda.so.1 finds "
            f"none): run this on the {profile.title}, or for a PC use --target tensorrt-rtx --device desktop"
        )
    if gpu.sm not in profile.sms:
        raise BackendError(
            f"engines of TensorRT run on the GPU that built them: {profile.name} has SM {' or '.join(profile.sms)}, "
            f"this is {gpu.name} with SM {gpu.sm}: run this on the {profile.title}, or build with --device auto"
        )


def _graph(bundle: Bundle, args: BuildArgs) -> bytes:
    if args.precision not in PRECISIONS:
        raise InputError(f"--precision: expected {' or '.join(PRECISIONS)}, got {args.precision!r}")
    name = PRECISIONS[args.precision]
    if name not in bundle.graphs:
        raise BundleError(
            f"{bundle.source}: has no {name}, which --precision {args.precision} is built of: export the bundle again "
            "with this version's 'dartblur export', or build with --precision fp32"
        )
    return bundle.graphs[name]


def _promised(bundle: Bundle, name: str) -> int:
    value = bundle.manifest.fused.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BundleError(f"{bundle.source}: fused.{name}: expected a whole number, got {value!r}: export it again")
    return value


def _sizes(bundle: Bundle, args: BuildArgs, profile: DeviceProfile) -> tuple[tuple[int, int], int]:
    """Width and height, and frames at once: as asked for, or as the bundle's graphs are fixed to, or by default."""
    fused = bundle.manifest.fused
    own = (fused["width"], fused["height"]) if {"width", "height"} <= set(fused) else None
    return args.frame or own or profile.frame, args.batch or fused.get("batch") or 1


def _command(bundle: Bundle, args: BuildArgs, target: str) -> str:
    source = bundle_argument(bundle)
    return build_command(bundle=source, target=target, device=args.device, precision=args.precision, engine=args.out)


def _name(bundle: Bundle, profile: DeviceProfile, precision: str, frame: tuple[int, int], batch: int) -> str:
    times = f"x{batch}" if batch > 1 else ""
    model = f"{bundle.manifest.name}-{bundle.manifest.version}".replace("/", "-")
    return f"{model}-{profile.name}-{precision}-{frame[0]}x{frame[1]}{times}.engine"


def _in_thread(work: Callable[[threading.Event], BuiltEngine | None]) -> BuiltEngine:
    """Builds in another thread, so that this one hears signals while TensorRT works."""
    cancelled = threading.Event()
    with ThreadPoolExecutor(1, "build") as pool:
        try:
            built = _wait(pool.submit(work, cancelled))
        except BaseException:
            cancelled.set()
            raise
    if built is None:
        raise BackendError("the build was cancelled: run it again")
    return built


def _wait(future: Future[BuiltEngine | None]) -> BuiltEngine | None:
    while not future.done():
        # A wait without end would not let signals through on every platform.
        threading.Event().wait(_POLL_S)
    return future.result()


def _passport(
    bundle: Bundle,
    args: BuildArgs,
    profile: DeviceProfile,
    gpu: Gpu | None,
    request: EngineRequest,
    built: BuiltEngine,
    version: str,
) -> Passport:
    manifest = bundle.manifest
    options: Mapping[str, Any] = {
        "graph": request.graph_name,
        "graph_sha256": sha256(request.graph),
        "workspace_mb": request.workspace_mb,
        "layers": built.layers,
    }
    return Passport(
        engine_sha256=sha256(built.data),
        engine_bytes=len(built.data),
        bundle_sha256=bundle_sha256(bundle),
        model=manifest.name,
        model_version=manifest.version,
        target=args.target,
        trt_version=version,
        cuda_version=gpu.cuda_version if gpu else None,
        sm=request.sms or ((gpu.sm,) if gpu else ()),
        device=profile.name,
        gpu=gpu.name if gpu and not request.sms else None,
        precision=args.precision,
        frame=request.frame,
        batch=request.batch,
        slots=request.slots,
        held=request.held,
        patch_size=manifest.patch_size,
        patch_context=manifest.patch_context,
        box_scale=manifest.box_scale,
        threshold=manifest.threshold,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        options=dict(options),
    )


def _check_out(out: Path, overwrite: bool) -> None:
    if out.is_dir():
        raise SinkError(f"{out}: expected a file name, got a folder: name the engine's file")
    if not out.parent.is_dir():
        raise SinkError(f"{out}: the folder {out.parent} does not exist: create it first")
    if not overwrite and (out.exists() or passport_path(out).exists()):
        raise SinkError(f"{out}: exists already: choose another name or give --overwrite")


def _write(out: Path, built: BuiltEngine, passport: Passport) -> None:
    """The old passport goes first: an engine between two passports has none, and is refused."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        _write_through(partial, built.data)
        passport_path(out).unlink(missing_ok=True)
        partial.replace(out)
    except OSError as error:
        raise SinkError(
            f"{out}: can't be written: {error.strerror}: free some space or choose a folder that is writable"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    write_passport(out, passport)


def _write_through(file: Path, data: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _read_cache(file: Path | None) -> bytes | None:
    if file is None or not file.exists():
        return None
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"--timing-cache: {file}: can't be read: {error.strerror}") from error


def _write_cache(file: Path, data: bytes) -> None:
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(file)
    except OSError as error:
        raise SinkError(
            f"--timing-cache: {file}: can't be written: {error.strerror}; the engine is complete"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
