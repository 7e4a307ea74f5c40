"""A data set in WIDER FACE's layout, drawn: grey ovals with eyes on textured ground."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dartblur_train.nets.retinaface import RetinaFace


def draw_picture(random: np.random.Generator, size: int = 160) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """A picture and its faces as x, y, w, h."""
    picture = cv2.resize(random.integers(0, 120, (10, 10, 3), np.uint8), (size, size))
    faces = []
    for column in range(2):
        w = int(random.integers(24, 56))
        h = int(w * 1.3)
        x = int(random.integers(0, size // 2 - w)) + column * size // 2
        y = int(random.integers(0, size - h))
        centre = (x + w // 2, y + h // 2)
        cv2.ellipse(picture, centre, (w // 2, h // 2), 0, 0, 360, (150, 180, 220), -1)
        for side in (-1, 1):
            cv2.circle(picture, (centre[0] + side * w // 5, y + h // 3), max(2, w // 10), (30, 20, 20), -1)
        faces.append((x, y, w, h))
    return picture, faces


@pytest.fixture(scope="session")
def drawn_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``widerface/`` (12 training and 4 validation pictures), ``celeba/`` and ``lfw/``."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        images = root / "widerface" / part / "images" / "0--Drawn"
        images.mkdir(parents=True)
        lines = []
        for number in range(count):
            picture, faces = draw_picture(random)
            cv2.imwrite(str(images / f"{number}.png"), picture)
            lines += [f"0--Drawn/{number}.png", str(len(faces))]
            lines += [f"{x} {y} {w} {h} 0 0 0 0 0 0 " for x, y, w, h in faces]
        split = root / "widerface" / "wider_face_split"
        split.mkdir(exist_ok=True)
        (split / f"wider_face_{part}_bbx_gt.txt").write_text("\n".join(lines) + "\n")
    for name in ("celeba", "lfw"):
        images = root / name / "images"
        images.mkdir(parents=True)
        lines = []
        for number in range(3):
            picture, faces = draw_picture(random)
            cv2.imwrite(str(images / f"{number}.png"), picture)
            lines.append(f"# {number}.png")
            lines += [f"{x} {y} {w} {h} " + "-1 -1 -1 " * 5 + "0.9" for x, y, w, h in faces]
        (root / name / "label.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def retinaface_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the layout of the published ones."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "retinaface.pth"
    torch.save(RetinaFace().state_dict(), file)
    return file
