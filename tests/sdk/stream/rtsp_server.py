"""A real RTSP server on loopback, for tests. Run it with the system's Python, which has GStreamer's bindings::

    /usr/bin/python3 rtsp_server.py [options]

It prints ``PORT 12345`` when it listens, then a line for each thing that happens, flushed at once:
``CLIENT`` (somebody has connected), ``PLAY`` (the test picture is being sent), ``RECORD`` (somebody begins to push),
``CLOSED`` (a client has gone). It ends at SIGTERM, or when its standard input is closed.

Mounts (both at once, on one port)::

    rtsp://127.0.0.1:PORT/test      PLAY: a moving test picture, or --file
    rtsp://127.0.0.1:PORT/record    RECORD: H.264 (or --record-codec) pushed by a client; written to --record FILE

Options::

    --port N              0 (default): a free one
    --codec NAME          of /test: h264 (default), h265, mjpeg, vp8, or g711, which is sound and no picture
    --size WxH            of the test picture, 320x240
    --fps N               of the test picture, 15
    --gop N               frames from one key frame to the next, 15
    --slices N            H.264: slices of a picture, 1
    --pattern NAME        GStreamer's name of the test picture: smpte, ball (default), snow, ...
    --file PATH           an MP4 with H.264 in place of the test picture; it ends where the file ends
    --resize-to WxH       change the size of the test picture ...
    --resize-after S      ... this many seconds after somebody began to play (default 1)
    --end-after N         end the stream after N frames
    --loss P              leave out RTP packets, each with this probability
    --protocol NAME       tcp, udp, or both (default)
    --user U --password P ask for them; --auth basic (default) or digest
    --record FILE         an MPEG-TS file that /record is written to; readable while it grows. Each push starts it anew
    --record-codec NAME   h264 (default) or h265
"""

from __future__ import annotations

import argparse
import signal
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

TRANSPORT = {
    "tcp": GstRtsp.RTSPLowerTrans.TCP,
    "udp": GstRtsp.RTSPLowerTrans.UDP,
    "both": GstRtsp.RTSPLowerTrans.TCP | GstRtsp.RTSPLowerTrans.UDP,
}


def say(line: str) -> None:
    print(line, flush=True)


def caps(size: str) -> str:
    width, height = size.split("x")
    return f"video/x-raw,format=I420,width={width},height={height}"


def played(args: argparse.Namespace) -> str:
    """The pipeline of /test."""
    if args.file:
        return (
            f'( filesrc location="{args.file}" ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1 )'
        )
    if args.codec == "g711":
        return "( audiotestsrc is-live=true ! audio/x-raw,rate=8000,channels=1 ! mulawenc ! rtppcmupay name=pay0 )"
    encoder = {
        "h264": f"x264enc tune=zerolatency speed-preset=ultrafast key-int-max={args.gop} bitrate=1000 "
        f"option-string=slices={args.slices}:sliced-threads=0 ! rtph264pay config-interval=-1 pt=96",
        "h265": f"x265enc tune=zerolatency speed-preset=ultrafast key-int-max={args.gop} log-level=none ! "
        "rtph265pay config-interval=-1 pt=96",
        "mjpeg": "jpegenc ! rtpjpegpay pt=26",
        "vp8": f"vp8enc deadline=1 keyframe-max-dist={args.gop} ! rtpvp8pay pt=96",
    }[args.codec]
    last = f"! identity drop-probability={args.loss} name=pay0" if args.loss else "name=pay0"
    return (
        f"( videotestsrc is-live=true pattern={args.pattern} num-buffers={args.end_after} ! "
        f"video/x-raw,framerate={args.fps}/1 ! capsfilter name=size caps={caps(args.size)} ! {encoder} {last} )"
    )


def resize_later(media: GstRtspServer.RTSPMedia, args: argparse.Namespace) -> None:
    element = media.get_element().get_by_name("size")

    def resize() -> bool:
        element.set_property("caps", Gst.Caps.from_string(caps(args.resize_to)))
        say("RESIZED")
        return False

    GLib.timeout_add(int(1000 * args.resize_after), resize)


def add_play(server: GstRtspServer.RTSPServer, args: argparse.Namespace) -> GstRtspServer.RTSPMediaFactory:
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(played(args))
    factory.set_protocols(TRANSPORT[args.protocol])
    factory.set_shared(not args.file)

    def configured(_: object, media: GstRtspServer.RTSPMedia) -> None:
        say("PLAY")
        if args.resize_to:
            resize_later(media, args)

    factory.connect("media-configure", configured)
    server.get_mount_points().add_factory("/test", factory)
    return factory


def add_record(server: GstRtspServer.RTSPServer, args: argparse.Namespace) -> GstRtspServer.RTSPMediaFactory:
    codec = args.record_codec
    target = f'mpegtsmux ! filesink buffer-mode=unbuffered location="{args.record}"' if args.record else "fakesink"
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    factory.set_launch(f"( rtp{codec}depay name=depay0 ! {codec}parse ! {target} )")
    factory.set_protocols(TRANSPORT[args.protocol])
    factory.set_latency(100)
    factory.connect("media-configure", lambda *_: say("RECORD"))
    server.get_mount_points().add_factory("/record", factory)
    return factory


def ask_for_password(
    server: GstRtspServer.RTSPServer, factories: list[GstRtspServer.RTSPMediaFactory], args: argparse.Namespace
) -> None:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    if args.auth == "digest":
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(args.user, args.password, token)
    else:
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.BASIC)
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(args.user, args.password), token)
    server.set_auth(auth)
    for factory in factories:
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("user", "media.factory.access", True)
        permissions.add_permission_for_role("user", "media.factory.construct", True)
        factory.set_permissions(permissions)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--codec", choices=["h264", "h265", "mjpeg", "vp8", "g711"], default="h264")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--fps", type=int, default=15)
    parser.add_argument("--gop", type=int, default=15)
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--pattern", default="ball")
    parser.add_argument("--file")
    parser.add_argument("--resize-to")
    parser.add_argument("--resize-after", type=float, default=1.0)
    parser.add_argument("--end-after", type=int, default=-1)
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--protocol", choices=sorted(TRANSPORT), default="both")
    parser.add_argument("--user")
    parser.add_argument("--password")
    parser.add_argument("--auth", choices=["basic", "digest"], default="basic")
    parser.add_argument("--record")
    parser.add_argument("--record-codec", choices=["h264", "h265"], default="h264")
    return parser.parse_args()


def connected(_: object, client: GstRtspServer.RTSPClient) -> None:
    say("CLIENT")
    client.connect("closed", lambda *_: say("CLOSED"))


def main() -> None:
    args = arguments()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(args.port))
    factories = [add_play(server, args), add_record(server, args)]
    if args.user:
        ask_for_password(server, factories, args)
    server.connect("client-connected", connected)
    if not server.attach(None):
        sys.exit(f"port {args.port} can't be listened on")
    loop = GLib.MainLoop()
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, loop.quit)
    GLib.io_add_watch(sys.stdin.fileno(), GLib.PRIORITY_DEFAULT, GLib.IOCondition.HUP, lambda *_: loop.quit())
    say(f"PORT {server.get_bound_port()}")
    loop.run()


if __name__ == "__main__":
    main()
