"""What the two networks of the built-in models cost: the detector in a 1280x720 frame, the generator for ten faces.

    python benchmarks/ten_faces.py [--rounds 30]

They take turns, so that a machine whose speed drifts slows both; the figure is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from dartblur import load_bundle
from dartblur.backends.cpu import cpu_session
from dartblur.bundle import MODELS

FACES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    random, figures = np.random.default_rng(0), {}
    for model in MODELS:
        bundle = load_bundle(model)
        size = bundle.manifest.patch_size
        image = random.uniform(0, 255, (1, 3, *bundle.manifest.detector_size(720, 1280))).astype(np.float32)
        patches = random.uniform(0, 1, (FACES, 3, size, size)).astype(np.float32)
        calls = {
            "detector": (cpu_session(bundle, "detector.onnx", 2), {"image": image}),
            "generator": (cpu_session(bundle, "generator.onnx", 2), {"blurred": patches}),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(args.rounds):
            for name, (session, inputs) in calls.items():
                began = time.perf_counter()
                session.run(None, inputs)
                times[name].append(1000 * (time.perf_counter() - began))
        middle = {name: statistics.median(values[3:]) for name, values in times.items()}
        figures[model] = {
            "detector_ms": round(middle["detector"], 2),
            "ten_faces_ms": round(middle["generator"], 2),
            "ten_faces_over_detector": round(middle["generator"] / middle["detector"], 2),
        }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
