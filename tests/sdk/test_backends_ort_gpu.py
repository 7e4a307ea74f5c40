"""The GPU backend through ONNX Runtime, on a simulated GPU; the graph itself runs in the real ONNX Runtime's CPU."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dartblur import Anonymizer, BackendError, FailClosedError, FrameError, load_bundle
from dartblur.anonymizer import METHODS
from dartblur.backends.fused_cpu import FusedCpuBackend
from dartblur.backends.ort_gpu import OrtGpuBackend
from dartblur.bundle import Bundle
from dartblur.errors import InputError

_spec = importlib.util.spec_from_file_location("gpu_simulator", Path(__file__).with_name("gpu_simulator.py"))
assert _spec is not None
assert _spec.loader is not None
sim = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sim)


def onnxruntime(gpu: Any) -> ModuleType:
    """As much of onnxruntime-gpu as is used here. Its sessions run the simulator's graph in a stream of their own."""
    ort = ModuleType("onnxruntime")
    ort.__dict__.update(
        available=["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
        falls_back=False,
        failing="",
        shape=["batch", "height", "width", 3],
        sessions=[],
    )

    class OrtValue:
        """Copies are synchronous and in order with the default stream, as ``cudaMemcpy`` is."""

        def __init__(self, array: np.ndarray, how: str = "upload") -> None:
            self._address, self._like = gpu.alloc(array.nbytes), (array.shape, array.dtype)
            gpu.log.append((how, 0, array.nbytes))
            self.update(array)

        def update(self, array: np.ndarray) -> None:
            gpu.view(self._address, *self._like)[:] = array

        @classmethod
        def ortvalue_from_numpy(cls, array: np.ndarray, device_type: str, device_id: int) -> OrtValue:
            assert (device_type, device_id) == ("cuda", 0)
            return cls(array)

        def update_inplace(self, array: np.ndarray) -> None:
            gpu.log.append(("upload", 0, array.nbytes))
            self.update(array)

        def numpy(self) -> np.ndarray:
            while gpu.streams[0]:
                gpu.step()
            array = gpu.view(self._address, *self._like).copy()
            gpu.log.append(("download", 0, array.nbytes))
            return array

        def data_ptr(self) -> int:
            return self._address

        def shape(self) -> list[int]:
            return list(self._like[0])

        def data_type(self) -> str:
            return "tensor(float16)" if self._like[1] == np.float16 else "tensor(float)"

        def __del__(self) -> None:
            gpu.free(self._address)

    class Binding:
        def __init__(self) -> None:
            self.inputs: dict[str, tuple[int, Any, Any]] = {}
            self.outputs: list[str] = []
            self.values: list[OrtValue] = []

        def bind_input(self, name: str, kind: str, device: int, dtype: Any, shape: Any, pointer: int) -> None:
            assert (kind, device) == ("cuda", 0)
            self.inputs[name] = pointer, shape, dtype

        def bind_ortvalue_input(self, name: str, value: OrtValue) -> None:
            self.inputs[name] = value.data_ptr(), value.shape(), np.float32

        def bind_output(self, name: str, kind: str, device: int) -> None:
            assert (kind, device) == ("cuda", 0)
            self.outputs.append(name)

        def synchronize_inputs(self) -> None:
            gpu.drain()

        synchronize_outputs = synchronize_inputs

        def get_outputs(self) -> list[OrtValue]:
            return self.values

    class SessionOptions:
        def __init__(self) -> None:
            self.sizes: dict[str, int] = {}
            self.entries: dict[str, str] = {}

        def add_free_dimension_override_by_name(self, name: str, value: int) -> None:
            self.sizes[name] = value

        def add_session_config_entry(self, name: str, value: str) -> None:
            self.entries[name] = value

    class InferenceSession:
        def __init__(self, data: bytes, options: SessionOptions, providers: Any, enable_fallback: int) -> None:
            assert enable_fallback == 0
            if ort.failing == "load":
                raise RuntimeError(
                    "This session contains graph nodes that are assigned to the default CPU EP\nand more"
                )
            self.data, self.options, self.providers = data, options, providers
            ort.sessions.append(self)

        def disable_fallback(self) -> None:
            pass

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"] if ort.falls_back else [self.providers[0][0], "CPUExecutionProvider"]

        def get_inputs(self) -> list[Any]:
            sizes = [self.options.sizes.get(side, side) for side in ort.shape]
            return [type("Input", (), {"shape": sizes})]

        def io_binding(self) -> Binding:
            return Binding()

        def run_with_iobinding(self, binding: Binding) -> None:
            if ort.failing == "run":
                raise RuntimeError("CUDA failure 700\nmore")
            frame, held = (gpu.view(*binding.inputs[name]) for name in ("frames", "held_boxes"))
            patches, boxes, scores = sim.graph(frame[0], held[0])
            if ort.failing == "nan":
                scores[1] = np.nan
            results = {"patches": patches.astype(ort.patch_type), "boxes": boxes, "scores": scores}
            binding.values = [OrtValue(results[name][None], "output") for name in binding.outputs]

    ort.__dict__.update(
        OrtValue=OrtValue,
        SessionOptions=SessionOptions,
        InferenceSession=InferenceSession,
        get_available_providers=lambda: ort.available,
        patch_type=np.float32,
    )
    return ort


def bundle(**fused: int) -> Bundle:
    """A bundle whose graph is the simulator's."""
    changes = {"patch_size": sim.PATCH, "patch_context": sim.CONTEXT, "box_scale": sim.SCALE, "name": "fake"}
    sizes = {"slots": sim.SLOTS, "held": sim.HELD, **fused}
    manifest = replace(load_bundle().manifest, fused=sizes, **changes)
    return Bundle(manifest, {"fused.onnx": b"single", "fused-half.onnx": b"half"}, "here")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    gpu = sim.Gpu()
    sim.install(monkeypatch, gpu, onnxruntime=onnxruntime(gpu))
    yield gpu
    assert gpu.contexts == 0


def ort() -> Any:
    return sys.modules["onnxruntime"]


class Session:
    """The simulated graph as a session on the CPU."""

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"shape": ["batch", "height", "width", 3]})]

    def run(self, outputs: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [output[None] for output in sim.graph(inputs["frames"][0], inputs["held_boxes"][0])]


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> FusedCpuBackend:
    monkeypatch.setattr("dartblur.backends.fused_cpu.cpu_session", lambda *_: Session())
    return FusedCpuBackend(bundle())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("box_scale", [None, 1.7])
def test_pixels_are_those_of_the_cpu(gpu: Any, reference: Any, method: Any, box_scale: float | None) -> None:
    random = np.random.default_rng(3)
    backend = OrtGpuBackend(bundle())
    one, other = (Anonymizer(backend=some, method=method, box_scale=box_scale) for some in (backend, reference))
    for faces, size in ((1, (72, 96)), (3, (72, 96)), (0, (72, 96)), (2, (80, 100)), (3, (72, 96))):
        frame = sim.picture(random, faces, *size)
        held = random.uniform(2, 30, (5, 2)).astype(np.float32)
        held = np.concatenate([held, held + 9], 1)
        for boxes in (None, held):
            result, expected = (some.begin(frame, held=boxes).result() for some in (one, other))
            assert np.array_equal(result.detections.boxes, expected.detections.boxes)
            assert np.array_equal(result.image, expected.image)
    backend.close()
    assert not gpu.blocks


def test_half_patches(gpu: Any, reference: Any) -> None:
    ort().patch_type = np.float16
    backend = OrtGpuBackend(bundle(), graph="fused-half.onnx")
    assert ort().sessions[0].data == b"half"
    frame = sim.picture(np.random.default_rng(3), 3)
    result, expected = (Anonymizer(backend=some)(frame).image.astype(int) for some in (backend, reference))
    assert np.abs(result - expected).max() <= 1


def test_frames_in_gpu_memory_stay_there(gpu: Any, reference: Any) -> None:
    backend = OrtGpuBackend(bundle())
    frame = sim.picture(np.random.default_rng(3), 3)
    for kind in (sim.Array, sim.Tensor):
        array = kind(gpu, frame)
        gpu.log.clear()
        Anonymizer(backend=backend)(array, in_place=True)
        assert np.array_equal(array.pixels, Anonymizer(backend=reference)(frame).image)
        assert max(gpu.copies("upload") + gpu.copies("download")) < frame.nbytes / 4


def test_sessions_have_constant_sizes_and_no_way_back_to_the_cpu(gpu: Any) -> None:
    backend = OrtGpuBackend(bundle(), "tensorrt", cache=Path("/cache"), frame=(96, 72))
    session = ort().sessions[0]
    assert session.options.sizes == {"batch": 1, "height": 72, "width": 96}
    assert session.options.entries["session.disable_cpu_ep_fallback"] == "1"
    [(provider, settings)] = session.providers
    assert provider == "TensorrtExecutionProvider"
    assert settings["trt_engine_cache_path"] == "/cache"
    for height in (72, 40, 41, 42, 72, 43, 72):
        Anonymizer(backend=backend)(np.zeros((height, 96, 3), np.uint8))
    assert len(ort().sessions) == 5, "a session for each size, and the one that is used most stays"
    Anonymizer(backend=backend)(np.zeros((40, 96, 3), np.uint8))
    assert len(ort().sessions) == 6, "the one that was used least is gone"


def test_a_fall_back_to_the_cpu_is_an_error(gpu: Any) -> None:
    ort().falls_back = True
    with pytest.raises(BackendError, match="expected CUDAExecutionProvider, ONNX Runtime fell back to CPU"):
        OrtGpuBackend(bundle())
    ort().falls_back, ort().failing = False, "load"
    with pytest.raises(
        BackendError, match=r"CUDAExecutionProvider can't run the model \(This session contains .* CPU EP\)"
    ):
        OrtGpuBackend(bundle())
    ort().available = ["CPUExecutionProvider"]
    with pytest.raises(BackendError, match=r"this one has CPUExecutionProvider: .*onnxruntime-gpu"):
        OrtGpuBackend(bundle())


def test_the_real_onnxruntime_of_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as real

    if "CUDAExecutionProvider" in real.get_available_providers():
        pytest.skip("this is onnxruntime-gpu")
    with pytest.raises(BackendError, match=r"expected ONNX Runtime with CUDAExecutionProvider, this one has .*CPU"):
        OrtGpuBackend(load_bundle())


def test_faults_let_no_frame_out(gpu: Any) -> None:
    backend = OrtGpuBackend(bundle())
    anonymizer = Anonymizer(backend=backend)
    frame = sim.picture(np.random.default_rng(3), 2)
    for failing, message in (("nan", "not finite"), ("run", r"failed on the GPU: CUDA failure 700: restart")):
        ort().failing = failing
        with pytest.raises(BackendError, match=message):
            anonymizer(frame)
    ort().failing = ""
    with pytest.raises(FailClosedError, match="expected fewer than 4 faces"):
        anonymizer(sim.picture(np.random.default_rng(3), 4))
    pending = anonymizer.begin(frame)
    with pytest.raises(BackendError, match="at most 1 frame in flight"):
        anonymizer.begin(frame)
    pending.discard()
    assert len(anonymizer(frame).detections) == 2


def test_what_does_not_fit_is_named(gpu: Any) -> None:
    with pytest.raises(InputError, match="provider: expected one of cuda, tensorrt, got 'rocm'"):
        OrtGpuBackend(bundle(), "rocm")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"graph: expected one of fused.onnx, fused-half.onnx, got 'x'"):
        OrtGpuBackend(bundle(), graph="x")
    ort().shape = [1, 72, 96, 3]
    backend = OrtGpuBackend(bundle(height=72, width=96))
    with pytest.raises(FrameError, match="expected frames of 96x72, got 8x4"):
        Anonymizer(backend=backend)(np.zeros((4, 8, 3), np.uint8))
