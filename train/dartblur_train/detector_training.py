"""``dartblur train detector``: trains a face detector of any family."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .checkpoints import save_weights_file
from .data.cache import read_bgr
from .data.labels import DataError, FaceImage
from .data.mosaic import FaceSamples, SampleSpec
from .data.published import PublishedSamples
from .evaluation.average_precision import average_precision
from .evaluation.detect import detect
from .losses.distillation import distillation_loss
from .nets.detectors import DETECTORS, build_detector
from .nets.edge_detector import EdgeDetector
from .nets.face_detector import FaceDetector
from .run import Batch, RunArgs, batches, launch, options_of, resume, train
from .sources import DataArgs, open_training_sets, read_validation, tell_problems

AUGMENTATIONS = ("mosaic", "hard", "published")
FREE = ("start", "learning_rate", "weight_decay", "warmup", "ema", "check_images")
"""Options that a resumed run may change."""
Advice = tuple[Tensor, Tensor]
"""What a teacher says of a batch: scores ``[N, A]``, 0..1, and boxes ``[N, A, 4]``, xyxy pixels."""


@dataclass(frozen=True)
class DetectorArgs:
    """What a detector is trained with.

    Attributes:
        data: where pictures come from.
        run: how the run is carried out.
        detector: name in `DETECTORS`.
        start: weights to start from, see `build_detector`; random ones if None.
        augmentation: ``mosaic``: faces of all sizes, see `SampleSpec`; ``hard``: also in the conditions under which
            cameras fail; ``published``: that of the published trainer.
        sample_size: side of a sample in pixels. Faces are drawn up to 0.8 of it: the largest that the detector will
            know.
        native: probability that a training image is shown at about its own size; see `SampleSpec`.
        tilt, paste: probability that a training image is tilted, that a sample gets pasted faces; see `SampleSpec`.
        smallest: faces below this size (square root of area), pixels, are neither to be found nor to be missed.
        teacher: name and weights of a larger detector with the same places, to learn from as well; None: nobody.
        teacher_weight: of what the teacher says beside the annotations.
        learning_rate, weight_decay: of AdamW; the rate rises for `warmup` steps and falls as a cosine.
        box_weight: of the edge detector's box loss beside its score loss; None: its own.
        ema: decay of the averaged weights, which are the ones that are saved.
        several: train on all sets of the folder, not on ``widerface/`` alone.
        check_images: validation images of a measurement; None: all.
    """

    data: DataArgs
    run: RunArgs
    detector: str = "edge-small"
    start: Path | None = None
    augmentation: str = "mosaic"
    sample_size: int = 320
    native: float = 0.7
    tilt: float = 0.0
    paste: float = 0.0
    smallest: float = 7.0
    teacher: tuple[str, Path] | None = None
    teacher_weight: float = 1.0
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 300
    box_weight: float | None = None
    ema: float = 0.9985
    several: bool = True
    check_images: int | None = None


class DetectorTrainer:
    """Model, optimizer, schedule and averaged weights; a `Trainee`."""

    SETTLING = 500
    """Steps during which the average follows the model at once, so that it is not made of the random start."""

    def __init__(self, args: DetectorArgs, fabric: Fabric, validation: list[FaceImage]) -> None:
        self.args, self.fabric, self.validation = args, fabric, validation
        self.options = options_of(args, FREE)
        torch.manual_seed(args.run.seed)
        self.model = build_detector(args.detector, args.start, grow=True)
        if args.box_weight is not None and isinstance(self.model, EdgeDetector):
            self.model.box_weight = args.box_weight
        self.model = self.model.to(fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = get_ema_multi_avg_fn(args.ema)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": args.weight_decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=args.learning_rate,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.teacher = _open_teacher(args, fabric)
        self.loss: nn.Module = _Loss(self.model, args.teacher_weight)
        if fabric.world_size > 1:
            self.loss = DistributedDataParallel(self.loss)
        self.step = 0

    def _rate(self, step: int) -> float:
        if step < self.args.warmup:
            return (step + 1) / self.args.warmup
        done = (step - self.args.warmup) / max(1, self.args.run.steps - self.args.warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Of `Trainee`."""
        images, faces, ignored = to_device(batch, self.fabric)
        self.model.train()
        images = images.contiguous(memory_format=torch.channels_last)
        with self.fabric.autocast():
            advice = self._advice(images)
            parts = self.loss(images, faces, ignored, advice)
        loss: Tensor = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the norm of the gradient is {norm.item()}")
        self.optimizer.step()
        self.schedule.step()
        if self.step < self.SETTLING:
            self.average.module.load_state_dict(self.model.state_dict())
        else:
            self.average.update_parameters(self.model)
        self.step += 1
        return {name: part.item() for name, part in parts.items()}

    @torch.no_grad()
    def _advice(self, images: Tensor) -> Advice | None:
        """Scores and boxes of the teacher."""
        if self.teacher is None:
            return None
        said = self.teacher(images)
        return said.logits.float().sigmoid(), self.teacher.decode(said).float()

    def state(self) -> dict[str, Any]:
        """Of `Trainee`."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimizer", "schedule")}
        return {"step": self.step, **parts}

    def load_state(self, state: dict[str, Any]) -> None:
        """Of `Trainee`."""
        for name in ("model", "average", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        # The rate is that of today's options, not the one that the checkpoint remembers.
        self.schedule.base_lrs = [self.args.learning_rate] * len(self.optimizer.param_groups)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = self.args.learning_rate
            group["lr"] = self.args.learning_rate * self._rate(state["step"])
        self.step = state["step"]

    def save_weights(self) -> None:
        """Writes ``detector.safetensors``: the averaged weights."""
        metadata = {"kind": "detector", "detector": self.args.detector, "steps": str(self.step)}
        save_weights_file(self.args.run.out / "detector.safetensors", self.average.module.state_dict(), metadata)

    def measure(self) -> dict[str, float]:
        """AP@0.5 of the averaged weights for faces of at least 20 px at long side 640."""
        detector = DETECTORS[self.args.detector]().to(self.fabric.device)
        detector.load_state_dict(self.average.module.state_dict())
        found, truth = [], []
        for record in self.validation:
            image = read_bgr(record.path)
            scale = np.float32(640 / max(image.shape[:2]))
            boxes, scores = detect(detector, [image], long_side=640)[0]
            found.append((boxes * scale, scores))
            truth.append((record.boxes * scale, record.ignored))
        return {"ap50_20px": average_precision(found, truth, 0.5, 20).average_precision}

    def picture(self, batch: Batch) -> NDArray[np.uint8] | None:
        """Of `Trainee`; there is nothing to see."""
        return None


class _Loss(nn.Module):
    """The forward pass that is differentiated, as one module, so that several processes can share it."""

    def __init__(self, detector: FaceDetector, teacher_weight: float) -> None:
        super().__init__()
        self.detector, self.teacher_weight = detector, teacher_weight

    def forward(
        self, images: Tensor, faces: list[Tensor], ignored: list[Tensor], advice: Advice | None
    ) -> dict[str, Tensor]:
        predictions = self.detector(images)
        score, box = self.detector.judge(predictions, faces, ignored)
        if advice is None:
            return {"score": score, "box": box}
        logits, boxes = predictions.logits.float(), self.detector.decode(predictions).float()
        taught = torch.stack(distillation_loss(logits, boxes, *advice)).sum()
        return {"score": score, "box": box, "taught": self.teacher_weight * taught}


def _open_teacher(args: DetectorArgs, fabric: Fabric) -> FaceDetector | None:
    """The fixed detector to learn from; raises `DataError` where it looks at other places than the student."""
    if args.teacher is None:
        return None
    name, weights = args.teacher
    teacher = build_detector(name, weights).eval().requires_grad_(False)
    blank = torch.zeros(1, 3, args.sample_size, args.sample_size)
    with torch.no_grad():
        # A student that trains must not count a blank picture.
        places = [build_detector(args.detector).eval()(blank).anchors, teacher(blank).anchors]
    if places[0].shape != places[1].shape or not torch.equal(*places):
        raise DataError(
            f"teacher: expected a detector with the places of {args.detector}, got {name}: take an edge one"
        )
    return teacher.to(fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def to_device(batch: Batch, fabric: Fabric) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Images as float ``[N, 3, S, S]``, and the faces of each image without the padding, and which are ignored."""
    images, faces, valid, ignored = (part.to(fabric.device, non_blocking=True) for part in batch)
    kept = [row[keep] for row, keep in zip(faces, valid, strict=True)]
    return images.float(), kept, [row[keep] for row, keep in zip(ignored, valid, strict=True)]


