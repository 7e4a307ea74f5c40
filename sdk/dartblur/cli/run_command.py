"""``dartblur run``: a video, a camera or pictures in; the same with hidden faces out."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .options import FACES, BackendName, DetectBudget, DetectSize, Engine, Model, Tiles

if TYPE_CHECKING:
    from ..anonymizer import Method
    from ..backends.loading import BackendChoice
    from ..protection.policy import OnFault
    from ..records.logs import Format
    from ..session import Session, StreamSettings
    from ..stream import Summary
    from ..stream.sinks.encoders import Codec
    from .signals import Stopper

_SIGNALLED = 128
"""Added to a signal's number this is the exit code of shells: 130 for Ctrl-C, 143 for SIGTERM, 129 for a hang-up."""

_PROTECTION, _SOURCE, _SINK, _RECORDS = "Protection", "Source", "Sinks", "Records"


def run(
    source: Annotated[
        str,
        typer.Argument(
            help="Video or picture file, folder, 'dir/*.jpg'; camera: 0, v4l2:///dev/video0, csi://0, rtsp://, "
            "http://, gst:PIPELINE."
        ),
    ],
    sinks: Annotated[
        list[str],
        typer.Argument(
            metavar="SINK...",
            help="Video file (.mp4 .mov .mkv .webm .avi), picture file, folder; http://127.0.0.1:8080 (web page), "
            "rtsp://, v4l2:///dev/video9, display://0, gst:PIPELINE. A live source may have several.",
        ),
    ],
    method: Annotated[
        str, typer.Option(help="How faces are covered: dart, gaussian, pixelate or solid.", rich_help_panel=FACES)
    ] = "dart",
    threshold: Annotated[
        float | None,
        typer.Option(help="Lowest score of a face, above 0 and below 1. Default: the model's.", rich_help_panel=FACES),
    ] = None,
    box_scale: Annotated[
        float | None,
        typer.Option(help="Covered box by face box, 1..4. Default: the model's.", rich_help_panel=FACES),
    ] = None,
    model: Model = None,
    backend: BackendName = "auto",
    engine: Engine = None,
    detect_size: DetectSize = None,
    detect_budget: DetectBudget = None,
    tiles: Tiles = None,
    hold: Annotated[
        float | None,
        typer.Option(
            help="Seconds that a face stays covered after it was last found. Default: 1 (pictures: 0).",
            rich_help_panel=_PROTECTION,
        ),
    ] = None,
    lookahead: Annotated[
        int | None,
        typer.Option(
            help="Frames that the output is late, to cover a face before it is first found. Default: 5 for files, 0.",
            rich_help_panel=_PROTECTION,
        ),
    ] = None,
    on_fault: Annotated[
        str | None,
        typer.Option(
            help="In place of a frame that can't be anonymized: solid, hold, drop or stop. Default: solid for cameras, "
            "stop for files.",
            rich_help_panel=_PROTECTION,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds that anonymizing a frame may take. Default: 1 for cameras, 60 for files.",
            rich_help_panel=_PROTECTION,
        ),
    ] = None,
    blur_zone: Annotated[
        list[str] | None,
        typer.Option(
            help="Always cover x0,y0,x1,y1 (pixels, or percent: 10%,0,50%,100%). Repeatable.",
            rich_help_panel=_PROTECTION,
        ),
    ] = None,
    clear_zone: Annotated[
        list[str] | None,
        typer.Option(help="Leave faces in x0,y0,x1,y1 clear. Repeatable.", rich_help_panel=_PROTECTION),
    ] = None,
    self_check: Annotated[
        float | None,
        typer.Option(
            help="Seconds between frames that are looked at again after redaction; 0: never. Default: 1 for cameras, "
            "0 for files.",
            rich_help_panel=_PROTECTION,
        ),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Take what there is of a damaged video.", rich_help_panel=_SOURCE)
    ] = False,
    realtime: Annotated[
        bool,
        typer.Option(
            "--realtime", help="Play a file at its own speed, as if it were a camera.", rich_help_panel=_SOURCE
        ),
    ] = False,
    loop: Annotated[
        bool, typer.Option("--loop", help="With --realtime: begin anew at the end.", rich_help_panel=_SOURCE)
    ] = False,
    rtsp_transport: Annotated[str, typer.Option(help="tcp or udp.", rich_help_panel=_SOURCE)] = "tcp",
    stall: Annotated[
        float, typer.Option(help="Seconds without a frame after which a camera is lost.", rich_help_panel=_SOURCE)
    ] = 5.0,
    reconnect: Annotated[
        bool, typer.Option(help="Try again for ever when a camera is lost.", rich_help_panel=_SOURCE)
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that exist.", rich_help_panel=_SINK)
    ] = False,
    quality: Annotated[
        int, typer.Option(help="Of video files: 0 (lossless) .. 51 (worst).", rich_help_panel=_SINK)
    ] = 19,
    codec: Annotated[str | None, typer.Option(help="h264 or h265.", rich_help_panel=_SINK)] = None,
    encoder: Annotated[
        str,
        typer.Option(help="auto, or a name: libx264, h264_nvenc, nvv4l2h264enc (Jetson), ...", rich_help_panel=_SINK),
    ] = "auto",
    bitrate: Annotated[
        int | None, typer.Option(help="Of pushed streams, bits a second. Default: by size.", rich_help_panel=_SINK)
    ] = None,
    segment: Annotated[
        float | None, typer.Option(help="Seconds of each file of a recording.", rich_help_panel=_SINK)
    ] = None,
    pictures: Annotated[str, typer.Option(help="Of a video into a folder: jpg or png.", rich_help_panel=_SINK)] = "jpg",
    every: Annotated[
        int, typer.Option(help="Of a video into a folder: one picture in so many frames.", rich_help_panel=_SINK)
    ] = 1,
    max_fps: Annotated[
        float | None,
        typer.Option(help="Of a video into a folder: at most so many a second.", rich_help_panel=_SINK),
    ] = None,
    sound: Annotated[
        bool, typer.Option(help="Of a video file into another: whether its sound is kept.", rich_help_panel=_SINK)
    ] = True,
    metadata: Annotated[
        bool,
        typer.Option(
            help="Of files: whether tags, place, time, chapter titles, subtitles and EXIF are kept. "
            "Orientation and colours always are.",
            rich_help_panel=_SINK,
        ),
    ] = True,
    token: Annotated[
        str | None,
        typer.Option(
            help="What the web page asks for. Default: on other addresses than loopback one is made and printed.",
            envvar="DARTBLUR_TOKEN",
            show_envvar=True,
            rich_help_panel=_SINK,
        ),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(help="Write what was covered in each frame to this .jsonl file.", rich_help_panel=_RECORDS),
    ] = None,
    audit_mb: Annotated[
        float,
        typer.Option(help="Of a live source: size of the audit log at which it is rotated.", rich_help_panel=_RECORDS),
    ] = 50.0,
    metrics: Annotated[
        str | None,
        typer.Option(help="Serve Prometheus metrics here, such as 127.0.0.1:9090.", rich_help_panel=_RECORDS),
    ] = None,
    log_format: Annotated[str, typer.Option(help="text or json.", rich_help_panel=_RECORDS)] = "text",
    name: Annotated[
        str, typer.Option(help="Of the stream, in metrics, logs and on the page.", rich_help_panel=_RECORDS)
    ] = "live",
) -> None:
    """Hide the faces of SOURCE and write the result to SINK.

    Files: sound, subtitles, time stamps, rotation, aspect, colours and tags are kept; --no-sound and --no-metadata
    leave out what may tell of people as well. The output appears when it is complete: after an error, Ctrl-C, or a
    window that is closed before the end there is none. (The finished pictures of a folder are kept.) The source is
    never written over. Frames that can't be decoded are left out and counted. A video that was cut short is refused
    unless --keep-going. A picture of a folder that can't be read is listed, the others are done; the exit code is 2.

    Cameras: the newest frame is anonymized, a lost camera is reconnected, and what can't be anonymized is covered
    whole. Ctrl-C ends the recording, which is kept.
    """
    from ..backends.loading import BackendChoice
    from ..backends.scan import Scan
    from ..session import StreamSettings
    from ..stream.options import SinkOptions, SourceOptions
    from .signals import Interrupted, on_signals

    choice = BackendChoice(backend, model, engine, scan=Scan.of_text(detect_size, tiles, detect_budget))
    settings = StreamSettings(
        source,
        tuple(sinks),
        name=name,
        method=cast("Method", method),
        threshold=threshold,
        box_scale=box_scale,
        hold=hold,
        lookahead=lookahead,
        on_fault=cast("OnFault | None", on_fault),
        timeout=timeout,
        self_check=self_check,
        blur_zones=tuple(blur_zone or ()),
        clear_zones=tuple(clear_zone or ()),
        audit=audit,
        audit_bytes=round(audit_mb * 1e6),
        source_options=SourceOptions(keep_going, realtime, loop, rtsp_transport, stall, reconnect),
        sink_options=SinkOptions(
            overwrite,
            quality,
            cast("Codec | None", codec),
            encoder,
            bitrate,
            segment,
            pictures,
            every,
            max_fps,
            sound=sound,
            metadata=metadata,
            token=token,
        ),
    )
    opened: list[Session] = []
    try:
        with on_signals() as stopper:
            summary = process(settings, choice, stopper, metrics, log_format, opened)
    except Interrupted as interrupted:
        remains = "; ".join(session.remains for session in opened) or "nothing unfinished is left"
        print(f"dartblur: interrupted: {remains}", file=sys.stderr)
        raise typer.Exit(_SIGNALLED + interrupted.signal) from None
    if summary.skipped:
        raise typer.Exit(2)


