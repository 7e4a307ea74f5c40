"""DartBlur Edge: hides faces in pictures and video before they leave the device.

>>> import dartblur
>>> anonymize = dartblur.Anonymizer()                       # doctest: +SKIP
>>> redacted = anonymize(frame)                             # doctest: +SKIP
>>> redacted.image, redacted.detections                     # doctest: +SKIP

>>> for redacted in dartblur.open("rtsp://camera/1").anonymize():  # doctest: +SKIP
...     publish(redacted.image)
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
    TooManyFacesError,
)

if TYPE_CHECKING:
    from .anonymizer import Anonymizer
    from .bundle import Bundle, Manifest, load_bundle
    from .coverage import Coverage
    from .detections import Detections
    from .frame import Frame, RedactedFrame
    from .protection.policy import Protection
    from .protection.zones import Zones
    from .records.metrics import Metrics
    from .stream.observers import Event, Observer
    from .stream.options import SinkOptions, SourceOptions
    from .stream.sources.pushed import PushSource
    from .streams import AnonymizedStream, open

__version__ = "0.1.0"

_LAZY = {
    "AnonymizedStream": "streams",
    "Anonymizer": "anonymizer",
    "Bundle": "bundle",
    "Coverage": "coverage",
    "Detections": "detections",
    "Event": "stream.observers",
    "Frame": "frame",
    "Manifest": "bundle",
    "Metrics": "records.metrics",
    "Observer": "stream.observers",
    "Protection": "protection",
    "PushSource": "stream.sources.pushed",
    "RedactedFrame": "frame",
    "SinkOptions": "stream.options",
    "SourceOptions": "stream.options",
    "Zones": "protection.zones",
    "load_bundle": "bundle",
    "open": "streams",
}
"""Where each name lives; NumPy, OpenCV and ONNX Runtime are imported when the first of them is used."""

__all__ = [
    "AnonymizedStream",
    "Anonymizer",
    "BackendError",
    "Bundle",
    "BundleError",
    "Coverage",
    "DartBlurError",
    "Detections",
    "Event",
    "FailClosedError",
    "Frame",
    "FrameError",
    "InputError",
    "Manifest",
    "Metrics",
    "Observer",
    "Protection",
    "PushSource",
    "RedactedFrame",
    "SinkError",
    "SinkOptions",
    "SourceError",
    "SourceOptions",
    "TooManyFacesError",
    "Zones",
    "__version__",
    "load_bundle",
    "open",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
