"""What the service manager is told: ready, still alive, stopping (the protocol of sd_notify)."""

from __future__ import annotations

import logging
import os
import socket

logger = logging.getLogger("dartblur.service")


def notify(*lines: str) -> bool:
    """Sends assignments such as ``READY=1``; whether somebody hears them. A manager that is gone is no error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(0.5)
        try:
            # A name that begins with @ is in Linux's abstract namespace.
            sender.sendto("\n".join(lines).encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            logger.debug("the service manager can't be told: %s", error)
            return False
    return True


def watchdog_interval() -> float | None:
    """Seconds within which ``WATCHDOG=1`` is expected; None where it isn't."""
    interval, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not interval.isdigit() or not int(interval) or process != str(os.getpid()):
        return None
    return int(interval) / 1_000_000