def process(
    settings: StreamSettings,
    choice: BackendChoice,
    stopper: Stopper,
    metrics: str | None,
    log_format: str,
    opened: list[Session],
) -> Summary:
    """Opens everything, runs it, and says what was done; the session is put into `opened`."""
    from ..records.logs import LogObserver, configure
    from ..session import Session
    from .progress import progress

    configure(cast("Format", log_format))
    with ExitStack() as stack:
        log = LogObserver(settings.name)
        stack.callback(log.close)
        session = stack.enter_context(Session(settings, choice, observers=[log]))
        opened.append(session)
        stopper.recording = session.source.info.live
        for notice in session.notices:
            print(f"dartblur: {notice}", file=sys.stderr)
        if metrics is not None:
            stack.enter_context(_serve_metrics(metrics, session))
        info = session.source.info
        unit = "frame" if info.moving else "picture"
        with progress(info.frames, unit) as report:
            summary = session.run(on_progress=report, stop=stopper.event)
    _tell(summary, settings, unit)
    return summary


def _serve_metrics(address: str, session: Session) -> ExitStack:
    from ..records.metrics import serve_metrics

    stack = ExitStack()
    server = stack.enter_context(serve_metrics(address, session.metrics, token=session.settings.sink_options.token))
    print(f"dartblur: metrics at {server.url}metrics", file=sys.stderr)
    return stack


