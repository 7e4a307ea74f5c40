"""Builds the native operations; everything else about the project stands in pyproject.toml.

The environment variable DARTBLUR_CUDA says what becomes of the CUDA kernels: 1 builds them, and a machine without the
CUDA toolkit is an error; 0 leaves them out; unset builds them where a toolkit is found (CUDA_HOME, CUDA_PATH or nvcc on
the PATH). No GPU is needed or looked at.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

SOURCES = Path("cpp_ext/csrc")
HEADERS = sorted(str(path) for path in SOURCES.rglob("*.h"))
ARCHITECTURES = (80, 86, 87, 89, 90, 100, 110, 120)
"""Compute capabilities that the kernels are compiled for, as 87 for 8.7; later ones get the last one's PTX."""

WARNINGS = ["-Wall", "-Wextra"]


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit, as its nvcc describes itself."""

    nvcc: str
    include_dirs: list[str]
    library_dirs: list[str]
    architectures: list[int]


def requested_toolkit() -> Toolkit | None:
    """The toolkit to build with, or None where the kernels are left out."""
    wish = os.environ.get("DARTBLUR_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"DARTBLUR_CUDA: expected 0, 1 or nothing, got {wish!r}")
    nvcc = None if wish == "0" else find_nvcc()
    if wish == "1" and nvcc is None:
        raise SystemExit(
            "DARTBLUR_CUDA=1: expected the CUDA toolkit, found no nvcc in CUDA_HOME, CUDA_PATH or on the PATH: install "
            "the toolkit (on JetPack: apt install nvidia-jetpack), or set CUDA_HOME to where it is"
        )
    return describe(nvcc) if nvcc else None


def find_nvcc() -> str | None:
    """The CUDA compiler of CUDA_HOME, of CUDA_PATH, or on the PATH."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    candidates = [shutil.which("nvcc", path=str(Path(home) / "bin")) for home in homes]
    return next(filter(None, [*candidates, shutil.which("nvcc")]), None)


def describe(nvcc: str) -> Toolkit:
    """Asks nvcc where its headers and libraries are and what it compiles for."""
    run = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True, check=True)
    settings = dict(re.findall(r"^#\$ (\w+)=(.*)$", run.stderr, re.MULTILINE))
    include_dirs = [word[2:] for word in shlex.split(settings["INCLUDES"])]
    library_dirs = [word[2:] for word in shlex.split(settings["LIBRARIES"])]
    run = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True)
    known = {int(number) for number in re.findall(r"^sm_(\d+)$", run.stdout, re.MULTILINE)}
    missing = [number for number in ARCHITECTURES if number not in known]
    if missing:
        names = ", ".join(f"{number // 10}.{number % 10}" for number in missing)
        print(f"note: {nvcc} is too old or too new for compute capability {names}: the kernels are built without")
    return Toolkit(nvcc, include_dirs, library_dirs, [number for number in ARCHITECTURES if number in known])


class BuildExtensions(build_ext):
    """Has nvcc compile an extension's kernels before it is linked."""

    def build_extension(self, ext: Any) -> None:
        """Build one extension."""
        if isinstance(ext, CudaExtension):
            ext.extra_objects = [self.compile_kernels(ext)]
        super().build_extension(ext)

    def compile_kernels(self, ext: CudaExtension) -> str:
        """The object file of the kernels, compiled if it is older than what it is made of."""
        target = str(Path(self.build_temp) / f"{Path(ext.kernels).stem}.cuda.o")
        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        if not (self.force or newer_group([ext.kernels, *ext.depends, __file__], target)):
            return target
        host_flags = ",".join(["-fPIC", "-fvisibility=hidden", *WARNINGS])
        # No contraction into fused multiply-adds, as on the processor: both then round alike.
        flags = ["-std=c++17", "-O3", "--fmad=false", "--threads", "2", "-Xcompiler", host_flags, f"-I{SOURCES}"]
        targets = [f"arch=compute_{number},code=sm_{number}" for number in ext.toolkit.architectures]
        last = ext.toolkit.architectures[-1]
        targets.append(f"arch=compute_{last},code=compute_{last}")
        command = [ext.toolkit.nvcc, *flags, *(f"-gencode={target}" for target in targets)]
        self.spawn([*command, "-c", ext.kernels, "-o", target])
        return target


class CudaExtension(Pybind11Extension):
    """An extension with kernels beside its C++ sources; the CUDA runtime is linked into it."""

    def __init__(self, name: str, sources: list[str], kernels: str, toolkit: Toolkit, **settings: Any) -> None:
        super().__init__(
            name,
            sources,
            include_dirs=[str(SOURCES), *toolkit.include_dirs],
            library_dirs=toolkit.library_dirs,
            libraries=["cudart_static", "rt", "pthread", "dl"],
            **settings,
        )
        self.kernels = kernels
        self.toolkit = toolkit


extensions: list[Pybind11Extension] = [
    Pybind11Extension(
        "dartblur_ops._native",
        sorted(str(path) for path in SOURCES.glob("cpu/*.cpp")),
        include_dirs=[str(SOURCES)],
        depends=HEADERS,
        cxx_std=17,
        # Python's own flags let signed numbers wrap, and then loops over int indices aren't vectorised.
        extra_compile_args=["-O3", *WARNINGS, "-fno-math-errno", "-ffp-contract=off", "-fno-wrapv"],
    )
]
if toolkit := requested_toolkit():
    extensions.append(
        CudaExtension(
            "dartblur_ops._cuda",
            [str(SOURCES / "cuda/module.cpp")],
            str(SOURCES / "cuda/ops.cu"),
            toolkit,
            depends=[*HEADERS, *sorted(str(path) for path in SOURCES.glob("cuda/*.cu*"))],
            cxx_std=17,
            extra_compile_args=["-O2", *WARNINGS],
        )
    )

ParallelCompile("NPY_NUM_BUILD_JOBS", default=2).install()
setup(ext_modules=extensions, cmdclass={"build_ext": BuildExtensions})
