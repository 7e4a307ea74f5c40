"""Processes that overwrite the faces of pictures, each picture whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..data.cache import read_bgr
from ..data.labels import FaceImage
from ..data.problems import DataError
from ..generators import load_generator
from ..methods import Method, build_method
from .target import partial, sha256

FACES_AT_ONCE = 256
"""Patches that go through the generator together: a crowd of two thousand would need gigabytes."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class Encoder(Protocol):
    """Writes a picture's new pixels in the format and with the notes of its source, but for what could show a face.

    It travels to other processes, so it has to be picklable.
    """

    def __call__(
        self, source: Path, target: Path, image: NDArray[np.uint8], covered: NDArray[np.float32], quality: int
    ) -> bool:
        """Writes a picture.

        Args:
            source: whose format and notes are kept.
            target: the file to write.
            image: uint8 ``[H, W, 3]`` BGR as shown; the file must need no turning.
            covered: boxes ``[n, 4]`` xyxy pixels that were overwritten.
            quality: of a lossy format, 1..100.

        Returns:
            Whether the source's notes turn it: annotations that are in its stored pixels would miss the faces.
        """
        ...


@dataclass(frozen=True)
class Job:
    """What a worker needs for one picture.

    Attributes:
        name: of the picture, relative to both folders.
        record: where it is, and its faces.
        source, target: folders of the data set and of the copy.
        method, generator: see `build_method`.
        box_scale: how much larger than the face the overwritten box is.
        encode: writes the picture.
        quality: for `encode`.
    """

    name: str
    record: FaceImage
    source: Path
    target: Path
    method: str
    generator: Path | None
    box_scale: float
    encode: Encoder
    quality: int


@dataclass(frozen=True)
class Outcome:
    """What has become of a picture; `reason` says why it was left out."""

    name: str
    reason: str = ""
    sha256: str = ""
    turned: bool = False


@contextmanager
def worker_processes(count: int) -> Iterator[Callable[[list[Job]], list[Future[Outcome]]]]:
    """Processes that anonymize pictures; they end with this block, however that ends, and with this process."""
    if not count:
        yield lambda jobs: []
        return
    # Not forked: torch's threads don't survive that.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, _start_worker)

    def submit(jobs: list[Job]) -> list[Future[Outcome]]:
        with _signals_later():
            return [pool.submit(_redact, job) for job in jobs]

    try:
        yield submit
    except BrokenProcessPool as error:
        raise DataError(
            "a worker ended by itself, maybe for want of memory: run the same command again with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _signals_later() -> Iterator[None]:
    """Puts signals off for a block in which processes are started, which stay deaf to them.

    Ctrl-C goes to all processes of a terminal. What is blocked here the workers inherit, from their first instruction
    on, so that only this process hears it, and tells them to end. Another of its threads may take the signal
    meanwhile; if its handler broke off the start of a worker, half of one would be left.
    """
    caught: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    replaced = [number for number, handler in handlers.items() if callable(handler)]
    if threading.current_thread() is not threading.main_thread():
        replaced = []  # signals are handled in the main thread only
    for number in replaced:
        signal.signal(number, lambda got, frame: caught.append(got))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in replaced:
            signal.signal(number, handlers[number])
        if caught:
            signal.raise_signal(caught[0])


def _start_worker() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent can't end its workers, and they would wait for its next word for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _redact(job: Job) -> Outcome:
    """Runs in a worker: one picture, whole or not at all."""
    target = job.target / job.name
    pending = partial(target)
    try:
        image = read_bgr(job.record.path)
        _check_faces(job.record, image)
        boxes = _grown(job.record.boxes, job.box_scale)
        redacted = _overwritten(image, boxes, job)
        target.parent.mkdir(parents=True, exist_ok=True)
        turned = job.encode(job.record.path, pending, redacted, boxes, job.quality)
        digest = sha256(pending)
        pending.replace(target)
    except Exception as error:
        # Whatever it was: the picture is not written, and the others go on. A full disk is not the picture's fault.
        pending.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise DataError(f"{job.target}: {error.strerror}: free some space and run the same again") from error
        text = " ".join((str(error) or type(error).__name__).split())
        return Outcome(job.name, text.replace(str(job.source) + os.sep, ""))
    return Outcome(job.name, "", digest, turned)


def _check_faces(record: FaceImage, image: NDArray[np.uint8]) -> None:
    """Raises `DataError` if a face lies outside: the annotation isn't of this picture, or not this way up."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = record.boxes.T
    outside = ((x0 >= width) | (y0 >= height) | (x1 <= 0) | (y1 <= 0)) & ~record.ignored
    if outside.any():
        got = " ".join(f"{value:g}" for value in record.boxes[outside][0])
        raise DataError(f"expected faces in the picture of {width} x {height}, got one outside of it, at {got}")


def _grown(boxes: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    # Where nothing grows, nothing is rounded either.
    return boxes if scale == 1 else np.hstack([centres - halves * scale, centres + halves * scale]).astype(np.float32)


def _overwritten(image: NDArray[np.uint8], boxes: NDArray[np.float32], job: Job) -> NDArray[np.uint8]:
    method, mode = _method(job.method, job.generator)
    # A whole frame costs the same for any number of faces, and each of them is seen beside the others.
    step = len(boxes) if mode == "frame" else FACES_AT_ONCE
    for first in range(0, len(boxes), max(1, step)):
        image = method(image, boxes[first : first + step])
    return image


@lru_cache(maxsize=1)
def _method(name: str, generator: Path | None) -> tuple[Method, str | None]:
    """Once in each worker."""
    mode = None if generator is None else load_generator(generator)[1].metadata["mode"]
    return build_method(name, generator), mode
