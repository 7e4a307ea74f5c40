"""From the pixels of a video to BGR and back, without a shift.

Video stores brightness and two colour differences, by one of several matrices, over the whole 0..255 or part of it.
Both ways here use the same matrix and range, read from the stream, and round instead of cutting off: on real frames
brightness comes back as it was (cutting off loses more than one level of it), and so do colours in limited range;
in full range they lose half a level, inside swscale.
"""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from ...frame import Image

LIMITED, FULL = 1, 2
_RGB, _UNSPECIFIED = 0, 2
_BT709, _BT601 = 1, 5

# Numbers of swscale, for PyAV's enumeration grew over the versions.
_BILINEAR, _AREA = 2, 32
_FULL_CHROMA_OUT, _FULL_CHROMA_IN, _ROUND = 1 << 13, 1 << 14, 1 << 18
_TO_BGR = _BILINEAR | _FULL_CHROMA_OUT | _ROUND
_TO_VIDEO = _AREA | _FULL_CHROMA_IN | _ROUND

_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7}
if int(av.__version__.split(".")[0]) >= 18:  # earlier ones don't know BT.2020
    _MATRICES[9] = 9
"""What swscale calls the matrices of H.273. For the rest both ways take BT.601, so that colours still come back."""


@dataclass(frozen=True, slots=True)
class ColourTags:
    """How a video's numbers mean colours, as H.273 numbers them: they are kept in the output.

    Attributes:
        primaries, transfer, matrix: 2 where unspecified.
        range: 1 limited (16..235), 2 full (0..255).
    """

    primaries: int
    transfer: int
    matrix: int
    range: int

    @classmethod
    def of(cls, frame: av.VideoFrame) -> ColourTags:
        """Those of a decoded frame; what is RGB will be stored by BT.709 in limited range."""
        if frame.format.is_rgb:
            return cls(frame.color_primaries, frame.color_trc, _BT709, LIMITED)
        full = frame.color_range == FULL or frame.format.name.startswith("yuvj")
        return cls(frame.color_primaries, frame.color_trc, frame.colorspace, FULL if full else LIMITED)

    @property
    def sws_matrix(self) -> int:
        """The matrix to convert with, as swscale counts."""
        return _MATRICES.get(self.matrix, _BT601)


class ToBgr:
    """Turns decoded frames into BGR arrays of one size."""

    def __init__(self, width: int, height: int, tags: ColourTags) -> None:
        self._size = width, height
        self._tags = tags
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Image:
        """The frame's pixels, in memory of their own, as uint8 ``[H, W, 3]`` BGR."""
        width, height = self._size
        rgb = frame.format.is_rgb
        bgr = self._reformatter.reformat(
            frame,
            width,
            height,
            "bgr24",
            src_colorspace=None if rgb else self._tags.sws_matrix,
            src_color_range=None if rgb else self._tags.range,
            interpolation=_TO_BGR,
            threads=1,
        )
        plane = bgr.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
        image = np.ascontiguousarray(rows[:, : width * 3]).reshape(height, width, 3)
        # A decoder that gives BGR itself may go on using this memory for its next frames.
        return image.copy() if bgr is frame else image


class FromBgr:
    """Turns BGR arrays into frames for an encoder."""

    def __init__(self, pixel_format: str, tags: ColourTags) -> None:
        self._format = pixel_format
        self._tags = tags
        self._reformatter = VideoReformatter()

    def __call__(self, image: Image) -> av.VideoFrame:
        """A frame with the pixels of uint8 ``[H, W, 3]`` BGR."""
        bgr = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), "bgr24")
        frame = self._reformatter.reformat(
            bgr,
            format=self._format,
            dst_colorspace=self._tags.sws_matrix,
            dst_color_range=self._tags.range,
            interpolation=_TO_VIDEO,
            threads=1,
        )
        frame.color_primaries, frame.color_trc = self._tags.primaries, self._tags.transfer
        frame.colorspace, frame.color_range = self._tags.matrix, self._tags.range
        return frame
