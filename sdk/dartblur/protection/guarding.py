"""Which guard a stream gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..anonymizer import Anonymizer
from .guard import Guard
from .policy import Protection
from .side_by_side import SideBySide

if TYPE_CHECKING:
    from ..stream.observers import Event
    from .self_check import Finding


@contextmanager
def guarded(
    anonymizer: Anonymizer,
    protection: Protection,
    model: str | Path | None = None,
    observe: Callable[[Event], None] = lambda event: None,
    *,
    moving: bool = True,
) -> Iterator[Guard | SideBySide]:
    """What anonymizes a stream: a guard, with a self-check where asked for, or several guards side by side for pictures
    that are apart, where the anonymizer takes several at once.

    Args:
        anonymizer, protection: of the guard.
        model: the bundle whose detector looks again; None for the built-in one.
        observe: is told what the self-check finds.
        moving: whether frames follow one another in time.

    Raises:
        BundleError: the model can't be loaded.
    """
    apart = protection.apart and not moving
    if apart and anonymizer.at_once > 1:
        with SideBySide(anonymizer, protection) as guards:
            yield guards
        return
    if not protection.self_check:
        yield Guard(anonymizer, protection, apart=apart)
        return
    from ..bundle import load_bundle
    from ..stream.observers import Event
    from .self_check import SelfCheck

    def found(finding: Finding) -> None:
        observe(Event(finding.kind, finding.message))
        if finding.kind == "uncovered":
            guard.cover_from_now_on(finding)

    bundle, allowed = load_bundle(model), protection.zones.allowed
    with SelfCheck(bundle, interval=protection.self_check, allowed=allowed, on_finding=found) as check:
        guard = Guard(anonymizer, protection, check)
        yield guard
