"""The set-up data of copied streams, without the pictures that may hide in it.

A container hands every decoder some bytes to begin with. Those of Vorbis hold the tags of the song, cover pictures
among them; those of ASS subtitles the whole head of the script, with whatever pictures and fonts it brings along.
"""

from __future__ import annotations

_ASS_SECTIONS = {"[script info]", "[v4 styles]", "[v4+ styles]", "[events]"}
_NO_COMMENTS = b"\x03vorbis" + bytes(4) + bytes(4) + b"\x01"
"""A Vorbis comment header: no vendor, no tags, the bit that ends it."""


def without_pictures(codec: str, data: bytes) -> bytes:
    """The set-up data of a sound or subtitle codec, in FFmpeg's name of it, as far as its decoder needs it.

    Raises:
        ValueError: it is not what this codec's has to be.
    """
    if codec == "vorbis":
        first, _, setup = _unlace(data)
        return _lace(first, _NO_COMMENTS, setup)
    if codec in ("ass", "ssa"):
        return _known_sections(data)
    return data


def _unlace(data: bytes) -> tuple[bytes, bytes, bytes]:
    """The three headers: their number less one and the lengths of the first two stand before them, in Xiph's lacing."""
    position, lengths = 1, [0, 0]
    for number in range(2):
        while data[position : position + 1] == b"\xff":
            lengths[number] += 255
            position += 1
        lengths[number] += int.from_bytes(data[position : position + 1], "big")
        position += 1
    second = position + lengths[0]
    third = second + lengths[1]
    headers = data[position:second], data[second:third], data[third:]
    if data[:1] != b"\x02" or [header[:7] for header in headers] != [bytes((n,)) + b"vorbis" for n in (1, 3, 5)]:
        raise ValueError("expected the three headers of Vorbis")
    return headers


def _lace(*headers: bytes) -> bytes:
    lengths = b"".join(b"\xff" * (len(header) // 255) + bytes((len(header) % 255,)) for header in headers[:-1])
    return bytes((len(headers) - 1,)) + lengths + b"".join(headers)


def _known_sections(script: bytes) -> bytes:
    """The sections that say how the lines look. ``[Graphics]`` and ``[Fonts]`` are files written as text."""
    kept, keeping = [], True
    for line in script.splitlines(keepends=True):
        # Encoded bytes may look like the head of a section too, so only the known ones count after an unknown one.
        text = line.strip(b"\xef\xbb\xbf \t\r\n").decode("utf-8", "replace").lower()
        if text.startswith("[") and (keeping or text in _ASS_SECTIONS):
            keeping = text in _ASS_SECTIONS
        if keeping:
            kept.append(line)
    return b"".join(kept)
