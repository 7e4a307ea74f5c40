"""The drills: each breaks one thing and gives a `Row` for each way in which it did; a docstring says what breaks."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import fault_scene as scene
import numpy as np
from fault_parts import (
    RTSP_SERVER,
    BadServer,
    Camera,
    Detector,
    SlowSink,
    Socket,
    SystemServer,
    raises,
)
from fault_run import Diary, Drill, Row, threads_left

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.frame import RedactedFrame
from dartblur.protection.policy import ON_FAULT, OnFault, Protection
from dartblur.records.audit import AuditLog, Header
from dartblur.stream import SourceOptions, open_sink, open_source, run
from dartblur.stream.sources.reconnecting import Reconnecting

CAMERA = Path(__file__).with_name("fault_rtsp.py")
SLEEP_S, TIMEOUT_S = 0.25, 0.1
ROOM = 120_000
"""Bytes of the disk that gets full."""


class Size:
    """How much is done."""

    def __init__(self, quick: bool, rounds: int | None) -> None:
        self.quick = quick
        self.rounds = rounds or (2 if quick else 20)
        self.camera_s, self.seconds = (1.2, 1.5) if quick else (10.0, 30.0)
        self.pause_s, self.kill_after_s = (0.2, 1.4) if quick else (0.6, 3.2)

    def camera(self) -> Camera:
        """In real time."""
        return Camera(round(30 * self.camera_s))

    def policies(self, shift: int) -> Iterator[tuple[OnFault, int]]:
        """Every way to go on, without and with a lookahead; when it is to be quick, with one of both."""
        for number, on_fault in enumerate(ON_FAULT):
            for lookahead in ((0, 3)[(number + shift) % 2],) if self.quick else (0, 3):
                yield on_fault, lookahead


def control(size: Size) -> Iterator[Row]:
    """A detector that finds nothing: every picture must be counted as clear."""
    blind = lambda image: np.zeros((0, 4), np.float32)  # noqa: E731
    yield Drill("control (blind detector)", size.camera(), finder=blind, page=True).run()


def camera_unplugged(size: Size) -> Iterator[Row]:
    """It raises, ends or hangs, and is plugged in again."""
    for lookahead in (3,) if size.quick else (0, 3):
        socket = Socket()
        faults: list[float] = []

        def trouble(diary: Diary, socket: Socket = socket, faults: list[float] = faults) -> None:
            for _ in range(size.rounds):
                time.sleep(size.pause_s)
                socket.unplug()
                time.sleep(1.5 * size.pause_s)
                socket.plug_in()
                faults.append(time.monotonic())
                diary.wait_for(faults[-1], 20)

        source = Reconnecting(socket.open, stall=0.4)
        protection = Protection(lookahead=lookahead)
        yield Drill("camera unplugged", source, protection, faults=faults, trouble=trouble, page=True).run()


def detector_raises(size: Size) -> Iterator[Row]:
    """On random frames."""
    for on_fault, lookahead in size.policies(0):
        detector = Detector(raises, 0.2, 0.7 * size.camera_s)
        protection = Protection(on_fault=on_fault, lookahead=lookahead)
        yield Drill("detector raises", size.camera(), protection, detector, detector.faults).run()


def detector_sleeps(size: Size) -> Iterator[Row]:
    """For longer than the time-out, on random frames."""
    for on_fault, lookahead in size.policies(1):
        detector = Detector(partial(time.sleep, SLEEP_S), 0.2, 0.6 * size.camera_s)
        protection = Protection(on_fault=on_fault, lookahead=lookahead, timeout=TIMEOUT_S)
        yield Drill("detector sleeps", size.camera(), protection, detector, detector.faults).run()


def disk_full(size: Size) -> Iterator[Row]:
    """That of the recording, and that of the audit log."""
    with tempfile.TemporaryDirectory() as folder, full_disk(Path(folder)) as how:
        yield Drill(f"disk full ({how})", Camera(rate=60), record=Path(folder) / "out.mp4").run()
    if size.quick or how != "tmpfs":  # a limit of all files is reached by the recording first
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        full_disk(Path(folder)) as how,
        AuditLog.of_stream(Path(folder) / "audit.jsonl") as audit,
    ):
        audit.begin(Header("camera", "fake", "", {}))
        yield Drill(f"disk of audit log full ({how})", Camera(rate=60), observers=[audit]).run()


def slow_sink(size: Size) -> Iterator[Row]:
    """One that takes several frames' time for each, beside a recording."""
    slow = SlowSink(0.12 if size.quick else 0.33)
    row = Drill("slow sink beside a quick one", size.camera(), also=[slow]).run()
    quick = row.looked_at
    row.looked_at, row.clear = quick + slow.pictures, row.clear + slow.clear
    yield replace(row, notes=f"slow sink {slow.pictures} pictures, the quick one {quick}")


