"""The command ``dartblur``.

Exit codes: 0 done; 2 bad usage or input; 3 stopped because anonymization failed; 129, 130 or 143 interrupted; 1 a bug,
or a difference that ``verify`` has found.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from importlib import import_module
from typing import Annotated

import typer

from .. import __version__
from ..errors import DartBlurError
from .run_command import run

app = typer.Typer(
    name="dartblur",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(run)


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """Hide faces in video before a frame leaves the device."""
    if version:
        typer.echo(f"dartblur {__version__}")
        raise typer.Exit


_FORWARDED = {
    "serve": ("serve_command", "Run several streams from a config file, as a service."),
    "replay": ("replay_command", "Render a recording again from an audit log, edited or not."),
    "doctor": ("doctor", "Show what is installed, which backends work, and why not."),
    "train": ("training", "Train the detector and the learned blur (needs the extra 'train')."),
    "export": ("training", "Make a model bundle of trained weights (needs the extra 'export')."),
    "build": ("engines", "Build an engine for a GPU or Jetson (needs TensorRT or TensorRT-RTX)."),
    "inspect": ("engines", "Show what a bundle, ONNX graph or engine is."),
    "verify": ("comparing", "Compare what two models, engines or weights do with the same frames."),
    "bench": ("measuring", "Measure latency and frames a second of each stage."),
    "evaluate": ("evaluation", "Measure a blur: fidelities, recovery attack (needs the extra 'train')."),
    "dataset": ("dataset", "Write an anonymized copy of a data set (needs the extra 'train')."),
}
"""Commands whose module is loaded only when they are called: ``name: (module, help)``."""


def _forward(name: str, module: str, summary: str) -> None:
    """Adds a command that hands all its arguments to the function, or group of commands, `name` of a module."""

    def call(context: typer.Context) -> None:
        target = getattr(import_module(f"{__name__}.{module}"), name)
        if not isinstance(target, typer.Typer):
            function, target = target, typer.Typer(add_completion=False, rich_markup_mode=None)
            target.command()(function)
        target.pretty_exceptions_enable = False
        target(args=context.args, prog_name=f"dartblur {name}")

    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(name, help=summary, context_settings=settings, add_help_option=False)(call)


for _name, (_module, _summary) in _FORWARDED.items():
    _forward(_name, _module, _summary)


_IN_NETWORKS = ("dartblur-anonymize", "dartblur-guard")
"""Threads that may be inside of a network."""


def main() -> None:
    """Runs the command; an expected error is one line on stderr and its exit code."""
    try:
        _run()
    except SystemExit as ended:
        if any(thread.name in _IN_NETWORKS for thread in threading.enumerate()):
            # It was left behind, since it hangs or is slow, and would abort the interpreter's end.
            with suppress(OSError):  # whoever reads it may have gone
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
        raise


def _run() -> None:
    try:
        app()
    except DartBlurError as error:
        # One line, whatever a library or a file name has brought into the message.
        print("dartblur: " + " ".join(str(error).splitlines()), file=sys.stderr)
        sys.exit(error.exit_code)
    except ImportError as error:
        # Such as the OpenGL library that opencv-python's wheel wants and small systems lack.
        print(
            f"dartblur: {error}: run 'dartblur doctor'; for libGL install libgl1, or opencv-python-headless",
            file=sys.stderr,
        )
        sys.exit(2)
