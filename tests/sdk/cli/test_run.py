"""``dartblur run``: one line of error, the right exit code, and nothing half done."""

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from dartblur.cli import progress
from dartblur.stream import Summary

SDK = Path(__file__).parents[3] / "sdk"


@pytest.fixture
def pictures(tmp_path):
    """A folder with three of them."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(folder / name), np.full((64, 64, 3), 200, np.uint8))
    return folder


def frames_in(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_video(call, clip, tmp_path):
    code, out, err = call("run", clip, tmp_path / "out.mp4", "--audit", tmp_path / "log.jsonl", "--method", "solid")
    assert (code, err) == (0, "")
    assert out.startswith("60 frames, 60 faces in 60 frames, ")
    assert out.rstrip().endswith(str(tmp_path / "out.mp4"))
    assert frames_in(tmp_path / "out.mp4") == 60
    header, *entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (header["source"], header["model"], header["policy"]["method"]) == (str(clip), "fake", "solid")
    assert [entry["index"] for entry in entries] == list(range(60))
    assert entries[30]["time"] == 1.0
    assert entries[30]["faces"][0] == {"box": [8.0, 8.0, 40.0, 40.0], "score": 0.9, "id": 1}
    assert entries[30]["covered"][0] == {"box": [8.0, 8.0, 40.0, 40.0], "id": 1, "reason": "detected"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "out.mp4"]


def test_several_videos_are_not_taken_for_outputs(call, clip, tmp_path):
    """As a shell makes them of ``*.mp4``; --overwrite would destroy all but the first."""
    second = tmp_path / "second.mp4"
    shutil.copy(clip, second)
    before = second.read_bytes()
    code, out, err = call("run", clip, second, tmp_path / "out", "--overwrite")
    assert (code, out) == (2, "")
    assert "expected one output file or folder, got" in err
    assert second.read_bytes() == before
    assert not (tmp_path / "out").exists()


def refused(result, tmp_path, *words):
    """Exit code 2, one line on stderr with these words, nothing written."""
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("dartblur: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
    assert not [path for path in tmp_path.iterdir() if "out" in path.name or "partial" in path.name]


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 999])
def test_bad_sources(call, tmp_path, content):
    source = tmp_path / "in.mp4"
    if content is not None:
        source.write_bytes(content)
    refused(call("run", source, tmp_path / "out.mp4"), tmp_path, str(source))


@pytest.mark.parametrize("keep", [0.3, 0.97])
def test_a_truncated_source(call, clip, tmp_path, keep):
    (tmp_path / "in.mp4").write_bytes(clip.read_bytes()[: int(clip.stat().st_size * keep)])
    refused(call("run", tmp_path / "in.mp4", tmp_path / "out.mp4"), tmp_path, "in.mp4")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "smear"], ["method", "dart, gaussian, pixelate, solid", "smear"]),
        (["--threshold", "1.5"], ["threshold", "1.5"]),
        (["--box-scale", "0.5"], ["box_scale", "0.5"]),
        (["--detect-size", "large"], ["detect size", "'auto' or pixels", "large"]),
        (["--detect-budget", "0.1"], ["detect budget", "detect size 'auto'"]),
        (["--tiles", "3by2"], ["tiles", "3x2", "3by2"]),
        (["--tiles", "auto", "--backend", "onnxruntime-gpu"], ["detect size and tiles", "use the backend cpu"]),
        (["--quality", "99"], ["quality", "99"]),
    ],
)
def test_bad_options(call, clip, tmp_path, options, words):
    refused(call("run", clip, tmp_path / "out.mp4", *options), tmp_path, *words)


def test_bad_names(call, clip, tmp_path):
    long = "x" * 300
    refused(call("run", tmp_path / long, tmp_path / "out.mp4"), tmp_path, "File name too long")
    refused(call("run", clip, tmp_path / f"{long}.mp4"), tmp_path, "File name too long")
    refused(call("run", clip, tmp_path / "out.mp4", "--audit", tmp_path / long), tmp_path, "File name too long")
    refused(call("run", "", tmp_path / "out.mp4"), tmp_path, "empty name")
    refused(call("run", clip, ""), tmp_path, "empty name")
    refused(call("run", tmp_path / "two\nlines.mp4", tmp_path / "out.mp4"), tmp_path, "no such file")


def test_a_device_is_not_replaced(call, clip, tmp_path):
    """Root could: ``--audit /dev/null --overwrite``."""
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    refused(call("run", clip, tmp_path / "out.mp4", "--audit", pipe, "--overwrite"), tmp_path, "got a device or pipe")
    assert pipe.is_fifo()


def test_a_closed_stderr(clip, tmp_path):
    program = "import sys; sys.stderr = None\nfrom dartblur.cli.progress import progress\n"
    program += "with progress(3) as report: report(None)"
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(SDK)}, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("unit", ["frame", "picture"])
def test_progress_says_what_it_counts(unit, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0)
    with progress.progress(3, unit) as report:
        report(Summary(frames=2, faces=5, seconds=4.0))
    assert capsys.readouterr().err == f"2 of 3 {unit}s, 5 faces, 0.5 a second\n"


def test_bad_targets(call, clip, tmp_path):
    refused(call("run", clip, tmp_path / "no" / "out.mp4"), tmp_path, "does not exist")
    refused(call("run", clip, tmp_path / "out.xyz"), tmp_path, ".xyz", ".mp4")
    refused(call("run", clip, tmp_path / "out.mp4", "--audit", tmp_path / "no" / "log"), tmp_path, "does not exist")
    refused(call("run", clip, tmp_path / "out.mp4", "--audit", tmp_path / "out.mp4"), tmp_path, "two names")
    refused(call("run", "91", tmp_path / "out.mp4"), tmp_path, "/dev/video91", "no such camera")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(call, clip, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    refused(call("run", clip, folder / "out.mp4"), tmp_path, "Permission denied")


def test_outputs_are_not_replaced_unasked(call, clip, tmp_path):
    target, log = tmp_path / "target.mp4", tmp_path / "log.jsonl"
    target.write_bytes(b"old")
    refused(call("run", clip, target), tmp_path, "exists already", "--overwrite")
    log.write_text("old")
    refused(call("run", clip, tmp_path / "out.mp4", "--audit", log), tmp_path, "exists already")
    assert (target.read_bytes(), log.read_text()) == (b"old", "old")
    assert call("run", clip, target, "--audit", log, "--overwrite")[0] == 0
    assert frames_in(target) == 60
    assert len(log.read_text().splitlines()) == 1 + 60


@pytest.mark.parametrize("kind", ["same", "symbolic", "hard", "audit"])
def test_the_source_is_never_written_over(call, clip, tmp_path, kind):
    source, target = tmp_path / "in.mp4", tmp_path / "target.mp4"
    shutil.copy(clip, source)
    before = source.read_bytes()
    arguments = [source, target]
    if kind == "same":
        arguments = [source, tmp_path / "." / "in.mp4"]
    elif kind == "symbolic":
        target.symlink_to(source)
    elif kind == "hard":
        os.link(source, target)
    else:
        arguments = [source, tmp_path / "out.mp4", "--audit", source]
    refused(call("run", *arguments, "--overwrite"), tmp_path, "never written over")
    assert source.read_bytes() == before


def test_an_anonymizer_that_fails_stops_with_code_3(call, clip, tmp_path):
    code, out, err = call("run", clip, tmp_path / "out.mp4", "--audit", tmp_path / "log.jsonl", fail_at=20)
    assert (code, out) == (3, "")
    assert err == (
        f"dartblur: {clip}: frame 19: anonymization failed (RuntimeError: detector broke): "
        "stopped, nothing was written\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_failure_in_a_folder_says_which_picture_and_what_stays(call, pictures, tmp_path):
    code, out, err = call("run", pictures, tmp_path / "out", "--audit", tmp_path / "log.jsonl", fail_at=2)
    assert (code, out) == (3, "")
    assert err == (
        f"dartblur: {pictures / 'b.png'}: frame 1: anonymization failed (RuntimeError: detector broke): "
        "stopped, this picture was not written; those that were finished before it stay\n"
    )
    assert [path.name for path in (tmp_path / "out").glob("*")] in ([], ["a.png"])
    assert not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk(call, clip, tmp_path, suffix):
    result = call("run", clip, tmp_path / f"out{suffix}", limit=20_000)
    refused(result, tmp_path, "can't be written")


def test_a_full_disk_for_the_audit(call, clip, tmp_path):
    code, _, err = call(
        "run", clip, tmp_path / "out.mp4", "--audit", tmp_path / "log.jsonl", "--quality", "51", limit=6000
    )
    assert code == 2
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_there_is_no_log_of_an_output_that_is_not_there(call, clip, tmp_path):
    """The disk is full when the index comes, the last part of a video."""
    whole, folder = tmp_path / "whole.mp4", tmp_path / "full"
    folder.mkdir()
    assert call("run", clip, whole)[0] == 0
    code, _, err = call(
        "run", clip, folder / "out.mp4", "--audit", folder / "log.jsonl", limit=whole.stat().st_size - 100
    )
    assert code == 2
    assert "out.mp4: can't be written" in err or "out.mp4: could not be written" in err
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_it_cleanly(start, clip, tmp_path, number, code):
    # The tests themselves may run with signals switched off, as in the background of a shell; children inherit that.
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        process = start("run", clip, tmp_path / "out.mp4", "--audit", tmp_path / "log.jsonl", wait=0.2)
    finally:
        signal.signal(number, before)
    wait_for_partial(tmp_path)
    time.sleep(0.5)
    process.send_signal(number)
    began = time.monotonic()
    out, err = process.communicate(timeout=10)
    assert time.monotonic() - began < 2
    assert process.returncode == code
    assert (out, err) == ("", "dartblur: interrupted: nothing unfinished is left\n")
    assert not list(tmp_path.iterdir())


def test_a_signal_that_the_caller_has_switched_off_stays_off(start, clip, tmp_path):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start("run", clip, tmp_path / "out.mp4", wait=0.02)
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for_partial(tmp_path)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert frames_in(tmp_path / "out.mp4") == 60


def test_a_kill_leaves_nothing_under_the_final_name(start, clip, tmp_path):
    process = start("run", clip, tmp_path / "out.mp4", wait=0.2)
    wait_for_partial(tmp_path)
    process.kill()
    process.communicate(timeout=10)
    assert not (tmp_path / "out.mp4").exists()
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())


def test_what_a_kill_leaves_goes_with_the_next_run(start, call, clip, tmp_path):
    target, log = tmp_path / "out.mp4", tmp_path / "log.jsonl"

    def pending():
        return set(tmp_path.glob(".*.partial"))

    def until(condition):
        end = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.02)

    killed = start("run", clip, target, "--audit", log, wait=0.2)
    until(lambda: len(pending()) == 2)
    killed.kill()
    killed.communicate(timeout=10)
    left = pending()
    assert len(left) == 2
    going_on = start("run", clip, target, wait=1)  # longer than the next one
    until(lambda: pending() - left)
    mine = pending() - left
    assert len(mine) == 1
    assert call("run", clip, target, "--audit", log)[0] == 0
    assert set(tmp_path.iterdir()) == {target, log, *mine}, "leftovers go, and not the file of the run that goes on"
    going_on.kill()
    going_on.communicate(timeout=10)


def test_a_film_over_http_that_is_interrupted_says_what_stays(start, clip, tmp_path):
    with av.open(str(clip)) as video, av.open(str(tmp_path / "film.mkv"), "w") as film:  # which needs no seeking
        stream = film.add_stream_from_template(video.streams.video[0], opaque=True)
        for packet in video.demux(video=0):
            if packet.size:
                packet.stream = stream
                film.mux(packet)
    handler = partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        out = tmp_path / "out.mkv"
        before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            process = start("run", f"http://127.0.0.1:{server.server_port}/film.mkv", out, wait=0.1)
        finally:
            signal.signal(signal.SIGTERM, before)
        until = time.monotonic() + 15
        while not out.exists() or out.stat().st_size < 1000:
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=15)
        server.shutdown()
    assert process.returncode == 143
    assert err.splitlines()[-1] == f"dartblur: interrupted: {out}: what was recorded before stays"
    assert frames_in(out)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Not into the tests' output."""


