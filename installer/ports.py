"""Whether the addresses on which clients shall connect are free."""

from __future__ import annotations

import errno
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

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


def occupied(path: Path) -> str | None:
    """What is where a socket shall be, and would be lost: systemd removes whatever has that name. None where
    there is nothing, or a socket on which nobody listens any more."""
    try:
        kind = stat.S_IFMT(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if kind != stat.S_IFSOCK:
        return "there is a directory" if kind == stat.S_IFDIR else "there is a file"
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return None
        except OSError:
            pass  # of another kind, or too busy: somebody has it
    return "another program listens there"


def check(places: Iterable[str]) -> None:
    """Finds an address that somebody else has.

    :param places: as Config.listen has them
    :raises ConflictError: there is one
    """
    ours = services.listening(manager.SOCKET) | services.listening(manager.SERVER_SOCKET)
    for place in places:
        if place.startswith("/"):
            if place not in ours and (what := occupied(Path(place))):
                raise ConflictError(
                    f"cannot listen on {place}: {what}",
                    hint="choose a path where nothing is yet, for example --listen /run/llmsvc.sock",
                )
            continue
        host, _, port = place.rpartition(":")
        # a port that our own socket holds is free for another address of ours
        if any(address.endswith(f":{port}") for address in ours):
            continue
        if why := taken(host.strip("[]"), int(port)):
            raise ConflictError(
                f"cannot listen on {host} port {port}: {why}",
                hint="'ss -ltnp' tells who does; choose another one with --listen ADDRESS:PORT",
            )
