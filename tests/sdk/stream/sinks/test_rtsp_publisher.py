"""A session with an RTSP server whose answers the test writes."""

import hashlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress

import pytest

from dartblur.errors import SinkError
from dartblur.stream.sinks import rtsp_publisher
from dartblur.stream.sinks.rtsp_publisher import RtspError, RtspPublisher
from dartblur.stream.sinks.rtsp_sink import RtspSink


class Server:
    """Answers the requests of one client by a function from request (a dict) to bytes; keeps all that was sent."""

    def __init__(self, answer, context=None):
        self.context = context
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self.socket.getsockname()[1]}/live"
        self.answer, self.requests, self.data = answer, [], b""
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        client, _ = self.socket.accept()
        with client, suppress(OSError):  # clients go when they like
            if self.context is not None:
                client = self.context.wrap_socket(client, server_side=True)
            self.talk(client)

    def talk(self, client):
        with client, client.makefile("rb") as stream:
            while head := stream.read(1):
                if head == b"$":
                    _, *length = stream.read(3)
                    self.data += stream.read(int.from_bytes(bytes(length), "big"))
                    continue
                lines = [(head + stream.readline()).decode().strip(), *self.fields(stream)]
                request = dict(line.split(": ", 1) for line in lines[1:]) | {"line": lines[0]}
                request["body"] = stream.read(int(request.get("Content-Length", 0))).decode()
                self.requests.append(request)
                answer = self.answer(request)
                if answer is None:
                    return
                client.sendall(answer)

    @staticmethod
    def fields(stream):
        return iter(lambda: stream.readline().decode().strip(), "")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.thread.join(3)


def ok(request, *lines, status="200 OK"):
    return "\r\n".join([f"RTSP/1.0 {status}", f"CSeq: {request['CSeq']}", *lines, "", ""]).encode()


def plain(request):
    return ok(request, "Session: 12345;timeout=60")


def test_the_session_goes_as_the_protocol_says():
    with Server(plain) as server:
        publisher = RtspPublisher(server.url.replace("//", "//ann:se%40me@"), "v=0\r\n", 2)
        publisher.send([b"\x80\x60picture", b"\x80\xc8report"])
        publisher.close()
    lines = [request["line"] for request in server.requests]
    url = server.url
    assert lines == [
        f"{method} {target} RTSP/1.0"
        for method, target in [
            ("OPTIONS", url),
            ("ANNOUNCE", url),
            ("SETUP", f"{url}/streamid=0"),
            ("RECORD", url),
            ("TEARDOWN", url),
        ]
    ]
    assert [int(request["CSeq"]) for request in server.requests] == [1, 2, 3, 4, 5]
    assert server.requests[1]["body"] == "v=0\r\n"
    assert "mode=record" in server.requests[2]["Transport"]
    assert server.requests[4]["Session"] == "12345"
    assert server.data == b"\x80\x60picture\x80\xc8report"
    assert not any("Authorization" in request for request in server.requests), "nobody has asked"


@pytest.mark.parametrize(
    ("challenges", "algorithm"),
    [
        (['Digest realm="cam", nonce="abc", qop="auth", algorithm=SHA-256', 'Basic realm="cam"'], hashlib.sha256),
        (['Basic realm="cam"', 'Digest realm="cam", nonce="abc"'], hashlib.md5),
        (['Digest realm="cam", nonce="abc", algorithm="MD5", opaque="xyz", qop="auth-int,auth"'], hashlib.md5),
    ],
)
def test_digest_is_preferred_and_right(challenges, algorithm):
    def hashed(*texts):
        return algorithm(":".join(texts).encode()).hexdigest()

    def answer(request):
        if "Authorization" not in request:
            return ok(request, *(f"WWW-Authenticate: {each}" for each in challenges), status="401 Unauthorized")
        scheme, _, rest = request["Authorization"].partition(" ")
        fields = dict(re.findall(r'(\w+)="?([^",]+)"?', rest))
        method, url, _ = request["line"].split()
        middle = [fields["nc"], fields["cnonce"], fields["qop"]] if "qop" in fields else []
        expected = hashed(hashed("ann", "cam", "se@me"), "abc", *middle, hashed(method, fields["uri"]))
        right = scheme == "Digest" and fields["uri"] == url and fields["response"] == expected
        right = right and fields.get("opaque") == ("xyz" if "opaque" in challenges[0] else None)
        return plain(request) if right else ok(request, status="403 Forbidden")

    with Server(answer) as server:
        RtspPublisher(server.url.replace("//", "//ann:se%40me@"), "v=0\r\n", 2).close()
        assert "se@me" not in str(server.requests)


