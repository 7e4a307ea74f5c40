"""One picture file: read with what must be kept, written without what would give a face away.

A picture file may hold the same scene more than once: the EXIF thumbnail, a preview in the maker's notes, the pictures
of a multi-picture JPEG, a thumbnail in XMP or Photoshop segments. So nothing is copied as it is: the output is built
anew from the redacted pixels, the colour profile, and the EXIF fields one by one, without those that hold pictures.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import (  # every plugin registers one of the formats; the rest of Pillow's stay out
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    JpegImagePlugin,
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)
from PIL import Image as Pillow

import dartblur_ops as ops

from ...errors import SourceError
from ...frame import Image
from . import orientation
from .files import reason

SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""The formats that are read and written, by the suffix of the file."""

OTHERS = {
    ".avif", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".ico", ".pbm", ".pgm", ".ppm", ".tga", ".exr", ".hdr",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
}  # fmt: skip
"""Suffixes of pictures that are not."""

PNG_LEVEL = 3
"""Of 9: files are 2 % larger than at the usual 6, in less than half of the time, which is most of a picture's."""
JPEG_QUALITY = 95
_BECOMES = {
    "CMYK": "inks for printing (CMYK) became RGB",
    "P": "palette of colours became RGB",
    "PA": "palette of colours became RGB",
    "1": "black and white became grey",
    "LAB": "CIELAB became RGB",
    "YCbCr": "YCbCr became RGB",
}
"""What becomes of modes that aren't written."""
_MAX_FIELD_BYTES = 1024
"""Longer EXIF fields of raw bytes are previews, not notes."""

_NOT_COPIED = {
    0x00FE, 0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0111, 0x0115, 0x0116, 0x0117, 0x011C, 0x0140, 0x0142, 0x0143,
    0x0144, 0x0145, 0x0152, 0x0153,  # how the old pixels were stored
    0x014A, 0x0201, 0x0202, 0x501B, 0x5090, 0x5091, 0xC7D5,  # further pictures and thumbnails
    0x02BC, 0x83BB, 0x8649, 0x8773, 0x927C,  # XMP, IPTC, Photoshop, colour profile (kept by itself), maker's notes
    0x8769, 0x8825, 0xA005,  # pointers to the groups of fields, which are built anew
}  # fmt: skip
_ORIENTATION, _COLOUR_SPACE = 0x0112, 0xA001
_GROUPS = {ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo}
"""The groups of fields that are kept."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What a picture's output has to keep beside its pixels.

    Attributes:
        path: the file that it was read from.
        format: Pillow's name of the format.
        orientation: as EXIF numbers it, 1..8. Pixels are stored back this way, and the note stays. (TIFF is turned
            upright by the reader, which takes the note away: it is written upright.)
        grey: one channel only.
        alpha: uint8 ``[H, W]`` as stored, or None.
        exif, icc: raw bytes; empty or None where there are none.
        options: of Pillow's writer: colour subsampling, density, losslessness.
        losses: what the picture loses beside its faces, in a few words each.
    """

    path: Path
    format: str
    orientation: int
    grey: bool
    alpha: NDArray[np.uint8] | None
    exif: bytes
    icc: bytes | None
    options: dict[str, Any]
    losses: tuple[str, ...] = ()

    def without_notes(self) -> Keep:
        """Without what tells of place, time, camera and people: of EXIF what pixels can't be shown rightly without."""
        old, new = Pillow.Exif(), Pillow.Exif()
        if self.exif:
            old.load(self.exif)
        if _ORIENTATION in old:
            new[_ORIENTATION] = old[_ORIENTATION]
        colours = old.get_ifd(ExifTags.IFD.Exif).get(_COLOUR_SPACE)
        if colours is not None:
            new[ExifTags.IFD.Exif] = {_COLOUR_SPACE: colours}
        return replace(self, exif=new.tobytes() if len(new) else b"")

    def without_content(self) -> Keep:
        """What a picture that stands in for this one may keep: how it is written, and nothing that was in it."""
        return replace(self, orientation=1, alpha=None, exif=b"", icc=None)


def read(path: Path) -> tuple[Image, Keep]:
    """The upright pixels, uint8 ``[H, W, 3]`` BGR, and what is to be kept.

    Raises:
        SourceError: missing, damaged, not one of the formats, of more than 8 bits, or with several pictures.
    """
    try:
        data = path.read_bytes()
        with warnings.catch_warnings():
            # Of odd EXIF fields, and of pictures above 89 megapixels; above 179 Pillow refuses.
            warnings.simplefilter("ignore")
            with Pillow.open(io.BytesIO(data), formats=sorted(set(SUFFIXES.values()))) as picture:
                _check(path, picture, data)
                picture.load()
                return _take_apart(path, picture, data)
    except SourceError:
        raise
    except Exception as error:
        # Damaged notes make Pillow raise almost anything; one such picture isn't to end the run over a folder.
        raise SourceError(f"{path}: can't be read as a picture: {_what(error, path)}") from error


