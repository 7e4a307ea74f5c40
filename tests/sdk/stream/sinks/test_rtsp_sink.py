"""Streams that are pushed to a real RTSP server arrive; a server that is lost is found again; nothing hangs."""

import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import SinkError
from dartblur.frame import Frame
from dartblur.stream.sinks import rtsp_sink
from dartblur.stream.sinks.rtsp_sink import RtspSink

PYTHON = "/usr/bin/python3"
BINDINGS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
HAS_SERVER = Path(PYTHON).exists() and not subprocess.run([PYTHON, "-c", BINDINGS], capture_output=True).returncode
needs_server = pytest.mark.skipif(not HAS_SERVER, reason="needs gir1.2-gst-rtsp-server-1.0 and python3-gi of Debian")

anonymize = Anonymizer(backend=FakeBackend())


class Server:
    """The RTSP server of the tests in a process of its own."""

    def __init__(self, *options, port=0):
        command = [PYTHON, str(Path(__file__).parents[1] / "rtsp_server.py"), "--port", str(port), *options]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.port = int(self.process.stdout.readline().split()[1])
        self.uri = f"rtsp://127.0.0.1:{self.port}/record"

    def stop(self):
        self.process.kill()
        self.process.communicate()


@contextmanager
def serving(*options, **more):
    server = Server(*options, **more)
    try:
        yield server
    finally:
        server.stop()


def push(tools, sink, count, fps=15.0, first=0):
    for index in range(first, first + count):
        sink.write(anonymize(Frame(tools.pattern(320, 240, index), index, index / fps)))
        time.sleep(1 / fps)


def wait_for_the_rest(recording):
    """Until a server that is about to be killed has written what it got: its file hasn't grown for half a second."""
    size, at, end = -1, 0.0, time.monotonic() + 10
    while size < 0 or time.monotonic() < at + 0.5:
        assert time.monotonic() < end
        if (now := recording.stat().st_size) != size:
            size, at = now, time.monotonic()
        time.sleep(0.05)


@needs_server
@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_the_server_gets_the_picture(tools, tmp_path, codec):
    with serving("--record", str(tmp_path / "out.ts"), "--record-codec", codec) as server:
        events = []
        with RtspSink(server.uri, codec=codec) as sink:
            sink.observe = events.append
            began = time.monotonic()
            push(tools, sink, 30)
            elapsed = time.monotonic() - began
        wait_for_the_rest(tmp_path / "out.ts")
    frames = tools.frames_of(tmp_path / "out.ts")
    assert 25 <= len(frames) <= 30
    first, last = (float(frame.pts * frame.time_base) for frame in (frames[0], frames[-1]))
    assert (len(frames) - 1) / 15 - 0.35 < last - first < elapsed + 0.35, "this server goes by arrival, too"
    shown = frames[0].to_ndarray(format="bgr24").astype(int)
    assert abs(shown - tools.pattern(320, 240, 0)).mean() < 8
    assert [event.kind for event in events] == ["connected"]
    assert sink.notices[0].startswith(f"video is encoded in {codec} by ")


@needs_server
def test_a_server_that_is_lost_is_found_again(tools, tmp_path):
    events = []
    with serving() as server, RtspSink(server.uri) as sink:
        sink.observe = events.append
        push(tools, sink, 10)
        server.stop()
        push(tools, sink, 20, first=10)
        assert [event.kind for event in events][:2] == ["connected", "reconnecting"]
        again = serving("--record", str(tmp_path / "out.ts"), port=server.port)
        with again:
            deadline = time.monotonic() + 10
            index = 30
            while [event.kind for event in events].count("connected") < 2 and time.monotonic() < deadline:
                push(tools, sink, 1, first=index)
                index += 1
            assert events[-1].kind == "connected"
            push(tools, sink, 20, first=index)
            sink.commit()
            wait_for_the_rest(tmp_path / "out.ts")
    assert len(tools.frames_of(tmp_path / "out.ts")) >= 15


@needs_server
@pytest.mark.parametrize("method", ["basic", "digest"])
def test_credentials_are_sent_and_never_shown(tools, tmp_path, method):
    with serving("--user", "ann", "--password", "sesame", "--auth", method) as server:
        uri = server.uri.replace("rtsp://", "rtsp://ann:sesame@")
        with RtspSink(uri) as sink:
            events = []
            sink.observe = events.append
            push(tools, sink, 3)
        assert [event.kind for event in events] == ["connected"]
        assert "sesame" not in f"{events} {sink.uri} {sink.notices}"

        wrong = RtspSink(uri.replace("sesame", "open-up"))
        with pytest.raises(SinkError, match="401 Unauthorized") as error:
            push(tools, wrong, 1)
        assert "open-up" not in str(error.value)
        assert "open-up" not in str(error.value.__cause__)
        wrong.discard()


