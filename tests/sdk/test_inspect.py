from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dartblur import BundleError, load_bundle
from dartblur.bundle import default_bundle, sha256
from dartblur.errors import InputError
from dartblur.inspection import inspect_file
from dartblur.onnx_outline import read_outline
from dartblur.passport import Passport, passport_path, write_passport

GRAPHS = sorted(default_bundle().glob("*.onnx"))
PASSPORT = Passport(
    engine_sha256=sha256(b"engine"),
    engine_bytes=6,
    bundle_sha256="0" * 64,
    model="small",
    model_version="1",
    target="tensorrt-rtx",
    trt_version="1.7.1",
    cuda_version=None,
    sm=("8.6", "8.9"),
    device="desktop",
    gpu=None,
    precision="fp32",
    frame=(1280, 720),
    batch=2,
    slots=4,
    held=1,
    patch_size=64,
    patch_context=1.6,
    box_scale=1.2,
    threshold=0.35,
    created="2026-11-21T12:00:00+00:00",
)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "my.engine"
    path.write_bytes(b"engine")
    write_passport(path, PASSPORT)
    return path


def dartblur(*arguments: Any) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys\n"
        "from dartblur.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    assert not {'onnx', 'onnxruntime', 'torch', 'cv2'} & set(sys.modules)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "sdk"), "PATH": "/usr/bin:/bin", "COLUMNS": "100"},
        check=False,
    )


@pytest.mark.parametrize("file", GRAPHS, ids=lambda file: file.name)
def test_the_outline_is_what_the_onnx_package_reads(file: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model, outline = onnx.load(file), read_outline(file.read_bytes(), file.name)
    assert outline.operators == Counter(node.op_type for node in model.graph.node)
    assert outline.opsets == {"ai.onnx": model.opset_import[0].version}
    for ours, theirs in ((outline.inputs, model.graph.input), (outline.outputs, model.graph.output)):
        assert [tensor.name for tensor in ours] == [tensor.name for tensor in theirs]
        for tensor, other in zip(ours, theirs, strict=True):
            kind = other.type.tensor_type
            assert tensor.type == str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
            assert tensor.shape == tuple(size.dim_param or size.dim_value for size in kind.shape.dim)
    counts: Counter[str] = Counter()
    for weights in model.graph.initializer:
        array = onnx.numpy_helper.to_array(weights)
        counts[str(array.dtype)] += array.size
    assert outline.weights == counts


def test_operators_of_others_are_named_with_their_domain() -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Paint", ["a"], ["b"], domain="my.own")
    tensor = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "ab"]
    graph = onnx.helper.make_graph([node], "g", tensor[:1], tensor[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("my.own", 3)])
    onnx.helper.set_model_props(model, {"author": "me"})
    outline = read_outline(model.SerializeToString(), "x")
    assert outline.operators == {"my.own::Paint": 1}
    assert outline.opsets == {"my.own": 3}
    assert outline.metadata == {"author": "me"}
    assert outline.inputs[0].shape == ()


@settings(max_examples=60)
@given(st.data())
def test_a_truncated_graph_is_refused(data: st.DataObject) -> None:
    whole = (default_bundle() / "generator.onnx").read_bytes()
    # What follows the graph are a few bytes with the versions of the operator sets.
    with pytest.raises(BundleError, match="expected an ONNX file, it is truncated or something else"):
        read_outline(whole[: data.draw(st.integers(0, len(whole) - 20))], "x")


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_is_no_graph(data: bytes) -> None:
    try:
        read_outline(data, "x")
    except BundleError:
        return


def test_a_bundle_as_folder_zip_and_manifest(tmp_path: Path) -> None:
    folder = inspect_file(default_bundle())
    assert folder["kind"] == "bundle"
    assert folder["sha256"] == sha256((default_bundle() / "manifest.json").read_bytes())
    assert folder["fused"]["slots"] == load_bundle().manifest.fused["slots"]
    assert {graph["name"]: graph["sha256"] for graph in folder["graphs"]} == load_bundle().manifest.files
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for part in default_bundle().iterdir():
            archive.write(part, part.name)
    zipped = inspect_file(tmp_path / "model.zip")
    assert {**zipped, "path": ""} == {**folder, "path": ""}
    assert inspect_file(default_bundle() / "manifest.json") == folder


def test_an_engine_by_itself_and_by_its_passport(engine: Path) -> None:
    facts = inspect_file(engine)
    assert facts["problem"] is None
    assert facts["passport"]["frame"] == (1280, 720)
    assert facts["inputs"][0] == {"name": "frames", "type": "uint8", "shape": (2, 720, 1280, 3)}
    assert facts["outputs"][0] == {"name": "patches", "type": "float32", "shape": (2, 5, 3, 64, 64)}
    assert inspect_file(passport_path(engine)) == facts
    done = dartblur("inspect", engine)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1280x720" in done.stdout
    assert "8.6 8.9" in done.stdout
    assert "uint8 [2, 720, 1280, 3]" in done.stdout


def test_a_truncated_engine_is_shown_and_is_an_error(engine: Path) -> None:
    engine.write_bytes(b"eng")
    done = dartblur("inspect", engine)
    assert done.returncode == 2
    assert "model           small" in done.stdout
    assert done.stderr == f"dartblur: {engine}: truncated: expected 6 bytes, got 3\n"
    told = dartblur("inspect", engine, "--json")
    assert told.returncode == 2
    assert json.loads(told.stdout)["problem"] == "truncated: expected 6 bytes, got 3"


def test_engines_whose_passport_is_missing_edited_or_from_the_future(engine: Path) -> None:
    text = passport_path(engine).read_text()
    passport_path(engine).write_text(text.replace('"batch": 2', '"batch": 1'))
    assert "was edited" in inspect_file(engine)["problem"]
    write_passport(engine, replace(PASSPORT, schema_version=2))
    assert "expected passport schema 1, got 2" in inspect_file(engine)["problem"]
    passport_path(engine).unlink()
    facts = inspect_file(engine)
    assert (facts["passport"], facts["bytes"]) == (None, 6)
    assert "no passport (my.engine.json)" in facts["problem"]
    assert dartblur("inspect", engine).returncode == 2


def test_a_passport_whose_engine_is_missing(engine: Path) -> None:
    engine.unlink()
    facts = inspect_file(passport_path(engine))
    assert facts["passport"]["model"] == "small"
    assert "the engine itself is missing" in facts["problem"]


def test_a_graph_on_the_command_line() -> None:
    done = dartblur("inspect", GRAPHS[0])
    assert done.returncode == 0, done.stderr
    assert "ONNX graph detector.onnx" in done.stdout
    assert "input   image   float32 [batch, 3, " in done.stdout
    assert json.loads(dartblur("inspect", GRAPHS[0], "--json").stdout)["opsets"] == {"ai.onnx": 18}
    assert "bundle dartblur-small" in dartblur("inspect", default_bundle()).stdout


def test_what_is_not_known_here(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is there"):
        inspect_file(tmp_path / "none.engine")
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(InputError, match=r"expected a bundle \(folder or .zip\), .onnx, "):
        inspect_file(tmp_path / "note.txt")
    with pytest.raises(BundleError, match=r"it has no manifest.json"):
        inspect_file(tmp_path)
    (tmp_path / "no.onnx").write_text("hello")
    with pytest.raises(BundleError, match="expected an ONNX file"):
        inspect_file(tmp_path / "no.onnx")
