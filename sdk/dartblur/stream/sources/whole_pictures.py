"""Decodes a video, and passes nothing on that isn't as it was sent.

After a lost or damaged packet decoders go on and smear older pictures over what is missing, and a face that is smeared
isn't found by a detector. So everything is left out from there to the next key frame, and counted.
"""

from __future__ import annotations

from typing import Any

import av

from .h264 import Continuity

_ERRORS = {"err_detect": "explode+crccheck+bitstream+buffer"}


class WholePictures:
    """Decodes the packets of one stream, of which nothing has been decoded yet.

    Args:
        stream: of a container.
        live: each picture as soon as it can be had; otherwise as many threads as there are, which hold some back.

    Attributes:
        damaged: packets that couldn't be decoded, and those after them that were left out until the next key frame.
    """

    def __init__(self, stream: Any, *, live: bool) -> None:
        self.damaged = 0
        self._context = context = stream.codec_context
        context.options = {**_ERRORS, "flags": "low_delay"} if live else dict(_ERRORS)
        self._continuity: Continuity | None = None
        self._key_pts: int | None = None
        self._began, self._waiting = False, not context.codec.intra_only
        h264, extradata = context.name == "h264", context.extradata or b""
        in_file_form = extradata[:1] == b"\x01"  # lengths in place of start codes: MP4, Matroska, FLV
        if h264 and not in_file_form:
            self._continuity = Continuity(extradata)
        if h264 and (live or not in_file_form):
            context.thread_count = 1  # several threads of this decoder keep some errors to themselves
        else:
            context.thread_type = "SLICE" if live else "AUTO"  # threads by frame hold frames back
        self._in_time = live or self._continuity is not None
        """Whether an error is of the packet that it comes with; threads by frame tell it with a later one."""

    def decode(self, packet: Any) -> list[av.VideoFrame]:
        """The pictures that can be had with the next packet of the stream; give it also the empty one at the end."""
        whole = self._is_whole(packet)
        if self._waiting and packet.size and not packet.is_keyframe:
            self.damaged += self._began  # before the first key frame there is nothing to be missed
            return []
        if self._waiting and whole:
            self._key_pts = packet.pts
        frames = self._pictures(packet) if whole else None
        if frames is not None:
            self._began, self._waiting = True, False
            return frames
        self.damaged += 1
        earlier = [] if whole else self._held_back()
        self._context.flush_buffers()
        self._waiting = not self._context.codec.intra_only
        return earlier

    def _is_whole(self, packet: Any) -> bool:
        if not packet.size:  # the end: the decoder's last frames
            return True
        seen = None if self._continuity is None else self._continuity.look(bytes(packet))
        if packet.is_corrupt or (seen is not None and not seen.whole):
            return False
        return seen is None or seen.follows or bool(packet.is_keyframe)

    def _pictures(self, packet: Any) -> list[av.VideoFrame] | None:
        """The pictures of a packet; None if it is damaged, so that those after it are as well."""
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            # Pictures shown before a key frame but sent after it need those before it, which nothing else does.
            known = self._in_time and packet.pts is not None and self._key_pts is not None
            leading = known and packet.pts < self._key_pts
            self.damaged += leading
            return [] if leading else None
        return None if any(frame.is_corrupt for frame in frames) else frames

    def _held_back(self) -> list[av.VideoFrame]:
        """The pictures before a packet that hasn't been decoded."""
        try:
            return [frame for frame in self._context.decode(None) if not frame.is_corrupt]
        except av.error.FFmpegError:
            return []
