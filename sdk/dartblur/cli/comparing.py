"""``dartblur verify``: whether two models, engines or weights do the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..frame import Image
    from ..measurement.comparison import Comparison, Tolerances
    from .candidates import Candidate

_MOST_SHOWN = 10
_SIGNALLED = 128
_DIFFERENT = 1
"""Exit code, as of cmp and diff."""
_MOST_APART = 25
"""Frames of a video between two that are taken."""
EXACT = {"boxes": 0.001, "scores": 0.001, "pixels": 2.0}
ROUNDED = {"boxes": 0.02, "scores": 0.02, "pixels": 3.0}
"""Tolerances, as in `Tolerances`: between two in single precision on the CPU, and with others."""

Pair = tuple["Candidate", "Candidate"]


def verify(
    a: Annotated[str, typer.Argument(metavar="A", help="'default', bundle, BUNDLE:fused, engine or weights.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one, likewise.")],
    frames: Annotated[
        str | None, typer.Option(help="Video or picture file, folder, pattern or camera. Default: made on the spot.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Most frames to take.")] = 16,
    tolerance_boxes: Annotated[
        float | None, typer.Option(min=0, help="Largest difference of a box's corner over its side.")
    ] = None,
    tolerance_pixels: Annotated[
        float | None, typer.Option(min=0, help="Largest difference of a pixel, grey levels of 255.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare what two models do with the same frames: boxes, scores, and pixels. Exit code 1 when they differ.

    A and B are 'default' (the built-in model), a bundle (folder or zip, on the CPU), BUNDLE:fused or
    BUNDLE:fused-half (its fused graphs in ONNX Runtime), BUNDLE:onnxruntime-gpu, an engine, or weights of training
    in PyTorch: DETECTOR.safetensors+GENERATOR.safetensors, or a folder with files of these names.

    Faces of one alone are a difference, and so is any changed pixel outside the boxes. The tolerances are by default
    0.001 and 2 between two in single precision on the CPU, 0.02 and 3 where half precision or a GPU takes part. The
    threshold and box scale are those of A. The figures are written into the passport of an engine.
    """
    from .candidates import parse_candidate
    from .signals import Interrupted, on_signals

    candidates = parse_candidate(a), parse_candidate(b)
    size = _common_size(*candidates)
    chosen = list(_own_frames(size)) if frames is None else _frames_of(frames, count, size)
    given = {"from": frames or _own_frames_are(), "scaled_to": list(size) if size and frames else None}
    tolerances = _tolerances(candidates, tolerance_boxes, tolerance_pixels)
    try:
        with on_signals():
            found, told = _compared(candidates, chosen, tolerances)
    except Interrupted as interrupted:
        print("dartblur: interrupted: nothing was written", file=sys.stderr)
        raise typer.Exit(_SIGNALLED + interrupted.signal) from None
    told |= {"frames": given}
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        _show(told)
    if not found.matched:
        print(
            "dartblur: no face was found by both in these frames, so neither boxes nor scores were compared: "
            "give pictures of faces with --frames",
            file=sys.stderr,
        )
    _record(candidates, told)
    if not found.passed:
        raise typer.Exit(_DIFFERENT)


def _tolerances(candidates: Pair, boxes: float | None, pixels: float | None) -> Tolerances:
    from ..measurement.comparison import Tolerances

    usual = EXACT if all(candidate.exact for candidate in candidates) else ROUNDED
    return Tolerances(
        boxes=usual["boxes"] if boxes is None else boxes,
        scores=usual["scores"],
        pixels=usual["pixels"] if pixels is None else pixels,
    )


def _compared(
    candidates: Pair, frames: list[tuple[str, Image]], tolerances: Tolerances
) -> tuple[Comparison, dict[str, Any]]:
    """What was found, and the same as plain values for people, programs and passports."""
    from ..measurement.comparison import Subject, compare
    from .candidates import UNTOLD

    manifest = candidates[0].manifest or candidates[1].manifest or UNTOLD
    choice = {"threshold": manifest.threshold, "box_scale": manifest.box_scale}
    with ExitStack() as stack:
        backends = []
        for candidate in candidates:
            backends.append(candidate.load(manifest))
            stack.callback(backends[-1].close)
        a, b = (
            Subject(name, backend, candidate.slots(manifest))
            for name, backend, candidate in zip("AB", backends, candidates, strict=True)
        )
        found = compare(a, b, frames, tolerances=tolerances, **choice)
    if found.refused == found.frames and not found.differences:
        raise InputError("expected frames with fewer faces than slots, got none: give others with --frames")
    sides = {
        side: {"name": candidate.name, "kind": candidate.kind, "model": backend.model_name}
        for side, candidate, backend in zip("ab", candidates, backends, strict=True)
    }
    return found, {
        "schema_version": 1,
        **sides,
        **choice,
        "tolerances": asdict(tolerances),
        "figures": found.figures(),
        "differences": found.differences,
        "passed": found.passed,
    }


def _common_size(a: Candidate, b: Candidate) -> tuple[int, int] | None:
    """Width and height that both take; None: any."""
    if a.frame and b.frame and a.frame != b.frame:
        sizes = ["x".join(map(str, candidate.frame or ())) for candidate in (a, b)]
        raise InputError(
            f"expected two that take frames of the same size, {a.name} takes {sizes[0]} and {b.name} {sizes[1]}: "
            "build one again with --frame"
        )
    return a.frame or b.frame


