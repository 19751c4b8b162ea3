"""The port: ours, as config.env says, and not open to others without TLS."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from installer import ports
from installer.doctor.exclusion import OUTPUT
from installer.doctor.finding import INSTALL, Finding, error, warning
from installer.doctor.host import Host
from llmsvc.process import run


def check(host: Host) -> Iterator[Finding]:
    """Who listens, and who can connect."""
    if host.systemd:
        yield from _socket(host, host.config.listen)
    for place in host.config.listen:
        address, _, port = place.rpartition(":")
        if place.startswith("/") or host.config.has_tls:
            continue
        if not ipaddress.ip_address(address.strip("[]")).is_loopback:
            yield warning(
                "no-tls",
                f"the service listens on {address}, and there is no TLS",
                "keys and prompts cross the network readable for everybody on the way",
                "set LLAMA_PROXY_TLS_CERT and LLAMA_PROXY_TLS_KEY, or put nginx or Caddy in front of it, "
                f"then sudo llmsvc install --listen 127.0.0.1:{port}",
            )


def _socket(host: Host, places: list[str]) -> Iterator[Finding]:
    listening = {line.split(" ")[0] for line in host.unit(host.socket, "Listen").splitlines()}
    if host.unit(host.socket, "ActiveState") != "active":
        for wanted in places:
            address, _, port = wanted.rpartition(":")
            if not wanted.startswith("/") and (why := ports.taken(address.strip("[]"), int(port))):
                yield error(
                    "port-taken",
                    f"{host.socket} cannot listen on {wanted}: {why}{_by(port)}",
                    "clients reach somebody else, or nobody",
                    f"end that program, or sudo llmsvc install --listen ADDRESS:PORT; then {INSTALL}",
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
            "sudo systemctl daemon-reload",
        )


def _by(port: str) -> str:
    """Who listens there, for people."""
    shown = run(["ss", "-Hltnp", f"sport = :{port}"], check=False).stdout
    who = shown.partition('users:(("')[2].partition('"')[0]
    return f", by {who}" if who else ""
