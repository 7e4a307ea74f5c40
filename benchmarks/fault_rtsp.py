"""An RTSP camera whose network loses packets and changes bytes in others. Run it with the system's Python::

    /usr/bin/python3 fault_rtsp.py FILE.h264 [--loss 0.01] [--flips 0.0001] [--port 0]

It sends the file again and again, without an end, as a camera does. It prints ``PORT 12345`` when it listens at
``/test``, for TCP and UDP, and ends when its standard input is closed.
"""

from __future__ import annotations

import argparse
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--loss", type=float, default=0.0, help="probability that a packet is lost")
    parser.add_argument("--flips", type=float, default=0.0, help="probability that a byte arrives as another one")
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    Gst.init(None)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f'( multifilesrc location="{args.file}" loop=true ! h264parse ! rtph264pay pt=96 config-interval=-1 '
        f"! breakmydata seed=1 probability={args.flips} ! identity drop-probability={args.loss} name=pay0 )"
    )
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(args.port))
    server.get_mount_points().add_factory("/test", factory)
    if not server.attach(None):
        sys.exit(f"port {args.port} can't be listened on")
    loop = GLib.MainLoop()
    GLib.io_add_watch(sys.stdin.fileno(), GLib.PRIORITY_DEFAULT, GLib.IOCondition.HUP, lambda *_: loop.quit())
    print(f"PORT {server.get_bound_port()}", flush=True)
    loop.run()


if __name__ == "__main__":
    main()
