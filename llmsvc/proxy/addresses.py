"""The address of a client: of its connection, or what a trusted reverse proxy says of it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix"
"""In LLAMA_PROXY_TRUSTED_PROXIES: whoever connects to a unix socket of ours."""

_FORWARDED_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)', re.IGNORECASE)
# commas between elements, not those in quotes
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_MOST_HOPS = 32


def plain(text: str) -> str:
    """An address as it is told: without the zone of a link-local one, and IPv4 as such on an IPv6 socket."""
    text = text.partition("%")[0]
    return text[7:] if text.startswith("::ffff:") and "." in text else text


class Proxies:
    """The reverse proxies whose word counts.

    :param trusted: their networks; UNIX for those on a unix socket
    """

    def __init__(self, trusted: Sequence[Network | str] = ()) -> None:
        self._unix = UNIX in trusted
        self._networks = [item for item in trusted if not isinstance(item, str)]

    def trusts(self, address: str | None) -> bool:
        """Whether what connects from here (None: a unix socket) may say whom it speaks for."""
        if address is None:
            return self._unix
        return bool(self._networks) and self._contains(ipaddress.ip_address(address))

    def client(
        self, headers: Iterable[tuple[bytes, bytes]], connection: tuple[str, int] | None
    ) -> tuple[str, int] | None:
        """Whom a trusted proxy speaks for: the last address in its header that is no trusted proxy itself.

        What stands before that one was said by somebody who is not trusted. X-Forwarded-For comes first;
        Forwarded counts where it is absent. Without a usable one it is the proxy itself.
        """
        hops = _hops(headers)
        found: str | None = None
        for hop in reversed(hops[-_MOST_HOPS:]):
            address = _address(hop)
            if address is None:
                break
            found = str(address)
            if not self._contains(address):
                break
        return connection if found is None else (found, 0)

    def _contains(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _hops(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    x_forwarded: list[str] = []
    forwarded: list[str] = []
    for name, value in headers:
        if name == b"x-forwarded-for":
            x_forwarded += value.decode("latin-1").split(",")
        elif name == b"forwarded":
            for element in _ELEMENT.findall(value.decode("latin-1")):
                found = _FORWARDED_FOR.search(element.strip())
                forwarded.append(found[1].strip().strip('"') if found else "unknown")
    return x_forwarded or forwarded


def _address(hop: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """`192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`."""
    hop = hop.strip()
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        return ipaddress.ip_address(plain(hop))
    except ValueError:
        return None
