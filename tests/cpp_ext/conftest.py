"""The CUDA operations on a machine without a GPU: their real sources, compiled for the processor.

The headers in ``cuda_emulation`` stand in for the toolkit's. What comes out is the module ``dartblur_ops._cuda``
itself, for which all memory is the device's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SANITIZE = os.environ.get("DARTBLUR_SANITIZE") == "1"


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pybind11 = pytest.importorskip("pybind11", reason="the emulated CUDA module needs pybind11's headers")
    folder = tmp_path_factory.mktemp("cuda")
    library = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"] if SANITIZE else []
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden"]
    headers = [ROOT / "tests/cpp_ext/cuda_emulation", ROOT / "cpp_ext/csrc", pybind11.get_include()]
    flags += [f"-I{path}" for path in (*headers, sysconfig.get_path("include"))]
    # The adapter has no arithmetic, and takes the longest to compile with sanitizers.
    sources = {ROOT / "cpp_ext/csrc/cuda/ops.cu": sanitize, ROOT / "cpp_ext/csrc/cuda/module.cpp": []}
    objects = {source: folder / f"{source.stem}.o" for source in sources}
    # The sanitizers' runtime is for the tests, not for the compiler.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    compilers = [
        subprocess.Popen(
            ["g++", *flags, *extra, "-x", "c++", "-c", str(source), "-o", str(objects[source])], env=environment
        )
        for source, extra in sources.items()
    ]
    assert [compiler.wait() for compiler in compilers] == [0, 0]
    link = ["g++", "-shared", *sanitize, *map(str, objects.values()), "-o", str(library)]
    subprocess.run(link, env=environment, check=True)
    return library


@pytest.fixture(scope="module")
def emulated_cuda(emulated_library: Path) -> Iterator[ModuleType]:
    """Makes `dartblur_ops.cuda` use the emulated operations."""
    name = "dartblur_ops._cuda"
    # Under a name of its own: pybind11 gives every importer of a name the first module that had it.
    spec = spec_from_file_location("emulated._cuda", emulated_library)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    real = sys.modules.get(name)
    sys.modules[name] = module
    yield module
    if real is None:
        del sys.modules[name]
    else:
        sys.modules[name] = real