def _tell(summary: Summary, settings: StreamSettings, unit: str) -> None:
    from ..stream.uris import shown

    def note(text: str) -> None:
        print(f"dartblur: {text}", file=sys.stderr)

    for skipped in summary.skipped:
        note(f"skipped: {skipped.reason}")
    if summary.skipped:
        note(f"could not be read, not in the output: {_counted(len(summary.skipped), 'picture')}")
    for loss, count in sorted(summary.losses.items()):
        note(f"{_counted(count, 'picture')}: {loss}")
    if summary.damaged:
        note(f"could not be decoded, their frames are not in the output: {_counted(summary.damaged, 'packet')}")
    for reason, count in sorted(summary.faults.items()):
        note(f"could not be anonymized, covered whole: {_counted(count, unit)}: {reason}")
    if summary.dropped:
        note(f"gave way to newer ones: {_counted(summary.dropped, unit)}")
    print(f"{_done(summary, unit)} -> {' '.join(shown(uri) for uri in settings.sinks)}")


def _done(summary: Summary, unit: str) -> str:
    """What was done: ``60 frames, 71 faces in 58 frames, 33.1 fps``; a single picture has no rate."""
    parts = [_counted(summary.frames, unit), _counted(summary.faces, "face") if summary.faces else "no faces"]
    if summary.frames != 1:
        if summary.faces:
            parts[1] += f" in {_counted(summary.frames_with_faces, unit)}"
        parts.append(f"{summary.fps:.1f} {'fps' if unit == 'frame' else 'a second'}")
    return ", ".join(parts)


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
