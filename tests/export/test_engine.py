"""Real builds ahead of time with TensorRT-RTX, on any machine; those of TensorRT, which need a GPU, with a fake."""

from __future__ import annotations

import _thread
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dartblur_export.building as building
from dartblur import BackendError, Bundle, BundleError, InputError, load_bundle
from dartblur.errors import SinkError
from dartblur.passport import bundle_sha256, passport_path, preflight, read_passport
from dartblur_export.building import BuildArgs, build, load_tensorrt
from dartblur_export.devices import Gpu
from dartblur_export.engine import build_engine

from .conftest import HELD, SLOTS, MakeBundle, tiny_graph

ROOT = Path(__file__).parents[2]
RTX_GPUS = ("8.6", "8.9", "12.0")
ORIN = Gpu("Orin", "8.7", 8 << 30, "12.6")


class Quiet:
    """Progress that counts steps, and does something at the first."""

    def __init__(self, first: Callable[[], None] = lambda: None) -> None:
        self.phases: list[str] = []
        self.steps = 0
        self._first = first

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self.phases.append(phase)

    def step(self, phase: str, done: int) -> None:
        self.steps += 1
        if self.steps == 1:
            self._first()

    def finish(self, phase: str) -> None:
        pass


def ahead(**options: Any) -> BuildArgs:
    return BuildArgs(target="tensorrt-rtx", **options)


@pytest.fixture
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", exc_type=ImportError)


