"""Two 1280x720 streams at 15 frames a second in real time on two cores: one process, one model.

    python benchmarks/live.py VIDEO [VIDEO] [--seconds 60] [--fps 15] [--streams 2] [--no-self-check] [--json FILE]

The videos are scaled to 1280x720 first, and read in a loop at the speed of their time stamps, as cameras would be. Each
stream is recorded and shown on a page with one viewer. Latency is from the decoded frame to its handing to the sinks.
Exit code 1 when a stream lost more than 1 % of its frames.

On a machine that does something else as well the figures say little: the load average stands beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

import dartblur
from dartblur.frame import RedactedFrame
from dartblur.protection.guarding import guarded
from dartblur.protection.policy import Protection
from dartblur.records.metrics import Metrics
from dartblur.stream import SourceOptions, Summary, open_sink, open_source, run
from dartblur.stream.observers import Event, Observer, Observers

SIZE = (1280, 720)
MOST_LOST = 0.01
WARM_UP_S = 3.0
VIEWER = "import sys, urllib.request as u\nr = u.urlopen(sys.argv[1])\nwhile r.read(65536): pass"


class Probe(Observer):
    """Latencies of the frames of one stream, and what was dropped, after the warm-up."""

    def __init__(self) -> None:
        self.from_ = time.monotonic() + WARM_UP_S
        self.latency: list[float] = []
        self.faces = self.faults = 0
        self.events: list[str] = []
        self.ended = 0.0

    def on_frame(self, frame: RedactedFrame, source: str) -> None:
        """Measures."""
        now = time.monotonic()
        if frame.captured < self.from_:
            return
        self.ended = now
        self.latency.append(now - frame.captured)
        self.faces += len(frame.detections)
        self.faults += frame.fault is not None

    def on_event(self, event: Event) -> None:
        """Counts."""
        if time.monotonic() >= self.from_:
            self.events.append(event.kind)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--fps", type=int, default=15)
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--no-self-check", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        clips = [scaled(video, Path(folder) / f"clip{n}.mp4", args.fps) for n, video in enumerate(args.videos)]
        used = time.process_time()
        began = time.monotonic()
        probes = streams(clips, args, Path(folder))
        seconds = time.monotonic() - began
        cores = (time.process_time() - used) / seconds
    figures = {
        "seconds": args.seconds,
        "fps_asked": args.fps,
        "self_check": not args.no_self_check,
        "cores_used": round(cores, 2),
        "cores": os.cpu_count(),
        "load_average_before_after": [round(load[0], 1), round(os.getloadavg()[0], 1)],
        "streams": [of_stream(probe) for probe in probes],
    }
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if any(stream["lost"] > MOST_LOST for stream in figures["streams"]) else 0


def streams(clips: list[Path], args: argparse.Namespace, folder: Path) -> list[Probe]:
    """Runs all of them at once."""
    probes = [Probe() for _ in range(args.streams)]
    errors: list[BaseException] = []
    anonymizer = dartblur.Anonymizer(shared=True)

    def one(number: int) -> None:
        try:
            stream(clips[number % len(clips)], anonymizer, probes[number], folder / f"out{number}.mp4", args)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(args.streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return probes


def stream(
    clip: Path, anonymizer: dartblur.Anonymizer, probe: Probe, target: Path, args: argparse.Namespace
) -> Summary:
    """One of them."""
    metrics, end = Metrics(target.stem), threading.Event()
    observers = Observers([metrics, probe])
    protection = Protection.of_camera().with_options(self_check=0.0 if args.no_self_check else None)
    with ExitStack() as stack:
        source = stack.enter_context(open_source(clip, SourceOptions(realtime=True, loop=True)))
        record = stack.enter_context(open_sink(target, source))
        page: Any = open_sink("http://127.0.0.1:0", source, metrics=metrics)
        viewer = subprocess.Popen([sys.executable, "-c", VIEWER, page.url + "stream.mjpg"])
        stack.callback(viewer.wait)
        stack.enter_context(page)
        guard = stack.enter_context(guarded(anonymizer, protection, None, observers.on_event))
        probe.from_ = time.monotonic() + WARM_UP_S
        timer = threading.Timer(WARM_UP_S + args.seconds, end.set)
        timer.start()
        stack.callback(timer.cancel)
        return run(source, guard, [record, page], protection=protection, observers=[observers], stop=end)


def of_stream(probe: Probe) -> dict[str, Any]:
    """The figures of one stream."""
    milliseconds = np.array(probe.latency) * 1000
    out, dropped = len(milliseconds), probe.events.count("dropped")
    seconds = probe.ended - probe.from_
    return {
        "fps_in": round((out + dropped) / seconds, 2),
        "fps_out": round(out / seconds, 2),
        "frames_out": out,
        "dropped": dropped,
        "sink_dropped": probe.events.count("sink-dropped"),
        "fault_frames": probe.faults,
        "lost": round((dropped + probe.faults) / max(1, out + dropped), 4),
        "faces_a_frame": round(probe.faces / max(1, out), 2),
        **{f"latency_p{p}_ms": round(float(np.percentile(milliseconds, p)), 1) for p in (50, 95, 99)},
        "events": sorted(set(probe.events)),
    }


def scaled(video: Path, path: Path, fps: int, seconds: float = 10.0) -> Path:
    """The video, again and again up to so many seconds, at 1280x720 and this frame rate."""
    with av.open(str(path), "w") as container:
        target: Any = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "20"})
        target.width, target.height = SIZE
        target.pix_fmt, target.gop_size = "yuv420p", 2 * fps
        number = 0
        while number < seconds * fps:
            with av.open(str(video)) as source:
                for frame in source.decode(video=0):
                    if number >= seconds * fps:
                        break
                    big = frame.reformat(*SIZE, format="yuv420p", interpolation="BICUBIC")
                    big.pts, big.time_base, big.pict_type = number, Fraction(1, fps), 0
                    container.mux(target.encode(big))
                    number += 1
        container.mux(target.encode(None))
    return path


if __name__ == "__main__":
    sys.exit(main())
