"""Device profiles: what an engine is built for, and which GPU is here.

Sources of the facts (read in November 2026; TensorRT and cuDNN of a JetPack are also the versions of the recipes in
OE4T/meta-tegra, ``recipes-devtools/gie`` and ``recipes-devtools/cudnn``):

* compute capabilities: https://developer.nvidia.com/cuda-gpus
* JetPack 6.2.1: https://docs.nvidia.com/jetson/jetpack/introduction
* JetPack 7.0 and 7.1: https://developer.nvidia.com/embedded/jetpack/downloads/archive-7.1.md
* JetPack 7.2, for Orin and Thor: https://github.com/OE4T/meta-tegra/pull/2224
* TensorRT-RTX targets: https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html

Frame sizes and workspace caps are choices of this project, and not measured on a device.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dartblur.errors import BackendError, InputError

_MODEL_FILE = Path("/proc/device-tree/model")
"""Product name of a Jetson, such as ``NVIDIA Jetson AGX Orin Developer Kit``."""

_MAJOR, _MINOR = 75, 76
"""``CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*`` of the CUDA driver API."""


@dataclass(frozen=True, slots=True)
class JetPack:
    """Versions that come together on a Jetson.

    Attributes:
        version: of JetPack.
        linux: of Jetson Linux (L4T).
        tensorrt, cuda, cudnn: versions of the libraries.
    """

    version: str
    linux: str
    tensorrt: str
    cuda: str
    cudnn: str


JETPACK_6 = (
    JetPack("6.1", "36.4", "10.3.0.30", "12.6", "9.3.0.75"),
    JetPack("6.2.1", "36.4.4", "10.3.0.30", "12.6", "9.3.0.75"),
)
JETPACK_7_THOR = (
    JetPack("7.0", "38.2", "10.13", "13.0", "9.12.0.46"),
    JetPack("7.1", "38.4", "10.13.3.9", "13.0", "9.12.0.46"),
)
JETPACK_7 = (JetPack("7.2", "39.2", "10.16.2.10", "13.2", "9.20.0.46"),)


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What a build takes for granted about a device.

    Attributes:
        name: of the profile.
        title: for people.
        sms: compute capabilities of its GPUs.
        memory_gb: sizes that it is sold with; on a Jetson, GPU and CPU share it. Empty: any.
        frame: width and height that are built for unless told otherwise, pixels.
        workspace_mb: most scratch memory that building and running may use.
        jetpacks: that it runs with, oldest first; none on a PC.
        rtx_sms: compute capabilities that TensorRT-RTX builds for ahead of time; none where it doesn't run.
    """

    name: str
    title: str
    sms: tuple[str, ...]
    memory_gb: tuple[int, ...]
    frame: tuple[int, int]
    workspace_mb: int
    jetpacks: tuple[JetPack, ...] = ()
    rtx_sms: tuple[str, ...] = ()


PROFILES = {
    profile.name: profile
    for profile in (
        DeviceProfile("orin-nano", "Jetson Orin Nano", ("8.7",), (4, 8), (1280, 720), 512, JETPACK_6 + JETPACK_7),
        DeviceProfile("orin-nx", "Jetson Orin NX", ("8.7",), (8, 16), (1280, 720), 1024, JETPACK_6 + JETPACK_7),
        DeviceProfile("agx-orin", "Jetson AGX Orin", ("8.7",), (32, 64), (1920, 1080), 2048, JETPACK_6 + JETPACK_7),
        DeviceProfile("thor", "Jetson Thor", ("11.0",), (64, 128), (1920, 1080), 4096, JETPACK_7_THOR + JETPACK_7),
        DeviceProfile(
            "desktop",
            "PC or server with an NVIDIA GPU",
            ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0"),
            (),
            (1920, 1080),
            2048,
            rtx_sms=("8.6", "8.9", "12.0"),
        ),
    )
}

_JETSONS = {"Orin Nano": "orin-nano", "Orin NX": "orin-nx", "AGX Orin": "agx-orin", "Thor": "thor"}
"""Profiles by what stands in the product name; NVIDIA's carrier boards keep the name of the module."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first GPU of this machine.

    Attributes:
        name: product name.
        sm: compute capability, like ``8.7``.
        memory_bytes: that it can use.
        cuda_version: highest that the driver supports, like ``12.6``.
    """

    name: str
    sm: str
    memory_bytes: int
    cuda_version: str


def find_profile(name: str, target: str, gpu: Gpu | None) -> DeviceProfile:
    """The profile of this name; ``auto`` is that of this machine, or ``desktop`` for TensorRT-RTX.

    Raises:
        InputError: no profile has this name.
        BackendError: this machine has no GPU, or one that no profile is for.
    """
    if name == "auto":
        return PROFILES["desktop"] if target == "tensorrt-rtx" else _own_profile(gpu)
    if name not in PROFILES:
        raise InputError(f"--device: expected auto, {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[name]


def _own_profile(gpu: Gpu | None) -> DeviceProfile:
    if gpu is None:
        raise BackendError(
            "--device auto: expected a GPU of NVIDIA, none is found (the driver's libcuda.so.1 finds no device): run "
            "this on the device, or build for a PC elsewhere with --target tensorrt-rtx --device desktop"
        )
    product = product_name()
    named = [PROFILES[name] for words, name in _JETSONS.items() if words in product]
    # A board that goes by another name gets the smallest profile of its GPU.
    for profile in (*named, *PROFILES.values()):
        if gpu.sm in profile.sms:
            return profile
    known = sorted({sm for profile in PROFILES.values() for sm in profile.sms}, key=float)
    raise BackendError(
        f"--device auto: expected a GPU with SM {', '.join(known)}, got {product or gpu.name} with SM {gpu.sm}: use "
        "'dartblur run' on its CPU"
    )


def product_name() -> str:
    """What a Jetson calls itself; empty elsewhere."""
    try:
        return _MODEL_FILE.read_text(errors="replace").rstrip("\0\n")
    except OSError:
        return ""


def present_gpu() -> Gpu | None:
    """The first GPU, asked of the CUDA driver itself, so that no further package is needed; None: there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor, version = (ctypes.c_int() for _ in range(4))
    memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(256)
    calls: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("cuInit", (0,)),
        ("cuDeviceGet", (ctypes.byref(device), 0)),
        ("cuDeviceGetAttribute", (ctypes.byref(major), _MAJOR, device)),
        ("cuDeviceGetAttribute", (ctypes.byref(minor), _MINOR, device)),
        ("cuDeviceGetName", (name, len(name), device)),
        ("cuDeviceTotalMem_v2", (ctypes.byref(memory), device)),
        ("cuDriverGetVersion", (ctypes.byref(version),)),
    )
    if any(getattr(cuda, function)(*arguments) != 0 for function, arguments in calls):
        return None
    return Gpu(
        name.value.decode(errors="replace"),
        f"{major.value}.{minor.value}",
        memory.value,
        f"{version.value // 1000}.{version.value % 1000 // 10}",
    )
