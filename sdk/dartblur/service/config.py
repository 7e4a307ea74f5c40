"""Reads the config file and says what it comes to, or all that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from ..backends.loading import BackendChoice
from ..backends.scan import Scan
from ..errors import InputError
from ..records.logs import Format
from ..session import PAGE, StreamSettings
from ..stream.media.files import reason
from ..stream.options import SinkOptions, SourceOptions
from ..stream.sources.network import SCHEMES
from ..stream.uris import scheme_of, shown
from .problems import ConfigError, problems_of
from .schema import Keys, LogKeys, ServiceKeys, StreamDefaults, StreamKeys, ValidationError
from .yaml_file import expanded, read_yaml

_Options = TypeVar("_Options")

SOURCE_SCHEMES = ("v4l2", "csi", "gst", *SCHEMES)
SINK_SCHEMES = ("http", "rtsp", "rtsps", "v4l2", "display", "gst")

_DIRECTIVE = re.compile(r"%[A-Za-z]")
_RECORDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """A service, as a user describes it.

    Attributes:
        streams: by name.
        choice: what runs the model, which they share.
        page, metrics: addresses; None: there is none.
        token: what page and metrics ask for; None for the environment's, or none on loopback.
        log_format: ``text`` or ``json``.
        log_level: ``debug``, ``info``, ``warning``, ``error`` or ``critical``.
    """

    streams: dict[str, StreamSettings]
    choice: BackendChoice = field(default_factory=BackendChoice)
    page: str | None = None
    metrics: str | None = None
    token: str | None = field(default=None, repr=False)
    log_format: Format = "text"
    log_level: str = "info"


def load_config(path: Path) -> ServiceSettings:
    """Reads and checks a config file; nothing of it is opened.

    Raises:
        ConfigError: with all that is wrong, one line each.
        InputError: it can't be read, or isn't YAML.
    """
    document = read_yaml(path)
    problems: list[str] = []
    filled = expanded({} if document is None else document, problems)
    try:
        keys = ServiceKeys.model_validate(filled)
    except ValidationError as error:
        # Messages show what stands in the file, and not the passwords that were put into it.
        problems += problems_of(error, document, _keys_at)
    if not problems:
        problems = _contradictions(keys)
    if not problems:
        try:
            return _settings(keys)
        except InputError as error:
            problems = [str(error)]
    raise ConfigError([f"{path}: {problem}" for problem in problems])


def _keys_at(place: Sequence[int | str]) -> Sequence[str]:
    model: type[Keys] = ServiceKeys
    if place:
        nested: dict[int | str, type[Keys]] = {"streams": StreamKeys, "defaults": StreamDefaults, "log": LogKeys}
        model = nested[place[0]]
    return list(model.model_fields)


def _contradictions(keys: ServiceKeys) -> list[str]:
    """Keys that are right alone and wrong together."""
    problems = [] if keys.streams else ["streams: expected at least one stream, got none"]
    taken: dict[str, str] = {}
    for name, stream in keys.streams.items():
        whole, path = _merged(keys, stream), f"streams.{name}"
        if (scheme := scheme_of(whole.source)) and scheme not in SOURCE_SCHEMES:
            problems.append(f"{path}.source: expected a file or {_list(SOURCE_SCHEMES)}, got {scheme}:")
        if whole.loop and not whole.realtime:
            problems.append(f"{path}.loop: expected realtime with it, got loop alone: add realtime: true")
        if not whole.sinks:
            problems.append(f"{path}.sinks: expected at least one sink, got none: add 'page', a file or a URI")
        for number, sink in enumerate(whole.sinks):
            here = f"{path}.sinks.{number}"
            if (scheme := scheme_of(sink)) and scheme not in SINK_SCHEMES:
                problems.append(f"{here}: expected page, a file, a folder or {_list(SINK_SCHEMES)}, got {scheme}:")
            if sink == PAGE and keys.page is None:
                problems.append(f"{here}: expected a page, the service has none: add page: http://127.0.0.1:8080")
            if _is_used_up(sink, whole):
                problems.append(
                    f"{here}: expected a name for each start of the stream, got {sink!r}: put the time into it, as "
                    f"{_stamped(sink)!r}, or give segment or overwrite"
                )
        files = [sink for sink in whole.sinks if sink != PAGE] + ([str(whole.audit)] if whole.audit else [])
        for file in files:
            if file in taken:
                problems.append(f"{path}: expected outputs of its own, {shown(file)!r} is also one of {taken[file]}")
            taken[file] = path
    return problems


def _is_used_up(sink: str, stream: StreamDefaults) -> bool:
    """Whether a stream that is started again would find its own recording in the way."""
    if scheme_of(sink) or Path(sink).suffix.lower() not in _RECORDINGS:
        return False
    return not (stream.segment or stream.overwrite or _DIRECTIVE.search(sink))


def _list(schemes: Sequence[str]) -> str:
    return ", ".join(f"{scheme}:" for scheme in schemes)


def _stamped(sink: str) -> str:
    path = Path(sink)
    return f"{path.with_suffix('')}-%Y%m%dT%H%M%S{path.suffix}"


def _merged(keys: ServiceKeys, stream: StreamKeys) -> StreamKeys:
    return StreamKeys.model_construct(**{**keys.defaults.given(), **stream.given()})


def _scan(keys: ServiceKeys) -> Scan:
    size = None if keys.detect_size is None else str(keys.detect_size)
    return Scan.of_text(size, keys.tiles, keys.detect_budget)


def _settings(keys: ServiceKeys) -> ServiceSettings:
    token = None if keys.token_file is None else _token(keys.token_file)
    return ServiceSettings(
        streams={name: _stream(name, _merged(keys, stream), token) for name, stream in keys.streams.items()},
        choice=BackendChoice(keys.backend, keys.model, keys.engine, scan=_scan(keys)),
        page=keys.page,
        metrics=keys.metrics,
        token=token,
        log_format=keys.log.format,
        log_level=keys.log.level,
    )


def _stream(name: str, keys: StreamKeys, token: str | None) -> StreamSettings:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in ((key, getattr(keys, key)) for key in StreamKeys.model_fields)
    }
    values |= {"source_options": _options(SourceOptions, values)}
    values |= {"sink_options": _options(SinkOptions, {**values, "token": token}), "name": name}
    return _options(StreamSettings, values)


def _options(kind: type[_Options], values: dict[str, Any]) -> _Options:
    return kind(**{each.name: values[each.name] for each in fields(kind)})  # type: ignore[arg-type]


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"token_file: {path}: can't be read: {reason(error)}") from error
    if not token:
        raise InputError(f"token_file: {path}: expected a token, the file is empty")
    return token
