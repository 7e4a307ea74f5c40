"""Cameras on a network: a real RTSP server and a real HTTP server on loopback."""

import base64
import http.server
import logging
import socket
import socketserver
import ssl
import subprocess
import threading
import time

import cv2
import numpy as np
import pytest

from dartblur.errors import SourceError
from dartblur.stream import SourceOptions, open_source
from dartblur.stream.sources.live_video import LiveVideo
from dartblur.stream.sources.network import connection_to, open_network

SECRETS = ("geheim", "anna")


@pytest.fixture(autouse=True)
def no_secret_is_printed(capfd, caplog):
    caplog.set_level(logging.DEBUG)
    yield
    printed = "".join(capfd.readouterr()) + caplog.text
    assert not any(secret in printed for secret in SECRETS), printed


def read(source, enough, seconds=30.0, also=lambda event: None):
    """Frames until `enough(frames, events)`, and the events meanwhile, of each of which `also` is told."""
    events, frames = [], []
    source.observe = lambda event: (events.append(event), also(event))
    timer = threading.Timer(seconds, source.stop)
    timer.start()
    with source:
        for frame in source:
            frames.append(frame)
            if enough(frames, events):
                break
        else:
            pytest.fail(f"it ended or took longer than {seconds} s: {len(frames)} frames, {events}")
    timer.cancel()
    assert not any(secret in event.message for event in events for secret in SECRETS)
    return frames, events


def kinds(events):
    return [event.kind for event in events if event.kind != "dropped"]


def times_are_fine(frames):
    times = [frame.time for frame in frames]
    return times == sorted(set(times)) and times[-1] <= frames[-1].captured - frames[0].captured + 0.01


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize(
    ("codec", "transport"), [("h264", "tcp"), ("h264", "udp"), ("h265", "tcp"), ("mjpeg", "tcp"), ("vp8", "tcp")]
)
def test_rtsp(rtsp_server, codec, transport):
    server = rtsp_server("--codec", codec, "--protocol", transport, "--pattern", "smpte")
    source = open_network(server.url(), transport=transport)
    assert (source.info.width, source.info.height, source.info.live) == (320, 240, True)
    frames, events = read(source, lambda frames, _: len(frames) == 20)
    assert kinds(events) == ["connected"]
    assert times_are_fine(frames)
    assert source.damaged == 0
    # Bars: white, yellow, ... blue.
    columns = frames[-1].image[:100].mean(0)
    assert np.abs(columns[20] - 255).max() < 40
    assert np.abs(columns[68] - (0, 255, 255)).max() < 60
    assert np.abs(columns[300] - (255, 0, 0)).max() < 60


def test_the_scheme_may_name_the_transport(rtsp_server):
    server = rtsp_server("--protocol", "udp")
    read(open_network(server.url().replace("rtsp://", "rtspu://")), lambda frames, _: len(frames) == 3)


@pytest.mark.parametrize("auth", ["basic", "digest"])
def test_rtsp_with_a_password(rtsp_server, auth):
    server = rtsp_server("--user", "anna", "--password", "geheim", "--auth", auth)
    source = open_network(server.url(user="anna:geheim"))
    assert source.info.uri == f"rtsp://***@127.0.0.1:{server.port}/test"
    read(source, lambda frames, _: len(frames) == 3)


def error_of(uri, **options):
    """The message of the error; also looks through all that hangs on it, as a traceback would."""
    with pytest.raises(SourceError) as caught:
        open_network(uri, **options)
    error = caught.value
    while error is not None:
        assert not any(secret in f"{error!r}{error}{getattr(error, 'filename', '')}" for secret in SECRETS)
        error = error.__cause__ or error.__context__
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("auth", ["basic", "digest"])
def test_wrong_credentials(rtsp_server, auth):
    server = rtsp_server("--user", "anna", "--password", "richtig", "--auth", auth)
    for user in ("anna:geheim", ""):
        assert "wrong user or password" in error_of(server.url(user=user))