def write(path: Path, image: Image, covered: NDArray[np.float32], keep: Keep) -> None:
    """Writes redacted pixels (upright BGR) in the format and with the notes of their source.

    Args:
        path: the file to write.
        image: uint8 ``[H, W, 3]`` BGR, upright.
        covered: boxes ``[n, 4]``, xyxy pixels, that were overwritten: they become opaque, since the outline of a face
            can stand in the alpha channel too.
        keep: what `read` gave.

    Raises:
        OSError: it can't be written.
        ValueError, RuntimeError: the format can't take it, as Pillow says.
    """
    stored = orientation.to_stored(image, keep.orientation)
    pixels = cv2.cvtColor(stored, cv2.COLOR_BGR2GRAY if keep.grey else cv2.COLOR_BGR2RGB)
    picture = Pillow.fromarray(pixels)
    if keep.alpha is not None:
        hidden = np.zeros((*image.shape[:2], 3), np.uint8)
        ops.solid(hidden, covered, (255, 255, 255))
        opaque = orientation.to_stored(hidden, keep.orientation)[..., 0]
        picture.putalpha(Pillow.fromarray(np.maximum(keep.alpha, opaque)))
    notes: dict[str, Any] = {"icc_profile": keep.icc} if keep.icc else {}
    if keep.format == "TIFF":
        fields = notes["tiffinfo"] = _tiff_fields(keep.exif)
        if not _GROUPS.intersection(fields):
            # Pillow hands compressed pictures to a library that can't write groups of fields: those stay uncompressed.
            notes["compression"] = "tiff_lzw"
    elif keep.exif and keep.format != "BMP":
        notes["exif"] = keep.exif
    picture.save(path, keep.format, **keep.options, **notes)


def _what(error: Exception, path: Path) -> str:
    """What is wrong with a file that Pillow couldn't read."""
    if isinstance(error, UnidentifiedImageError):
        known = ", ".join(sorted(set(SUFFIXES.values())))
        return f"expected {known}, got something else" if path.stat().st_size else "the file is empty"
    return reason(error).splitlines()[0]


def _check(path: Path, picture: Pillow.Image, data: bytes) -> None:
    """Refuses by name what would lose bits or pictures."""
    bits = 8
    if picture.format == "PNG":
        bits = data[24]
    elif isinstance(picture, TiffImagePlugin.TiffImageFile):
        bits = max(picture.tag_v2.get(0x0102, (8,)))
    if bits > 8 or picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        raise SourceError(f"{path}: expected 8 bits a channel, got {max(bits, 16)}: convert it to 8 bits first")
    # A multi-picture JPEG is a photo with previews, of which the first is the photo; others are animations or pages.
    count = getattr(picture, "n_frames", 1)
    if count > 1 and picture.format != "MPO":
        raise SourceError(f"{path}: expected one picture, got {count} in one file: split it, or convert it to a video")


def _take_apart(path: Path, picture: Pillow.Image, data: bytes) -> tuple[Image, Keep]:
    exif = picture.getexif()
    turn = exif.get(_ORIENTATION, 1)
    turn = turn if turn in range(1, 9) else 1
    grey = picture.mode in ("1", "L", "LA")
    transparent = "A" in picture.getbands() or "transparency" in picture.info
    alpha = np.array(picture.convert("RGBA").getchannel("A")) if transparent else None
    rgb = np.array(picture.convert("RGBA").convert("RGB") if transparent else picture.convert("RGB"), np.uint8)
    keep = Keep(
        path=path,
        format="JPEG" if picture.format == "MPO" else str(picture.format),
        orientation=turn,
        grey=grey,
        alpha=alpha,
        exif=_clean_exif(exif),
        # A profile for printing inks says nothing about the RGB that they are converted to.
        icc=None if picture.mode == "CMYK" else picture.info.get("icc_profile"),
        options=_writer_options(picture, data),
        losses=_losses(picture),
    )
    bgr = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)
    return orientation.to_upright(bgr, turn), keep


def _losses(picture: Pillow.Image) -> tuple[str, ...]:
    further = getattr(picture, "n_frames", 1) - 1
    lost = [f"{further} further picture{'s' * (further > 1)} of the file left out"] if further else []
    became = _BECOMES.get(picture.mode)
    return (*lost, became) if became else tuple(lost)


def _writer_options(picture: Pillow.Image, data: bytes) -> dict[str, Any]:
    options: dict[str, Any] = {}
    density = picture.info.get("dpi")
    if density and all(0 < value < 65536 for value in density):
        options["dpi"] = tuple(float(value) for value in density)
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
        sampling = JpegImagePlugin.get_sampling(picture)
        options |= {"quality": JPEG_QUALITY, "subsampling": sampling if sampling in (0, 1, 2) else 0}
        options["progressive"] = bool(picture.info.get("progressive"))
    elif picture.format == "PNG":
        options["compress_level"] = PNG_LEVEL
    elif picture.format == "WEBP":
        options.pop("dpi", None)
        options |= {"lossless": b"VP8L" in data[:64], "quality": JPEG_QUALITY, "exact": True}
    return options


def _clean_exif(old: Pillow.Exif) -> bytes:
    """The fields one by one, without the thumbnail's group and without fields that may hold pictures."""
    new = Pillow.Exif()
    new.update(_plain(old))
    for group in sorted(_GROUPS):
        fields = _plain(old.get_ifd(group))
        if fields:
            new[group] = fields
    return new.tobytes() if len(new) else b""


def _plain(fields: Any) -> dict[int, Any]:
    return {
        tag: value
        for tag, value in fields.items()
        if tag not in _NOT_COPIED and not (isinstance(value, (bytes, str, tuple)) and len(value) > _MAX_FIELD_BYTES)
    }


def _tiff_fields(exif: bytes) -> Pillow.Exif:
    """For TIFF, whose own directory holds the fields."""
    fields = Pillow.Exif()
    if exif:
        fields.load(exif)
    return fields
