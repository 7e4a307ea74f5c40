"""The run around Algorithm 1: data, optimizers, checkpoints, pictures and the operational fidelity."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from .algorithm1 import Algorithm1, Objectives
from .checkpoints import load_checkpoint, save_checkpoint
from .data.cache import ImageCache
from .data.labels import DataError, FaceImage
from .data.mosaic import FaceSamples, SampleSpec, collate
from .detector_training import read_data_sets, read_validation
from .evaluation.operational import operational_fidelity
from .nets.retinaface import load_retinaface
from .nets.unet import GENERATORS
from .patches import PatchGeometry, prepare, redact

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DartArgs:
    """What a generator is trained with.

    Attributes:
        data: folder with ``widerface/``.
        out: folder for ``last.pt`` (to resume from), ``generator.safetensors``, ``log.jsonl`` and pictures.
        detector_weights: the published RetinaFace MobileNet-0.25, for f and as the start of f_g.
        generator: name in `GENERATORS`.
        steps: iterations of Algorithm 1.
        batch, size: images a step, and their side in pixels.
        learning_rate_g, learning_rate_fg: of Adam with betas (0.5, 0.999); both fall to a tenth by the end.
        box_scale: boxes are grown by a factor drawn from this range, as users grow them.
        objectives, geometry: see there.
        every: steps between two checkpoints and measurements.
        check_images: validation images of a measurement.
        seed: of weights and samples.
    """

    data: Path
    out: Path
    detector_weights: Path
    generator: str = "edge"
    steps: int = 1000
    batch: int = 8
    size: int = 320
    learning_rate_g: float = 5e-4
    learning_rate_fg: float = 5e-4
    box_scale: tuple[float, float] = (1.0, 1.2)
    objectives: Objectives = field(default_factory=Objectives)
    geometry: PatchGeometry = field(default_factory=PatchGeometry)
    every: int = 200
    check_images: int = 100
    seed: int = 0


class DartTrainer:
    """The state of a run, and its checkpoint."""

    def __init__(self, args: DartArgs) -> None:
        if args.generator not in GENERATORS:
            raise DataError(f"generator: expected one of {sorted(GENERATORS)}, got {args.generator!r}")
        multiple = GENERATORS[args.generator].multiple
        if args.geometry.size % multiple:
            raise DataError(f"patch size: expected a multiple of {multiple}, got {args.geometry.size}")
        torch.manual_seed(args.seed)
        self.args = args
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.g = GENERATORS[args.generator]().to(self.device)
        f, f_g = (load_retinaface(args.detector_weights).to(self.device) for _ in range(2))
        # Landmarks aren't judged, so their heads get no gradient.
        f_g.LandmarkHead.requires_grad_(False)
        betas = (0.5, 0.999)
        self.optimizer_g = torch.optim.Adam(self.g.parameters(), args.learning_rate_g, betas)
        self.optimizer_fg = torch.optim.Adam(f_g.parameters(), args.learning_rate_fg, betas)
        decay = 0.1 ** (1 / args.steps)
        self.schedules = [
            torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
            for optimizer in (self.optimizer_g, self.optimizer_fg)
        ]
        self.algorithm = Algorithm1(self.g, f, f_g, self.optimizer_g, self.optimizer_fg, args.objectives, args.geometry)
        self.step = 0

    def train_step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, float]:
        """One iteration on a batch of `FaceSamples`; returns the losses."""
        images, faces, valid, _ = (part.to(self.device) for part in batch)
        low, high = self.args.box_scale
        scale = low + (high - low) * torch.rand(*faces.shape[:2], 1, device=self.device)
        centre, half = (faces[..., :2] + faces[..., 2:]) / 2, (faces[..., 2:] - faces[..., :2]) / 2 * scale
        grown = torch.cat([centre - half, centre + half], -1)
        boxes = [row[keep] for row, keep in zip(grown, valid, strict=True)]
        losses = self.algorithm.step(images.float(), boxes)
        for schedule in self.schedules:
            schedule.step()
        self.step += 1
        return losses

    def _state(self) -> dict[str, object]:
        return {
            "g": self.g.state_dict(),
            "f_g": self.algorithm.f_g.state_dict(),
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_fg": self.optimizer_fg.state_dict(),
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "step": self.step,
        }

    def save(self) -> None:
        """Writes ``last.pt`` and ``generator.safetensors``."""
        args = self.args
        save_checkpoint(args.out / "last.pt", self._state())
        weights = {name: value.contiguous() for name, value in self.g.state_dict().items()}
        metadata = {
            "kind": "generator",
            "generator": args.generator,
            "patch_size": str(args.geometry.size),
            "context": str(args.geometry.context),
            "steps": str(self.step),
        }
        save_file(weights, args.out / "generator.safetensors", metadata)

    def resume(self) -> None:
        """Continues from ``last.pt`` where there is one."""
        file = self.args.out / "last.pt"
        if not file.is_file():
            return
        state = load_checkpoint(file)
        self.g.load_state_dict(state["g"])
        self.algorithm.f_g.load_state_dict(state["f_g"])
        self.optimizer_g.load_state_dict(state["optimizer_g"])
        self.optimizer_fg.load_state_dict(state["optimizer_fg"])
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self.step = state["step"]
        log.info("resumed %s at step %d", file, self.step)

    @torch.no_grad()
    def picture(self, images: Tensor, boxes: list[Tensor]) -> None:
        """Writes ``step-N.png``: clear, Gaussian and g(x) of a few images side by side."""
        batch = prepare(images.float().to(self.device), [b.to(self.device) for b in boxes], self.args.geometry)
        result = redact(batch, self.g, self.args.geometry)
        rows = torch.cat([batch.images, result.blurred, result.images], 3).cpu().numpy().transpose(0, 2, 3, 1)
        sheet = np.concatenate(list(rows.clip(0, 255).round().astype(np.uint8)))
        cv2.imwrite(str(self.args.out / f"step-{self.step}.png"), sheet)


def train_dart(args: DartArgs) -> Path:
    """Trains (or resumes) and returns the file of the generator's weights.

    Raises:
        DataError: data or weights are missing or malformed.
        FloatingPointError: a loss is not finite.
    """
    trainer = DartTrainer(args)
    trainer.resume()
    args.out.mkdir(parents=True, exist_ok=True)
    validation = read_validation(args.data)[:: max(1, 509 // args.check_images)]
    batches = iter(_loader(args, trainer.step))
    first, started = trainer.step, time.monotonic()
    while trainer.step < args.steps:
        batch = next(batches)
        losses = trainer.train_step(batch)
        if trainer.step % 10 == 0:
            pace = (time.monotonic() - started) / (trainer.step - first)
            _note(args, losses | {"step": trainer.step, "seconds_left": round(pace * (args.steps - trainer.step))})
        if trainer.step % args.every == 0 or trainer.step == args.steps:
            trainer.save()
            images, faces, valid, _ = batch
            trainer.picture(images[:4], [row[keep] for row, keep in zip(faces[:4], valid[:4], strict=True)])
            fidelity = operational_fidelity(validation, trainer.g, trainer.algorithm.f, args.geometry)
            _note(args, {"step": trainer.step, **fidelity})
    return args.out / "generator.safetensors"


def _loader(args: DartArgs, start: int) -> DataLoader[tuple[Tensor, Tensor, Tensor, Tensor]]:
    records: list[FaceImage] = read_data_sets(args.data)["widerface"]
    spec = SampleSpec(
        size=args.size, mosaic=0.0, face_size=(20.0, 160.0), scale=(0.4, 2.0), max_faces=24, photometric=False
    )
    samples = FaceSamples([(records, ImageCache(records))], [1.0], spec, args.seed + start)
    return DataLoader(samples, args.batch, num_workers=1, collate_fn=collate, multiprocessing_context="fork")  # type: ignore[arg-type]


def _note(args: DartArgs, row: dict[str, float]) -> None:
    with (args.out / "log.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    log.info("%s", "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
