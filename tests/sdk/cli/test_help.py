"""The command answers at once, and needs only what it uses."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    program = (
        "import sys\n"
        "HEAVY = {'torch', 'onnxruntime', 'av', 'cv2', 'numpy', 'PIL'}\n"
        "from dartblur.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('LOADED', sorted(HEAVY & set(sys.modules)))\n"
    )
    sdk = Path(__file__).parents[3] / "sdk"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(sdk), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert done.stdout.rstrip().endswith("LOADED []")


def test_help_names_all_commands(call):
    code, out, _ = call("--help")
    assert code == 0
    assert all(name in out for name in ("run", "doctor", "train", "export"))


def test_a_wrong_command_is_bad_usage(call):
    assert call("rum")[0] == 2
    assert call("run")[0] == 2
