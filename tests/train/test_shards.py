from __future__ import annotations

import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from dartblur_train.data.labels import DataError, FaceImage, face_image
from dartblur_train.data.mosaic import FaceSamples, SampleSpec
from dartblur_train.data.problems import Problems
from dartblur_train.data.published import PublishedSamples
from dartblur_train.data.samples import collate
from dartblur_train.data.shards import ShardSet, _cache_name, write_shards

IMAGES, EACH = 24, 4
"""Images, and how many of them a shard holds."""


@pytest.fixture
def records(tmp_path: Path) -> list[FaceImage]:
    """Pictures that say their number by their grey."""
    made = []
    for number in range(IMAGES):
        path = tmp_path / f"{number}.{('png', 'jpg')[number % 2]}"
        cv2.imwrite(str(path), np.full((20, 30, 3), number * 10, np.uint8))
        made.append(face_image(path, [[1, 2, 11, 12 + number / 4], [3, 3, 9, 9]], [False, True]))
    return made


@pytest.fixture
def shards(records: list[FaceImage], tmp_path: Path) -> str:
    """Written shards, as a pattern."""
    files = write_shards(records, tmp_path / "shards", EACH)
    assert [file.name for file in files] == [f"shard-{number:06d}.tar" for number in range(6)]
    return str(tmp_path / "shards" / "shard-{000000..000005}.tar")


def number_of(image: np.ndarray) -> int:
    return round(float(image.mean()) / 10)


def draw(shard_set: ShardSet, position: int, seed: int = 0) -> tuple[FaceImage, np.ndarray]:
    return shard_set.draw(np.random.default_rng((seed, position)), position)


def test_what_is_packed_comes_out(records: list[FaceImage], shards: str) -> None:
    shard_set = ShardSet(shards, window=6, images_per_shard=EACH)
    assert len(shard_set) == IMAGES
    seen = set()
    for position in range(400):
        record, image = draw(shard_set, position)
        number = number_of(image)
        seen.add(number)
        assert np.array_equal(image, cv2.imread(str(records[number].path)))
        assert np.array_equal(record.boxes, records[number].boxes)
        assert np.array_equal(record.ignored, records[number].ignored)
        assert np.array_equal(record.landmarks, records[number].landmarks)
    assert seen == set(range(IMAGES))


def test_samples_hold_the_original_bytes(records: list[FaceImage], shards: str) -> None:
    with tarfile.open(shards.replace("{000000..000005}", "000000")) as tar:
        assert len(tar.getnames()) == 2 * EACH
        name = next(name for name in tar.getnames() if name.endswith(".jpg"))
        data = tar.extractfile(name)
        assert data is not None
        assert data.read() == records[1].path.read_bytes()


def test_the_same_images_give_the_same_shards(records: list[FaceImage], shards: str, tmp_path: Path) -> None:
    again = write_shards(records, tmp_path / "again", EACH)
    for file in again:
        assert file.read_bytes() == (tmp_path / "shards" / file.name).read_bytes()


def test_a_resumed_run_draws_what_an_uninterrupted_one_would(shards: str) -> None:
    uninterrupted = ShardSet(shards, window=2, seed=3, images_per_shard=EACH)
    images = [draw(uninterrupted, position)[1] for position in range(80)]
    resumed = ShardSet(shards, window=2, seed=3, images_per_shard=EACH)
    for position in range(37, 80):
        assert np.array_equal(draw(resumed, position)[1], images[position])
    other = ShardSet(shards, window=2, seed=4, images_per_shard=EACH)
    assert any(not np.array_equal(draw(other, position)[1], images[position]) for position in range(80))


