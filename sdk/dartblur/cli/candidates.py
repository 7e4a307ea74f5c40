"""What ``dartblur verify`` compares, by names on the command line.

::

    default                              the built-in model
    BUNDLE                               a bundle (folder or zip) on the CPU, as dartblur run has it
    BUNDLE:fused, BUNDLE:fused-half      its fused graphs in ONNX Runtime on the CPU
    BUNDLE:onnxruntime-gpu               its fused graph in ONNX Runtime on a GPU
    BUNDLE/fused.onnx                    the same as BUNDLE:fused
    NAME.engine                          an engine, its passport beside it
    DETECTOR.safetensors+GENERATOR.safetensors, or a folder with files of these two names: weights in PyTorch
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import MANIFEST, MODELS, Bundle, Manifest, bundle_path, load_bundle
from ..errors import BackendError, InputError

if TYPE_CHECKING:
    from ..backends.base import Backend

GRAPHS = {"fused": "fused.onnx", "fused-half": "fused-half.onnx", "onnxruntime-gpu": "fused.onnx"}
"""Runners of a bundle's fused graphs."""
RUNNERS = ("cpu", *GRAPHS)
WEIGHTS = ("detector.safetensors", "generator.safetensors")
UNTOLD = Manifest("weights", "", "", 0.4, 1.15, 64, 1.6, fused={"slots": 32, "held": 16})
"""For weights that are compared with weights: the defaults of ``dartblur export``."""

_ENGINES = (".engine", ".plan", ".trt")
_JOINT = ".safetensors+"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that can be compared; nothing is loaded before `load`.

    Attributes:
        name: as it was given.
        kind: what runs it: ``cpu``, ``fused``, ``fused-half``, ``onnxruntime-gpu``, ``engine`` or ``pytorch``.
        load: makes the backend; it is handed a manifest for what the candidate doesn't say itself.
        manifest: threshold, box scale and sizes; None for weights, which don't say.
        engine: the engine file, when it is one.
    """

    name: str
    kind: str
    load: Callable[[Manifest], Backend]
    manifest: Manifest | None = None
    engine: Path | None = None

    @property
    def exact(self) -> bool:
        """Whether it computes in single precision throughout; GPUs round by themselves, to TF32 at least."""
        return self.kind in ("cpu", "fused", "pytorch")

    @property
    def frame(self) -> tuple[int, int] | None:
        """Width and height of the only frames that it takes; None: all."""
        if self.kind == "cpu" or self.manifest is None:
            return None
        width, height = (self.manifest.fused.get(side) for side in ("width", "height"))
        return (width, height) if width and height else None

    def slots(self, manifest: Manifest) -> int | None:
        """It refuses frames with so many faces; None: with none. The manifest is that of `load`."""
        return None if self.kind == "cpu" else (self.manifest or manifest).fused.get("slots")


def parse_candidate(name: str) -> Candidate:
    """What a name on the command line means; see above.

    Raises:
        InputError: there is nothing of that name, or nothing that can be compared.
        BundleError: a bundle or passport is missing or damaged.
    """
    if _JOINT in name:
        first, second = name.split(_JOINT, 1)
        return _weights(name, Path(first + ".safetensors"), Path(second))
    root, _, runner = name.rpartition(":")
    if root and not Path(name).exists():
        if runner not in RUNNERS:
            raise InputError(f"{name}: expected one of {', '.join(RUNNERS)} behind the colon, got {runner!r}")
        return _bundle(name, root, runner)
    path = Path(name)
    if path.suffix in _ENGINES or path.with_name(path.name + ".json").is_file():
        return _engine(name, path)
    if path.suffix == ".onnx":
        return _graph(path)
    if path.suffix == ".safetensors":
        raise InputError(
            f"{name}: expected detector and generator, got one: give DETECTOR{_JOINT}GENERATOR.safetensors"
        )
    if path.is_dir() and not (path / MANIFEST).exists() and any((path / file).exists() for file in WEIGHTS):
        return _weights(name, *(path / file for file in WEIGHTS))
    return _bundle(name, name, "cpu")


def _engine(name: str, file: Path) -> Candidate:
    from ..passport import read_passport

    # What has no sound passport is refused before anything else is loaded.
    told = read_passport(file)
    sizes = {"slots": told.slots, "held": told.held, "width": told.frame[0], "height": told.frame[1]}
    shape = (told.threshold, told.box_scale, told.patch_size, told.patch_context)

    def load(_: Manifest) -> Backend:
        from ..backends.trt import TensorRtBackend

        return TensorRtBackend(file)

    return Candidate(name, "engine", load, Manifest(told.model, told.model_version, "", *shape, fused=sizes), file)


def _weights(name: str, detector: Path, generator: Path) -> Candidate:
    for file in (detector, generator):
        if not file.is_file():
            raise InputError(f"{file}: expected weights of 'dartblur train', nothing is there: check the name")

    def load(manifest: Manifest) -> Backend:
        try:
            from dartblur_export.torch_backend import TorchBackend
        except ImportError as error:
            raise BackendError(
                f"{name}: weights need {error.name}, which is not installed: pip install 'dartblur-edge[export]'"
            ) from error
        return TorchBackend(detector, generator, manifest)

    return Candidate(name, "pytorch", load)


def _graph(file: Path) -> Candidate:
    runner = next((runner for runner, graph in GRAPHS.items() if graph == file.name), None)
    if runner is None or not (file.parent / MANIFEST).is_file():
        raise InputError(
            f"{file}: expected fused.onnx or fused-half.onnx in its bundle, whose manifest tells the sizes: "
            "give BUNDLE:fused"
        )
    return _bundle(str(file), str(file.parent), runner)


def _bundle(name: str, root: str, runner: str) -> Candidate:
    if not bundle_path(root).exists():
        raise InputError(
            f"{root}: expected default, {', '.join(MODELS)}, a bundle, engine, fused graph, or folder of weights, "
            "nothing is there: check the name"
        )
    bundle = load_bundle(root)
    graph = GRAPHS.get(runner)
    if graph is not None and graph not in bundle.graphs:
        raise InputError(f"{root}: expected {graph}, this bundle has {', '.join(bundle.graphs)}: export it again")
    return Candidate(name, runner, partial(_load_bundle, bundle, runner), bundle.manifest)


def _load_bundle(bundle: Bundle, runner: str, _: Manifest) -> Backend:
    if runner == "cpu":
        from ..backends.cpu import CpuBackend

        return CpuBackend(bundle)
    if runner == "onnxruntime-gpu":
        from ..backends.ort_gpu import OrtGpuBackend

        return OrtGpuBackend(bundle, graph=GRAPHS[runner])
    from ..backends.fused_cpu import FusedCpuBackend

    return FusedCpuBackend(bundle, GRAPHS[runner])
