from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dartblur_train.data.cache import ImageCache
from dartblur_train.data.formats import read_data_set
from dartblur_train.data.labels import DataError, FaceImage, face_image
from dartblur_train.data.mosaic import FaceSamples, SampleSpec
from dartblur_train.data.published import PublishedSamples
from dartblur_train.data.samples import DrawnSamples, Sample, clip, collate, flip


class OneImage:
    """An image set of one image in memory."""

    def __init__(self, image: np.ndarray, boxes: list[list[float]], ignored: list[bool] | None = None) -> None:
        self.image, self.record = image, face_image(Path("one"), boxes, ignored)

    def __len__(self) -> int:
        return 1

    def draw(self, random: np.random.Generator, position: int) -> tuple[FaceImage, np.ndarray]:
        return self.record, self.image


@pytest.fixture(scope="module")
def cache(drawn_faces: Path) -> ImageCache:
    return ImageCache(read_data_set(drawn_faces / "widerface"))


def kinds(cache: ImageCache, seed: int = 5) -> list[DrawnSamples]:
    return [FaceSamples([cache], [1.0], SampleSpec(size=64), seed), PublishedSamples([cache], [1.0], 64, seed)]


def same(first: Sample, second: Sample) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_samples_keep_their_faces_inside(cache: ImageCache) -> None:
    samples = FaceSamples([cache], [1.0], SampleSpec(size=128), seed=3)
    drawn = [samples[index] for index in range(40)]
    for image, boxes, ignored in drawn:
        assert image.shape == (128, 128, 3)
        assert ((boxes >= 0) & (boxes <= 128)).all()
        sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
        assert (sizes[~ignored] >= SampleSpec().smallest).all()
    sizes = np.concatenate([np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) for _, boxes, _ in drawn])
    assert sizes.max() > 4 * sizes[sizes > 7].min(), "faces of many sizes"
    images, faces, valid, ignored = collate(drawn)
    assert images.shape == (40, 3, 128, 128)
    assert faces.shape[:2] == valid.shape == ignored.shape


@pytest.mark.parametrize("published", [False, True])
def test_a_drawn_face_lies_under_its_box(cache: ImageCache, published: bool) -> None:
    """After cropping, scaling and flipping the box still holds the bright oval."""
    spec = SampleSpec(size=128, photometric=False, mosaic=0.5)
    samples = PublishedSamples([cache], [1.0], 128, 0) if published else FaceSamples([cache], [1.0], spec, seed=0)
    checked = 0
    for index in range(30):
        image, boxes, ignored = samples[index]
        for x0, y0, x1, y1 in boxes[~ignored]:
            if min(x1 - x0, y1 - y0) < 16 or x0 < 1 or y0 < 1 or x1 > 127 or y1 > 127:
                continue
            middle = image[int((y0 + 2 * y1) / 3), int((x0 + x1) / 2)]
            checked += int(middle[2]) > 150
            assert middle[2] > 120
    assert checked > 10


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.4, 0.9, 1.6]), st.sampled_from([(30, 48), (48, 30), (40, 40)]))
def test_a_tilted_face_stays_in_its_box_and_fills_it(seed: int, scale: float, radii: tuple[int, int]) -> None:
    """The box around a bright oval that was scaled, stretched and turned, is where bright pixels are."""
    image = np.zeros((800, 760, 3), np.uint8)
    cv2.ellipse(image, (380, 400), radii, 0, 0, 360, (255, 255, 255), cv2.FILLED)
    box = [380 - radii[0], 400 - radii[1], 380 + radii[0], 400 + radii[1]]
    alone = OneImage(image, [[float(value) for value in box]])
    spec = SampleSpec(256, mosaic=0, native=1, native_scale=(scale, scale), tilt=0.8, photometric=False)
    sample, boxes, _ = FaceSamples([alone], [1.0], spec, seed)[0]
    bright = np.argwhere(sample[..., 1] > 180)[:, ::-1]
    assert len(boxes) == 1
    assert len(bright)
    seen = np.concatenate([bright.min(0), bright.max(0) + 1])
    assert np.abs(boxes[0] - seen).max() <= 2.5, "what is cut off at the sample's edge is cut off of both"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([20.0, 60.0, 110.0]))
