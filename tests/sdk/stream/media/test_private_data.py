"""What decoders are set up with keeps no pictures."""

import pytest

from dartblur.stream.media.private_data import _lace, _unlace, without_pictures

HEADERS = (b"\x01vorbis" + b"a" * 23, b"\x03vorbis" + b"CLEAR-FACE" * 100, b"\x05vorbis" + b"c" * 3000)


def test_vorbis_loses_its_tags_only():
    assert _unlace(_lace(*HEADERS)) == HEADERS
    first, comments, setup = _unlace(without_pictures("vorbis", _lace(*HEADERS)))
    assert (first, setup) == (HEADERS[0], HEADERS[2])
    assert len(comments) == 16


@pytest.mark.parametrize("data", [b"", b"\x02", b"\x02\xff\xff", b"\x00\x1e" + HEADERS[0], _lace(*HEADERS[::-1])])
def test_what_is_not_vorbis_is_refused(data):
    with pytest.raises(ValueError, match="three headers"):
        without_pictures("vorbis", data)


def test_ass_keeps_the_sections_that_say_how_lines_look():
    kept = b"[Script Info]\r\nTitle: A\r\n\r\n[V4+ Styles]\r\nStyle: B\r\n"
    files = b"[Graphics]\r\nfilename: face.jpg\r\nCLEAR-FACE\r\n[CLEAR]FACE\r\n[Fonts]\r\nCLEAR-FACE\r\n"
    events = b"[Events]\r\nFormat: Text\r\n"
    assert without_pictures("ass", kept + files + events) == kept + events
    assert without_pictures("ssa", b"\xef\xbb\xbf" + kept) == b"\xef\xbb\xbf" + kept


def test_the_rest_stays():
    assert without_pictures("aac", b"\x12\x10") == b"\x12\x10"