def corrupt_mpeg_ts(size: Size) -> Iterator[Row]:
    """Wrong bytes in an MPEG transport stream by HTTP."""
    with tempfile.TemporaryDirectory() as folder:
        data = scene.make_clip(Path(folder) / "clip.ts", size.seconds).read_bytes()
    step = 188 * 7
    pieces = [(data[at : at + step], at / len(data) * size.seconds) for at in range(0, len(data), step)]
    yield _corrupt("corrupt MPEG-TS (HTTP)", pieces, "video/mp2t", 5e-5 if size.quick else 1e-5, size)


def corrupt_mjpeg(size: Size) -> Iterator[Row]:
    """Wrong bytes in JPEG pictures by HTTP."""
    pieces = []
    for index in range(round(size.seconds * scene.RATE)):
        jpeg = scene.jpeg(scene.picture(index))
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
        pieces.append((head + jpeg + b"\r\n", index / scene.RATE))
    yield _corrupt("corrupt MJPEG (HTTP)", pieces, "multipart/x-mixed-replace; boundary=frame", 2e-5, size)


def _corrupt(name: str, pieces: list[tuple[bytes, float]], content_type: str, flips: float, size: Size) -> Row:
    server = BadServer(pieces, content_type, 0.0)
    try:
        source = open_source(server.url, SourceOptions(stall=2.0))
        server.flips = flips
        trouble = lambda diary: time.sleep(size.seconds)  # noqa: E731
        row = Drill(name, source, trouble=trouble).run()
        return replace(row, notes=f"{server.flipped} wrong bytes, {source.damaged} packets left out")
    finally:
        server.close()


