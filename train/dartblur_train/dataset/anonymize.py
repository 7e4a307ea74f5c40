"""Writes an anonymized copy of a data set: the same files under the same names, every annotated face overwritten.

What isn't known to be free of clear faces doesn't get into the copy: pictures that no annotation mentions or that can't
be read, and files that are no annotations. The manifest names them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..data.labels import FaceImage
from ..data.problems import DataError
from ..generators import build_application, load_generator
from ..methods import build_method, is_plain
from .plan import Plan, make_plan
from .target import Target, check_places, open_target, partial, sha256
from .workers import Encoder, Job, worker_processes


@dataclass(frozen=True)
class DataSetArgs:
    """What is asked for.

    Attributes:
        source: folder of the data set.
        target: folder of the copy; one that an earlier run has begun is completed.
        method: in `METHODS`, or ``pixelate-N``.
        generator: for ``dart``: see `build_method`.
        mode: for ``dart``: how the generator has to have been trained, ``patch`` or ``frame``. None: as it was.
        layout: see `read_data_set`.
        box_scale: how much larger than the face the overwritten box is.
        quality: of JPEG and lossy WebP.
        workers: processes; 0: one for each core.
        on_bad_data: of malformed annotations. ``skip`` leaves their pictures out.
        tool: name and version of what writes the copy.
    """

    source: Path
    target: Path
    method: str = "dart"
    generator: Path | None = None
    mode: str | None = None
    layout: str = "auto"
    box_scale: float = 1.0
    quality: int = 80
    workers: int = 0
    on_bad_data: Literal["refuse", "skip"] = "refuse"
    tool: str = "dartblur-edge"


@dataclass
class Summary:
    """What was done.

    Attributes:
        counts: of pictures, faces and files, as in the manifest.
        left_out: what should be in the copy and isn't, and why, by name.
    """

    counts: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def anonymize_data_set(
    args: DataSetArgs, encode: Encoder, on_progress: Callable[[int, int], None] = lambda done, of: None
) -> Summary:
    """Writes the copy, or what is missing of it.

    Args:
        args: what is asked for.
        encode: writes the pictures.
        on_progress: told after each picture how many of how many are finished.

    Raises:
        DataError: something is refused, see `make_plan` and `open_target`; or the run could not go on.
    """
    check_places(args.source, args.target)
    settings = _settings(args)
    plan = make_plan(args.source, args.layout, args.on_bad_data)
    sources = {name: _fingerprint(args.source / name) for name in plan.annotations}
    sources |= {name: _fingerprint(face.path, face) for name, face in plan.pictures.items()}
    with open_target(args.target, settings, sources) as target:
        for name in plan.annotations:
            if name not in target.files:
                _copy(args.source / name, args.target / name)
                target.add(name, sha256(args.target / name))
        _anonymize(args, encode, plan, target, on_progress)
        summary = _summarize(plan, target)
        notes = {name: sorted(getattr(plan, name)) for name in ("unannotated", "not_copied")}
        left_out = dict(sorted(summary.left_out.items()))
        target.finish({"counts": summary.counts, "left_out": left_out, **notes})
    return summary


def _settings(args: DataSetArgs) -> dict[str, Any]:
    """What the copy depends on; raises `DataError` for what doesn't fit together."""
    if not args.box_scale >= 1:
        raise DataError(f"box scale: expected at least 1, so that no face looks out, got {args.box_scale}")
    if not 1 <= args.quality <= 100:
        raise DataError(f"quality: expected 1 to 100, got {args.quality}")
    mode = digest = None
    if args.method != "dart":
        if is_plain(args.method) and (args.generator or args.mode):
            raise DataError(f"method {args.method}: expected no generator and no mode: they are for dart")
        build_method(args.method)
    else:
        if args.mode is not None:
            build_application(args.mode)
        if args.generator is None:
            raise DataError("method dart: expected the weights of a generator or a bundle, got none: give a generator")
        mode = load_generator(args.generator)[1].metadata["mode"]
        if args.mode not in (None, mode):
            raise DataError(
                f"{args.generator}: it was trained for mode {mode}, so it can't be used in mode {args.mode}"
            )
        digest = sha256(args.generator / "generator.onnx" if args.generator.is_dir() else args.generator)
    return {
        "method": args.method,
        "mode": mode,
        "generator_sha256": digest,
        "quality": args.quality,
        "box_scale": args.box_scale,
        "tool": args.tool,
    }


def _fingerprint(file: Path, record: FaceImage | None = None) -> str:
    """Tells whether a file or its faces have changed since an earlier run."""
    try:
        stat = file.stat()
    except OSError:
        return ""  # whoever reads it next says why
    faces = b"" if record is None else record.boxes.tobytes() + record.ignored.tobytes()
    return hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns} ".encode() + faces).hexdigest()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    pending = partial(target)
    pending.write_bytes(source.read_bytes())
    pending.replace(target)


def _anonymize(
    args: DataSetArgs, encode: Encoder, plan: Plan, target: Target, on_progress: Callable[[int, int], None]
) -> None:
    fixed = (args.source, args.target, args.method, args.generator, args.box_scale, encode, args.quality)
    jobs = [Job(name, record, *fixed) for name, record in plan.pictures.items() if name not in target.files]
    done, count = len(plan.pictures) - len(jobs), len(plan.pictures)
    on_progress(done, count)
    with worker_processes(min(args.workers or len(os.sched_getaffinity(0)), len(jobs))) as submit:
        for future in as_completed(submit(jobs)):
            outcome = future.result()
            if outcome.reason:
                plan.left_out[outcome.name] = outcome.reason
            else:
                faces = len(plan.pictures[outcome.name].boxes)
                target.add(outcome.name, outcome.sha256, faces=faces, turned=outcome.turned)
            done += 1
            on_progress(done, count)


def _summarize(plan: Plan, target: Target) -> Summary:
    pictures = [target.files[name] for name in plan.pictures if name in target.files]
    counts = {
        "pictures": len(pictures),
        "pictures_without_faces": sum(not entry["faces"] for entry in pictures),
        "faces": sum(entry["faces"] for entry in pictures),
        "turned": sum(entry["turned"] for entry in pictures),
        "annotation_files": len(plan.annotations),
        "left_out": len(plan.left_out),
        "unannotated": len(plan.unannotated),
        "not_copied": len(plan.not_copied),
    }
    return Summary(counts, plan.left_out)
