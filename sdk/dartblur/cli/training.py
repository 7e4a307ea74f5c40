"""``dartblur train ...`` and ``dartblur export``: doors to the packages that need torch."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import BackendError, DartBlurError, InputError

train = typer.Typer(help="Train the detector and the learned blur (needs the extra 'train').", no_args_is_help=True)

DataOption = Annotated[Path, typer.Option(help="A data set, or a folder with widerface/ and maybe celeba/ and lfw/.")]
LayoutOption = Annotated[str, typer.Option(help="Of the data set: auto, wider, retinaface, coco, yolo or voc.")]
ShardsOption = Annotated[str | None, typer.Option(help="Train on WebDataset shards: 'train-{000000..000099}.tar'.")]
BadDataOption = Annotated[str, typer.Option(help="Malformed lines, unreadable pictures: refuse, or count and skip.")]
EveryOption = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")]
PrecisionOption = Annotated[str, typer.Option(help="fp32, or bf16 (mixed).")]
AcceleratorOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes that make samples.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of weights and samples.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads of torch.")]
OutOption = Annotated[Path, typer.Option(help="Folder for checkpoints, weights and the log; resumes what is there.")]


def _need(extra: str, package: str) -> None:
    try:
        __import__(package)
    except ModuleNotFoundError as error:
        raise BackendError(
            f"this command needs {error.name}, which is not installed: pip install 'dartblur-edge[{extra}]'"
        ) from error


def _prepare_training(threads: int | None) -> None:
    _need("train", "dartblur_train.detector_training")
    import torch

    # On a terminal the progress bar tells the same; elsewhere a line of text does.
    logging.basicConfig(
        level=logging.WARNING if sys.stderr.isatty() else logging.INFO, format="%(asctime)s %(message)s"
    )
    if threads:
        torch.set_num_threads(threads)


@train.command()
def detector(
    data: DataOption,
    out: OutOption,
    layout: LayoutOption = "auto",
    shards: ShardsOption = None,
    on_bad_data: BadDataOption = "refuse",
    detector: Annotated[
        str, typer.Option(help="Family: edge-nano, edge-small, edge-base, retinaface, pyramidbox or yolo-face.")
    ] = "edge-small",
    start: Annotated[
        Path | None,
        typer.Option(help="Weights to start from, also of a smaller size: .safetensors or .onnx."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="FAMILY=WEIGHTS of a larger edge detector to learn from as well.")
    ] = None,
    teacher_weight: Annotated[float, typer.Option(min=0, help="Of what the teacher says.")] = 1.0,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 10_000,
    batch: Annotated[int, typer.Option(min=1, help="Samples a step on each device.")] = 32,
    augmentation: Annotated[
        str, typer.Option(help="mosaic (faces of all sizes), hard (also at night, moved, masked ...) or published.")
    ] = "mosaic",
    sample_size: Annotated[int, typer.Option(min=64, help="Side of a sample, pixels; a multiple of 32.")] = 320,
    native: Annotated[float, typer.Option(min=0, max=1, help="Share of images shown at about their own size.")] = 0.7,
    tilt: Annotated[float, typer.Option(min=0, max=0.8, help="Share of images that are tilted, or turned.")] = 0.0,
    paste: Annotated[
        float, typer.Option(min=0, max=1, help="Share of samples with small faces of another image pasted in.")
    ] = 0.0,
    smallest: Annotated[float, typer.Option(min=1, help="Faces below this size are not judged, pixels.")] = 7.0,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of AdamW, at its highest.")] = 2e-3,
    box_weight: Annotated[float | None, typer.Option(min=0, help="Of the edge detector's box loss.")] = None,
    ema: Annotated[float, typer.Option(min=0, max=1, help="Decay of the averaged weights.")] = 0.9985,
    validation_share: Annotated[
        float,
        typer.Option(help="How much of the validation part to learn as well, 0..1; only the rest is measured on."),
    ] = 0.0,
    every: EveryOption = 1000,
    precision: PrecisionOption = "bf16",
    accelerator: AcceleratorOption = "auto",
    workers: WorkersOption = 1,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Train a face detector; run the same command again to resume."""
    _prepare_training(threads)
    from dartblur_train.detector_training import DetectorArgs, train_detector
    from dartblur_train.run import RunArgs
    from dartblur_train.sources import DataArgs

    def run() -> Path:
        args = DetectorArgs(
            DataArgs(data, layout, shards, _bad_data(on_bad_data), validation_share),
            RunArgs(out, steps, batch, every, 50, precision, accelerator, workers, seed),
            detector,
            start,
            augmentation=augmentation,
            sample_size=sample_size,
            native=native,
            tilt=tilt,
            paste=paste,
            smallest=smallest,
            teacher=_teacher(teacher),
            teacher_weight=teacher_weight,
            learning_rate=learning_rate,
            box_weight=box_weight,
            ema=ema,
        )
        return train_detector(args)

    typer.echo(_trained(run))


