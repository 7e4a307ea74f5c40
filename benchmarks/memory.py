"""Peak memory of ``dartblur run`` on 1920x1080 video, and whether it grows.

    python benchmarks/memory.py [--frames 5000] [--json FILE]

Reads the resident set of the process from /proc twice a second (Linux only).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av

sys.path.insert(0, str(Path(__file__).parent.parent / "samples"))
from demo import make_clip

SIZE = (1920, 1080)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        clip, long, output = (Path(folder) / name for name in ("clip.mp4", "long.mp4", "out.mp4"))
        frames = make_clip(clip, 4.0, SIZE)
        repeat(clip, long, -(-args.frames // frames))
        process = subprocess.Popen(
            [sys.executable, "-m", "dartblur", "run", str(long), str(output)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        samples, peak = [], 0
        while process.poll() is None:
            if resident := status(process.pid, "VmRSS"):
                samples.append(resident)
                peak = status(process.pid, "VmHWM") or peak
            time.sleep(0.5)
    # The first fifth warms up: decoder, encoder and networks take their buffers then.
    settled = samples[len(samples) // 5 :]
    third = max(1, len(settled) // 3)
    figures = {
        "frames": frames * -(-args.frames // frames),
        "exit_code": process.returncode,
        "peak_mb": round(peak / 1024, 1),
        "first_third_mb": round(sum(settled[:third]) / third / 1024, 1),
        "last_third_mb": round(sum(settled[-third:]) / third / 1024, 1),
    }
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return process.returncode


def status(pid: int, field: str) -> int:
    """A field of /proc/PID/status, kB; 0 once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field + ":")), 0)


def repeat(clip: Path, path: Path, times: int) -> None:
    """Writes the clip's video several times in a row, without encoding it again."""
    with av.open(str(path), "w") as target:
        stream, shift = None, 0
        for _ in range(times):
            with av.open(str(clip)) as source:
                video = source.streams.video[0]
                stream = stream or target.add_stream_from_template(video)
                last = 0
                for packet in source.demux(video):
                    if packet.dts is None:
                        continue
                    last = max(last, packet.pts + packet.duration)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    target.mux(packet)
                shift += last


if __name__ == "__main__":
    sys.exit(main())
