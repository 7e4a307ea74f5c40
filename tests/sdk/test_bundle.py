from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from dartblur import BundleError, load_bundle
from dartblur.backends.cpu import CpuBackend
from dartblur.bundle import GRAPHS, MODELS, Manifest, bundle_path, default_bundle, parse_manifest


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(default_bundle(), tmp_path / "bundle")
    return tmp_path / "bundle"


def test_the_default_model_is_whole_and_small() -> None:
    bundle = load_bundle()
    assert set(bundle.graphs) == {*GRAPHS, "fused-half.onnx"}
    assert sum(map(len, bundle.graphs.values())) < 8e6
    assert "research" in bundle.manifest.license


def test_a_zip_is_as_good_as_a_folder(copy: Path, tmp_path: Path) -> None:
    archive = tmp_path / "bundle.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for part in copy.iterdir():
            file.write(part, part.name)
    assert load_bundle(archive).manifest == load_bundle(copy).manifest


@pytest.mark.parametrize("name", GRAPHS)
def test_a_missing_graph_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        load_bundle(copy)


def test_a_changed_graph_is_named(copy: Path) -> None:
    (copy / "generator.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"generator.onnx is damaged: expected sha256"):
        load_bundle(copy)


def test_a_bundle_from_the_future_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(BundleError, match="expected bundle schema 1, got 99: update"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", 2),
        ("threshold", "high"),
        ("box_scale", 0.5),
        ("patch_size", True),
        ("patch_size", 64.5),
        ("files", []),
    ],
)
def test_values_out_of_range_are_named(copy: Path, field: str, value: object) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    with pytest.raises(BundleError, match=f"{field}: expected"):
        parse_manifest(json.dumps(manifest | {field: value}).encode(), "here")


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"schema_version": 1}', b"\xff\xfe"])
def test_garbage_is_no_manifest(text: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(text, "here")


def test_what_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nothing is there"):
        load_bundle(tmp_path / "none")
    with pytest.raises(BundleError, match=r"it has no manifest.json"):
        load_bundle(tmp_path)
    (tmp_path / "file.zip").write_bytes(b"not a zip")
    with pytest.raises(BundleError, match=r"expected a model bundle \(folder or .zip\)"):
        load_bundle(tmp_path / "file.zip")


@pytest.mark.parametrize(
    ("frame", "size"),
    [((720, 1280), (384, 640)), ((1280, 720), (640, 384)), ((480, 640), (512, 640)), ((1, 5000), (64, 640))],
)
def test_detector_sizes(frame: tuple[int, int], size: tuple[int, int]) -> None:
    manifest = Manifest("a", "1", "x", 0.4, 1.1, 64, 1.6)
    assert manifest.detector_size(*frame) == size


def test_a_generator_of_another_patch_size_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"patch_size": 32}))
    with pytest.raises(BundleError, match=r"generator.onnx: expected patches \[3, 32, 32\]"):
        CpuBackend(load_bundle(copy))


def test_the_models_of_the_package_go_by_their_names() -> None:
    assert load_bundle().manifest.name == load_bundle("default").manifest.name == "dartblur-small"
    for name in MODELS:
        bundle = load_bundle(name)
        assert bundle.manifest.name == f"dartblur-{name}"
        assert set(bundle.graphs) >= set(GRAPHS)
        assert load_bundle(Path(name)).manifest == bundle.manifest, "as a command line hands it over"
    assert sum(file.stat().st_size for name in MODELS for file in bundle_path(name).iterdir()) <= 12e6
    with pytest.raises(BundleError, match="large: expected nano, small, base, or a model bundle"):
        load_bundle("large")


def test_a_folder_that_is_called_like_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    assert load_bundle("small").manifest.name == "dartblur-small"
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        load_bundle(tmp_path / "small")
