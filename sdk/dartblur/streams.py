"""Streams in a program's own loop.

::

    for frame in dartblur.open("rtsp://camera/stream").anonymize():
        publish(frame.image)

    with dartblur.open(0).anonymize(lookahead=5) as frames:
        frames.to("http://127.0.0.1:8080", "out.mp4")
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .anonymizer import Anonymizer, Method
from .errors import InputError
from .frame import RedactedFrame
from .protection.guarding import guarded
from .protection.policy import OnFault, Protection
from .protection.zones import Zones
from .records.metrics import Metrics
from .stream import Sink, Source, Summary, open_sink, open_source, protection_for, run
from .stream.lanes import Lane, StoppedError
from .stream.observers import Event, Observer, Observers

if TYPE_CHECKING:
    from .stream.options import SinkOptions, SourceOptions


def open(source: str | int | Path | Source, options: SourceOptions | None = None) -> Opened:
    """Opens a source of frames.

    Args:
        source: a camera (``0``, ``v4l2:///dev/video0``, ``csi://0``, ``rtsp://``, ``http://``, ``gst:...``), a video or
            picture file, a folder, a pattern, or a `Source` such as a `PushSource`.
        options: how network sources and files are read.

    Raises:
        SourceError: it isn't there, or can't be read.
    """
    return Opened(source if isinstance(source, Source) else open_source(str(source), options))


class Opened:
    """A source that is open and hasn't been read yet.

    Attributes:
        source: what gives the frames; they are clear.
    """

    def __init__(self, source: Source) -> None:
        self.source = source

    def anonymize(
        self,
        anonymizer: Anonymizer | None = None,
        *,
        model: str | Path | None = None,
        method: Method = "dart",
        threshold: float | None = None,
        hold: float | None = None,
        lookahead: int | None = None,
        on_fault: OnFault | None = None,
        timeout: float | None = None,
        zones: Zones | None = None,
        self_check: float | None = None,
        observers: tuple[Observer, ...] = (),
    ) -> AnonymizedStream:
        """The frames with their faces covered. Nothing is read before they are asked for.

        Args:
            anonymizer: to share a model between streams: ``Anonymizer(shared=True)``; None: one of its own is made.
            model, method, threshold: of that one; the model is also that of the self-check.
            hold, lookahead, on_fault, timeout, zones, self_check: as of `Protection`; None: what fits the source.
            observers: are told of frames and events.

        Raises:
            InputError: an argument is out of its range.
        """
        try:
            if anonymizer is None:
                anonymizer = Anonymizer(model, method=method, threshold=threshold)
            elif threshold is not None or method != "dart":
                raise InputError("anonymize: expected an anonymizer or options to make one, got both")
            protection = protection_for(self.source.info).with_options(
                hold=hold,
                lookahead=lookahead,
                on_fault=on_fault,
                timeout=timeout,
                zones=zones,
                self_check=self_check,
            )
        except BaseException:
            self.source.close()
            raise
        return AnonymizedStream(self.source, anonymizer, protection, model, observers)

    def close(self) -> None:
        """Lets go of the source, when it isn't to be read after all."""
        self.source.close()


class AnonymizedStream:
    """Redacted frames of a source, to iterate over once (``for`` or ``async for``), or to send to sinks.

    Leaving the loop, or the ``with`` block, ends the stream and closes the source. A live source drops frames while the
    loop's body is busy; a file waits.

    Attributes:
        summary: the numbers so far.
        metrics: latency, frame rate, faults and more of the last seconds.
    """

    def __init__(
        self,
        source: Source,
        anonymizer: Anonymizer,
        protection: Protection,
        model: str | Path | None,
        observers: tuple[Observer, ...],
    ) -> None:
        self._source, self._anonymizer, self._protection, self._model = source, anonymizer, protection, model
        self.metrics = Metrics("live")
        self._observers = Observers([*observers, self.metrics])
        self._handover: _Handover | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._abort, self._starting = threading.Event(), threading.Lock()
        self._closing, self._closed = threading.Lock(), False
        self.summary = Summary()

    def to(self, *sinks: str | Path | Sink, options: SinkOptions | None = None) -> Summary:
        """Sends all frames to sinks, given by URI or open; returns when the source ends.

        Raises:
            DartBlurError: a sink can't be opened, or as of iteration.
        """
        with suppress(StoppedError), ExitStack() as stack:  # that is `close` in another thread: the sinks are discarded
            stack.callback(self._close_source)
            opened = [
                stack.enter_context(sink if isinstance(sink, Sink) else self._open(sink, options)) for sink in sinks
            ]
            return self._run(opened)
        return self.summary

    def _open(self, uri: str | Path, options: SinkOptions | None) -> Sink:
        return open_sink(uri, self._source, options, metrics=self.metrics)

    def __iter__(self) -> Iterator[RedactedFrame]:
        """The frames.

        Raises:
            FailClosedError: a frame can't be anonymized, and `Protection.on_fault` is ``stop``.
            SourceError: the source can't be read on.
        """
        handover = self._start()
        try:
            yield from handover.frames()
            self._join()
            if self._error is not None:
                raise self._error
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[RedactedFrame]:
        """The frames, without holding up the event loop; raises as ``for`` does."""
        frames, end = iter(self), object()
        try:
            while (frame := await asyncio.to_thread(next, frames, end)) is not end:
                yield frame  # type: ignore[misc]
        finally:
            await asyncio.to_thread(self.close)

    def stop(self) -> None:
        """Makes the stream end soon, as if the source had ended: what was read still leaves. From any thread.

        A video that a file is to become as a whole is not written then, and `to` raises SinkError.
        """
        self._source.stop()

    def close(self) -> None:
        """Ends the stream at once and closes the source; from any thread."""
        self._abort.set()
        self._source.stop()
        with self._starting:
            handover = self._handover
        if handover is not None:
            handover.lane.stop()
        self._join()
        self._close_source()

    def _close_source(self) -> None:
        # Once: the loop's thread and who has called `close` may come here at the same time.
        with self._closing:
            if not self._closed:
                self._closed = True
                self._source.close()

    def __enter__(self) -> AnonymizedStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _start(self) -> _Handover:
        handover = _Handover(self._source.info.live)

        def work() -> None:
            try:
                self._run([handover])
            except StoppedError:
                pass  # the loop was left
            except BaseException as error:
                self._error = error
            finally:
                handover.lane.end()

        with self._starting:
            if self._handover is not None:
                raise InputError("a stream is iterated once: open the source again")
            self._handover = handover
            self._thread = threading.Thread(target=work, name="dartblur-stream", daemon=True)
            self._thread.start()
        return handover

    def _run(self, sinks: list[Sink]) -> Summary:
        told, protection = self._observers, self._protection
        moving = self._source.info.moving
        with guarded(self._anonymizer, protection, self._model, told.on_event, moving=moving) as guard:
            return run(
                self._source,
                guard,
                sinks,
                protection=protection,
                observers=[told],
                on_progress=self._note(),
                abort=self._abort,
            )

    def _note(self) -> Callable[[Summary], None]:
        def note(summary: Summary) -> None:
            self.summary = summary

        return note

    def _join(self) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


class _Handover(Sink):
    """The sink that a loop takes its frames from."""

    def __init__(self, live: bool) -> None:
        super().__init__("loop")
        self.lane: Lane[RedactedFrame] = Lane(2, self._dropped if live else None)

    def frames(self) -> Iterator[RedactedFrame]:
        """The frames; ends when the stream does."""
        try:
            yield from self.lane
        except StoppedError:
            return

    def _dropped(self, frame: Any) -> None:
        self.observe(Event("sink-dropped", f"the loop was too slow for frame {frame.index}", self.uri))

    def _write(self, frame: RedactedFrame) -> None:
        self.lane.put(frame)

    def commit(self) -> None:
        """Nothing is left to do."""

    def discard(self) -> None:
        """Nothing is left behind."""
