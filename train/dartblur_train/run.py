"""A training run: the loop, its log, its checkpoints, and what stops it. What is trained is the caller's."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from .checkpoints import load_checkpoint, save_checkpoint
from .data.labels import DataError
from .data.samples import collate

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""``images [N, 3, S, S]`` uint8 BGR, ``faces [N, M, 4]`` xyxy pixels, ``valid`` and ``ignored [N, M]`` bool."""


class TrainingError(RuntimeError):
    """The run cannot go on; the message names the step and the checkpoint to go back to."""


@dataclass(frozen=True)
class RunArgs:
    """How a run is carried out, whatever is trained.

    Attributes:
        out: folder for ``last.pt`` (to resume from), weights, ``log.jsonl``, TensorBoard events and pictures.
        steps: optimizer steps, or iterations of the algorithm.
        batch: samples a step on each device.
        every: steps between two checkpoints and measurements.
        log_every: steps between two lines of the log.
        precision: ``fp32``, or ``bf16`` (mixed).
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        workers: processes that make samples; 0: none beside the training itself.
        seed: everything random follows from it and the step, so that a resumed run goes on as if it had not stopped.
    """

    out: Path
    steps: int
    batch: int = 8
    every: int = 1000
    log_every: int = 10
    precision: str = "fp32"
    accelerator: str = "auto"
    workers: int = 1
    seed: int = 0


class Trainee(Protocol):
    """What `train` drives."""

    step: int
    options: dict[str, Any]
    """What must stay the same when a run goes on; see `options_of`."""

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One update; returns its losses, counts `step` on, and raises FloatingPointError when one isn't finite."""

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""

    def save_weights(self) -> None:
        """Writes the weights that a user takes away."""

    def measure(self) -> dict[str, float]:
        """How good the weights are."""

    def picture(self, batch: Batch) -> NDArray[np.uint8] | None:
        """Something to look at, ``[H, W, 3]`` BGR."""


def launch(args: RunArgs) -> Fabric:
    """The device, or this process's part of several: started by ``torchrun``, its environment says how many."""
    if args.precision not in PRECISIONS:
        raise DataError(f"precision: expected one of {', '.join(PRECISIONS)}, got {args.precision!r}")
    # What it says (which precision) is what the user has just asked for.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    local, nodes = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"))
    try:
        fabric = Fabric(
            accelerator=args.accelerator,
            devices=local,
            num_nodes=nodes,
            strategy="ddp" if local * nodes > 1 else "auto",
            precision=PRECISIONS[args.precision],  # type: ignore[arg-type]
        )
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"accelerator: expected auto, cpu, or cuda where there is one, got {args.accelerator!r}: {error}"
        ) from error
    fabric.launch()
    return fabric


def batches(samples: Dataset[Any], args: RunArgs, fabric: Fabric, start: int) -> Iterator[Batch]:
    """Batches for the steps from `start` on: sample numbers follow from step, process and place in the batch."""
    loader: DataLoader[Batch] = DataLoader(
        samples,
        batch_sampler=_Numbers(args.batch, fabric.global_rank, fabric.world_size, start, args.steps),
        num_workers=args.workers,
        collate_fn=collate,
        multiprocessing_context="fork" if args.workers else None,
        prefetch_factor=6 if args.workers else None,
    )
    return iter(loader)


@dataclass(frozen=True)
class _Numbers:
    batch: int
    rank: int
    world: int
    start: int
    steps: int

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            first = (step * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))


def resume(trainee: Trainee, args: RunArgs) -> None:
    """Continues from ``last.pt`` where there is one; raises `DataError` where it is of another kind of run."""
    file = args.out / "last.pt"
    if not file.is_file():
        return
    state = load_checkpoint(file)
    earlier = state.get("options", {})
    for name, value in trainee.options.items():
        if earlier.get(name) != value:
            raise DataError(
                f"{file} is of a run with other options ({name} was {earlier.get(name)!r}, now {value!r}): "
                "repeat the options that it was started with, or choose another --out"
            )
    if state["step"] > args.steps:
        raise DataError(
            f"{file} stands at step {state['step']}, expected at most the {args.steps} that are asked for: "
            "ask for more, or choose another --out"
        )
    trainee.load_state(state)
    log.info("resumed %s at step %d", file, trainee.step)


def options_of(args: Any, free: Collection[str]) -> dict[str, str]:
    """Options by their names, as text; of files, what is in them.

    Args:
        args: a dataclass with the fields ``data`` and ``run``.
        free: names of fields that a resumed run may change.
    """
    run_part = {"batch": args.run.batch, "seed": args.run.seed}
    data = args.data
    data_part = {
        "folder": str(data.folder.resolve()),
        "layout": data.layout,
        "shards": data.shards,
        "validation_share": data.validation_share,
    }
    own = {item.name: getattr(args, item.name) for item in fields(args) if item.name not in ("data", "run", *free)}
    return {name: _as_text(value) for name, value in {**data_part, **run_part, **own}.items()}


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return "=".join(map(_as_text, value))
    if not isinstance(value, Path):
        return str(value)
    file = value / "manifest.json" if value.is_dir() else value
    return sha256(file.read_bytes()).hexdigest() if file.is_file() else str(value)


