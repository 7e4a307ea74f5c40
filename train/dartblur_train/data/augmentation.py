"""What happens to a sample's pixels: light, sharpness, compression, covered and pasted faces.

The hardships are those under which cameras fail: night, motion, weak encoders, masks and hands. Each is rare, so that
most samples look like what a detector sees most of the time.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Boxes = NDArray[np.float32]

NIGHT, MOTION, WEAK_ENCODER, MASK = 0.06, 0.06, 0.04, 0.05
"""How often a sample is dark, moved, compressed; how often a face is partly covered."""

MASK_COLOURS = ((250, 250, 250), (30, 30, 30), (230, 190, 130), (200, 160, 90), (60, 60, 160))
"""BGR: white, black, the two blues of surgical masks, a red scarf."""


def photometric(image: Pixels, random: np.random.Generator) -> Pixels:
    """Random gain, offset, saturation and gamma; sometimes grey, blurred, noisy or compressed."""
    if random.random() < 0.5:
        gain = random.uniform(0.6, 1.4, 3) if random.random() < 0.3 else random.uniform(0.6, 1.4)
        curve = np.linspace(0, 1, 256)[:, None] ** random.uniform(0.7, 1.5) * gain + random.uniform(-0.12, 0.12)
        table = (np.broadcast_to(curve, (256, 3)).clip(0, 1) * 255).astype(np.uint8)
        image = cv2.LUT(image, table[None])  # type: ignore[assignment]
    if random.random() < 0.2:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        keep = 0.0 if random.random() < 0.4 else random.uniform(0, 1.6)
        image = cv2.addWeighted(image, keep, grey, 1 - keep, 0)  # type: ignore[assignment]
    kind = random.random()
    if kind < 0.08:
        image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.5, 1.8))  # type: ignore[assignment]
    elif kind < 0.14:
        image = np.clip(image + random.normal(0, random.uniform(2, 14), image.shape), 0, 255).astype(np.uint8)
    elif kind < 0.22:
        image = compress(image, int(random.integers(20, 75)))
    return image


def hardship(image: Pixels, random: np.random.Generator) -> Pixels:
    """Sometimes darkness, motion or strong compression."""
    if random.random() < NIGHT:
        image = night(image, random)
    if random.random() < MOTION:
        image = move(image, random.uniform(3, 13), random.uniform(0, np.pi))
    if random.random() < WEAK_ENCODER:
        image = compress(image, int(random.integers(10, 30)))
    return image


def compress(image: Pixels, quality: int) -> Pixels:
    """`image` as a JPEG of this quality brings it back."""
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)  # type: ignore[return-value]


def night(image: Pixels, random: np.random.Generator) -> Pixels:
    """A sixth to a half of the light, with more or less noise."""
    return in_light(image, random.uniform(1 / 6, 1 / 2), random.uniform(0, 0.004), random.uniform(0, 0.01), random)


def in_light(image: Pixels, share: float, shot: float, read: float, random: np.random.Generator) -> Pixels:
    """`image` in a share of its light, in the sensor's linear units, with its noise.

    Args:
        image: uint8 BGR.
        share: of the light, 0..1.
        shot: variance of the photons' noise over the light; full light is 1.
        read: deviation of the sensor's own noise.
        random: makes the noise.
    """
    light = (image / np.float32(255)) ** 2.2 * np.float32(share)
    noise = np.sqrt(light * np.float32(shot) + np.float32(read**2))
    light += noise * random.standard_normal(image.shape, np.float32)
    dark: Pixels = (light.clip(0, 1) ** np.float32(1 / 2.2) * 255 + 0.5).astype(np.uint8)
    return dark


def move(image: Pixels, length: float, angle: float) -> Pixels:
    """`image` averaged along a line: `length` in pixels, `angle` in radians."""
    side = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((side, side), np.float32)
    middle = (side - 1) / 2
    for place in np.linspace(-length / 2, length / 2, 4 * side):
        x, y = middle + place * np.cos(angle), middle + place * np.sin(angle)
        kernel[round(y), round(x)] += 1
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101).astype(
        np.uint8, copy=False
    )


def cover_parts(image: Pixels, faces: Boxes, random: np.random.Generator) -> None:
    """Hides the lower half of some faces behind a mask, or some part behind a plain thing, in place."""
    for x0, y0, x1, y1 in faces[random.random(len(faces)) < MASK]:
        width, height = x1 - x0, y1 - y0
        if min(width, height) < 12:
            continue
        if random.random() < 0.6:
            put_on_mask(image, (x0, y0, x1, y1), MASK_COLOURS[int(random.integers(len(MASK_COLOURS)))])
        else:
            share = random.uniform(0.2, 0.5, 2)
            left, top = (x0 + random.uniform(0, 1 - share[0]) * width, y0 + random.uniform(0, 1 - share[1]) * height)
            corner = round(left + share[0] * width), round(top + share[1] * height)
            colour = random.integers(0, 256, 3).tolist()
            cv2.rectangle(image, (round(left), round(top)), corner, colour, cv2.FILLED)


def put_on_mask(image: Pixels, face: tuple[float, float, float, float], colour: tuple[int, int, int]) -> None:
    """Draws a mask over nose, mouth and chin of an upright face (xyxy pixels), in place."""
    x0, y0, x1, y1 = face
    shape = ((0.05, 0.55), (0.5, 0.45), (0.95, 0.55), (0.88, 0.85), (0.6, 1.0), (0.4, 1.0), (0.12, 0.85))
    outline = [(x0 + x * (x1 - x0), y0 + y * (y1 - y0)) for x, y in shape]
    cv2.fillPoly(image, [np.round(outline).astype(np.int32)], colour, cv2.LINE_AA)


def turn(image: Pixels, boxes: Boxes, quarters: int) -> tuple[Pixels, Boxes]:
    """Turns an image ``[H, W, 3]`` and its xyxy boxes ``[n, 4]`` to the left by so many right angles."""
    for _ in range(quarters % 4):
        width = image.shape[1]
        image = np.rot90(image)
        boxes = np.stack([boxes[:, 1], width - boxes[:, 2], boxes[:, 3], width - boxes[:, 0]], 1)
    return np.ascontiguousarray(image), boxes


class FacePaster:
    """Pastes small faces of one image into another: a small face teaches as much as a large one, on fewer pixels.

    Args:
        size: range of the pasted faces (square root of area), pixels, log-uniform.
        most: faces that a sample gets.
    """

    def __init__(self, size: tuple[float, float] = (9.0, 48.0), most: int = 4) -> None:
        self._size, self._most = size, most

    def paste(self, image: Pixels, taken: Boxes, source: Pixels, faces: Boxes, random: np.random.Generator) -> Boxes:
        """Draws some of `faces` of the image `source` into `image`, in place, clear of the boxes `taken`.

        Returns:
            Where they are now, ``[n, 4]`` xyxy pixels.
        """
        large = faces[np.sqrt(np.maximum(faces[:, 2:] - faces[:, :2], 0).prod(1)) >= 20]
        pasted: list[NDArray[np.float32]] = []
        for _ in range(int(random.integers(1, self._most + 1)) if len(large) else 0):
            face = large[int(random.integers(len(large)))]
            patch, box = self._shrunk(source, face, random)
            room = np.array([image.shape[1] - patch.shape[1], image.shape[0] - patch.shape[0]])
            if (room <= 0).any():
                continue
            corner = random.integers(0, room)
            box = box + np.tile(corner, 2).astype(np.float32)
            others = np.concatenate([taken, *(item[None] for item in pasted)])
            if _touches(box, others):
                continue
            _blend(image, patch, corner, random)
            pasted.append(box)
        return np.stack(pasted) if pasted else np.zeros((0, 4), np.float32)

    def _shrunk(
        self, source: Pixels, face: NDArray[np.float32], random: np.random.Generator
    ) -> tuple[Pixels, NDArray[np.float32]]:
        """The face with its surroundings, made small, and its box therein."""
        extent = face[2:] - face[:2]
        low = np.floor(np.maximum(face[:2] - 0.3 * extent, 0)).astype(int)
        high = np.ceil(np.minimum(face[2:] + 0.3 * extent, (source.shape[1], source.shape[0]))).astype(int)
        wanted = np.exp(random.uniform(*np.log(self._size)))
        scale = min(1.0, wanted / float(np.sqrt(extent.prod())))
        size = np.maximum(np.round((high - low) * scale).astype(int), 4)
        part = source[low[1] : high[1], low[0] : high[0]]
        patch = cv2.resize(part, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA)
        real = np.tile(size / (high - low), 2)
        return patch.astype(np.uint8, copy=False), ((face - np.tile(low, 2)) * real).astype(np.float32)


def _touches(box: NDArray[np.float32], others: Boxes) -> bool:
    margin = 0.4 * (box[2:] - box[:2])
    apart = (others[:, :2] > box[2:] + margin) | (others[:, 2:] < box[:2] - margin)
    return bool((~apart.any(1)).any())


def _blend(image: Pixels, patch: Pixels, corner: NDArray[np.int64], random: np.random.Generator) -> None:
    """Draws a patch with soft edges, in about the light of the place."""
    height, width = patch.shape[:2]
    place = image[corner[1] : corner[1] + height, corner[0] : corner[0] + width]
    gain = np.clip((place.mean() + 20) / (patch.mean() + 20), 0.5, 1.6) ** random.uniform(0, 1)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    opacity = np.clip((1.0 - np.hypot(x, y)) * 4 + 0.6, 0, 1)[..., None]
    place[:] = (place * (1 - opacity) + np.clip(patch * gain, 0, 255) * opacity + 0.5).clip(0, 255)
