"""Whether a live stream leaks memory or becomes slower: the whole chain with the built-in model, for many frames.

    python benchmarks/endurance.py VIDEO [--frames 20000] [--size 320x180] [--json FILE] [--trace]

The frames of VIDEO go round and round through the guard (tracker, self-check each second) into a recording in segments,
a page with one viewer, and an audit log that is rotated. A frame is pushed when the one before has left: as fast as the
chain can, and none is dropped. The first fifth warms up: encoders, networks and allocators take their memory then.

Memory is the resident set of the process (Linux), the median of the tenth after the warm-up and of the last tenth, and
beside it what is in use by glibc's count: the resident set also grows where the allocator's free blocks are scattered,
which is no leak. Latency is from the push to the sinks, likewise. Exit code 1 when memory grew by more than 5 MB or the
latency's p99 by more than a tenth.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import dartblur
from dartblur.frame import RedactedFrame
from dartblur.protection.guarding import guarded
from dartblur.protection.policy import Protection
from dartblur.records.audit import AuditLog, Header, policy_of
from dartblur.records.metrics import Metrics
from dartblur.stream import SinkOptions, open_sink, open_source, run
from dartblur.stream.observers import Event, Observer, Observers
from dartblur.stream.sources.pushed import PushSource

MOST_GROWTH_MB, MOST_SLOWDOWN = 5.0, 1.1
SAMPLE_EVERY = 50
VIEWER = "import sys, urllib.request as u\nr = u.urlopen(sys.argv[1])\nwhile r.read(65536): pass"


class Probe(Observer):
    """Latency of each frame, and the memory now and then; lets the next frame in."""

    def __init__(self, frames: int, trace: bool) -> None:
        self.latency = np.zeros(frames, np.float32)
        self.memory: list[tuple[int, float, float]] = []
        self.events: Counter[str] = Counter()
        self.gone = threading.Semaphore(1)
        self.warm = frames // 5
        self.trimmed = 0.0
        self.objects: Counter[str] = Counter()
        self._trace, self._left = trace, 0
        self._snapshot: tracemalloc.Snapshot | None = None

    def on_frame(self, frame: RedactedFrame, source: str) -> None:
        """Measures."""
        number, self._left = self._left, self._left + 1
        self.latency[number] = time.monotonic() - frame.captured
        if number % SAMPLE_EVERY == 0:
            self.memory.append((number, resident_mb(), in_use_mb()))
        if number == self.warm:
            self.objects = objects()
            if self._trace:
                tracemalloc.start(12)
                self._snapshot = tracemalloc.take_snapshot()
        self.gone.release()

    def on_event(self, event: Event) -> None:
        """Counts."""
        self.events[event.kind] += 1

    def growth(self) -> list[str]:
        """Where memory was allocated since the warm-up, the most first."""
        if self._snapshot is None:
            return []
        new = tracemalloc.take_snapshot().compare_to(self._snapshot, "lineno")
        return [str(line) for line in new[:15]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--lookahead", type=int, default=0)
    parser.add_argument("--without", nargs="*", choices=("page", "recording", "audit", "self-check"), default=[])
    parser.add_argument("--trace", action="store_true", help="tell where memory was allocated (slower)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    images = read(args.video, args.size)
    probe, load = Probe(args.frames, args.trace), os.getloadavg()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        audits, segments = stream(images, args, probe, Path(folder))
    figures = report(probe, args, time.monotonic() - began, load)
    figures |= {"audit_files": audits, "segments": segments}
    print(json.dumps(figures, indent=2))
    for line in probe.growth():
        print(line)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    too_much = figures["growth_mb"] > MOST_GROWTH_MB or figures["p99_end_by_start"] > MOST_SLOWDOWN
    return 1 if too_much or figures["frames"] < args.frames else 0


def stream(images: list[np.ndarray], args: argparse.Namespace, probe: Probe, folder: Path) -> tuple[int, int]:
    """Runs it; returns how many files of the audit log and segments of the recording there are."""
    from contextlib import ExitStack

    without = args.without
    anonymizer = dartblur.Anonymizer()
    protection = Protection(lookahead=args.lookahead, self_check=0.0 if "self-check" in without else 1.0)
    metrics, source = Metrics("endurance"), PushSource("endurance")
    told: list[Observer] = [metrics, probe]
    with ExitStack() as stack:
        sinks: list[Any] = []
        if "audit" not in without:
            audit = stack.enter_context(AuditLog.of_stream(folder / "audit.jsonl", max_bytes=500_000, keep=3))
            audit.begin(Header("endurance", anonymizer.model_name, "", policy_of(anonymizer, protection)))
            told.insert(0, audit)
        if "recording" not in without:
            options = SinkOptions(segment=10)
            sinks.append(stack.enter_context(open_sink(folder / "rec.mp4", source, options)))
        if "page" not in without:
            page: Any = open_sink("http://127.0.0.1:0", source, metrics=metrics)
            viewer = subprocess.Popen([sys.executable, "-c", VIEWER, page.url + "stream.mjpg"])
            stack.callback(viewer.wait)
            sinks.append(stack.enter_context(page))
        threading.Thread(target=push, args=(source, images, args.frames, probe), daemon=True).start()
        observers = Observers(told)
        guard = stack.enter_context(guarded(anonymizer, protection, None, observers.on_event))
        run(source, guard, sinks, protection=protection, observers=[observers])
        after = objects()
        ctypes.CDLL(None).malloc_trim(0)
        probe.trimmed = round(resident_mb(), 1)
        print("objects since the warm-up:", [each for each in (after - probe.objects).most_common(12) if each[1] > 20])
    return len(list(folder.glob("audit*"))), len(list(folder.glob("rec*")))


def push(source: PushSource, images: list[np.ndarray], frames: int, probe: Probe) -> None:
    """Pushes the next frame when one has left."""
    for number in range(frames):
        probe.gone.acquire()
        source.push(images[number % len(images)])
    source.end()


def report(probe: Probe, args: argparse.Namespace, seconds: float, load: tuple[float, ...]) -> dict[str, Any]:
    """The figures."""
    frames = int(np.count_nonzero(probe.latency))
    latency = probe.latency[:frames] * 1000
    tenth = frames // 10
    start, end = slice(2 * tenth, 3 * tenth), slice(frames - tenth, frames)
    at, resident, in_use = np.array(probe.memory).T
    tenths = [(at >= number * tenth) & (at < (number + 1) * tenth) for number in range(10)]
    by_tenth, used_by_tenth = (
        [round(float(np.median(values[part])), 1) for part in tenths] for values in (resident, in_use)
    )
    p99 = [float(np.percentile(latency[part], 99)) for part in (start, end)]
    p50 = [float(np.percentile(latency[part], 50)) for part in (start, end)]
    return {
        "frames": frames,
        "size": args.size,
        "seconds": round(seconds, 1),
        "fps": round(frames / seconds, 1),
        "load_average_before_after": [round(load[0], 1), round(os.getloadavg()[0], 1)],
        "without": args.without,
        "growth_mb": round(by_tenth[-1] - by_tenth[2], 1),
        "growth_in_use_mb": round(used_by_tenth[-1] - used_by_tenth[2], 1),
        "resident_by_tenth_mb": by_tenth,
        "in_use_by_tenth_mb": used_by_tenth,
        "resident_trimmed_mb": probe.trimmed,
        "latency_p50_ms": [round(value, 1) for value in p50],
        "latency_p99_ms": [round(value, 1) for value in p99],
        "p99_end_by_start": round(p99[1] / p99[0], 3),
        "events": dict(probe.events),
    }


def read(video: Path, size: str) -> list[np.ndarray]:
    """All frames in this size."""
    width, height = map(int, size.split("x"))
    with open_source(video) as source:
        return [cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA) for frame in source]


def resident_mb() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class _MallInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def in_use_mb() -> float:
    """What the program has allocated and not freed, by glibc's count; without what its allocator keeps for later."""
    allocator = ctypes.CDLL(None).mallinfo2
    allocator.restype = _MallInfo
    info = allocator()
    return float(info.uordblks + info.hblkhd) / 1e6


def objects() -> Counter[str]:
    """Python's objects by type."""
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects())


if __name__ == "__main__":
    sys.exit(main())
