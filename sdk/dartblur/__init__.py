"""DartBlur Edge: hides faces in pictures and video before they leave the device.

>>> import dartblur
>>> anonymize = dartblur.Anonymizer()          # doctest: +SKIP
>>> redacted = anonymize(frame)                # doctest: +SKIP
>>> redacted.image, redacted.detections        # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import (
    BackendError,
    BundleError,
    DartBlurError,
    FailClosedError,
    FrameError,
    InputError,
    SinkError,
    SourceError,
)

if TYPE_CHECKING:
    from .anonymizer import Anonymizer
    from .bundle import Bundle, Manifest, load_bundle
    from .detections import Detections
    from .frame import Frame, RedactedFrame

__version__ = "0.1.0"

_LAZY = {
    "Anonymizer": "anonymizer",
    "Bundle": "bundle",
    "Detections": "detections",
    "Frame": "frame",
    "Manifest": "bundle",
    "RedactedFrame": "frame",
    "load_bundle": "bundle",
}
"""Where each name lives; NumPy, OpenCV and ONNX Runtime are imported when the first of them is used."""

__all__ = [
    "Anonymizer",
    "BackendError",
    "Bundle",
    "BundleError",
    "DartBlurError",
    "Detections",
    "FailClosedError",
    "Frame",
    "FrameError",
    "InputError",
    "Manifest",
    "RedactedFrame",
    "SinkError",
    "SourceError",
    "__version__",
    "load_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
