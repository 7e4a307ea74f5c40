"""The page's server: who may see it, what it shows, and that nobody holds it up."""

import asyncio
import http.client
import json
import logging
import re
import socket
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.errors import InputError, SinkError
from dartblur.frame import Frame, cover_whole
from dartblur.records.metrics import Metrics
from dartblur.stream.observers import Event
from dartblur.stream.sinks.page import PageServer, PageSink

pytest.importorskip("aiohttp")

HERE = "http://127.0.0.1:0"
FACE = (40, 30, 80, 70)
TOKEN = "correct-horse-battery"


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv("DARTBLUR_TOKEN", raising=False)


def redacted(index=0, size=(160, 120)):
    """Grey that grows lighter with the index, with a magenta face that is hidden."""
    image = np.full((size[1], size[0], 3), 40 + 10 * (index % 20), np.uint8)
    x0, y0, x1, y1 = FACE
    image[y0:y1, x0:x1] = (255, 0, 255)
    anonymizer = Anonymizer(backend=FakeBackend(lambda image: np.array([FACE], np.float32)))
    return anonymizer(Frame(image, index))


@contextmanager
def writing(sink, size=(160, 120), every=0.03):
    """Writes to a sink from a thread, all the time."""
    ending = threading.Event()

    def write():
        index = 0
        while not ending.wait(every):
            sink.write(redacted(index, size))
            index += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def ask(sink, path, method="GET", body=None, **headers):
    """Status, headers and body of a request; dashes of header names are written as underscores."""
    place = urlsplit(sink.url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=5)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names)
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def status(sink, path="/status"):
    return json.loads(ask(sink, path)[2])


@contextmanager
def watching(sink, path="/stream.mjpg"):
    """An open MJPEG stream, as a file."""
    place = urlsplit(sink.url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=5)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        assert reply.status == 200
        yield reply
    finally:
        connection.close()


def next_jpeg(reply):
    """The next picture of a stream, BGR; None after the last."""
    line = reply.readline()
    while not line.lower().startswith(b"content-length"):
        if not line or line.startswith(b"--dartblur-frame--"):
            return None
        line = reply.readline()
    reply.readline()
    return cv2.imdecode(np.frombuffer(reply.read(int(line.split(b":")[1])), np.uint8), cv2.IMREAD_COLOR)


def check_hidden(picture):
    x0, y0, x1, y1 = FACE
    assert picture[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].max() < 30
    colours = picture.astype(int)
    assert (np.minimum(colours[..., 0], colours[..., 2]) - colours[..., 1]).max() < 60  # no magenta anywhere


