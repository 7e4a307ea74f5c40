from __future__ import annotations

import json
import shlex
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dartblur import BackendError, Bundle, BundleError, load_bundle
from dartblur.bundle import default_bundle, sha256
from dartblur.errors import SinkError
from dartblur.passport import (
    Passport,
    bundle_sha256,
    parse_passport,
    passport_path,
    preflight,
    read_passport,
    record_parity,
    write_passport,
)

DATA = b"an engine" * 100
HERE = {"trt_version": "10.3.0", "sm": "8.7"}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture
def passport(bundle: Bundle) -> Passport:
    return Passport(
        engine_sha256=sha256(DATA),
        engine_bytes=len(DATA),
        bundle_sha256=bundle_sha256(bundle),
        model=bundle.manifest.name,
        model_version=bundle.manifest.version,
        target="tensorrt",
        trt_version="10.3.0",
        cuda_version="12.6",
        sm=("8.7",),
        device="orin-nano",
        gpu="Orin",
        precision="fp16",
        frame=(1280, 720),
        batch=2,
        slots=32,
        held=16,
        patch_size=64,
        patch_context=1.6,
        box_scale=1.2,
        threshold=0.35,
        created="2026-11-21T12:00:00+00:00",
        options={"workspace_mb": 512},
    )


@pytest.fixture
def engine(passport: Passport, tmp_path: Path) -> Path:
    path = tmp_path / "my.engine"
    path.write_bytes(DATA)
    write_passport(path, passport)
    return path


def command(error: pytest.ExceptionInfo[Exception]) -> list[str]:
    """The words of the command that the message tells to run."""
    return shlex.split(str(error.value).rpartition("run: ")[2])


def test_a_sound_engine_passes(engine: Path, bundle: Bundle, passport: Passport) -> None:
    assert preflight(engine, bundle, **HERE) == passport
    assert preflight(engine, **HERE, frame=(1280, 720), batch=2) == passport
    assert passport.inputs()["frames"] == ("uint8", (2, 720, 1280, 3))
    assert passport.outputs()["patches"] == ("float16", (2, 48, 3, 64, 64))


@pytest.mark.parametrize(
    ("here", "told", "target", "device"),
    [
        ({"sm": "11.0"}, "SM 8.7 / TensorRT 10.3.0, this is SM 11.0 / TensorRT 10.3.0", "tensorrt", "auto"),
        ({"trt_version": "10.16.2"}, "10.3.0, this is SM 8.7 / TensorRT 10.16.2", "tensorrt", "orin-nano"),
        ({"target": "tensorrt-rtx"}, "this is SM 8.7 / TensorRT-RTX 10.3.0", "tensorrt-rtx", "auto"),
    ],
)
def test_another_gpu_or_library(
    engine: Path, bundle: Bundle, here: dict[str, str], told: str, target: str, device: str
) -> None:
    with pytest.raises(BackendError, match=told) as error:
        preflight(engine, bundle, **{**HERE, **here})
    size = ["--frame", "1280x720", "--batch", "2"]
    assert command(error) == [
        *("dartblur", "build", "--target", target, "--device", device, "--precision", "fp16"),
        *size,
        *("--out", str(engine), "--overwrite"),
    ]


def test_an_engine_ahead_of_time_runs_on_each_of_its_gpus(engine: Path, passport: Passport) -> None:
    write_passport(engine, replace(passport, target="tensorrt-rtx", trt_version="1.7.1", sm=("8.6", "12.0")))
    for sm in ("8.6", "12.0"):
        preflight(engine, target="tensorrt-rtx", trt_version="1.7.1", sm=sm)
    with pytest.raises(BackendError, match=r"built for SM 8.6 12.0") as error:
        preflight(engine, target="tensorrt-rtx", trt_version="1.7.1", sm="7.5")
    # Ahead of time it would be built for the same GPUs again.
    assert command(error)[2:6] == ["--target", "tensorrt", "--device", "auto"]


@pytest.mark.parametrize(
    ("size", "told"), [({"frame": (1920, 1080)}, "1920x1080 by 2"), ({"batch": 4}, "1280x720 by 4")]
)
def test_another_frame_size(engine: Path, size: dict[str, Any], told: str) -> None:
    with pytest.raises(BackendError, match=f"built for frames of 1280x720 by 2, these are frames of {told}") as error:
        preflight(engine, **HERE, **size)
    frame, _, batch = told.partition(" by ")
    assert command(error)[8:12] == ["--frame", frame, "--batch", batch]


