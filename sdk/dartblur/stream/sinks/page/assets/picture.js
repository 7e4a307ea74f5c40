// The two ways of the picture into the page. Each tells `onPicture` of every picture that is really shown.

const CONNECT_MS = 4000;
const GATHER_MS = 1500;

/** WebRTC into a video element; resolves when it ends, rejects when it fails. */
export async function playWebrtc(video, onPicture, signal) {
  const peer = new RTCPeerConnection({ iceServers: [] });
  const watching = new AbortController();
  try {
    const ended = new Promise((resolve, reject) => {
      signal.addEventListener("abort", resolve, { signal: watching.signal });
      peer.addEventListener("connectionstatechange", () => {
        if (peer.connectionState === "failed") reject(new Error("the connection failed"));
        if (peer.connectionState === "closed") resolve();
      });
    });
    const connected = new Promise((resolve) => {
      peer.addEventListener("connectionstatechange", () => peer.connectionState === "connected" && resolve());
    });
    peer.addTransceiver("video", { direction: "recvonly" }).receiver.jitterBufferTarget = 0;
    peer.addEventListener("track", (event) => {
      video.srcObject = new MediaStream([event.track]);
      video.play().catch(() => {});
    });
    countShown(video, onPicture, watching.signal);
    await peer.setLocalDescription();
    await gathered(peer);
    const reply = await fetch("offer", {
      method: "POST",
      headers: { "Content-Type": "application/sdp" },
      body: peer.localDescription.sdp,
      signal,
    });
    if (!reply.ok) throw new Error(`the server answered ${reply.status}`);
    await peer.setRemoteDescription({ type: "answer", sdp: await reply.text() });
    await Promise.race([connected, ended, late(CONNECT_MS)]);
    await ended;
  } finally {
    watching.abort();
    peer.close();
    video.srcObject = null;
  }
}

function late(ms) {
  return new Promise((_, reject) => setTimeout(() => reject(new Error("no connection in time")), ms));
}

function gathered(peer) {
  if (peer.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    peer.addEventListener("icegatheringstatechange", () => peer.iceGatheringState === "complete" && resolve());
    setTimeout(resolve, GATHER_MS);
  });
}

function countShown(video, onPicture, signal) {
  if ("requestVideoFrameCallback" in video) {
    const shown = () => {
      if (signal.aborted) return;
      onPicture(video.videoWidth, video.videoHeight);
      video.requestVideoFrameCallback(shown);
    };
    video.requestVideoFrameCallback(shown);
  } else {
    video.addEventListener("timeupdate", () => onPicture(video.videoWidth, video.videoHeight), { signal });
  }
}

/** MJPEG onto a canvas, picture by picture, so that a picture that no longer comes is noticed. */
export async function playMjpeg(canvas, onPicture, signal) {
  const reply = await fetch("stream.mjpg", { signal, cache: "no-store" });
  if (!reply.ok) throw new Error(`the server answered ${reply.status}`);
  const parts = new Parts(reply.body.getReader());
  for (let part = await parts.next(); part !== null; part = await parts.next()) {
    const bitmap = await createImageBitmap(new Blob([part], { type: "image/jpeg" }));
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
    }
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    onPicture(canvas.width, canvas.height);
  }
}

/** The bodies of a multipart stream whose parts have a Content-Length. */
class Parts {
  constructor(reader) {
    this.reader = reader;
    this.bytes = new Uint8Array(0);
  }

  async next() {
    for (;;) {
      const head = await this.head();
      if (head === null) return null;
      const length = Number(/content-length: *(\d+)/i.exec(head)?.[1]);
      if (!length) return null;
      while (this.bytes.length < length) if (!(await this.read())) return null;
      return this.take(length);
    }
  }

  async head() {
    for (let from = 0; ; ) {
      for (let at = from; at + 3 < this.bytes.length; at++) {
        const [a, b, c, d] = this.bytes.subarray(at, at + 4);
        if (a === 13 && b === 10 && c === 13 && d === 10) return new TextDecoder().decode(this.take(at + 4));
      }
      from = Math.max(0, this.bytes.length - 3);
      if (!(await this.read())) return null;
    }
  }

  async read() {
    const { done, value } = await this.reader.read();
    if (done) return false;
    const joined = new Uint8Array(this.bytes.length + value.length);
    joined.set(this.bytes);
    joined.set(value, this.bytes.length);
    this.bytes = joined;
    return true;
  }

  take(length) {
    const taken = this.bytes.slice(0, length);
    this.bytes = this.bytes.slice(length);
    return taken;
  }
}
