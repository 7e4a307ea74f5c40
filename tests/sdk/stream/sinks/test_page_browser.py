"""A real browser opens the page and sees moving video in which the face is hidden."""

import asyncio
import base64
import json
import os
import re
import shutil
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from dartblur.anonymizer import Anonymizer
from dartblur.backends.fake import FakeBackend
from dartblur.frame import Frame
from dartblur.records.metrics import Metrics
from dartblur.stream.observers import Event
from dartblur.stream.sinks.page import PageServer, PageSink

aiohttp = pytest.importorskip("aiohttp")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REQUIRED = os.environ.get("DARTBLUR_REQUIRE_SYSTEM") == "1"

if CHROMIUM is None and not REQUIRED:
    pytest.skip("needs Chromium: apt install chromium", allow_module_level=True)

WIDTH, HEIGHT = 640, 360


def has_network():
    """Whether there is an interface besides loopback, without which browsers have no WebRTC."""
    from aioice.ice import get_host_addresses

    return bool(get_host_addresses(use_ipv4=True, use_ipv6=True))


FACE = (240, 100, 400, 260)
MARKER = (255, 0, 255)
"""The colour of the clear face, BGR; nothing else of the picture comes near it."""


class Camera:
    """Writes a moving picture with a face into sinks, from a thread."""

    def __init__(self, *sinks):
        self._sinks, self._paused, self._ending = sinks, False, threading.Event()
        self._writing = threading.Lock()
        self._anonymizer = Anonymizer(backend=FakeBackend(lambda image: np.array([FACE], np.float32)))
        self._thread = threading.Thread(target=self._run)
        self._index = 0

    def picture(self, index):
        """Green and dark stripes that move; the face is all marker."""
        columns = (np.arange(WIDTH) + 8 * index) // 40 % 2
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[:, columns == 1] = (40, 160, 60)
        x0, y0, x1, y1 = FACE
        image[y0:y1, x0:x1] = MARKER
        return image

    def _run(self):
        while not self._ending.wait(1 / 15):
            with self._writing:
                if self._paused:
                    continue
                hidden = self._anonymizer(Frame(self.picture(self._index), self._index))
                for sink in self._sinks:
                    sink.write(hidden)
                self._index += 1

    def pause(self, on=True):
        """When it returns, the last frame has been written."""
        with self._writing:
            self._paused = on

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._thread.join()


class Tab:
    """One tab of Chromium, driven through its DevTools protocol."""

    def __init__(self, socket):
        self._socket, self._last, self._session = socket, 0, None
        self.console = []

    async def send(self, method, **params):
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        await self._socket.send_json(message)
        async for reply in self._socket:
            answer = json.loads(reply.data)
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.console.append(json.dumps(answer["params"]))
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]
        raise AssertionError("Chromium has ended")

    async def start(self):
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        session = await self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.send(f"{domain}.enable")

    async def open(self, url):
        await self.send("Page.navigate", url=url)

    async def evaluate(self, script):
        result = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script, seconds=15.0):
        """Waits until a script gives something true, and returns that."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                value = await self.evaluate(script)
            except AssertionError:  # between two pages
                value = None
            if value:
                return value
            await asyncio.sleep(0.1)
        raise AssertionError(f"never true: {script}: {await self.evaluate('document.body.innerText')} {self.console}")

    async def picture(self, element):
        """What a video or canvas shows now, BGR."""
        data = await self.evaluate(
            f"""(() => {{
                const shown = document.getElementById("{element}");
                const copy = document.createElement("canvas");
                copy.width = shown.videoWidth || shown.width;
                copy.height = shown.videoHeight || shown.height;
                copy.getContext("2d").drawImage(shown, 0, 0);
                return copy.toDataURL("image/png").split(",")[1];
            }})()"""
        )
        return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)

    async def screenshot(self, path):
        data = (await self.send("Page.captureScreenshot", format="png"))["data"]
        Path(path).write_bytes(base64.b64decode(data))


@asynccontextmanager
async def chromium(profile):
    if CHROMIUM is None:
        pytest.fail("needs Chromium: apt install chromium")
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *(
            "--headless=new",
            "--no-sandbox",
            "--window-size=1400,900",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ),
        *("--remote-debugging-port=0", f"--user-data-dir={profile}", "--autoplay-policy=no-user-gesture-required"),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        found = None
        while found is None:
            line = await asyncio.wait_for(process.stderr.readline(), 30)
            assert line, "Chromium didn't start"
            found = re.search(rb"DevTools listening on (ws://\S+)", line)
        drain = asyncio.create_task(process.stderr.read())
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(found[1].decode(), max_msg_size=0) as socket,
        ):
            tab = Tab(socket)
            await tab.start()
            yield tab
            tab._session = None
            await tab.send("Browser.close")
        await asyncio.wait_for(process.wait(), 10)
        await drain
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def check_hidden(picture):
    """The face box is black, the stripes around it are there, and the marker's colour is nowhere."""
    assert picture.shape == (HEIGHT, WIDTH, 3)
    colours = picture.reshape(-1, 3).astype(int)
    magenta = np.minimum(colours[:, 0], colours[:, 2]) - colours[:, 1]
    assert magenta.max() < 60
    x0, y0, x1, y1 = FACE
    assert picture[y0 + 8 : y1 - 8, x0 + 8 : x1 - 8].max() < 40
    assert picture[20, :, 1].max() > 120
    assert picture[20, :, 1].min() < 40