class TestPictures:
    def test_page_and_its_files(self):
        with PageSink(HERE) as sink:
            code, headers, body = ask(sink, "/")
            assert (code, headers.get_content_type()) == (200, "text/html")
            files = re.findall(r'(?:src|href)="(/assets/[^"]+)"', body.decode())
            assert len(set(files)) == 3
            for file in [*files, "/assets/picture.js", "/assets/list.js"]:
                assert ask(sink, file)[0] == 200
            for other in ("/assets/../sink.py", "/assets/%2e%2e%2fsink.py", "/assets/index.html", "/nothing", "/a/b/c"):
                assert ask(sink, other)[0] == 404

    def test_no_file_refers_to_another_host(self):
        with PageSink(HERE) as sink:
            for file in ("/", "/assets/page.js", "/assets/picture.js", "/assets/list.js", "/assets/page.css"):
                assert not re.search(rb"(https?:)?//[a-z]+\.", ask(sink, file)[2])
            assert b"style=" not in ask(sink, "/")[2]
            assert b"<script>" not in ask(sink, "/")[2]

    def test_snapshot(self):
        with PageSink(HERE) as sink:
            assert ask(sink, "/snapshot.jpg")[0] == 503
            sink.write(redacted(3, (1920, 1080)))
            code, headers, body = ask(sink, "/snapshot.jpg")
            assert (code, headers.get_content_type()) == (200, "image/jpeg")
            picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
            assert picture.shape == (1080, 1920, 3)
            check_hidden(picture)

    def test_mjpeg_moves_and_is_hidden(self):
        with PageSink(HERE) as sink, writing(sink), watching(sink) as reply:
            pictures = [next_jpeg(reply) for _ in range(5)]
            for picture in pictures:
                check_hidden(picture)
            assert len({int(picture[5, 5, 1]) // 5 for picture in pictures}) > 2

    def test_mjpeg_follows_the_size(self):
        with PageSink(HERE) as sink:
            sink.write(redacted(0, (160, 120)))
            with watching(sink) as reply:
                assert next_jpeg(reply).shape == (120, 160, 3)
                sink.write(redacted(1, (2561, 1441)))
                assert next_jpeg(reply).shape == (720, 1278, 3)

    def test_newcomers_of_a_still_source_see_its_last_picture(self):
        with PageSink(HERE) as sink:
            sink.write(redacted())
            with watching(sink) as first, watching(sink) as second:
                assert next_jpeg(first) is not None
                assert next_jpeg(second) is not None
                assert next_jpeg(first) is not None  # and is sent again, so that they know that the line holds

    def test_nothing_is_encoded_for_nobody_and_once_for_all(self):
        with PageSink(HERE) as sink:
            jpegs = sink._server._site._views["live"].jpegs
            for index in range(50):
                sink.write(redacted(index))
            assert jpegs.encodings == 0
            with watching(sink) as one, watching(sink) as two, watching(sink) as three:
                for reply in (one, two, three):
                    assert next_jpeg(reply) is not None
                assert jpegs.encodings == 1

    def test_a_browser_that_reads_nothing_holds_nobody_up(self):
        big = redacted(0, (1280, 720))
        big.image[:] = np.random.default_rng(1).integers(0, 256, big.image.shape, np.uint8)
        with PageSink(HERE) as sink, watching(sink) as reader:
            place = urlsplit(sink.url)
            with socket.create_connection((place.hostname, place.port)) as lazy:
                lazy.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
                times = []
                for _ in range(40):
                    began = time.monotonic()
                    sink.write(big)
                    times.append(time.monotonic() - began)
                    assert next_jpeg(reader) is not None
                assert sorted(times)[36] < 0.05, "but for what a busy machine does"
                assert sum(times) < 2

    def test_clear_frames_are_refused(self):
        with PageSink(HERE) as sink:
            with pytest.raises(TypeError, match="RedactedFrame only"):
                sink.write(Frame(np.zeros((8, 8, 3), np.uint8)))
            assert ask(sink, "/snapshot.jpg")[0] == 503


class TestNumbers:
    def test_health_says_how_the_stream_is(self):
        metrics = Metrics("front", stall_after=1.0)
        with PageSink(HERE, metrics=metrics, title="Front door") as sink:
            metrics.on_frame(redacted(), "cam")
            code, _, body = ask(sink, "/health")
            assert (code, json.loads(body)["state"], json.loads(body)["title"]) == (200, "connected", "Front door")
            time.sleep(1.2)
            assert status(sink)["state"] == "stalled"
            assert ask(sink, "/health")[0] == 503
            metrics.on_event(Event("reconnecting", "gone"))
            assert status(sink)["state"] == "reconnecting"
            metrics.on_event(Event("connected", "back"))
            metrics.on_frame(cover_whole(Frame(np.zeros((8, 8, 3), np.uint8)), "detector error"), "cam")
            assert status(sink)["state"] == "fail-closed"
            assert status(sink)["fault"] == "detector error"
            assert [event["kind"] for event in status(sink)["events"]] == ["reconnecting", "connected"]

    def test_page_counts_by_itself_where_nobody_else_does(self):
        with PageSink(HERE) as sink:
            for index in range(3):
                sink.write(redacted(index))
            assert status(sink)["frames"] == 3
            assert 'dartblur_faces_total{stream="live"} 3.0' in ask(sink, "/metrics")[2].decode()

    def test_watchers_are_counted(self):
        with PageSink(HERE) as sink:
            sink.write(redacted())
            with watching(sink) as reply:
                next_jpeg(reply)
                assert status(sink)["watchers"] == 1


class TestSeveralStreams:
    def test_each_has_its_path(self):
        with PageServer(HERE) as server, server.add("front") as front, server.add("back", title="Yard"):
            front.write(redacted())
            assert front.url == f"{server.url}front/"
            assert b'id="streams"' in ask(server, "/")[2]
            assert b'id="video"' in ask(server, "/front/")[2]
            assert ask(server, "/front/snapshot.jpg")[0] == 200
            assert ask(server, "/back/snapshot.jpg")[0] == 503
            code, _, body = ask(server, "/snapshot.jpg")
            assert (code, b"/front/, /back/" in body) == (404, True)
            assert [one["title"] for one in json.loads(ask(server, "/streams")[2])] == ["front", "Yard"]
            assert set(status(server, "/health")["streams"]) == {"front", "back"}
            assert status(server, "/back/health")["state"] == "starting"
            text = ask(server, "/metrics")[2].decode()
            assert 'stream="front"' in text
            assert 'stream="back"' in text
            with watching(server, "/front/stream.mjpg") as reply:
                assert next_jpeg(reply) is not None

    def test_one_may_end_and_come_again(self):
        with PageServer(HERE) as server, server.add("front") as front, server.add("back") as back:
            front.write(redacted())
            front.discard()
            assert status(server, "/front/status")["state"] == "failed"
            assert ask(server, "/front/health")[0] == 503
            back.write(redacted())
            assert ask(server, "/back/snapshot.jpg")[0] == 200
            with server.add("front") as again:
                again.write(redacted())
                assert status(server, "/front/status")["state"] == "connected"
            server.remove("front")
            server.remove("front")
            assert ask(server, "/front/")[0] == 404
            assert ask(server, "/health")[0] == 200
        server.remove("back")
        with pytest.raises(SinkError, match="server has ended"):
            server.add("front")

    @pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "metrics", "stream.mjpg", "é", "x" * 65])
    def test_names_that_are_no_path_are_refused(self, name):
        with PageServer(HERE) as server, pytest.raises(SinkError, match="expected a name of letters"):
            server.add(name)

    def test_same_name_twice_is_refused(self):
        with PageServer(HERE) as server, server.add("front"), pytest.raises(SinkError, match="'front' twice"):
            server.add("front")


