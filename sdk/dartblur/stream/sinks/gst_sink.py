"""``gst:ELEMENTS``: redacted pictures for a pipeline of one's own."""

from __future__ import annotations

from contextlib import suppress

from ...errors import SinkError
from ...frame import RedactedFrame
from ..base import Sink
from ..uris import after_scheme, shown
from .fitting import fit
from .gst_push import GstPush
from .timeline import Timeline

_KEYFRAME_S = 2.0


class GstSink(Sink):
    """Hands redacted pictures to a pipeline of the system's GStreamer.

    The pipeline gets ``video/x-raw,format=BGR`` in the size of the first frame, with the frames' own time stamps, from
    an ``appsrc`` that is put before its first element. Its encoders are asked for a key frame every two seconds. On a
    Jetson, for example (not run by the tests, which have none)::

        gst:videoconvert ! video/x-raw,format=BGRx ! nvvidconv ! video/x-raw(memory:NVMM),format=NV12 !
            nvv4l2h264enc bitrate=4000000 insert-sps-pps=true ! h264parse ! matroskamux ! filesink location=out.mkv

    Args:
        uri: ``gst:`` and the elements as gst-launch-1.0 takes them, with or without a leading ``appsrc !``.

    Raises:
        SinkError: GStreamer isn't installed, or the elements aren't a pipeline.
    """

    remains = "what was handed over before is up to the pipeline"

    def __init__(self, uri: str) -> None:
        super().__init__(shown(uri))
        elements = after_scheme(uri).strip()
        first, _, others = elements.partition("!")
        if first.strip() == "appsrc":
            elements = others.strip()
        if not elements:
            raise SinkError(f"{self.uri}: expected gst: and a pipeline, as 'gst:videoconvert ! autovideosink'")
        self._push = GstPush(elements, self.uri)
        self._timeline = Timeline()
        self._size: tuple[int, int] | None = None
        self._next_keyframe = _KEYFRAME_S  # the first is one without being asked

    def _write(self, frame: RedactedFrame) -> None:
        if self._size is None:
            height, width = frame.image.shape[:2]
            self._push.start(width, height)
            self._size = width, height
        seconds = self._timeline.at(frame)
        keyframe = seconds >= self._next_keyframe
        if keyframe:
            self._next_keyframe = seconds + _KEYFRAME_S
        self._push.push(fit(frame.image, *self._size), seconds, keyframe=keyframe)

    def commit(self) -> None:
        """Lets the pipeline finish.

        Raises:
            SinkError: an element failed, or takes too long.
        """
        try:
            self._push.end()
            self._push.wait()
        finally:
            self._push.close()

    def discard(self) -> None:
        """Ends the pipeline; what it holds is finished if it can be."""
        with suppress(SinkError):
            self.commit()