@train.command()
def dart(
    data: DataOption,
    out: OutOption,
    weights: Annotated[Path, typer.Option(help="Of f, and the start of f_g: .pth as published, or .safetensors.")],
    layout: LayoutOption = "auto",
    shards: ShardsOption = None,
    on_bad_data: BadDataOption = "refuse",
    detector: Annotated[str, typer.Option(help="Family of f and f_g, as for 'train detector'.")] = "retinaface",
    generator: Annotated[str, typer.Option(help="edge or published.")] = "edge",
    mode: Annotated[str, typer.Option(help="Apply g to patches of faces, or to the whole frame.")] = "patch",
    patch_size: Annotated[int, typer.Option(min=8, help="Side of a patch, pixels.")] = 64,
    updates: Annotated[str, typer.Option(help="sequential (Algorithm 1) or joint (one summed step).")] = "sequential",
    steps: Annotated[int, typer.Option(min=1, help="Iterations of Algorithm 1.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Images a step on each device.")] = 8,
    augmentation: Annotated[str, typer.Option(help="mosaic (crops around faces) or published.")] = "mosaic",
    learning_rate_g: Annotated[float, typer.Option(min=0, help="Of the generator's Adam.")] = 5e-4,
    learning_rate_fg: Annotated[float, typer.Option(min=0, help="Of f_g's Adam.")] = 5e-4,
    decay_g: Annotated[float, typer.Option(min=1e-6, max=1, help="What is left of the first at the end.")] = 0.1,
    decay_fg: Annotated[float, typer.Option(min=1e-6, max=1, help="What is left of the second at the end.")] = 0.1,
    max_gradient_norm: Annotated[float, typer.Option(min=0, help="Gradients are clipped to this norm.")] = 10.0,
    label_smoothing: Annotated[float, typer.Option(min=0, max=1, help="Where f_g learns or is judged.")] = 0.2,
    inner_step: Annotated[
        str, typer.Option(help="Of the cycle objective: gradient (paper), or adam (published code).")
    ] = "gradient",
    alpha: Annotated[float, typer.Option(min=0, help="Size of an inner step of the kind gradient.")] = 1e-4,
    target_confidence: Annotated[float, typer.Option(min=0, max=1, help="Lowest score of what f finds in x.")] = 0.01,
    eps_rev: Annotated[float, typer.Option(min=0, help="Free distance to Gaussian blur, grey levels.")] = 20.0,
    fg_epochs: Annotated[int, typer.Option(min=0, help="Rounds of f_g alone before each round of g.")] = 0,
    every: EveryOption = 200,
    precision: PrecisionOption = "fp32",
    accelerator: AcceleratorOption = "auto",
    workers: WorkersOption = 1,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Train the learned blur by Algorithm 1; run the same command again to resume."""
    _prepare_training(threads)
    from dartblur_train.algorithm1 import Objectives
    from dartblur_train.dart_training import DartArgs, train_dart
    from dartblur_train.patches import PatchGeometry
    from dartblur_train.run import RunArgs
    from dartblur_train.sources import DataArgs

    args = DartArgs(
        DataArgs(data, layout, shards, _bad_data(on_bad_data)),
        RunArgs(out, steps, batch, every, 10, precision, accelerator, workers, seed),
        weights,
        detector,
        generator,
        mode,
        PatchGeometry(patch_size),
        Objectives(
            eps_rev=eps_rev,
            label_smoothing=label_smoothing,
            inner_step=inner_step,
            alpha=alpha,
            target_confidence=target_confidence,
            updates=updates,
            max_gradient_norm=max_gradient_norm,
        ),
        augmentation,
        learning_rate_g=learning_rate_g,
        learning_rate_fg=learning_rate_fg,
        decay_g=decay_g,
        decay_fg=decay_fg,
        fg_epochs=fg_epochs,
    )
    typer.echo(_trained(lambda: train_dart(args)))


@train.command()
def recover(
    data: DataOption,
    out: OutOption,
    method: Annotated[str, typer.Option(help="What is attacked: block, gaussian, pixelate or dart.")] = "dart",
    generator: Annotated[Path | None, typer.Option(help="For dart: weights or a bundle. Default: built in.")] = None,
    network: Annotated[str, typer.Option(help="The attacker's: edge or published.")] = "edge",
    layout: LayoutOption = "auto",
    shards: ShardsOption = None,
    on_bad_data: BadDataOption = "refuse",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Pictures a step on each device.")] = 8,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of Adam; falls to a tenth.")] = 1e-3,
    every: EveryOption = 500,
    precision: PrecisionOption = "fp32",
    accelerator: AcceleratorOption = "auto",
    workers: WorkersOption = 1,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Train an attacker that undoes a blur; 'dartblur evaluate recover' tells how far it gets."""
    _prepare_training(threads)
    from dartblur_train.recovery import RecoveryArgs, train_recovery
    from dartblur_train.run import RunArgs
    from dartblur_train.sources import DataArgs

    from .evaluation import generator_or_default

    args = RecoveryArgs(
        DataArgs(data, layout, shards, _bad_data(on_bad_data)),
        RunArgs(out, steps, batch, every, 20, precision, accelerator, workers, seed),
        method,
        generator_or_default(method, generator),
        network,
        learning_rate=learning_rate,
    )
    typer.echo(_trained(lambda: train_recovery(args)))


def _bad_data(policy: str) -> Literal["refuse", "skip"]:
    if policy not in ("refuse", "skip"):
        raise InputError(f"--on-bad-data: expected refuse or skip, got {policy!r}")
    return policy  # type: ignore[return-value]


def export(
    detector: Annotated[Path, typer.Option(help="detector.safetensors of 'dartblur train detector'.")],
    generator: Annotated[Path, typer.Option(help="generator.safetensors of 'dartblur train dart'.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle, not there yet.")],
    name: Annotated[str, typer.Option(help="Name of the model.")] = "dartblur-small",
    version: Annotated[str, typer.Option(help="Version of the model.")] = "1",
    threshold: Annotated[float, typer.Option(min=0.01, max=0.99, help="Default threshold of its users.")] = 0.4,
    box_scale: Annotated[float, typer.Option(min=1, max=4, help="Default box scale of its users.")] = 1.15,
    detect_size: Annotated[
        int, typer.Option(min=128, max=640, help="Long side that frames are searched at, pixels; a multiple of 64.")
    ] = 640,
    frame: Annotated[str | None, typer.Option(help="Only frame size of the fused graphs, WxH. Default: all.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Frames at once in the fused graphs. Default: any.")] = None,
    slots: Annotated[int, typer.Option(min=1, max=1024, help="Most faces in a frame of the fused graphs.")] = 32,
    held: Annotated[int, typer.Option(min=1, max=1024, help="Boxes of a tracker in a frame of the fused graphs.")] = 16,
    compositing: Annotated[
        str, typer.Option(help="plugin: also write graphs from frame to frame for the TensorRT plugin; or none.")
    ] = "none",
    figures: Annotated[Path | None, typer.Option(help="JSON file of measured figures for the manifest.")] = None,
) -> None:
    """Write a model bundle, after comparing every graph with PyTorch."""
    if compositing not in ("none", "plugin"):
        raise InputError(f"--compositing: expected none or plugin, got {compositing!r}")
    if detect_size % 64:
        raise InputError(f"--detect-size: expected a multiple of 64, got {detect_size}")
    _need("export", "onnxscript")
    _need("export", "dartblur_export.exporting")
    from dartblur_export.exporting import ExportArgs, export_bundle
    from dartblur_export.fused import FusedSpec

    args = ExportArgs(
        detector,
        generator,
        out,
        name,
        version,
        threshold=threshold,
        box_scale=box_scale,
        long_side=detect_size,
        fused=FusedSpec(slots, held),
        frame=None if frame is None else _frame_size(frame),
        batch=batch,
        compositing=compositing == "plugin",
        figures=_figures(figures),
    )
    manifest, parities = export_bundle(args)
    for parity in parities:
        parts = [f"{what} {value:.2g}" for what in ("boxes", "pixels") if (value := getattr(parity, what)) is not None]
        typer.echo(f"{parity.graph}: PyTorch and ONNX Runtime differ by at most {', '.join(parts)}")
    typer.echo(f"{out}: bundle {manifest.name} {manifest.version}")


def _figures(file: Path | None) -> dict[str, object] | None:
    if file is None:
        return None
    try:
        figures: dict[str, object] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"--figures: expected a JSON file: {error}") from error
    return figures


