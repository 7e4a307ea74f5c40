"""What a GPU makes of the project: the CUDA operations, the fused graph in PyTorch, a training step.

    make bench-gpu
    python benchmarks/gpu.py [--json FILE]

Times are medians, taken with CUDA events after a warm-up. `composite` is judged by the bytes that it has to move - it
writes what the boxes cover and reads the face squares once - over the bandwidth of copying 1 GiB within the device's
memory, both directions counted. Its frames take turns and are more than any cache holds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from dartblur.bundle import load_bundle
from dartblur_export.fused import FusedGraph, FusedSpec
from dartblur_ops import cuda
from dartblur_train.algorithm1 import Algorithm1, Faces, Objectives
from dartblur_train.generators import build_application
from dartblur_train.nets.detectors import build_detector
from dartblur_train.nets.edge_detector import EdgeDetector
from dartblur_train.nets.unet import EdgeUNet

PATCH, CONTEXT = 64, 1.6
ROUNDS = 50
FACE_SIDES = (40, 120, 400)
"""Sides of the faces that `composite` is timed with, pixels."""
TARGET = 0.7
"""Share of the copy bandwidth that `composite` shall reach."""

Figures = dict[str, object]


def seconds(call: Callable[[int], object], rounds: int = ROUNDS) -> float:
    """Median time of a call, which is given the number of its round."""
    times = []
    for number in range(-3, rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call(number)
        end.record()
        end.synchronize()
        if number >= 0:
            times.append(start.elapsed_time(end) / 1000)
    return median(times)


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy within the device's memory."""
    source = torch.randint(0, 256, (1 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda number: target.copy_(source))


def grid_boxes(height: int, width: int, side: int, count: int) -> Tensor:
    """As many boxes as asked for, or fit, side by side at odd places."""
    step = side + 7
    places = [(x, y) for y in range(5, height - side, step) for x in range(3, width - side, step)]
    return torch.tensor([[x, y, x + side, y + side] for x, y in places[:count]], dtype=torch.float32, device="cuda")


def composite_figures(bandwidth: float, dtype: torch.dtype) -> list[Figures]:
    """Of 32 frames of 1920x1080 at once, with up to 48 faces each."""
    sets = [torch.randint(0, 256, (32, 1080, 1920, 3), dtype=torch.uint8, device="cuda") for _ in range(4)]
    rows: list[Figures] = []
    for side in FACE_SIDES:
        boxes = grid_boxes(1080, 1920, side, 48).expand(32, -1, -1).contiguous()
        patches = torch.rand(*boxes.shape[:2], 3, PATCH, PATCH, device="cuda").to(dtype)
        spent = seconds(lambda number: cuda.composite(sets[number % 4], patches, boxes, CONTEXT))  # noqa: B023
        face = round(PATCH / CONTEXT)
        faces = boxes.shape[0] * boxes.shape[1]
        moved = faces * 3 * (side * side + face * face * patches.element_size())
        share = moved / spent / bandwidth
        rows.append({
            "face": side, "faces": faces, "patches": str(dtype), "ms": 1000 * spent, "gb_s": moved / spent / 1e9,
            "share_of_copy": share, "target_reached": share >= TARGET,
        })  # fmt: skip
    return rows


def operation_times() -> Figures:
    """Milliseconds of each operation on one frame with five faces of 90 x 110 pixels."""
    figures: Figures = {}
    for name, (height, width) in {"720p": (720, 1280), "1080p": (1080, 1920)}.items():
        frame = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, device="cuda")
        boxes = torch.tensor([[100 + 150 * i, 200, 190 + 150 * i, 310] for i in range(5)], device="cuda").float()
        patches = torch.empty(5, 3, PATCH, PATCH, device="cuda")
        planes = torch.empty(3, 384, 640, device="cuda")
        calls: dict[str, Callable[[int], object]] = {
            "letterbox": lambda _, f=frame, p=planes: cuda.letterbox(f, (384, 640), p),  # type: ignore[misc]
            "crop_faces": lambda _, f=frame, b=boxes, p=patches: cuda.crop_faces(f, b, PATCH, CONTEXT, out=p),  # type: ignore[misc]
            "composite": lambda _, f=frame, b=boxes, p=patches: cuda.composite(f, p, b, CONTEXT),  # type: ignore[misc]
            "gaussian": lambda _, f=frame, b=boxes: cuda.gaussian(f, b),  # type: ignore[misc]
            "pixelate": lambda _, f=frame, b=boxes: cuda.pixelate(f, b),  # type: ignore[misc]
            "solid": lambda _, f=frame, b=boxes: cuda.solid(f, b),  # type: ignore[misc]
        }
        for operation, call in calls.items():
            figures[f"{name} {operation}"] = 1000 * seconds(call)
    return figures


def fused_times(
    device: str = "cuda", frame: tuple[int, int] = (720, 1280), batch: int = 1
) -> dict[str, Callable[[int], object]]:
    """The fused graph with networks of float32 and half: weights are random, which takes the same time."""
    manifest = load_bundle().manifest
    frames = torch.randint(0, 256, (batch, *frame, 3), dtype=torch.uint8, device=device)
    held = torch.zeros(batch, FusedSpec().held, 4, device=device)
    calls: dict[str, Callable[[int], object]] = {}
    for name, half in (("float", False), ("half", True)):
        graph = FusedGraph(EdgeDetector().eval(), EdgeUNet().eval(), manifest, FusedSpec(), half=half).to(device).eval()
        calls[name] = torch.inference_mode()(lambda _, graph=graph: graph(frames, held))
    return calls


def training_step(device: str = "cuda", batch: int = 8, side: int = 320) -> Callable[[int], object]:
    """A step of Algorithm 1 by patches: RetinaFace with random weights, noise, four faces in each picture."""
    from lightning_fabric import Fabric

    f, f_g = (build_detector("retinaface").to(device) for _ in range(2))
    g = EdgeUNet().to(device)
    optimizers = torch.optim.Adam(g.parameters(), 1e-6), torch.optim.SGD(f_g.parameters(), 1e-6)
    fabric = Fabric(accelerator=device, devices=1)
    algorithm = Algorithm1(g, f, f_g, *optimizers, Objectives(), build_application("patch"), fabric)
    pictures = torch.rand(batch, 3, side, side, device=device) * 255
    corners = torch.rand(batch, 4, 2, device=device) * (side - 80)
    faces = Faces(list(torch.cat([corners, corners + 60], -1)))
    return lambda _: algorithm.step(pictures, faces)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        cuda.require()
    except cuda.CudaError as error:
        parser.error(str(error))
    if not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} can't use CUDA here: install its CUDA build")
    bandwidth = copy_bandwidth()
    figures: Figures = {
        "device": torch.cuda.get_device_name(),
        "compute_capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "copy_gb_s": bandwidth / 1e9,
        "composite": [*composite_figures(bandwidth, torch.float32), *composite_figures(bandwidth, torch.float16)],
        "operations_ms": operation_times(),
        "fused_ms": {name: 1000 * seconds(call) for name, call in fused_times().items()},
        "training_step_ms": 1000 * seconds(training_step(), 10),
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
