"""The schema of the config file.

The keys of a stream are the attributes of `StreamSettings`, `SourceOptions` and `SinkOptions`, side by side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from ..anonymizer import Method
from ..backends.loading import BackendName
from ..errors import InputError
from ..protection.policy import OnFault
from ..protection.zones import parse_zone
from ..records.audit_files import SMALLEST
from ..records.logs import Format
from ..stream.sinks.encoders import DEFAULT_QUALITY, Codec

try:
    from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
    from pydantic import ValidationError as ValidationError
except ImportError as _error:
    raise InputError("serve: needs pydantic: pip install 'dartblur-edge[live]'") from _error

Level = Literal["debug", "info", "warning", "error", "critical"]


def _listed(given: Any) -> Any:
    """One text for a list of one."""
    return [given] if isinstance(given, str) else given


def _numbered(given: Any) -> Any:
    """A camera by its number."""
    return str(given) if isinstance(given, int) and not isinstance(given, bool) else given


def _zone(text: str) -> str:
    parse_zone(text)
    return text


Text = Annotated[str, StringConstraints(min_length=1)]
Texts = Annotated[list[Text], BeforeValidator(_listed, json_schema_input_type=str | list[str])]
Zone = Annotated[str, AfterValidator(_zone)]
ZoneTexts = Annotated[list[Zone], BeforeValidator(_listed, json_schema_input_type=str | list[str])]
Uri = Annotated[Text, BeforeValidator(_numbered, json_schema_input_type=str | int)]
File = Annotated[Path, Field(strict=False)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")]


class Keys(BaseModel):
    """Keys of the file. Nothing is guessed: an unknown key or another type is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, protected_namespaces=())

    def given(self) -> dict[str, Any]:
        """What stands in the file."""
        return {key: getattr(self, key) for key in self.model_fields_set}


class StreamDefaults(Keys):
    """What holds for all streams that don't say otherwise. A key that is absent means what fits the source."""

    sinks: Texts = Field(default=[], description="Where the frames go, by URI; 'page' is the page of the service.")
    method: Method = Field(default="dart", description="How faces are covered.")
    threshold: float | None = Field(default=None, gt=0, lt=1, description="Lowest score of a face.")
    box_scale: float | None = Field(default=None, ge=1, le=4, description="Covered box by face box.")
    hold: float | None = Field(default=None, ge=0, le=60, description="Seconds that a lost face stays covered.")
    lookahead: int | None = Field(default=None, ge=0, le=120, description="Frames that the output is late.")
    on_fault: OnFault | None = Field(default=None, description="What leaves for a frame that can't be anonymized.")
    timeout: float | None = Field(default=None, gt=0, le=600, description="Seconds that a frame may take.")
    self_check: float | None = Field(default=None, ge=0, le=3600, description="Seconds between self-checks; 0: none.")
    blur_zones: ZoneTexts = Field(default=[], description="Areas that are always covered: x0,y0,x1,y1, pixels or %.")
    clear_zones: ZoneTexts = Field(default=[], description="Areas whose faces are left clear.")
    audit: File | None = Field(default=None, description="File for the audit log.")
    audit_bytes: int = Field(default=50_000_000, ge=SMALLEST, description="Size at which the audit log is rotated.")
    keep_going: bool = Field(default=False, description="Take what there is of a video file that was cut short.")
    realtime: bool = Field(default=False, description="Read a file or folder as if it were a camera.")
    loop: bool = Field(default=False, description="Begin a file that is read in real time anew when it ends.")
    rtsp_transport: Literal["tcp", "udp"] = Field(default="tcp", description="How RTSP is carried.")
    stall: float = Field(default=5.0, gt=0, description="Seconds without a frame until a camera counts as lost.")
    reconnect: bool = Field(default=True, description="Try again for ever when a camera is lost.")
    overwrite: bool = Field(default=False, description="Files that exist may be replaced.")
    quality: int = Field(default=DEFAULT_QUALITY, ge=0, le=51, description="Of video: 0 (lossless) .. 51 (worst).")
    codec: Codec | None = Field(default=None, description="Of video files and pushed streams.")
    encoder: Text = Field(default="auto", description="'auto', an encoder of FFmpeg, or 'gst:' and elements.")
    bitrate: int | None = Field(default=None, gt=0, description="Of a pushed stream, in bits a second.")
    segment: float | None = Field(default=None, ge=1, description="Seconds of a recording that go into one file.")
    pictures: Literal["jpg", "png"] = Field(default="jpg", description="Of a folder of pictures of a stream.")
    every: int = Field(default=1, ge=1, description="Of a folder of pictures: one in so many frames.")
    max_fps: float | None = Field(default=None, gt=0, description="Of a folder of pictures: most a second.")
    sound: bool = Field(default=True, description="Of a video file: its sound is copied.")
    metadata: bool = Field(default=True, description="Of files: tags, place, time and notes are copied.")


class StreamKeys(StreamDefaults):
    """One stream."""

    source: Uri = Field(description="Where the frames come from: file, folder, camera number or URI.")


class LogKeys(Keys):
    """The log."""

    format: Format = Field(default="text", description="Lines for people, or one JSON object each.")
    level: Level = Field(default="info", description="The least that is logged.")


class ServiceKeys(Keys):
    """The config file of 'dartblur serve'."""

    streams: dict[Name, StreamKeys] = Field(description="The streams by name.")
    defaults: StreamDefaults = Field(default=StreamDefaults(), description="For all streams.")
    model: File | None = Field(default=None, description="nano, small, base, or a bundle (folder or zip); none: small.")
    backend: BackendName = Field(default="auto", description="What runs the model.")
    engine: File | None = Field(default=None, description="Engine for TensorRT.")
    detect_size: Literal["auto"] | int | None = Field(
        default=None, description="Long side that frames are searched at, pixels, or auto; none: the model's."
    )
    detect_budget: float | None = Field(default=None, gt=0, description="Seconds that detect_size auto may take.")
    tiles: Text | None = Field(default=None, description="Search also in tiles: auto, or columns x rows as 3x2.")
    page: Text | None = Field(default=None, description="Where the page is served, as http://127.0.0.1:8080.")
    metrics: Text | None = Field(default=None, description="Where /metrics and /health are served: 127.0.0.1:9090.")
    token_file: File | None = Field(default=None, description="File with the token that page and metrics ask for.")
    log: LogKeys = Field(default=LogKeys(), description="What is logged, and how.")


def json_schema() -> dict[str, Any]:
    """The JSON schema of the file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ServiceKeys.model_json_schema()}
