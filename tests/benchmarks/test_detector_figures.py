"""The tables of docs/benchmarks.md on the detectors: made from the figures that were measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from dartblur import load_bundle

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("detector_figures", ROOT / "benchmarks" / "detector_figures.py")
assert spec
assert spec.loader
made: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)


@pytest.fixture
def versions() -> dict[str, Any]:
    return dict(made.all_versions(ROOT / "docs" / "detection"))


def test_the_tables_in_the_documents_are_those_of_the_figures(versions: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    version = load_bundle(made.DEFAULT).manifest.version
    for name, rows in made.tables(versions, version).items():
        assert made.replaced(text, name, rows) == text, name


def test_the_figures_are_those_of_the_shipped_thresholds(versions: dict[str, Any]) -> None:
    for model in made.MODELS:
        manifest = load_bundle(model).manifest
        figures = versions[manifest.version]["all"][model]
        assert figures["model"] == f"{manifest.name} {manifest.version}"
        assert figures["threshold"] == manifest.threshold


def test_what_a_version_knows_stands_in_parentheses(versions: dict[str, Any]) -> None:
    head, *rows = made.precision(versions, "apart")
    for row in rows:
        for column, cell in zip(head[1:], row[1:], strict=True):
            known = versions[column.split()[-1]]["learned"] > made.PICTURES - made.APART
            assert not cell or cell.startswith("(") == known


def test_versions_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("10", "7a", "5", "7"):
        (tmp_path / f"{name}.json").write_text("{}")
    assert list(made.all_versions(tmp_path)) == ["5", "7", "7a", "10"]


def test_a_document_without_the_marks_is_refused() -> None:
    with pytest.raises(SystemExit, match="expected once <!-- table all --> with an <!-- end -->, got 0"):
        made.replaced("no table here", "all", [["a"], ["b"]])


def test_a_table_takes_the_place_of_the_one_before() -> None:
    rows = [["a", "b"], [1, "2"]]
    new = "before\n<!-- table all -->\n| a | b |\n|---|---|\n| 1 | 2 |\n<!-- end -->\nafter\n<!-- end -->"
    for old in (new, new.replace("| 1", "| 0"), "before\n<!-- table all -->\n<!-- end -->\nafter\n<!-- end -->"):
        assert made.replaced(old, "all", rows) == new
