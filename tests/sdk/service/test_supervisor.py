from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydantic")
pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from dartblur.backends.fake import FakeBackend
from dartblur.backends.loading import BackendChoice
from dartblur.errors import BundleError, DartBlurError, InputError, SinkError, SourceError
from dartblur.frame import Image
from dartblur.service import runner
from dartblur.service.config import ServiceSettings
from dartblur.service.supervisor import Supervisor
from dartblur.session import StreamSettings
from dartblur.stream.options import SourceOptions

from .conftest import FACE, asked, frames_of, free_port, is_hidden, until

LIKE_A_CAMERA = SourceOptions(realtime=True, loop=True)


def found(image: Image) -> np.ndarray:
    return np.array([FACE], np.float32)


def stream(name: str, clip: Path, *sinks: str, **others: object) -> StreamSettings:
    options = {"source_options": LIKE_A_CAMERA, "self_check": 0, "timeout": 20.0, **others}
    return StreamSettings(str(clip), sinks, name=name, **options)  # type: ignore[arg-type]


def service(*streams: StreamSettings, **others: object) -> ServiceSettings:
    return ServiceSettings({each.name: each for each in streams}, **others)  # type: ignore[arg-type]


@pytest.fixture
def supervise() -> Iterator[Callable[..., Supervisor]]:
    """Starts a service; what still runs at the end of the test is stopped."""
    started: list[Supervisor] = []

    def start(settings: ServiceSettings, find: Callable[[Image], np.ndarray] = found) -> Supervisor:
        supervisor = Supervisor(settings, load=lambda choice: FakeBackend(find))
        started.append(supervisor)
        supervisor.start()
        return supervisor

    yield start
    for each in started:
        each.stop()


def ready(supervisor: Supervisor) -> Supervisor:
    def is_ready() -> bool:
        decided = supervisor.ready
        supervisor.check()
        return decided

    until(is_ready)
    return supervisor


def frames(supervisor: Supervisor) -> dict[str, int]:
    return {one.stream: one.snapshot()["frames"] for one in supervisor.metrics()}


def taken(supervisor: Supervisor) -> list[int]:
    """Frames of each stream that its sink, which may be slower than a camera, has taken."""
    snapshots = [one.snapshot() for one in supervisor.metrics()]
    return [each["frames"] - sum(each["sink_dropped"].values()) for each in snapshots]


def test_two_streams_share_a_model(supervise: Callable[..., Supervisor], clip: Path, tmp_path: Path) -> None:
    loaded: list[BackendChoice] = []

    def load(choice: BackendChoice) -> FakeBackend:
        loaded.append(choice)
        return FakeBackend(found)

    outputs = [tmp_path / "a.mp4", tmp_path / "b.mkv"]
    settings = service(
        stream("a", clip, str(outputs[0])), stream("b", clip, str(outputs[1]), method="solid", box_scale=1.2)
    )
    supervisor = Supervisor(settings, load=load)
    supervisor.start()
    ready(supervisor)
    until(lambda: min(taken(supervisor)) > 20)
    assert supervisor.hung == []
    assert not supervisor.over
    began = time.monotonic()
    assert supervisor.stop()
    assert time.monotonic() - began < 2
    assert loaded == [BackendChoice()]
    for output, count in zip(outputs, taken(supervisor), strict=True):
        shown = frames_of(output)
        assert len(shown) == count > 20
        assert all(map(is_hidden, shown))


def test_page_and_metrics_know_all_streams(supervise: Callable[..., Supervisor], clip: Path, tmp_path: Path) -> None:
    page, metrics = free_port(), free_port()
    supervisor = supervise(
        service(
            stream("a", clip, "page"),
            stream("b", clip, "page", str(tmp_path / "b.mp4")),
            stream("c", clip, str(tmp_path / "c.mp4")),
            page=f"http://127.0.0.1:{page}",
            metrics=f"127.0.0.1:{metrics}",
        )
    )
    until(lambda: min(frames(supervisor).values()) > 3)
    status, health = asked(f"http://127.0.0.1:{metrics}/health")
    assert (status, set(health["streams"])) == (200, {"a", "b", "c"})
    status, health = asked(f"http://127.0.0.1:{page}/health")
    assert (status, set(health["streams"])) == (200, {"a", "b"})
    assert "a: connected" in supervisor.status()


