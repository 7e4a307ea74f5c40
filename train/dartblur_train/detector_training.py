"""``dartblur train detector``: trains the edge detector on WIDER FACE, CelebA and LFW."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from .checkpoints import load_checkpoint, save_checkpoint
from .data.cache import ImageCache
from .data.labels import DataError, FaceImage, read_retinaface_labels, read_wider_labels
from .data.mosaic import FaceSamples, SampleSpec, collate
from .evaluation.average_precision import average_precision
from .evaluation.detect import detect
from .losses.task_aligned import assign, detection_loss
from .nets.edge_detector import SPECS, STRIDES, EdgeDetector, cell_centres

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetectorArgs:
    """What a detector is trained with.

    Attributes:
        data: folder with ``widerface/``, ``celeba/`` and ``lfw/`` (the last two may be absent).
        out: folder for ``last.pt`` (to resume from), ``detector.safetensors`` and ``log.jsonl``.
        size: name in `SPECS`.
        steps: optimizer steps.
        batch, sample_size: samples a step, and their side in pixels. Faces are drawn up to 0.8 of it: the largest
            that the detector will know.
        learning_rate, weight_decay: of AdamW; the rate rises for `warmup` steps and falls as a cosine.
        box_weight: of the box loss beside the score loss.
        ema: decay of the averaged weights, which are the ones that are saved.
        precision: ``bf16`` or ``fp32``.
        workers: processes that make samples.
        native: probability that a training image is shown at about its own size; see `SampleSpec`.
        every: steps between two checkpoints and measurements.
        seed: of weights and samples.
    """

    data: Path
    out: Path
    size: str = "small"
    steps: int = 10_000
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 300
    box_weight: float = 2.0
    ema: float = 0.9985
    precision: str = "bf16"
    workers: int = 1
    native: float = 0.7
    sample_size: int = 320
    every: int = 1000
    seed: int = 0


WEIGHTS = {"widerface": 0.85, "celeba": 0.1, "lfw": 0.05}
"""How often a sample's image comes from each data set."""


def read_data_sets(data: Path) -> dict[str, list[FaceImage]]:
    """The training part of each data set under `data`, by name; raises `DataError` without WIDER FACE."""
    wider = data / "widerface"
    sets = {
        "widerface": read_wider_labels(
            wider / "wider_face_split" / "wider_face_train_bbx_gt.txt", wider / "train" / "images"
        )
    }
    for name in ("celeba", "lfw"):
        if (data / name).is_dir():
            sets[name] = read_retinaface_labels(data / name / "label.txt", data / name / "images")
        else:
            log.warning("%s is not there: training without it", data / name)
    return sets


def read_validation(data: Path) -> list[FaceImage]:
    """The validation part of WIDER FACE under `data`."""
    wider = data / "widerface"
    return read_wider_labels(wider / "wider_face_split" / "wider_face_val_bbx_gt.txt", wider / "val" / "images")


