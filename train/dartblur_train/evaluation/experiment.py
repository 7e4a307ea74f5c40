"""``dartblur evaluate fidelity``: the paper's table, from anonymized copies to figures.

Everything it makes lies in one folder and is made once: the copies of the data set (``data/<method>``), the detectors
trained on them (``detectors/<family>/<method>-<seed>``) and the rows of the table (``rows.json``). A run that is
stopped goes on where it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from ..data.labels import DataError, FaceImage
from ..detector_training import DetectorArgs, train_detector
from ..nets.detectors import build_detector
from ..nets.face_detector import FaceDetector
from ..run import launch
from ..sources import DataArgs, read_validation
from .average_precision import PrecisionRecall, average_precision
from .fidelity import CONFIDENCE, Boxes, fidelity, find
from .wider_protocol import DIFFICULTIES, read_difficulty

CLEAN = "clean"
"""The row of a detector that is trained on the clear images: the ceiling."""

MEASURES = ("operational", "post_hoc", "cycle")


@dataclass(frozen=True)
class FidelityArgs:
    """What is compared.

    Attributes:
        data: the clear data set, training and validation part.
        out: folder for everything that is made.
        copies: name of each method, and how its copy of the data set is made: called with the folder to write to.
        detectors: families, and f's weights; None: f is trained on clear images as f_g is, with a seed of its own.
        budget: how each f_g is trained; its folder and seed are set here.
        seeds: one training for each.
        confidence: lowest score of f's detections that count as truth.
        difficulty: folder with WIDER FACE's ``wider_{easy,medium,hard}_val.mat``, if AP against its parts is wanted.
        check_images: validation images; None: all.
    """

    data: DataArgs
    out: Path
    copies: dict[str, Callable[[Path], None]]
    detectors: dict[str, Path | None]
    budget: DetectorArgs
    seeds: Sequence[int] = (0,)
    confidence: float = CONFIDENCE
    difficulty: Path | None = None
    check_images: int | None = None


@dataclass
class Row:
    """Figures of one method and one family; a list holds a value for each seed.

    Attributes:
        method, detector: names.
        operational: the same for all seeds, since it trains nothing; empty for ``clean``.
        post_hoc, cycle: see `fidelity`.
        ap: AP@0.5 of f_g on clear images against the annotated faces, by part: ``all``, and WIDER's where asked for.
    """

    method: str
    detector: str
    operational: list[float] = field(default_factory=list)
    post_hoc: list[float] = field(default_factory=list)
    cycle: list[float] = field(default_factory=list)
    ap: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What `run_fidelity` found.

    Attributes:
        rows: the table.
        curves: precision-recall curves of the first seed, by detector, measure and method.
        found: detections of the first seed's f_g on clear images, by detector and method.
        records: the validation images that all copies have.
        left_out: number of those that some copy lacks.
    """

    rows: list[Row]
    curves: dict[tuple[str, str, str], PrecisionRecall]
    found: dict[tuple[str, str], list[Boxes]]
    records: list[FaceImage]
    left_out: int = 0


def run_fidelity(args: FidelityArgs) -> Outcome:
    """Makes what is missing, and measures.

    Raises:
        DataError: data, weights or an argument are missing or malformed.
        TrainingError: a training runs away.
    """
    for name, make in args.copies.items():
        make(args.out / "data" / name)
    device = launch(args.budget.run).device
    listed = read_validation(args.data, args.check_images)
    copies = [_copy_of(args.data.folder, args.out / "data" / name) for name in args.copies]
    records = [record for record in listed if all(at(record.path).is_file() for at in copies)]
    outcome = Outcome([], {}, {}, records, len(listed) - len(records))
    for family, weights in args.detectors.items():
        f = _fixed_detector(args, family, weights).to(device)
        f_x = find(f, records)
        for method in (CLEAN, *args.copies):
            outcome.rows.append(_measure(args, family, f, f_x, method, outcome))
            _keep(args.out / "rows.json", outcome.rows)
    return outcome


