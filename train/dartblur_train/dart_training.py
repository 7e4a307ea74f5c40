"""``dartblur train dart``: the run around Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from .algorithm1 import INNER_STEPS, UPDATES, Algorithm1, Faces, Objectives
from .data.labels import DataError, FaceImage
from .data.mosaic import FaceSamples, SampleSpec
from .data.published import PublishedSamples
from .detector_training import AUGMENTATIONS, to_device
from .evaluation.fidelity import operational_fidelity
from .generators import build_application, save_generator
from .methods import learned, plain
from .nets.detectors import build_detector
from .nets.unet import GENERATORS
from .patches import PatchGeometry
from .run import Batch, RunArgs, batches, launch, options_of, resume, train
from .sources import DataArgs, open_training_sets, read_validation, tell_problems


@dataclass(frozen=True)
class DartArgs:
    """What a generator is trained with.

    Attributes:
        data: where pictures come from.
        run: how the run is carried out.
        detector: family of f and f_g, a name in `DETECTORS`.
        detector_weights: of f, and the start of f_g.
        generator: name in `GENERATORS`.
        mode: how g is applied: ``patch`` or ``frame``.
        geometry: of the patches.
        objectives: constants of the four objectives.
        augmentation: ``mosaic``: crops that keep a face in view; or ``published``.
        size: side of the pictures, pixels.
        learning_rate_g, learning_rate_fg: of Adam with betas (0.5, 0.999).
        decay_g, decay_fg: what is left of them at the end of the run; they fall exponentially.
        fg_epochs: rounds over the data in which f_g alone learns, before each round in which g learns too.
        epoch: steps of a round; None: as many as show each picture once.
        box_scale: boxes are grown by a factor drawn from this range, as users grow them.
        check_images: validation images of a measurement.
    """

    data: DataArgs
    run: RunArgs
    detector_weights: Path
    detector: str = "retinaface"
    generator: str = "edge"
    mode: str = "patch"
    geometry: PatchGeometry = field(default_factory=PatchGeometry)
    objectives: Objectives = field(default_factory=Objectives)
    augmentation: str = "mosaic"
    size: int = 320
    learning_rate_g: float = 5e-4
    learning_rate_fg: float = 5e-4
    decay_g: float = 0.1
    decay_fg: float = 0.1
    fg_epochs: int = 0
    epoch: int | None = None
    box_scale: tuple[float, float] = (1.0, 1.2)
    check_images: int = 100


class DartTrainer:
    """The state of a run of Algorithm 1; a `Trainee`."""

    def __init__(self, args: DartArgs, fabric: Fabric, validation: list[FaceImage], epoch: int = 1) -> None:
        _check(args)
        self.args, self.fabric, self.validation = args, fabric, validation
        self.options = options_of(
            args, ("learning_rate_g", "learning_rate_fg", "decay_g", "decay_fg", "epoch", "check_images")
        )
        self.epoch = args.epoch or epoch
        torch.manual_seed(args.run.seed)
        self.application = build_application(args.mode, args.geometry)
        self.g = GENERATORS[args.generator]().to(fabric.device)
        f, f_g = (build_detector(args.detector, args.detector_weights).to(fabric.device) for _ in range(2))
        betas = (0.5, 0.999)
        self.optimizer_g = torch.optim.Adam(self.g.parameters(), args.learning_rate_g, betas)
        trained = [weight for weight in f_g.parameters() if weight.requires_grad]
        self.optimizer_fg = torch.optim.Adam(trained, args.learning_rate_fg, betas)
        self.algorithm = Algorithm1(
            self.g, f, f_g, self.optimizer_g, self.optimizer_fg, args.objectives, self.application, fabric
        )
        self.step = 0

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Of `Trainee`: one iteration of Algorithm 1, or of its last line alone."""
        images, faces, ignored = to_device(batch, self.fabric)
        boxes = Faces(self._grown(faces), ignored)
        self._set_learning_rates()
        # Rounds go f_g, ..., f_g, both; with fg_epochs = 0 each is of both.
        alone = (self.step // self.epoch) % (self.args.fg_epochs + 1) < self.args.fg_epochs
        losses = self.algorithm.step_f_g(images, boxes) if alone else self.algorithm.step(images, boxes)
        self.step += 1
        return losses

    def _set_learning_rates(self) -> None:
        args, done = self.args, self.step / self.args.run.steps
        for optimizer, rate, left in (
            (self.optimizer_g, args.learning_rate_g, args.decay_g),
            (self.optimizer_fg, args.learning_rate_fg, args.decay_fg),
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate * left**done

    def _grown(self, faces: list[Tensor]) -> list[Tensor]:
        low, high = self.args.box_scale
        # A generator of its own for each step, so that a resumed run draws what an uninterrupted one would.
        random = torch.Generator().manual_seed(hash((self.args.run.seed, self.step, self.fabric.global_rank)))
        grown = []
        for boxes in faces:
            scale = (low + (high - low) * torch.rand(len(boxes), 1, generator=random)).to(boxes)
            centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * scale
            grown.append(torch.cat([centre - half, centre + half], 1))
        return grown

    def state(self) -> dict[str, Any]:
        """Of `Trainee`."""
        return {
            "g": self.g.state_dict(),
            "f_g": self.algorithm.f_g.state_dict(),
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_fg": self.optimizer_fg.state_dict(),
            "step": self.step,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Of `Trainee`."""
        self.g.load_state_dict(state["g"])
        self.algorithm.f_g.load_state_dict(state["f_g"])
        self.optimizer_g.load_state_dict(state["optimizer_g"])
        self.optimizer_fg.load_state_dict(state["optimizer_fg"])
        self.step = state["step"]

    def save_weights(self) -> None:
        """Writes ``generator.safetensors``."""
        file = self.args.run.out / "generator.safetensors"
        save_generator(file, self.g, self.args.generator, self.application, self.step)

    def measure(self) -> dict[str, float]:
        """Operational fidelity of g as it is, and of Gaussian blur."""
        methods = {"dart": learned(self.g, self.application), "gaussian": plain("gaussian")}
        fidelity = operational_fidelity(self.validation, methods, self.algorithm.f)
        return {f"operational_{name}": value for name, value in fidelity.items()}

    @torch.no_grad()
    def picture(self, batch: Batch) -> NDArray[np.uint8]:
        """Clear, Gaussian and g(x) of a few images side by side."""
        images, faces, _ = to_device(batch, self.fabric)
        result = self.application.redact(self.application.prepare(images[:4], faces[:4]), self.g)
        rows = torch.cat([images[:4], result.blurred, result.images], 3).cpu().numpy().transpose(0, 2, 3, 1)
        return np.concatenate(list(rows.clip(0, 255).round().astype(np.uint8)))


def _check(args: DartArgs) -> None:
    if args.generator not in GENERATORS:
        raise DataError(f"generator: expected one of {', '.join(sorted(GENERATORS))}, got {args.generator!r}")
    multiple = GENERATORS[args.generator].multiple
    if args.mode == "patch" and args.geometry.size % multiple:
        raise DataError(f"patch size: expected a multiple of {multiple}, got {args.geometry.size}")
    if args.objectives.updates not in UPDATES:
        raise DataError(f"updates: expected one of {', '.join(UPDATES)}, got {args.objectives.updates!r}")
    if args.objectives.inner_step not in INNER_STEPS:
        raise DataError(f"inner step: expected one of {', '.join(INNER_STEPS)}, got {args.objectives.inner_step!r}")
    if args.augmentation not in AUGMENTATIONS:
        raise DataError(f"augmentation: expected one of {', '.join(AUGMENTATIONS)}, got {args.augmentation!r}")


def train_dart(args: DartArgs) -> Path:
    """Trains (or resumes) and returns the file of the generator's weights.

    Raises:
        DataError: data, weights or an argument are missing or malformed.
        TrainingError: a loss is not finite or runs away.
    """
    fabric = launch(args.run)
    _check(args)
    sets, weights = open_training_sets(args.data, several=False)
    epoch = max(1, sum(len(part) for part in sets) // (args.run.batch * fabric.world_size))
    trainer = DartTrainer(args, fabric, read_validation(args.data, args.check_images), epoch)
    resume(trainer, args.run)
    samples: FaceSamples | PublishedSamples
    if args.augmentation == "published":
        samples = PublishedSamples(sets, weights, args.size, args.run.seed)
    else:
        spec = SampleSpec(
            args.size, mosaic=0.0, face_size=(20.0, 160.0), scale=(0.4, 2.0), max_faces=64, photometric=False
        )
        samples = FaceSamples(sets, weights, spec, args.run.seed)
    train(trainer, batches(samples, args.run, fabric, trainer.step), args.run, fabric)
    tell_problems(sets)
    return args.run.out / "generator.safetensors"
