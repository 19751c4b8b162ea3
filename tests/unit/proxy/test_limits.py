"""The sliding window against a reference model, and over a restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsvc.proxy import limits
from llmsvc.proxy.errors import ApiError
from llmsvc.proxy.limits import Window


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(
    limit=st.integers(1, 5),
    steps=st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0, 3.0, 9.5, 10.0]), st.integers(1, 2)), max_size=60
    ),
)
def test_window_never_admits_one_too_many_nor_one_too_few(limit: int, steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    window = Window(limit, 10, clock)
    admitted: dict[int, list[float]] = {1: [], 2: []}
    for wait, user in steps:
        clock.now += wait
        recent = [at for at in admitted[user] if at > clock.now - 10]
        try:
            window.take(user, None)
            taken = True
        except ApiError:
            taken = False
        assert taken == (len(recent) < limit)
        if taken:
            admitted[user].append(clock.now)


def test_retry_after_is_exact() -> None:
    clock = Clock()
    window = Window(2, 10, clock)
    window.take(1, None)
    clock.now += 3
    window.take(1, None)
    with pytest.raises(ApiError) as caught:
        window.take(1, None)
    headers = dict(caught.value.headers)
    assert headers == {b"retry-after": b"7", b"retry-after-ms": b"7000"}
    clock.now += 6.999
    with pytest.raises(ApiError):
        window.take(1, None)
    clock.now += 0.001
    window.take(1, None)


def test_override_counts_instead_of_the_default_and_may_be_lowered() -> None:
    clock = Clock()
    window = Window(1, 10, clock)
    for _ in range(3):
        window.take(1, 3)
        clock.now += 1
    with pytest.raises(ApiError) as caught:
        window.take(1, 1)
    # all three must have left: the last came one second ago
    assert dict(caught.value.headers)[b"retry-after"] == b"9"


def test_headers_tell_what_is_left() -> None:
    clock = Clock()
    window = Window(3, 90, clock)
    assert dict(window.headers(1, None))[b"x-ratelimit-reset-requests"] == b"0s"
    window.take(1, None)
    assert dict(window.headers(1, None)) == {
        b"x-ratelimit-limit-requests": b"3",
        b"x-ratelimit-remaining-requests": b"2",
        b"x-ratelimit-reset-requests": b"1m30s",
    }
    clock.now += 88.5
    assert dict(window.headers(1, None))[b"x-ratelimit-reset-requests"] == b"1.5s"


def test_place_that_was_given_back_is_free_again() -> None:
    window = Window(1, 10, Clock())
    place = window.take(1, None)
    window.give_back(1, place)
    window.take(1, None)


def test_window_is_restored_with_the_time_that_passed(tmp_path: Path) -> None:
    clock = Clock()
    window = Window(1, 10, clock)
    window.take(1, None)
    clock.now += 4
    file = tmp_path / "windows.json"
    limits.save(window.dump(), file)
    data = json.loads(file.read_text())
    data["at"] -= 3  # three seconds ago
    file.write_text(json.dumps(data))
    after = Window(1, 10, clock)
    limits.load(after, file)
    with pytest.raises(ApiError) as caught:
        after.take(1, None)
    assert dict(caught.value.headers)[b"retry-after"] == b"3"
    after.take(2, None)


@pytest.mark.parametrize("text", ["", "[]", '{"at": "x", "users": {}}', '{"at": 1, "users": {"1": 5}}'])
def test_damaged_state_leaves_the_window_empty(tmp_path: Path, text: str) -> None:
    file = tmp_path / "windows.json"
    file.write_text(text)
    window = Window(1, 10, Clock())
    limits.load(window, file)
    window.take(1, None)
