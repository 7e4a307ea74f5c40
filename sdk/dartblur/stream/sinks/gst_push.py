"""Redacted pictures handed to a pipeline of the system's GStreamer, with a limit on every wait."""

from __future__ import annotations

import threading
from time import monotonic, sleep
from typing import Any

from ...errors import SinkError
from ...frame import Image
from ..sources.gstreamer import load_gst, load_library
from ..uris import shown

TIMEOUT_S = 5.0
"""How long a pipeline may hold up a picture."""

_END_S = 10.0
"""How long it may take to finish: encoders and writers of files have something left to do."""

_QUEUE = 4
"""Pictures that may wait in the pipeline."""

_POLL_S = 0.005
_INPUT = "dartblur"


class GstPush:
    """A pipeline that begins with our appsrc.

    Args:
        elements: what follows it, as gst-launch-1.0 takes it; gets ``video/x-raw,format=BGR``.
        name: what the pipeline is called in messages.

    Attributes:
        gst: the module ``gi.repository.Gst``.
        pipeline: the ``Gst.Pipeline``.

    Raises:
        SinkError: GStreamer isn't installed, or the elements aren't a pipeline.
    """

    def __init__(self, elements: str, name: str) -> None:
        self._name = name
        try:
            self.gst, self._video = load_gst(), load_library("GstVideo")
        except ImportError as error:
            raise SinkError(f"{name}: {error}") from error
        self.pipeline = self._parse(f"appsrc name={_INPUT} is-live=true format=time block=false ! {elements}")
        self._input = self.pipeline.get_by_name(_INPUT)
        self._bus = self.pipeline.get_bus()
        self._playing = False

    def start(self, width: int, height: int) -> None:
        """Begins to play, for pictures of this size.

        Raises:
            SinkError: an element can't.
        """
        caps = f"video/x-raw,format=BGR,width={width},height={height},framerate=0/1,pixel-aspect-ratio=1/1"
        self._input.set_property("caps", self.gst.Caps.from_string(caps))
        # Rows are padded to whole words of four bytes.
        self._row = (width * 3 + 3) // 4 * 4
        if self.pipeline.set_state(self.gst.State.PLAYING) == self.gst.StateChangeReturn.FAILURE:
            self.check()
            raise SinkError(f"{self._name}: the pipeline can't be started: try it with gst-launch-1.0")
        self._playing = True

    def push(self, image: Image, seconds: float, *, keyframe: bool = False) -> None:
        """Hands over a picture.

        Args:
            image: uint8 ``[H, W, 3]`` BGR of the size that it was started with.
            seconds: when it is shown, since the first.
            keyframe: ask encoders for a key frame.

        Raises:
            SinkError: an element failed, or takes nothing for `TIMEOUT_S`.
        """
        until = monotonic() + TIMEOUT_S
        while self._input.get_property("current-level-buffers") >= _QUEUE:
            self.check()
            if monotonic() > until:
                raise SinkError(f"{self._name}: takes no picture for {TIMEOUT_S:g} s: check its elements")
            sleep(_POLL_S)
        stamp = round(seconds * self.gst.SECOND)
        if keyframe:
            self._ask_for_keyframe(stamp)
        buffer = self.gst.Buffer.new_wrapped(self._rows(image))
        buffer.pts = stamp
        if self._input.emit("push-buffer", buffer) != self.gst.FlowReturn.OK:
            self.check()
            raise SinkError(f"{self._name}: the pipeline has ended: check its elements")
        self.check()

    def end(self) -> None:
        """No more pictures; the pipeline goes on with what it has."""
        if self._playing:
            self._input.emit("end-of-stream")

    def wait(self) -> None:
        """Until all that was handed over has left the pipeline; after `end`.

        Raises:
            SinkError: an element failed, or it takes longer than ten seconds.
        """
        kinds = self.gst.MessageType.EOS | self.gst.MessageType.ERROR
        message = self._bus.timed_pop_filtered(round(_END_S * self.gst.SECOND), kinds) if self._playing else None
        if self._playing and message is None:
            raise SinkError(f"{self._name}: did not finish in {_END_S:g} s: its output may be cut short")
        self._raise(message)

    def check(self) -> None:
        """Raises the error of an element, if there is one."""
        self._raise(self._bus.pop_filtered(self.gst.MessageType.ERROR))

    def close(self) -> None:
        """Lets go of the pipeline; one that doesn't stop is left behind."""
        self._playing = False
        stopper = threading.Thread(target=self.pipeline.set_state, args=(self.gst.State.NULL,), daemon=True)
        stopper.start()
        stopper.join(TIMEOUT_S)

    def _parse(self, text: str) -> Any:
        from gi.repository import GLib

        try:
            pipeline = self.gst.parse_launch(text)
        except GLib.Error as error:
            message = shown(error.message)
            raise SinkError(
                f"{self._name}: not a pipeline of GStreamer: {message}: try it with gst-launch-1.0"
            ) from None
        return pipeline

    def _raise(self, message: Any) -> None:
        if message is not None and message.type == self.gst.MessageType.ERROR:
            error, _details = message.parse_error()
            text = shown(" ".join(error.message.split()))
            raise SinkError(f"{self._name}: {message.src.get_name()}: {text}: check the pipeline")

    def _ask_for_keyframe(self, stamp: int) -> None:
        event = self._video.video_event_new_downstream_force_key_unit(stamp, stamp, stamp, True, 0)
        self._input.get_static_pad("src").push_event(event)

    def _rows(self, image: Image) -> bytes:
        height, width = image.shape[:2]
        if self._row == width * 3:
            return image.tobytes()
        import numpy as np

        rows = np.zeros((height, self._row), np.uint8)
        rows[:, : width * 3] = image.reshape(height, width * 3)
        return rows.tobytes()