ROUTES = (
    "/",
    "/status",
    "/streams",
    "/health",
    "/metrics",
    "/snapshot.jpg",
    "/stream.mjpg",
    "/assets/page.js",
    "/none",
)


class TestAccess:
    @pytest.mark.parametrize("path", ROUTES)
    def test_every_route_needs_the_token(self, path):
        with PageSink(HERE, token=TOKEN) as sink:
            assert ask(sink, path)[0] == 401
            assert ask(sink, f"{path}?token=wrong")[0] == 401
            assert ask(sink, path, Authorization="Bearer wrong")[0] == 401
            assert ask(sink, path, Cookie=f"dartblur_{urlsplit(sink.url).port}={TOKEN}")[0] == 401

    def test_offer_needs_the_token(self):
        with PageSink(HERE, token=TOKEN) as sink:
            assert ask(sink, "/offer", "POST", b"v=0", Content_Type="application/sdp")[0] == 401
            code, _, _ = ask(
                sink, "/offer", "POST", b"v=0", Content_Type="application/sdp", Authorization=f"Bearer {TOKEN}"
            )
            assert code == 400

    @pytest.mark.parametrize("way", ["query", "bearer", "cookie", "form"])
    def test_ways_to_give_it(self, way):
        with PageSink(HERE, token=TOKEN) as sink:
            if way == "query":
                assert ask(sink, f"/status?token={TOKEN}")[0] == 200
            elif way == "bearer":
                code, headers, _ = ask(sink, "/status", Authorization=f"Bearer {TOKEN}")
                assert (code, headers["Set-Cookie"]) == (200, None)
            elif way == "cookie":
                _, headers, _ = ask(sink, f"/?token={TOKEN}")
                cookie = headers["Set-Cookie"]
                assert "HttpOnly" in cookie
                assert "SameSite=Strict" in cookie
                assert TOKEN not in cookie
                assert ask(sink, "/status", Cookie=cookie.split(";")[0])[0] == 200
            else:
                form = {"Content_Type": "application/x-www-form-urlencoded"}
                code, headers, _ = ask(sink, "/", "POST", f"token={TOKEN}", **form)
                assert (code, headers["Location"]) == (303, "/")
                assert ask(sink, "/status", Cookie=headers["Set-Cookie"].split(";")[0])[0] == 200
                code, _, body = ask(sink, "/", "POST", "token=wrong", Accept="text/html", **form)
                assert (code, b'role="alert">' in body) == (401, True)

    def test_browsers_get_a_form(self):
        with PageSink(HERE, token=TOKEN) as sink:
            code, headers, body = ask(sink, "/", Accept="text/html,*/*")
            assert (code, headers.get_content_type()) == (401, "text/html")
            assert b'name="token"' in body
            assert ask(sink, "/assets/page.css")[0] == 200

    def test_guessing_is_slowed_down(self):
        with PageSink(HERE, token=TOKEN) as sink:
            cookie = ask(sink, f"/?token={TOKEN}")[1]["Set-Cookie"].split(";")[0]
            codes = [ask(sink, f"/status?token=guess{number}")[0] for number in range(12)]
            assert codes == [401] * 10 + [429] * 2
            code, headers, _ = ask(sink, f"/status?token={TOKEN}")
            assert (code, headers["Retry-After"]) == (429, "60")
            assert ask(sink, "/status", Cookie=cookie)[0] == 200  # who is in already stays in

    def test_failures_are_forgotten_and_counted_by_network(self):
        from dartblur.stream.sinks.page.access import Failures

        now = [0.0]
        failures = Failures(lambda: now[0])
        for number in range(10):
            failures.add(f"2001:db8::{number}")
        assert failures.too_many("2001:db8::ffff")
        assert not failures.too_many("2001:db8:1::1")
        assert not failures.too_many("192.168.1.1")
        for number in range(90):
            failures.add(f"192.168.1.{number}")
        assert failures.too_many("10.0.0.1")
        now[0] = 61.0
        assert not failures.too_many("2001:db8::1")

    def test_token_is_never_logged(self, caplog, capfd):
        caplog.set_level(logging.DEBUG)
        with PageSink(HERE, token=TOKEN) as sink:
            sink.write(redacted())
            for path in ("/", "/status", "/snapshot.jpg", "/none"):
                ask(sink, f"{path}?token={TOKEN}")
            ask(sink, "/offer?token=" + TOKEN, "POST", b"v=0", Content_Type="application/sdp")
            place = urlsplit(sink.url)
            with socket.create_connection((place.hostname, place.port)) as raw:
                raw.sendall(f"GET /?token={TOKEN} HTTP/9.x\r\n\x00bad\r\n\r\n".encode())
                assert b"400" in raw.recv(1000)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("dartblur.stream.sinks.page.site.jpeg", lambda image: 1 / 0)
                assert ask(sink, f"/snapshot.jpg?token={TOKEN}")[0] == 500
        out = capfd.readouterr()
        assert "ZeroDivisionError" in caplog.text
        assert TOKEN not in caplog.text + out.out + out.err

    def test_token_of_the_environment(self, monkeypatch):
        monkeypatch.setenv("DARTBLUR_TOKEN", "from-the-environment")
        with PageSink(HERE) as sink:
            assert ask(sink, "/status")[0] == 401
            assert ask(sink, "/status?token=from-the-environment")[0] == 200

    @pytest.mark.parametrize("token", ["short", "with space in it", "ünicode-token", "line\nbreak-token"])
    def test_bad_tokens_are_refused_and_not_shown(self, token):
        with pytest.raises(InputError, match="token: expected at least 8") as error:
            PageSink(HERE, token=token)
        assert token not in str(error.value)

    def test_other_names_of_this_host_are_refused(self):
        with PageSink(HERE) as sink:
            port = urlsplit(sink.url).port
            for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1", "[", ""):
                assert ask(sink, "/status", Host=host)[0] == 421
            for host in ("localhost", f"127.0.0.1:{port}", "[::1]:99"):
                assert ask(sink, "/status", Host=host)[0] == 200

    def test_reverse_proxies_have_names_of_their_own(self):
        with PageSink(HERE, token=TOKEN) as sink:
            assert ask(sink, "/status", Host="camera.example")[0] == 401
            assert ask(sink, "/status", Host="camera.example", Authorization=f"Bearer {TOKEN}")[0] == 200

    def test_other_sites_are_refused(self):
        with PageSink(HERE) as sink:
            own = sink.url.rstrip("/")
            sdp = {"method": "POST", "body": b"v=0", "Content_Type": "application/sdp"}
            assert ask(sink, "/offer", Origin="http://evil.example", **sdp)[0] == 403
            assert ask(sink, "/offer", Origin="null", **sdp)[0] == 403
            assert ask(sink, "/offer", Origin=own, **sdp)[0] == 400
            assert ask(sink, "/snapshot.jpg", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="image")[0] == 403
            assert ask(sink, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="document")[0] == 200  # a link

    @pytest.mark.parametrize("path", ["/", "/status", "/none", "/assets/page.js", "/metrics"])
    @pytest.mark.parametrize("token", [None, TOKEN])
    def test_security_headers(self, path, token):
        with PageSink(HERE, token=token) as sink:
            headers = ask(sink, path)[1]
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"
            assert "aiohttp" not in headers["Server"]


class TestAddresses:
    def test_everywhere_makes_and_prints_a_token(self, capfd):
        with PageSink("http://0.0.0.0:0") as sink:
            printed = capfd.readouterr().err
            found = re.fullmatch(r"dartblur: open (http://\S+:\d+/)\?token=(\S{20,})\n", printed)
            assert found
            assert (found[1], found[2]) == (sink.url, sink.token)
            port = urlsplit(sink.url).port
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            for query, code in (("", 401), (f"?token={sink.token}", 200)):
                connection.request("GET", f"/status{query}", headers={"Host": "camera.local"})
                reply = connection.getresponse()
                assert reply.status == code
                reply.read()
            connection.close()
        assert TOKEN not in capfd.readouterr().err

    def test_given_token_is_not_printed(self, capfd):
        with PageSink("http://0.0.0.0:0", token=TOKEN):
            pass
        assert capfd.readouterr() == ("", "")

    @pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
    @pytest.mark.parametrize(("uri", "hosts"), [("http://[::1]:0", ["::1"]), ("http://[::]:0", ["::1", "127.0.0.1"])])
    def test_ipv6(self, uri, hosts):
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 loopback here")
        with PageSink(uri, token=TOKEN) as sink:
            for host in hosts:
                connection = http.client.HTTPConnection(host, urlsplit(sink.url).port, timeout=5)
                connection.request("GET", f"/status?token={TOKEN}")
                assert connection.getresponse().status == 200
                connection.close()

    def test_port_in_use(self):
        with PageSink(HERE) as sink:
            port = urlsplit(sink.url).port
            with pytest.raises(
                SinkError, match=rf"^http://127\.0\.0\.1:{port}: can't be served: Address .* in use: .*$"
            ):
                PageSink(f"http://127.0.0.1:{port}")

    @pytest.mark.parametrize(
        "uri",
        [
            "http://",
            "http://127.0.0.1",
            "http://127.0.0.1:http",
            "http://127.0.0.1:99999",
            "http://127.0.0.1:8080/path",
            "http://[::1",
            "http://nosuchhost.invalid:8080",
            "http://198.51.100.1:8080",
            "https://127.0.0.1:8443",
            "",
        ],
    )
    def test_bad_addresses(self, uri):
        with pytest.raises(SinkError) as error:
            PageSink(uri)
        assert "\n" not in str(error.value)
        assert "expected http://HOST:PORT" in str(error.value) or "can't be served" in str(error.value)

    @pytest.mark.parametrize("uri", ["http://me:secret@127.0.0.1:0", "http://127.0.0.1:0?token=secret"])
    def test_secrets_in_addresses_are_refused_and_not_shown(self, uri):
        with pytest.raises(SinkError, match="DARTBLUR_TOKEN") as error:
            PageSink(uri)
        assert "secret" not in str(error.value)


class TestEnd:
    @pytest.mark.parametrize(("way", "state"), [("commit", "ended"), ("discard", "failed")])
    def test_ends_within_a_second_and_says_so(self, way, state):
        sink = PageSink(HERE)
        sink.write(redacted())
        seen = []

        def follow():
            while True:
                try:
                    seen.append(status(sink)["state"])
                except OSError:
                    return
                time.sleep(0.1)

        follower = threading.Thread(target=follow)
        with watching(sink) as reply:
            assert next_jpeg(reply) is not None
            follower.start()
            time.sleep(0.3)
            began = time.monotonic()
            getattr(sink, way)()
            assert time.monotonic() - began < 1.0
            follower.join(5)
            assert seen[0] == "connected"
            assert seen[-1] == state
            while next_jpeg(reply) is not None:
                pass
        end = time.monotonic() + 5
        while [thread for thread in threading.enumerate() if thread.name.startswith("dartblur-page")]:
            assert time.monotonic() < end
            time.sleep(0.02)
        with pytest.raises(SinkError, match="has ended"):
            sink.write(redacted())
        getattr(sink, way)()  # once more does nothing

    def test_block_that_fails_frees_the_port(self):
        sink = PageSink(HERE)
        with pytest.raises(ZeroDivisionError), sink:
            sink.write(1 / 0)
        with PageSink(sink.url):
            pass


def test_without_aiohttp_the_error_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "aiohttp", None)
    for name in ("service", "site", "access", "telemetry"):
        monkeypatch.delitem(sys.modules, f"dartblur.stream.sinks.page.{name}", raising=False)
    with pytest.raises(SinkError, match=r"needs aiohttp: pip install 'dartblur-edge\[live\]'"):
        PageSink(HERE)


