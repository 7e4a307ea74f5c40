"""Checkpoints on disk: written whole or not at all, read without running any code in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def save_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Writes `state` to `file`; a run that is killed meanwhile leaves the old file as it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    torch.save(state, partial)
    partial.replace(file)


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote (or a published ``.pth``), tensors and plain values only."""
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state
