"""Options that several commands share: which model looks, what runs it, and how closely it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FACES = "Faces"
"""Panel of the help."""

Model = Annotated[
    Path | None,
    typer.Option(help="nano, small, base, or a bundle (folder or zip). Default: small.", rich_help_panel=FACES),
]
BackendName = Annotated[
    str,
    typer.Option(
        help="auto (tensorrt with --engine, else cpu), cpu, tensorrt or onnxruntime-gpu.", rich_help_panel=FACES
    ),
]
Engine = Annotated[
    Path | None, typer.Option(help="Engine for tensorrt, made with 'dartblur build'.", rich_help_panel=FACES)
]
DetectSize = Annotated[
    str | None,
    typer.Option(
        help="Long side that frames are searched at, pixels, or auto: as large as frame and --detect-budget allow. "
        "Default: the model's, 640.",
        rich_help_panel=FACES,
    ),
]
DetectBudget = Annotated[
    float | None,
    typer.Option(help="Of --detect-size auto: seconds for a frame. Default: 0.1.", rich_help_panel=FACES),
]
Tiles = Annotated[
    str | None,
    typer.Option(
        help="Search also in overlapping tiles, for small faces in large frames: auto, or 3x2 (columns x rows).",
        rich_help_panel=FACES,
    ),
]
