"""From a fused ONNX graph to a TensorRT engine: all that is asked of TensorRT when building.

One way for TensorRT 10.3 to 11.x (`tensorrt`) and TensorRT-RTX (`tensorrt_rtx`), whose Python interfaces are the same
but for `_aim_at_this_gpu` and `_aim_ahead_of_time`. Precision is written in the graph, and the network is strongly
typed, since TensorRT 11 has no flags for it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from dartblur.errors import BackendError, BundleError, InputError

PRECISIONS = {"fp16": "fused-half.onnx", "fp32": "fused.onnx"}
"""The graph of the bundle for each precision."""

INPUTS, OUTPUTS = ("frames", "held_boxes"), ("patches", "boxes", "scores")

_HALF_SHARE = 0.9
"""Least share of half-precision layers in an fp16 engine: the Gaussian blur stays in single precision."""

_OUT_OF_MEMORY = re.compile(r"out ?of ?memory|insufficient memory|failed to allocate|bad_alloc", re.IGNORECASE)


class Progress(Protocol):
    """Is told how far a build is, by phases within phases; called from the thread that builds."""

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins that has this many steps."""

    def step(self, phase: str, done: int) -> None:
        """So many of its steps are done."""

    def finish(self, phase: str) -> None:
        """The phase is over."""


@dataclass(frozen=True)
class EngineRequest:
    """What to build.

    Attributes:
        graph: bytes of the ONNX file.
        graph_name: of that file, for messages.
        precision: ``fp16`` or ``fp32``: what the graph must be of.
        frame: width and height of the frames, pixels.
        batch: frames at once.
        slots, held, patch_size: K, M and P that the manifest promises.
        workspace_mb: most scratch memory.
        command: the command line of this build without its sizes, for messages.
        sms: compute capabilities to build for ahead of time; empty: the GPU that is here.
        timing_cache: what an earlier build measured; only for the GPU that is here.
    """

    graph: bytes
    graph_name: str
    precision: str
    frame: tuple[int, int]
    batch: int
    slots: int
    held: int
    patch_size: int
    workspace_mb: int
    command: str
    sms: tuple[str, ...] = ()
    timing_cache: bytes | None = None


@dataclass(frozen=True)
class BuiltEngine:
    """A built engine.

    Attributes:
        data: the engine's file.
        layers: how many convolutions and matrix products the network has by precision.
        timing_cache: what was measured; None when nothing was.
    """

    data: bytes
    layers: dict[str, int]
    timing_cache: bytes | None = None


@dataclass
class _Messages:
    """Errors that TensorRT has logged."""

    errors: list[str] = field(default_factory=list)

    def last(self) -> str:
        return _one_line(self.errors[-1]) if self.errors else "TensorRT gave no reason"

    def out_of_memory(self) -> bool:
        return any(_OUT_OF_MEMORY.search(error) for error in self.errors)


def build_engine(
    trt: Any, request: EngineRequest, progress: Progress, cancelled: threading.Event
) -> BuiltEngine | None:
    """Builds an engine in memory; None when it was cancelled.

    Args:
        trt: `tensorrt` or `tensorrt_rtx`.
        request: what to build.
        progress: is told how far it is.
        cancelled: ends the build at its next step, once set.

    Raises:
        BundleError: the graph is not what the manifest says or the precision asks for.
        BackendError: TensorRT can't parse or build it, has too little memory, or the engine isn't what was asked for.
        InputError: the graph is of another frame size.
    """
    messages = _Messages()
    logger = _logger(trt, messages)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # how the binding tells that there is no builder
        raise BackendError(
            f"TensorRT {trt.__version__} can't start: {messages.last()}: run 'dartblur doctor'"
        ) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, logger, request)
    fixed = _check_network(trt, network, request)
    layers = _check_precision(trt, network, request)
    config = _configure(trt, builder, request, _monitor(trt, progress, cancelled))
    if not fixed:
        _add_profile(trt, builder, config, request)
    if request.sms:
        _aim_ahead_of_time(trt, config, request.sms)
    else:
        _aim_at_this_gpu(config, request)
    plan = _run(builder, network, config, messages, cancelled, request)
    if plan is None:
        return None
    data = bytes(memoryview(plan))
    if request.sms:
        return BuiltEngine(data, layers)
    _check_engine(trt, logger, messages, data, request)
    measured = bytes(memoryview(config.get_timing_cache().serialize()))
    return BuiltEngine(data, layers, measured)