def test_the_drawn_face_is_whole_where_it_fits(seed: int, size: float) -> None:
    image = np.zeros((600, 600, 3), np.uint8)
    alone = OneImage(image, [[300 - size / 2, 280 - size / 2, 300 + size / 2, 280 + size / 2]])
    spec = SampleSpec(128, mosaic=0, native=1, native_scale=(1, 1), photometric=False)
    _, boxes, ignored = FaceSamples([alone], [1.0], spec, seed)[0]
    assert not ignored.any()
    sides = boxes[0, 2:] - boxes[0, :2]
    assert sides.prod() == pytest.approx(size**2, rel=1e-3)


def test_a_share_of_the_pictures_is_tilted() -> None:
    image = np.full((400, 400, 3), 255, np.uint8)
    image[:200] = 0
    alone = OneImage(image, [[180, 180, 220, 220]])

    def tilted(share: float) -> float:
        spec = SampleSpec(64, mosaic=0, native=1, native_scale=(1, 1), tilt=share, photometric=False)
        samples = FaceSamples([alone], [1.0], spec, 0)
        # The border of dark and bright is level in a picture that isn't tilted.
        return float(np.mean([len(np.unique((samples[i][0][..., 0] > 127).sum(0))) > 1 for i in range(200)]))

    assert tilted(0.0) == 0
    assert 0.25 < tilted(0.3) < 0.45


def test_pasted_faces_are_annotated_where_they_are_seen() -> None:
    image = np.full((400, 400, 3), 40, np.uint8)
    cv2.circle(image, (200, 200), 40, (250, 250, 250), cv2.FILLED)
    alone = OneImage(image, [[160, 160, 240, 240]])

    def drawn(paste: float) -> list[Sample]:
        spec = SampleSpec(256, mosaic=0, native=1, native_scale=(1, 1), paste=paste, photometric=False)
        samples = FaceSamples([alone], [1.0], spec, 0)
        return [samples[index] for index in range(20)]

    assert {len(boxes) for _, boxes, _ in drawn(0)} == {1}
    with_pasted = drawn(1)
    assert max(len(boxes) for _, boxes, _ in with_pasted) > 2
    for picture, boxes, _ in with_pasted:
        for x0, y0, x1, y1 in boxes:
            assert picture[int((y0 + y1) / 2), int((x0 + x1) / 2), 0] > 80


def test_hard_samples_have_the_same_faces_in_other_pixels(cache: ImageCache) -> None:
    plain, hard = (
        FaceSamples([cache], [1.0], SampleSpec(96, mosaic=0, photometric=False, hard=hard), 0) for hard in (False, True)
    )
    pairs = [(plain[index], hard[index]) for index in range(60)]
    changed = [not np.array_equal(a[0], b[0]) for a, b in pairs]
    assert 0.1 < np.mean(changed) < 0.9
    assert all(np.array_equal(a[1], b[1]) for a, b in pairs)


def test_a_number_always_gives_the_same_sample(cache: ImageCache) -> None:
    for first, second in zip(kinds(cache), kinds(cache), strict=True):
        uninterrupted = [first[index] for index in range(8)]
        assert all(same(uninterrupted[index], second[index]) for index in (7, 3, 5)), "in any order"
        assert not same(uninterrupted[0], uninterrupted[1])
    for first, second in zip(kinds(cache, seed=5), kinds(cache, seed=6), strict=True):
        assert not same(first[0], second[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_samples(cache: ImageCache, workers: int) -> None:
    for samples in kinds(cache):
        resumed = DataLoader(samples, 4, sampler=range(8, 24), num_workers=workers, collate_fn=list)
        drawn = [sample for batch in resumed for sample in batch]
        assert all(same(samples[8 + place], sample) for place, sample in enumerate(drawn))
        assert len(drawn) == 16


def test_sets_are_drawn_by_their_weights() -> None:
    dark, bright = (OneImage(np.full((64, 64, 3), grey, np.uint8), []) for grey in (10, 240))
    samples = PublishedSamples([dark, bright], [3, 1], 32, 0)
    share = np.mean([samples[index][0].max() == 240 for index in range(400)])
    assert 0.18 < share < 0.32
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(DataError, match="a weight of 0 or more for each of 2 data sets"):
            PublishedSamples([dark, bright], weights, 32, 0)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 200), (200, 3)])