def test_a_stream_that_fails_is_restarted_and_the_page_says_so(
    supervise: Callable[..., Supervisor], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_SHORTEST_S", 0.5)
    port, broken = free_port(), threading.Event()

    def find(image: Image) -> np.ndarray:
        if broken.is_set():
            raise RuntimeError("detector broke")
        return found(image)

    supervisor = supervise(
        service(
            stream("weak", clip, "page", str(tmp_path / "weak-%f.mp4"), on_fault="stop"),
            stream("strong", clip, "page"),
            page=f"http://127.0.0.1:{port}",
        ),
        find,
    )
    ready(supervisor)
    until(lambda: min(frames(supervisor).values()) > 5)
    broken.set()

    def page() -> dict[str, dict[str, object]]:
        return asked(f"http://127.0.0.1:{port}/health")[1]["streams"]  # type: ignore[no-any-return]

    until(lambda: page()["weak"]["state"] == "reconnecting")
    [told] = [each for each in page()["weak"]["events"] if each["kind"] == "reconnecting"][-1:]  # type: ignore[attr-defined]
    assert "the stream has failed" in told["message"]
    assert "detector broke" in told["message"]
    assert asked(f"http://127.0.0.1:{port}/health")[0] == 503
    until(lambda: page()["strong"]["state"] == "fail-closed")  # covered whole, not ended
    broken.clear()
    before = frames(supervisor)["weak"]
    until(lambda: frames(supervisor)["weak"] > before + 5)
    until(lambda: asked(f"http://127.0.0.1:{port}/health")[0] == 200)
    assert supervisor.stop()
    recordings = sorted(tmp_path.glob("weak-*.mp4"))
    assert len(recordings) >= 2
    assert all(is_hidden(frame) for each in recordings for frame in frames_of(each))


def test_a_camera_that_is_away_at_the_start_holds_up_nobody(
    supervise: Callable[..., Supervisor], clip: Path, tmp_path: Path
) -> None:
    port = free_port()
    supervisor = supervise(
        service(
            stream("there", clip, "page"),
            StreamSettings(f"rtsp://me:sesame@127.0.0.1:{free_port()}/1", ("page",), name="away"),
            page=f"http://127.0.0.1:{port}",
        )
    )
    ready(supervisor)
    until(lambda: frames(supervisor)["there"] > 3)
    status, health = asked(f"http://127.0.0.1:{port}/health")
    assert status == 503
    assert health["streams"]["there"]["state"] == "connected"
    assert health["streams"]["away"]["state"] == "reconnecting"
    assert "connection refused" in str(health)
    assert "sesame" not in str(health)


@pytest.mark.parametrize(
    ("changed", "expected", "message"),
    [
        ({"source": "nowhere.mp4"}, SourceError, "streams.b: nowhere.mp4: no such file"),
        ({"sinks": ("/nowhere/b.mp4",)}, SinkError, "streams.b: /nowhere/b.mp4: the folder /nowhere does not exist"),
        ({"blur_zones": ("0,0,500,20",)}, InputError, "streams.b: zone 0,0,500,20: expected it inside the picture"),
        ({"sinks": ("page",), "name": "assets"}, SinkError, "streams.b: page: expected a name of letters, digits"),
    ],
)
def test_a_stream_that_can_not_be_ends_the_start(
    changed: dict[str, object],
    expected: type[DartBlurError],
    message: str,
    supervise: Callable[..., Supervisor],
    clip: Path,
    tmp_path: Path,
) -> None:
    good = stream("a", clip, str(tmp_path / "a.mp4"))
    bad = replace(stream("b", clip, str(tmp_path / "b.mp4")), **changed)  # type: ignore[arg-type]
    settings = ServiceSettings({"a": good, "b": bad}, page=f"http://127.0.0.1:{free_port()}")
    supervisor = supervise(settings)
    with pytest.raises(expected) as raised:
        ready(supervisor)
    assert str(raised.value).startswith(message)
    assert raised.value.exit_code == 2
    assert supervisor.stop()


def test_what_all_share_ends_the_start(clip: Path, supervise: Callable[..., Supervisor]) -> None:
    port = free_port()
    first = supervise(service(stream("a", clip, "page"), page=f"http://127.0.0.1:{port}"))
    ready(first)
    for others in ({"page": f"http://127.0.0.1:{port}"}, {"metrics": f"127.0.0.1:{port}"}):
        with pytest.raises(InputError, match="can't be served: Address already in use"):
            supervise(service(stream("a", clip, "d"), **others))

    def load(choice: BackendChoice) -> FakeBackend:
        raise BundleError("no such bundle")

    with pytest.raises(BundleError):
        Supervisor(service(stream("a", clip, "d")), load=load).start()


def test_reload_exchanges_what_differs(supervise: Callable[..., Supervisor], clip: Path, tmp_path: Path) -> None:
    same, changed = stream("same", clip, "page"), stream("changed", clip, "page")
    gone, port = stream("gone", clip, "page", str(tmp_path / "gone.mp4")), free_port()
    settings = service(same, changed, gone, page=f"http://127.0.0.1:{port}")
    supervisor = ready(supervise(settings))
    until(lambda: min(frames(supervisor).values()) > 5)
    before = {one.stream: one for one in supervisor.metrics()}
    changed = replace(changed, sinks=("page", str(tmp_path / "changed.mp4")))
    new = stream("new", clip, str(tmp_path / "new.mp4"))
    supervisor.reload(replace(settings, streams={each.name: each for each in (new, changed, same)}))
    assert is_hidden(frames_of(tmp_path / "gone.mp4")[-1]), "it is finished at once"
    after = {one.stream: one for one in supervisor.metrics()}
    assert list(after) == ["new", "changed", "same"]
    until(lambda: asked(f"http://127.0.0.1:{port}/health")[0] == 200)
    assert set(asked(f"http://127.0.0.1:{port}/health")[1]["streams"]) == {"changed", "same"}
    assert after["same"] is before["same"]
    assert after["changed"] is not before["changed"]
    until(lambda: min(frames(supervisor).values()) > 5)
    assert supervisor.stop()
    assert all(map(is_hidden, frames_of(tmp_path / "changed.mp4") + frames_of(tmp_path / "new.mp4")))


def test_reload_refuses_what_all_share(supervise: Callable[..., Supervisor], clip: Path) -> None:
    settings = service(stream("a", clip, "page"), page=f"http://127.0.0.1:{free_port()}")
    supervisor = ready(supervise(settings))
    before = list(supervisor.metrics())
    for change, key in (
        ({"page": None}, "page"),
        ({"metrics": "127.0.0.1:1"}, "metrics"),
        ({"token": "x" * 20}, "token_file"),
        ({"choice": BackendChoice("cpu")}, "model, backend or engine"),
    ):
        with pytest.raises(InputError, match=f"^{key}: expected the same as before"):
            supervisor.reload(replace(settings, streams={}, **change))  # type: ignore[arg-type]
    assert list(supervisor.metrics()) == before
    assert supervisor.settings is settings


def test_a_reload_tries_new_streams_for_ever(
    supervise: Callable[..., Supervisor], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_LONGEST_S", 0.1)
    settings = service(stream("a", clip, str(tmp_path / "a.mp4")))
    supervisor = ready(supervise(settings))
    late = tmp_path / "late"
    supervisor.reload(replace(settings, streams={"b": stream("b", clip, str(late / "b.mp4"))}))
    until(lambda: "b: reconnecting" in supervisor.status())
    supervisor.check()
    late.mkdir()
    until(lambda: frames(supervisor)["b"] > 3)


def test_a_reload_does_not_wait_for_files(
    supervise: Callable[..., Supervisor], clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only for cameras; the other streams go on."""
    settings = service(stream("a", clip, str(tmp_path / "a.mp4")))
    supervisor = ready(supervise(settings))
    missing = stream("b", tmp_path / "typo.mp4", str(tmp_path / "b.mp4"))
    supervisor.reload(replace(settings, streams={**settings.streams, "b": missing}))
    until(lambda: "b: stalled" in supervisor.status())
    assert "typo.mp4: no such file: mend it and reload" in caplog.text
    assert not supervisor.over
    before = frames(supervisor)["a"]
    until(lambda: frames(supervisor)["a"] > before)
    with pytest.raises(SourceError, match=r"^streams\.b: .*no such file"):
        supervisor.check()


def test_it_is_over_when_all_sources_have_ended(
    supervise: Callable[..., Supervisor], clip: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a.mp4"
    supervisor = supervise(service(stream("a", clip, str(output), source_options=SourceOptions())))
    until(lambda: supervisor.over)
    assert supervisor.stop()
    shown = frames_of(output)
    assert len(shown) == 40
    assert all(map(is_hidden, shown))


def test_a_stream_that_hangs_does_not_hold_up_the_end(clip: Path, tmp_path: Path) -> None:
    go_on = threading.Event()

    def find(image: Image) -> np.ndarray:
        go_on.wait(20)
        return found(image)

    supervisor = Supervisor(
        service(stream("a", clip, str(tmp_path / "a.mp4"), timeout=0.2)), load=lambda choice: FakeBackend(find)
    )
    supervisor.start()
    try:
        until(lambda: frames(supervisor)["a"] > 3)
        assert [one.state for one in supervisor.metrics()] == ["fail-closed"]
        began = time.monotonic()
        supervisor.stop()
        assert time.monotonic() - began < 2.5
    finally:
        go_on.set()
    until(lambda: supervisor.over)
    shown = frames_of(tmp_path / "a.mp4")
    assert shown
    assert all(map(is_hidden, shown))