def test_a_truncated_or_changed_engine(engine: Path) -> None:
    engine.write_bytes(DATA[:-1])
    with pytest.raises(BundleError, match=r"my.engine: truncated: expected 900 bytes, got 899: .*run: dartblur build"):
        preflight(engine, **HERE)
    engine.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(BundleError, match="damaged: expected sha256"):
        preflight(engine, **HERE)
    engine.write_bytes(DATA + b"!")
    with pytest.raises(BundleError, match="not the file that was built"):
        preflight(engine, **HERE)
    engine.unlink()
    with pytest.raises(BundleError, match="expected an engine file, nothing is there") as error:
        preflight(engine, **HERE)
    assert command(error) == ["dartblur", "build", "--target", "tensorrt", "--device", "auto", "--out", str(engine)]


def test_a_missing_passport(engine: Path) -> None:
    passport_path(engine).unlink()
    with pytest.raises(BundleError, match="expected the engine's passport, nothing is there: copy it") as error:
        preflight(engine, **HERE, frame=(640, 480))
    expected = "dartblur build --target tensorrt --device auto --frame 640x480"
    assert command(error) == [*expected.split(), "--out", str(engine), "--overwrite"]


@pytest.mark.parametrize(
    ("field", "value"), [("sm", ["11.0"]), ("trt_version", "11.4"), ("threshold", 0.9), ("new", 1)]
)
def test_an_edited_passport(engine: Path, field: str, value: object) -> None:
    path = passport_path(engine)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(BundleError, match="was edited or damaged since it was written") as error:
        preflight(engine, **HERE)
    assert command(error)[:2] == ["dartblur", "build"]


def test_a_passport_without_a_seal(engine: Path) -> None:
    path = passport_path(engine)
    values = json.loads(path.read_text())
    del values["passport_sha256"]
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match="was edited"):
        preflight(engine, **HERE)


def test_a_passport_from_the_future(engine: Path, passport: Passport) -> None:
    write_passport(engine, replace(passport, schema_version=2))
    with pytest.raises(BundleError, match="expected passport schema 1, got 2: update dartblur-edge"):
        preflight(engine, **HERE)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"null", b'{"schema_version": 1}', b"\xff\xfe"])
def test_garbage_is_no_passport(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        parse_passport(text, tmp_path)


def test_a_sealed_passport_that_lacks_a_field(engine: Path, passport: Passport) -> None:
    values = json.loads(passport.to_json())
    del values["slots"], values["passport_sha256"]
    values["passport_sha256"] = sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(BundleError, match="lacks a field"):
        parse_passport(json.dumps(values).encode(), engine)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_every_change_of_a_byte_is_noticed(passport: Passport, data: st.DataObject) -> None:
    text = bytearray(passport.to_json().encode())
    place = data.draw(st.integers(0, len(text) - 1))
    old = text[place]
    text[place] = data.draw(st.integers(0, 255).filter(lambda new: new != old))
    try:
        read = parse_passport(bytes(text), Path("x"))
    except BundleError:
        return
    # White space may change; what the passport says may not.
    assert read == passport


def test_an_engine_of_another_bundle(engine: Path, tmp_path: Path) -> None:
    shutil.copytree(default_bundle(), tmp_path / "other model")
    manifest = json.loads((tmp_path / "other model" / "manifest.json").read_text())
    (tmp_path / "other model" / "manifest.json").write_text(json.dumps(manifest | {"version": "99"}))
    other = load_bundle(tmp_path / "other model")
    with pytest.raises(BundleError, match="this bundle is dartblur-small 99") as error:
        preflight(engine, other, **HERE)
    assert command(error)[2] == str(tmp_path / "other model")


def test_a_bundle_from_the_future(engine: Path, tmp_path: Path) -> None:
    shutil.copytree(default_bundle(), tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 2}))
    with pytest.raises(BundleError, match="expected bundle schema 1, got 2: update dartblur-edge"):
        load_bundle(tmp_path / "model")


def test_a_bundle_that_is_not_at_hand_is_named(engine: Path, passport: Passport) -> None:
    write_passport(engine, replace(passport, bundle_sha256="0" * 64, model="m", model_version="3"))
    with pytest.raises(BackendError) as error:
        preflight(engine, trt_version="10.3.0", sm="11.0")
    assert command(error)[2] == "BUNDLE-OF-m-3"


def test_a_zip_is_as_good_as_a_folder(bundle: Bundle, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for part in default_bundle().iterdir():
            archive.write(part, part.name)
    assert bundle_sha256(load_bundle(tmp_path / "model.zip")) == bundle_sha256(bundle)


def test_parity_is_recorded(engine: Path) -> None:
    record_parity(engine, "cpu", {"boxes": 0.1})
    record_parity(engine, "fused", {"boxes": 0.2})
    assert read_passport(engine).parity == {"cpu": {"boxes": 0.1}, "fused": {"boxes": 0.2}}
    preflight(engine, **HERE)
    assert sorted(path.name for path in engine.parent.iterdir()) == ["my.engine", "my.engine.json"]


def test_a_passport_that_cannot_be_written(passport: Passport, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="can't be written"):
        write_passport(tmp_path / "none" / "my.engine", passport)
