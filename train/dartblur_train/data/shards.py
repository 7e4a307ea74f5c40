"""WebDataset shards: tar files of images and their faces, for sets that are larger than memory or even the disk.

A sample is an image as it was encoded and, under the same key, JSON with ``boxes`` (xyxy pixels), ``ignored`` and
``landmarks`` as in `FaceImage`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from webdataset import ShardWriter, gopen
from webdataset.cache import FileCache, islocal
from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys, tar_file_expander

from .cache import ATTEMPTS, decode_bgr, report_unreadable, without_faces_outside
from .labels import IMAGE_SUFFIXES, FaceImage, face_image
from .problems import DataError, Problems

Encoded = dict[str, Any]
"""A sample as WebDataset gives it: bytes by suffix, and ``__key__``."""


def write_shards(
    records: Sequence[FaceImage], out: Path, images_per_shard: int = 1000, problems: Problems | None = None
) -> list[Path]:
    """Packs images into ``out/shard-000000.tar`` and so on; the folder appears when all are written.

    Args:
        records: what to pack; shuffle them if neighbours resemble each other.
        out: folder that doesn't exist or is empty.
        images_per_shard: the last shard may hold fewer.
        problems: takes images that can't be read; None refuses them.

    Returns:
        The shards.

    Raises:
        DataError: the folder isn't empty, there is nothing to pack, or an image is refused.
    """
    problems = problems or Problems()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: expected no folder or an empty one to write shards to")
    if not records:
        raise DataError(f"{out}: expected images to pack into shards, got none")
    hidden = out.with_name(f".{out.name}.part")
    hidden.mkdir(parents=True, exist_ok=True)
    for leftover in hidden.iterdir():
        leftover.unlink()
    # Without the time of writing the same images give the same bytes.
    with ShardWriter(str(hidden / "shard-%06d.tar"), maxcount=images_per_shard, verbose=0, mtime=0) as writer:
        for number, record in enumerate(records):
            try:
                data = record.path.read_bytes()
                decode_bgr(data, str(record.path))
            except (OSError, DataError) as error:
                report_unreadable(record.path, DataError(error), problems)
            else:
                suffix = record.path.suffix.lower().removeprefix(".")
                writer.write({"__key__": f"{number:09d}", suffix: data, "json": _faces_to_json(record)})
    hidden.rename(out)
    return sorted(out.glob("*.tar"))


class ShardSet:
    """An `ImageSet` that reads shards as training goes on, a window of them at a time.

    The shards stand in an endless sequence, shuffled anew for each round. The window holds `window` neighbours of it
    and moves on by one every `images_per_shard` positions. Images are drawn from the whole window, so what is drawn
    depends on the random state and the position only: a run that resumes draws what an uninterrupted one would. Each
    process keeps its own window in memory, encoded.

    Args:
        urls: paths or addresses of shards, with braces (``train-{000000..000009}.tar``) or a list; whatever
            `webdataset.gopen` opens: files, http(s) (by curl), and ``pipe:``, which runs the command that follows.
        window: shards to draw from at a time; more mix better and cost more memory.
        seed: of the order of the shards.
        cache: folder to keep fetched shards in; None fetches them each time that they are needed.
        cache_bytes: size that the folder is kept under, by removing the oldest.
        images_per_shard: as in `write_shards`.
        problems: takes shards and samples that can't be read; None refuses them.

    Raises:
        DataError: there is no shard, or a number isn't positive.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        window: int = 2,
        seed: int = 0,
        cache: Path | None = None,
        cache_bytes: int = 20 * 2**30,
        images_per_shard: int = 1000,
        problems: Problems | None = None,
    ) -> None:
        try:
            self._urls: list[str] = [
                url for text in ([urls] if isinstance(urls, str) else urls) for url in expand_urls(str(text))
            ]
        except (AssertionError, ValueError) as error:
            raise DataError(f"expected paths or addresses of shards, got {urls!r}: {error}") from error
        if not self._urls or min(window, images_per_shard) < 1:
            raise DataError(
                f"expected shards, window and images_per_shard of 1 or more, got {urls!r}, {window}, {images_per_shard}"
            )
        self._window, self._seed, self._images_per_shard = window, seed, images_per_shard
        self.problems = problems or Problems()
        self._cache = None
        if cache is not None:
            self._cache = FileCache(
                str(cache), url_to_name=_cache_name, cache_size=cache_bytes, cache_cleanup_interval=0
            )
        self._open: dict[int, list[Encoded]] = {}

    def __len__(self) -> int:
        """Number of images if each shard holds `images_per_shard`."""
        return len(self._urls) * self._images_per_shard

    def draw(self, random: np.random.Generator, position: int) -> tuple[FaceImage, NDArray[np.uint8]]:
        """Any image of the window at this position, all shards alike; see `ImageSet.draw`."""
        first = position // self._images_per_shard
        for attempt in range(ATTEMPTS):
            # Where a shard can't be read at all, later attempts look further on.
            number = first + int(random.integers(self._window)) + attempt // self._window
            samples = self._samples(number)
            if samples:
                sample = samples[int(random.integers(len(samples)))]
                name = f"{self._url(number)}: {sample['__key__']}"
                try:
                    record, image = _decode(sample, name)
                except DataError as error:
                    self.problems.report(name, f"corrupt sample: {str(error).removeprefix(f'{name}: ')}")
                else:
                    return without_faces_outside(record, (image.shape[1], image.shape[0]), self.problems), image
        raise DataError(f"{self._url(first)}: expected samples, got {ATTEMPTS} in a row that can't be read")

    def _url(self, number: int) -> str:
        """The shard at a place of the endless sequence."""
        round_number, place = divmod(number, len(self._urls))
        order = np.random.default_rng((self._seed, round_number)).permutation(len(self._urls))
        return self._urls[int(order[place])]

    def _samples(self, number: int) -> list[Encoded]:
        """All samples of a shard, kept until the window has left it."""
        if number not in self._open:
            while len(self._open) >= self._window:
                del self._open[max(self._open, key=lambda held: abs(held - number))]
            self._open[number] = self._read(self._url(number))
        return self._open[number]

    def _read(self, url: str) -> list[Encoded]:
        """The samples of a shard, as far as it can be read."""
        errors: list[Exception] = []

        def keep(error: Exception) -> bool:
            errors.append(error)
            return True

        samples: list[Encoded] = []
        try:
            with self._fetch(url) as stream:
                files = tar_file_expander([{"url": url, "stream": stream}], handler=keep)
                samples = list(group_by_keys(files, handler=keep))
        except (OSError, ValueError, AssertionError) as error:  # webdataset raises all of them for what isn't a shard
            errors.append(error)
        if errors:
            first = errors[0]  # webdataset appends to args, so str() would give a tuple
            reason = getattr(first, "strerror", None) or next(iter(first.args), repr(first))
            self.problems.report(url, f"corrupt shard: expected a tar file, got {reason}")
        elif not samples:
            self.problems.report(url, "corrupt shard: expected samples, got an empty tar file")
        return samples

    def _fetch(self, url: str) -> IO[bytes]:
        if self._cache is None or islocal(url):
            stream: IO[bytes] = gopen(url)
            return stream
        return Path(self._cache.get_file(url)).open("rb")


