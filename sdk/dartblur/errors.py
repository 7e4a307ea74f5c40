"""What can go wrong, as one tree.

::

    DartBlurError
    +-- InputError           what the user gave can't be used            (exit code 2)
    |   +-- SourceError      a source is missing, empty, truncated or not media
    |   +-- SinkError        a sink exists, isn't writable or can't take the pictures
    |   +-- BundleError      a model bundle is missing, damaged or of an unknown version
    |   `-- FrameError       an array is not a frame: wrong shape, dtype or layout
    +-- BackendError         a backend isn't installed or can't run here  (exit code 2)
    `-- FailClosedError      anonymization failed and nothing may leave   (exit code 3)
        `-- TooManyFacesError    a frame has more faces than the model has room for

Every message says what was expected, what came and what to do, in one line.
"""

from __future__ import annotations


class DartBlurError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = 1


class InputError(DartBlurError, ValueError):
    """What the user gave can't be used."""

    exit_code = 2


class SourceError(InputError):
    """A source is missing, empty, truncated or not media."""


class SinkError(InputError):
    """A sink exists already, isn't writable or can't take the pictures."""


class BundleError(InputError):
    """A model bundle is missing, damaged or of an unknown version."""


class FrameError(InputError):
    """An array is not a frame: wrong shape, dtype or layout."""


class BackendError(DartBlurError):
    """A backend isn't installed or can't run here."""

    exit_code = 2


class FailClosedError(DartBlurError):
    """Anonymization failed, and nothing may leave."""

    exit_code = 3


class TooManyFacesError(FailClosedError):
    """A frame has more faces than the model has room for, so some may be missing."""
