"""Writes down the names that TensorRT's Python bindings have, as ``VERSION.txt`` beside this script.

    python tests/sdk/tensorrt_api/extract.py 10.3.0 10.16.1.11 11.4.0.106 rtx

The bindings (PyPI: ``tensorrt-cu12-bindings``) link TensorRT's libraries, which are hundreds of megabytes and come from
elsewhere. Only a few C functions of them are called, none when the module is imported: so libraries with the same names
and those functions, which do nothing, let the real bindings be imported and asked. Needs pip, a network, a C compiler
and binutils, on Linux. ``rtx`` is ``tensorrt_rtx`` as it is installed.

Each line is a class (or ``-`` for the module) with its public names; ``name>Class`` is a method that gives an object
of that class.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from importlib import import_module
from pathlib import Path
from types import ModuleType

PACKAGE = "tensorrt-cu12-bindings"
LAYERS = re.compile(r"I\w+Layer$|IPlugin\w+|I?Plugin\w+|IAlgorithm\w*|ILoop\w*|IIf\w*|IAttention\w*|IKVCache\w*")
"""Classes that only those need who write networks or plugins in Python."""


def extract(version: str) -> str:
    """The names of one version."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", folder, f"{PACKAGE}=={version}"], check=True)
        with zipfile.ZipFile(next(root.glob("*.whl"))) as wheel:
            wheel.extractall(root)
        make_stubs(root / "tensorrt_bindings" / "tensorrt.so", root)
        environment = os.environ | {"LD_LIBRARY_PATH": folder, "PYTHONPATH": folder}
        command = [sys.executable, __file__, "--import"]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def make_stubs(module: Path, folder: Path) -> None:
    """Libraries of TensorRT's names whose functions return 0."""
    symbols = subprocess.run(["nm", "-D", "--undefined-only", module], check=True, capture_output=True, text=True)
    words = [line.split() for line in symbols.stdout.splitlines()]
    system = re.compile(r"_?_?Py|dl(open|close|sym)$|_Z|.*@")
    functions = [name for *_, kind, name in words if kind == "U" and not system.match(name)]
    source = folder / "stubs.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in functions))
    needed = subprocess.run(["readelf", "-d", module], check=True, capture_output=True, text=True).stdout
    for library in re.findall(r"\[(libnv\S+)\]", needed):
        compile_ = ["cc", "-shared", "-fPIC", source, f"-Wl,-soname,{library}", "-o", folder / library]
        subprocess.run(compile_, check=True)


def names_of(module: ModuleType) -> str:
    """The text of a list."""
    classes = {name: value for name, value in public(module).items() if isinstance(value, type)}
    lines = ["- " + " ".join(public(module))]
    for name, kind in classes.items():
        if not LAYERS.fullmatch(name):
            lines.append(
                f"{name} " + " ".join(member + gives(value, classes) for member, value in public(kind).items())
            )
    return "\n".join(lines) + "\n"


def public(thing: object) -> dict[str, object]:
    return {name: getattr(thing, name) for name in dir(thing) if not name.startswith("_")}


def gives(member: object, classes: dict[str, type]) -> str:
    """``>Class`` of what a method returns, as its docstring says."""
    signature = r"^(?:\d+\. )?\w+\(self: .*\) -> (?:\w+\.)*(\w+)$"
    found = re.search(signature, getattr(member, "__doc__", None) or "", re.M)
    return f">{found[1]}" if found and found[1] in classes else ""


def main() -> None:
    if sys.argv[1:] == ["--import"]:
        print(names_of(import_module("tensorrt_bindings")), end="")
        return
    for version in sys.argv[1:]:
        if version == "rtx":
            rtx = import_module("tensorrt_rtx")
            version, names = f"rtx-{rtx.__version__}", names_of(rtx)
        else:
            names = extract(version)
        target = Path(__file__).with_name(f"{version}.txt")
        target.write_text(names)
        print(f"{target}: {len(names.split())} names")


if __name__ == "__main__":
    main()
