"""Token buckets, and wrong keys by address."""

from __future__ import annotations

import logging

import pytest

from llmsvc.proxy.buckets import Buckets
from llmsvc.proxy.errors import unauthorized, unavailable
from llmsvc.proxy.guesses import A_MINUTE, Guesses

WRONG = unauthorized("This API key is not valid.")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def scope(address: str | None, *, key: bool = True) -> dict[str, object]:
    headers = [(b"authorization", b"Bearer sk-llm-x")] if key else []
    return {"headers": headers, "client": (address, 1) if address else None}


def test_a_bucket_gives_what_it_holds_and_then_what_comes_in() -> None:
    clock = Clock()
    buckets = Buckets(3, 0.5, 100, clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 2.0]
    clock.now += 1.5
    assert buckets.take("a") == pytest.approx(0.5)
    clock.now += 0.5
    assert buckets.take("a") == 0
    assert buckets.take("b") == 0
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 2.0]


def test_buckets_are_bounded_and_the_busiest_one_stays() -> None:
    buckets = Buckets(1, 0.001, 10, Clock())
    for number in range(1000):
        buckets.take("busy")
        buckets.take(number)
    assert len(buckets) == 10
    assert buckets.take("busy") > 0


def test_wrong_keys_of_an_address_are_429_after_some_and_401_again_later() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    answers = [guesses.judge(scope("192.0.2.1"), WRONG).status for _ in range(A_MINUTE + 5)]
    assert answers == [401] * A_MINUTE + [429] * 5
    refused = guesses.judge(scope("192.0.2.1"), WRONG)
    assert dict(refused.headers) == {b"retry-after": b"3"}
    assert guesses.judge(scope("192.0.2.2"), WRONG) is WRONG
    clock.now += 3
    assert guesses.judge(scope("192.0.2.1"), WRONG) is WRONG


def test_an_ipv6_network_counts_as_one() -> None:
    guesses = Guesses(Clock())
    for number in range(A_MINUTE):
        assert guesses.judge(scope(f"2001:db8::{number:x}"), WRONG) is WRONG
    assert guesses.judge(scope("2001:db8::ffff:1"), WRONG).status == 429
    assert guesses.judge(scope("2001:db8:0:1::1"), WRONG) is WRONG


def test_no_key_and_no_directory_are_no_guesses() -> None:
    guesses = Guesses(Clock())
    down = unavailable("API keys cannot be checked now.", "keys_unavailable")
    for _ in range(100):
        assert guesses.judge(scope("192.0.2.1", key=False), WRONG) is WRONG
        assert guesses.judge(scope("192.0.2.1"), down) is down


def test_the_journal_hears_of_them_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    guesses = Guesses(clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(A_MINUTE + 1000):
            guesses.judge(scope("192.0.2.1"), WRONG)
            clock.now += 0.01
        assert len(caplog.records) == 1
        clock.now += 60
        for _ in range(A_MINUTE + 1):
            guesses.judge(scope("192.0.2.1"), WRONG)
    assert len(caplog.records) == 2
    assert "192.0.2.1" in caplog.text