def _decode(sample: Encoded, name: str) -> tuple[FaceImage, NDArray[np.uint8]]:
    """A sample's record and pixels; raises `DataError` if there is no image, or no faces of the right form."""
    suffix = next((suffix for suffix in sample if f".{suffix}" in IMAGE_SUFFIXES), None)
    if suffix is None or "json" not in sample:
        raise DataError(f"expected an image and json, got {sorted(key for key in sample if not key.startswith('__'))}")
    image = decode_bgr(sample[suffix], name)
    return _faces_from_json(sample["json"], Path(f"{name}.{suffix}")), image


def _faces_to_json(record: FaceImage) -> bytes:
    faces = {"boxes": record.boxes, "ignored": record.ignored, "landmarks": record.landmarks}
    return json.dumps({key: value.tolist() for key, value in faces.items()}).encode()


def _faces_from_json(data: bytes, path: Path) -> FaceImage:
    try:
        faces = json.loads(data)
        boxes = np.array(faces["boxes"], np.float32).reshape(-1, 4)
        ignored = np.array(faces["ignored"], bool).reshape(len(boxes))
        marks = np.array(faces["landmarks"], np.float32).reshape(len(boxes), 5, 2)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise DataError(f"expected json with boxes, ignored and landmarks, got {error!r:.200}") from error
    sides = boxes[:, 2:] - boxes[:, :2]
    if not (np.isfinite(boxes).all() and np.isfinite(marks).all() and (sides[~ignored] > 0).all()):
        raise DataError(f"expected finite boxes with an area, got {boxes.tolist()!r:.200}")
    return face_image(path, boxes.tolist(), ignored.tolist(), list(marks))


def _cache_name(url: str) -> str:
    """A name that two shards of the same name from different places don't share."""
    return f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{Path(url).name[-80:]}"