def test_check_sees_a_clear_face():
    with pytest.raises(AssertionError):
        check_hidden(Camera().picture(0))


async def moves(tab, element):
    """The pictures that the element shows at two moments, which must differ."""
    first = await tab.picture(element)
    for _ in range(50):
        await asyncio.sleep(0.1)
        second = await tab.picture(element)
        if np.abs(first[20].astype(int) - second[20]).max() > 80:
            return first, second
    raise AssertionError("the picture stands still")


def pictures(tab):
    return tab.until("Number(document.body.dataset.pictures)")


def watch(tmp_path, work):
    async def whole():
        async with chromium(tmp_path / "profile") as tab:
            await work(tab)

    asyncio.run(whole())


@pytest.mark.parametrize(
    ("query", "webrtc", "element", "transport"),
    [("", True, "video", "WebRTC"), ("?webrtc=0", True, "canvas", "MJPEG"), ("", False, "canvas", "MJPEG")],
)
def test_moving_hidden_picture(tmp_path, query, webrtc, element, transport):
    if transport == "WebRTC" and not has_network():
        pytest.skip("a browser's WebRTC needs a network interface besides loopback")

    async def work(tab):
        await tab.open(sink.url + query)
        await tab.until('document.body.dataset.state === "connected" && Number(document.body.dataset.pictures) > 5')
        assert await tab.evaluate('document.getElementById("transport").textContent') == transport
        for picture in await moves(tab, element):
            check_hidden(picture)
        before, frames = await pictures(tab), await tab.evaluate('document.getElementById("frames").textContent')
        await tab.until(f"Number(document.body.dataset.pictures) > {before + 10}")
        await tab.until(f'document.getElementById("frames").textContent !== "{frames}"')
        assert await tab.evaluate('document.getElementById("faces").textContent') == "1"
        assert tab.console == []

    with PageSink("http://127.0.0.1:0", webrtc=webrtc) as sink, Camera(sink):
        watch(tmp_path, work)


def test_switches_to_mjpeg_by_itself_when_webrtc_fails(tmp_path, monkeypatch):
    if not has_network():
        pytest.skip("a browser's WebRTC needs a network interface besides loopback")
    from dartblur.stream.sinks.page.webrtc import Calls

    answer = Calls.answer

    async def answer_from_nowhere(self, offer, here, there):
        """As behind a firewall: neither end gets a packet of the other."""
        return (await answer(self, offer, here, "198.51.100.7")).replace("127.0.0.1", "198.51.100.8")

    async def work(tab):
        await tab.open(sink.url)
        await tab.until('document.getElementById("transport").textContent === "WebRTC"')
        await tab.until('document.getElementById("transport").textContent === "MJPEG"')
        await tab.until("Number(document.body.dataset.pictures) > 5")
        for picture in await moves(tab, "canvas"):
            check_hidden(picture)

    monkeypatch.setattr(Calls, "answer", answer_from_nowhere)
    with PageSink("http://127.0.0.1:0") as sink, Camera(sink):
        watch(tmp_path, work)


