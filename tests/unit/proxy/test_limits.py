"""What a participant may do: the windows against reference models, tokens in parallel, and over a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsvc import config, env
from llmsvc.proxy import limits
from llmsvc.proxy.errors import ApiError
from llmsvc.proxy.limits import Limits
from llmsvc.proxy.participants import Participant
from llmsvc.proxy.token_window import TokenWindow
from tests.unit.proxy.clock import Clock
from tests.unit.proxy.people import person


def make(clock: Clock, **settings: object) -> Limits:
    text = "".join(f"{key}={value}\n" for key, value in settings.items())
    file = Path("config.env")
    return Limits(config.parse(env.parse(text, file), file), clock)


def requests(limit: int, seconds: int, clock: Clock) -> Limits:
    return make(clock, LLAMA_PROXY_RATE_LIMIT=limit, LLAMA_PROXY_RATE_WINDOW_SECONDS=seconds)


def refused(found: Limits, who: Participant) -> dict[str, Any]:
    with pytest.raises(ApiError) as caught:
        found.enter(who)
    assert (caught.value.status, caught.value.state) == (429, "rejected_limit")
    return {name.decode(): value.decode() for name, value in caught.value.headers}


ALICE, BOB = person("alice"), person("bob")


@given(
    limit=st.integers(1, 5),
    steps=st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0, 3.0, 9.5, 10.0]), st.sampled_from([ALICE, BOB])),
        max_size=60,
    ),
)
def test_the_window_never_admits_one_too_many_nor_one_too_few(
    limit: int, steps: list[tuple[float, Participant]]
) -> None:
    clock = Clock()
    found = requests(limit, 10, clock)
    admitted: dict[str, list[float]] = {ALICE.key: [], BOB.key: []}
    for wait, who in steps:
        clock.now += wait
        recent = [at for at in admitted[who.key] if at > clock.now - 10]
        try:
            found.enter(who)
            taken = True
        except ApiError:
            taken = False
        assert taken == (len(recent) < limit)
        if taken:
            admitted[who.key].append(clock.now)


def test_retry_after_is_exact() -> None:
    clock = Clock()
    found = requests(2, 10, clock)
    found.enter(ALICE)
    clock.now += 3
    found.enter(ALICE)
    assert refused(found, ALICE) == {"retry-after": "7", "retry-after-ms": "7000"}
    clock.now += 6.999
    refused(found, ALICE)
    clock.now += 0.001
    found.enter(ALICE)


def test_override_counts_instead_of_the_default_and_may_be_lowered() -> None:
    clock = Clock()
    found = requests(1, 10, clock)
    for _ in range(3):
        found.enter(person("alice", rate_limit=3))
        clock.now += 1
    # all three must have left: the last came one second ago
    assert refused(found, ALICE)["retry-after"] == "9"


def test_headers_tell_what_is_left() -> None:
    clock = Clock()
    found = requests(3, 90, clock)
    assert dict(found.headers(ALICE))[b"x-ratelimit-reset-requests"] == b"0s"
    found.enter(ALICE)
    assert dict(found.headers(ALICE)) == {
        b"x-ratelimit-limit-requests": b"3",
        b"x-ratelimit-remaining-requests": b"2",
        b"x-ratelimit-reset-requests": b"1m30s",
    }
    clock.now += 88.5
    assert dict(found.headers(ALICE))[b"x-ratelimit-reset-requests"] == b"1.5s"


def test_a_place_that_was_given_back_is_free_again() -> None:
    found = requests(1, 10, Clock())
    place = found.enter(ALICE)
    assert place is not None
    found.give_back(ALICE, place)
    found.enter(ALICE)


def test_hidden_users_have_no_limits() -> None:
    found = make(Clock(), LLAMA_PROXY_RATE_LIMIT=1, LLAMA_PROXY_CONCURRENT=1, LLAMA_PROXY_TOKENS_PER_DAY=1)
    ours = person("llmsvc", hidden=True)
    assert [found.enter(ours), found.enter(ours)] == [None, None]
    assert found.headers(ours) == []
    assert not found.bounds_tokens(ours)


def test_requests_at_once_are_bounded_until_they_end() -> None:
    found = make(Clock(), LLAMA_PROXY_CONCURRENT=2)
    twice = person("bob", concurrent=1)
    found.enter(ALICE)
    found.enter(ALICE)
    refused(found, ALICE)
    found.leave(ALICE)
    found.enter(ALICE)
    found.enter(twice)
    refused(found, twice)
    # what was refused takes no place in the window
    assert dict(found.headers(twice))[b"x-ratelimit-remaining-requests"] == b"59"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(7, b"7s"), (60, b"1m0s"), (3599, b"59m59s"), (3600, b"1h0m0s"), (86399, b"23h59m59s")],
)
def test_the_time_of_a_reset_is_told_as_openai_does(seconds: int, told: bytes) -> None:
    found = requests(3, seconds, Clock())
    found.enter(ALICE)
    assert dict(found.headers(ALICE))[b"x-ratelimit-reset-requests"] == told


def test_tokens_are_counted_per_minute_and_per_day() -> None:
    clock = Clock()
    found = make(clock, LLAMA_PROXY_TOKENS_PER_MINUTE=100, LLAMA_PROXY_TOKENS_PER_DAY=150)
    found.settle(ALICE, found.reserve(ALICE, 1000), 100)
    assert refused(found, ALICE)["retry-after"] == "60"
    clock.now += 61
    grant = found.reserve(ALICE, 1000)
    assert grant.tokens == 50
    found.settle(ALICE, grant, 50)
    clock.now += 60
    assert refused(found, ALICE)["retry-after"] == str(86400 - 121)
    assert dict(found.headers(ALICE))[b"x-ratelimit-remaining-tokens"] == b"0"
    assert dict(found.headers(ALICE))[b"x-ratelimit-limit-tokens"] == b"150"
    found.enter(BOB)


@given(
    limit=st.integers(1, 40),
    steps=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.01, 1.0, 20.0, 59.0, 60.0]),
            st.integers(1, 30),
            st.integers(0, 30),
            st.integers(0, 3),
        ),
        max_size=40,
    ),
)
def test_parallel_requests_never_take_one_token_too_many(
    limit: int, steps: list[tuple[float, int, int, int]]
) -> None:
    """Requests begin, ask for tokens, and the one that has run longest ends after as many as it used."""
    clock = Clock()
    found = make(clock, LLAMA_PROXY_TOKENS_PER_MINUTE=limit)
    open_ones: list[limits.Grant] = []
    spent: list[tuple[float, int]] = []
    for wait, most, used, ended in steps:
        clock.now += wait
        for _ in range(min(ended, len(open_ones))):
            grant = open_ones.pop(0)
            found.settle(ALICE, grant, min(used, grant.tokens))
            spent.append((clock.now, min(used, grant.tokens)))
        recent = sum(tokens for at, tokens in spent if at > clock.now - 60)
        assert recent <= limit
        if found.may_start(ALICE, most):
            try:
                open_ones.append(found.reserve(ALICE, most))
            except ApiError:
                # all that are left are taken, but for what counts up to a tenth of a second longer
                near = sum(tokens for at, tokens in spent if at > clock.now - 60.1)
                assert near + sum(grant.tokens for grant in open_ones) >= limit
        assert recent + sum(grant.tokens for grant in open_ones) <= limit


def test_one_that_might_overshoot_waits_for_the_others_to_end() -> None:
    found = make(Clock(), LLAMA_PROXY_TOKENS_PER_MINUTE=100)
    assert found.may_start(ALICE, 80)
    first = found.reserve(ALICE, 80)
    assert not found.may_start(ALICE, 21)
    assert found.may_start(ALICE, 20)
    assert found.may_start(BOB, 80)
    found.settle(ALICE, first, 30)
    assert found.may_start(ALICE, 80)
    assert found.reserve(ALICE, 80).tokens == 70


def test_a_prompt_that_is_too_long_now_is_told_when_and_one_that_always_is_is_told_so() -> None:
    clock = Clock()
    found = make(clock, LLAMA_PROXY_TOKENS_PER_MINUTE=100)
    found.settle(ALICE, found.reserve(ALICE, 60), 60)
    clock.now += 10
    later = found.too_few_tokens(ALICE, 50)
    assert (later.status, dict(later.headers)[b"retry-after"]) == (429, b"50")
    assert found.too_few_tokens(ALICE, 100).status == 400


def test_a_day_of_tokens_needs_bounded_memory() -> None:
    clock = Clock()
    window = TokenWindow(86400, clock)
    for _ in range(5000):
        window.settle("a", 0, 1)
        clock.now += 20
    assert len(window.dump()["a"]) <= 1442
    # none left early; those of one part leave at its end
    assert 86400 / 20 - 1 <= window.spent("a") <= 86460 / 20 + 1


def test_the_windows_are_restored_with_the_time_that_passed(tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "limits.json"
    before = make(clock, LLAMA_PROXY_RATE_LIMIT=1, LLAMA_PROXY_TOKENS_PER_DAY=10)
    before.enter(ALICE)
    before.settle(BOB, before.reserve(BOB, 4), 4)
    clock.now += 4
    limits.save(before.dump(), file)
    data = json.loads(file.read_text())
    data["at"] -= 3  # three seconds ago
    file.write_text(json.dumps(data))
    after = make(clock, LLAMA_PROXY_RATE_LIMIT=1, LLAMA_PROXY_TOKENS_PER_DAY=10)
    limits.load(after, file)
    assert refused(after, ALICE)["retry-after"] == "53"
    assert after.reserve(BOB, 10).tokens == 6


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"at": "x", "requests": {}}', '{"at": 1, "requests": {"1": 5}}', '{"at": 1, "requests": []}'],
)
def test_damaged_state_leaves_the_windows_empty(tmp_path: Path, text: str) -> None:
    file = tmp_path / "limits.json"
    file.write_text(text)
    found = requests(1, 10, Clock())
    limits.load(found, file)
    found.enter(ALICE)
