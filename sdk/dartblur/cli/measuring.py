"""``dartblur bench``: how long each stage of a frame takes."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import BackendName, DetectBudget, DetectSize, Engine, Model, Tiles

if TYPE_CHECKING:
    from ..backends.base import Backend
    from ..backends.loading import BackendChoice
    from ..measurement.benchmark import Measurement

_SIGNALLED = 128
_SIZE = (1280, 720)
"""Of the clip that is made on the spot."""


def bench(
    source: Annotated[
        str | None,
        typer.Argument(help="Video or picture file, folder, pattern or camera. Default: a clip made on the spot."),
    ] = None,
    backend: BackendName = "auto",
    model: Model = None,
    engine: Engine = None,
    detect_size: DetectSize = None,
    detect_budget: DetectBudget = None,
    tiles: Tiles = None,
    frames: Annotated[int, typer.Option(min=1, help="Most frames to take.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure latency (50th, 95th and 99th percentile) and frames a second of each stage, alone and together.

    A GPU is waited for at the end of each stage. 'end to end' is the pipeline of 'dartblur run', in which the stages
    overlap: from when a frame is asked for to when it is written. Without SOURCE a 1280x720 clip (or of the engine's
    size) of two moving faces is made; that takes scikit-image, and without it there are no faces in the clip.
    """
    from ..backends.loading import BackendChoice
    from ..backends.scan import Scan
    from .signals import Interrupted, on_signals

    choice = BackendChoice(backend, model, engine, scan=Scan.of_text(detect_size, tiles, detect_budget))
    try:
        with on_signals():
            told = _bench(source, choice, frames)
    except Interrupted as interrupted:
        print("dartblur: interrupted: nothing is left", file=sys.stderr)
        raise typer.Exit(_SIGNALLED + interrupted.signal) from None
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        _show(told)


def _bench(source: str | None, choice: BackendChoice, frames: int) -> dict[str, Any]:
    """What was measured, as plain values."""
    from ..measurement.benchmark import measure

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dartblur-bench-")))
        backend = load_backend(choice)
        stack.callback(backend.close)
        uri, notes = (source, []) if source is not None else _clip(folder, frames, choice)
        found = measure(uri, backend, folder, frames)
        return _told(found, choice, backend, "made on the spot" if source is None else source, notes)


def load_backend(choice: BackendChoice) -> Backend:
    """What runs the model."""
    from ..backends.loading import load_backend

    return load_backend(choice)


def _clip(folder: Path, frames: int, choice: BackendChoice) -> tuple[str, list[str]]:
    from ..measurement.sample_frames import has_faces, write_clip
    from ..passport import read_passport

    size = read_passport(choice.engine).frame if choice.engine else _SIZE
    write_clip(folder / "clip.mp4", frames, size)
    without = "the clip has no faces, so generation was not measured: install scikit-image, or give a SOURCE"
    return str(folder / "clip.mp4"), [] if has_faces() else [without]


def _told(found: Measurement, choice: BackendChoice, backend: Backend, source: str, notes: list[str]) -> dict[str, Any]:
    from ..measurement.machine import describe

    if "detect+generate" in found.stages:
        notes.append("detection and generation are one graph, and one stage; it makes patches of all slots")
    if "generate+composite" in found.stages:
        notes.append("this backend doesn't tell generation and compositing apart")
    if found.faces == 0 and not notes:
        notes.append("no faces were found, so generation was not measured: give another SOURCE")
    if backend.depth > 1:
        notes.append(f"fps of anonymize is with {backend.depth} frames in flight, the latencies are with one")
    figures = found.pipeline.figures()
    return {
        "schema_version": 1,
        "machine": describe(backend),
        "backend": type(backend).__name__,
        "engine": None if choice.engine is None else str(choice.engine),
        "model": backend.model_name,
        "source": source,
        "frame": [found.width, found.height],
        "frames": found.frames,
        "faces": found.faces,
        "stages": {name: times.figures() for name, times in found.stages.items()},
        "end_to_end": figures | {"cores": round(found.pipeline_cores, 2)},
        "slowest_stage": found.slowest,
        "ratio_to_slowest_stage": round(found.ratio, 3),
        "notes": notes,
    }


def _show(told: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False, markup=False)
    machine, (width, height) = told["machine"], told["frame"]
    gpu = f"; {machine['gpu']}" if machine["gpu"] else ""
    threads = f", {machine['model_threads']} threads for the model" if machine["model_threads"] else ""
    load = "" if machine["load"] is None else f", load {machine['load']:.1f} when this ended"
    console.print(f"{machine['processor']}, {machine['cores']} cores{threads}{load}{gpu}")
    console.print(f"{told['model']}, {told['backend']}{', ' + told['engine'] if told['engine'] else ''}")
    console.print(f"{told['frames']} frames of {width}x{height}, {told['faces']} faces: {told['source']}")
    table = Table("", "p50 ms", "p95 ms", "p99 ms", "fps")
    rows = [*told["stages"].items(), ("end to end", told["end_to_end"])]
    for name, figures in rows:
        table.add_row(name, *(f"{figures[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms")), f"{figures['fps']:.1f}")
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)
    console.print(
        f"end to end takes {told['ratio_to_slowest_stage']:.2f} times as long as its slowest stage alone "
        f"({told['slowest_stage']}), on {told['end_to_end']['cores']:.1f} cores"
    )
    for note in told["notes"]:
        console.print(f"note: {note}")
