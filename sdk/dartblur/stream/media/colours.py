"""From the pixels of a video to BGR and back, without a shift.

Video stores brightness and two colour differences, by one of several matrices, over the whole 0..255 or part of it.
Both ways here use the same matrix and range, read from the stream, and round instead of cutting off: on real frames
brightness and colours come back as they were (cutting off loses more than one level of brightness).

What nearly all video is, 8 bits in 4:2:0, goes through the native operations. They place colours where H.264 has them
unless it says otherwise; PyAV doesn't tell, but as it is the same both ways, colours come back to where they were.
Other formats, and frames whose size has changed, go through swscale: it is several times slower at this exactness. It
places colours by the frame's own tag or in the middle of their 2 x 2 pixels, so edges of strong colours may differ by
half a pixel; everything else by a level.
"""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

import dartblur_ops as ops

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

_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""Shares of red and blue in brightness, by swscale's number of the matrix: so both ways through it or not agree."""

_NATIVE = ("yuv420p", "yuvj420p", "nv12")
"""Pixel formats that the native operations take."""

Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


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

    @property
    def weights(self) -> tuple[float, float]:
        """Shares of red and blue in brightness, to convert with."""
        return _WEIGHTS[self.sws_matrix]


class ToBgr:
    """Turns decoded frames into BGR arrays of one size."""

    def __init__(self, width: int, height: int, tags: ColourTags) -> None:
        self._size = width, height
        self._tags = tags
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Image:
        """The frame's pixels, in memory of their own, as uint8 ``[H, W, 3]`` BGR."""
        width, height = self._size
        if frame.format.name in _NATIVE and (frame.width, frame.height) == self._size:
            return ops.yuv_to_bgr(*_planes(frame), self._tags.weights, self._tags.range == FULL)
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
        image = np.ascontiguousarray(image)
        frame = self._native(image) if self._format in _NATIVE else self._through_swscale(image)
        frame.color_primaries, frame.color_trc = self._tags.primaries, self._tags.transfer
        frame.colorspace, frame.color_range = self._tags.matrix, self._tags.range
        return frame

    def _native(self, image: Image) -> av.VideoFrame:
        frame = av.VideoFrame(image.shape[1], image.shape[0], self._format)
        ops.bgr_to_yuv(image, *_planes(frame), self._tags.weights, self._tags.range == FULL)
        return frame

    def _through_swscale(self, image: Image) -> av.VideoFrame:
        return self._reformatter.reformat(
            av.VideoFrame.from_numpy_buffer(image, "bgr24"),
            format=self._format,
            dst_colorspace=self._tags.sws_matrix,
            dst_color_range=self._tags.range,
            interpolation=_TO_VIDEO,
            threads=1,
        )


def _planes(frame: av.VideoFrame) -> Planes:
    """Brightness and the two colour differences of a frame in 4:2:0, where they lie."""
    width, half = frame.width, (frame.width + 1) // 2
    y, *chroma = (np.frombuffer(memoryview(p), np.uint8).reshape(-1, p.line_size) for p in frame.planes)
    if len(chroma) == 1:
        both = chroma[0][:, : 2 * half]
        return y[:, :width], both[:, ::2], both[:, 1::2]
    u, v = chroma
    return y[:, :width], u[:, :half], v[:, :half]