def train_detector(args: DetectorArgs) -> Path:
    """Trains (or resumes) and returns the file of the averaged weights.

    Raises:
        DataError: the data set is missing or malformed, or an argument is.
        TrainingError: a loss is not finite or runs away.
    """
    if args.augmentation not in AUGMENTATIONS:
        raise DataError(f"augmentation: expected one of {', '.join(AUGMENTATIONS)}, got {args.augmentation!r}")
    if args.augmentation == "published" and (args.tilt or args.paste):
        raise DataError(f"tilt, paste: expected neither beside published, got {args.tilt:g} and {args.paste:g}")
    fabric = launch(args.run)
    multiple = build_detector(args.detector).multiple
    if args.sample_size % multiple:
        raise DataError(f"sample size: expected a multiple of {multiple} for {args.detector}, got {args.sample_size}")
    trainer = DetectorTrainer(args, fabric, read_validation(args.data, args.check_images))
    resume(trainer, args.run)
    sets, weights = open_training_sets(args.data, args.several)
    samples: FaceSamples | PublishedSamples
    if args.augmentation == "published":
        samples = PublishedSamples(sets, weights, args.sample_size, args.run.seed)
    else:
        face_size = (max(12.0, args.smallest), 0.8 * args.sample_size)
        spec = SampleSpec(
            args.sample_size,
            native=args.native,
            tilt=args.tilt,
            paste=args.paste,
            face_size=face_size,
            smallest=args.smallest,
            hard=args.augmentation == "hard",
        )
        samples = FaceSamples(sets, weights, spec, args.run.seed)
    train(trainer, batches(samples, args.run, fabric, trainer.step), args.run, fabric)
    tell_problems(sets)
    return args.run.out / "detector.safetensors"