@needs_server
def test_a_name_that_the_server_does_not_have(tools):
    with serving() as server:
        sink = RtspSink(server.uri.replace("record", "absent"))
        with pytest.raises(SinkError, match=r"does not take the stream.*404 Not Found"):
            push(tools, sink, 1)
        sink.discard()


def test_nobody_listens():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(SinkError, match=r"rtsp://\*\*\*@127.0.0.1:\d+/live: can't be reached: Connection refused"):
            RtspSink(f"rtsp://u:secret@127.0.0.1:{unused.getsockname()[1]}/live")


@pytest.mark.parametrize(
    ("uri", "options", "message"),
    [
        ("rtsp:///live", {}, "got no host"),
        ("rtsp://127.0.0.1:9/live", {"encoder": "x264"}, "expected auto or one of"),
        ("rtsp://127.0.0.1:9/live", {"bitrate": -5}, "at least 1000, got -5"),
    ],
)
def test_bad_options_are_named(uri, options, message):
    with pytest.raises(SinkError, match=message):
        RtspSink(uri, **options)


class DeafServer:
    """Answers as many requests as it is told to; then it keeps the connection and neither reads nor writes."""

    def __init__(self, answers):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.uri = f"rtsp://127.0.0.1:{self.socket.getsockname()[1]}/live"
        self.clients = []
        self.answers = answers
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.clients.append(client)
            with client.makefile("rb") as requests:
                for _ in range(self.answers):
                    if not requests.peek(1):
                        break
                    client.sendall(self.answer(requests))

    @staticmethod
    def answer(requests):
        lines = list(iter(lambda: requests.readline().decode().strip(), ""))
        fields = dict(line.split(": ", 1) for line in lines[1:])
        requests.read(int(fields.get("Content-Length", 0)))
        answer = [f"RTSP/1.0 200 OK\r\nCSeq: {fields['CSeq']}\r\nSession: 1"]
        if "Transport" in fields:
            answer.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
        return ("\r\n".join(answer) + "\r\n\r\n").encode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        for client in self.clients:
            client.close()


def test_a_server_that_does_not_answer_is_given_up(tools, monkeypatch):
    monkeypatch.setattr(rtsp_sink, "TIMEOUT_S", 0.5)
    with DeafServer(answers=0) as server:
        sink = RtspSink(server.uri)
        began = time.monotonic()
        with pytest.raises(SinkError, match="does not take the stream"):
            push(tools, sink, 1)
        sink.discard()
        assert time.monotonic() - began < 3


def test_a_server_that_stops_reading_is_given_up(tools, monkeypatch):
    monkeypatch.setattr(rtsp_sink, "TIMEOUT_S", 0.5)
    with DeafServer(answers=4) as server, RtspSink(server.uri, bitrate=20_000_000) as sink:
        events, slowest, noise = [], 0.0, np.random.default_rng(0)
        sink.observe = events.append
        for index in range(2000):
            frame = anonymize(Frame(noise.integers(0, 256, (480, 640, 3), np.uint8), index, index / 15))
            began = time.monotonic()
            sink.write(frame)
            slowest = max(slowest, time.monotonic() - began)
            if len(events) > 1:
                break
        assert [event.kind for event in events] == ["connected", "reconnecting"]
        assert slowest < 3
        began = time.monotonic()
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("broken", ["RtpPackets", "RtspPublisher"])
def test_half_a_connection_is_closed(monkeypatch, broken):
    open_now = []

    def part(name):
        class Part:
            def __init__(self, *args):
                if name == broken:
                    raise OSError("broke")
                open_now.append(name)

            def close(self):
                open_now.remove(name)

        return Part

    for name in ("RtpPackets", "RtspPublisher"):
        monkeypatch.setattr(rtsp_sink, name, part(name))
    monkeypatch.setattr(rtsp_sink, "describe", lambda codec, first: "")
    with pytest.raises(OSError, match="broke"):
        rtsp_sink._Connection("rtsp://127.0.0.1/x", "h264", None)
    assert not open_now
