"""Sources by URI, sinks by URI, and the pipeline between them.

::

    with open_source("in.mp4") as source, open_sink("out.mp4", source) as sink:
        summary = run(source, Anonymizer(), sink)
"""

from __future__ import annotations

from .base import Sink, Skipped, Source, SourceInfo
from .opening import open_sink, open_source
from .options import SinkOptions, SourceOptions
from .pipeline import Summary, protection_for, run

__all__ = [
    "Sink",
    "SinkOptions",
    "Skipped",
    "Source",
    "SourceInfo",
    "SourceOptions",
    "Summary",
    "open_sink",
    "open_source",
    "protection_for",
    "run",
]
