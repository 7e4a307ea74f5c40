"""Time and peak memory of a training step: ours, beside a straightforward one in the published code's order.

    pip install higher
    python benchmarks/training_step.py DATA WEIGHTS [--mode patch|frame] [--batch 8] [--steps 5] [--json FILE]

Same pictures, same networks, same losses, float32. The reference does what the published trainer does, in its order:
f's detections; g(x); f and f_g look at it; the library `higher` copies f_g and takes the inner step; the four losses
are summed, and the backward pass reaches whatever has weights; then f_g learns. Ours is Algorithm 1 with ``--updates
joint`` (the same sum) and ``sequential`` (a step for each objective). The runs alternate, so that a busy machine slows
all alike; memory is measured in a process of its own for each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import higher
import torch
from lightning_fabric import Fabric
from torch import Tensor

from dartblur_train.algorithm1 import Algorithm1, Faces, Objectives, detections_of, review_loss
from dartblur_train.application import Application
from dartblur_train.data.mosaic import FaceSamples, SampleSpec
from dartblur_train.data.samples import collate
from dartblur_train.generators import build_application
from dartblur_train.nets.detectors import build_detector
from dartblur_train.nets.unet import EdgeUNet
from dartblur_train.sources import DataArgs, open_training_sets

KINDS = ("reference", "joint", "sequential")
Step = Callable[[Tensor, Faces], object]


def reference(weights: Path, application: Application, device: torch.device) -> Step:
    """A step as the published code takes it, with our networks, losses and application."""
    f, f_g = (build_detector("retinaface", weights).to(device) for _ in range(2))
    g = EdgeUNet().to(device)
    optimizer_g = torch.optim.Adam(g.parameters(), 5e-4, (0.5, 0.999))
    optimizer_fg = torch.optim.SGD(f_g.parameters(), 1e-4)
    settings = Objectives()

    def step(x: Tensor, b: Faces) -> None:
        smoothing = settings.label_smoothing
        with torch.no_grad():
            f_x = detections_of(f, f.eval()(x), settings.target_confidence, settings.target_iou)
        prepared = application.prepare(x, b.boxes)
        g_x = application.redact(prepared, g)
        seen_by_f = f(g_x.images)
        seen_by_f_g = f_g.eval()(g_x.images)
        with higher.innerloop_ctx(f_g, optimizer_fg, track_higher_grads=True) as (stepped, inner):
            inner.step(f_g.judge(stepped(g_x.images), b.boxes, label_smoothing=smoothing).total)
            seen_after = stepped(x)
        total = review_loss(g_x, settings.eps_rev) + f.judge(seen_by_f, f_x.boxes).total
        total = total + f_g.judge(seen_by_f_g, f_x.boxes, label_smoothing=smoothing).total
        total = total + f_g.judge(seen_after, f_x.boxes, label_smoothing=smoothing).total
        optimizer_g.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(g.parameters(), settings.max_gradient_norm)
        optimizer_g.step()
        with torch.no_grad():
            again = application.redact(prepared, g).images
        f_g.train()
        loss = f_g.judge(f_g(again), b.boxes, label_smoothing=smoothing).total
        optimizer_fg.zero_grad()
        loss.backward()
        optimizer_fg.step()

    return step


def ours(weights: Path, application: Application, device: torch.device, updates: str) -> Step:
    """A step of our trainer."""
    f, f_g = (build_detector("retinaface", weights).to(device) for _ in range(2))
    g = EdgeUNet().to(device)
    optimizer_g = torch.optim.Adam(g.parameters(), 5e-4, (0.5, 0.999))
    optimizer_fg = torch.optim.SGD([w for w in f_g.parameters() if w.requires_grad], 1e-4)
    fabric = Fabric(accelerator=device.type, devices=1)
    return Algorithm1(g, f, f_g, optimizer_g, optimizer_fg, Objectives(updates=updates), application, fabric).step


def pictures(data: Path, batch: int, device: torch.device) -> tuple[Tensor, Faces]:
    sets, shares = open_training_sets(DataArgs(data), several=False)
    spec = SampleSpec(320, mosaic=0, face_size=(20, 160), scale=(0.4, 2), max_faces=64, photometric=False)
    samples = FaceSamples(sets, shares, spec, 0)
    images, faces, valid, _ = collate([samples[number] for number in range(batch)])
    boxes = [row[keep].to(device) for row, keep in zip(faces, valid, strict=True)]
    return images.float().to(device), Faces(boxes)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Yields a list that will hold by how many MiB memory grew at most."""
    grown: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield grown
        grown.append(torch.cuda.max_memory_allocated() / 2**20)
        return
    # Linux: resets the process's high-water mark, which reading the data set has raised.
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    yield grown
    grown.append((_resident("VmHWM") - before) / 1024)


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--mode", choices=("patch", "frame"), default="patch")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", choices=KINDS, help="two steps of one kind, and its peak memory")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    application = build_application(args.mode)
    x, b = pictures(args.data, args.batch, device)

    def make(kind: str) -> Step:
        if kind == "reference":
            return reference(args.weights, application, device)
        return ours(args.weights, application, device, kind)

    if args.only:
        step = make(args.only)
        with peak_memory(device) as grown:
            for _ in range(2):
                step(x, b)
        print(grown[0])
        return 0

    steps = {kind: make(kind) for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(args.steps + 1):
        for kind, step in steps.items():
            started = time.perf_counter()
            step(x, b)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first one warms up
                times[kind].append(time.perf_counter() - started)
    figures: dict[str, object] = {"mode": args.mode, "batch": args.batch, "steps": args.steps, "device": str(device)}
    for kind in KINDS:
        command = [sys.executable, __file__, str(args.data), str(args.weights), "--mode", args.mode]
        command += ["--batch", str(args.batch), "--only", kind]
        peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        figures[kind] = {
            "seconds": round(median(times[kind]), 3),
            "times_as_fast": round(median(times["reference"]) / median(times[kind]), 2),
            "peak_mib": round(peak),
        }
    text = json.dumps(figures, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
