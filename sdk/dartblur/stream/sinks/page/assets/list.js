// The list of all streams, each with its state and a picture now and then.

const ASK_MS = 1000;
const PICTURE_MS = 2000;

const LOOKS = {
  starting: ["waiting", "Starting"],
  connected: ["live", "Live"],
  reconnecting: ["warn", "Reconnecting"],
  stalled: ["warn", "Stalled"],
  "fail-closed": ["bad", "Fail-closed"],
  ended: ["waiting", "Ended"],
  failed: ["bad", "Stopped"],
};

const items = new Map();
let asked = 0;

if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname);

function make(tag, kind) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  return element;
}

function itemOf(stream) {
  if (!items.has(stream.stream)) {
    const [item, link, picture, row] = [make("li"), make("a"), make("img"), make("div", "row")];
    const [name, pill] = [make("span", "name"), make("span", "pill")];
    link.href = `${encodeURIComponent(stream.stream)}/`;
    picture.alt = `${stream.title}, faces hidden`;
    row.append(name, pill);
    link.append(picture, row);
    item.append(link);
    document.getElementById("streams").append(item);
    items.set(stream.stream, { item, picture, name, pill });
  }
  return items.get(stream.stream);
}

function say(look, text) {
  const state = document.getElementById("state");
  state.dataset.state = look;
  if (state.textContent !== text) state.textContent = text;
}

function show(streams) {
  for (const stream of streams) {
    const { picture, name, pill } = itemOf(stream);
    const [look, text] = LOOKS[stream.state];
    name.textContent = stream.title;
    pill.dataset.state = look;
    pill.textContent = text;
    // A picture of a stream that isn't live would look as if it were.
    picture.style.opacity = stream.state === "connected" || stream.state === "fail-closed" ? "1" : "0.25";
    if (performance.now() - (picture.dataset.at ?? -PICTURE_MS) < PICTURE_MS || stream.last_frame_age === null) continue;
    if (["ended", "failed"].includes(stream.state)) continue;
    picture.dataset.at = String(performance.now());
    picture.src = `${encodeURIComponent(stream.stream)}/snapshot.jpg?${++asked}`;
  }
  const well = streams.filter((stream) => stream.state === "connected").length;
  say(well === streams.length ? "live" : "warn", `${well} of ${streams.length} live`);
}

async function ask() {
  try {
    const reply = await fetch("streams", { signal: AbortSignal.timeout(3000), cache: "no-store" });
    if (!reply.ok) throw new Error(String(reply.status));
    show(await reply.json());
  } catch {
    say("bad", "No connection");
    for (const { pill, picture } of items.values()) {
      pill.dataset.state = "bad";
      pill.textContent = "No connection";
      picture.style.opacity = "0.25";
    }
  }
}

for (;;) {
  await ask();
  await new Promise((resolve) => setTimeout(resolve, ASK_MS));
}