def _parse(trt: Any, network: Any, logger: Any, request: EngineRequest) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse(request.graph):
        return
    reasons = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        place = f"{error.node_operator()} '{error.node_name()}'" if error.node_operator() else "the graph"
        reasons.append(f"{place}: {_first_line(error.desc())}")
    raise BackendError(
        f"{request.graph_name}: TensorRT {trt.__version__} can't take {'; '.join(reasons) or 'the graph'}: export the "
        "bundle again with this version's 'dartblur export'"
    )


def _check_network(trt: Any, network: Any, request: EngineRequest) -> bool:
    """Compares inputs and outputs with the contract of fused graphs; returns whether their sizes are fixed."""
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    found = {tensor.name: tensor for tensor in tensors}
    patches = trt.DataType.HALF if request.precision == "fp16" else trt.DataType.FLOAT
    types = dict(
        zip(
            INPUTS + OUTPUTS,
            (trt.DataType.UINT8, trt.DataType.FLOAT, patches, trt.DataType.FLOAT, trt.DataType.FLOAT),
            strict=True,
        )
    )
    if set(found) != set(types):
        raise BundleError(
            f"{request.graph_name}: expected inputs and outputs {', '.join(types)}, got {', '.join(found)}: "
            "export the bundle again"
        )
    for name, expected in types.items():
        if found[name].dtype != expected:
            raise BundleError(
                f"{request.graph_name}: {name}: expected {expected} for {request.precision}, got "
                f"{found[name].dtype}: export the bundle again"
            )
    side, count = request.patch_size, request.slots + request.held
    shapes = {
        "frames": (-1, -1, -1, 3),
        "held_boxes": (-1, request.held, 4),
        "patches": (-1, count, 3, side, side),
        "boxes": (-1, count, 4),
        "scores": (-1, count),
    }
    for name, expected in shapes.items():
        if not _fits(actual := tuple(found[name].shape), expected):
            raise BundleError(
                f"{request.graph_name}: {name}: expected {list(expected)} by the manifest (-1: any), got "
                f"{list(actual)}: export the bundle again"
            )
    return _check_frames(tuple(found["frames"].shape), request)


