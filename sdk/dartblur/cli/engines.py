"""``dartblur build`` and ``dartblur inspect``: engines from bundles, and what a file holds."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from dartblur_export.engine import Progress

_SIGNALLED = 128
_LINE_EVERY_S = 5.0
_SMALLEST_SIDE, _LARGEST_SIDE = 16, 8192


def build(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="nano, small, base, or a bundle (folder or zip). Default: small.", show_default=False),
    ] = None,
    target: Annotated[
        str, typer.Option(help="tensorrt (on the device itself) or tensorrt-rtx (for PCs, anywhere).")
    ] = "tensorrt",
    device: Annotated[
        str, typer.Option(help="auto (this machine), orin-nano, orin-nx, agx-orin, thor or desktop.")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="fp16 or fp32, of the two networks.")] = "fp16",
    frame: Annotated[str | None, typer.Option(help="Size of the frames, WxH. Default: the device's.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=64, help="Frames at once. Default: 1.")] = None,
    out: Annotated[Path | None, typer.Option(help="Engine file. Default: named by what it is.")] = None,
    workspace: Annotated[
        int | None, typer.Option(min=1, help="Most scratch memory, MB. Default: the device's.")
    ] = None,
    timing_cache: Annotated[Path | None, typer.Option(help="File of timings. Default: beside the engine.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an engine that exists.")] = False,
) -> None:
    """Build an engine of a model bundle, with its passport beside it.

    Engines of TensorRT run on the kind of GPU and in the version of TensorRT that built them, so this runs on the
    device itself. Those of TensorRT-RTX are for PCs and can be built anywhere. Neither needs torch.

    Building again is faster with the timings of the last time, which are kept beside the engine.
    """
    from dartblur_export.building import BuildArgs
    from dartblur_export.building import build as build_engine

    from ..bundle import load_bundle
    from ..passport import TARGETS, passport_path
    from .signals import Interrupted, on_signals

    args = BuildArgs(target, device, precision, _frame_size(frame), batch, out, workspace, timing_cache, overwrite)
    model = load_bundle(bundle)
    try:
        with on_signals(), _progress() as progress:
            engine, passport = build_engine(model, args, progress)
    except Interrupted as interrupted:
        print("dartblur: interrupted: nothing unfinished is left", file=sys.stderr)
        raise typer.Exit(_SIGNALLED + interrupted.signal) from None
    width, height = passport.frame
    print(
        f"{engine}: {passport.model} {passport.model_version} in {passport.precision} for frames of {width}x{height} "
        f"by {passport.batch}, SM {' '.join(passport.sm)}, {TARGETS[passport.target]} {passport.trt_version}, "
        f"{_bytes(passport.engine_bytes)}"
    )
    print(f"{passport_path(engine)}: its passport")


def inspect(
    file: Annotated[Path, typer.Argument(help="Bundle (folder or zip), .onnx, .engine, or an engine's passport.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a bundle, ONNX graph or engine is. Exit code 2 when it is damaged or has no passport."""
    from ..inspection import inspect_file

    facts = inspect_file(file)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        _show(facts)
    if facts.get("problem"):
        if not as_json:
            print(f"dartblur: {file}: {facts['problem']}", file=sys.stderr)
        raise typer.Exit(2)


def _frame_size(text: str | None) -> tuple[int, int] | None:
    """Width and height."""
    if text is None:
        return None
    parts = text.lower().split("x")
    sizes = [int(part) for part in parts if part.isdecimal()]
    if len(parts) != 2 or len(sizes) != 2 or not all(_SMALLEST_SIDE <= size <= _LARGEST_SIDE for size in sizes):
        raise InputError(
            f"--frame: expected WIDTHxHEIGHT of {_SMALLEST_SIDE} to {_LARGEST_SIDE} each, like 1280x720, got {text!r}"
        )
    return sizes[0], sizes[1]


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} bytes"