def train(trainee: Trainee, stream: Iterator[Batch], args: RunArgs, fabric: Fabric) -> None:
    """Trains up to ``args.steps``.

    Raises:
        TrainingError: a loss is not finite, or the losses have run away.
    """
    with _Log(args, fabric, trainee.step) as record:
        guards: defaultdict[tuple[str, ...], _Guard] = defaultdict(_Guard)
        while trainee.step < args.steps:
            batch = next(stream)
            try:
                losses = trainee.train_step(batch)
                # Steps of another kind have other losses; each kind is compared with itself.
                guards[tuple(losses)].check(sum(losses.values()))
            except FloatingPointError as error:
                raise TrainingError(_advice(str(error), trainee.step, args.out / "last.pt")) from error
            record.losses(trainee.step, losses)
            if trainee.step % args.every == 0 or trainee.step == args.steps:
                if fabric.is_global_zero:
                    _keep(trainee, args)
                    record.row(trainee.step, trainee.measure())
                    record.picture(trainee.step, trainee.picture(batch))
                fabric.barrier()


def _keep(trainee: Trainee, args: RunArgs) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    # The checkpoint last: where it says that the run is finished, the weights are there.
    trainee.save_weights()
    save_checkpoint(args.out / "last.pt", {"options": trainee.options, **trainee.state()})


def _advice(what: str, step: int, file: Path) -> str:
    if not file.is_file():
        return f"{what}, at step {step}: there is no checkpoint yet; start again with lower learning rates"
    good = load_checkpoint(file)["step"]
    return f"{what}, at step {step}: the last good checkpoint is {file} (step {good}); resume with lower learning rates"


class _Guard:
    """Notices losses that run away: their running mean is ten times its own lowest."""

    SETTLED, DECAY, FACTOR, FLOOR = 100, 0.98, 10.0, 1.0

    def __init__(self) -> None:
        self._mean, self._lowest, self._count = 0.0, math.inf, 0

    def check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}")
        self._count += 1
        self._mean = loss if self._count == 1 else self.DECAY * self._mean + (1 - self.DECAY) * loss
        if self._count < self.SETTLED:
            return
        self._lowest = min(self._lowest, self._mean)
        if self._mean > self.FACTOR * max(self._lowest, self.FLOOR):
            raise FloatingPointError(f"the loss diverges: its mean is {self._mean:.4g} and was {self._lowest:.4g}")


class _Log:
    """``log.jsonl``, TensorBoard and a progress bar; only the first process writes."""

    def __init__(self, args: RunArgs, fabric: Fabric, start: int) -> None:
        self._args, self._active, self._first = args, fabric.is_global_zero, start
        self._started = time.monotonic()

    def __enter__(self) -> _Log:
        if self._active:
            self._args.out.mkdir(parents=True, exist_ok=True)
            self._file = (self._args.out / "log.jsonl").open("a")
            self._board = SummaryWriter(str(self._args.out / "tensorboard"), purge_step=self._first + 1)
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            console = Console(stderr=True)
            text = TextColumn("{task.description}")
            self._bar = Progress(*columns, text, console=console, disable=not console.is_terminal)
            self._bar.start()
            self._task = self._bar.add_task("", total=self._args.steps, completed=self._first)
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._bar.stop()
            self._board.close()
            self._file.close()

    def losses(self, step: int, losses: dict[str, float]) -> None:
        """Of one step; written every `log_every`."""
        if not self._active:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
        self._bar.update(self._task, completed=step, description=text)
        if step % self._args.log_every == 0:
            pace = (time.monotonic() - self._started) / (step - self._first)
            self.row(step, losses | {"seconds_left": round(pace * (self._args.steps - step))})

    def row(self, step: int, values: dict[str, float]) -> None:
        """A line of the log, and its scalars."""
        # JSON knows no NaN, which is the average precision where there is no face.
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **known}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        log.info("%s", "  ".join(f"{name} {value:.4g}" for name, value in {"step": step, **values}.items()))

    def picture(self, step: int, picture: NDArray[np.uint8] | None) -> None:
        """Kept as a file, and shown by TensorBoard."""
        if picture is not None:
            cv2.imwrite(str(self._args.out / f"step-{step}.png"), picture)
            self._board.add_image("before and after", picture[..., ::-1].copy(), step, dataformats="HWC")
