"""How far a run is, on stderr: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..stream import Summary

_BAR_EVERY_S = 0.1
_LINE_EVERY_S = 5.0


class Report(Protocol):
    """Takes the numbers so far."""

    def __call__(self, summary: Summary) -> None:
        """Called after every frame."""


@contextmanager
def progress(frames: int | None, unit: str = "frame") -> Iterator[Report]:
    """Shows the numbers that it is told, of this many frames (None: unknown), or whatever a unit is."""
    if sys.stderr is None:  # a service that was started with it closed
        yield lambda summary: None
        return
    if not sys.stderr.isatty():
        yield _every(_LINE_EVERY_S, lambda summary: print(_line(summary, frames, unit), file=sys.stderr, flush=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=frames)
        yield _every(
            _BAR_EVERY_S,
            lambda summary: bar.update(task, completed=summary.frames, description=_line(summary, frames, unit)),
        )


def _line(summary: Summary, frames: int | None, unit: str) -> str:
    of = "" if frames is None else f" of {max(frames, summary.frames)}"
    return f"{summary.frames}{of} {unit}s, {summary.faces} faces, {summary.fps:.1f} a second"


def _every(seconds: float, show: Report) -> Report:
    last = time.monotonic()

    def report(summary: Summary) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            show(summary)

    return report
