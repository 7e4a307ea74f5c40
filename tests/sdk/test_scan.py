"""Where the detector looks, and how what it sees is put together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dartblur.backends.cpu import CpuBackend
from dartblur.backends.scan import (
    OVERLAP,
    SIZES,
    Area,
    Scan,
    areas_of,
    size_for,
    tiles_for,
)
from dartblur.bundle import load_bundle
from dartblur.errors import InputError

SIDES = st.integers(1, 4000)


@given(SIDES, SIDES, st.integers(64, 2000), st.integers(1, 6), st.integers(1, 6))
def test_tiles_cover_the_frame_and_a_face_of_the_overlap_is_whole_in_one(
    height: int, width: int, size: int, columns: int, rows: int
) -> None:
    whole, *tiles = areas_of(height, width, size, (columns, rows), own=2000)
    assert whole == Area(0, 0, width, height, size)
    assert len(tiles) == columns * rows
    spans = {(tile.x0, tile.x1) for tile in tiles}
    length = max(x1 - x0 for x0, x1 in spans)
    face = int(OVERLAP * length) - 1
    for start in range(max(1, width - max(face, 1) + 1)):
        assert any(x0 <= start and start + max(face, 1) <= x1 for x0, x1 in spans)
    for tile in tiles:
        assert 0 <= tile.x0 < tile.x1 <= width
        assert 0 <= tile.y0 < tile.y1 <= height
        assert tile.size <= max(tile.x1 - tile.x0, tile.y1 - tile.y0), "never enlarged"


def test_a_larger_size_is_looked_at_besides_the_models_own() -> None:
    """Else a face that fills the frame, which the model finds at its own size, would be too large for it."""
    assert [area.size for area in areas_of(1080, 1920, 1280, None, own=640)] == [1280, 640]
    assert [area.size for area in areas_of(1080, 1920, 704, None, own=640)] == [704, 640]
    assert [area.size for area in areas_of(1080, 1920, 640, None, own=640)] == [640]


@given(SIDES, SIDES, st.floats(1e-4, 1), st.floats(1e-4, 10))
def test_auto_fits_the_frame_and_the_budget_but_never_looks_less_closely(
    height: int, width: int, seconds: float, budget: float
) -> None:
    size = size_for(height, width, 640, seconds, budget)
    assert size >= 640
    if size > 640:
        assert (size / 640) ** 2 * seconds * min(height, width) / max(height, width) <= budget
        assert size <= next((s for s in SIZES if s >= max(height, width)), SIZES[-1])


@pytest.mark.parametrize(
    ("height", "width", "tiles"), [(720, 1280, None), (1080, 1920, (2, 1)), (2160, 3840, (4, 2)), (3840, 2160, (2, 4))]
)
def test_auto_tiles_shrink_none_to_less_than_half(height: int, width: int, tiles: tuple[int, int] | None) -> None:
    assert tiles_for(height, width, 640) == tiles
    for area in areas_of(height, width, 640, tiles, own=640)[1:]:
        assert max(area.x1 - area.x0, area.y1 - area.y0) <= 2 * area.size


@pytest.mark.parametrize(
    ("size", "tiles", "budget", "message"),
    [
        ("large", None, None, "detect size: expected 'auto' or pixels"),
        ("12", None, None, "detect size: expected 64 to 4096 pixels, got 12"),
        (None, "3by2", None, "tiles: expected 'auto' or columns x rows"),
        (None, "1x1", None, "tiles: expected 2 to 64"),
        (None, "0x4", None, "tiles: expected 2 to 64"),
        ("auto", None, -1.0, "detect budget: expected seconds above 0"),
        ("640", None, 0.1, "detect budget: is for the detect size 'auto'"),
    ],
)
def test_bad_scans_are_refused(size: str | None, tiles: str | None, budget: float | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Scan.of_text(size, tiles, budget)


def test_small_faces_of_a_large_frame_are_found_in_tiles_and_at_a_larger_size(face_scene: np.ndarray) -> None:
    """Faces of some 30 px in 2560x1440: 8 px for the detector's own look."""
    frame, faces = face_scene
    plain, tiled, large = (
        len(_hits(CpuBackend(load_bundle(), scan=scan).detect(frame, 0.3).boxes, faces))
        for scan in (None, Scan(tiles="auto"), Scan(size=2560))
    )
    assert plain < len(faces)
    assert tiled == len(faces)
    assert large == len(faces)


def test_what_a_tile_cuts_off_does_not_take_the_place_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CpuBackend(load_bundle(), scan=Scan(tiles=(2, 1)))
    whole, part = (250.0, 100.0, 350.0, 220.0), (274.0, 100.0, 350.0, 220.0)
    alone = (274.0, 250.0, 300.0, 290.0)
    seen = {0: [(*whole, 0.6)], 274: [(*part, 0.7), (*alone, 0.9)]}

    def look(_image: np.ndarray, area: Area, _threshold: float) -> tuple[np.ndarray, np.ndarray]:
        rows = np.array(seen[area.x0] if area.x1 == 640 else np.zeros((0, 5)), np.float32)
        return rows[:, :4], rows[:, 4]

    monkeypatch.setattr(backend, "_look", look)
    found = backend.detect(np.zeros((360, 640, 3), np.uint8), 0.3)
    assert len(found) == 2
    assert found.boxes[0].tolist() == pytest.approx(alone), "of what is cut off there is nothing else"
    assert found.boxes[1].tolist() == pytest.approx(whole, abs=1e-3)


@given(SIDES, SIDES, st.integers(1, 4), st.integers(1, 4))
def test_only_inner_borders_cut(height: int, width: int, columns: int, rows: int) -> None:
    whole, *tiles = areas_of(height, width, 640, (columns, rows), own=640)
    frame = np.array([[0, 0, width, height]], np.float32)
    assert not whole.cuts(frame, height, width).any()
    for tile in tiles:
        own = np.array([tile[:4]], np.float32)
        assert tile.cuts(own, height, width).all() == (tile[:4] != whole[:4])
        middle = own + (own[:, 2:] - own[:, :2]).repeat(2).reshape(2, 2).T.reshape(1, 4) * [0.3, 0.3, -0.3, -0.3]
        assert not tile.cuts(middle.astype(np.float32), height, width).any()


@pytest.fixture(scope="module")
def face_scene() -> tuple[np.ndarray, np.ndarray]:
    data = pytest.importorskip("skimage.data", reason="needs scikit-image's pictures")
    import cv2

    face = data.astronaut()[60:200, 150:290, ::-1]
    frame = np.full((1440, 2560, 3), 90, np.uint8)
    corners = [(x, y) for x in range(200, 2400, 500) for y in (150, 700, 1300)]
    small = cv2.resize(face, (44, 44), interpolation=cv2.INTER_AREA)
    for x, y in corners:
        frame[y : y + 44, x : x + 44] = small
    return frame, np.array([[x, y, x + 44, y + 44] for x, y in corners], np.float32)


def _hits(boxes: np.ndarray, faces: np.ndarray) -> list[int]:
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return [i for i, f in enumerate(faces) if ((centres > f[:2]) & (centres < f[2:])).all(1).any()]
