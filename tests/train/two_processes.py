"""Run by torchrun in a test: each process trains, and then writes the weights that it holds."""

import sys
from pathlib import Path

from safetensors.torch import save_file

from dartblur_train.dart_training import DartArgs, DartTrainer
from dartblur_train.data.mosaic import FaceSamples, SampleSpec
from dartblur_train.detector_training import DetectorArgs, DetectorTrainer
from dartblur_train.patches import PatchGeometry
from dartblur_train.run import RunArgs, batches, launch, train
from dartblur_train.sources import DataArgs, open_training_sets, read_validation

data, weights, out = (Path(argument) for argument in sys.argv[1:])
source = DataArgs(data)
args = DartArgs(
    source, RunArgs(out / "dart", 2, 2, 2, 1, workers=0), weights, size=96, check_images=1, geometry=PatchGeometry(32)
)
fabric = launch(args.run)
sets, shares = open_training_sets(source, several=False)
samples = FaceSamples(sets, shares, SampleSpec(96), 0)
dart = DartTrainer(args, fabric, read_validation(source, 1))
train(dart, batches(samples, args.run, fabric, 0), args.run, fabric)

run = RunArgs(out / "detector", 2, 2, 2, 1, workers=0)
detector = DetectorTrainer(DetectorArgs(source, run), fabric, read_validation(source, 1))
train(detector, batches(samples, run, fabric, 0), run, fabric)

# The averaged statistics of f_g too: each process must judge g by the same detector.
held = {"generator": dart.g, "f_g": dart.algorithm.f_g, "detector": detector.model}
for name, module in held.items():
    state = module.named_parameters() if name == "detector" else module.state_dict().items()
    weights = {key: value.detach().contiguous() for key, value in state}
    save_file(weights, out / f"{name}-{fabric.global_rank}.safetensors")
