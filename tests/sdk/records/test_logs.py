from __future__ import annotations

import builtins
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dartblur import Anonymizer, InputError
from dartblur.backends.fake import FakeBackend
from dartblur.records.logs import LogObserver, configure, hide
from dartblur.stream.observers import KINDS, Event

SECRETS = [
    "rtsp://admin:hunter2@10.0.0.7/1",
    "can't connect to 'http://joe:hunter2@cam/x?y=1' now",
    "rtsp://admin:hun@ter2/hunter2@10.0.0.7/1",
    "http://cam/live?token=hunter2&fps=5",
    "gst:rtspsrc location=rtsp://cam user-id=joe user-pw=hunter2 ! decodebin",
    "headers: {'Authorization': 'Basic hunter2hunter2', 'X': 1}",
    "Authorization: Bearer hunter2hunter2",
    "sent Bearer hunter2hunter2",
    'config {"password": "my hunter2", "name": "a"}',
    "Cookie: session=hunter2",
]


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("dartblur")
    before, level = list(root.handlers), ours.level
    yield
    root.handlers, ours.level = before, level
    ours.setLevel(level)


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("secret", SECRETS)
def test_no_record_shows_credentials(format: Any, secret: str, out: io.StringIO) -> None:
    configure(format, stream=out)
    log = logging.getLogger("dartblur.test")
    log.warning(secret)
    log.warning("got %s and %r", secret, {"uri": secret})
    log.warning("fields", extra={"uri": secret, "deep": {"list": [secret]}})
    try:
        raise ValueError(secret)
    except ValueError:
        logging.getLogger("aiohttp").exception("failed", stack_info=True)
    text = out.getvalue()
    assert text.count("\n") == 4
    assert "hunter2" not in text
    assert "ValueError" in text


def test_what_is_no_secret_stays() -> None:
    for text in ("token: expected a text, got 3", "http://127.0.0.1:8080/ is open", "3 faces @ 5 fps", "user joe left"):
        assert hide(text) == text


def test_fields_with_telling_names_are_hidden(out: io.StringIO) -> None:
    configure("json", stream=out)
    logging.getLogger("dartblur").info(
        "page", extra={"token": "hunter2", "settings": {"password": "hunter2", "port": 5}}
    )
    entry = json.loads(out.getvalue())
    assert (entry["token"], entry["settings"]) == ("***", {"password": "***", "port": 5})


def test_a_record_is_left_as_it_was_for_other_handlers(out: io.StringIO, caplog: pytest.LogCaptureFixture) -> None:
    configure(stream=out)
    logging.getLogger("dartblur").warning("see %s", SECRETS[0])
    assert caplog.records[-1].args == (SECRETS[0],)


def test_json_is_one_object_a_line(out: io.StringIO) -> None:
    configure("json", stream=out)
    log = logging.getLogger("dartblur.page")
    log.info("two\nlines")
    try:
        raise ZeroDivisionError("x")
    except ZeroDivisionError:
        log.exception("broken")
    LogObserver("door").on_event(Event("stalled", "no frame for 5 s", "cam"))
    first, second, third = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("INFO", "dartblur.page", "two\nlines")
    assert first["time"].endswith("Z")
    assert len(first["time"]) == len("2026-03-01T12:00:00.000Z")
    assert "ZeroDivisionError: x" in second["error"]
    assert {name: third[name] for name in ("stream", "event", "of", "count")} == {
        "stream": "door",
        "event": "stalled",
        "of": "cam",
        "count": 1,
    }


def test_text_is_one_line_a_record(out: io.StringIO) -> None:
    configure("text", stream=out)
    logging.getLogger("dartblur.page").info("a\r\n2026-01-01T00:00:00.000Z ERROR forged")
    LogObserver("door").on_event(Event("fault", "detector broke"))
    forged, line = out.getvalue().splitlines()
    assert forged.endswith("INFO dartblur.page: a | 2026-01-01T00:00:00.000Z ERROR forged")
    assert line.endswith("Z ERROR door: fault: detector broke")


def test_levels_and_other_libraries(out: io.StringIO) -> None:
    configure(stream=out, level="warning")
    logging.getLogger("dartblur").info("quiet")
    logging.getLogger("aiohttp.access").info("GET /")
    logging.getLogger("dartblur").error("loud")
    assert [line.split(": ")[-1] for line in out.getvalue().splitlines()] == ["loud"]
    again = io.StringIO()
    configure(stream=again)
    logging.getLogger("dartblur").info("once")
    assert "once" not in out.getvalue()
    assert again.getvalue().count("once") == 1


def test_bad_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="log format: expected one of text, json, got 'xml'"):
        configure("xml")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"log level: expected one of debug, .*, got 'loud'"):
        configure(level="loud")
    find = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("pythonjsonlogger"):
            raise ImportError(name)
        return find(name, *rest)

    for name in [name for name in sys.modules if name.startswith("pythonjsonlogger")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=r"needs python-json-logger: pip install 'dartblur-edge\[live\]'"):
        configure("json")


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    return [(record.event, record.count) for record in caplog.records if record.name == "dartblur.stream"]  # type: ignore[attr-defined]


def test_a_thousand_events_are_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    observer = LogObserver("door", every=5.0, clock=lambda: now)
    frame = Anonymizer(backend=FakeBackend())(np.zeros((8, 8, 3), np.uint8))
    with caplog.at_level(logging.DEBUG, "dartblur"):
        for number in range(1000):
            now = number * 0.01
            observer.on_event(Event("dropped", f"frame {number}"))
        assert told(caplog) == [("dropped", 1), ("dropped", 499)]
        assert "frame 499" in caplog.records[-1].getMessage()
        now = 20.0
        observer.on_frame(frame, "cam")  # frames go on, events don't: what is left is told
        assert told(caplog)[2:] == [("dropped", 500)]
        observer.on_frame(frame, "cam")
        observer.close()
        assert len(told(caplog)) == 3


def test_the_last_line_is_the_state_that_holds(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    observer = LogObserver("door", every=5.0, clock=lambda: now)
    with caplog.at_level(logging.DEBUG, "dartblur"):
        for _ in range(10):
            observer.on_event(Event("fault", "broke", "detector-error"))
            observer.on_event(Event("recovered", "works"))
        observer.on_event(Event("fault", "slow", "time-out"))
        observer.on_event(Event("recovered", "works"))
        observer.close()
    assert told(caplog) == [("fault", 1), ("recovered", 1), ("fault", 1), ("fault", 9), ("recovered", 10)]


def test_every_kind_of_event_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "dartblur"):
        for kind in KINDS:
            LogObserver("door").on_event(Event(kind, "x"))
    assert [event for event, _ in told(caplog)] == list(KINDS)
