"""Requests that name another model switch to it: when, in which order, and what if that fails."""

from __future__ import annotations

import asyncio
import itertools
import math
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsvc.errors import CanceledError, ConflictError
from llmsvc.proxy.errors import ApiError
from llmsvc.systemd.manager import StartError
from tests.unit.proxy.on_demand import World, in_world, run
from tests.unit.proxy.people import record

ON = {"LLAMA_PROXY_AUTOSWITCH": 1, "LLAMA_PROXY_SWITCH_SECONDS": 10}
Test = Callable[[World], Awaitable[None]]


@pytest.fixture
def world(tmp_path: Path) -> Callable[[Test], None]:
    """Runs a test where `a` was loaded long ago."""
    return lambda test: in_world(tmp_path, test, **ON)


def test_a_model_that_was_there_for_long_is_replaced_at_once(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        assert await w.request("alice", "b") == "b"
        assert [(job.model, job.at) for job in w.jobs] == [("b", 0.0)]

    world(test)


def test_a_model_stays_for_its_time_and_serves_those_who_want_it(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        await w.request("alice", "b", 0)
        assert w.clock() == w.load
        first = w.ask("bob", "a", 0)
        # those for the loaded model pass the one that waits
        for _ in range(5):
            assert await w.request("alice", "b") == "b"
            assert await w.request("carol") == "b"
        assert not first.done()
        assert await first == "a"
        assert [(job.model, job.at) for job in w.jobs] == [("b", 0.0), ("a", w.load + 10)]

    world(test)


def test_once_the_time_is_over_what_runs_ends_and_nothing_more_is_given_to_it(
    world: Callable[[Test], None],
) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        running = w.ask("bob", "a", 5)
        behind = [w.ask("bob", "a"), w.ask("dora")]
        await asyncio.sleep(0)
        assert await w.request("alice", "b") == "b"
        assert (running.result(), w.jobs[0].at) == ("a", 5.0)
        assert [await task for task in behind] == ["a", "b"]
        assert w.switches() == ["b", "a"]

    world(test)


def test_the_journal_says_who_displaced_whom(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        tasks = [w.ask(user, "a") for user in ("bob", "bob", "bob", "carol")]
        await asyncio.sleep(0)
        await w.request("alice", "b")
        assert w.journal.entries[0] == {
            "MESSAGE": "alice's request for b replaces a (still waiting for a: 2 of bob, 1 of carol)",
            "PRIORITY": 6,
            "LLM_USER": "alice",
            "LLM_MODEL": "b",
            "LLM_REPLACED_MODEL": "a",
        }
        await asyncio.gather(*tasks)
        assert w.journal.entries[1]["MESSAGE"] == "bob's request for a replaces b"

    world(test)


def test_each_model_that_is_asked_for_has_its_turn_before_another_has_its_second(
    world: Callable[[Test], None],
) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        tasks = [w.ask("alice", model, 4) for _ in range(6) for model in ("a", "b")]
        await asyncio.sleep(5)
        assert await w.request("carol", "c") == "c"
        assert w.switches()[:2] == ["b", "c"]
        await asyncio.gather(*tasks)

    world(test)


def test_who_leaves_before_the_switch_began_causes_none(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        running = w.ask("bob", "a", 5)
        await asyncio.sleep(0)
        alice, held = w.ask("alice", "b"), w.ask("bob", "a")
        await asyncio.sleep(1)
        assert w.queue.leaving == "a"
        alice.cancel()
        assert [await running, await held] == ["a", "a"]
        assert w.clock() == 6.0
        assert w.jobs == []

    world(test)


def test_the_right_the_setting_and_the_model_are_needed(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        wanted = w.switcher.wanted
        enabled = w.config.llama_proxy_autoswitch
        assert wanted(record("alice", may_switch=True), "b") == ("b" if enabled else None)
        assert wanted(record("alice", may_switch=True), "b-q4.gguf") == ("b" if enabled else None)
        assert wanted(record("alice", may_switch=True), "a-q4.gguf") == ("a" if enabled else None)
        assert wanted(record("alice", may_switch=False), "b") is None
        for model in (None, "", "current", "nosuch", "../a", "A", "nosuch.gguf"):
            assert wanted(record("alice", may_switch=True), model) is None
        assert w.switcher.choices(record("alice", may_switch=True)) == (["a", "b", "c"] if enabled else [])
        assert w.switcher.choices(record("alice", may_switch=False)) == []

    in_world(tmp_path, test, **ON)
    in_world(tmp_path, test)


def test_a_model_that_does_not_start_is_refused_for_a_minute_and_others_wait_on(
    world: Callable[[Test], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(w: World) -> None:
        w.broken["b"] = StartError("b", "/var/lib/llmsvc/models/b.gguf: is truncated", ["x"])
        w.ready("a")
        lost = [w.ask("alice", "b"), w.ask("bob", "b")]
        await asyncio.sleep(0.1)
        others = [w.ask("carol", "a"), w.ask("dora")]
        for task in lost:
            with pytest.raises(ApiError) as caught:
                await task
            assert caught.value.status == 503
            assert str(caught.value) == "b did not start: b.gguf: is truncated (not tried again for 60 s)"
            assert (b"retry-after", b"60") in caught.value.headers
        with pytest.raises(ApiError, match="b did not start"):
            await w.request("alice", "b")
        assert [await task for task in others] == ["a", "a"]
        assert w.switches() == ["b"]
        assert w.journal.entries[1]["LLM_FAILED_MODEL"] == "b"
        assert "is truncated" in str(w.journal.entries[1]["MESSAGE"])
        del w.broken["b"]
        await asyncio.sleep(60)
        assert await w.request("alice", "b") == "b"

    world(test)


def test_a_model_that_failed_may_be_asked_for_once_an_operator_started_it(
    world: Callable[[Test], None],
) -> None:
    async def test(w: World) -> None:
        w.broken["b"] = StartError("b", "no memory", [])
        w.ready("a")
        with pytest.raises(ApiError):
            await w.request("alice", "b")
        w.ready("b")
        assert await w.request("alice", "b") == "b"
        w.ready("a")
        assert await w.request("alice", "a") == "a"

    world(test)


def test_a_stop_by_an_operator_is_respected(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        await w.request("alice", "a")
        w.queue.set_backend(None)
        held = [w.ask("alice", "b"), w.ask("alice"), w.ask("alice", "a")]
        await asyncio.sleep(1000)
        assert not any(task.done() for task in held)
        assert w.jobs == []
        w.ready("a")
        assert sorted([await task for task in held]) == ["a", "a", "b"]

    world(test)


def test_a_switch_by_an_operator_begins_the_time_anew(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        await asyncio.sleep(100)
        w.ready("c")
        assert await w.request("alice", "b") == "b"
        assert w.jobs[0].at == 110.0

    world(test)


@pytest.mark.parametrize("error", [ConflictError("busy"), CanceledError("canceled")])
def test_an_operators_command_comes_first_and_the_request_waits_on(
    world: Callable[[Test], None], error: ConflictError
) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        w.broken["b"] = error
        task = w.ask("alice", "b")
        await asyncio.sleep(w.load + 1)
        del w.broken["b"]
        w.ready("c")
        assert await task == "b"
        assert [job.at for job in w.jobs] == [0.0, w.load + 1 + 10]

    world(test)


def test_two_slots_are_both_free_before_a_switch(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        running = [w.ask("bob", "a", 3), w.ask("bob", "a", 5)]
        await asyncio.sleep(0)
        assert await w.request("alice", "b") == "b"
        assert w.jobs[0].at == 5.0
        assert all(task.done() for task in running)

    in_world(tmp_path, test, slots=2, **ON)


ASKED = st.lists(
    st.tuples(
        st.floats(0, 60),
        st.sampled_from(["alice", "bob", "carol"]),
        st.sampled_from(["a", "b", "c", None]),
        st.floats(0.1, 6),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(ASKED, st.integers(0, 20), st.floats(0.1, 8))
def test_all_are_answered_switches_are_few_and_nobody_waits_for_longer_than_documented(
    asked: list[tuple[float, str, str | None, float]], stay: int, load: float
) -> None:
    waits: list[tuple[str | None, float, float]] = []

    async def one(w: World, at: float, user: str, model: str | None, seconds: float) -> None:
        await asyncio.sleep(at)
        begin = w.clock()
        assert await w.request(user, model, seconds) in (model, *("abc" if model is None else ""))
        waits.append((model, w.clock() - begin - seconds, begin))

    async def work(folder: Path) -> None:
        w = World(folder, "a b c", load, 1, LLAMA_PROXY_AUTOSWITCH=1, LLAMA_PROXY_SWITCH_SECONDS=stay)
        w.ready("a")
        await asyncio.gather(*(one(w, *what) for what in asked))
        starts = [job.at for job in w.jobs]
        assert len(starts) <= (w.clock() / stay if stay else math.inf) + 1
        assert all(later - earlier >= stay + load - 1e-6 for earlier, later in itertools.pairwise(starts))

    with tempfile.TemporaryDirectory() as folder:
        run(work(Path(folder)))
    assert len(waits) == len(asked)
    models = {model for _, _, model, _ in asked if model} | {"a"}
    longest = max(seconds for *_, seconds in asked)
    one_round = (len(models) - 1) * (stay + load + longest)
    for model, waited, _ in waits:
        own = sum(seconds for _, _, other, seconds in asked if other in (model, None) or model is None)
        # what does not fit into one stay needs another round
        rounds = 1 + (own // stay if stay else len(asked))
        assert waited <= rounds * (one_round + load) + own + 1e-6