def test_the_window_moves_over_all_shards_and_holds_few(shards: str) -> None:
    shard_set = ShardSet(shards, window=2, images_per_shard=EACH)
    opened: list[str] = []
    read = shard_set._read
    shard_set._read = lambda url: opened.append(url) or read(url)  # type: ignore[method-assign,func-returns-value]
    rounds: list[set[int]] = []
    for first in range(0, 2 * IMAGES, EACH):
        near = {number_of(draw(shard_set, first + at % EACH, at)[1]) // EACH for at in range(60)}
        assert len(shard_set._open) <= 2
        assert len(near) <= 2, "shards at a time"
        rounds.append(near)
    assert set.union(*rounds[:6]) == set(range(6)), "in one round"
    assert len(opened) <= 13, "each shard is read once a round"
    assert opened[:6] != opened[6:12], "in another order"


def test_any_number_of_workers_gives_the_same_samples(shards: str) -> None:
    def images(workers: int, start: int) -> np.ndarray:
        samples = PublishedSamples([ShardSet(shards, images_per_shard=EACH)], [1.0], 32, seed=1)
        loader = DataLoader(samples, 4, sampler=range(start, 40), num_workers=workers, collate_fn=list)
        return np.stack([sample[0] for batch in loader for sample in batch])

    whole = images(0, 0)
    assert np.array_equal(images(2, 0), whole)
    assert np.array_equal(images(1, 20), whole[20:])


def test_shards_of_the_same_name_do_not_share_a_place_in_the_cache() -> None:
    names = {_cache_name(f"http://{host}/train/shard-000000.tar") for host in ("a", "b")}
    assert len(names) == 2
    assert not any("/" in name for name in names)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Address of the folder, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}", asked
        http.shutdown()


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset fetches by curl")


