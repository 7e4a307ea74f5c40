"""How faces are kept covered through a stream: what is done beside covering what the detector finds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from ..errors import InputError
from .zones import Zones

OnFault = Literal["solid", "hold", "drop", "stop"]
ON_FAULT: tuple[OnFault, ...] = get_args(OnFault)


@dataclass(frozen=True, slots=True)
class Protection:
    """What covers a face that the detector misses, and what leaves in place of a frame that can't be anonymized.

    Attributes:
        hold: seconds that a face stays covered after it was last found, for what is certainly a face; down to a quarter
            of it for what was found once and faintly. 0: each frame by itself.
        lookahead: frames that the output is late, so that a face is covered before it is found for the first time. On a
            GPU the model then runs twice a frame.
        on_fault: what leaves in place of a frame that can't be anonymized: ``solid`` (one colour), ``hold`` (the
            redacted picture before it, for `hold` seconds, then one colour), ``drop`` (nothing), or ``stop`` (the
            stream ends). The clear frame never does.
        timeout: seconds that anonymizing a frame may take; then it has failed. None: any time.
        zones: areas that are always covered, and areas whose faces are left clear.
        self_check: seconds between two frames that are looked at again after they were redacted; 0: never.
    """

    hold: float = 1.0
    lookahead: int = 0
    on_fault: OnFault = "solid"
    timeout: float | None = 1.0
    zones: Zones = field(default_factory=Zones)
    self_check: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.hold <= 60:
            raise InputError(f"hold: expected 0 to 60 seconds, got {self.hold}")
        if not 0 <= self.lookahead <= 120:
            raise InputError(f"lookahead: expected 0 to 120 frames, got {self.lookahead}")
        if self.on_fault not in ON_FAULT:
            raise InputError(f"on_fault: expected one of {', '.join(ON_FAULT)}, got {self.on_fault!r}")
        if self.timeout is not None and not 0 < self.timeout <= 600:
            raise InputError(f"timeout: expected more than 0 and at most 600 seconds, got {self.timeout}")
        if not 0 <= self.self_check <= 3600:
            raise InputError(f"self_check: expected 0 to 3600 seconds, got {self.self_check}")

    @property
    def apart(self) -> bool:
        """Whether, of pictures, what is covered in each depends on that one alone."""
        return not (self.hold or self.lookahead or self.self_check)

    @classmethod
    def of_camera(cls) -> Protection:
        """For a live source, which goes on whatever happens."""
        return cls(self_check=1.0)

    @classmethod
    def of_file(cls) -> Protection:
        """For a video file, which waits for whom it must, and of which nothing may be missing."""
        return cls(lookahead=5, on_fault="stop", timeout=60.0)

    @classmethod
    def of_pictures(cls) -> Protection:
        """For pictures that don't follow one another in time."""
        return cls(hold=0, on_fault="stop", timeout=60.0)

    def with_options(self, **options: Any) -> Protection:
        """The same with those options that are not None."""
        return replace(self, **{name: value for name, value in options.items() if value is not None})
