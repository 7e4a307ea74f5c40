"""Tells from the bytes of H.264 pictures that one is missing.

Reference pictures are numbered (`frame_num`), and the decoder fills a gap in the numbers silently with a copy of an
older picture: what follows looks whole and is smeared. So the gap is looked for before decoding. Lost slices are
looked for as well: the decoder fills them in the same way.

Only streams with start codes are read, as they come over networks; of others nothing is said.
"""

from __future__ import annotations

from typing import NamedTuple

_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_SLICE, _DATA_PARTITION, _IDR, _SPS = 1, 2, 5, 7
_STEADY = 8
_HEAD = 64
"""Bytes of a slice that are looked at: its header's beginning has a few only."""


class Seen(NamedTuple):
    """What a packet shows.

    Attributes:
        whole: no slice is missing in it, as far as can be told.
        follows: no picture is missing before it.
    """

    whole: bool
    follows: bool


class Continuity:
    """Whether each picture of a stream is whole and follows the one before it.

    Args:
        extradata: parameter sets that came with the stream's description, with start codes; may be empty.
    """

    def __init__(self, extradata: bytes = b"") -> None:
        self._numbers: int | None = None  # how many there are before they begin anew; None: unknown, or gaps allowed
        self._planes = False
        self._last: int | None = None
        self._starts: tuple[int, ...] = ()
        self._steady = 0  # pictures in a row that were cut into the same slices
        self.look(extradata)

    def look(self, packet: bytes) -> Seen:
        """What a packet shows, which holds one picture. Call it for every packet."""
        whole, slices = True, []
        for nal in _nals(packet):
            kind, reference = nal[0] & 31, nal[0] >> 5 & 3
            try:
                if kind == _SPS:
                    self._read_sps(_Bits(nal[1:]))
                elif kind in (_SLICE, _DATA_PARTITION, _IDR):
                    slices.append(self._slice(_Bits(nal[1:_HEAD]), kind == _IDR, reference > 0))
            except IndexError:  # it ends too early
                whole = False
        if not slices:
            return Seen(whole, True)
        starts = tuple(start for start, _ in slices)
        # An encoder that cuts each picture anew, by bytes, gives no sign of a lost slice other than the first.
        lost = starts[0] != 0 or (self._steady >= _STEADY and set(starts) < set(self._starts))
        self._steady = self._steady + 1 if starts == self._starts else 0
        self._starts = starts
        return Seen(whole and not lost, all(follows for _, follows in slices))

    def _slice(self, bits: _Bits, idr: bool, reference: bool) -> tuple[int, bool]:
        """Number of the slice's first macroblock; whether the picture follows the one before."""
        first, _kind, _pps = bits.ue(), bits.ue(), bits.ue()
        if self._numbers is None:
            return first, True
        if self._planes:
            bits.u(2)
        number, last = bits.u(self._numbers.bit_length() - 1), self._last
        follows = idr or last is None or number in (last, (last + 1) % self._numbers)
        if reference or idr:
            self._last = number
        return first, follows

    def _read_sps(self, bits: _Bits) -> None:
        profile = bits.u(8)
        bits.u(16)
        bits.ue()
        self._planes = False
        if profile in _HIGH_PROFILES:
            chroma = bits.ue()
            self._planes = chroma == 3 and bool(bits.u(1))
            bits.ue(), bits.ue(), bits.u(1)
            if bits.u(1):
                for number in range(12 if chroma == 3 else 8):
                    if bits.u(1):
                        bits.skip_scaling_list(16 if number < 6 else 64)
        numbers = 1 << (bits.ue() + 4)
        order = bits.ue()
        if order == 0:
            bits.ue()
        elif order == 1:
            bits.u(1), bits.ue(), bits.ue()
            for _ in range(bits.ue()):
                bits.ue()
        bits.ue()
        gaps_allowed = bits.u(1)
        self._numbers = None if gaps_allowed else numbers


def _nals(data: bytes) -> list[bytes]:
    """The units between start codes."""
    units, at = [], data.find(b"\0\0\1")
    while at >= 0:
        after = data.find(b"\0\0\1", at + 3)
        unit = data[at + 3 : after if after >= 0 else len(data)]
        if unit:
            units.append(unit)
        at = after
    return units


class _Bits:
    """Reads bits and Exp-Golomb numbers; IndexError at the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data.replace(b"\0\0\3", b"\0\0")
        self._at = 0

    def u(self, count: int) -> int:
        """An unsigned number of so many bits."""
        value = 0
        for _ in range(count):
            value = value << 1 | (self._data[self._at >> 3] >> (7 - (self._at & 7)) & 1)
            self._at += 1
        return value

    def ue(self) -> int:
        """An unsigned Exp-Golomb number."""
        zeros = 0
        while not self.u(1):
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)

    def skip_scaling_list(self, size: int) -> None:
        """A list of scaling factors, which is coded by differences."""
        last = following = 8
        for _ in range(size):
            if following:
                code = self.ue()
                following = (last + ((code + 1) // 2 if code & 1 else -(code // 2))) % 256
            last = following or last