@needs_curl
@pytest.mark.parametrize("cached", [False, True])
def test_shards_from_a_server(
    shards: str, tmp_path: Path, server: tuple[str, list[str]], cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    address, asked = server
    urls = f"{address}/shards/shard-{{000000..000005}}.tar"
    size = (tmp_path / "shards" / "shard-000000.tar").stat().st_size
    cache = tmp_path / "cache" if cached else None
    remote = ShardSet(urls, images_per_shard=EACH, cache=cache, cache_bytes=3 * size)
    local = ShardSet(shards, images_per_shard=EACH)
    for position in range(IMAGES):
        for seed in range(5):
            assert np.array_equal(draw(remote, position, seed)[1], draw(local, position, seed)[1])
    assert len(asked) == (6 if cached else 7), "two neighbours of the sequence are the same shard"
    if cache is not None:
        held = list(cache.iterdir())
        assert 1 <= len(held) <= 4, "the oldest are removed"
        before = len(asked)
        draw(ShardSet(urls, images_per_shard=EACH, cache=cache), IMAGES - 1)
        assert len(asked) <= before + 1


@needs_curl
def test_a_shard_that_is_not_there(shards: str, server: tuple[str, list[str]], tmp_path: Path) -> None:
    for url in (str(tmp_path / "none.tar"), f"{server[0]}/none.tar"):
        with pytest.raises(DataError, match=r"none.tar: corrupt shard: expected a tar file, got .*on-bad-data skip"):
            draw(ShardSet(url), 0)
        problems = Problems("skip")
        shard_set = ShardSet([url, *ShardSet(shards)._urls], images_per_shard=EACH, problems=problems)
        for position in range(0, 60, 2):
            draw(shard_set, position)
        assert set(problems.kinds) == {"corrupt shard"}
        with pytest.raises(DataError, match="in a row that can't be read"):
            draw(ShardSet(url, problems=Problems("skip")), 0)


@pytest.mark.parametrize("kept", [0, 0.6])
def test_a_shard_that_is_cut_short(shards: str, kept: float) -> None:
    path = Path(shards.replace("{000000..000005}", "000000"))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(DataError, match=r"shard-000000.tar: corrupt shard"):
        draw(ShardSet(str(path)), 0)
    problems = Problems("skip")
    shard_set = ShardSet(shards, window=6, images_per_shard=EACH, problems=problems)
    numbers = {number_of(draw(shard_set, 0, seed)[1]) for seed in range(300)}
    assert set(range(EACH, IMAGES)) <= numbers, "the other shards are whole"
    assert len(numbers) < IMAGES
    assert problems.kinds["corrupt shard"] == 1


def replace_member(path: Path, suffix: str, data: bytes | None) -> None:
    """Writes a shard anew, the contents of members of this suffix replaced, or left out."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for name, old in members:
            if not name.endswith(suffix) or data is not None:
                info = tarfile.TarInfo(name)
                content = data if name.endswith(suffix) and data is not None else old
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        ("jpg", b"no picture"),
        ("jpg", b""),
        ("jpg", None),
        ("json", b"{"),
        ("json", b"[]"),
        ("json", None),
        ("json", b'{"boxes": [[1, 2, 3, 4]], "ignored": [], "landmarks": []}'),
        ("json", b'{"boxes": [[1, 2, NaN, 4]], "ignored": [false], "landmarks": [[[1,1],[1,1],[1,1],[1,1],[1,1]]]}'),
        ("json", b'{"boxes": [[5, 2, 3, 4]], "ignored": [false], "landmarks": [[[1,1],[1,1],[1,1],[1,1],[1,1]]]}'),
    ],
)
def test_corrupt_samples(shards: str, suffix: str, data: bytes | None) -> None:
    path = Path(shards.replace("{000000..000005}", "000000"))
    replace_member(path, suffix, data)
    refusing = ShardSet(str(path))
    with pytest.raises(DataError, match=r"shard-000000.tar: \d+: corrupt sample: .*--on-bad-data skip"):
        [draw(refusing, 0, seed) for seed in range(20)]
    problems = Problems("skip")
    shard_set = ShardSet(shards, window=6, images_per_shard=EACH, problems=problems)
    first, second = ([draw(shard_set, 0, seed)[1] for seed in range(100)] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)), "what is skipped depends on no past"
    assert set(problems.kinds) == {"corrupt sample"}


def test_faces_outside_are_taken_out(records: list[FaceImage], tmp_path: Path) -> None:
    outside = face_image(records[0].path, [[100, 100, 120, 120], [1, 1, 5, 5]])
    (shard,) = write_shards([outside], tmp_path / "shards")
    with pytest.raises(DataError, match=r"shard-000000.tar: 000000000.png: box outside"):
        draw(ShardSet(str(shard)), 0)
    assert draw(ShardSet(str(shard), problems=Problems("skip")), 0)[0].boxes.tolist() == [[1, 1, 5, 5]]


def test_what_can_not_be_packed(records: list[FaceImage], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    mixed = [records[0], face_image(bad, [])]
    with pytest.raises(DataError, match=r"bad.jpg: unreadable image"):
        write_shards(mixed, tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing under the final name"
    problems = Problems("skip")
    (shard,) = write_shards(mixed, tmp_path / "out", problems=problems)
    assert problems.count == 1
    assert number_of(draw(ShardSet(str(shard)), 0)[1]) == 0
    with pytest.raises(DataError, match="expected no folder or an empty one"):
        write_shards(records, tmp_path / "out")
    with pytest.raises(DataError, match="expected images to pack"):
        write_shards([], tmp_path / "other")


def test_wrong_numbers_are_refused(shards: str) -> None:
    for options in ({"window": 0}, {"images_per_shard": 0}):
        with pytest.raises(DataError, match="of 1 or more"):
            ShardSet(shards, **options)
    with pytest.raises(DataError, match="expected shards"):
        ShardSet([])
    with pytest.raises(DataError, match="expected paths or addresses of shards"):
        ShardSet("train-${no_such_variable}.tar")


def test_problems_that_reading_processes_meet_are_counted(shards: str) -> None:
    replace_member(Path(shards.replace("{000000..000005}", "000000")), "json", b"{")
    problems = Problems("skip")
    shard_set = ShardSet(shards, window=6, images_per_shard=EACH, problems=problems)
    samples = FaceSamples([shard_set], [1.0], SampleSpec(size=64, mosaic=0.0), seed=0)
    loader = DataLoader(samples, batch_sampler=[list(range(k, k + 10)) for k in range(0, 120, 10)], num_workers=2,
                        collate_fn=collate, multiprocessing_context="fork")  # fmt: skip
    assert len(list(loader)) == 12
    assert set(problems.kinds) == {"corrupt sample"}
    assert problems.count <= EACH, "each but once"
    assert "shard-000000.tar" in problems.summary()