def wait_for_partial(folder):
    until = time.monotonic() + 15
    while not list(folder.glob(".*.partial")):
        assert time.monotonic() < until, "the run has not begun"
        time.sleep(0.02)


def test_a_folder_with_a_corrupt_picture(call, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a.jpg", "b.png"):
        cv2.imwrite(str(source / name), np.full((64, 64, 3), 200, np.uint8))
    (source / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    code, out, err = call("run", source, tmp_path / "pictures", "--audit", tmp_path / "log.jsonl")
    assert code == 2
    assert out.startswith("2 pictures, 2 faces in 2 pictures")
    assert "skipped: " in err
    assert "bad.jpg" in err
    assert "could not be read, not in the output: 1 picture\n" in err
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["a.jpg", "b.png"]
    _header, *entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [Path(entry["source"]).name for entry in entries] == ["a.jpg", "b.png"]
    assert not cv2.imread(str(tmp_path / "pictures" / "b.png"))[10:38, 10:38].any()


def test_a_pattern_may_have_its_output_beside_the_pictures(call, pictures):
    code, _, err = call("run", pictures / "*.png", pictures / "out")
    assert (code, err) == (0, "")
    assert sorted(path.name for path in (pictures / "out").iterdir()) == ["a.png", "b.png", "c.png"]
    refused(call("run", pictures / "*.png", pictures, "--overwrite"), pictures / "out", "never written over")
    refused(call("run", pictures / "**" / "*.png", pictures / "more"), pictures / "out", "lies in the source folder")


def test_folders_that_lie_in_each_other(call, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    cv2.imwrite(str(source / "a.png"), np.zeros((8, 8, 3), np.uint8))
    refused(call("run", source, source / "below"), tmp_path, "lies in the source folder")
    refused(call("run", tmp_path / "nothing" / "*.jpg", tmp_path / "out"), tmp_path, "expected pictures")


def test_one_and_many_are_told_apart(call, clip, pictures, tmp_path):
    code, out, err = call("run", pictures / "a.png", tmp_path / "a.png")
    assert (code, out, err) == (0, f"1 picture, 1 face -> {tmp_path / 'a.png'}\n", "")
    code, out, err = call("run", pictures, tmp_path / "out")
    assert (code, err) == (0, "")
    assert out.startswith("3 pictures, 3 faces in 3 pictures, ")
    Image.new("CMYK", (64, 64)).save(pictures / "print.jpg")
    code, _, err = call("run", pictures, tmp_path / "more")
    assert (code, err) == (0, "dartblur: 1 picture: inks for printing (CMYK) became RGB\n")


def test_sound_and_metadata_are_left_out_where_that_is_said(call, tmp_path):
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as container:
        container.metadata["title"] = "Jane"
        video, sound = container.add_stream("libx264", rate=30), container.add_stream("aac", rate=44100)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 90, np.uint8), format="bgr24")
            frame.pts = index
            container.mux(video.encode(frame))
        quiet = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        quiet.sample_rate = 44100
        container.mux([*video.encode(None), *sound.encode(quiet), *sound.encode(None)])
    refused(call("run", source, tmp_path / "out.webm"), tmp_path, "aac", "--no-sound")
    code, _, err = call("run", source, tmp_path / "out.webm", "--no-sound", "--no-metadata")
    assert (code, err) == (0, "")
    with av.open(str(tmp_path / "out.webm")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert "title" not in {key.lower() for key in container.metadata}
