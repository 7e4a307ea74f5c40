"""Which backend runs a model, chosen by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from ..errors import InputError
from .base import Backend
from .scan import Scan

BackendName = Literal["auto", "cpu", "tensorrt", "onnxruntime-gpu"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """What a user has chosen.

    Attributes:
        name: ``cpu``, ``tensorrt``, ``onnxruntime-gpu``, or ``auto``: ``tensorrt`` with an engine, else ``cpu``.
        model: one of `bundle.MODELS`, or a bundle (folder or zip); None for the default one, or, with an engine, for
            whatever it was built from.
        engine: engine file; for ``tensorrt`` only.
        frame: width and height of the frames to come, pixels; None where they differ or aren't known.
        scan: how closely frames are searched; for ``cpu`` only, the graphs of GPUs have one size.

    Raises:
        InputError: there is no such backend, or it and the engine don't go together.
    """

    name: str = "auto"
    model: Path | None = None
    engine: Path | None = None
    frame: tuple[int, int] | None = None
    scan: Scan = field(default_factory=Scan)

    def __post_init__(self) -> None:
        if self.name not in BACKENDS:
            raise InputError(f"backend: expected one of {', '.join(BACKENDS)}, got {self.name!r}")
        if self.name == "tensorrt" and self.engine is None:
            raise InputError(
                "backend tensorrt: expected an engine, got none: add --engine FILE; make one with 'dartblur build'"
            )
        if self.name not in ("auto", "tensorrt") and self.engine is not None:
            raise InputError(
                f"backend {self.name}: expected no engine, got {self.engine}: leave it out, or use tensorrt"
            )
        if not self.scan.plain and (self.engine is not None or self.name not in ("auto", "cpu")):
            raise InputError(
                "detect size and tiles: expected none of them for a GPU, whose graph has one size: "
                "leave them out, or use the backend cpu"
            )


def load_backend(choice: BackendChoice) -> Backend:
    """The chosen backend, ready to run; never another one.

    Raises:
        BackendError: it isn't installed or can't run here.
        BundleError: bundle, engine or passport is missing, damaged, or doesn't go with the others.
    """
    from ..bundle import load_bundle

    if choice.engine is not None:
        from .trt import TensorRtBackend

        bundle = load_bundle(choice.model) if choice.model else None
        return TensorRtBackend(choice.engine, bundle, frame=choice.frame)
    if choice.name == "onnxruntime-gpu":
        from .ort_gpu import OrtGpuBackend

        return OrtGpuBackend(load_bundle(choice.model), frame=choice.frame)
    from .cpu import CpuBackend

    return CpuBackend(load_bundle(choice.model), scan=choice.scan)
