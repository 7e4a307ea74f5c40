from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import dartblur


def test_all_names_are_there() -> None:
    for name in dartblur.__all__:
        assert getattr(dartblur, name) is not None
    assert set(dir(dartblur)) >= set(dartblur.__all__)


def test_no_other_public_name() -> None:
    import inspect

    public = {
        name for name, value in vars(dartblur).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public - {"TYPE_CHECKING", "Any", "annotations"} <= set(dartblur.__all__)


def test_errors_have_exit_codes() -> None:
    assert dartblur.InputError.exit_code == 2
    assert dartblur.FailClosedError.exit_code == 3
    assert issubclass(dartblur.BundleError, dartblur.InputError)


def test_import_is_light() -> None:
    """``import dartblur`` loads none of the libraries that are slow to load, and never torch."""
    code = (
        "import sys, dartblur; "
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'cv2', 'numpy', 'av') if name in sys.modules]); "
        "dartblur.Anonymizer; from dartblur import stream; print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["[]", "False"]


def test_the_sdk_alone_pulls_no_torch() -> None:
    requirements = importlib.metadata.requires("dartblur-edge") or []
    plain = [requirement for requirement in requirements if "extra ==" not in requirement]
    assert plain
    assert not [requirement for requirement in plain if requirement.startswith(("torch", "onnx>", "onnxscript"))]
