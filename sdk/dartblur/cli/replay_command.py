"""``dartblur replay``: renders a video or pictures again as an audit log says, without looking for faces."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .options import BackendName, Engine, Model

if TYPE_CHECKING:
    from ..backends.loading import BackendChoice
    from ..records.audit_reading import Audit
    from ..records.replay import Missing
    from ..stream import SinkOptions, Summary
    from .signals import Stopper

_SIGNALLED = 128


def replay(
    audit: Annotated[Path, typer.Argument(help="Audit log of 'dartblur run --audit', edited or not.")],
    source: Annotated[str, typer.Argument(help="The video or picture file, folder or pattern that it is of.")],
    sink: Annotated[str, typer.Argument(help="Video file, picture file, or folder.")],
    missing: Annotated[
        str, typer.Option(help="Frames that the log doesn't have: refuse, or solid (cover them whole).")
    ] = "refuse",
    model: Model = None,
    backend: BackendName = "auto",
    engine: Engine = None,
    quality: Annotated[int, typer.Option(help="Of video: 0 (lossless) .. 51 (worst).")] = 19,
    sound: Annotated[bool, typer.Option(help="Whether the sound is kept: as it was for the run.")] = True,
    metadata: Annotated[bool, typer.Option(help="Whether tags, place, time and EXIF are kept.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Take what there is of a damaged video.")] = False,
) -> None:
    """Cover in SOURCE exactly the boxes that AUDIT lists under "covered", and write the result to SINK.

    Edit the log to uncover what was no face (remove its box), to cover more (add {"box": [x0, y0, x1, y1]}), or to
    cover by another method. Nothing is looked for. Frames with a fault are covered whole, as they were. A log that is
    malformed or not of this source is refused, with the line; of a folder, pictures that were finished before stay.
    """
    from ..backends.loading import BackendChoice
    from ..stream import SinkOptions
    from .signals import Interrupted, on_signals

    choice = BackendChoice(backend, model, engine)
    output = SinkOptions(overwrite=overwrite, quality=quality, sound=sound, metadata=metadata)
    try:
        with on_signals() as stopper:
            summary = process(audit, source, sink, cast("Missing", missing), choice, stopper, output, keep_going)
    except Interrupted as interrupted:
        print("dartblur: interrupted: nothing unfinished is left", file=sys.stderr)
        raise typer.Exit(_SIGNALLED + interrupted.signal) from None
    if summary.skipped:
        raise typer.Exit(2)


def process(
    audit_path: Path,
    source_uri: str,
    sink_uri: str,
    missing: Missing,
    choice: BackendChoice,
    stopper: Stopper,
    output: SinkOptions,
    keep_going: bool,
) -> Summary:
    """Opens everything, renders it, and says what was done."""
    from dataclasses import replace

    from ..anonymizer import Anonymizer
    from ..backends.loading import load_backend
    from ..errors import InputError, SinkError
    from ..protection.policy import Protection
    from ..records.audit_reading import read_audit
    from ..records.replay import Renderer
    from ..stream import SourceOptions, open_sink, open_source, run
    from .progress import progress

    audit = read_audit(audit_path)
    if audit_path.resolve() == Path(sink_uri).resolve():
        raise SinkError(f"{audit_path}: the audit log and the output need two names")
    with ExitStack() as stack:
        source = stack.enter_context(open_source(source_uri, SourceOptions(keep_going=keep_going)))
        info = source.info
        if info.live:
            raise InputError(f"{info.uri}: expected the recording that {audit_path} is of, got a live source")
        sink = stack.enter_context(open_sink(sink_uri, source, output))
        backend = load_backend(replace(choice, frame=(info.width, info.height)) if info.width else choice)
        stack.callback(backend.close)
        anonymizer = Anonymizer(backend=backend)
        renderer = Renderer(anonymizer, audit, missing=missing, source=source, shortened=keep_going)
        for notice in [*_differences(audit, choice, anonymizer.model_name), *source.notices, *sink.notices]:
            print(f"dartblur: {notice}", file=sys.stderr)
        with progress(info.frames) as report:
            summary = run(
                source,
                renderer,
                sink,
                protection=Protection.of_pictures(),
                on_progress=report,
                stop=stopper.event,
            )
    _tell(summary, sink_uri)
    return summary


def _differences(audit: Audit, choice: BackendChoice, model: str) -> list[str]:
    """What makes the pixels differ from those of the run."""
    from ..records.audit import model_sha256

    dart = any(entry.method == "dart" and len(entry.coverage) for entry in audit.frames.values())
    actual = model_sha256(choice)
    if not dart or actual == audit.model_sha256:
        return []
    made = f"{audit.model} ({audit.model_sha256[:12]})" if audit.model_sha256 else "another model"
    return [f"the log is of {made}, this is {model} ({actual[:12]}): boxes will be the same, their pixels will not"]


def _tell(summary: Summary, sink_uri: str) -> None:
    from ..records.replay import NOT_IN_LOG
    from ..stream.uris import shown

    for skipped in summary.skipped:
        print(f"dartblur: skipped: {skipped.reason}", file=sys.stderr)
    if summary.damaged:
        print(
            f"dartblur: {summary.damaged} packets could not be decoded; their frames are not in the output",
            file=sys.stderr,
        )
    if count := summary.faults.get(NOT_IN_LOG):
        print(f"dartblur: {count} frames are not in the log and are covered whole", file=sys.stderr)
    print(f"{summary.frames} frames rendered, {summary.fps:.1f} fps -> {shown(sink_uri)}")
