"""The TensorRT backend on a simulated GPU: what it does to pixels, streams and memory."""

from __future__ import annotations

import gc
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dartblur import Anonymizer, BackendError, BundleError, FailClosedError, FrameError
from dartblur.anonymizer import METHODS, Pending
from dartblur.backends import pycuda_device
from dartblur.backends.base import Defaults
from dartblur.backends.fused import Layout
from dartblur.backends.fused_cpu import FusedCpuBackend
from dartblur.backends.trt import TensorRtBackend
from dartblur.backends.trt_engine import Engine, library
from dartblur.detections import Detections
from dartblur.frame import Frame
from dartblur.passport import Passport, file_sha256, passport_path, write_passport
from dartblur.protection.policy import Protection
from dartblur.stream import Sink, Source, SourceInfo, run

_spec = importlib.util.spec_from_file_location("gpu_simulator", Path(__file__).with_name("gpu_simulator.py"))
assert _spec is not None
assert _spec.loader is not None
sim = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sim)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine file that the simulated TensorRT takes, with its passport."""
    path = tmp_path / "model.engine"
    path.write_bytes(b"engine")
    write_passport(path, passport(path))
    return path


def passport(path: Path, **changes: Any) -> Passport:
    values = {
        "engine_sha256": file_sha256(path),
        "engine_bytes": path.stat().st_size,
        "bundle_sha256": "0" * 64,
        "model": "fake",
        "model_version": "7",
        "target": "tensorrt",
        "trt_version": "10.3.0",
        "cuda_version": "12.6",
        "sm": ("8.7",),
        "device": "orin-nano",
        "gpu": "Simulated",
        "precision": "fp32",
        "frame": (sim.WIDTH, sim.HEIGHT),
        "batch": 1,
        "slots": sim.SLOTS,
        "held": sim.HELD,
        "patch_size": sim.PATCH,
        "patch_context": sim.CONTEXT,
        "box_scale": sim.SCALE,
        "threshold": 0.35,
        "created": "2026-11-01T00:00:00Z",
    }
    return Passport(**values | changes)


class Session:
    """The simulated graph as a session of ONNX Runtime."""

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"shape": ["batch", "height", "width", 3]})]

    def run(self, outputs: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [output[None] for output in sim.graph(inputs["frames"][0], inputs["held_boxes"][0])]


def on_cpu() -> FusedCpuBackend:
    """The same model by the same way on the CPU: what is expected."""
    backend = FusedCpuBackend.__new__(FusedCpuBackend)
    backend.defaults, backend.model_name = Defaults(0.35, sim.SCALE), "fake 7"
    backend._layout = Layout(sim.SLOTS, sim.HELD, sim.PATCH, sim.CONTEXT, sim.SCALE)
    backend._session = Session()
    return backend


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    gpu = sim.Gpu()
    sim.install(monkeypatch, gpu, tensorrt=sim.tensorrt(gpu))
    yield gpu
    assert gpu.contexts == 0, "a context was left current"


def trt() -> Any:
    import sys

    return sys.modules["tensorrt"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("box_scale", [None, 1.0, 1.7])
@pytest.mark.parametrize("integrated", [False, True])
def test_pixels_are_those_of_the_cpu_whatever_the_order_of_streams(
    engine: Path, monkeypatch: pytest.MonkeyPatch, method: Any, box_scale: float | None, integrated: bool
) -> None:
    random = np.random.default_rng(3)
    reference = Anonymizer(backend=on_cpu(), method=method, box_scale=box_scale)
    for seed in range(4):
        gpu = sim.Gpu(seed, integrated)
        sim.install(monkeypatch, gpu, tensorrt=sim.tensorrt(gpu))
        with TensorRtBackend(engine, depth=3) as backend:
            anonymizer = Anonymizer(backend=backend, method=method, box_scale=box_scale)
            frames = [sim.picture(random, faces) for faces in (1, 3, 0, 2, 3, 1, 0)]
            results = in_flight(anonymizer, frames)
        for frame, result in zip(frames, results, strict=True):
            expected = reference(frame)
            assert np.array_equal(result.detections.boxes, expected.detections.boxes)
            assert np.array_equal(result.image, expected.image)
            assert len(expected.detections) == 0 or (expected.image != frame).any()


def in_flight(anonymizer: Anonymizer, frames: list[np.ndarray]) -> list[Any]:
    """All frames, as many as possible at once."""
    flying: list[Pending] = []
    results = []
    for frame in frames:
        flying.append(anonymizer.begin(frame))
        if len(flying) == anonymizer.depth:
            results.append(flying.pop(0).result())
    return results + [pending.result() for pending in flying]


def test_half_patches_are_composited_too(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = sim.Gpu()
    sim.install(monkeypatch, gpu, tensorrt=sim.tensorrt(gpu, half=True))
    frame = sim.picture(np.random.default_rng(0), 3)
    with TensorRtBackend(engine) as backend:
        image = Anonymizer(backend=backend)(frame).image
    expected = Anonymizer(backend=on_cpu())(frame).image
    assert np.abs(image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("box_scale", [None, 1.5])
def test_held_boxes_are_covered_found_or_not(engine: Path, gpu: Any, box_scale: float | None) -> None:
    """As many as the graph has room for, and more."""
    random = np.random.default_rng(5)
    for count in (1, sim.HELD, 2 * sim.HELD + 1):
        frame = sim.picture(random, 2)
        low = random.uniform(2, 40, (count, 2))
        held = np.concatenate([low, low + random.uniform(3, 20, (count, 2))], 1).astype(np.float32)
        with TensorRtBackend(engine) as backend:
            gpu.log.clear()
            result = Anonymizer(backend=backend, box_scale=box_scale).begin(frame, held=held).result()
        late = max(0, count - sim.HELD) + (2 if box_scale else 0)
        assert len(gpu.copies("graph")) == 1 + -(-late // sim.HELD), "no more runs than boxes without a patch ask for"
        expected = Anonymizer(backend=on_cpu(), box_scale=box_scale).begin(frame, held=held).result()
        assert len(result.detections) == 2
        assert np.array_equal(result.image, expected.image)
        for x0, y0, x1, y1 in np.round(held).astype(int):
            assert (result.image != frame).any(2)[y0:y1, x0:x1].mean() > 0.9


def test_a_callers_own_boxes_are_covered(engine: Path, gpu: Any) -> None:
    frame = sim.picture(np.random.default_rng(6), 2)
    boxes = np.array([[i * 9, i * 6, i * 9 + 12, i * 6 + 14] for i in range(9)], np.float32)
    faces = Detections(boxes, np.ones(len(boxes), np.float32))
    for method in METHODS:
        image, expected = frame.copy(), frame.copy()
        with TensorRtBackend(engine) as backend:
            Anonymizer(backend=backend, method=method).redact(image, faces)
        Anonymizer(backend=on_cpu(), method=method).redact(expected, faces)
        assert np.array_equal(image, expected), method


@pytest.mark.parametrize("kind", ["Array", "Tensor"])
@pytest.mark.parametrize("options", [{}, {"offset": 8}, {"stream": 1}, {"stream": 4711}])
def test_frames_in_gpu_memory_stay_there(engine: Path, gpu: Any, kind: str, options: dict[str, Any]) -> None:
    frame = sim.picture(np.random.default_rng(1), 3)
    with TensorRtBackend(engine) as backend:
        gpu.log.clear()
        array = getattr(sim, kind)(gpu, frame, **options)
        result = Anonymizer(backend=backend)(array, in_place=True)
        assert result.image is array
        assert np.array_equal(array.pixels, Anonymizer(backend=on_cpu())(frame).image)
        assert max(gpu.copies("upload") + gpu.copies("download")) < 1000, "boxes and scores only"
        # Only a frame that TensorRT can't take where it lies is copied, within the GPU.
        assert bool(gpu.copies("move")) == ("offset" in options)
        assert gpu.copies("synchronize") == ([0] if kind == "Array" and options.get("stream") == 4711 else [])
        copied = Anonymizer(backend=backend)(sim.Array(gpu, frame))
        assert np.array_equal(copied.image.pixels, array.pixels)


def test_a_dlpack_frame_without_the_cuda_interface(engine: Path, gpu: Any) -> None:
    frame = sim.picture(np.random.default_rng(1), 3)
    array = sim.Array(gpu, frame)
    gpu.drain()
    lying = gpu.view(array.address, frame.shape, "u1")

    class DlpackOnly:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

        def __dlpack__(self, *, stream: int) -> Any:
            return lying.__dlpack__()

    with TensorRtBackend(engine) as backend:
        Anonymizer(backend=backend)(DlpackOnly(), in_place=True)
    assert np.array_equal(lying, Anonymizer(backend=on_cpu())(frame).image)


def test_gpu_frames_that_can_not_be_taken_are_named(engine: Path, gpu: Any) -> None:
    frame = sim.picture(np.random.default_rng(1), 0)
    good = sim.Array(gpu, frame)

    def array(**changes: Any) -> Any:
        return type("A", (), {"__cuda_array_interface__": good.__cuda_array_interface__ | changes})()

    lying = gpu.view(good.address, frame.shape, "u1")
    elsewhere = type(
        "B", (), {"__dlpack_device__": lambda _: (2, 1), "__dlpack__": lambda _, stream: lying.__dlpack__()}
    )()
    with TensorRtBackend(engine, depth=1) as backend:
        anonymizer = Anonymizer(backend=backend)
        for bad, message in (
            (array(strides=(sim.WIDTH * 4, 3, 1)), f"contiguous.*{sim.WIDTH * 4}"),
            (array(typestr="<f4"), "uint8 BGR, got .*float32"),
            (array(shape=(3, sim.HEIGHT, sim.WIDTH)), r"\[H, W, 3\]"),
            (array(data=(good.address, True)), "read-only"),
            (array(shape=(4, 6, 3)), rf"expected frames of {sim.WIDTH}x{sim.HEIGHT}, got 6x4: .*dartblur build.*6x4"),
            (elsewhere, r"expected a frame on GPU 0, got one on GPU 1"),
        ):
            with pytest.raises(FrameError, match=message):
                anonymizer(bad, in_place=True)
        with pytest.raises(FrameError, match=r"can be copied, got A: pass in_place=True"):
            anonymizer(array())
        assert len(anonymizer(frame).detections) == 0, "none of them has kept the only place"
    with pytest.raises(FrameError, match="got a Array in GPU memory: this backend runs on the CPU"):
        Anonymizer(backend=on_cpu())(good)


def test_frames_overlap_and_only_covered_rows_come_back(engine: Path, gpu: Any) -> None:
    frame = sim.picture(np.random.default_rng(2), 0)
    frame[0, 0] = 30, 20, 10
    with TensorRtBackend(engine, depth=3) as backend:
        anonymizer = Anonymizer(backend=backend)
        gpu.log.clear()
        pending = [anonymizer.begin(frame) for _ in range(3)]
        begun = [name for name, *_ in gpu.log]
        assert begun.count("graph") == 3, "all three are on their way before anybody waits"
        assert len({stream for name, stream, _ in gpu.log if name == "graph"}) == 3, "each in a stream of its own"
        assert not any(name in begun for name in ("composite", "synchronize"))
        with pytest.raises(BackendError, match="at most 3 frames in flight"):
            anonymizer.begin(frame)
        gpu.log.clear()
        for one in pending:
            one.result()
        for stream in {stream for name, stream, _ in gpu.log if name == "composite"}:
            mine = [(name, size) for name, number, size in gpu.log if number == stream]
            assert [name for name, _ in mine] == ["upload", "composite", "download", "record"]
            # The face's 10 rows grown by 1.2, from 19 to 31.
            assert mine[2][1] == 12 * sim.WIDTH * 3
        gpu.log.clear()
        anonymizer(sim.picture(np.random.default_rng(2), 0))
        assert sum(gpu.copies("download")) < 1000, "no face, nothing to bring back"


def test_everything_is_freed(engine: Path, gpu: Any) -> None:
    backend = TensorRtBackend(engine)
    anonymizer = Anonymizer(backend=backend, box_scale=1.5)
    frame = sim.picture(np.random.default_rng(2), 3)
    anonymizer(frame)
    left = [anonymizer.begin(frame), anonymizer.begin(frame)]
    assert gpu.blocks
    assert gpu.objects
    backend.close()
    backend.close()
    gc.collect()
    assert not gpu.blocks
    with pytest.raises(BackendError, match="expected a frame in flight"):
        left[0].result()
    left.clear()
    gc.collect()
    assert gpu.objects == 0
    with pytest.raises(BackendError, match="closed"):
        anonymizer(frame)


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        (
            "load",
            r"model.engine: the engine can't be loaded: Serialization assertion stdVersionRead == kVERSION failed",
        ),
        ("context", "the engine has no room to run: TensorRT gave no reason"),
        ("run", "the engine failed to run: Cuda Runtime .an illegal memory access."),
        ("silent", "boxes or scores are not finite"),
        ("nan", "boxes or scores are not finite"),
    ],
)
def test_an_engine_that_fails_is_an_error_with_its_words(engine: Path, gpu: Any, failing: str, message: str) -> None:
    trt().failing = failing
    with pytest.raises(BackendError, match=message):
        TensorRtBackend(engine)
    gc.collect()
    assert not gpu.blocks, "nothing is kept"


@pytest.mark.parametrize("failing", ["run", "silent", "nan"])
def test_an_engine_that_fails_later_lets_no_frame_out(engine: Path, gpu: Any, failing: str) -> None:
    with TensorRtBackend(engine, depth=1) as backend:
        anonymizer = Anonymizer(backend=backend)
        frame = sim.picture(np.random.default_rng(2), 2)
        anonymizer(frame)
        trt().failing = failing
        with pytest.raises(BackendError):
            anonymizer(frame)
        trt().failing = None
        assert len(anonymizer(frame).detections) == 2, "the next frame finds its place free"


def test_more_faces_than_slots_fail_closed(engine: Path, gpu: Any) -> None:
    with TensorRtBackend(engine) as backend:
        frame = sim.picture(np.random.default_rng(2), sim.SLOTS)
        with pytest.raises(FailClosedError, match=f"fewer than {sim.SLOTS} faces in a frame"):
            Anonymizer(backend=backend)(frame)
        assert len(Anonymizer(backend=backend, threshold=0.65)(frame).detections) == sim.SLOTS - 1


def test_a_gpu_that_hangs_fails_closed_and_stays_out_of_use(engine: Path, gpu: Any) -> None:
    backend = TensorRtBackend(engine, timeout_s=0.05)
    frame = sim.picture(np.random.default_rng(2), 1)
    pending = Anonymizer(backend=backend).begin(frame)
    gpu.stuck = True
    kept = set(gpu.blocks)
    with pytest.raises(FailClosedError, match=r"within 0\.05 s"):
        pending.result()
    gpu.stuck = False
    with pytest.raises(BackendError, match="its GPU is lost"):
        Anonymizer(backend=backend)(frame)
    backend.close()
    assert set(gpu.blocks) == kept, "what the GPU may still write to isn't given to others"
    pycuda_device._leaked.clear()


def test_what_can_not_be_an_engine_here_is_refused_before_it_is_loaded(engine: Path, gpu: Any) -> None:
    trt().failing = "load"
    for changes, message in (
        ({"sm": ("8.6",)}, "built for SM 8.6.*this is SM 8.7.*dartblur build"),
        ({"trt_version": "10.7.0"}, "TensorRT 10.7.0, this is SM 8.7 / TensorRT 10.3.0"),
        ({"batch": 4}, "by 4, these are .* by 1: run: .*--batch 1"),
    ):
        write_passport(engine, passport(engine, **changes))
        with pytest.raises(BackendError, match=message):
            TensorRtBackend(engine)
    write_passport(engine, passport(engine))
    with pytest.raises(BackendError, match=r"frames of 96x72 by 1, these are frames of 640x480.*--frame 640x480"):
        TensorRtBackend(engine, frame=(640, 480))
    engine.write_bytes(b"engi")
    with pytest.raises(BundleError, match="truncated"):
        TensorRtBackend(engine)
    passport_path(engine).unlink()
    with pytest.raises(BundleError, match="passport"):
        TensorRtBackend(engine)


def test_what_is_missing_is_named(engine: Path, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module, message in (
        ("pycuda.driver", "PyCUDA can't be loaded .*pip install 'dartblur-edge"),
        ("tensorrt", "tensorrt can't be loaded .*JetPack"),
        ("dartblur_ops.cuda", "the CUDA operations can't be used"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
            with pytest.raises(BackendError, match=message):
                TensorRtBackend(engine)
    with pytest.raises(BackendError, match="expected GPU 1, this machine has 1"):
        TensorRtBackend(engine, device=1)


class Shelf(Sink):
    """Keeps what it gets."""

    def __init__(self) -> None:
        super().__init__("shelf")
        self.frames: list[Any] = []
        self.got = threading.Semaphore(0)

    def _write(self, frame: Any) -> None:
        self.frames.append(frame)
        self.got.release()

    def commit(self) -> None:
        pass

    def discard(self) -> None:
        pass


def test_a_cameras_frame_is_not_held_back_for_its_successor(engine: Path, gpu: Any) -> None:
    """The next one comes when this one has been written."""
    shelf = Shelf()

    class Camera(Source):
        info = SourceInfo("camera", sim.WIDTH, sim.HEIGHT, None, live=True)

        def __iter__(self) -> Iterator[Frame]:
            for index in range(5):
                yield Frame(sim.picture(np.random.default_rng(index), 1), index)
                assert shelf.got.acquire(timeout=10), f"frame {index} is held back"

    with TensorRtBackend(engine, depth=3) as backend, shelf:
        assert run(Camera(), Anonymizer(backend=backend), shelf).frames == 5


def test_the_pipeline_keeps_order_with_frames_in_flight(engine: Path, gpu: Any, left_threads: Any) -> None:
    random = np.random.default_rng(9)
    clear = [sim.picture(random, index % 3) for index in range(25)]

    class Pictures(Source):
        def __init__(self, fail: bool) -> None:
            super().__init__()
            self.info = SourceInfo("pictures", sim.WIDTH, sim.HEIGHT, len(clear))
            self.fail = fail

        def __iter__(self) -> Iterator[Frame]:
            for index, image in enumerate(clear):
                small = self.fail and index == 11
                yield Frame(np.zeros((4, 4, 3), np.uint8) if small else image.copy(), index)

    reference = Anonymizer(backend=on_cpu())
    with TensorRtBackend(engine, depth=3) as backend:
        with Shelf() as shelf:
            summary = run(Pictures(False), Anonymizer(backend=backend), shelf, protection=Protection.of_pictures())
        assert summary.frames == len(clear)
        assert [frame.index for frame in shelf.frames] == list(range(len(clear)))
        for frame, image in zip(shelf.frames, clear, strict=True):
            assert np.array_equal(frame.image, reference(image).image)
        failed = Shelf()
        with pytest.raises(FailClosedError, match=r"frame 11: .*expected frames of 96x72, got 4x4"), failed:
            run(Pictures(True), Anonymizer(backend=backend), failed, protection=Protection.of_pictures())
        assert [frame.index for frame in failed.frames] == list(range(len(failed.frames)))
        assert len(failed.frames) <= 11
        assert len(in_flight(Anonymizer(backend=backend), clear)) == len(clear), "no place was lost"
    assert not left_threads()


def test_the_real_library_says_what_is_no_engine(tmp_path: Path) -> None:
    """TensorRT-RTX can be asked without a GPU."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    path = tmp_path / "no.engine"
    path.write_bytes(b"not an engine" * 100)
    layout = Layout(sim.SLOTS, sim.HELD, sim.PATCH, sim.CONTEXT, sim.SCALE)
    with pytest.raises(BackendError, match=r"no.engine: the engine can't be loaded: .*[Ss]erializ"):
        Engine(library("tensorrt-rtx"), path, (sim.HEIGHT, sim.WIDTH), layout, None)  # type: ignore[arg-type]
