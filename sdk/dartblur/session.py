"""`Session`: one stream with all that belongs to it, from a description: source, model, protection, sinks, records."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from .anonymizer import METHODS, Anonymizer, Method
from .backends.loading import BackendChoice, load_backend
from .errors import InputError, SinkError
from .protection.guarding import guarded
from .protection.policy import OnFault, Protection
from .protection.zones import Zones
from .records.metrics import Metrics
from .stream import Sink, Source, Summary, open_sink, open_source, protection_for, run
from .stream.observers import Observer, Observers
from .stream.options import SinkOptions, SourceOptions
from .stream.uris import scheme_of, shown

if TYPE_CHECKING:
    from .records.audit import AuditLog
    from .stream.sinks.page import PageServer

PAGE = "page"
"""As a sink: the page that all streams of a service share."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """One stream, as a user describes it.

    Attributes:
        source: URI of where the frames come from.
        sinks: URIs of where they go.
        name: of the stream, in metrics, logs and on the page.
        method: ``dart``, ``gaussian``, ``pixelate`` or ``solid``.
        threshold: lowest score of a face; None for the model's.
        box_scale: covered box by face box; None for the model's.
        hold, lookahead, on_fault, timeout, self_check: as of `Protection`; None: what fits the source.
        blur_zones: areas that are always covered, as ``x0,y0,x1,y1`` in pixels or percent.
        clear_zones: areas whose faces are left clear.
        audit: file for the audit log.
        audit_bytes: of a live stream: size at which the log is rotated.
        source_options, sink_options: how sources are read and sinks are written.
    """

    source: str
    sinks: tuple[str, ...]
    name: str = ""
    method: Method = "dart"
    threshold: float | None = None
    box_scale: float | None = None
    hold: float | None = None
    lookahead: int | None = None
    on_fault: OnFault | None = None
    timeout: float | None = None
    self_check: float | None = None
    blur_zones: tuple[str, ...] = ()
    clear_zones: tuple[str, ...] = ()
    audit: Path | None = None
    audit_bytes: int = 50_000_000
    source_options: SourceOptions = field(default_factory=SourceOptions)
    sink_options: SinkOptions = field(default_factory=SinkOptions)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method: expected one of {', '.join(METHODS)}, got {self.method!r}")
        if not self.sinks:
            raise InputError(f"{shown(self.source)}: expected at least one sink, got none")
        if len(set(self.sinks)) < len(self.sinks):
            raise InputError(f"{shown(self.source)}: expected different sinks, got one twice")

    @property
    def zones(self) -> Zones:
        """The zones; raises `InputError` for text that is none."""
        return Zones(self.blur_zones, self.clear_zones)

    def protection(self, source: Source) -> Protection:
        """How the faces of this source are kept covered."""
        fitting = protection_for(source.info)
        return fitting.with_options(
            hold=self.hold,
            lookahead=self.lookahead,
            on_fault=self.on_fault,
            timeout=self.timeout,
            self_check=self.self_check,
            zones=self.zones,
        )


class Session:
    """A stream, opened; its block finishes what was written, or discards it after an error.

    The cheap checks come before the model is loaded. Whatever is opened later is finished earlier: an audit log gets
    its name after the output that it is of.

    Args:
        settings: the stream.
        choice: what runs the model, when no anonymizer is given.
        anonymizer: to share a model between streams.
        page: the page that a service's streams share, for the sink ``page``.
        observers: are told of frames and events, besides metrics and audit log.

    Attributes:
        metrics: what has happened so far.
        notices: what was left out on purpose, one line each.
        source: of the clear frames.

    Raises:
        DartBlurError: something of it can't be opened.
    """

    def __init__(
        self,
        settings: StreamSettings,
        choice: BackendChoice | None = None,
        *,
        anonymizer: Anonymizer | None = None,
        page: PageServer | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        self.settings = settings
        self.metrics = Metrics(settings.name or "live")
        self._choice, self._page = choice or BackendChoice(), page
        with ExitStack() as stack:
            self.source = stack.enter_context(open_source(settings.source, settings.source_options))
            self._protection = settings.protection(self.source)
            info = self.source.info
            _check_files(settings, info.live)
            if info.width:
                self._protection.zones.check(info.width, info.height)
            self._audit = self._open_audit(stack)
            self._sinks = [stack.enter_context(self._open_sink(uri)) for uri in settings.sinks]
            self._anonymizer = self._own_anonymizer(stack) if anonymizer is None else anonymizer
            self._begin_audit()
            audit = [] if self._audit is None else [self._audit]
            self._observers: list[Observer] = [*audit, self.metrics, *observers]
            self.notices = [*self.source.notices, *(notice for sink in self._sinks for notice in sink.notices)]
            self._stack = stack.pop_all()

    def run(
        self, *, on_progress: Callable[[Summary], None] | None = None, stop: threading.Event | None = None
    ) -> Summary:
        """Anonymizes until the source ends or is stopped; once only.

        Raises:
            DartBlurError: as of `stream.run`.
        """
        told = Observers(self._observers)
        moving = self.source.info.moving
        with guarded(self._anonymizer, self._protection, self._choice.model, told.on_event, moving=moving) as guard:
            return run(
                self.source,
                guard,
                self._sinks,
                protection=self._protection,
                observers=[told],
                on_progress=on_progress,
                stop=stop,
            )

    @property
    def remains(self) -> str:
        """What there is of the outputs after a run that didn't come to its end; empty for nothing."""
        kept = [f"{shown(sink.uri)}: {sink.remains}" for sink in self._sinks if sink.remains != Sink.remains]
        return "; ".join(kept)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    def _own_anonymizer(self, stack: ExitStack) -> Anonymizer:
        settings, info = self.settings, self.source.info
        choice = replace(self._choice, frame=(info.width, info.height)) if info.width else self._choice
        backend = load_backend(choice)
        stack.callback(backend.close)
        return Anonymizer(
            backend=backend, method=settings.method, threshold=settings.threshold, box_scale=settings.box_scale
        )

    def _open_sink(self, uri: str) -> Sink:
        if uri == PAGE:
            if self._page is None:
                raise SinkError("sink page: expected the page of a service, there is none: give http://127.0.0.1:8080")
            return self._page.add(self.metrics.stream, self.metrics)
        return open_sink(uri, self.source, self.settings.sink_options, metrics=self.metrics)

    def _open_audit(self, stack: ExitStack) -> AuditLog | None:
        path = self.settings.audit
        if path is None:
            return None
        if any(path.resolve() == Path(uri).resolve() for uri in self.settings.sinks):
            raise SinkError(f"{path}: the audit log and the output need two names")
        from .records.audit import AuditLog

        if self.source.info.live:
            return stack.enter_context(AuditLog.of_stream(path, max_bytes=self.settings.audit_bytes))
        overwrite = self.settings.sink_options.overwrite
        return stack.enter_context(AuditLog.of_file(path, sources=self.source.files, overwrite=overwrite))

    def _begin_audit(self) -> None:
        if self._audit is not None:
            from .records.audit import Header, model_sha256, policy_of

            model, policy = self._anonymizer.model_name, policy_of(self._anonymizer, self._protection)
            self._audit.begin(Header(self.source.info.uri, model, model_sha256(self._choice), policy))


def _check_files(settings: StreamSettings, live: bool) -> None:
    """Of several files, as a shell makes them of ``*.mp4``, all but the first would be taken for outputs."""
    files = [uri for uri in settings.sinks if uri != PAGE and not scheme_of(uri)]
    if not live and len(files) > 1:
        raise InputError(
            f"{shown(settings.source)}: expected one output file or folder, got {', '.join(files)}: several inputs are "
            "anonymized one after another, or as a folder of pictures"
        )
