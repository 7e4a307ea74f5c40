"""``dartblur evaluate ...``: how good a blur is, for detectors and against attackers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .training import (
    AcceleratorOption,
    BadDataOption,
    LayoutOption,
    PrecisionOption,
    SeedOption,
    ThreadsOption,
    WorkersOption,
    _bad_data,
    _prepare_training,
    _trained,
    named_file,
)

if TYPE_CHECKING:
    from dartblur_train.sources import DataArgs

evaluate = typer.Typer(help="Measure a blur (needs the extra 'train').", no_args_is_help=True)


@evaluate.command()
def fidelity(
    data: Annotated[Path, typer.Option(help="A data set with a training and a validation part.")],
    out: Annotated[Path, typer.Option(help="Folder for all that is made; goes on with what is there.")],
    method: Annotated[
        list[str], typer.Option(help="block, gaussian, pixelate, pixelate-N (N x N), or NAME=GENERATOR. Repeatable.")
    ],
    detector: Annotated[
        list[str], typer.Option(help="FAMILY=WEIGHTS of f, or FAMILY: then f is trained on clear images. Repeatable.")
    ],
    steps: Annotated[int, typer.Option(min=1, help="Training of each f_g.")] = 10_000,
    batch: Annotated[int, typer.Option(min=1, help="Samples a step.")] = 32,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each f_g; the table tells mean and spread.")] = 1,
    seed: SeedOption = 0,
    confidence: Annotated[float, typer.Option(min=0.02, max=1, help="Lowest score of f(x) that is truth.")] = 0.5,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality of the anonymized copies.")] = 80,
    images: Annotated[int | None, typer.Option(min=1, help="Validation images. Default: all.")] = None,
    wider_lists: Annotated[
        Path | None, typer.Option(help="Folder with wider_{easy,medium,hard}_val.mat, for AP by difficulty.")
    ] = None,
    layout: LayoutOption = "auto",
    on_bad_data: BadDataOption = "refuse",
    precision: PrecisionOption = "bf16",
    accelerator: AcceleratorOption = "auto",
    workers: WorkersOption = 1,
    threads: ThreadsOption = None,
) -> None:
    """Operational, post-hoc and cycle fidelity of each method for each detector, as a table, curves and pictures."""
    _prepare_training(threads)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError(
            "expected one process, this was started by torchrun: train detectors by 'train detector' there"
        )
    names = [text.partition("=")[0] for text in method]
    if len(set(names)) < len(names) or {"clean", "f", ".", ".."} & set(names):
        raise InputError(f"--method: expected different names, none of them clean, got {', '.join(names)}")
    from dartblur_train.detector_training import DetectorArgs
    from dartblur_train.evaluation.experiment import FidelityArgs, run_fidelity
    from dartblur_train.evaluation.report import write_report
    from dartblur_train.run import RunArgs
    from dartblur_train.sources import DataArgs

    source = DataArgs(data, layout, None, _bad_data(on_bad_data))
    run = RunArgs(out, steps, batch, min(1000, steps), 50, precision, accelerator, workers)
    args = FidelityArgs(
        source,
        out,
        dict(_copy(text, source, quality) for text in method),
        dict(named_file("--detector", text) for text in detector),
        DetectorArgs(source, run, check_images=100),
        range(seed, seed + seeds),
        confidence,
        wider_lists,
        images,
    )
    typer.echo(_trained(lambda: write_report(args, run_fidelity(args))).read_text())


@evaluate.command()
def recover(
    data: Annotated[Path, typer.Option(help="A data set with a validation part.")],
    attacker: Annotated[Path, typer.Option(help="attacker.safetensors of 'dartblur train recover'.")],
    out: Annotated[Path, typer.Option(help="Folder for recovery.json and recovery.png.")],
    method: Annotated[str, typer.Option(help="What was attacked: block, gaussian, pixelate or dart.")] = "dart",
    generator: Annotated[Path | None, typer.Option(help="For dart: weights or a bundle. Default: built in.")] = None,
    network: Annotated[str, typer.Option(help="The attacker's: edge or published.")] = "edge",
    smallest: Annotated[float, typer.Option(min=1, help="Smallest face that is judged, pixels.")] = 32.0,
    layout: LayoutOption = "auto",
    on_bad_data: BadDataOption = "refuse",
    accelerator: AcceleratorOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """How much of the faces an attacker recovers: PSNR and SSIM, and faces side by side."""
    _prepare_training(threads)
    import cv2

    from dartblur_train.recovery import RecoveryArgs, evaluate_recovery
    from dartblur_train.run import RunArgs
    from dartblur_train.sources import DataArgs

    weights = generator_or_default(method, generator)
    source = DataArgs(data, layout, None, _bad_data(on_bad_data))
    args = RecoveryArgs(source, RunArgs(out, 1, accelerator=accelerator), method, weights, network, smallest=smallest)

    def judged() -> Path:
        found = evaluate_recovery(args, attacker)
        out.mkdir(parents=True, exist_ok=True)
        names = ("faces", "psnr_redacted", "psnr_recovered", "ssim_redacted", "ssim_recovered")
        figures = {"method": method, **{name: getattr(found, name) for name in names}}
        (out / "recovery.json").write_text(json.dumps(figures, indent=2) + "\n")
        cv2.imwrite(str(out / "recovery.png"), found.picture)
        return out / "recovery.json"

    typer.echo(_trained(judged).read_text())


def generator_or_default(method: str, generator: Path | None) -> Path | None:
    """The weights for ``dart``: the given ones, or the built-in bundle; none for other methods."""
    from .dataset import _generator

    return _generator(generator) if method == "dart" else generator


def _copy(text: str, source: DataArgs, quality: int) -> tuple[str, Callable[[Path], None]]:
    """The name of a method, and what writes its anonymized copy of the data set."""
    from dartblur_train.dataset import DataSetArgs, anonymize_data_set
    from dartblur_train.methods import PLAIN, is_plain

    from .. import __version__
    from .dataset import _progress, encode

    name, weights = named_file("--method", text)
    if weights is None and not is_plain(name):
        raise InputError(
            f"--method: expected {', '.join(PLAIN)}, pixelate-N, or NAME=GENERATOR for a learned blur, got {text!r}"
        )
    kind = name if weights is None else "dart"

    def make(target: Path) -> None:
        args = DataSetArgs(
            source.folder,
            target,
            kind,
            weights,
            layout=source.layout,
            quality=quality,
            on_bad_data=source.on_bad_data,
            tool=f"dartblur-edge {__version__}",
        )
        with _progress() as report:
            anonymize_data_set(args, encode, report)

    return name, make
