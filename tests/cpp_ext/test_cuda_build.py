"""Building the CUDA operations: what is compiled, for what, and what is said where that can't be. No GPU is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dartblur_ops import cuda

ROOT = Path(__file__).parents[2]
NVCC = shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="needs nvcc, of the CUDA toolkit")


def setup(*arguments, **environment):
    """Runs setup.py with only the named variables about CUDA."""
    pytest.importorskip("pybind11", reason="setup.py needs pybind11")
    inherited = {name: value for name, value in os.environ.items() if name not in ("CUDA_HOME", "CUDA_PATH")}
    command = [sys.executable, "setup.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True)


def without_nvcc(tmp_path):
    """A PATH that has no nvcc."""
    (tmp_path / "python").symlink_to(sys.executable)
    return str(tmp_path)


class TestSetup:
    def test_a_missing_toolkit_is_an_error_if_asked_for(self, tmp_path):
        run = setup("--version", DARTBLUR_CUDA="1", PATH=without_nvcc(tmp_path))
        assert run.returncode != 0
        assert "DARTBLUR_CUDA=1: expected the CUDA toolkit, found no nvcc" in run.stderr

    @pytest.mark.parametrize("wish", ["", "0"])
    def test_a_missing_toolkit_is_none_else(self, tmp_path, wish):
        assert setup("--version", DARTBLUR_CUDA=wish, PATH=without_nvcc(tmp_path)).returncode == 0

    def test_other_wishes_are_refused(self):
        run = setup("--version", DARTBLUR_CUDA="yes")
        assert run.returncode != 0
        assert "DARTBLUR_CUDA: expected 0, 1 or nothing, got 'yes'" in run.stderr

    def test_an_older_toolkit_says_what_it_leaves_out(self, tmp_path):
        nvcc = tmp_path / "bin/nvcc"
        nvcc.parent.mkdir()
        nvcc.write_text(
            "#!/bin/sh\n"
            'case "$1" in\n'
            "--list-gpu-code) printf 'sm_75\\nsm_80\\nsm_86\\nsm_87\\nsm_89\\nsm_90\\n' ;;\n"
            "*) echo '#$ INCLUDES=\"-I/nowhere\"' >&2; echo '#$ LIBRARIES= \"-L/nowhere\"' >&2 ;;\n"
            "esac\n"
        )
        nvcc.chmod(0o755)
        for wish in ("", "1"):
            run = setup("--version", DARTBLUR_CUDA=wish, CUDA_HOME=str(tmp_path))
            assert run.returncode == 0, run.stderr
            assert "compute capability 10.0, 11.0, 12.0: the kernels are built without" in run.stdout
        assert "kernels" not in setup("--version", DARTBLUR_CUDA="0", CUDA_HOME=str(tmp_path)).stdout


@needs_nvcc
def test_kernels_compile_without_a_warning(tmp_path):
    """For one architecture: the others differ in the last step alone."""
    command = [NVCC, "-std=c++17", "--fmad=false", "-arch=compute_80", "-code=sm_80", "-Werror=all-warnings"]
    command += ["-Xcompiler=-Wall,-Wextra,-Werror", f"-I{ROOT / 'cpp_ext/csrc'}"]
    command += ["-c", str(ROOT / "cpp_ext/csrc/cuda/ops.cu"), "-o", str(tmp_path / "ops.o")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not run.stderr


def extension():
    if not cuda.built():
        pytest.skip("the CUDA operations are not built")
    from dartblur_ops import _cuda

    return _cuda


def test_the_extension_has_code_for_every_architecture_the_toolkit_knows():
    module = extension()
    assert set(module.architectures()) <= {80, 86, 87, 89, 90, 100, 110, 120}
    if NVCC:
        run = subprocess.run([NVCC, "--list-gpu-code"], capture_output=True, text=True, check=True)
        known = {int(line[3:]) for line in run.stdout.split()}
        assert set(module.architectures()) == {80, 86, 87, 89, 90, 100, 110, 120} & known


@pytest.mark.skipif(shutil.which("cuobjdump") is None, reason="needs cuobjdump, of the CUDA toolkit")
def test_the_extension_holds_machine_code_for_what_it_names():
    module = extension()
    command = ["cuobjdump", "--list-elf", module.__file__]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for number in module.architectures():
        assert f".sm_{number}.cubin" in listed


def test_the_extension_can_be_imported_without_a_gpu():
    """The CUDA runtime is inside, the driver is not needed: what fails is require(), by name."""
    module = extension()
    if not (reason := module.unusable()):
        pytest.skip("there is a usable GPU")
    with pytest.raises(cuda.CudaError, match="check nvidia-smi") as error:
        cuda.require()
    assert reason in str(error.value)