def _fits(actual: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether two shapes agree where both are known."""
    return len(actual) == len(expected) and all(a == e or -1 in (a, e) for a, e in zip(actual, expected, strict=True))


def _check_frames(shape: tuple[int, ...], request: EngineRequest) -> bool:
    batch, height, width = shape[:3]
    if -1 in (batch, height, width):
        return False
    if (width, height, batch) != (*request.frame, request.batch):
        asked = f"{request.frame[0]}x{request.frame[1]} by {request.batch}"
        raise InputError(
            f"{request.graph_name}: takes frames of {width}x{height} by {batch} alone, asked for {asked}: run: "
            f"{request.command} --frame {width}x{height} --batch {batch}; or export the bundle again without --frame "
            "and --batch: it then takes any size"
        )
    return True


def _check_precision(trt: Any, network: Any, request: EngineRequest) -> dict[str, int]:
    """Counts the layers that do the work by precision: asking for half and getting single is an error."""
    kinds = (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    names = {trt.DataType.HALF: "fp16", trt.DataType.FLOAT: "fp32"}
    layers = {"fp16": 0, "fp32": 0}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in kinds and (name := names.get(layer.get_output_type(0))):
            layers[name] += 1
    asked, total = layers[request.precision], sum(layers.values())
    if not asked or asked < _HALF_SHARE * total or (request.precision == "fp32" and layers["fp16"]):
        raise BundleError(
            f"{request.graph_name}: expected a network in {request.precision}, only {asked} of its {total} "
            "convolutions and matrix products are: export the bundle again"
        )
    return layers


def _configure(trt: Any, builder: Any, request: EngineRequest, monitor: Any) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mb << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the engine can be asked for its precisions
    config.progress_monitor = monitor
    # Single precision means all of its bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    return config


def _add_profile(trt: Any, builder: Any, config: Any, request: EngineRequest) -> None:
    """Says of which sizes the free dimensions are."""
    width, height = request.frame
    shapes = {"frames": (request.batch, height, width, 3), "held_boxes": (request.batch, request.held, 4)}
    profile = builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, shape, shape, shape)
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(
            f"{request.graph_name}: TensorRT {trt.__version__} can't take frames of {width}x{height} by "
            f"{request.batch}: choose another --frame or --batch"
        )


def _aim_at_this_gpu(config: Any, request: EngineRequest) -> None:
    """TensorRT times kernels on the GPU that is here, and remembers the timings in a cache."""
    cache = config.create_timing_cache(request.timing_cache or b"")
    # One of another GPU or version is refused, and then made anew.
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)


def _aim_ahead_of_time(rtx: Any, config: Any, sms: tuple[str, ...]) -> None:
    """TensorRT-RTX builds for named GPUs and times nothing; a timing cache would make it look for a GPU."""
    known = {
        "8.6": rtx.ComputeCapability.SM86,
        "8.9": rtx.ComputeCapability.SM89,
        "12.0": rtx.ComputeCapability.SM120,
    }
    config.num_compute_capabilities = len(sms)
    for index, sm in enumerate(sms):
        if not config.set_compute_capability(known[sm], index):
            raise BackendError(f"TensorRT-RTX {rtx.__version__} can't build for SM {sm}: update tensorrt-rtx")


def _run(
    builder: Any, network: Any, config: Any, messages: _Messages, cancelled: threading.Event, request: EngineRequest
) -> Any:
    """The serialized engine; None when the build was cancelled."""
    messages.errors.clear()
    try:
        plan = builder.build_serialized_network(network, config)
    except MemoryError:
        plan = None
        messages.errors.append("out of memory")
    if cancelled.is_set():
        return None
    if plan is not None:
        return plan
    if messages.out_of_memory():
        width, height = request.frame
        raise BackendError(
            f"building ran out of memory with a workspace of {request.workspace_mb} MB, for frames of {width}x{height} "
            f"by {request.batch}: run: {request.command} --frame {width}x{height} --batch {request.batch} --workspace "
            f"{max(64, request.workspace_mb // 2)}; or choose a smaller --frame or --batch, or add swap "
            "(docs/jetson.md)"
        )
    raise BackendError(f"{request.graph_name}: TensorRT can't build it: {messages.last()}")


def _check_engine(trt: Any, logger: Any, messages: _Messages, data: bytes, request: EngineRequest) -> None:
    """Loads the engine on the GPU that built it, and compares its precisions with what was asked for."""
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise BackendError(f"the engine was built but can't be loaded: {messages.last()}: build it again")
    patches = trt.DataType.HALF if request.precision == "fp16" else trt.DataType.FLOAT
    if (actual := engine.get_tensor_dtype("patches")) != patches:
        raise BackendError(f"the engine gives patches in {actual}, expected {patches} for {request.precision}")
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    types = list(_data_types(json.loads(text)))
    # TensorRT has spelled it both ways.
    half = sum("half" in kind or "fp16" in kind for kind in types)
    if types and (half > 0) != (request.precision == "fp16"):
        raise BackendError(
            f"the engine has {half} half-precision tensors of {len(types)}, which is not {request.precision}: this "
            f"version of TensorRT ({trt.__version__}) has changed the precision of the graph; nothing was written"
        )


def _data_types(information: Any) -> Iterator[str]:
    """The types of all tensors in what the engine inspector says."""
    if isinstance(information, dict):
        for name, value in information.items():
            if "datatype" in name.lower() and isinstance(value, str):
                yield value.lower()
            else:
                yield from _data_types(value)
    elif isinstance(information, list):
        for value in information:
            yield from _data_types(value)


def _logger(trt: Any, messages: _Messages) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                messages.errors.append(message)

    return Logger()


def _monitor(trt: Any, progress: Progress, cancelled: threading.Event) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with suppress(Exception):
                progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with suppress(Exception):
                progress.step(phase_name, step + 1)
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            with suppress(Exception):
                progress.finish(phase_name)

    # An exception must not go through TensorRT's frames, and a display that fails is no reason to lose the engine.
    return Monitor()


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2])


def _one_line(text: str) -> str:
    return " ".join(text.split())
