from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

import dartblur_export.devices as devices
from dartblur.errors import BackendError, InputError
from dartblur_export.devices import PROFILES, Gpu, find_profile, present_gpu

ORIN = Gpu("Orin", "8.7", 8 << 30, "12.6")


@pytest.fixture
def product(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def named(name: str) -> None:
        (tmp_path / "model").write_bytes(name.encode() + b"\0")
        monkeypatch.setattr(devices, "_MODEL_FILE", tmp_path / "model")

    return named


def test_every_profile_says_what_a_build_needs() -> None:
    assert set(PROFILES) == {"orin-nano", "orin-nx", "agx-orin", "thor", "desktop"}
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert profile.sms
        assert set(profile.rtx_sms) <= set(profile.sms)
        # GPU and CPU share the memory of a Jetson: what building may take leaves room for all else.
        assert all(profile.workspace_mb <= 1024 * size / 4 for size in profile.memory_gb)
        for jetpack in profile.jetpacks:
            major, minor = (int(part) for part in jetpack.tensorrt.split(".")[:2])
            assert (major, minor) >= (10, 3), "older ones don't take the strongly typed graph"
    assert all(PROFILES[name].jetpacks and not PROFILES[name].rtx_sms for name in set(PROFILES) - {"desktop"})
    assert PROFILES["desktop"].rtx_sms == ("8.6", "8.9", "12.0")


@pytest.mark.parametrize(
    ("name", "gpu", "expected"),
    [
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", ORIN, "orin-nano"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", ORIN, "orin-nx"),
        ("NVIDIA Jetson AGX Orin Developer Kit", ORIN, "agx-orin"),
        ("NVIDIA Jetson AGX Thor Developer Kit", Gpu("Thor", "11.0", 128 << 30, "13.0"), "thor"),
        ("Some Carrier Board", ORIN, "orin-nano"),
        ("Some Carrier Board", Gpu("Thor", "11.0", 64 << 30, "13.0"), "thor"),
        ("", Gpu("NVIDIA GeForce RTX 4090", "8.9", 24 << 30, "13.2"), "desktop"),
    ],
)
def test_auto_is_this_machine(product: Any, name: str, gpu: Gpu, expected: str) -> None:
    product(name)
    assert find_profile("auto", "tensorrt", gpu).name == expected


def test_auto_ahead_of_time_is_a_pc() -> None:
    assert find_profile("auto", "tensorrt-rtx", None).name == "desktop"


def test_what_no_profile_is_for(product: Any) -> None:
    product("")
    with pytest.raises(InputError, match=r"--device: expected auto, orin-nano, .*, got 'xavier'"):
        find_profile("xavier", "tensorrt", ORIN)
    with pytest.raises(BackendError, match=r"none is found .*--target tensorrt-rtx --device desktop"):
        find_profile("auto", "tensorrt", None)
    with pytest.raises(BackendError, match=r"expected a GPU with SM 8.0, 8.6, .*, got Tesla P100 with SM 6.0"):
        find_profile("auto", "tensorrt", Gpu("Tesla P100", "6.0", 16 << 30, "12.4"))


class FakeDriver:
    """The calls of libcuda that are made, answered for an Orin Nano."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name == self.fails:
                return 100  # CUDA_ERROR_NO_DEVICE
            if name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 8, 76: 7}[arguments[1]]
            elif name == "cuDeviceGetName":
                arguments[0].value = b"Orin"
            elif name == "cuDeviceTotalMem_v2":
                arguments[0]._obj.value = 8 << 30
            elif name == "cuDriverGetVersion":
                arguments[0]._obj.value = 12060
            else:
                assert name in ("cuInit", "cuDeviceGet")
            return 0

        return call


def test_the_gpu_is_asked_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver())
    assert present_gpu() == ORIN


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDeviceTotalMem_v2"])
def test_a_driver_without_a_gpu(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(call))
    assert present_gpu() is None


def test_no_driver_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert present_gpu() is None