@pytest.mark.parametrize("sm", RTX_GPUS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_built_in_model_is_built_for_each_gpu(rtx: Any, precision: str, sm: str) -> None:
    """The real graphs, one GPU at a time."""
    bundle = load_bundle()
    request = building.EngineRequest(
        graph=bundle.graphs[building.PRECISIONS[precision]],
        graph_name=building.PRECISIONS[precision],
        precision=precision,
        frame=(1280, 720),
        batch=2,
        slots=bundle.manifest.fused["slots"],
        held=bundle.manifest.fused["held"],
        patch_size=bundle.manifest.patch_size,
        workspace_mb=512,
        command="dartblur build",
        sms=(sm,),
    )
    built = build_engine(rtx, request, Quiet(), threading.Event())
    assert built is not None
    assert len(built.data) > 1e6
    share = built.layers[precision] / sum(built.layers.values())
    assert share == 1 if precision == "fp32" else share > 0.9


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_and_its_passport(rtx: Any, tmp_path: Path, precision: str) -> None:
    bundle, progress = load_bundle(), Quiet()
    args = ahead(precision=precision, frame=(417, 243), batch=2, out=tmp_path / "my.engine")
    out, passport = build(bundle, args, progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.engine", "my.engine.json"]
    assert out.read_bytes()[1:4] == b"trt", "a plain TensorRT file"
    assert passport == read_passport(out)
    assert (passport.sm, passport.frame, passport.batch, passport.gpu) == (RTX_GPUS, (417, 243), 2, None)
    assert passport.bundle_sha256 == bundle_sha256(bundle)
    assert passport.precision == precision
    for sm in RTX_GPUS:
        assert preflight(out, bundle, trt_version=rtx.__version__, sm=sm, target="tensorrt-rtx") == passport
    assert "Building engine" in progress.phases
    assert progress.steps > 100


def test_the_command_in_a_message_mends_it(rtx: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle, out = make_bundle("a model"), tmp_path / "my.engine"
    build(bundle, ahead(frame=(640, 480), out=out), Quiet())
    here = {"trt_version": rtx.__version__, "sm": "8.9", "target": "tensorrt-rtx", "frame": (320, 240), "batch": 3}
    with pytest.raises(BackendError) as error:
        preflight(out, bundle, **here)
    done = dartblur(*shlex.split(str(error.value).rpartition("run: ")[2])[1:])
    assert done.returncode == 0, done.stderr
    preflight(out, bundle, **here)


def test_building_needs_neither_torch_nor_onnx_nor_the_sdk_s_own(
    rtx: Any, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle()
    done = dartblur("build", bundle.source, "--target", "tensorrt-rtx", cwd=tmp_path, show_modules=True)
    assert done.returncode == 0, done.stderr
    assert "tiny-1-desktop-fp16-1920x1080.engine: tiny 1 in fp16 for frames of 1920x1080 by 1" in done.stdout
    assert done.stdout.splitlines()[-1] == "LOADED ['tensorrt_rtx']"
    inspected = dartblur("inspect", "tiny-1-desktop-fp16-1920x1080.engine", "--json", cwd=tmp_path)
    assert json.loads(inspected.stdout)["passport"]["frame"] == [1920, 1080]
    again = dartblur("build", bundle.source, "--target", "tensorrt-rtx", cwd=tmp_path)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_an_interrupted_build_leaves_nothing(rtx: Any, tmp_path: Path) -> None:
    progress = Quiet(first=_thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        build(load_bundle(), ahead(out=tmp_path / "my.engine"), progress)
    assert list(tmp_path.iterdir()) == []
    whole = Quiet()
    build(load_bundle(), ahead(out=tmp_path / "my.engine"), whole)
    assert progress.steps < whole.steps, "TensorRT stopped early"


def test_ctrl_c_is_an_exit_code(rtx: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
    program = (
        "import _thread, dartblur_export.engine as engine, os, signal\n"
        "build = engine.build_engine\n"
        "def slow(trt, request, progress, cancelled):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    assert cancelled.wait(10)\n"
        "    return build(trt, request, progress, cancelled)\n"
        "import dartblur_export.building as building\n"
        "building.build_engine = slow\n"
        "from dartblur.cli import main\nmain()\n"
    )
    done = dartblur("build", make_bundle().source, "--target", "tensorrt-rtx", cwd=tmp_path, program=program)
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr == "dartblur: interrupted: nothing unfinished is left\n"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_old_engine_stays_when_the_new_one_fails(rtx: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
    out = tmp_path / "my.engine"
    build(make_bundle(), ahead(out=out), Quiet())
    before = out.read_bytes(), passport_path(out).read_bytes()
    with pytest.raises(SinkError, match="exists already: choose another name or give --overwrite"):
        build(make_bundle(), ahead(out=out), Quiet())
    broken = make_bundle("broken", {"fused-half.onnx": tiny_graph(half=True)[:-40]})
    with pytest.raises(BackendError, match=r"fused-half.onnx: TensorRT 1\.\S+ can't take"):
        build(broken, ahead(out=out, overwrite=True), Quiet())
    assert (out.read_bytes(), passport_path(out).read_bytes()) == before
    build(make_bundle(), ahead(out=out, overwrite=True, precision="fp32"), Quiet())
    assert read_passport(out).precision == "fp32"


def test_what_the_parser_can_t_take_is_told_in_one_line(rtx: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
    from onnx import helper, load_model_from_string

    model = load_model_from_string(tiny_graph(half=True))
    model.graph.node.append(helper.make_node("Nonsense", ["boxes"], ["nothing"], name="odd", domain="my.own"))
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    bundle = make_bundle(graphs={"fused-half.onnx": model.SerializeToString()})
    with pytest.raises(BackendError, match="can't take Nonsense 'odd': ") as error:
        build(bundle, ahead(out=tmp_path / "my.engine"), Quiet())
    assert "\n" not in str(error.value)


def test_a_graph_of_fixed_size(rtx: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
    fixed = {"fused-half.onnx": tiny_graph(half=True, sizes=(2, 48, 64))}
    out = tmp_path / "my.engine"
    told = make_bundle("told", fixed, fused={"slots": SLOTS, "held": HELD, "width": 64, "height": 48, "batch": 2})
    _, passport = build(told, ahead(out=out), Quiet())
    assert (passport.frame, passport.batch) == ((64, 48), 2)
    with pytest.raises(InputError, match="takes frames of 64x48 by 2 alone, asked for 640x480 by 2") as error:
        build(told, ahead(frame=(640, 480), out=out, overwrite=True), Quiet())
    command = re.search(r"run: (dartblur build .*?); or", str(error.value))
    assert command is not None
    assert dartblur(*shlex.split(command[1])[1:]).returncode == 0


def test_asking_for_half_and_getting_single_is_an_error(rtx: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
    single = tiny_graph(half=False)
    with pytest.raises(BundleError, match=r"fused-half.onnx: patches: expected \S*HALF for fp16, got \S*FLOAT"):
        build(make_bundle("a", {"fused-half.onnx": single}), ahead(out=tmp_path / "my.engine"), Quiet())
    # The outputs alone are half: no more than a cast.
    from onnx import TensorProto, helper, load_model_from_string

    model = load_model_from_string(single)
    reshape = next(node for node in model.graph.node if node.output[0] == "patches")
    reshape.output[0] = "single"
    model.graph.node.append(helper.make_node("Cast", ["single"], ["patches"], to=TensorProto.FLOAT16))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    bundle = make_bundle("b", {"fused-half.onnx": model.SerializeToString()})
    with pytest.raises(BundleError, match="expected a network in fp16, only 0 of its 1 convolutions"):
        build(bundle, ahead(out=tmp_path / "my.engine"), Quiet())
    assert not (tmp_path / "my.engine").exists()


def test_a_graph_that_is_not_what_the_manifest_says(rtx: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
    out = tmp_path / "my.engine"
    with pytest.raises(BundleError, match=r"held_boxes: expected \[-1, 5, 4\] by the manifest"):
        build(make_bundle("a", fused={"slots": SLOTS, "held": 5}), ahead(out=out), Quiet())
    with pytest.raises(BundleError, match=r"patches: expected \[-1, 5, 3, 16, 16\]"):
        build(make_bundle("b", patch_size=16), ahead(out=out), Quiet())
    with pytest.raises(BundleError, match=r"fused.slots: expected a whole number, got None"):
        build(make_bundle("c", fused={}), ahead(out=out), Quiet())
    with pytest.raises(BundleError, match=r"has no fused-half.onnx, which --precision fp16 is built of"):
        build(make_bundle("d", {"fused-half.onnx": None}), ahead(out=out), Quiet())


@pytest.mark.parametrize(
    ("args", "gpu", "message"),
    [
        (ahead(device="agx-orin"), None, r"no engines for Jetson AGX Orin: .*--target tensorrt --device agx-orin"),
        (ahead(timing_cache=Path("x")), None, "TensorRT-RTX times nothing ahead of time"),
        (BuildArgs(device="thor"), None, "no GPU .* run this on the Jetson Thor"),
        (BuildArgs(device="thor"), ORIN, r"thor has SM 11.0, this is Orin with SM 8.7: .*--device auto"),
        (BuildArgs(device="desktop"), ORIN, "desktop has SM 8.0 or "),
        (BuildArgs(target="onnx", device="thor"), Gpu("Thor", "11.0", 1, "13.0"), "--target: expected tensorrt or "),
        (ahead(precision="int8"), None, "--precision: expected fp16 or fp32, got 'int8'"),
        (ahead(out=Path("none/my.engine")), None, "the folder none does not exist"),
        (ahead(out=Path("/")), None, "expected a file name, got a folder"),
    ],
)
def test_what_can_t_be_built_here_is_refused_at_once(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, args: BuildArgs, gpu: Gpu | None, message: str
) -> None:
    monkeypatch.setattr(building, "present_gpu", lambda: gpu)
    with pytest.raises((BackendError, InputError), match=message):
        build(make_bundle(), args, Quiet())


def test_absent_broken_and_old_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match=r"--target tensorrt needs .*python3-libnvinfer"):
        load_tensorrt("tensorrt")

    def broken(name: str) -> Any:
        raise OSError("libnvinfer.so.10:\n no such file")

    with monkeypatch.context() as patch:
        patch.setattr(building, "import_module", broken)
        with pytest.raises(BackendError, match=r"tensorrt can't be loaded \(libnvinfer.so.10: no such file\)"):
            load_tensorrt("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.2.3"))
    with pytest.raises(BackendError, match=r"expected tensorrt 10.3 or later, got 8.6.2.3: .*JetPack 6.1"):
        load_tensorrt("tensorrt")


class FakeTensorRT:
    """TensorRT for a network of one convolution; `says` is what it logs, and then it builds nothing."""

    __version__ = "10.3.0"
    DataType = SimpleNamespace(UINT8="UINT8", HALF="HALF", FLOAT="FLOAT")
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    LayerType = SimpleNamespace(CONVOLUTION="conv", DECONVOLUTION="deconv", MATRIX_MULTIPLY="matmul")
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    BuilderFlag = SimpleNamespace(TF32="tf32")
    LayerInformationFormat = SimpleNamespace(JSON="json")

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"

    class IProgressMonitor:
        pass

    def __init__(self, says: str = "", layer_type: str = "Half", takes_cache: bool = True) -> None:
        self.says, self.layer_type, self.takes_cache = says, layer_type, takes_cache
        self.pools: dict[str, int] = {}
        self.caches: list[bytes] = []
        self.flags = 0

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        if self.says == "no GPU":
            logger.log("error", self.says)
            raise TypeError("factory function returned nullptr")

        def create_network(flags: int) -> Any:
            self.flags = flags
            return self.network()

        def run(network: Any, config: Any) -> bytes | None:
            config.progress_monitor.phase_start("Building engine", None, 1)
            config.progress_monitor.step_complete("Building engine", 0)
            config.progress_monitor.phase_finish("Building engine")
            if self.says:
                logger.log("warning", "something else")
                logger.log("error", self.says)
                return None
            return b"ptrt engine"

        profile = SimpleNamespace(set_shape=lambda name, low, best, high: None)
        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=self.config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=run,
        )

    def network(self) -> Any:
        tensors = {
            "frames": ("UINT8", (-1, -1, -1, 3)),
            "held_boxes": ("FLOAT", (-1, HELD, 4)),
            "patches": ("HALF", (-1, SLOTS + HELD, 3, 8, 8)),
            "boxes": ("FLOAT", (-1, SLOTS + HELD, 4)),
            "scores": ("FLOAT", (-1, SLOTS + HELD)),
        }
        made = [SimpleNamespace(name=name, dtype=kind, shape=shape) for name, (kind, shape) in tensors.items()]
        return SimpleNamespace(
            num_inputs=2,
            num_outputs=3,
            num_layers=1,
            get_input=lambda index: made[index],
            get_output=lambda index: made[2 + index],
            get_layer=lambda index: SimpleNamespace(type="conv", get_output_type=lambda output: "HALF"),
        )

    def config(self) -> Any:
        def set_timing_cache(cache: bytes, ignore_mismatch: bool) -> bool:
            self.caches.append(cache)
            return self.takes_cache or cache == b""

        return SimpleNamespace(
            set_memory_pool_limit=self.pools.__setitem__,
            clear_flag=lambda flag: None,
            add_optimization_profile=lambda profile: 0,
            create_timing_cache=lambda data: data,
            set_timing_cache=set_timing_cache,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"timings"),
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(parse=lambda graph: True, num_errors=0)

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        layers = [{"Name": "half", "Outputs": [{"Name": "x", "Format/Datatype": self.layer_type}]}]
        inspector = SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": layers}))
        engine = SimpleNamespace(get_tensor_dtype=lambda name: "HALF", create_engine_inspector=lambda: inspector)
        return SimpleNamespace(deserialize_cuda_engine=lambda data: engine)


@pytest.fixture
def on_orin(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Builds on an Orin Nano with a fake TensorRT."""
    monkeypatch.setattr(building, "present_gpu", lambda: ORIN)
    bundle = make_bundle()

    def built(fake: FakeTensorRT, **options: Any) -> Any:
        monkeypatch.setitem(sys.modules, "tensorrt", fake)
        return build(bundle, BuildArgs(device="orin-nano", out=tmp_path / "my.engine", **options), Quiet())

    return built


def test_on_the_device(on_orin: Callable[..., Any], tmp_path: Path) -> None:
    fake = FakeTensorRT()
    out, passport = on_orin(fake)
    assert fake.flags == 1 << 1, "strongly typed"
    assert fake.pools == {"workspace": 512 << 20}
    assert (passport.gpu, passport.sm, passport.cuda_version, passport.trt_version) == (
        "Orin",
        ("8.7",),
        "12.6",
        "10.3.0",
    )
    assert passport.frame == (1280, 720)
    preflight(out, trt_version="10.3.0", sm="8.7")
    with pytest.raises(BackendError, match=r"built for SM 8.7 / TensorRT 10.3.0, this is SM 11.0 / TensorRT 10.13.3"):
        preflight(out, trt_version="10.13.3", sm="11.0")


def test_timings_are_kept_and_used_again(on_orin: Callable[..., Any], tmp_path: Path) -> None:
    first = FakeTensorRT()
    on_orin(first)
    assert first.caches == [b""]
    assert (tmp_path / "my.timings").read_bytes() == b"timings"
    second = FakeTensorRT()
    on_orin(second, overwrite=True, timing_cache=tmp_path / "my.timings")
    assert second.caches == [b"timings"]
    # Those of another GPU are refused by TensorRT, and then made anew.
    other = FakeTensorRT(takes_cache=False)
    on_orin(other, overwrite=True)
    assert other.caches == [b"timings", b""]


@pytest.mark.parametrize(
    "message",
    [
        "[virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory (Requested size was 44040192 bytes.)",
        "Error Code 1: Cuda Runtime (out of memory)",
        "Error Code 10: Internal Error (insufficient memory)",
    ],
)
def test_out_of_memory_ends_in_advice(on_orin: Callable[..., Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"ran out of memory with a workspace of 512 MB.*--workspace 256; .*swap"):
        on_orin(FakeTensorRT(says=message))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_other_failures_are_told_in_tensorrt_s_words(on_orin: Callable[..., Any]) -> None:
    with pytest.raises(BackendError, match=r"can't build it: Error Code 10: no implementation for node x$"):
        on_orin(FakeTensorRT(says="Error Code 10:\n  no implementation for node x"))
    with pytest.raises(BackendError, match=r"TensorRT 10.3.0 can't start: no GPU: run 'dartblur doctor'"):
        on_orin(FakeTensorRT(says="no GPU"))


@pytest.mark.parametrize("layer_type", ["Float", "Row major linear FP32 format"])
def test_an_engine_that_is_not_half_is_not_written(
    on_orin: Callable[..., Any], layer_type: str, tmp_path: Path
) -> None:
    with pytest.raises(BackendError, match="the engine has 0 half-precision tensors of 1, which is not fp16"):
        on_orin(FakeTensorRT(layer_type=layer_type))
    assert not (tmp_path / "my.engine").exists()


def test_both_spellings_of_half_are_known(on_orin: Callable[..., Any]) -> None:
    on_orin(FakeTensorRT(layer_type="Row major linear FP16 format"))


def test_a_full_disk_leaves_nothing(
    on_orin: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, data: bytes) -> None:
        file.write_bytes(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building, "_write_through", full)
    with pytest.raises(SinkError, match="No space left on device: free some space"):
        on_orin(FakeTensorRT())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


_PROGRAM = """
from dartblur.cli import main
try:
    main()
finally:
    import sys
    heavy = {"torch", "onnx", "onnxruntime", "cv2", "av", "tensorrt_rtx"}
    if %r:
        print("LOADED", sorted(heavy & set(sys.modules)))
"""


def dartblur(
    *arguments: str, cwd: Path | None = None, show_modules: bool = False, program: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("sdk", "export"))
    return subprocess.run(
        [sys.executable, "-c", program or _PROGRAM % show_modules, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "200"},
        check=False,
    )


def test_the_bundle_is_read_from_where_it_lies(make_bundle: MakeBundle, rtx: Any, tmp_path: Path) -> None:
    bundle: Bundle = make_bundle()
    done = dartblur("build", bundle.source, "--target", "tensorrt-rtx", "--out", str(tmp_path / "a b.engine"))
    assert done.returncode == 0, done.stderr
    assert read_passport(tmp_path / "a b.engine").bundle_sha256 == bundle_sha256(bundle)
