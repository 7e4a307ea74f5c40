"""What a comparison of methods leaves to read and to look at: tables, curves and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from ..data.cache import read_bgr
from .experiment import CLEAN, MEASURES, FidelityArgs, Outcome, Row, mean_and_spread
from .fidelity import Boxes

TITLES = {"operational": "Operational", "post_hoc": "Post-hoc", "cycle": "Cycle"}


def write_report(args: FidelityArgs, outcome: Outcome) -> Path:
    """Writes ``table.md``, curves and pictures beside ``rows.json``; returns the table's file."""
    for old in args.out.glob("*-picture-*.jpg"):
        old.unlink()
    table = args.out / "table.md"
    table.write_text(markdown(outcome.rows, setting(args, outcome)))
    for detector in args.detectors:
        for measure in MEASURES:
            _plot(outcome, detector, measure, args.out / f"{detector}-{measure}.png")
        for index in _telling(outcome, detector):
            picture = _drawn(args, outcome, detector, index)
            cv2.imwrite(str(args.out / f"{detector}-picture-{index}.jpg"), picture)
    return table


def setting(args: FidelityArgs, outcome: Outcome) -> str:
    """What a reader must know to judge the figures."""
    run = args.budget.run
    left_out = f" ({outcome.left_out} that some copy lacks are left out)" if outcome.left_out else ""
    return (
        f"Fidelities in %, AP@0.5 on {len(outcome.records)} validation images{left_out}. Truth: f's detections on "
        f"clear images with a confidence of at least {args.confidence}. Each f_g was trained from random weights for "
        f"{run.steps} steps of {run.batch} images of {args.budget.sample_size} pixels; "
        f"seeds: {', '.join(map(str, args.seeds))} ({len(args.seeds)}). "
        "Mean, and standard deviation over the seeds where there are several."
    )


def markdown(rows: Sequence[Row], text: str) -> str:
    """The table, a section for each detector."""
    parts = [text, ""]
    for detector in dict.fromkeys(row.detector for row in rows):
        own = [row for row in rows if row.detector == detector]
        aps = list(own[0].ap)
        heads = ["method", *TITLES.values(), *(f"AP of f_g on clear, {name}" for name in aps)]
        parts += [f"**{detector}**", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for row in own:
            cells = [getattr(row, measure) for measure in MEASURES] + [row.ap[name] for name in aps]
            parts.append(f"| {row.method} | {' | '.join(map(_cell, cells))} |")
        parts.append("")
    return "\n".join(parts)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean, spread = mean_and_spread(values)
    return f"{100 * mean:.2f}" + (f" ± {100 * spread:.2f}" if len(values) > 1 else "")


def _plot(outcome: Outcome, detector: str, measure: str, file: Path) -> None:
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 4))
    for (owner, kind, method), curve in outcome.curves.items():
        if owner == detector and kind == measure:
            axes.plot(curve.recall, curve.precision, label=f"{method} {100 * curve.average_precision:.1f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=f"{TITLES[measure]}, {detector}")
    axes.legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _telling(outcome: Outcome, detector: str, count: int = 4) -> list[int]:
    """Images on which the methods' detectors differ most, judged by how many faces they find."""
    found = [boxes for (owner, _), boxes in outcome.found.items() if owner == detector]
    counts = np.array([[int((scores > 0.5).sum()) for _, scores in boxes] for boxes in found])
    return [int(index) for index in np.argsort(-np.ptp(counts, axis=0), kind="stable")[:count]]


def _drawn(args: FidelityArgs, outcome: Outcome, detector: str, index: int) -> NDArray[np.uint8]:
    """A validation picture once for each method: anonymized, with what its f_g finds in the clear one."""
    record = outcome.records[index]
    rows = []
    for (owner, method), found in outcome.found.items():
        if owner == detector:
            source = args.data.folder if method == CLEAN else args.out / "data" / method
            image = read_bgr(source / record.path.relative_to(args.data.folder))
            rows.append(draw_boxes(image, found[index], method))
    sheet: NDArray[np.uint8] = np.concatenate(rows, axis=1)
    return sheet


def draw_boxes(image: NDArray[np.uint8], found: Boxes, title: str, threshold: float = 0.5) -> NDArray[np.uint8]:
    """A copy of a BGR picture with its title, and the boxes above a score drawn in green."""
    drawn: NDArray[np.uint8] = image.copy()
    for box, score in zip(*found, strict=True):
        if score > threshold:
            x0, y0, x1, y1 = (round(float(value)) for value in box)
            cv2.rectangle(drawn, (x0, y0), (x1, y1), (0, 255, 0), 2)
    cv2.putText(drawn, title, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 4)
    cv2.putText(drawn, title, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
    return drawn