class DetectorTrainer:
    """The training run: model, optimizer, schedule and averaged weights, and their checkpoint."""

    def __init__(self, args: DetectorArgs) -> None:
        if args.size not in SPECS:
            raise DataError(f"size: expected one of {sorted(SPECS)}, got {args.size!r}")
        torch.manual_seed(args.seed)
        self.args = args
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = EdgeDetector(SPECS[args.size]).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = get_ema_multi_avg_fn(args.ema)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        rest = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": args.weight_decay}, {"params": rest, "weight_decay": 0.0}],
            lr=args.learning_rate,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.step = 0

    def _rate(self, step: int) -> float:
        if step < self.args.warmup:
            return (step + 1) / self.args.warmup
        done = (step - self.args.warmup) / max(1, self.args.steps - self.args.warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def train_step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, float]:
        """One update; returns the losses and the number of cells that answered for a face."""
        images, faces, valid, ignored = (part.to(self.device) for part in batch)
        images = images.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.precision == "bf16"):
            logits, boxes = self.model(images)
        logits, boxes = logits.float(), boxes.float()
        centres, strides = self._cells(images.shape[-2], images.shape[-1])
        target = assign(logits, boxes, centres, strides, faces, valid, ignored)
        score, box = detection_loss(logits, boxes, target, faces)
        loss = score + self.args.box_weight * box
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss.item()} at step {self.step}: resume from {self.args.out / 'last.pt'} "
                "with a lower learning rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.schedule.step()
        # A short average at first, so that it is not made of the random start.
        if self.step < 500:
            self.average.module.load_state_dict(self.model.state_dict())
        else:
            self.average.update_parameters(self.model)
        self.step += 1
        return {"score": score.item(), "box": box.item(), "cells": float(target.positive.sum())}

    def _cells(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        levels = [cell_centres(height // s, width // s, s, self.device) for s in STRIDES]
        strides = [
            torch.full((len(level),), float(s), device=self.device) for s, level in zip(STRIDES, levels, strict=True)
        ]
        return torch.cat(levels), torch.cat(strides)

    def save(self) -> None:
        """Writes ``last.pt`` and ``detector.safetensors`` (the averaged weights)."""
        self.args.out.mkdir(parents=True, exist_ok=True)
        save_checkpoint(
            self.args.out / "last.pt",
            {
                "step": self.step,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            },
        )
        weights = {name: value.contiguous() for name, value in self.average.module.state_dict().items()}
        metadata = {"kind": "edge_detector", "size": self.args.size, "steps": str(self.step)}
        save_file(weights, self.args.out / "detector.safetensors", metadata)

    def resume(self) -> None:
        """Continues from ``last.pt`` where there is one."""
        file = self.args.out / "last.pt"
        if not file.is_file():
            return
        state = load_checkpoint(file)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        log.info("resumed %s at step %d", file, self.step)

    def measure(self, records: list[FaceImage]) -> float:
        """AP@0.5 of the averaged weights for faces of at least 20 px at long side 640."""
        images = ImageCache(records)
        detector = EdgeDetector(SPECS[self.args.size])
        detector.load_state_dict(self.average.module.state_dict())
        detections = detect(detector, (images[i] for i in range(len(records))), long_side=640)
        return average_precision(detections, [(r.boxes, r.ignored) for r in records], 0.5, 20).average_precision


def train_detector(args: DetectorArgs) -> Path:
    """Trains (or resumes) and returns the file of the averaged weights.

    Raises:
        DataError: the data set is missing or malformed.
        FloatingPointError: the loss is not finite.
    """
    sets = read_data_sets(args.data)
    validation = read_validation(args.data)
    trainer = DetectorTrainer(args)
    trainer.resume()
    batches = _batches(args, sets, trainer.step)
    started, first = time.monotonic(), trainer.step
    while trainer.step < args.steps:
        losses = trainer.train_step(next(batches))
        if trainer.step % 50 == 0:
            pace = (time.monotonic() - started) / (trainer.step - first)
            losses |= {"step": trainer.step, "seconds_left": round(pace * (args.steps - trainer.step))}
            _note(args, losses)
        if trainer.step % args.every == 0 or trainer.step == args.steps:
            trainer.save()
            _note(args, {"step": trainer.step, "ap50_20px": trainer.measure(validation)})
    return args.out / "detector.safetensors"


def _batches(
    args: DetectorArgs, sets: dict[str, list[FaceImage]], start: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    cached = [(records, ImageCache(records)) for records in sets.values()]
    spec = SampleSpec(args.sample_size, native=args.native, face_size=(12.0, 0.8 * args.sample_size))
    # A resumed run draws new samples: replaying the old stream would cost as much as training on it.
    samples = FaceSamples(cached, [WEIGHTS[name] for name in sets], spec, args.seed + start)
    loader: DataLoader[tuple[Tensor, Tensor, Tensor, Tensor]] = DataLoader(
        samples,  # type: ignore[arg-type]
        args.batch,
        num_workers=args.workers,
        collate_fn=collate,
        multiprocessing_context="fork" if args.workers else None,
        prefetch_factor=6 if args.workers else None,
    )
    return iter(loader)


def _note(args: DetectorArgs, row: dict[str, float]) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "log.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    log.info("%s", "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