def _show(facts: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    {"bundle": _show_bundle, "onnx": _show_graph, "engine": _show_engine}[facts["kind"]](console, facts)


def _show_bundle(console: Console, facts: Mapping[str, Any]) -> None:
    console.print(f"bundle {facts['name']} {facts['version']}: {facts['path']}")
    told = {name: value for name, value in facts.items() if name not in ("kind", "name", "version", "path", "graphs")}
    _pairs(console, told)
    for graph in facts["graphs"]:
        console.print()
        _show_graph(console, graph)


def _show_graph(console: Console, facts: Mapping[str, Any]) -> None:
    operators = facts["operators"]
    console.print(f"ONNX graph {facts['name']}")
    _pairs(
        console,
        {
            "size": _bytes(facts["bytes"]),
            "sha256": facts["sha256"],
            "producer": facts["producer"],
            "opset": ", ".join(f"{domain} {version}" for domain, version in facts["opsets"].items()),
            "weights": ", ".join(f"{count} {kind}" for kind, count in facts["weights"].items()),
            "operators": f"{sum(operators.values())}: " + ", ".join(f"{n} {kind}" for kind, n in operators.items()),
            **facts["metadata"],
        },
    )
    _tensors(console, facts)


def _show_engine(console: Console, facts: Mapping[str, Any]) -> None:
    console.print(f"engine {facts['name']}")
    if "bytes" in facts:
        _pairs(console, {"size": _bytes(facts["bytes"]), "sha256": facts["sha256"]})
    if facts["passport"] is not None:
        told = {name: value for name, value in facts["passport"].items() if not name.startswith("engine_")}
        width, height = told["frame"]
        _pairs(console, told | {"frame": f"{width}x{height}", "sm": " ".join(told["sm"])})
        _tensors(console, facts)


def _pairs(console: Console, values: Mapping[str, Any], indent: str = "  ") -> None:
    width = max(map(len, values), default=0)
    for name, value in values.items():
        if isinstance(value, dict):
            console.print(f"{indent}{name}" + ("" if value else f"{'':{width - len(name)}}  -"))
            _pairs(console, value, indent + "  ")
        else:
            console.print(f"{indent}{name:{width}}  {'-' if value is None or value == '' else value}")


def _tensors(console: Console, facts: Mapping[str, Any]) -> None:
    rows: Sequence[tuple[str, Any]] = [(side, tensor) for side in ("inputs", "outputs") for tensor in facts[side]]
    width = max((len(tensor["name"]) for _, tensor in rows), default=0)
    for side, tensor in rows:
        shape = ", ".join(map(str, tensor["shape"]))
        console.print(f"  {side[:-1]:6}  {tensor['name']:{width}}  {tensor['type']} [{shape}]")


@contextmanager
def _progress() -> Iterator[Progress]:
    """Shows the phases of a build on stderr: bars on a terminal, now and then a line elsewhere."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as display:
        yield _Bars(display)


class _Bars:
    """One bar for each phase that is under way, indented below its parent."""

    def __init__(self, display: RichProgress) -> None:
        self._display = display
        self._tasks: dict[str, tuple[TaskID, int]] = {}

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        depth = self._tasks[parent][1] + 1 if parent in self._tasks else 0
        self._tasks[phase] = self._display.add_task("  " * depth + phase, total=steps or None), depth

    def step(self, phase: str, done: int) -> None:
        if phase in self._tasks:
            self._display.update(self._tasks[phase][0], completed=done)

    def finish(self, phase: str) -> None:
        if phase in self._tasks:
            self._display.remove_task(self._tasks.pop(phase)[0])


class _Lines:
    """A line every few seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._steps: dict[str, int] = {}

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self._steps[phase] = steps

    def step(self, phase: str, done: int) -> None:
        if sys.stderr is not None and time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            print(f"{phase}: {done} of {self._steps.get(phase, '?')}", file=sys.stderr, flush=True)

    def finish(self, phase: str) -> None:
        self._steps.pop(phase, None)
