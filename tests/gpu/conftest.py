"""What is in this folder runs on a GPU.

Without a usable one it is skipped, unless DARTBLUR_REQUIRE_GPU=1 says that there is one: then it fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest


class GpuModule(pytest.Module):
    """Skips or fails as a whole, once."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        if reason := missing():
            required = os.environ.get("DARTBLUR_REQUIRE_GPU") == "1"
            (pytest.fail if required else pytest.skip)(f"no usable GPU: {reason}")
        return super().collect()


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> GpuModule:
    return GpuModule.from_parent(parent, path=module_path)


@cache
def missing() -> str:
    """What keeps the tests from running, or nothing."""
    import torch

    from dartblur_ops import cuda

    try:
        cuda.require()
    except cuda.CudaError as error:
        return str(error)
    return "" if torch.cuda.is_available() else f"torch {torch.__version__} can't use CUDA here: install its CUDA build"
