"""The TensorRT plugin: all that TensorRT does with one, by a harness in C++, and its pixels.

Nothing of TensorRT but its headers is needed. The plugin is built twice: its sources and its kernels for the processor,
with sanitizers, and the library itself as users build it.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import dartblur_ops as ops

ROOT = Path(__file__).parents[2]
PLUGIN, TESTS = ROOT / "cpp_ext/csrc/tensorrt", ROOT / "tests/cpp_ext/tensorrt"
HEADERS = os.environ.get("TENSORRT_INCLUDE_DIR", "")

needs_tensorrt = pytest.mark.skipif(not HEADERS, reason="TENSORRT_INCLUDE_DIR (TensorRT's headers) is not set")
needs_cmake = pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed")


@dataclass(frozen=True)
class Programs:
    """A library of the plugin, and the programs that load it."""

    library: Path
    harness: Path
    compose: Path


def compile_all(commands: Iterable[list[str | Path]]) -> None:
    """At once, since each takes seconds."""
    processes = [subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE) for command in commands]
    errors = [process.communicate()[1].decode() for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(errors)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """For the processor, under sanitizers: a step beyond any memory ends the program."""
    folder = tmp_path_factory.mktemp("emulated")
    made = Programs(folder / "libplugin.so", folder / "harness", folder / "compose")
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fsanitize=address,undefined"]
    places = [ROOT / "cpp_ext/csrc", TESTS / "emulation", ROOT / "tests/cpp_ext/cuda_emulation"]
    flags += ["-fno-sanitize-recover=all", *(f"-I{place}" for place in places), "-isystem", HEADERS]
    parts = [PLUGIN / f"{part}.cpp" for part in ("library", "plugin", "report", "settings", "shapes")]
    sources = [*parts, PLUGIN / "device.cu", ROOT / "cpp_ext/csrc/cuda/ops.cu"]
    exports = f"-Wl,--version-script={PLUGIN / 'exports.map'}"
    compile_all(
        [
            ["g++", *flags, "-fPIC", "-shared", exports, "-x", "c++", *sources, "-o", made.library],
            ["g++", *flags, TESTS / "harness.cpp", "-o", made.harness, "-ldl"],
            ["g++", *flags, TESTS / "compose.cpp", "-o", made.compose, "-ldl"],
        ]
    )
    return made


@pytest.fixture(scope="module")
def built(emulated: Programs, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """The library as users build it, but for one compute capability alone."""
    if not (shutil.which("nvcc") and shutil.which("cmake")):
        pytest.skip("the CUDA toolkit's nvcc or cmake is not installed")
    folder = tmp_path_factory.mktemp("built")
    options = [f"-DTENSORRT_INCLUDE_DIR={HEADERS}", f"-DCMAKE_CUDA_ARCHITECTURES={gpu_architecture() or 87}"]
    subprocess.run(["cmake", "-S", PLUGIN, "-B", folder, *options], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", folder, "--parallel", "2"], check=True, capture_output=True)
    return Programs(folder / "libdartblur_trt.so", emulated.harness, emulated.compose)


def gpu_architecture() -> str | None:
    """Compute capability of the GPU that is here, as 87 for 8.7."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader", "--id=0"]
    said = subprocess.run(command, capture_output=True, text=True)
    return said.stdout.strip().replace(".", "") if said.returncode == 0 else None


@dataclass(frozen=True)
class Scene:
    """What the plugin gets, and its attributes."""

    frames: NDArray[np.floating]
    patches: NDArray[np.floating]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    threshold: float
    box_scale: float
    context: float

    def to_bytes(self) -> bytes:
        count, height, width, _ = self.frames.shape
        slots, side = self.patches.shape[1], self.patches.shape[-1]
        margin = ops.patch_margin(side, self.context)
        half = [array.dtype == np.float16 for array in (self.frames, self.patches)]
        header = struct.pack("8i", count, height, width, slots, side, margin, *half)
        header += struct.pack("3f", self.threshold, self.box_scale, self.context)
        return header + b"".join(a.tobytes() for a in (self.frames, self.patches, self.boxes, self.scores))

    def expected(self) -> NDArray[np.uint8]:
        """By the operation on the processor, one slot after the other."""
        frames = self.frames.astype(np.uint8)
        height, width = frames.shape[1:3]
        for n, slot in np.ndindex(self.scores.shape):
            if self.scores[n, slot] < np.float32(self.threshold):
                continue
            box = self.boxes[n, slot]
            if not np.isfinite(box).all():
                box = np.array([0, 0, width, height], np.float32)
            elif self.box_scale != 1:
                box = np.clip(box, -(2.0**20), 2.0**20).astype(np.float32)
                centre = (box[:2] + box[2:]) * np.float32(0.5)
                half = (box[2:] - box[:2]) * np.float32(0.5) * np.float32(self.box_scale)
                box = np.concatenate([centre - half, centre + half])
            patch = self.patches[n, slot : slot + 1].astype(np.float32)
            ops.composite(frames[n], patch, box[None], self.context)
        return frames


