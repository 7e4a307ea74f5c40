"""What all kinds of training samples share: they are numbered, and a number always gives the same sample."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from .cache import ImageSet
from .labels import FaceImage
from .problems import DataError

Sample = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]
"""``(image [S, S, 3] uint8 BGR, boxes [n, 4] float32 xyxy pixels within it, ignored [n] bool)``."""


class DrawnSamples(Dataset[Sample]):
    """Samples by number, each a pure function of seed and number.

    So a run that resumes asks for the numbers that are left, and any number of workers gives the same samples.

    Args:
        sets: data sets.
        weights: how often an image is drawn from each of them.
        seed: of everything that is random.

    Raises:
        DataError: there is not one weight, 0 or more, for each set.
    """

    def __init__(self, sets: Sequence[ImageSet], weights: Sequence[float], seed: int) -> None:
        shares = np.asarray(weights, float)
        if len(sets) != len(shares) or not len(sets) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
            raise DataError(f"expected a weight of 0 or more for each of {len(sets)} data sets, got {list(weights)}")
        self._sets, self._weights, self._seed = sets, shares / shares.sum(), seed

    def __len__(self) -> int:
        """As good as endless."""
        return sys.maxsize

    def __getitem__(self, index: int) -> Sample:
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # workers are the threads
        return self._sample(np.random.default_rng((self._seed, index)), index)

    def _draw(self, random: np.random.Generator, index: int) -> tuple[FaceImage, NDArray[np.uint8]]:
        """An image out of one of the sets."""
        return self._sets[int(random.choice(len(self._sets), p=self._weights))].draw(random, index)

    @abstractmethod
    def _sample(self, random: np.random.Generator, index: int) -> Sample: ...


def flip(image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Mirrors an image ``[H, W, 3]`` and its xyxy boxes ``[n, 4]`` left to right."""
    width = image.shape[1]
    mirrored = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    return np.ascontiguousarray(image[:, ::-1]), mirrored


def clip(boxes: NDArray[np.float32], region: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """The parts of xyxy boxes ``[n, 4]`` within an xyxy region; a box outside it has no area then."""
    x0, y0, x1, y1 = region
    return boxes.clip(np.array([x0, y0, x0, y0], np.float32), np.array([x1, y1, x1, y1], np.float32))


def collate(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``images [N, 3, S, S]`` uint8 (channels last), ``faces [N, M, 4]``, ``valid`` and ``ignored [N, M]``."""
    most = max(1, *(len(boxes) for _, boxes, _ in samples))
    faces = torch.zeros(len(samples), most, 4)
    valid = torch.zeros(len(samples), most, dtype=torch.bool)
    ignored = torch.zeros_like(valid)
    for row, (_, boxes, ignore) in enumerate(samples):
        faces[row, : len(boxes)] = torch.from_numpy(boxes)
        valid[row, : len(boxes)] = True
        ignored[row, : len(boxes)] = torch.from_numpy(ignore)
    images = torch.from_numpy(np.stack([image for image, _, _ in samples])).permute(0, 3, 1, 2)
    return images, faces, valid, ignored
