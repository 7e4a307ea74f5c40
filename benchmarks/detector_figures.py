"""Measures the built-in detectors and writes the tables of docs/benchmarks.md on what they find, miss and cost.

    python -m venv /tmp/deface && /tmp/deface/bin/pip install deface onnx onnxruntime
    python benchmarks/detector_figures.py DATA --learned 508 --deface /tmp/deface/bin/deface

DATA holds ``widerface/`` in the published layout, ``celeba/`` and ``lfw/``. Runs detection.py, close_faces.py,
missed_faces.py, picture_speed.py, ten_faces.py and failure_cases.py, about a quarter of an hour, and keeps what they
say in ``docs/detection/VERSION.json``. The tables are made of that and of what earlier versions left there; the words
around them are written by hand. With ``--tables`` nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from dartblur import load_bundle
from dartblur.bundle import MODELS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURES, APART = 509, 115
"""Of the validation part, and how many of its last ones, of other events, version 7 was not shown."""
SHARE = round(1 - APART / PICTURES, 3)
DEFAULT = "small"

Figures = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--learned", type=int, help=f"how many of the {PICTURES} pictures these models have learned")
    parser.add_argument("--deface", help="the command of deface")
    parser.add_argument("--runs", type=int, default=1, help="of the comparison of speeds")
    parser.add_argument("--tables", action="store_true", help="only write the tables again")
    args = parser.parse_args()
    folder, version = DOCS / "detection", load_bundle(DEFAULT).manifest.version
    if not args.tables:
        if args.data is None or args.learned is None or args.deface is None:
            parser.error("expected DATA, --learned and --deface, or --tables alone")
        if shutil.which(args.deface) is None:
            parser.error(f"--deface: expected a command, got {args.deface}: --help tells how to install it")
        figures = measure(args.data, args.learned, args.deface, args.runs)
        (folder / f"{version}.json").write_text(json.dumps(figures, indent=1) + "\n")
    versions = all_versions(folder)
    file = DOCS / "benchmarks.md"
    text = file.read_text()
    for name, rows in tables(versions, version).items():
        text = replaced(text, name, rows)
    file.write_text(text)
    return 0


def all_versions(folder: Path) -> dict[str, Figures]:
    """What was measured, by version, such as 7, 7a, 10."""
    files = sorted(folder.glob("*.json"), key=lambda file: (int(file.stem.rstrip("abc")), file.stem))
    return {file.stem: json.loads(file.read_text()) for file in files}


def replaced(text: str, name: str, rows: list[list[Any]]) -> str:
    """The text with this table between its marks, ``<!-- table NAME -->`` and ``<!-- end -->``."""
    head, *body = [f"| {' | '.join(map(str, row))} |" for row in rows]
    table = "\n".join([head, "|---" * len(rows[0]) + "|", *body, ""])
    marks = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    result, count = marks.subn(lambda found: found[1] + table + found[2], text)
    if count != 1:
        raise SystemExit(f"docs/benchmarks.md: expected once <!-- table {name} --> with an <!-- end -->, got {count}")
    return result


def measure(data: Path, learned: int, deface: str, runs: int) -> Figures:
    """All figures of the built-in models."""
    models = [word for model in MODELS for word in ("--model", model)]
    apart = ["--validation-share", SHARE]
    beside = ["--deface", deface]
    speed = [*beside, "--runs", runs]
    script("failure_cases.py", DOCS / "failure-cases.jpg")
    return {
        "learned": learned,
        "all": json.loads(script("detection.py", data, "--conditions")),
        "apart": json.loads(script("detection.py", data, "--conditions", *apart)),
        "close": json.loads(script("close_faces.py", data)),
        "missed_all": json.loads(script("missed_faces.py", data, *models, *beside)),
        "missed_apart": json.loads(script("missed_faces.py", data, *models, *beside, *apart)),
        "folder": json.loads(script("picture_speed.py", data, *speed, "--pictures", PICTURES, "--side", 640)),
        "folders": json.loads(script("picture_speed.py", data, *speed)),
        "networks": json.loads(script("ten_faces.py")),
    }


def script(name: str, *arguments: object) -> str:
    """What another command of this folder prints."""
    command = [sys.executable, str(Path(__file__).with_name(name)), *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def tables(versions: dict[str, Figures], version: str) -> dict[str, list[list[Any]]]:
    """Rows of each table, the head first; `version` is the one that ships."""
    newest = versions[version]
    return {
        "apart": precision(versions, "apart"),
        "thresholds": thresholds(versions),
        "all": precision(versions, "all"),
        "close": close(versions),
        "missed-all": missed(versions, version, "missed_all"),
        "missed-apart": missed(versions, version, "missed_apart"),
        "folders": folders(newest),
        "networks": networks(newest),
    }


def knows(figures: Figures, part: str) -> bool:
    """Whether these models have learned pictures of this part, ``all`` or ``apart``."""
    return bool(figures["learned"] > (0 if part.endswith("all") else PICTURES - APART))


def of_models(versions: dict[str, Figures], part: str) -> list[tuple[str, str]]:
    """Model and version of each that was measured there, by model."""
    return [(model, name) for model in MODELS for name, figures in versions.items() if model in figures.get(part, {})]


def precision(versions: dict[str, Figures], part: str) -> list[list[Any]]:
    """AP under all conditions, and what the default threshold does; in parentheses where the pictures are known."""
    columns = of_models(versions, part)
    found = [versions[name][part][model] for model, name in columns]
    known = [knows(versions[name], part) for _, name in columns]
    conditions = dict.fromkeys(name for figures in found for name in figures["ap50_20px"])
    rows = {
        "AP@0.5" if name == "clean" else name: [number(figures["ap50_20px"].get(name)) for figures in found]
        for name in conditions
    }
    rows["default threshold"] = [f"{figures['threshold']:g}" for figures in found]
    rows["recall there"] = [number(figures["recall"]) for figures in found]
    rows["precision there"] = [number(figures["precision"]) for figures in found]
    rows["altered outside faces"] = [percent(altered(figures)) for figures in found]
    head = [f"{found[0]['pictures']} pictures", *(f"`{model}` {name}" for model, name in columns)]
    return [head, *([row, *map(told, cells, known)] for row, cells in rows.items())]


def thresholds(versions: dict[str, Figures]) -> list[list[Any]]:
    """Other thresholds of the default model, by its newest version that doesn't know the pictures."""
    fit = [name for name, item in versions.items() if DEFAULT in item["apart"] and not knows(item, "apart")]
    rows = [
        [f"{point['threshold']:.2f}", number(point["precision"]), number(point["recall"]), percent(altered(point))]
        for point in versions[fit[-1]]["apart"][DEFAULT]["operating_points"]
    ]
    return [[f"`{DEFAULT}` {fit[-1]}, threshold", "precision", "recall", "altered outside faces"], *rows]


