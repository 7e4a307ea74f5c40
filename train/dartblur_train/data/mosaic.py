"""Training samples of the detector: scale-sampled crops and 2x2 mosaics, with pasted faces, seen in bad light.

The size that a face gets is drawn first and the image scaled to it ("data-anchor sampling", PyramidBox,
ECCV 2018, section 3.4): portraits become small faces, and every size is seen equally often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .augmentation import FacePaster, cover_parts, hardship, photometric
from .cache import ImageSet
from .labels import FaceImage
from .samples import DrawnSamples, Sample, clip, flip

FILL = 114
"""Grey of the area that no image covers."""

TILT = np.deg2rad(20.0)
"""Standard deviation of the angle of tilted pictures; a fifth as many again are turned to any angle."""


@dataclass(frozen=True)
class SampleSpec:
    """How samples are drawn.

    Attributes:
        size: side of the square samples, pixels.
        mosaic: probability of a 2x2 mosaic where one crop would fill the sample.
        face_size: range of the drawn face size (square root of area), pixels, log-uniform.
        scale: limits of the scaling that this asks for.
        native: probability that an image is instead shown at about its own size, as a detector will see it.
        native_scale: range of the scale then, log-uniform.
        tilt: probability that an image is tilted; see `TILT`.
        paste: probability that a sample gets small faces of another image pasted in.
        smallest: faces below this size, pixels, are ignored in training.
        photometric: change light, colour and sharpness.
        hard: also cover parts of faces, show the world dark, moved or badly compressed.
        max_faces: ground truth is padded to this many faces; the largest are kept, the rest left out.
    """

    size: int = 320
    mosaic: float = 0.3
    face_size: tuple[float, float] = (12.0, 240.0)
    scale: tuple[float, float] = (0.1, 2.5)
    native: float = 0.0
    native_scale: tuple[float, float] = (0.6, 1.6)
    tilt: float = 0.0
    paste: float = 0.0
    smallest: float = 7.0
    max_faces: int = 160
    photometric: bool = True
    hard: bool = False


class FaceSamples(DrawnSamples):
    """Scale-sampled crops and mosaics; what falls under `SampleSpec.smallest`, or is mostly cut off, is ignored.

    Args:
        sets: data sets.
        weights: how often an image is drawn from each of them.
        spec: how samples are drawn.
        seed: with the number of a sample it fixes the sample.
    """

    def __init__(self, sets: Sequence[ImageSet], weights: Sequence[float], spec: SampleSpec, seed: int) -> None:
        super().__init__(sets, weights, seed)
        self._spec = spec
        self._paster = FacePaster()

    def _sample(self, random: np.random.Generator, index: int) -> Sample:
        spec = self._spec
        canvas = np.full((spec.size, spec.size, 3), FILL, np.uint8)
        pieces = list(self._fill(canvas, (0, 0, spec.size, spec.size), random, index))
        faces = np.concatenate([boxes for boxes, _ in pieces])
        ignored = np.concatenate([ignore for _, ignore in pieces])
        if spec.paste and random.random() < spec.paste:
            record, image = self._draw(random, index)
            pasted = self._paster.paste(canvas, faces, image, record.boxes[~record.ignored], random)
            faces, ignored = np.concatenate([faces, pasted]), np.concatenate([ignored, _size(pasted) < spec.smallest])
        if random.random() < 0.5:
            canvas, faces = flip(canvas, faces)
        if spec.hard:
            cover_parts(canvas, faces[~ignored], random)
        if spec.photometric:
            canvas = photometric(canvas, random)
        if spec.hard:
            canvas = hardship(canvas, random)
        order = np.argsort(-_size(faces))[: spec.max_faces]
        return canvas, faces[order], ignored[order]

    def _fill(
        self,
        canvas: NDArray[np.uint8],
        cell: tuple[int, int, int, int],
        random: np.random.Generator,
        index: int,
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Fills a cell of the canvas with random images, quartering it where one would leave most of it grey.

        Yields the faces of each piece and which of them are ignored.
        """
        record, image = self._draw(random, index)
        scale, focus = self._aim(record, image, random)
        x0, y0, x1, y1 = cell
        small = image.shape[1] * scale < 0.6 * (x1 - x0) and image.shape[0] * scale < 0.6 * (y1 - y0)
        whole = cell == (0, 0, self._spec.size, self._spec.size)
        if (small and min(x1 - x0, y1 - y0) > 60) or (whole and random.random() < self._spec.mosaic):
            x, y = (int(v) for v in np.array([x0, y0]) + random.uniform(0.3, 0.7, 2) * (x1 - x0, y1 - y0))
            for quarter in ((x0, y0, x, y), (x, y0, x1, y), (x0, y, x, y1), (x, y, x1, y1)):
                yield from self._fill(canvas, quarter, random, index)
        else:
            yield self._paint(canvas, cell, record, image, scale, focus, random)

    def _paint(
        self,
        canvas: NDArray[np.uint8],
        cell: tuple[int, int, int, int],
        record: FaceImage,
        image: NDArray[np.uint8],
        scale: float,
        focus: NDArray[np.float64],
        random: np.random.Generator,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Paints a piece of the scaled image into the cell, the focus in it; returns the piece's faces."""
        x0, y0, x1, y1 = cell
        width, height = x1 - x0, y1 - y0
        aspect = random.uniform(0.9, 1.1)
        scales = np.array([scale * aspect, scale / aspect])
        middle, extent = (focus[:2] + focus[2:]) / 2, (focus[2:] - focus[:2]) * scales
        # The focus lands anywhere in the cell, whole where it fits, and the image covers the cell where it can.
        half = np.clip(0.55 * extent / (width, height), 0.15, 0.5)
        shift = random.uniform(half, 1 - half) * (width, height) - middle * scales
        room = np.array([width, height]) - np.array([image.shape[1], image.shape[0]]) * scales
        place = middle * scales + np.clip(shift, np.minimum(room, 0), np.maximum(room, 0))
        rotation = _rotation(self._angle(random))
        matrix = np.column_stack([rotation * scales, place - rotation * scales @ middle])
        warp = matrix
        if scale < 0.6:  # bilinear sampling would alias, so shrink by area first
            small = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
            shrunk = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
            warp = matrix @ np.diag([image.shape[1] / shrunk.shape[1], image.shape[0] / shrunk.shape[0], 1])
            image = shrunk.astype(np.uint8, copy=False)
        canvas[y0:y1, x0:x1] = cv2.warpAffine(image, warp, (width, height), borderValue=(FILL, FILL, FILL))
        faces = _moved(record.boxes, rotation, scales, matrix[:, 2])
        return self._clip(faces, record.ignored, cell)

    def _angle(self, random: np.random.Generator) -> float:
        """How far an image is turned, radians."""
        kind = random.random()
        if kind < self._spec.tilt:
            return float(random.normal(0, TILT))
        return float(random.uniform(-np.pi, np.pi)) if kind < 1.2 * self._spec.tilt else 0.0

    def _aim(
        self, record: FaceImage, image: NDArray[np.uint8], random: np.random.Generator
    ) -> tuple[float, NDArray[np.float64]]:
        """How much to scale the image, and what of it must be seen: an xyxy box, or a point as one."""
        spec = self._spec
        usable = np.flatnonzero(~record.ignored)
        if not len(usable):
            point = random.uniform(0, 1, 2) * (image.shape[1], image.shape[0])
            return float(random.uniform(0.4, 1.4)), np.tile(point, 2)
        face = record.boxes[int(random.choice(usable))]
        if random.random() < spec.native:
            scale = float(np.exp(random.uniform(*np.log(spec.native_scale))))
        else:
            wanted = np.exp(random.uniform(*np.log(spec.face_size)))
            scale = float(np.clip(wanted / _size(face[None])[0], *spec.scale))
        return scale, face.astype(float)

    def _clip(
        self, faces: NDArray[np.float32], ignored: NDArray[np.bool_], cell: tuple[int, int, int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        area = _size(faces) ** 2
        clipped = clip(faces + np.array(cell[:2] * 2, np.float32), cell)
        seen = _size(clipped) ** 2 / np.maximum(area, 1e-6)
        keep = seen > 0
        ignored = ignored | (_size(clipped) < self._spec.smallest) | (seen < 0.4)
        return clipped[keep], ignored[keep]


def _rotation(angle: float) -> NDArray[np.float64]:
    """Matrix ``[2, 2]`` that turns a point by an angle, radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _moved(
    boxes: NDArray[np.float32], rotation: NDArray[np.float64], scales: NDArray[np.float64], shift: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Where faces are after scaling, then turning, then shifting: xyxy ``[n, 4]``.

    The ellipse in a box is what is turned, and the box around it returned: that of a turned box would be too large.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 * scales @ rotation.T + shift
    radii = (boxes[:, 2:] - boxes[:, :2]) / 2 * scales
    extent = np.sqrt(radii**2 @ (rotation**2).T)
    return np.concatenate([centres - extent, centres + extent], axis=1).astype(np.float32)


def _size(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Square root of area."""
    size: NDArray[np.float32] = np.sqrt(np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(1))
    return size