def test_states(tmp_path):
    async def work(tab):
        async def state(name):
            await tab.until(f'document.body.dataset.state === "{name}"', 10)

        await tab.open(sink.url)
        await state("connected")
        assert await tab.evaluate('document.getElementById("veil").hidden')
        camera.pause()
        await state("stalled")
        assert not await tab.evaluate('document.getElementById("veil").hidden')
        assert await tab.evaluate('document.getElementById("state").textContent') == "Stalled"
        metrics.on_event(Event("reconnecting", "rtsp://***@cam: gone, trying again"))
        await state("reconnecting")
        assert "trying again" in await tab.evaluate('document.getElementById("events").textContent')
        camera.pause(False)
        await state("connected")
        camera.pause()
        metrics.on_event(Event("fault", "the detector raised ValueError", of="detector error"))
        await state("fail-closed")
        assert await tab.evaluate('document.getElementById("reason").textContent') == "detector error"
        camera.pause(False)
        await state("connected")
        await asyncio.to_thread(camera.__exit__)
        await asyncio.to_thread(sink.commit)
        await state("ended")
        await asyncio.sleep(2)
        assert await tab.evaluate("document.body.dataset.state") == "ended"

    metrics = Metrics("live", stall_after=1.0)

    class Counted(PageSink):
        def _write(self, frame):
            metrics.on_frame(frame, "camera")
            super()._write(frame)

    sink = Counted("http://127.0.0.1:0", metrics=metrics)
    camera = Camera(sink)
    with sink, camera:
        watch(tmp_path, work)


def test_token_is_asked_for(tmp_path):
    async def work(tab):
        async def enter(token):
            await tab.until('document.getElementById("token") !== null')
            await tab.evaluate(
                f'document.getElementById("token").value = "{token}"; document.querySelector("form").requestSubmit()'
            )

        await tab.open(sink.url)
        await tab.until('document.getElementById("token") !== null && document.getElementById("wrong").hidden')
        await enter("not-the-token")
        await tab.until('document.getElementById("wrong") !== null && !document.getElementById("wrong").hidden')
        await enter("the-right-token")
        await tab.until('document.body.dataset.state === "connected" && Number(document.body.dataset.pictures) > 5')
        assert await tab.evaluate("document.cookie") == ""  # no script can read it

    with PageSink("http://127.0.0.1:0", token="the-right-token") as sink, Camera(sink):
        watch(tmp_path, work)


def test_ready_url_opens_and_hides_its_token(tmp_path):
    async def work(tab):
        await tab.open(f"{sink.url}?token=the-right-token&webrtc=0")
        await tab.until("Number(document.body.dataset.pictures) > 5")
        assert await tab.evaluate("location.search") == "?webrtc=0"

    with PageSink("http://127.0.0.1:0", token="the-right-token") as sink, Camera(sink):
        watch(tmp_path, work)


def test_list_of_streams(tmp_path):
    async def work(tab):
        await tab.open(server.url)
        await tab.until('document.querySelectorAll("#streams li").length === 2')
        await tab.until('[...document.querySelectorAll("#streams img")].every((one) => one.naturalWidth > 0)')
        assert "2 of 2 live" in await tab.until('document.getElementById("state").textContent')
        await tab.evaluate('document.querySelector("#streams a").click()')
        await tab.until('location.pathname === "/front/" && Number(document.body.dataset.pictures) > 5')

    with (
        PageServer("http://127.0.0.1:0") as server,
        server.add("front") as front,
        server.add("back") as back,
        Camera(front, back),
    ):
        watch(tmp_path, work)


def test_stream_that_fails_and_comes_again(tmp_path):
    async def work(tab):
        with Camera(front):
            await tab.open(f"{server.url}front/")
            await tab.until('document.body.dataset.state === "connected" && Number(document.body.dataset.pictures) > 5')
        await asyncio.to_thread(front.discard)
        await tab.until('document.body.dataset.state === "failed"')
        assert not await tab.evaluate('document.getElementById("veil").hidden')
        before = await pictures(tab)
        with server.add("front") as again, Camera(again):
            await tab.until('document.body.dataset.state === "connected"')
            await tab.until(f"Number(document.body.dataset.pictures) > {before + 5}")
            for picture in await moves(tab, "video" if has_network() else "canvas"):
                check_hidden(picture)

    with PageServer("http://127.0.0.1:0") as server, server.add("front") as front:
        watch(tmp_path, work)
