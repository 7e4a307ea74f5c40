"""Checkpoints on disk: written whole or not at all, read without running any code in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .data.labels import DataError

IN_HALF = ".half"
"""Ends the names of weights in a bundle's graph that are stored in half precision."""


def save_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Writes `state` to `file`; a run that is killed meanwhile leaves the old file as it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    torch.save(state, partial)
    partial.replace(file)


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote (or a published ``.pth``), tensors and plain values only.

    Raises:
        DataError: the file is missing, damaged, or holds anything else.
    """
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    # What torch's reader raises on bytes that are no checkpoint depends on the bytes.
    except (OSError, EOFError, RuntimeError, LookupError, ValueError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{file}: expected a checkpoint or published weights: {reason}") from error
    if not isinstance(state, dict):
        raise DataError(f"{file}: expected a checkpoint or published weights, got {type(state).__name__}")
    return state


def save_weights_file(file: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes ``.safetensors``, whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, partial, metadata)
    partial.replace(file)


def start_from(module: nn.Module, file: Path, prefix: str, may_miss: Callable[[str], bool] | None = None) -> None:
    """Loads the weights to start a training run from.

    Args:
        module: the network that gets them.
        file: ``.safetensors`` of an earlier run, or a graph of a bundle (``.onnx``), whose initializers keep the
            names of the weights behind `prefix`.
        prefix: see `file`.
        may_miss: names of weights that keep their start where the file has none.

    Raises:
        DataError: the file can't be read or holds weights of another network.
    """
    weights = _onnx_weights(file, prefix) if file.suffix == ".onnx" else _safetensors_weights(file)
    # An exported graph has no counters of batches, and none are needed.
    fill_in(module, weights, file, lambda name: name.endswith("num_batches_tracked") or (may_miss or _never)(name))


def fill_in(
    module: nn.Module, weights: Mapping[str, Tensor], file: Path, may_miss: Callable[[str], bool] | None = None
) -> None:
    """Loads weights that come from `file`.

    Args:
        module: gets them.
        weights: by name.
        file: for the message.
        may_miss: names that may be missing.

    Raises:
        DataError: a name is missing or too many, or a shape is another.
    """
    own = module.state_dict()
    # A graph also holds the constants that a network makes itself.
    constants = {name for name, _ in module.named_buffers()} - own.keys()
    weights = {name: value for name, value in weights.items() if name not in constants}
    missing = [name for name in own if name not in weights and not (may_miss or _never)(name)]
    unknown = [name for name in weights if name not in own]
    other = [name for name, value in weights.items() if name in own and value.shape != own[name].shape]
    for names, what in ((missing, "is missing"), (unknown, "is none of the network's"), (other, "has another shape")):
        if names:
            raise DataError(f"{file}: expected the weights of {type(module).__name__}; {names[0]!r} {what}")
    module.load_state_dict({**own, **weights})


def _never(_: str) -> bool:
    return False


def _safetensors_weights(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: expected a safetensors file of an earlier run: {error}") from error


def _onnx_weights(file: Path, prefix: str) -> dict[str, Tensor]:
    try:
        graph = onnx.load(file).graph
    except (OSError, DecodeError) as error:
        raise DataError(f"{file}: expected a graph of a bundle: {error}") from error
    tensors = {tensor.name.removesuffix(IN_HALF): tensor for tensor in graph.initializer}
    arrays = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in tensors.items() if name.startswith(prefix)}
    return {
        name.removeprefix(prefix): torch.from_numpy(
            array.astype(np.float32 if array.dtype == np.float16 else array.dtype)
        )
        for name, array in arrays.items()
    }
