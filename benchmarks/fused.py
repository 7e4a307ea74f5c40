"""The fused graph on a CPU: beside the native backend, and in half precision beside single.

    python benchmarks/fused.py [DATA] [--model BUNDLE] [--every 1] [--rounds 20] [--threads 2] [--json FILE]

Speed: the CPU backend (networks in ONNX Runtime, native operations) and the whole of ``fused.onnx`` in ONNX Runtime
take turns at the same 1280x720 frames with two faces, so that whatever else the machine does hits both alike; the
figure is the median ratio of neighbours.

Precision, with DATA (it holds ``widerface/`` in the published layout): AP@0.5 of ``fused.onnx`` and
``fused-half.onnx`` on the validation part, as in ``detection.py`` but for the graph's limit of faces in a picture; and
how far their patches of the same boxes, the annotated faces, are from each other. ONNX Runtime leaves most rounding to
half precision out on a CPU, so it is written into the graph here: what every operator makes is rounded. (Sums within an
operator stay in single precision, as in a GPU's matrix units.)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dartblur import load_bundle
from dartblur.anonymizer import Anonymizer
from dartblur.backends.cpu import CpuBackend, cpu_session
from dartblur.backends.fused_cpu import FusedCpuBackend
from dartblur.bundle import Bundle
from dartblur_train.data.cache import read_bgr
from dartblur_train.evaluation.average_precision import average_precision
from dartblur_train.sources import DataArgs, read_validation

sys.path.insert(0, str(Path(__file__).parent.parent / "samples"))
from demo import picture_at

SIZE = (1280, 720)
MOMENTS = 5
LONG_SIDE = 640
SMALLEST = 20
"""Of the faces that count, pixels."""
GRAPHS = ("fused.onnx", "fused-half.onnx")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--model", type=Path, help="bundle; the built-in one if not given")
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture only")
    parser.add_argument("--rounds", type=int, default=20, help="of the comparison of speed; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()

    bundle = load_bundle(args.model)
    figures: dict[str, Any] = {
        "model": f"{bundle.manifest.name} {bundle.manifest.version}",
        "threads": args.threads,
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }
    if args.rounds:
        figures["speed"] = speed(bundle, args.rounds, args.threads)
    if args.data:
        figures["precision"] = precision(bundle, args.data, args.every, args.threads)
    figures["load_average_at_end"] = [round(load, 2) for load in os.getloadavg()]
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def speed(bundle: Bundle, rounds: int, threads: int) -> dict[str, Any]:
    """Frames with faces from end to end, in turns."""
    frames = [picture_at(number / MOMENTS, SIZE) for number in range(MOMENTS)]
    backends = {"cpu": CpuBackend(bundle, threads), "fused": FusedCpuBackend(bundle, threads=threads)}
    anonymizers = {name: Anonymizer(backend=backend) for name, backend in backends.items()}
    spent: dict[str, list[float]] = {name: [] for name in anonymizers}
    faces = []
    # The first turn takes the buffers and isn't counted.
    for turn in range(rounds + 1):
        for name, anonymize in anonymizers.items():
            frame = frames[turn % MOMENTS].copy()
            started = time.perf_counter()
            found = anonymize(frame, in_place=True)
            if turn:
                spent[name].append(1000 * (time.perf_counter() - started))
                faces.append(len(found.detections))
    ratios = [fused / native for native, fused in zip(spent["cpu"], spent["fused"], strict=True)]
    return {
        "frame": f"{SIZE[0]}x{SIZE[1]}",
        "rounds": rounds,
        "faces": [min(faces), max(faces)],
        **{f"{name}_ms": round(statistics.median(times), 1) for name, times in spent.items()},
        "times_as_fast": round(statistics.median(ratios), 2),
    }


def precision(bundle: Bundle, data: Path, every: int, threads: int) -> dict[str, Any]:
    """Half precision beside single."""
    graphs = dict(bundle.graphs) | {GRAPHS[1]: rounded(bundle.graphs[GRAPHS[1]])}
    sessions = {name: cpu_session(replace(bundle, graphs=graphs), name, threads) for name in GRAPHS}
    slots, most = bundle.manifest.fused["slots"], bundle.manifest.fused["held"]
    records = read_validation(DataArgs(data))[::every]
    found: dict[str, list[tuple[Any, Any]]] = {name: [] for name in GRAPHS}
    truth, worst, total, count = [], 0.0, 0.0, 0
    for record in records:
        image, faces = scaled(read_bgr(record.path), record.boxes)
        truth.append((faces, record.ignored))
        held = np.zeros((1, most, 4), np.float32)
        shown = faces[~record.ignored][:most]
        held[0, : len(shown)] = shown
        patches = {}
        for name, session in sessions.items():
            outputs = session.run(["patches", "boxes", "scores"], {"frames": image[None], "held_boxes": held})
            patches[name] = outputs[0][0, slots : slots + len(shown)].astype(np.float32)
            real = outputs[2][0, :slots] > 0
            found[name].append((outputs[1][0, :slots][real], outputs[2][0, :slots][real]))
        difference = np.abs(patches[GRAPHS[0]] - patches[GRAPHS[1]])
        worst = max(worst, float(difference.max(initial=0)))
        total, count = total + float(difference.sum()), count + difference.size
    values = {name: average_precision(found[name], truth, iou=0.5, smallest=SMALLEST) for name in GRAPHS}
    single, half = (values[name].average_precision for name in GRAPHS)
    return {
        "pictures": len(records),
        f"faces_{SMALLEST}px": values[GRAPHS[0]].faces,
        "ap50_single": round(single, 5),
        "ap50_half": round(half, 5),
        "difference_points": round(100 * (half - single), 3),
        "patches_compared": count // max(1, 3 * bundle.manifest.patch_size**2),
        "patch_difference_max_of_255": round(255 * worst, 3),
        "patch_difference_mean_of_255": round(255 * total / max(1, count), 4),
    }


def rounded(graph: bytes) -> bytes:
    """A graph with half networks as one in single precision that rounds to half wherever the other is in half."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph))
    values = (*model.graph.value_info, *model.graph.output)
    half = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes = []
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            to_single(attribute.t)
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in half:
                node.output[place] = f"{name}/exact"
                nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    for constant in model.graph.initializer:
        to_single(constant)
    for output in model.graph.output:
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def to_single(constant: onnx.TensorProto) -> None:
    if constant.data_type == TensorProto.FLOAT16:
        value = numpy_helper.to_array(constant).astype(np.float32)
        constant.CopyFrom(numpy_helper.from_array(value, constant.name))


def scaled(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture and its boxes at a long side of `LONG_SIDE`."""
    scale = LONG_SIDE / max(image.shape[:2])
    if scale == 1:
        return image, boxes
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return image, boxes * np.float32(scale)


if __name__ == "__main__":
    sys.exit(main())
