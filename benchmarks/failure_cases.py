"""Draws what the built-in model finds of one face under conditions that get harder: ``docs/failure-cases.jpg``.

    python benchmarks/failure_cases.py OUT.jpg [--model small]

The face is the astronaut of scikit-image's pictures (NASA, public domain). A green frame: the face was found at
the default threshold; red: missed. Boxes are green where they are the face and yellow where they are none.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.data import astronaut

from dartblur import load_bundle
from dartblur.backends.cpu import CpuBackend
from dartblur_train.data.augmentation import compress, in_light, move, put_on_mask

Image = NDArray[np.uint8]
Point = tuple[float, float]
FACE, CENTRE = (172, 68, 268, 196), (220.0, 110.0)
TILE = 320
FOUND, FALSE, MISSED = (80, 200, 80), (60, 200, 230), (60, 60, 230)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="small")
    args = parser.parse_args()
    bundle = load_bundle(args.model)
    backend, threshold = CpuBackend(bundle), bundle.manifest.threshold
    rows = []
    for name, steps in cases().items():
        tiles = [tile(backend, threshold, picture, centre, f"{name} {label}") for label, picture, centre in steps]
        rows.append(np.hstack(tiles))
    cv2.imwrite(str(args.out), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 80])


def cases() -> dict[str, Iterator[tuple[str, Image, Point]]]:
    """By name, four steps each: what to call it, the picture, and where the face is."""
    whole = np.ascontiguousarray(astronaut()[..., ::-1])
    random = np.random.default_rng(0)

    def steps(
        change: Callable[[float], Image], values: tuple[float, ...], label: str = "{:g}"
    ) -> Iterator[tuple[str, Image, Point]]:
        return ((label.format(value), change(value), CENTRE) for value in values)

    def turned(angle: float) -> Image:
        matrix = cv2.getRotationMatrix2D(CENTRE, angle, 1.0)
        return cv2.warpAffine(whole, matrix, (512, 512), borderValue=(110, 110, 110)).astype(np.uint8)

    def covered(share: float) -> Image:
        image = whole.copy()
        image[int(FACE[3] - share * (FACE[3] - FACE[1])) : FACE[3] + 10, FACE[0] - 10 : FACE[2] + 10] = (60, 60, 60)
        return image

    def small(pixels: float) -> tuple[str, Image, Point]:
        canvas = np.full((640, 640, 3), 110, np.uint8)
        side = round(512 * pixels / 110)
        canvas[60 : 60 + side, 60 : 60 + side] = cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA)
        return f"{pixels:g} px", canvas, (60 + CENTRE[0] * side / 512, 60 + CENTRE[1] * side / 512)

    def masked(_: float) -> Image:
        image = whole.copy()
        put_on_mask(image, FACE, (230, 190, 130))
        return image

    def dark(share: float) -> Image:
        return in_light(whole, share, 0.002, 0.005, random)

    def both(value: float) -> Image:
        return compress(move(masked(0), value, 0.5), 15)

    return {
        "turned by": steps(turned, (30, 60, 90, 180), "{:g} degrees"),
        "covered to": steps(covered, (0.3, 0.45, 0.6, 0.75), "{:.0%}"),
        "face of": (small(pixels) for pixels in (24, 14, 10, 7)),
        "light": steps(dark, (1 / 8, 1 / 32, 1 / 64, 1 / 128), "{:.1%}"),
        "mask, JPEG 15, motion of": steps(both, (5, 15, 25, 40), "{:g} px"),
    }


def tile(backend: CpuBackend, threshold: float, picture: Image, face: Point, text: str) -> Image:
    """The picture with what was found; its frame tells whether the face was among it."""
    found = backend.detect(picture, threshold)
    shown, scale = picture.copy(), picture.shape[0] / TILE
    seen = False
    for (x0, y0, x1, y1), score in zip(found.boxes, found.scores, strict=True):
        of_face = x0 < face[0] < x1 and y0 < face[1] < y1
        seen |= of_face
        cv2.rectangle(shown, (int(x0), int(y0)), (int(x1), int(y1)), FOUND if of_face else FALSE, round(2 * scale))
        text += f"  {score:.2f}"
    shown = cv2.resize(shown, (TILE, TILE), interpolation=cv2.INTER_AREA)
    colour = FOUND if seen else MISSED
    cv2.rectangle(shown, (0, 0), (TILE - 1, 22), (0, 0, 0), cv2.FILLED)
    cv2.putText(shown, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    cv2.rectangle(shown, (0, 0), (TILE - 1, TILE - 1), colour, 2)
    return shown.astype(np.uint8, copy=False)


if __name__ == "__main__":
    main()
