"""Credentials are never shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dartblur.stream.uris import after_scheme, has_host, scheme_of, shown

TEXT = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), min_size=6, max_size=20)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("rtsp://anna:geheim@cam:554/1", "rtsp://***@cam:554/1"),
        ("rtsp://anna:ge@he/im?@cam/1", "rtsp://***@cam/1"),
        ("RTSPS://anna@cam/1", "RTSPS://***@cam/1"),
        ("http://cam/video?channel=1&token=abc&quality=2", "http://cam/video?channel=1&token=***&quality=2"),
        ("http://cam/cgi?usr=anna&pwd=geheim", "http://cam/cgi?usr=***&pwd=***"),
        ("http://cam/v?Password=a%20b#x", "http://cam/v?Password=***#x"),
        (
            "http://cam/v?api_key=1&access_token=2&X-Amz-Signature=3",
            "http://cam/v?api_key=***&access_token=***&X-Amz-Signature=***",
        ),
        (
            'gst:rtspsrc location=rtsp://a:b@c/d user-id=anna user-pw="ge heim" ! decodebin',
            "gst:rtspsrc location=rtsp://***@c/d user-id=*** user-pw=*** ! decodebin",
        ),
        (
            "gst:videotestsrc ! x264enc key-int-max=15 ! avdec_h264",
            "gst:videotestsrc ! x264enc key-int-max=15 ! avdec_h264",
        ),
        ("can't open 'rtsp://a:b@c/d': refused", "can't open 'rtsp://***@c/d': refused"),
        ("rtsp://cam/stream?monkey=1", "rtsp://cam/stream?monkey=1"),
        ("/home/a@b/file.mp4", "/home/a@b/file.mp4"),
        ("0", "0"),
    ],
)
def test_shown(uri, expected):
    assert shown(uri) == expected
    assert shown(shown(uri)) == expected


@given(TEXT, TEXT)
def test_no_password_is_shown_whatever_its_signs(user, password):
    text = shown(f"rtsp://{user}:{password}~~@camera.example/1: refused")
    assert f"{password}~~" not in text
    assert text == "rtsp://***@camera.example/1: refused"


@pytest.mark.parametrize(
    ("uri", "scheme", "rest"),
    [
        ("RTSP://a/b", "rtsp", "a/b"),
        ("gst:videotestsrc ! x", "gst", "videotestsrc ! x"),
        ("csi://0", "csi", "0"),
        ("a/b.mp4", "", "a/b.mp4"),
        ("0", "", "0"),
        ("gst/a.mp4", "", "gst/a.mp4"),
    ],
)
def test_parts(uri, scheme, rest):
    assert (scheme_of(uri), after_scheme(uri)) == (scheme, rest)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("rtsp://a", True),
        ("http://[::1]:80/x", True),
        ("rtsp://", False),
        ("rtsp:///x", False),
        ("http://a:99999/", False),
    ],
)
def test_a_host_is_needed(uri, expected):
    assert has_host(uri) is expected