def scene(
    seed: int,
    size: tuple[int, int, int] = (2, 37, 53),
    slots: int = 5,
    pixel: type = np.float32,
    paint: type = np.float32,
) -> Scene:
    """Overlapping faces of all sizes, some over the border, some empty, some whose score is too low."""
    random = np.random.default_rng(seed)
    count, height, width = size
    centre = random.uniform(-0.1, 1.1, (count, slots, 2)) * (width, height)
    half = random.uniform(-0.05, 0.4, (count, slots, 2)) * (width, height)
    return Scene(
        frames=random.integers(0, 256, (count, height, width, 3)).astype(pixel),
        patches=random.uniform(-0.2, 1.2, (count, slots, 3, 16, 16)).astype(paint),
        boxes=np.concatenate([centre - half, centre + half], 2).astype(np.float32),
        scores=random.choice([0.1, 0.4, 0.9], (count, slots)).astype(np.float32),
        threshold=0.4,
        box_scale=random.choice([1.0, 1.15, 1.5]),
        context=1.6,
    )


def composed(programs: Programs, scene: Scene, **environment: str) -> NDArray[np.floating]:
    run = subprocess.run(
        [programs.compose, programs.library], input=scene.to_bytes(), capture_output=True, env=os.environ | environment
    )
    assert run.returncode == 0, run.stderr.decode()
    return np.frombuffer(run.stdout, scene.frames.dtype).reshape(scene.frames.shape)


@needs_tensorrt
def test_harness_finds_nothing_wrong_with_the_sources(emulated: Programs) -> None:
    run = subprocess.run([emulated.harness, emulated.library], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "0 failures\n"), run.stderr


@needs_tensorrt
def test_harness_finds_nothing_wrong_with_the_library(built: Programs) -> None:
    run = subprocess.run([built.harness, built.library], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "0 failures\n"), run.stderr


@needs_tensorrt
def test_library_shows_its_entry_points_alone(built: Programs) -> None:
    """So that it lives beside other plugins and another CUDA runtime; and it loads without TensorRT."""
    symbols = subprocess.run(["nm", "-D", "--defined-only", built.library], capture_output=True, text=True, check=True)
    assert sorted(line.split()[-1] for line in symbols.stdout.splitlines()) == ["getCreators", "setLoggerFinder"]
    needed = subprocess.run(["objdump", "-p", built.library], capture_output=True, text=True, check=True).stdout
    assert not [line for line in needed.splitlines() if "NEEDED" in line and ("nvinfer" in line or "cuda" in line)]


@needs_tensorrt
def test_other_library_registers_the_plugin_when_loaded(built: Programs, tmp_path: Path) -> None:
    load, headers = tmp_path / "load", ROOT / "tests/cpp_ext"
    places = [f"-I{headers / 'tensorrt/emulation'}", f"-I{headers / 'cuda_emulation'}", "-isystem", HEADERS]
    compile_all([["g++", "-std=c++17", "-rdynamic", *places, headers / "tensorrt/load.cpp", "-o", load, "-ldl"]])
    said = {}
    for name in ("libdartblur_trt.so", "libdartblur_trt_registered.so"):
        run = subprocess.run([load, built.library.with_name(name)], capture_output=True, text=True, check=True)
        said[name] = (run.stdout, run.stderr)
    assert said["libdartblur_trt.so"] == ("asked 0 times\n", "")
    assert said["libdartblur_trt_registered.so"][0] == "asked 1 times\n"
    assert "TensorRT did not register the plugin" in said["libdartblur_trt_registered.so"][1]


@needs_tensorrt
@pytest.mark.parametrize("pixel", [np.float32, np.float16])
@pytest.mark.parametrize("paint", [np.float32, np.float16])
@pytest.mark.parametrize("seed", range(3))
def test_pixels_are_those_of_the_processor(emulated: Programs, pixel: type, paint: type, seed: int) -> None:
    given = scene(seed, pixel=pixel, paint=paint)
    expected = given.expected()
    assert (expected != given.frames).any()
    np.testing.assert_array_equal(composed(emulated, given), expected)


