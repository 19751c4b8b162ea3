"""Whom a request comes from, when reverse proxies stand in between."""

from __future__ import annotations

import pytest

from llmsvc import env
from llmsvc.proxy.addresses import Proxies, plain

PROXIES = Proxies(env.networks("unix")("10.0.0.0/8, 192.0.2.7 2001:db8:1::/48"))
PROXY = ("10.0.0.1", 5000)


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ([], None),
        (["x-forwarded-for: 203.0.113.9"], "203.0.113.9"),
        (["x-forwarded-for: 203.0.113.9, 10.1.1.1, 192.0.2.7"], "203.0.113.9"),
        # what the client itself put in front does not count
        (["x-forwarded-for: 1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        (["x-forwarded-for: 1.1.1.1", "x-forwarded-for: 203.0.113.9"], "203.0.113.9"),
        (["x-forwarded-for: 10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        (["x-forwarded-for: 203.0.113.9:4711"], "203.0.113.9"),
        (["x-forwarded-for: [2001:db8::9]:4711"], "2001:db8::9"),
        (["x-forwarded-for: 2001:db8::9"], "2001:db8::9"),
        (["x-forwarded-for: ::ffff:203.0.113.9"], "203.0.113.9"),
        (["x-forwarded-for: nonsense"], None),
        (["x-forwarded-for: 203.0.113.9, nonsense"], None),
        (["x-forwarded-for: nonsense, 203.0.113.9"], "203.0.113.9"),
        (["x-forwarded-for: " + "10.0.0.2, " * 50 + "10.0.0.3"], "10.0.0.2"),
        (["forwarded: for=203.0.113.9;proto=https;by=10.0.0.1"], "203.0.113.9"),
        (['forwarded: proto=https;For="[2001:db8::9]:4711"'], "2001:db8::9"),
        (["forwarded: for=1.1.1.1, for=203.0.113.9, for=10.0.0.3"], "203.0.113.9"),
        (['forwarded: for="a,b", for=203.0.113.9'], "203.0.113.9"),
        (["forwarded: for=_hidden"], None),
        (["forwarded: for=unknown, for=10.0.0.2"], "10.0.0.2"),
        (["forwarded: for=1.1.1.1", "x-forwarded-for: 203.0.113.9"], "203.0.113.9"),
        (['forwarded: for="'], None),
        (["forwarded: " + 'for="' * 500], None),
    ],
)
def test_the_last_address_that_is_no_trusted_proxy_counts(headers: list[str], client: str | None) -> None:
    pairs = [tuple(header.encode().split(b": ", 1)) for header in headers]
    assert PROXIES.client(pairs, PROXY) == ((client, 0) if client else PROXY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "trusted"),
    [("10.9.9.9", True), ("192.0.2.7", True), ("192.0.2.8", False), ("2001:db8:1::5", True), (None, False)],
)
def test_only_named_proxies_are_trusted(address: str | None, trusted: bool) -> None:
    assert PROXIES.trusts(address) is trusted


def test_a_unix_socket_is_trusted_where_it_is_named() -> None:
    assert Proxies(env.networks("unix")("unix")).trusts(None)
    assert not Proxies().trusts("127.0.0.1")


def test_an_address_is_told_without_zone_and_ipv4_as_such() -> None:
    assert [plain(text) for text in ("fe80::1%eth0", "::ffff:192.0.2.1", "::1")] == [
        "fe80::1",
        "192.0.2.1",
        "::1",
    ]