def _measure(args: FidelityArgs, family: str, f: FaceDetector, f_x: list[Boxes], method: str, outcome: Outcome) -> Row:
    """A row of the table."""
    row, records = Row(method, family), outcome.records
    copy = None if method == CLEAN else _copy_of(args.data.folder, args.out / "data" / method)

    def note(measure: str, found: list[Boxes], first: bool) -> None:
        curve = fidelity(found, f_x, args.confidence)
        getattr(row, measure).append(curve.average_precision)
        if first:
            outcome.curves[family, measure, method] = curve

    if copy is not None:
        note("operational", find(f, records, copy), True)
    for number, seed in enumerate(args.seeds):
        f_g = build_detector(family, _trained(args, family, method, seed)).eval().to(next(f.parameters()).device)
        on_clear = find(f_g, records)
        note("post_hoc", on_clear if copy is None else find(f_g, records, copy), number == 0)
        note("cycle", on_clear, number == 0)
        for part, faces in _parts(args, records).items():
            truth = [(record.boxes, record.ignored) for record in faces]
            row.ap.setdefault(part, []).append(average_precision(on_clear, truth).average_precision)
        outcome.found.setdefault((family, method), on_clear)
    return row


def _parts(args: FidelityArgs, records: list[FaceImage]) -> dict[str, list[FaceImage]]:
    parts = {"all": records}
    if args.difficulty is not None:
        parts |= {name: read_difficulty(args.difficulty, name, records) for name in DIFFICULTIES}
    return parts


def _fixed_detector(args: FidelityArgs, family: str, weights: Path | None) -> FaceDetector:
    # A seed of its own: the row `clean` would else compare f with itself.
    return build_detector(family, weights or _trained(args, family, CLEAN, max(args.seeds) + 1)).eval()


def _trained(args: FidelityArgs, family: str, method: str, seed: int) -> Path:
    """Weights of f_g, trained from random ones on the method's images unless they are there."""
    folder = args.data.folder if method == CLEAN else args.out / "data" / method
    run = replace(args.budget.run, out=args.out / "detectors" / family / f"{method}-{seed}", seed=seed)
    budget = replace(
        args.budget, data=replace(args.data, folder=folder), run=run, detector=family, several=False, start=None
    )
    content = _names_and_sizes(folder) if method == CLEAN else (folder / "manifest.json").read_bytes()
    _claim(run.out, budget, sha256(content).hexdigest())
    weights = run.out / "detector.safetensors"
    if weights.is_file():
        with safe_open(weights, "pt") as archive:
            if (archive.metadata() or {}).get("steps") == str(run.steps):
                return weights
    return train_detector(budget)


def _names_and_sizes(folder: Path) -> bytes:
    """Of a folder's files, a line each: to read their contents would take as long as an epoch."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return "".join(f"{file.relative_to(folder)} {file.stat().st_size}\n" for file in files).encode()


def _claim(folder: Path, budget: DetectorArgs, pictures: str) -> None:
    """Notes what is trained here, and on which pictures; refuses a folder in which something else was trained."""
    settings = {
        "budget": json.loads(json.dumps(asdict(budget), default=str)),
        "pictures": pictures,
    }
    # How it is carried out makes no difference to what comes out.
    for name in ("accelerator", "workers", "every", "log_every"):
        settings["budget"]["run"].pop(name)
    file = folder / "settings.json"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings, indent=2) + "\n")
    elif json.loads(file.read_text()) != settings:
        raise DataError(
            f"{folder}: expected a detector trained with these options on these pictures, its settings.json tells of "
            "others: repeat the options, choose another --out, or remove the folder"
        )


def _copy_of(source: Path, copy: Path) -> Callable[[Path], Path]:
    """Where the anonymized copy of a picture lies."""

    def at(path: Path) -> Path:
        try:
            return copy / path.relative_to(source)
        except ValueError as error:
            raise DataError(f"{path}: expected the pictures of a data set to lie in its folder {source}") from error

    return at


def _keep(file: Path, rows: list[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(_known([asdict(row) for row in rows]), indent=2) + "\n")
    partial.replace(file)


def _known(value: Any) -> Any:
    """JSON knows no NaN, which is the average precision where there is no face."""
    if isinstance(value, dict):
        return {key: _known(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_known(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and the standard deviation of single values (0 for one)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
