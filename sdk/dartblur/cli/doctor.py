"""``dartblur doctor``: what is installed, which backends work, and why not."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

REQUIRED = {
    "numpy": (),
    "opencv-python": ("opencv-python-headless",),
    "onnxruntime": ("onnxruntime-gpu",),
    "av": (),
    "pillow": (),
}
"""Packages, each with others that do as well."""
OPTIONAL = {
    "torch": "training and export: pip install 'dartblur-edge[train,export]'",
    "onnx": "export: pip install 'dartblur-edge[export]'",
    "tensorrt": "engines: pip install 'dartblur-edge[tensorrt]'; on a Jetson it comes with JetPack",
    "tensorrt-rtx": "engines for RTX desktops: pip install tensorrt-rtx",
    "pycuda": "engines: pip install 'dartblur-edge[tensorrt]'",
    "onnxruntime-gpu": "GPU without an engine: pip install 'onnxruntime-gpu[cuda,cudnn]' in place of onnxruntime",
}


def doctor() -> None:
    """Show what is installed, which backends work, and why not. Exit code 2 when nothing can run."""
    console = Console(soft_wrap=True)
    console.print(f"dartblur {_version('dartblur-edge')}, Python {platform.python_version()}, {platform.platform()}")
    console.print(f"interpreter {sys.executable}")

    packages = Table("package", "version", "", title="Packages", title_justify="left")
    for name, others in REQUIRED.items():
        found = next((package for package in (name, *others) if _version(package)), None)
        packages.add_row(found or name, _version(found) if found else "[red]missing[/red]", "required")
    for name, purpose in OPTIONAL.items():
        packages.add_row(name, _version(name) or "-", escape(purpose))
    console.print(packages)

    checks: dict[str, Callable[[], str]] = {
        "native operations": _check_operations,
        "default model": _check_model,
        "CUDA operations": _check_cuda_operations,
        "backend cpu": _check_cpu,
        "backend tensorrt": _check_tensorrt,
        "backend onnxruntime-gpu": _check_onnxruntime_gpu,
        "H.264 encoder": _check_encoder,
        "camera": _check_camera,
    }
    works = {}
    table = Table("part", "", "", title="Parts", title_justify="left")
    for name, check in checks.items():
        try:
            detail, works[name] = check(), True
        except Exception as error:
            # Whatever a part's failure is, the doctor's work is to show it and look at the next one.
            detail, works[name] = f"{type(error).__name__}: {error}".splitlines()[0], False
        table.add_row(name, "[green]works[/green]" if works[name] else "[yellow]does not work[/yellow]", escape(detail))
    console.print(table)
    if not any(works[part] for part in works if part.startswith("backend ")):
        console.print("No backend works: nothing can be anonymized on this machine.")
        raise typer.Exit(2)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _check_operations() -> str:
    import numpy as np

    import dartblur_ops

    frame = np.full((8, 8, 3), 255, np.uint8)
    dartblur_ops.solid(frame, np.array([[0, 0, 8, 8]], np.float32))
    if frame.any():
        raise RuntimeError("solid() left pixels: build the package again")
    return "cpu"


def _check_model() -> str:
    from ..bundle import load_bundle

    manifest = load_bundle().manifest
    return f"{manifest.name} {manifest.version}, {manifest.license}"


def _check_cpu() -> str:
    import time

    import numpy as np

    from ..anonymizer import Anonymizer

    anonymizer = Anonymizer()
    frame = np.zeros((720, 1280, 3), np.uint8)
    anonymizer(frame)
    started = time.perf_counter()
    anonymizer(frame)
    return f"an empty 1280x720 frame took {1000 * (time.perf_counter() - started):.0f} ms"


def _check_cuda_operations() -> str:
    from ..backends.gpu_ops import cuda_operations

    cuda_operations()
    return "compiled, and a GPU is there"


def _check_tensorrt() -> str:
    """All that an engine needs but the engine."""
    from ..backends.gpu_ops import cuda_operations
    from ..backends.pycuda_device import CudaDevice
    from ..backends.trt_engine import library
    from ..errors import BackendError

    found, missing = [], []
    for target in ("tensorrt", "tensorrt-rtx"):
        try:
            found.append(f"{target} {library(target).__version__}")
        except BackendError as error:
            missing.append(str(error))
    if not found:
        raise BackendError(missing[0])
    device = CudaDevice()
    cuda_operations()
    memory = ", shares the host's memory" if device.integrated else ""
    return f"{', '.join(found)} on {device.name} (SM {device.sm}{memory}); give an engine with --engine"


def _check_onnxruntime_gpu() -> str:
    import time

    import numpy as np

    from ..anonymizer import Anonymizer
    from ..backends.ort_gpu import OrtGpuBackend
    from ..bundle import load_bundle

    bundle = load_bundle()
    backend = OrtGpuBackend(bundle)
    anonymizer = Anonymizer(backend=backend)
    frame = np.zeros((bundle.manifest.fused.get("height", 720), bundle.manifest.fused.get("width", 1280), 3), np.uint8)
    anonymizer(frame)
    started = time.perf_counter()
    anonymizer(frame)
    took = f"an empty {frame.shape[1]}x{frame.shape[0]} frame took {1000 * (time.perf_counter() - started):.0f} ms"
    backend.close()
    return took


def _check_encoder() -> str:
    import av

    av.CodecContext.create("libx264", "w")
    return f"libx264, PyAV {av.__version__}"


def _check_camera() -> str:
    from pathlib import Path

    devices = sorted(str(path) for path in Path("/dev").glob("video*"))
    if not devices:
        raise FileNotFoundError("no /dev/video* on this machine")
    return ", ".join(devices)