def test_what_is_wrong_with_an_rtsp_server_is_said(rtsp_server):
    server = rtsp_server("--codec", "g711")
    assert "(404)" in error_of(server.url("other", user="anna:geheim"))
    assert "does it send video" in error_of(server.url(user="anna:geheim"))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("rtsp://anna:geheim@127.0.0.1:{port}/x", "connection refused"),
        ("http://anna:geheim@127.0.0.1:{port}/x?token=geheim", "connection refused"),
        ("rtsp://anna:geheim@no-such-host.invalid/x", "isn't known"),
        ("rtsp://anna:geheim@/x", "no host"),
        ("http://anna:geheim@a:99999/x", "wrong port"),
        ("ftp://anna:geheim@a/x", "another scheme"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(uri, message):
    assert message in error_of(uri.format(port=free_port()))


def test_an_unknown_transport_is_named():
    with pytest.raises(SourceError, match="tcp or udp, got 'carrier pigeon'"):
        connection_to("rtsp://a/b", transport="carrier pigeon")


def test_a_connection_does_not_show_its_password():
    assert "geheim" not in repr(connection_to("rtsp://anna:geheim@host/x"))


def test_a_server_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr("dartblur.stream.sources.network.CONNECT_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        assert "no answer in time" in error_of(f"rtsp://anna:geheim@127.0.0.1:{silent.getsockname()[1]}/x")
        assert time.monotonic() - began < 3


def test_rtsp_comes_back_after_kill_9(rtsp_server):
    server = rtsp_server("--user", "anna", "--password", "geheim")
    killed = []

    def enough(frames, events):
        if len(frames) == 15:
            server.kill()
            killed.append(time.monotonic())
            server.restart()
        return kinds(events).count("connected") == 2 and len(frames) > 30

    frames, events = read(open_network(server.url(user="anna:geheim")), enough)
    assert kinds(events)[0] == "connected"
    assert "reconnecting" in kinds(events)
    assert times_are_fine(frames)
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})
    assert frames[-1].captured - killed[0] < 15


def test_a_frozen_rtsp_server_is_noticed_and_found_again(rtsp_server):
    server = rtsp_server()

    def enough(frames, events):
        if len(frames) == 15:
            server.freeze()
        return kinds(events).count("connected") == 2

    source = open_network(server.url(), stall=1.0)
    _, events = read(source, enough, also=lambda event: event.kind == "stalled" and server.thaw())
    assert kinds(events)[:3] == ["connected", "stalled", "reconnecting"]


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_the_size_changes_in_mid_stream(rtsp_server, codec):
    server = rtsp_server("--codec", codec, "--resize-to", "400x304", "--resize-after", "4", "--pattern", "smpte")
    frames, _ = read(open_network(server.url()), lambda frames, _: frames[-1].image.shape == (304, 400, 3))
    assert frames[0].image.shape == (240, 320, 3)
    assert np.abs(frames[-1].image[:100, 380].mean(0) - (255, 0, 0)).max() < 60


def balls(image):
    """How many separate bright things there are, and how far the largest is from a disc."""
    count, _, stats, _ = cv2.connectedComponentsWithStats((image[:, :, 1] > 100).astype(np.uint8))
    if count < 2:
        return 0, 1.0
    largest = stats[1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])]
    box = largest[cv2.CC_STAT_WIDTH] * largest[cv2.CC_STAT_HEIGHT]
    return count - 1, abs(largest[cv2.CC_STAT_AREA] / box - np.pi / 4)


@pytest.mark.parametrize(("codec", "transport"), [("h264", "udp"), ("h264", "tcp"), ("h265", "tcp")])
def test_no_frame_is_smeared_when_packets_are_lost(rtsp_server, codec, transport):
    """The picture is one white disc: a smeared frame shows more than one, or none that is round."""
    server = rtsp_server("--codec", codec, "--loss", "0.05", "--fps", "30", "--gop", "10")
    source = open_network(server.url(), transport=transport)
    frames, events = read(source, lambda frames, _: source.damaged > 8 and len(frames) > 60)
    assert kinds(events) == ["connected"]
    for frame in frames:
        count, bent = balls(frame.image)
        assert count == 1
        assert bent < 0.1