def kill_9(size: Size) -> Iterator[Row]:
    """Of the process that records. It is started again; what it had recorded is played."""
    row = Row("kill -9 of the recording process")
    lost = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(max(2, size.rounds // 4)):
            path = Path(folder) / f"{number}.mp4"
            killed_before = time.monotonic()
            command = [sys.executable, str(Path(__file__).with_name("faults.py")), "--child", str(path)]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert child.stdout is not None
            child.stdout.readline()
            if number:
                row.recovery_s.append(round(time.monotonic() - killed_before, 3))
            time.sleep(size.kill_after_s)
            child.send_signal(signal.SIGKILL)
            left = len(child.stdout.readlines()) + 1
            child.wait()
            pictures, clear = scene.look(path)
            row.frames_in, row.frames_out = row.frames_in + left, row.frames_out + left
            row.looked_at, row.clear, row.faults = row.looked_at + pictures, row.clear + clear, row.faults + 1
            lost.append((left - pictures) / 30)
    row.end, row.threads_left = "killed", threads_left()
    yield replace(row, notes=f"all files can be played; at most {max(lost):.1f} s at their end are missing")


def record_until_killed(path: Path) -> None:
    """The process that is killed: a line for each frame that leaves."""

    class Lines(Diary):
        def on_frame(self, frame: RedactedFrame, source: str) -> None:
            print("frame", flush=True)

    with Camera() as camera, open_sink(path, camera) as sink:
        run(camera, Anonymizer(backend=FakeBackend(scene.find)), sink, observers=[Lines()])


def gstreamer_fails(size: Size) -> Iterator[Row]:
    """A pipeline with an element that fails after some frames, again and again."""
    with tempfile.TemporaryDirectory() as folder:
        clip = scene.make_clip(Path(folder) / "clip.mp4", 10)
        faults: list[float] = []
        uri = (
            f"gst:filesrc location={clip} ! qtdemux ! h264parse ! avdec_h264 ! identity sync=true "
            "! identity error-after=20"
        )

        def trouble(diary: Diary) -> None:
            seen = 0
            until = time.monotonic() + 4.0 * size.rounds
            while len(faults) < size.rounds and time.monotonic() < until:
                time.sleep(0.005)
                events = [event.kind for event in list(diary.events)]
                if events.count("reconnecting") > seen:
                    seen = events.count("reconnecting")
                    faults.append(time.monotonic())
                    diary.wait_for(faults[-1], 20)

        yield Drill("GStreamer element fails", open_source(uri), faults=faults, trouble=trouble).run()


def rtsp_server_killed(size: Size) -> Iterator[Row]:
    """SIGKILL, and started again."""
    with tempfile.TemporaryDirectory() as folder:
        clip = scene.make_clip(Path(folder) / "clip.h264", 20)
        server = SystemServer(CAMERA, str(clip))
        faults: list[float] = []

        def trouble(diary: Diary) -> None:
            for _ in range(size.rounds):
                time.sleep(0.7)
                server.kill()
                time.sleep(0.3)
                server.start()
                faults.append(time.monotonic())
                diary.wait_for(faults[-1], 30)

        try:
            source = open_source(server.url(), SourceOptions(stall=3.0))
            yield Drill("RTSP server killed", source, faults=faults, trouble=trouble, page=True).run()
        finally:
            server.kill()


def rtsp_corrupt(size: Size) -> Iterator[Row]:
    """Lost packets and wrong bytes."""
    with tempfile.TemporaryDirectory() as folder:
        clip = scene.make_clip(Path(folder) / "clip.h264", 20)
        for scheme in ("rtspt", "rtspu"):
            loss = ["--loss", "0.003"] if scheme == "rtspu" else []
            server = SystemServer(CAMERA, str(clip), "--flips", "0.00001", *loss)
            try:
                source = open_source(server.url(scheme=scheme), SourceOptions(stall=2.0))
                trouble = lambda diary: time.sleep(size.seconds)  # noqa: E731
                name = f"corrupt RTSP ({'TCP' if scheme == 'rtspt' else 'UDP, 0.3 % lost'})"
                row = Drill(name, source, trouble=trouble).run()
                yield replace(row, notes=f"{source.damaged} packets left out")
            finally:
                server.kill()


def rtsp_target_killed(size: Size) -> Iterator[Row]:
    """The server that the stream is pushed to: SIGKILL, and started again. What it got is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "pushed.ts"
        server, pushed = SystemServer(RTSP_SERVER, "--record", str(record)), [0, 0]
        back: list[float] = []

        def look() -> None:
            if record.exists() and record.stat().st_size:
                pushed[:] = np.add(pushed, scene.look(record)).tolist()
                record.unlink()

        def trouble(diary: Diary) -> None:
            for _ in range(max(2, size.rounds // 4)):
                time.sleep(2.0)
                server.kill()
                look()
                server.start()
                began = time.monotonic()
                while not (record.exists() and record.stat().st_size) and time.monotonic() < began + 40:
                    time.sleep(0.02)
                back.append(round(time.monotonic() - began, 3))
            time.sleep(1.0)

        camera = Camera(rate=scene.RATE)
        try:
            with open_sink(server.url("record"), camera) as sink:
                row = Drill("RTSP target killed", camera, trouble=trouble, also=[sink]).run()
            time.sleep(0.5)
            look()
        finally:
            server.kill()
        row = replace(row, recovery_s=back, faults=len(back), notes=f"{pushed[0]} pictures from the server")
        yield replace(row, looked_at=row.looked_at + pushed[0], clear=row.clear + pushed[1])


@contextmanager
def full_disk(folder: Path) -> Iterator[str]:
    """A folder on a disk with room for `ROOM` bytes; without the right to mount one, files that get no longer."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "none", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        yield "tmpfs" if mounted else "RLIMIT_FSIZE"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


Make = Callable[[Size], Iterator[Row]]
DRILLS: dict[str, Make] = {
    make.__name__.replace("_", "-"): make
    for make in (
        control,
        camera_unplugged,
        detector_raises,
        detector_sleeps,
        disk_full,
        slow_sink,
        corrupt_mpeg_ts,
        corrupt_mjpeg,
        kill_9,
    )
}
SYSTEM_DRILLS: dict[str, Make] = {
    make.__name__.replace("_", "-"): make
    for make in (gstreamer_fails, rtsp_server_killed, rtsp_corrupt, rtsp_target_killed)
}
"""These need the system's GStreamer and its RTSP server."""