def _frame_size(text: str) -> tuple[int, int]:
    """Height and width."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) >= 32 for part in parts):
        raise InputError(f"--frame: expected WIDTHxHEIGHT of at least 32 each, like 1280x720, got {text!r}")
    return int(parts[1]), int(parts[0])


def _trained(run: Callable[[], Path]) -> Path:
    from dartblur_train.data.labels import DataError
    from dartblur_train.run import TrainingError

    try:
        return run()
    except DataError as error:
        raise InputError(str(error)) from error
    except TrainingError as error:
        raise DartBlurError(str(error)) from error
    except OSError as error:
        raise InputError(f"{error.filename or 'a file'}: {error.strerror or error}") from error


def _teacher(text: str | None) -> tuple[str, Path] | None:
    if text is None:
        return None
    name, weights = named_file("--teacher", text)
    if weights is None:
        raise InputError(f"--teacher: expected FAMILY=WEIGHTS, got {text!r}: an untrained detector teaches nothing")
    return name, weights


def named_file(option: str, text: str) -> tuple[str, Path | None]:
    """``NAME`` or ``NAME=FILE``, as `option` has it, in its parts; raises `InputError`."""
    name, equals, file = text.partition("=")
    if not name or "/" in name or (equals and not file):
        raise InputError(f"{option}: expected NAME or NAME=FILE, got {text!r}")
    return name, Path(file) if equals else None
