"""The port: ours, as config.env says, and not open to others without TLS."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from installer import ports
from installer.doctor.exclusion import OUTPUT
from installer.doctor.finding import INSTALL, RELOAD, Finding, error, warning
from installer.doctor.firewall import for_others
from installer.doctor.host import Host
from llmsvc import paths
from llmsvc.process import run


def check(host: Host) -> Iterator[Finding]:
    """Who listens, and who can connect."""
    if host.systemd:
        yield from _socket(host, host.config.listen)
    for place in host.config.listen:
        address, _, port = place.rpartition(":")
        if for_others(place) and not host.config.has_tls:
            yield warning(
                "no-tls",
                f"the service listens on {address}, and there is no TLS",
                "keys and prompts cross the network readable for everybody on the way",
                f"set LLAMA_PROXY_TLS_CERT and LLAMA_PROXY_TLS_KEY in {paths.CONFIG_ENV}, then {INSTALL}; or "
                f"put nginx or Caddy in front of it, then {INSTALL} --listen 127.0.0.1:{port}",
            )


def _socket(host: Host, places: list[str]) -> Iterator[Finding]:
    listening = host.listening
    if host.unit(host.socket, "ActiveState") != "active":
        for wanted, why in taken(host).items():
            address, _, port = wanted.rpartition(":")
            who = _who(port)
            end = f"sudo systemctl disable --now {who.unit} && " if who.unit else "end that program, then "
            yield error(
                "port-taken",
                f"{host.socket} cannot listen on {wanted}: {why}{who}",
                "clients reach somebody else, or nobody",
                f"take another port: {INSTALL} --listen {address}:{_free(address, int(port))}; "
                f"or end the other: {end}{INSTALL}",
            )
    elif lacking := [place for place in places if place not in listening]:
        yield error(
            "listen",
            f"{host.socket} listens on {', '.join(sorted(listening))}, but config.env says "
            f"{', '.join(lacking)}",
            "clients that use the new address are refused",
            INSTALL,
        )
    drop_in = OUTPUT / f"{host.socket}.d/50-llmsvc-listen.conf"
    if not drop_in.exists():
        yield error(
            "listen-missing",
            f"{drop_in} is missing",
            "the socket listens on its default address, whatever config.env says",
            RELOAD,
        )


def taken(host: Host) -> dict[str, str]:
    """Where we should listen and cannot, for somebody else does; and why."""
    found = {}
    for wanted in host.config.listen:
        address, _, port = wanted.rpartition(":")
        if not wanted.startswith("/") and (why := ports.taken(address.strip("[]"), int(port))):
            found[wanted] = why
    return found


@dataclasses.dataclass(frozen=True)
class _Listener:
    """Who listens on a port: a program and its service; empty where that is not known."""

    program: str = ""
    pid: str = ""
    unit: str = ""

    def __str__(self) -> str:
        of = f" of {self.unit}" if self.unit else ""
        return f", by {self.program} (pid {self.pid}{of})" if self.program else ""


def _who(port: str) -> _Listener:
    shown = run(["ss", "-Hltnp", f"sport = :{port}"], check=False).stdout
    if not (match := re.search(r'users:\(\("([^"]*)",pid=([0-9]+)', shown)):
        return _Listener()
    with contextlib.suppress(OSError):
        unit = Path("/proc", match[2], "cgroup").read_text(encoding="ascii").strip().rpartition("/")[2]
        return _Listener(match[1], match[2], unit if unit.endswith(".service") else "")
    return _Listener(match[1], match[2])


def _free(address: str, port: int) -> int:
    """The next port that nobody has."""
    return next((p for p in range(port + 1, 65536) if not ports.taken(address.strip("[]"), p)), port)