@needs_tensorrt
@pytest.mark.parametrize("order", ["backward", "shuffled"])
def test_pixels_do_not_depend_on_the_order_of_threads(emulated: Programs, order: str) -> None:
    given = scene(4, slots=9)
    np.testing.assert_array_equal(composed(emulated, given, DARTBLUR_EMULATION_ORDER=order), given.expected())


@needs_tensorrt
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 7), (1, 40, 4)])
def test_all_sizes(emulated: Programs, size: tuple[int, int, int]) -> None:
    """Bytes in all, and in a row, that no word divides."""
    given = scene(5, size)
    np.testing.assert_array_equal(composed(emulated, given), given.expected())


@needs_tensorrt
def test_what_is_in_doubt_is_hidden(emulated: Programs) -> None:
    given = scene(6, (3, 20, 30), slots=2)
    given.scores[:] = 0
    given.scores[0, 1] = given.scores[1, 1] = np.nan
    given.boxes[0, 1] = [3, 4, 10, 12]
    given.boxes[1, 1] = [3, np.nan, 10, 12]
    given.patches[:, :, 0] = np.nan
    pixels = composed(emulated, given)
    np.testing.assert_array_equal(pixels, given.expected())
    changed = (pixels != given.frames).any(3)
    assert changed[0, 4:12, 3:10].all()
    assert changed[1].mean() > 0.98, "the whole frame"
    assert not changed[2].any()
    # NaN is painted black, which is what the blue plane of these patches is.
    assert (pixels[1, ..., 0] == 0).all()


@needs_tensorrt
def test_grey_levels_outside_of_a_byte_do_not_wrap(emulated: Programs) -> None:
    given = scene(7, (1, 2, 2), slots=1)
    given.scores[:] = 0
    given.frames.reshape(-1)[:6] = [-5, 300, np.nan, 12.4, 12.6, np.inf]
    assert composed(emulated, given).reshape(-1)[:6].tolist() == [0, 255, 0, 12, 13, 255]


@needs_tensorrt
@pytest.mark.skipif(gpu_architecture() is not None, reason="there is a GPU")
def test_without_a_gpu_the_plugin_fails_aloud(built: Programs) -> None:
    """An engine then stops, instead of handing on a clear frame."""
    run = subprocess.run([built.compose, built.library], input=scene(0).to_bytes(), capture_output=True)
    assert run.returncode == 1
    assert run.stdout == b""
    assert b"DartBlurComposite: " in run.stderr


@needs_tensorrt
@pytest.mark.skipif(gpu_architecture() is None, reason="there is no GPU")
@pytest.mark.parametrize("pixel", [np.float32, np.float16])
@pytest.mark.parametrize("paint", [np.float32, np.float16])
def test_pixels_on_a_gpu_are_those_of_the_processor(built: Programs, tmp_path: Path, pixel: type, paint: type) -> None:
    compose = tmp_path / "compose"
    flags = ["-std=c++17", "-DDARTBLUR_GPU", "-isystem", HEADERS, "-x", "cu", "-ldl"]
    compile_all([["nvcc", *flags, TESTS / "compose.cpp", "-o", compose]])
    on_gpu = Programs(built.library, built.harness, compose)
    for seed in range(3):
        given = scene(seed, (2, 211, 307), slots=20, pixel=pixel, paint=paint)
        np.testing.assert_array_equal(composed(on_gpu, given), given.expected())


@needs_cmake
@pytest.mark.parametrize(
    ("version", "reason"),
    [(None, "expected the folder of NvInferRuntime.h"), ("10 2", "expected headers of TensorRT 10.3 or later")],
)
def test_building_needs_the_headers_of_tensorrt(tmp_path: Path, version: str | None, reason: str) -> None:
    headers = tmp_path / "include"
    headers.mkdir()
    if version:
        (headers / "NvInferRuntime.h").touch()
        major, minor = version.split()
        (headers / "NvInferVersion.h").write_text(
            f"#define NV_TENSORRT_MAJOR {major} //!< major\n#define NV_TENSORRT_MINOR {minor} //!< minor\n"
        )
    command = ["cmake", "-S", PLUGIN, "-B", tmp_path / "build", f"-DTENSORRT_INCLUDE_DIR={headers}"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode != 0
    assert reason in " ".join(run.stderr.split())