def close(versions: dict[str, Figures]) -> list[list[Any]]:
    """Faces close to the camera in bad conditions that are missed."""
    columns = of_models(versions, "close")
    found = [versions[name]["close"][model] for model, name in columns]
    rows = [[f"missed, {side} px", *(percent(item[f"missed_{side}px"]) for item in found)] for side in (200, 400)]
    return [[f"{found[0]['faces']} faces", *(f"`{model}` {name}" for model, name in columns)], *rows]


def missed(versions: dict[str, Figures], newest: str, part: str) -> list[list[Any]]:
    """Missed faces by size of all versions, and by the newest run of deface. Speeds are the newest run's alone."""
    rows = []
    for version, figures in versions.items():
        for command, found in figures.get(part, {}).items():
            ours = command != "deface"
            shares = [found[key] for key in ("missed", "missed_20_32px", "missed_32_64px", "missed_64_10000px")]
            cells = [told(percent(share), ours and knows(figures, part)) for share in shares]
            cells.append(told(percent(found["altered_outside_faces"]), ours and knows(figures, part)))
            name = f"`{command}`, version {version}" if ours else f"`{command}`"
            if ours or version == newest:
                rows.append([name, *cells, f"{found['pictures_per_s']:.1f}" if version == newest else ""])
    pictures = PICTURES if part.endswith("all") else APART
    head = ["missed", "20-32 px", "32-64 px", "larger", "altered outside faces", "pictures a second"]
    return [[f"{pictures} pictures", *head], *rows]


def folders(figures: Figures) -> list[list[Any]]:
    """Photographs a second by their size."""
    rows = [
        [
            side,
            item["pictures"],
            f"{item['dartblur_per_s']:.1f}",
            f"{item['deface_per_s']:.1f}",
            f"**{item['ratio']:.1f}**",
        ]
        for measured in (figures["folder"], figures["folders"])
        for side, item in measured.items()
    ]
    return [["long side", "photographs", "`dartblur run`, a second", "`deface`", "ratio"], *rows]


def networks(figures: Figures) -> list[list[Any]]:
    """Milliseconds of detector and generator."""
    keys = ("detector_ms", "ten_faces_ms", "ten_faces_over_detector")
    rows = [[f"`{model}`", *(item[key] for key in keys)] for model, item in figures["networks"].items()]
    return [["on two cores, in turn", "detector, 1280x720, ms", "generator, ten faces, ms", "ratio"], *rows]


def altered(figures: Figures) -> float:
    """Of an operating point, or at the default threshold."""
    points = figures.get("operating_points", [figures])
    return float(next(item["altered_outside_faces"] for item in points if item["threshold"] == figures["threshold"]))


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def told(text: str, known: bool) -> str:
    """In parentheses where the models know the pictures."""
    return f"({text})" if known and text else text


if __name__ == "__main__":
    sys.exit(main())
