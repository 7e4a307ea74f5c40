"""Images and their faces, ready to be drawn: decoded once where memory allows it, for decoding costs most."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from .labels import FaceImage
from .problems import DataError, Problems

ATTEMPTS = 100
"""Draws before a set is taken to hold nothing that can be used."""


class ImageSet(Protocol):
    """Annotated images to draw training samples from.

    Attributes:
        problems: what could not be used, so far.
    """

    problems: Problems

    def __len__(self) -> int:
        """Number of images."""
        ...

    def draw(self, random: np.random.Generator, position: int) -> tuple[FaceImage, NDArray[np.uint8]]:
        """An annotated image, and its pixels as uint8 ``[H, W, 3]`` BGR.

        Args:
            random: chooses the image; the same state and position give the same one.
            position: running number of the sample, from 0; sets that stream keep the draws of near positions together.
        """
        ...


def read_bgr(path: Path) -> NDArray[np.uint8]:
    """The image as uint8 ``[H, W, 3]`` BGR; raises `DataError` when it can't be read or is cut short."""
    try:
        return decode_bgr(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: expected a readable image, got {error.strerror}") from error


def decode_bgr(data: bytes, name: str) -> NDArray[np.uint8]:
    """An encoded image as uint8 ``[H, W, 3]`` BGR, turned as its EXIF says; `name` is for the `DataError`."""
    # OpenCV fills the rest of an image that is cut short with grey. Inside of a JPEG's scan no marker can occur, so
    # an end that belongs to the image comes after the last start of a scan.
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise DataError(f"{name}: expected a readable image, got a JPEG that is cut short")
    if data.startswith(b"\x89PNG") and b"IEND" not in data[-64:]:
        raise DataError(f"{name}: expected a readable image, got a PNG that is cut short")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise DataError(f"{name}: expected a readable image, OpenCV could not decode it")
    return image.astype(np.uint8, copy=False)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, as `read_bgr` would give them, from the header; raises `DataError`."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            # Of a TIFF, Pillow tells the size as it is shown.
            return (height, width) if turned and image.format != "TIFF" else (width, height)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: expected a readable image, got {error}") from error


def sizes_or_errors(paths: Sequence[Path], threads: int = 2) -> list[tuple[int, int] | DataError]:
    """`image_size` of each file, or why there is none, in order."""

    def size(path: Path) -> tuple[int, int] | DataError:
        try:
            return image_size(path)
        except DataError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(size, paths))


def report_unreadable(path: Path | str, error: DataError, problems: Problems) -> None:
    """Reports an image that can't be used."""
    problems.report(str(path), f"unreadable image: {str(error).removeprefix(f'{path}: ')}")


def without_faces_outside(record: FaceImage, size: tuple[int, int], problems: Problems) -> FaceImage:
    """The record without faces that lie wholly outside the picture, which are reported; ignored ones may.

    Args:
        record: boxes in the picture's pixels.
        size: the picture's width and height.
        problems: takes the faces.
    """
    width, height = size
    boxes = record.boxes
    inside = (boxes[:, 0] < width) & (boxes[:, 1] < height) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0) | record.ignored
    if inside.all():
        return record
    for box in boxes[~inside]:
        got = " ".join(f"{value:g}" for value in box)
        problems.report(
            str(record.path), f"box outside the picture: expected corners within {width} x {height}, got {got}"
        )
    return FaceImage(record.path, boxes[inside], record.ignored[inside], record.landmarks[inside])


class ImageCache:
    """Annotated images of some records, an `ImageSet`.

    The first that fit into `memory` are decoded once and kept, the others decoded each time they are asked for.

    Args:
        records: what to hold.
        problems: takes unreadable images and faces outside their picture; None refuses them.
        memory: bytes of pixels to keep.
        threads: that read files.

    Attributes:
        records: those of them whose image is readable.

    Raises:
        DataError: something is refused, or no image is left.
    """

    def __init__(
        self,
        records: Sequence[FaceImage],
        problems: Problems | None = None,
        memory: int = 6 * 2**30,
        threads: int = 2,
    ) -> None:
        self.problems = problems or Problems()
        usable: list[FaceImage] = []
        sizes: list[tuple[int, int]] = []
        for record, size in zip(records, sizes_or_errors([r.path for r in records], threads), strict=True):
            if isinstance(size, DataError):
                report_unreadable(record.path, size, self.problems)
            else:
                usable.append(without_faces_outside(record, size, self.problems))
                sizes.append(size)
        kept = int(np.searchsorted(np.cumsum([width * height * 3 for width, height in sizes]), memory, side="right"))
        decoded, self._images = self._decode(usable[:kept], threads)
        self.records = decoded + usable[kept:]
        if not self.records:
            raise DataError(f"expected images to train on, got none that is readable out of {len(records)}")

    def _decode(self, records: Sequence[FaceImage], threads: int) -> tuple[list[FaceImage], list[NDArray[np.uint8]]]:
        def image(record: FaceImage) -> NDArray[np.uint8] | DataError:
            try:
                return read_bgr(record.path)
            except DataError as error:
                return error

        good: list[FaceImage] = []
        images: list[NDArray[np.uint8]] = []
        with ThreadPoolExecutor(threads) as pool:
            for record, result in zip(records, pool.map(image, records), strict=True):
                if isinstance(result, DataError):
                    report_unreadable(record.path, result, self.problems)
                else:
                    good.append(record)
                    images.append(result)
        return good, images

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The image of ``records[index]`` as uint8 ``[H, W, 3]`` BGR; raises `DataError`."""
        return self._images[index] if 0 <= index < len(self._images) else read_bgr(self.records[index].path)

    def draw(self, random: np.random.Generator, position: int) -> tuple[FaceImage, NDArray[np.uint8]]:
        """Any of the images, all alike; see `ImageSet.draw`."""
        for _ in range(ATTEMPTS):
            index = int(random.integers(len(self)))
            try:
                return self.records[index], self[index]
            except DataError as error:
                report_unreadable(self.records[index].path, error, self.problems)
        raise DataError(f"expected readable images, got {ATTEMPTS} in a row that are not")
