"""The fault drill: whatever breaks, no clear face leaves; and how soon the stream is back.

    python benchmarks/faults.py [--quick] [--no-system] [--only NAME ...] [--rounds 20] [--json FILE]

A scene with a patch that stands for a face goes through the whole pipeline into real files, a real page and a real RTSP
server, while something is broken; what comes out is decoded and looked at. The detector finds the patch by its colours,
so it is known exactly where it is; ``control`` runs a blind detector, to show that a clear face would be noticed.

``back`` is from the end of a fault to the next anonymized frame that was captured and left after it, median and
longest; ``gap`` is the longest time without an anonymized frame. Exit code 1 if a clear face came out, a run hung, a
thread stayed, or faults weren't recovered from.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from fault_drills import DRILLS, SYSTEM_DRILLS, Size, record_until_killed
from fault_parts import has_rtsp_server
from fault_run import Row

HEAD = (
    f"{'drill':33}{'on fault':>9}{'ahead':>6}{'in':>6}{'out':>6}{'fault':>6}{'faults':>7}{'seen':>6}{'clear':>6}"
    f"{'back, s':>14}{'gap, s':>8}  end"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few frames and rounds")
    parser.add_argument("--no-system", action="store_true", help="leave out what needs the system's GStreamer")
    parser.add_argument("--only", nargs="+", choices=[*DRILLS, *SYSTEM_DRILLS], default=[], metavar="NAME")
    parser.add_argument("--rounds", type=int, help="how often a camera or server is lost (20)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        record_until_killed(args.child)
        return 0
    drills = {**DRILLS, **({} if args.no_system else SYSTEM_DRILLS)}
    if not args.no_system and not has_rtsp_server():
        print("no GStreamer RTSP server here: its drills are left out; apt-get install gir1.2-gst-rtsp-server-1.0")
        drills = DRILLS
    size = Size(args.quick, args.rounds)
    rows = []
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(HEAD)
    for name, make in drills.items():
        if args.only and name not in args.only:
            continue
        for row in make(size):
            rows.append(row)
            show(row)
    bad = [row for row in rows if problem(row)]
    for row in bad:
        print(f"{row.drill}, {row.on_fault}, lookahead {row.lookahead}: {problem(row)}")
    if args.json:
        report = {"load_average": os.getloadavg(), "rows": [asdict(row) for row in rows]}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if bad else 0


def problem(row: Row) -> str:
    """What is wrong with a drill; empty if nothing is."""
    if row.drill.startswith("control"):
        return "" if row.clear == row.looked_at > 0 else "clear faces aren't noticed, so this drill proves nothing"
    if row.clear:
        return f"{row.clear} clear faces left"
    if not row.looked_at:
        return "nothing came out, so nothing was looked at"
    if row.end == "HANGS" or row.threads_left:
        return f"{row.end}, threads left: {row.threads_left}"
    # Faults right at the end have no frame after them.
    if row.never_recovered and row.on_fault != "stop" and row.end == "ended" and row.never_recovered > row.faults / 2:
        return f"{row.never_recovered} faults of {row.faults} were not recovered from"
    return ""


def show(row: Row) -> None:
    """A line of the table."""
    print(
        f"{row.drill:33}{row.on_fault:>9}{row.lookahead:>6}{row.frames_in:>6}{row.frames_out:>6}{row.fault_frames:>6}"
        f"{row.faults:>7}{row.looked_at:>6}{row.clear:>6}{row.recovery:>14}{row.gap_s:>8.2f}  {row.end}"
        + (f", threads {row.threads_left}" if row.threads_left else "")
        + (f"; {row.notes}" if row.notes else ""),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