def _own_frames(size: tuple[int, int] | None) -> Iterator[tuple[str, Image]]:
    """Pictures made on the spot, of odd sizes too where all sizes are taken."""
    from ..measurement import sample_frames

    sizes = [size] * 3 if size else [(1280, 720), (417, 243), (701, 1000)]
    for seed, (width, height) in enumerate(sizes):
        yield f"texture {seed + 1}, {width}x{height}", sample_frames.texture(width, height, seed)
    if not sample_frames.has_faces():
        return
    sizes = [size] * 4 if size else [(1280, 720), (641, 479), (701, 1000), (1920, 1080)]
    for number, (width, height) in enumerate(sizes):
        yield f"faces {number + 1}, {width}x{height}", sample_frames.faces(width, height, number / 3)


def _own_frames_are() -> str:
    from ..measurement.sample_frames import has_faces

    if has_faces():
        return "made on the spot: 3 textures without faces, and 4 pictures of a real face"
    return "made on the spot: 3 textures without faces; for a real face install scikit-image, or give --frames"


def _frames_of(uri: str, count: int, size: tuple[int, int] | None) -> list[tuple[str, Image]]:
    """Frames of a source, spread over it, but not farther apart than `_MOST_APART`."""
    from ..stream import open_source

    chosen = []
    with open_source(uri) as source:
        total = 0 if source.info.live else source.info.frames or 0
        step = max(1, min(total // count, _MOST_APART))
        for frame in source:
            if frame.index % step == 0:
                name = source.name_of(frame.index)
                alone = name != uri or total == 1
                chosen.append((name if alone else f"{name} frame {frame.index}", _fitted(frame.image, size)))
            if len(chosen) == count:
                break
        for skipped in source.skipped:
            print(f"dartblur: skipped: {skipped.reason}", file=sys.stderr)
    if not chosen:
        raise InputError(f"{uri}: expected frames, got none that can be read: give another source")
    return chosen


def _fitted(image: Image, size: tuple[int, int] | None) -> Image:
    """The image scaled to fit, its aspect kept, the rest grey; itself where any size will do."""
    import cv2
    import numpy as np

    height, width = image.shape[:2]
    if size is None or (width, height) == size:
        return image
    scale = min(size[0] / width, size[1] / height)
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = np.full((size[1], size[0], 3), 128, np.uint8)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[:height, :width] = cv2.resize(image, (width, height), interpolation=way)
    return canvas


def _record(candidates: Pair, told: Mapping[str, Any]) -> None:
    """Into the passports of engines."""
    from ..passport import record_parity

    for candidate, other in zip(candidates, ("b", "a"), strict=True):
        if candidate.engine is not None:
            kept = {name: told[name] for name in ("passed", "figures", "tolerances", "threshold", "box_scale")}
            # Where on this disk the frames lie is nobody's business that the engine is handed to.
            kept["frames"] = told["frames"] | {"from": PurePath(told["frames"]["from"]).name}
            kept["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
            record_parity(candidate.engine, f"{told[other]['kind']}, {told[other]['model']}", kept)


def _show(told: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False, markup=False)
    for side in "ab":
        console.print(f"{side.upper()}  {told[side]['name']}: {told[side]['model']}, {told[side]['kind']}")
    figures, allowed = told["figures"], told["tolerances"]
    scaled = "" if not told["frames"]["scaled_to"] else ", scaled to {}x{}".format(*told["frames"]["scaled_to"])
    console.print(f"{figures['frames']} frames ({told['frames']['from']}{scaled})")
    if figures["refused"]:
        console.print(f"{figures['refused']} of them have more faces than there are slots, and were not compared")
    table = Table("", "largest", "mean", "allowed")
    rows = (
        ("boxes, over their side", "boxes", "{:.5f}", f"{allowed['boxes']:g}"),
        ("scores", "scores", "{:.5f}", f"{allowed['scores']:g}"),
        ("pixels of the same boxes, of 255", "pixels", "{:.3f}", f"{allowed['pixels']:g}"),
        ("pixels of their own faces, of 255", "own_pixels", "{:.3f}", f"{allowed['pixels']:g} on average"),
    )
    for label, name, form, limit in rows:
        cells = [figures[f"{name}_{kind}"] for kind in ("max", "mean")]
        table.add_row(label, *("-" if cell is None else form.format(cell) for cell in cells), limit)
    table.add_row("changed pixels outside the boxes", str(figures["outside"]), "", "0")
    table.add_row("faces of A alone, of B alone", f"{figures['only_a']}, {figures['only_b']}", "", "0, 0")
    console.print(table)
    console.print(
        f"{figures['faces_a']} faces found by A, {figures['faces_b']} by B, threshold {told['threshold']:g}; "
        f"{figures['near_ties']} so near to it that only one of them counts the face"
    )
    if figures["unstable"]:
        console.print(f"{figures['unstable']} boxes not judged: a change of one grey level moves them as far")
    for difference in told["differences"][:_MOST_SHOWN]:
        console.print(f"  {difference}")
    if (more := len(told["differences"]) - _MOST_SHOWN) > 0:
        console.print(f"  and {more} more differences")
    console.print("the same, within the tolerance" if told["passed"] else "NOT the same")
