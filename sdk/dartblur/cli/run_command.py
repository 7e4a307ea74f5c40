"""``dartblur run``: a video, a camera or pictures in; the same with hidden faces out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer, Method
    from ..audit import AuditLog
    from ..backends.base import Backend
    from ..backends.loading import BackendChoice
    from ..stream import Source, Summary
    from .signals import Stopper

_SIGNALLED = 128
"""Added to a signal's number this is the exit code of shells: 130 for Ctrl-C, 143 for SIGTERM, 129 for a hang-up."""


def run(
    source: Annotated[
        str, typer.Argument(help="Video or picture file, folder, 'dir/*.jpg', or camera: 0, v4l2:///dev/video0.")
    ],
    sink: Annotated[str, typer.Argument(help="Video file (.mp4 .mov .mkv .webm .avi), picture file, or folder.")],
    method: Annotated[str, typer.Option(help="How faces are covered: dart, gaussian, pixelate or solid.")] = "dart",
    threshold: Annotated[float | None, typer.Option(help="Lowest score of a face, 0..1. Default: the model's.")] = None,
    box_scale: Annotated[
        float | None, typer.Option(help="Covered box by face box, 1..4. Default: the model's.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Model bundle, folder or zip. Default: the built-in one.")] = None,
    backend: Annotated[
        str, typer.Option(help="auto (tensorrt with --engine, else cpu), cpu, tensorrt or onnxruntime-gpu.")
    ] = "auto",
    engine: Annotated[Path | None, typer.Option(help="Engine for tensorrt, made with 'dartblur build'.")] = None,
    quality: Annotated[int, typer.Option(help="Of video: 0 (lossless) .. 51 (worst).")] = 19,
    audit: Annotated[Path | None, typer.Option(help="Write what was found in each frame to this .jsonl file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Take what there is of a damaged video.")] = False,
) -> None:
    """Hide the faces of SOURCE and write the result to SINK.

    Sound, subtitles, time stamps, rotation, aspect, colours and tags are kept. The output appears when it is complete:
    after an error or Ctrl-C there is none. (A camera's recording is finished and kept, and so are the finished
    pictures of a folder.) The source is never written over.

    Frames that can't be decoded are left out and counted. A video that was cut short is refused unless --keep-going.
    A picture of a folder that can't be read is listed, the others are done, and the exit code is 2.
    """
    from ..backends.loading import BackendChoice
    from .signals import Interrupted, on_signals

    choice = BackendChoice(backend, model, engine)

    def make(backend: Backend) -> Anonymizer:
        from ..anonymizer import Anonymizer

        return Anonymizer(backend=backend, method=cast("Method", method), threshold=threshold, box_scale=box_scale)

    try:
        with on_signals() as stopper:
            summary = process(source, sink, choice, make, stopper, quality, audit, overwrite, keep_going)
    except Interrupted as interrupted:
        print("dartblur: interrupted: nothing unfinished is left", file=sys.stderr)
        raise typer.Exit(_SIGNALLED + interrupted.signal) from None
    if summary.skipped:
        raise typer.Exit(2)


def process(
    source_uri: str,
    sink_uri: str,
    choice: BackendChoice,
    make_anonymizer: Callable[[Backend], Anonymizer],
    stopper: Stopper,
    quality: int,
    audit_path: Path | None,
    overwrite: bool,
    keep_going: bool,
) -> Summary:
    """Opens everything, runs it, and says what was done."""
    from ..stream import open_sink, open_source
    from ..stream import run as run_pipeline
    from .progress import progress

    # Whatever is opened later is finished or discarded earlier: the log gets its name after the output that it is of.
    # The cheap checks come before the model is loaded.
    with ExitStack() as stack:
        source = stack.enter_context(open_source(source_uri, keep_going=keep_going))
        stopper.recording = source.info.live
        audit = None
        if audit_path is not None:
            audit = stack.enter_context(_open_audit(audit_path, source, sink_uri, overwrite))
        sink = stack.enter_context(open_sink(sink_uri, source, overwrite=overwrite, quality=quality))
        if source.info.width:
            choice = replace(choice, frame=(source.info.width, source.info.height))
        backend = load_backend(choice)
        stack.callback(backend.close)
        anonymizer = make_anonymizer(backend)
        if audit is not None:
            audit.model = backend.model_name
        for notice in source.notices + sink.notices:
            print(f"dartblur: {notice}", file=sys.stderr)
        with progress(source.info.frames) as report:
            summary = run_pipeline(source, anonymizer, sink, audit=audit, on_progress=report, stop=stopper.event)
    _tell(summary, sink_uri)
    return summary


def load_backend(choice: BackendChoice) -> Backend:
    """What runs the model."""
    from ..backends.loading import load_backend

    return load_backend(choice)


def _open_audit(path: Path, source: Source, sink_uri: str, overwrite: bool) -> AuditLog:
    from ..audit import AuditLog
    from ..errors import SinkError

    if path.resolve() == Path(sink_uri).resolve():
        raise SinkError(f"{path}: the audit log and the output need two names")
    return AuditLog(path, sources=source.files, overwrite=overwrite)


def _tell(summary: Summary, sink_uri: str) -> None:
    for skipped in summary.skipped:
        print(f"dartblur: skipped: {skipped.reason}", file=sys.stderr)
    if summary.skipped:
        print(f"dartblur: {len(summary.skipped)} pictures could not be read and are not in the output", file=sys.stderr)
    if summary.damaged:
        print(
            f"dartblur: {summary.damaged} packets could not be decoded; their frames are not in the output",
            file=sys.stderr,
        )
    print(
        f"{summary.frames} frames, {summary.faces} faces in {summary.frames_with_faces} frames, "
        f"{summary.fps:.1f} fps -> {sink_uri}"
    )
