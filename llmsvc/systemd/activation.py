"""Takes over the listening sockets that systemd passes (sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket

_FIRST = 3


def listen_sockets() -> list[socket.socket]:
    """The sockets that systemd passed to this process, in the order of the .socket unit; empty without any.

    Family and protocol are read from each descriptor: with a wrong family asyncio would not set TCP_NODELAY.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    found = []
    for fd in range(_FIRST, _FIRST + count):
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        found.append(sock)
    return found
