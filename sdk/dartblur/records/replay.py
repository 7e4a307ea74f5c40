"""`Renderer`: covers the frames of a source again as an audit log says, without looking for faces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from ..anonymizer import Anonymizer
from ..boxes import scale_boxes
from ..errors import InputError
from ..frame import Frame, RedactedFrame, cover_whole, repeat
from ..stream.uris import shown
from .audit_reading import Audit, Entry

if TYPE_CHECKING:
    from ..stream import Source

Missing = Literal["refuse", "solid"]
MISSING: tuple[Missing, ...] = get_args(Missing)

SAME_TIME_S = 1e-3
"""Frames are counted: where one more can't be decoded than when the log was made, the next ones come at other times."""

NOT_IN_LOG = "not-in-audit"
"""The fault of a frame that the log doesn't have."""


class Renderer:
    """A stage of a pipeline that covers exactly the boxes of an audit log, by the methods that stand there.

    A frame with a fault is covered whole, or shows the frame before it, as it did. Of an unedited log the pixels are
    those of the run, if the model is the same.

    Args:
        anonymizer: overwrites; its method and box scale don't matter.
        audit: what to cover.
        missing: what becomes of a frame that the log doesn't have: ``refuse``, or ``solid`` to cover it whole.
        source: of the frames; pictures of a folder are then compared by name as well.
        shortened: the source may end before the log does.

    Raises:
        InputError: `missing` is neither, or there are fewer pictures than the log has.
    """

    def __init__(
        self,
        anonymizer: Anonymizer,
        audit: Audit,
        *,
        missing: Missing = "refuse",
        source: Source | None = None,
        shortened: bool = False,
    ) -> None:
        if missing not in MISSING:
            raise InputError(f"missing: expected one of {', '.join(MISSING)}, got {missing!r}")
        self._anonymizer, self._audit, self._missing = anonymizer, audit, missing
        self._source, self._shortened = source, shortened
        self._left = set(audit.frames)
        self._last: RedactedFrame | None = None
        self._rendered: list[RedactedFrame] = []
        if source is not None and not source.info.moving and source.info.frames is not None:
            # Pictures are written one by one, so what can be known before is checked before.
            self._check_ends({index for index in self._left if index >= (source.info.frames)})

    @property
    def full(self) -> bool:
        """Whether the oldest frame is to be finished before another is begun."""
        return bool(self._rendered)

    def __len__(self) -> int:
        """Frames that have been begun and not finished."""
        return len(self._rendered)

    def begin(self, frame: Frame) -> None:
        """Renders a frame, whose pixels are overwritten in place.

        Raises:
            InputError: the log doesn't have it, or is of another picture.
            BackendError: it can't be overwritten.
        """
        self._rendered.append(self.render(frame))

    def render(self, frame: Frame) -> RedactedFrame:
        """The frame as the log says, its pixels overwritten in place; raises as `begin` does."""
        self._last = self._render(frame, self._entry(frame))
        return self._last

    def finish(self) -> Iterator[RedactedFrame]:
        """The oldest frame."""
        yield self._rendered.pop(0)

    def drain(self) -> Iterator[RedactedFrame]:
        """What still waits when there are no more frames.

        Raises:
            InputError: the log goes on.
        """
        while self._rendered:
            yield from self.finish()
        self._check_ends(self._left)

    def abandon(self) -> None:
        """Gives up all frames that are under way."""
        self._rendered.clear()

    def _check_ends(self, left: set[int]) -> None:
        """Refuses a log that has frames which the source hasn't."""
        if left and not self._shortened:
            first, others = min(left), len(left) - 1
            raise InputError(
                f"{self._audit.frames[first].where}: frame {first} is not in the source, nor are {others} others: "
                "expected the source of the log"
            )

    def _entry(self, frame: Frame) -> Entry | None:
        entry = self._audit.frames.get(frame.index)
        if entry is None:
            if self._missing == "refuse":
                raise InputError(
                    f"{self._audit.path}: expected a line for frame {frame.index}, got none: "
                    "give --missing solid to cover such frames whole"
                )
            return None
        self._left.discard(frame.index)
        height, width = frame.image.shape[:2]
        if entry.fault is None and entry.size != (width, height):
            recorded = "x".join(map(str, entry.size))
            raise InputError(
                f"{entry.where}: expected a source of {recorded} pixels, frame {frame.index} has {width}x{height}: "
                "is it the source of the log?"
            )
        moving = self._source is None or self._source.info.moving
        if moving and entry.time is not None and abs(entry.time - frame.time) > SAME_TIME_S:
            raise InputError(
                f"{entry.where}: expected frame {frame.index} at {entry.time:g} s, it is at {frame.time:g} s: "
                "is it the source of the log, undamaged?"
            )
        if entry.source is not None and self._source is not None:
            recorded, name = entry.source, shown(self._source.name_of(frame.index))
            if _below(recorded, self._audit.source) != _below(name, shown(self._source.info.uri)):
                raise InputError(
                    f"{entry.where}: expected {recorded} as frame {frame.index}, got {name}: "
                    "is it the source of the log?"
                )
        return entry

    def _render(self, frame: Frame, entry: Entry | None) -> RedactedFrame:
        if entry is None:
            return cover_whole(frame, NOT_IN_LOG)
        if entry.fault is not None:
            if entry.repeat and self._last is not None:
                return repeat(self._last, frame, entry.fault)
            return cover_whole(frame, entry.fault)
        anonymizer, coverage = self._anonymizer, entry.coverage
        # A backend that works ahead makes its patches of these boxes.
        held = scale_boxes(coverage.boxes, 1 / anonymizer.box_scale)
        pending = anonymizer.begin(frame, in_place=True, held=held)
        return pending.cover(entry.detections, coverage, entry.method)


def _below(name: str, uri: str) -> str:
    """A picture's path below the folder or pattern that it came from, which may have been moved since."""
    fixed = re.split(r"[*?\[]", uri, maxsplit=1)[0]
    root = fixed if fixed == uri or fixed.endswith("/") else str(Path(fixed).parent)
    path = Path(name)
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name