def test_without_credentials_it_is_not_tried_twice():
    def answer(request):
        return ok(request, 'WWW-Authenticate: Basic realm="cam"', status="401 Unauthorized")

    with Server(answer) as server:
        with pytest.raises(RtspError, match="401 Unauthorized to OPTIONS"):
            RtspPublisher(server.url, "", 2)
        assert len(server.requests) == 1


def test_an_unknown_way_to_log_in():
    def answer(request):
        return ok(request, "WWW-Authenticate: Negotiate", status="401 Unauthorized")

    with Server(answer) as server, pytest.raises(RtspError, match="expected Basic or Digest"):
        RtspPublisher(server.url.replace("//", "//a:b@"), "", 2)


def test_packets_between_the_answers_are_passed_over():
    def answer(request):
        return b"$\x01\x00\x03abc" + plain(request) + b"$\x01\x00\x02xy"

    with Server(answer) as server:
        publisher = RtspPublisher(server.url, "v=0\r\n", 2)
        publisher.send([b"\x80\x60one"])
        publisher.close()
    assert server.data == b"\x80\x60one"


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"hello\r\n\r\n", b"\x00" * 5000 + b"\n"])
def test_what_is_no_rtsp_server_is_named(said):
    with Server(lambda request: said) as server, pytest.raises(RtspError, match="expected an RTSP server"):
        RtspPublisher(server.url, "", 2)


def test_an_endless_answer_is_given_up():
    with Server(lambda request: b"x" * 2_000_000) as server, pytest.raises(OSError, match="endless"):
        RtspPublisher(server.url, "", 5)


def test_a_server_that_dribbles_is_given_up():
    server = socket.create_server(("127.0.0.1", 0))

    def dribble():
        client, _ = server.accept()
        with client:
            try:
                for letter in b"RTSP/1.0 200 OK".ljust(1000, b"K"):
                    client.sendall(bytes([letter]))
                    time.sleep(0.05)
            except OSError:
                pass

    thread = threading.Thread(target=dribble, daemon=True)
    thread.start()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        RtspPublisher(f"rtsp://127.0.0.1:{server.getsockname()[1]}/live", "", 0.5)
    assert time.monotonic() - began < 1.5
    server.close()
    thread.join(3)


def keep_sending(publisher):
    for _ in range(100):
        publisher.send([b"\x80\x60one"])
        time.sleep(0.01)


def test_a_server_that_hangs_up_is_noticed():
    def answer(request):
        return None if request["line"].startswith("OPTIONS") and len(server.requests) > 4 else plain(request)

    with Server(answer) as server:
        publisher = RtspPublisher(server.url, "", 2)
        publisher._heard -= 100  # time to be heard again, which this server doesn't like
        with pytest.raises(OSError, match=r"hung up|reset|Broken pipe"):
            keep_sending(publisher)
        publisher.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    if shutil.which("openssl") is None or subprocess.run([*command.split(), *files], capture_output=True).returncode:
        pytest.skip("needs the program openssl")
    return folder


@pytest.mark.parametrize("trusted", [True, False])
def test_encrypted_sessions_check_the_certificate(certificate, monkeypatch, trusted):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    create = ssl.create_default_context
    if trusted:
        monkeypatch.setattr(
            rtsp_publisher.ssl, "create_default_context", lambda: create(cafile=str(certificate / "cert.pem"))
        )
    with Server(plain, context) as server:
        url = server.url.replace("rtsp", "rtsps")
        if not trusted:
            with pytest.raises(SinkError, match=r"can't be reached: .*certificate"):
                RtspSink(url)
            return
        publisher = RtspPublisher(url, "v=0\r\n", 2)
        publisher.send([b"\x80\x60one"])
        publisher.close()
    assert server.data == b"\x80\x60one"
