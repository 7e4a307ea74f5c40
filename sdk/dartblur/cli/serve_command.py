"""``dartblur serve``: several streams from a config file, until it is told to end."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..service.config import ServiceSettings
    from ..service.supervisor import Supervisor


def serve(
    config: Annotated[Path | None, typer.Argument(help="The config file, YAML.", show_default=False)] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether the config file is right.")] = False,
    health: Annotated[bool, typer.Option("--health", help="Only ask the service that runs by it how it is.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Only print the JSON schema of the file.")] = False,
) -> None:
    """Run the streams of CONFIG.

    SIGTERM or Ctrl-C ends all within two seconds, with finished recordings. SIGHUP reads CONFIG again: streams that
    have changed are exchanged, the others go on. A stream that fails later is begun anew, again and again. What is
    wrong with CONFIG is said in a line each, with exit code 2.
    """
    from ..service.config import load_config
    from ..service.problems import ConfigError
    from ..service.schema import json_schema

    if schema:
        print(json.dumps(json_schema(), indent=2))
        return
    if config is None:
        raise InputError("serve: expected a config file, got none: dartblur serve config.yaml")
    try:
        settings = load_config(config)
    except ConfigError as error:
        for problem in error.problems:
            print(f"dartblur: {problem}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    if check:
        print(f"{config}: right, {len(settings.streams)} streams: {', '.join(settings.streams)}")
    elif health:
        _ask(settings)
    else:
        _run(config, settings)


def _ask(settings: ServiceSettings) -> None:
    from ..service.health import ask

    well, told = ask(settings)
    print(told)
    if not well:
        raise typer.Exit(1)


def _run(config: Path, settings: ServiceSettings) -> None:
    from ..records.logs import configure
    from ..service.serving import serve as run_service

    configure(settings.log_format, settings.log_level)
    if not run_service(config, settings, _supervisor):
        # A thread that hangs in a library would hold up an exit in order.
        logging.shutdown()
        sys.stderr.flush()
        os._exit(1)


def _supervisor(settings: ServiceSettings) -> Supervisor:
    from ..service.supervisor import Supervisor

    return Supervisor(settings)
