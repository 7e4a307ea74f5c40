from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("pydantic")

from dartblur.errors import InputError
from dartblur.service.config import ServiceSettings
from dartblur.service.health import ask

from .conftest import free_port


class Service(HTTPServer):
    """Answers as it is told, and keeps the token that it was asked with."""

    status = 200
    answer: object = None
    token: str | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        assert self.path == "/health"
        self.server.token = self.headers.get("Authorization")
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(json.dumps(self.server.answer).encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
@pytest.mark.parametrize("page", [False, True])
def test_it_asks_where_the_service_is(host: str, page: bool, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    service.answer = {"state": "ok", "streams": {"a": {"state": "connected"}, "b": {"state": "starting"}}}
    address = f"{host}:{service.server_port}"
    settings = ServiceSettings({}, page=f"http://{address}") if page else ServiceSettings({}, metrics=address)
    assert ask(settings) == (True, "a: connected, b: starting")


def test_one_that_is_not_well(service: Service) -> None:
    service.status, service.answer = 503, {"stream": "a", "state": "reconnecting"}
    assert ask(ServiceSettings({}, metrics=f"127.0.0.1:{service.server_port}")) == (False, "a: reconnecting")
    service.status = 500
    well, told = ask(ServiceSettings({}, metrics=f"127.0.0.1:{service.server_port}"))
    assert not well
    assert told.endswith("/health: answers 500")


def test_the_token_goes_along(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.answer = {"stream": "a", "state": "connected"}
    address = f"127.0.0.1:{service.server_port}"
    monkeypatch.setenv("DARTBLUR_TOKEN", "from-the-environment")
    ask(ServiceSettings({}, metrics=address))
    assert service.token == "Bearer from-the-environment"
    ask(ServiceSettings({}, metrics=address, token="from-the-file"))
    assert service.token == "Bearer from-the-file"
    service.status = 401
    with pytest.raises(InputError, match="wants another token"):
        ask(ServiceSettings({}, metrics=address, token="from-the-file"))


def test_nobody_there() -> None:
    well, told = ask(ServiceSettings({}, metrics=f"127.0.0.1:{free_port()}"))
    assert not well
    assert "no answer" in told
    with pytest.raises(InputError, match="expected metrics or page in the config, got neither"):
        ask(ServiceSettings({}))