def test_images_of_odd_sizes(width: int, height: int) -> None:
    one = OneImage(np.full((height, width, 3), 50, np.uint8), [[0, 0, width, height]])
    for samples in (FaceSamples([one], [1.0], SampleSpec(size=64), 0), PublishedSamples([one], [1.0], 64, 0)):
        for index in range(20):
            image, boxes, _ = samples[index]
            assert image.shape == (64, 64, 3)
            assert np.isfinite(boxes).all()


def test_published_samples_stretch_the_whole_image() -> None:
    """The white picture's own edges are found where its box says."""
    samples = PublishedSamples([OneImage(np.full((50, 100, 3), 255, np.uint8), [[0, 0, 100, 50]])], [1.0], 100, 0)
    aspects, scales = [], []
    for index in range(200):
        image, boxes, ignored = samples[index]
        rows, columns = np.nonzero((image == 255).all(2))
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.allclose(boxes, [seen], atol=0.01)
        assert not ignored.any()
        width, height = boxes[0, 2:] - boxes[0, :2]
        aspects.append(width / height)
        scales.append(max(width, height) / 100)
    assert 0.53 < min(aspects) < 0.65, "of the whole sample, whatever the image's own"
    assert 1.5 < max(aspects) < 1.87
    assert min(scales) >= 0.95
    assert max(scales) == 1, "what is larger is cut off"
    assert (image == 128).any(), "grey around it"


def test_published_samples_leave_out_faces_that_are_not_seen() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    one = OneImage(image, [[-200, 40, 5, 60], [40, 40, 60, 60], [10, 10, 10.5, 10.5]], [False, True, False])
    for index in range(20):
        _, boxes, ignored = PublishedSamples([one], [1.0], 64, 0)[index]
        assert len(boxes) == 1, "of the others one has its centre outside, and one is under a pixel"
        assert ignored.tolist() == [True]


boxes_of_pixels = st.tuples(st.integers(0, 19), st.integers(0, 19), st.integers(1, 20), st.integers(1, 20)).map(
    lambda box: [box[0], box[1], min(box[0] + box[2], 20), min(box[1] + box[3], 20)]
)


@given(boxes_of_pixels)
def test_a_flipped_box_follows_the_pixels(box: list[int]) -> None:
    x0, y0, x1, y1 = box
    image = np.zeros((20, 20, 3), np.uint8)
    image[y0:y1, x0:x1] = 255
    flipped, boxes = flip(image, np.array([box], np.float32))
    rows, columns = np.nonzero(flipped[:, :, 0])
    assert boxes.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    again, back = flip(flipped, boxes)
    assert np.array_equal(again, image)
    assert back.tolist() == [box]


@given(st.lists(st.integers(-30, 50), min_size=4, max_size=4), boxes_of_pixels)
def test_a_clipped_box_is_what_a_crop_shows(corners: list[int], region: list[int]) -> None:
    x0, x1 = sorted(corners[:2])
    y0, y1 = sorted(corners[2:])
    covered = np.zeros((80, 80), bool)  # with a margin of 30
    covered[y0 + 30 : y1 + 30, x0 + 30 : x1 + 30] = True
    left, top, right, bottom = region
    seen = covered[top + 30 : bottom + 30, left + 30 : right + 30].sum()
    (box,) = clip(np.array([[x0, y0, x1, y1]], np.float32), (left, top, right, bottom))
    assert (box[2] - box[0]) * (box[3] - box[1]) == seen
