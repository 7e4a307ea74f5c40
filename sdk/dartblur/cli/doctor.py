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

REQUIRED = {"numpy": (), "opencv-python": ("opencv-python-headless",), "onnxruntime": (), "av": (), "pillow": ()}
"""Packages, each with others that do as well."""
OPTIONAL = {
    "torch": "training and export: pip install 'dartblur-edge[train,export]'",
    "onnx": "export: pip install 'dartblur-edge[export]'",
    "tensorrt": "engines: pip install 'dartblur-edge[tensorrt]'",
    "pycuda": "engines: pip install 'dartblur-edge[tensorrt]'",
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
        "backend cpu": _check_cpu,
        "backend tensorrt": _check_tensorrt,
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
    if not works["backend cpu"] and not works["backend tensorrt"]:
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


def _check_tensorrt() -> str:
    for package in ("tensorrt", "pycuda"):
        if not _version(package):
            raise ModuleNotFoundError(f"{package} is not installed; this version runs models on the CPU")
    raise RuntimeError("this version runs models on the CPU only")


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
