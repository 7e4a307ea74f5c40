"""Tells a media file that was cut short.

Demuxers read what is there and end without a word, so half a recording would pass for a whole one. The outermost boxes
of MP4, Matroska and AVI say how long they are: one that reaches past the end of the file gives it away.
Formats made to be cut anywhere (MPEG-TS, raw streams) can't be told and pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"pnot", b"uuid", b"styp", b"sidx"}


def missing_bytes(path: Path) -> int:
    """How many bytes are missing at the end of a file, at least; 0 where it is whole or can't be told."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in _MP4_BOXES:
            end = _end_of_mp4(file, size)
        elif head[:4] == _EBML:
            end = _end_of_matroska(file)
        elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            end = 8 + int.from_bytes(head[4:8], "little")
        else:
            end = 0
    return max(0, end - size)


def lacks_index(path: Path) -> bool:
    """Whether an MP4 has no whole index (``moov``), without which none of its pictures can be found."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(8)[4:] not in _MP4_BOXES:
            return False
        boxes = dict(_boxes(file, size))
    # HEIF and AVIF have another one.
    return b"meta" not in boxes and (b"mdat" in boxes or b"moov" in boxes) and not 0 < boxes.get(b"moov", 0) <= size


def _end_of_mp4(file: BinaryIO, size: int) -> int:
    """Where the last top-level box ends."""
    return max((end for _kind, end in _boxes(file, size)), default=0)


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """The top-level boxes of an MP4 of this size: their kinds, and where they end."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            yield b"", position + 8
            return
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # a 64-bit length follows
            length = int.from_bytes(head[8:16], "big")
        if length == 0:  # up to the end of the file
            length = size - position
        if length < 8:  # garbage after the last box: the demuxer's business
            return
        position += length
        yield head[4:8], position


def _end_of_matroska(file: BinaryIO) -> int:
    """Where the segment ends, or 0 for a live recording, which doesn't know its length."""
    file.seek(4)
    header, _ = _ebml_length(file)
    file.seek(header or 0, 1)
    if file.read(4) != _SEGMENT:
        return 0
    length, unknown = _ebml_length(file)
    return 0 if unknown else file.tell() + length


def _ebml_length(file: BinaryIO) -> tuple[int, bool]:
    """A length of variable width: its value, and whether it stands for "unknown"."""
    first = file.read(1)
    if not first or first[0] == 0:
        return 0, True
    width = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(width - 1), "big") - (1 << (7 * width))
    return value, value == (1 << (7 * width)) - 1