def test_without_aiortc_the_page_says_that_it_shows_mjpeg(monkeypatch):
    monkeypatch.setattr("dartblur.stream.sinks.page.sink.find_spec", lambda name: None)
    with PageSink(HERE) as sink:
        assert "needs aiortc" in sink.notices[0]
        assert status(sink)["webrtc"] is False
        assert ask(sink, "/offer", "POST", b"v=0", Content_Type="application/sdp")[0] == 503


class TestWebrtc:
    """A real client of aiortc."""

    @pytest.fixture(autouse=True)
    def _needs(self):
        pytest.importorskip("aiortc")
        from aioice.ice import get_host_addresses

        if not get_host_addresses(use_ipv4=True, use_ipv6=True):
            pytest.skip("a WebRTC client needs a network interface besides loopback")

    async def call(self, sink, codec=None):
        import aiohttp
        from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription

        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        tracks = asyncio.get_running_loop().create_future()
        peer.on("track", tracks.set_result)
        transceiver = peer.addTransceiver("video", direction="recvonly")
        codecs = RTCRtpSender.getCapabilities("video").codecs
        if codec:
            transceiver.setCodecPreferences([one for one in codecs if one.mimeType in (codec, "video/rtx")])
        await peer.setLocalDescription(await peer.createOffer())
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{sink.url}offer", data=peer.localDescription.sdp, headers={"Content-Type": "application/sdp"}
            ) as reply,
        ):
            assert reply.status == 200, await reply.text()
            answer = await reply.text()
        await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        return peer, await tracks, answer

    @pytest.mark.parametrize("codec", ["video/H264", "video/VP8"])
    def test_moving_hidden_video(self, codec):
        async def receive():
            peer, track, answer = await self.call(sink, codec)
            pictures = []
            while len(pictures) < 20:
                frame = await asyncio.wait_for(track.recv(), 10)
                pictures.append(frame.to_ndarray(format="bgr24"))
            assert status_of_peer(sink) == 1
            await peer.close()
            return pictures, answer

        def status_of_peer(sink):
            return len(sink._server._site._views["live"].calls)

        with PageSink(HERE) as sink, writing(sink, (320, 240)):
            pictures, answer = asyncio.run(receive())
        for picture in pictures:
            assert picture.shape == (240, 320, 3)
            check_hidden(picture)
        assert len({int(picture[5, 5, 1]) // 10 for picture in pictures}) > 3
        # Only where the page is, though this machine may have other addresses.
        candidates = [line.split()[4] for line in answer.splitlines() if line.startswith("a=candidate")]
        assert candidates == ["127.0.0.1"]

    def test_size_changes_on_the_way(self):
        async def receive():
            peer, track, _ = await self.call(sink)
            sizes = []
            while len(sizes) < 300 and (not sizes or sizes[-1] != (320, 240)):
                sizes.append(await size_of(track))
                sink.write(redacted(len(sizes), (160, 120) if len(sizes) < 5 else (321, 241)))
            await peer.close()
            return sizes

        async def size_of(track):
            frame = await asyncio.wait_for(track.recv(), 10)
            return frame.width, frame.height

        with PageSink(HERE) as sink:
            sink.write(redacted(0, (160, 120)))
            sizes = asyncio.run(receive())
        assert sizes[0] == (160, 120)
        assert sizes[-1] == (320, 240)

    def test_one_encoder_for_all_and_none_after_the_last(self, monkeypatch):
        from dartblur.stream.sinks.page import webrtc

        made = []

        class Counted(webrtc.Encoder):
            def __init__(self, codec):
                super().__init__(codec)
                made.append(self)
                self.encoded = 0

            def encode(self, image, key):
                self.encoded += 1
                return super().encode(image, key)

        async def receive():
            calls = [await self.call(sink) for _ in range(3)]
            for _peer, track, _ in calls:
                await asyncio.wait_for(track.recv(), 10)
            await asyncio.gather(*(peer.close() for peer, _, _ in calls))
            deadline = time.monotonic() + 5
            while len(sink._server._site._views["live"].calls) and time.monotonic() < deadline:
                await asyncio.sleep(0.05)

        monkeypatch.setattr(webrtc, "Encoder", Counted)
        with PageSink(HERE) as sink, writing(sink):
            asyncio.run(receive())
            assert len(sink._server._site._views["live"].calls) == 0
            time.sleep(0.2)
            encoded = sum(encoder.encoded for encoder in made)
            time.sleep(0.3)
            assert sum(encoder.encoded for encoder in made) == encoded
        assert len(made) == 1

    def test_ends_within_a_second_with_a_watcher(self):
        async def receive():
            peer, track, _ = await self.call(sink)
            await asyncio.wait_for(track.recv(), 10)
            began = time.monotonic()
            await asyncio.to_thread(sink.commit)
            took = time.monotonic() - began
            await peer.close()
            return took

        sink = PageSink(HERE)
        with sink:
            sink.write(redacted())
            assert asyncio.run(receive()) < 1.0

    @pytest.mark.parametrize(
        "offer",
        ["", "v=0", "m=video", "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n", "m=video 9 X 1\r\nm=video 9 X 1", "\0"],
    )
    def test_broken_offers(self, offer):
        with PageSink(HERE) as sink:
            code, _, body = ask(sink, "/offer", "POST", offer.encode(), Content_Type="application/sdp")
            assert (code, b"expected an SDP offer" in body) == (400, True)
            assert ask(sink, "/offer", "POST", b"x" * 70_000, Content_Type="application/sdp")[0] == 413
            assert ask(sink, "/offer", "POST", b"{}", Content_Type="application/json")[0] == 415
            assert len(sink._server._site._views["live"].calls) == 0

    def test_media_goes_only_to_the_one_who_asked(self):
        from dartblur.stream.sinks.page.webrtc import _from

        offer = "\r\n".join(
            [
                "m=video 9 UDP/TLS/RTP/SAVPF 96",
                "a=candidate:1 1 udp 2113937151 0a1b2c3d.local 50000 typ host generation 0",
                "a=candidate:2 1 UDP 2113937151 203.0.113.9 50001 typ host",
                "a=candidate:3 1 tcp 1518280447 203.0.113.9 9 typ host tcptype active",
                "a=candidate:4 1 udp 1677729535 203.0.113.9 50002 typ srflx raddr 0.0.0.0 rport 0",
            ]
        )
        assert _from("192.168.1.9", offer).splitlines()[1:] == [
            "a=candidate:1 1 udp 2113937151 192.168.1.9 50000 typ host",
            "a=candidate:2 1 UDP 2113937151 192.168.1.9 50001 typ host",
        ]
