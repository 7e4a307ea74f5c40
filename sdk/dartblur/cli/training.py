"""``dartblur train ...`` and ``dartblur export``: doors to the packages that need torch."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from ..errors import BackendError, DartBlurError, InputError

train = typer.Typer(help="Train the detector and the learned blur (needs the extra 'train').", no_args_is_help=True)

DataOption = Annotated[Path, typer.Option(help="Folder with widerface/ and, for the detector, celeba/ and lfw/.")]
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

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if threads:
        torch.set_num_threads(threads)


@train.command()
def detector(
    data: DataOption,
    out: OutOption,
    size: Annotated[str, typer.Option(help="Size of the network.")] = "small",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 10_000,
    batch: Annotated[int, typer.Option(min=1, help="Samples a step.")] = 32,
    sample_size: Annotated[int, typer.Option(min=64, help="Side of a sample, pixels; a multiple of 32.")] = 320,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of AdamW, at its highest.")] = 2e-3,
    precision: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    native: Annotated[float, typer.Option(min=0, max=1, help="Share of images shown at about their own size.")] = 0.7,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 1000,
    seed: Annotated[int, typer.Option()] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of torch.")] = None,
) -> None:
    """Train the edge detector; run the same command again to resume."""
    _prepare_training(threads)
    from dartblur_train.detector_training import DetectorArgs, train_detector

    if precision not in ("bf16", "fp32"):
        raise InputError(f"--precision: expected bf16 or fp32, got {precision!r}")
    args = DetectorArgs(
        data,
        out,
        size,
        steps,
        batch,
        learning_rate=learning_rate,
        precision=precision,
        native=native,
        sample_size=sample_size,
        every=every,
        seed=seed,
    )
    typer.echo(_trained(lambda: train_detector(args)))


@train.command()
def dart(
    data: DataOption,
    out: OutOption,
    weights: Annotated[Path, typer.Option(help="Published Retinaface_mobilenet0.25.pth, for f and f_g.")],
    generator: Annotated[str, typer.Option(help="edge or published.")] = "edge",
    steps: Annotated[int, typer.Option(min=1, help="Iterations of Algorithm 1.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 8,
    learning_rate_g: Annotated[float, typer.Option(min=0, help="Of the generator's Adam.")] = 5e-4,
    learning_rate_fg: Annotated[float, typer.Option(min=0, help="Of f_g's Adam.")] = 5e-4,
    alpha: Annotated[float, typer.Option(min=0, help="Step of the cycle objective's inner update.")] = 1e-4,
    target_confidence: Annotated[float, typer.Option(min=0, max=1, help="Lowest score of what f finds in x.")] = 0.01,
    eps_rev: Annotated[float, typer.Option(min=0, help="Free distance to Gaussian blur, grey levels.")] = 20.0,
    patch_size: Annotated[int, typer.Option(min=8, help="Side of a patch, pixels.")] = 64,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 200,
    seed: Annotated[int, typer.Option()] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of torch.")] = None,
) -> None:
    """Train the learned blur by Algorithm 1; run the same command again to resume."""
    _prepare_training(threads)
    from dartblur_train.algorithm1 import Objectives
    from dartblur_train.dart_training import DartArgs, train_dart
    from dartblur_train.patches import PatchGeometry

    args = DartArgs(
        data,
        out,
        weights,
        generator,
        steps,
        batch,
        learning_rate_g=learning_rate_g,
        learning_rate_fg=learning_rate_fg,
        objectives=Objectives(eps_rev=eps_rev, alpha=alpha, target_confidence=target_confidence),
        geometry=PatchGeometry(patch_size),
        every=every,
        seed=seed,
    )
    typer.echo(_trained(lambda: train_dart(args)))


def export(
    detector: Annotated[Path, typer.Option(help="detector.safetensors of 'dartblur train detector'.")],
    generator: Annotated[Path, typer.Option(help="generator.safetensors of 'dartblur train dart'.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle, not there yet.")],
    name: Annotated[str, typer.Option(help="Name of the model.")] = "dartblur-small",
    version: Annotated[str, typer.Option(help="Version of the model.")] = "1",
    threshold: Annotated[float, typer.Option(min=0.01, max=0.99, help="Default threshold of its users.")] = 0.4,
    box_scale: Annotated[float, typer.Option(min=1, max=4, help="Default box scale of its users.")] = 1.15,
    frame: Annotated[str, typer.Option(help="Frame size of fused.onnx, WxH.")] = "1280x720",
    figures: Annotated[Path | None, typer.Option(help="JSON file of measured figures for the manifest.")] = None,
) -> None:
    """Write a model bundle, after comparing every graph with PyTorch."""
    _need("export", "onnxscript")
    _need("export", "dartblur_export.exporting")
    from dartblur_export.exporting import ExportArgs, export_bundle
    from dartblur_export.fused import FusedSpec

    width, height = _frame_size(frame)
    args = ExportArgs(
        detector,
        generator,
        out,
        name,
        version,
        threshold=threshold,
        box_scale=box_scale,
        fused=FusedSpec(height, width),
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
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) >= 32 for part in parts):
        raise InputError(f"--frame: expected WIDTHxHEIGHT of at least 32 each, like 1280x720, got {text!r}")
    return int(parts[0]), int(parts[1])


def _trained(run: object) -> Path:
    from dartblur_train.data.labels import DataError

    try:
        result: Path = run()  # type: ignore[operator]
    except DataError as error:
        raise InputError(str(error)) from error
    except FloatingPointError as error:
        raise DartBlurError(str(error)) from error
    return result
