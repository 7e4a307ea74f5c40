"""What this machine is, for records of measurements."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from ..backends.base import Backend
from ..backends.cpu import CpuBackend, usable_cores

_BOARD = Path("/proc/device-tree/model")
"""Names the board of a Jetson, whose processor has no name."""
_GPU_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")


def describe(backend: Backend) -> dict[str, Any]:
    """Processor, cores that may be used, load, the model's threads, GPU of a backend that has one, and versions."""
    import onnxruntime

    return {
        "processor": processor(),
        "cores": usable_cores(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "model_threads": _threads(backend),
        "gpu": gpu() if backend.gpu_frames else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
    }


def processor() -> str:
    """Name of the processor, or of the board."""
    try:
        if _BOARD.exists():
            return _BOARD.read_text().rstrip("\0 \n")
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def gpu() -> str:
    """Name and driver of the GPUs."""
    try:
        told = subprocess.run(_GPU_QUERY, check=True, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return "a GPU whose name nvidia-smi doesn't tell"
    return "; ".join(told.strip().splitlines())


def _threads(backend: Backend) -> int | None:
    """Of ONNX Runtime on the CPU; None where something else runs the model."""
    if not isinstance(backend, CpuBackend):
        return None
    threads: int = backend._detector.get_session_options().intra_op_num_threads
    return threads
