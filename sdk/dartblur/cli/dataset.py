"""``dartblur dataset``: an anonymized copy of a data set of pictures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .training import BadDataOption, LayoutOption, _bad_data, _need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dartblur_train.dataset import Summary

_SHOWN = 10
"""Files left out that are named; the manifest has all."""

_LINE_EVERY_S = 10.0
_ORIENTATION, _EXIF_GROUP, _WIDTH, _HEIGHT = 0x0112, 0x8769, 0xA002, 0xA003


def dataset(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the data set.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder of the copy; completes one that was begun.")],
    method: Annotated[str, typer.Option(help="dart, gaussian, pixelate, pixelate-N (N x N blocks) or block.")] = "dart",
    generator: Annotated[
        Path | None, typer.Option(help="For dart: .safetensors, or a bundle's folder. Default: the built-in one.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="For dart: patch or frame. Default: as the generator was trained.")
    ] = None,
    layout: LayoutOption = "auto",
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEG (and lossy WebP).")] = 80,
    box_scale: Annotated[float, typer.Option(min=1, max=4, help="Overwritten box by annotated box.")] = 1.0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one for each core.")] = None,
    on_bad_data: BadDataOption = "refuse",
) -> None:
    """Write a copy of the data set SRC to DST in which every annotated face is overwritten.

    Folders, names and annotation files stay the same; all pictures are encoded anew, those without a face too. EXIF
    and colour profile are kept, but for thumbnails and the note on turning: boxes are taken to be in the picture as it
    is shown, and it is stored that way. Ignored and invalid faces are overwritten as well.

    Pictures that no annotation mentions (for YOLO: that have no label file) are not copied, nor is any file that is no
    annotation. What can't be read or anonymized is left out. DST/manifest.json lists all of that.

    Run the same command again to go on after an interruption. Exit code 2 if anything had to be left out; with
    --on-bad-data skip only a line says so.
    """
    policy = _bad_data(on_bad_data)
    _need("train", "dartblur_train.dataset")
    from dartblur_train.data.labels import DataError
    from dartblur_train.dataset import DataSetArgs, anonymize_data_set

    from .. import __version__
    from .run_command import _SIGNALLED
    from .signals import Interrupted, on_signals

    weights = _generator(generator) if method == "dart" else generator
    args = DataSetArgs(
        source,
        target,
        method,
        weights,
        mode,
        layout,
        box_scale,
        quality,
        workers or 0,
        policy,
        f"dartblur-edge {__version__}",
    )
    try:
        with on_signals(), _progress() as report:
            summary = anonymize_data_set(args, encode, report)
    except DataError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"{error.filename or target}: {error.strerror}: mend that and run the same again") from error
    except Interrupted as interrupted:
        print("dartblur: interrupted: run the same command again to go on", file=sys.stderr)
        raise typer.Exit(_SIGNALLED + interrupted.signal) from None
    _tell(summary, method, target)
    if summary.left_out and policy == "refuse":
        raise typer.Exit(2)


def encode(source: Path, target: Path, image: NDArray[np.uint8], covered: NDArray[np.float32], quality: int) -> bool:
    """Writes the pixels, upright, as ``dartblur run`` would; see `dartblur_train.dataset.Encoder`."""
    from ..errors import SourceError
    from ..stream.media import picture

    _, keep = picture.read(source)
    turned = keep.orientation != 1
    if turned and keep.alpha is not None:
        raise SourceError(
            f"{source}: expected a transparent picture to be stored upright, got EXIF orientation "
            f"{keep.orientation}: turn it first"
        )
    options = keep.options | ({"quality": quality} if "quality" in keep.options else {})
    keep = replace(keep, orientation=1, exif=_upright(keep.exif, keep.orientation), options=options)
    picture.write(target, image, covered, keep)
    return turned


def _upright(exif: bytes, orientation: int) -> bytes:
    """The notes without the one on turning, so that every viewer shows the same; width and height change places."""
    from PIL import Image

    fields = Image.Exif()
    if not exif:
        return exif
    fields.load(exif)
    fields.pop(_ORIENTATION, None)
    group = fields.get_ifd(_EXIF_GROUP)
    if orientation >= 5 and _WIDTH in group and _HEIGHT in group:
        group[_WIDTH], group[_HEIGHT] = group[_HEIGHT], group[_WIDTH]
    return fields.tobytes() if len(fields) else b""


def _generator(path: Path | None) -> Path:
    """The weights for dart; a bundle is compared with its own manifest first."""
    from ..bundle import bundle_path, load_bundle

    path = bundle_path(path)
    if path.is_dir():
        load_bundle(path)
    return path


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left on a terminal, now and then a line elsewhere."""
    if sys.stderr is None or not sys.stderr.isatty():
        last = time.monotonic()

        def line(done: int, count: int) -> None:
            nonlocal last
            if sys.stderr is not None and time.monotonic() - last >= _LINE_EVERY_S:
                last = time.monotonic()
                print(f"{done} of {count} pictures", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (BarColumn(), MofNCompleteColumn(), TextColumn("pictures"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)


def _tell(summary: Summary, method: str, target: Path) -> None:
    counts = summary.counts
    for name, reason in list(summary.left_out.items())[:_SHOWN]:
        print(f"dartblur: left out: {name}: {reason}", file=sys.stderr)
    if summary.left_out:
        print(f"dartblur: {len(summary.left_out)} files are left out, see {target}/manifest.json", file=sys.stderr)
    if counts["unannotated"]:
        print(f"dartblur: {counts['unannotated']} pictures that no annotation mentions are not copied", file=sys.stderr)
    if counts["turned"]:
        print(
            f"dartblur: {counts['turned']} pictures are turned by their EXIF; their boxes were taken to be in the "
            "picture as shown. If they are in the stored one, faces were missed: look at some",
            file=sys.stderr,
        )
    print(
        f"{counts['pictures']} pictures, {counts['faces']} faces overwritten by {method}, "
        f"{counts['annotation_files']} annotation files -> {target}"
    )
