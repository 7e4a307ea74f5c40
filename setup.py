"""Builds the native operations; everything else about the project stands in pyproject.toml."""

from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

ParallelCompile("NPY_NUM_BUILD_JOBS", default=2).install()

setup(
    ext_modules=[
        Pybind11Extension(
            "dartblur_ops._native",
            sorted(str(path) for path in Path("cpp_ext/csrc").glob("cpu/*.cpp")),
            include_dirs=["cpp_ext/csrc"],
            depends=sorted(str(path) for path in Path("cpp_ext/csrc").rglob("*.h")),
            cxx_std=17,
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-fno-math-errno", "-ffp-contract=off"],
        )
    ]
)
