"""Whether the addresses on which clients shall connect are free."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from installer import services
from llmsvc.errors import ConflictError
from llmsvc.systemd import manager


def taken(host: str, port: int) -> str | None:
    """Why nobody could listen on host:port now, or None if it is free (or the address not there yet)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return None if error.errno == errno.EADDRNOTAVAIL else str(error.strerror)
    return None


def check(places: Iterable[str]) -> None:
    """Finds an address that somebody else has.

    :param places: as Config.listen has them; unix sockets are free
    :raises ConflictError: there is one
    """
    ours = services.listening(manager.SOCKET) | services.listening(manager.SERVER_SOCKET)
    for place in places:
        host, _, port = place.rpartition(":")
        # a port that our own socket holds is free for another address of ours
        if place.startswith("/") or any(address.endswith(f":{port}") for address in ours):
            continue
        if why := taken(host.strip("[]"), int(port)):
            raise ConflictError(
                f"cannot listen on {host} port {port}: {why}",
                hint="'ss -ltnp' tells who does; choose another one with --listen ADDRESS:PORT",
            )