def texture(height, width, number):
    """A picture with detail everywhere, down to its last row; another one for each number."""
    rng = np.random.default_rng(number % 16)
    return cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), (9, 9), 0)


class Camera(http.server.BaseHTTPRequestHandler):
    """MJPEG as network cameras send it, a file, and what can go wrong."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    broken = False

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/private":
            expected = "Basic " + base64.b64encode(b"anna:geheim").decode()
            if self.headers.get("Authorization") != expected:
                return self.answer(401, {"WWW-Authenticate": 'Basic realm="camera"'})
            return self.mjpeg()
        if path == "/mjpeg":
            return self.mjpeg()
        if path == "/elsewhere":
            return self.answer(302, {"Location": "file:///etc/passwd"})
        if path in ("/403", "/500"):
            return self.answer(int(path[1:]), {})
        if path in self.files:
            data = self.files[path]
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            extent = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            return self.answer(206, {"Content-Length": str(len(data) - start), **extent}, data[start:])
        return self.answer(404, {})

    def answer(self, code, headers, body=b""):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def mjpeg(self):
        self.answer(200, {"Content-Type": "multipart/x-mixed-replace; boundary=frame"})
        number = 0
        try:
            while not self.server.stopping:
                size = (120, 160) if number < 20 else (96, 128)
                jpeg = cv2.imencode(".jpg", texture(*size, number))[1].tobytes()
                if self.server.broken and number % 4 == 3:
                    jpeg = jpeg[: len(jpeg) * 4 // 5]
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
                number += 1
                if number == self.server.hang_after:
                    self.server.released.wait()
                time.sleep(0.03)
        except OSError:
            pass

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    stopping = broken = False
    hang_after = -1

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Camera)
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def url(self, path, user=""):
        return f"http://{user}{'@' if user else ''}127.0.0.1:{self.server_port}{path}"

    def end(self):
        self.stopping = True
        self.released.set()
        self.shutdown()
        self.server_close()


@pytest.fixture
def camera():
    server = Server()
    yield server
    server.end()


def test_mjpeg_over_http(camera):
    source = open_network(camera.url("/mjpeg"))
    assert (source.info.width, source.info.height, source.info.live) == (160, 120, True)
    frames, events = read(source, lambda frames, _: len(frames) == 30)
    assert kinds(events) == ["connected"]
    assert {frame.image.shape for frame in frames} == {(120, 160, 3), (96, 128, 3)}  # the size changes
    assert times_are_fine(frames)


def test_mjpeg_with_a_password(camera):
    read(open_network(camera.url("/private", "anna:geheim")), lambda frames, _: len(frames) == 3)
    assert "wrong user or password" in error_of(camera.url("/private", "anna:wrong"))
    assert "wrong user or password" in error_of(camera.url("/private?token=geheim"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/403", "(403)"),
        ("/500", "(5xx)"),
        ("/other", "(404)"),
        ("/text", "not with a video"),
        ("/sound", "video stream"),
    ],
)
def test_what_is_wrong_with_an_http_server_is_said(camera, monkeypatch, tmp_path, path, message):
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\1" * 8000)
    monkeypatch.setattr(Camera, "files", {"/text": b"hello " * 500, "/sound": (tmp_path / "a.wav").read_bytes()})
    assert message in error_of(camera.url(path, "anna:geheim"))


def test_a_redirection_does_not_lead_to_files(camera):
    assert "passwd" not in error_of(camera.url("/elsewhere"))


def test_a_file_behind_http_gives_all_its_frames_and_ends(camera, monkeypatch, clip):
    monkeypatch.setattr(Camera, "files", {"/clip.mp4": clip.read_bytes()})
    with open_network(camera.url("/clip.mp4")) as source:
        assert not source.info.live
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(30))
    assert frames[-1].time == pytest.approx(29 / 30, abs=0.01)


def test_damaged_pictures_are_left_out_and_the_stream_goes_on(camera):
    camera.broken = True
    source = open_network(camera.url("/mjpeg"))
    frames, events = read(source, lambda frames, _: source.damaged >= 3)
    assert kinds(events) == ["connected"]
    for frame in frames:
        height, width = frame.image.shape[:2]
        differences = [np.abs(frame.image.astype(int) - texture(height, width, number)) for number in range(16)]
        best = min(differences, key=np.mean)
        assert best[-16:].mean() < best.mean() + 4 < 12


def test_http_stalls_and_comes_back(camera):
    camera.hang_after = 10

    def enough(_, events):
        if "stalled" in kinds(events):
            camera.hang_after = -1
        return kinds(events).count("connected") == 2

    _, events = read(open_network(camera.url("/mjpeg"), stall=0.5), enough)
    assert kinds(events) == ["connected", "stalled", "reconnecting", "connected"]


def test_a_certificate_must_be_valid(camera, require_system, monkeypatch, tmp_path):
    require_system("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    camera.socket = context.wrap_socket(camera.socket, server_side=True)
    url = f"https://anna:geheim@localhost:{camera.server_port}/private"
    assert "name a file with it (PEM) in the environment variable SSL_CERT_FILE" in error_of(url)
    read(open_network(url, verify=False), lambda frames, _: len(frames) == 2)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    read(open_network(url), lambda frames, _: len(frames) == 2)
    assert "certificate" in error_of(url.replace("localhost", "127.0.0.1"))


def test_without_reconnecting_the_loss_is_an_error(rtsp_server):
    server = rtsp_server("--user", "anna", "--password", "geheim")
    with open_network(server.url(user="anna:geheim"), reconnect=False) as source:
        frames = iter(source)
        next(frames)
        server.kill()
        with pytest.raises(SourceError) as caught:
            list(frames)
    assert "geheim" not in str(caught.value)


def test_sound_is_not_even_asked_for(rtsp_server):
    server = rtsp_server()
    with LiveVideo(connection_to(server.url())) as video:
        assert not video.finite
        assert video.notices == []


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("start", [0.0, 4.0])
def test_sound_may_go_on_for_longer_than_the_picture(camera, monkeypatch, tools, tmp_path, suffix, start):
    path = tmp_path / f"film{suffix}"
    first = round(start * 90_000)
    tools.make_clip(path, pts=range(first, first + 30 * 3000, 3000), sound=True, sound_s=9.0)
    monkeypatch.setattr(Camera, "files", {"/film": path.read_bytes()})
    with open_network(camera.url("/film")) as source:
        assert not source.info.live
        assert len(list(source)) == 30


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_file_behind_http_that_ends_early_is_an_error(camera, monkeypatch, tools, tmp_path, suffix):
    path = tmp_path / f"film{suffix}"
    pts = range(0, 150 * 3000, 3000)
    tools.make_clip(path, pts=pts, sound=True, container_options={"movflags": "faststart"} if suffix == ".mp4" else {})
    data = path.read_bytes()
    monkeypatch.setattr(Camera, "files", {"/film": data[: len(data) // 2]})
    with open_network(camera.url("/film")) as source, pytest.raises(SourceError, match=r"lost|can't be read on"):
        list(source)


@pytest.mark.parametrize("stall", [0, -1, float("nan"), float("inf")])
def test_a_patience_that_is_none_is_refused_before_anything_is_opened(monkeypatch, stall):
    def connect(*args, **options):
        raise AssertionError("connected")

    monkeypatch.setattr("dartblur.stream.sources.network.LiveVideo", connect)
    monkeypatch.setattr("dartblur.stream.sources.video_source.LiveVideo", connect)
    monkeypatch.setattr("dartblur.stream.sources.gstreamer.GstSource", connect)
    message = f"stall: expected seconds above 0, got {stall}: 5 suits most cameras"
    for uri in ("rtsp://cam/1", "http://cam/1", "v4l2:///dev/null", "gst:videotestsrc", "csi://0"):
        with pytest.raises(SourceError) as caught:
            open_source(uri, SourceOptions(stall=stall))
        assert str(caught.value) == f"{uri.removeprefix('v4l2://')}: {message}"
