"""What can go wrong in an export."""

from __future__ import annotations

from dartblur.errors import DartBlurError, InputError


class CheckpointError(InputError):
    """A checkpoint is missing or not of the expected kind."""


class ParityError(DartBlurError):
    """The exported graph does not compute what the network computes: nothing was written."""

    exit_code = 1
