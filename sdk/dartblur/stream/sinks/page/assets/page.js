// The page of one stream: asks for the status, shows it, and keeps the picture coming.

import { playMjpeg, playWebrtc } from "./picture.js";

const ASK_MS = 400;
const FROZEN_MS = 3000;
const AGAIN_MS = 1000;
const START_MS = 6000;

const $ = (id) => document.getElementById(id);

const STATES = {
  starting: ["waiting", "Starting", "The first picture has not come yet."],
  connected: ["live", "Live", ""],
  reconnecting: ["warn", "Reconnecting", "The camera is gone; it is tried again. What you see is the last picture."],
  stalled: ["warn", "Stalled", "No new picture comes. What you see is the last one."],
  "fail-closed": ["bad", "Fail-closed", "Faces can't be hidden for now, so no new picture is shown: "],
  ended: ["waiting", "Ended", "The stream has ended."],
  failed: ["bad", "Stopped", "The stream has failed, and nothing more is shown."],
  frozen: ["warn", "No picture", "Pictures are made, but none gets here; the page tries again."],
  away: ["bad", "No connection", "The page's server cannot be reached: it has ended, or the network is down."],
  locked: ["bad", "Token needed", "Load the page again and enter the token."],
};

const EVENTS = { connected: "good", recovered: "good", fault: "bad", uncovered: "bad", "not-hidden": "bad" };

let status = null;
let trouble = "";
let shownAt = 0;
let madeAt = 0;
let shown = 0;

const options = new URLSearchParams(location.search);
if (options.has("token")) {
  // It has done its work: the cookie is set.
  options.delete("token");
  history.replaceState(null, "", `${location.pathname}${options.size ? `?${options}` : ""}`);
}

function onPicture(width, height) {
  shownAt = performance.now();
  shown += 1;
  document.body.dataset.pictures = String(shown);
  $("size").textContent = width ? `${width} × ${height}` : "";
  $("snapshot").hidden = false;
}

async function ask() {
  try {
    const reply = await fetch("status", { signal: AbortSignal.timeout(3 * ASK_MS + 1000), cache: "no-store" });
    if (reply.status === 401 || reply.status === 429) {
      trouble = "locked";
    } else if (!reply.ok) {
      trouble = "away";
    } else {
      const news = await reply.json();
      if (status === null || news.frames !== status.frames) madeAt = performance.now();
      status = news;
      trouble = "";
    }
  } catch {
    // The farewell of a stream that has ended is believed: its server goes with it.
    trouble = status !== null && ["ended", "failed"].includes(status.state) ? "" : "away";
  }
  show();
}

function stateNow() {
  if (trouble) return trouble;
  if (status === null) return "starting";
  if (status.state === "connected" && isFrozen()) return "frozen";
  return status.state;
}

/** Whether pictures are made, but none has been shown for a while. */
function isFrozen() {
  const now = performance.now();
  return document.visibilityState === "visible" && now - shownAt > FROZEN_MS && now - madeAt < FROZEN_MS;
}

function show() {
  const state = stateNow();
  const [look, title, text] = STATES[state] ?? STATES.away;
  const message = state === "fail-closed" ? text + status.fault : text;
  put("state", title);
  $("state").dataset.state = look;
  $("stage").dataset.state = look;
  document.body.dataset.state = state;
  // Over all that isn't live: a picture that stands still must not look as if it were.
  $("veil").hidden = state === "connected";
  put("veil-title", title);
  put("veil-text", message);
  if (status !== null) showNumbers();
}

function showNumbers() {
  const name = status.title || status.stream || "DartBlur";
  put("title", name);
  document.title = `${$("state").textContent} – ${name}`;
  put("fps", status.fps.toFixed(1));
  put("frames", status.frames.toLocaleString("en"));
  put("latency", milliseconds(status.latency.p50));
  put("latency-high", milliseconds(status.latency.p95));
  put("faces", String(status.faces.now));
  put("faces-total", status.faces.total.toLocaleString("en"));
  put("dropped", status.dropped.toLocaleString("en"));
  put("sink-dropped", String(Object.values(status.sink_dropped).reduce((sum, one) => sum + one, 0)));
  put("fail-closed", status.fail_closed.frames.toLocaleString("en"));
  put("reason", status.fault || "frames covered whole");
  $("fail-closed-tile").classList.toggle("alarm", status.fault !== "");
  put("reconnects", String(status.reconnects));
  put("stalls", String(status.stalls));
  showEvents(status.events);
}

function put(id, text) {
  // Screen readers would say unchanged text again.
  if ($(id).textContent !== text) $(id).textContent = text;
}

function milliseconds(seconds) {
  return seconds === null ? "–" : `${Math.round(1000 * seconds)} ms`;
}

function showEvents(events) {
  const key = JSON.stringify(events);
  if (key === showEvents.last || events.length === 0) return;
  showEvents.last = key;
  $("events").replaceChildren(
    ...events.toReversed().map((event) => {
      const time = make("time", "", new Date(1000 * event.time).toLocaleTimeString());
      const times = event.count > 1 ? ` × ${event.count}` : "";
      const kind = make("span", `kind ${EVENTS[event.kind] ?? ""}`, event.kind + times);
      const item = make("li", "", "");
      item.append(time, kind, make("span", "message", event.message));
      return item;
    }),
  );
}

function make(tag, kind, text) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  element.textContent = text;
  return element;
}

/** Plays until the end, the better way first; a way that fails or freezes is left for the other. */
async function play() {
  let webrtc = "RTCPeerConnection" in window && options.get("webrtc") !== "0";
  for (;;) {
    while (status === null || trouble || ["ended", "failed"].includes(status.state)) await pause(ASK_MS);
    const stop = new AbortController();
    const began = performance.now();
    const guard = setInterval(() => {
      const state = stateNow();
      // A transport may take longer to begin than to freeze.
      const frozen = state === "frozen" && performance.now() - began > START_MS;
      if (frozen || ["ended", "failed"].includes(state)) stop.abort();
    }, AGAIN_MS);
    shownAt = began;
    const before = shown;
    const byWebrtc = webrtc && status.webrtc;
    $("video").hidden = !byWebrtc;
    $("canvas").hidden = byWebrtc;
    put("transport", byWebrtc ? "WebRTC" : "MJPEG");
    try {
      await (byWebrtc ? playWebrtc($("video"), onPicture, stop.signal) : playMjpeg($("canvas"), onPicture, stop.signal));
    } catch (error) {
      console.info(`dartblur: ${byWebrtc ? "WebRTC" : "MJPEG"}: ${error.message}`);
    }
    clearInterval(guard);
    stop.abort();
    // What has never worked won't work the next time. What has worked may, when the server is there again.
    if (byWebrtc && shown === before) webrtc = false;
    else await pause(AGAIN_MS);
  }
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function askForEver() {
  for (;;) {
    // The pause runs beside the question, so that the short farewell of a stream isn't missed.
    await Promise.all([ask(), pause(ASK_MS)]);
  }
}

function fullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("stage").requestFullscreen?.();
}

$("fullscreen").addEventListener("click", fullscreen);
$("snapshot").hidden = true;
document.addEventListener("visibilitychange", () => {
  // In a tab that nobody sees, nothing is shown.
  shownAt = performance.now();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.key === "f") fullscreen();
  if (event.key === "s" && !$("snapshot").hidden) $("snapshot").click();
});

askForEver();
play();
