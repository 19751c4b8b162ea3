"""A model that nobody uses is stopped, and the next request starts it again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from llmsvc.errors import CanceledError, ConflictError, Error
from llmsvc.proxy.errors import ApiError
from llmsvc.systemd.manager import StartError
from tests.unit.proxy.on_demand import Job, World, in_world
from tests.unit.proxy.people import record

Test = Callable[[World], Awaitable[None]]


@pytest.fixture
def world(tmp_path: Path) -> Callable[[Test], None]:
    return lambda test: in_world(
        tmp_path,
        test,
        LLAMA_IDLE_UNLOAD_SECONDS=60,
        LLAMA_PROXY_AUTOSWITCH=1,
        LLAMA_PROXY_SWITCH_SECONDS=10,
    )


async def unloaded(w: World) -> None:
    """Leaves `a` unloaded."""
    w.ready("a")
    await asyncio.sleep(61)
    assert w.jobs == [Job("stop", "a", 60.0)]
    assert w.queue.backend is None
    w.jobs.clear()


def test_a_model_is_stopped_after_the_time_without_a_request(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        await asyncio.sleep(50)
        await w.request("alice", None, 30)
        assert w.queue.idle_since == 80.0
        await asyncio.sleep(59)
        assert w.jobs == []
        await asyncio.sleep(2)
        assert w.jobs == [Job("stop", "a", 140.0)]
        assert w.journal.entries == [
            {
                "MESSAGE": "a is stopped: no request for 60 s; the next one starts it",
                "PRIORITY": 6,
                "LLM_MODEL": "a",
            }
        ]

    world(test)


def test_a_model_is_never_stopped_while_it_is_used_or_where_that_is_off(tmp_path: Path) -> None:
    async def busy(w: World) -> None:
        w.ready("a")
        await w.request("alice", None, 1000)
        assert w.jobs == []

    async def off(w: World) -> None:
        w.ready("a")
        await asyncio.sleep(1e5)
        assert w.jobs == []

    in_world(tmp_path, busy, LLAMA_IDLE_UNLOAD_SECONDS=1)
    in_world(tmp_path, off)


def test_the_next_request_starts_it_and_is_answered(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        await unloaded(w)
        loaded = w.switcher.loaded
        assert loaded is not None and (loaded.name, loaded.context) == ("a", 512)
        tasks = [w.ask("alice"), w.ask("bob", "a-q4.gguf", may_switch=False), w.ask("carol", "a")]
        assert [await task for task in tasks] == ["a", "a", "a"]
        assert w.jobs == [Job("start", "a", 61.0)]
        assert w.journal.entries[1]["MESSAGE"] == "alice's request started a"
        assert not (w.folder / "unloaded.json").exists()

    world(test)


def test_a_request_that_comes_while_it_stops_is_not_lost(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        await asyncio.sleep(60.2)
        assert w.queue.backend is not None
        assert await w.request("alice") == "a"
        assert [(job.verb, job.at) for job in w.jobs] == [("stop", 60.0), ("start", 60.5)]

    world(test)


def test_who_may_switch_starts_the_model_that_is_named(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        await unloaded(w)
        assert await w.request("alice", "b") == "b"
        assert w.switches() == ["b"]
        assert w.switcher.loaded is w.queue.backend

    world(test)


def test_a_restarted_proxy_still_knows_what_it_unloaded(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        await unloaded(w)
        w.task.cancel()
        w.boot()
        loaded = w.switcher.loaded
        assert loaded is not None and (loaded.name, loaded.file) == ("a", "a-q4.gguf")
        assert await w.request("alice") == "a"

    world(test)


def test_a_proxy_that_ended_while_the_model_stopped_starts_it_again(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        await asyncio.sleep(60.2)
        backend = w.queue.backend
        assert backend is not None
        w.task.cancel()
        w.boot()
        w.queue.set_backend(backend)  # its hook has not run yet
        await asyncio.sleep(0.1)
        w.queue.set_backend(None)
        assert await w.request("alice") == "a"

    world(test)


def test_a_proxy_that_was_killed_before_systemd_was_told_finishes_the_stop(
    world: Callable[[Test], None],
) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        await asyncio.sleep(60.2)
        backend = w.queue.backend
        assert backend is not None
        w.task.cancel()
        w.boot()
        w.queue.set_backend(backend)
        await asyncio.sleep(1)
        # if it ran on, an operator's stop would be taken for ours
        assert [job.verb for job in w.jobs] == ["stop", "stop"]
        assert w.queue.backend is None
        assert await w.request("alice") == "a"

    world(test)


def test_a_named_model_that_does_not_start_does_not_keep_the_unloaded_one_from_it(
    world: Callable[[Test], None],
) -> None:
    async def test(w: World) -> None:
        await unloaded(w)
        w.broken["b"] = StartError("b", "Unit llama-server@b.service is masked.", [])
        with pytest.raises(ApiError, match="is masked"):
            await w.request("alice", "b")
        assert await w.request("bob") == "a"
        assert w.switches() == ["b", "a"]

    world(test)


def test_an_operators_start_and_stop_end_it(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        await unloaded(w)
        w.ready("b")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        w.queue.set_backend(None)
        task = w.ask("alice")
        await asyncio.sleep(1000)
        assert w.jobs == []
        assert w.switcher.loaded is None
        task.cancel()

    world(test)


def test_a_model_that_does_not_come_back_is_left_to_the_rollback(world: Callable[[Test], None]) -> None:
    async def test(w: World) -> None:
        await unloaded(w)
        w.broken["a"] = StartError("a", "no memory", [])
        task = w.ask("alice")
        await asyncio.sleep(500)
        assert w.switches() == ["a"]
        w.ready("c")
        assert await task == "c"

    world(test)


@pytest.mark.parametrize(("error", "starts"), [(ConflictError("busy"), 3), (CanceledError("other"), 1)])
def test_an_operators_command_comes_first(
    world: Callable[[Test], None], error: ConflictError, starts: int
) -> None:
    async def test(w: World) -> None:
        await unloaded(w)
        w.broken["a"] = error
        task = w.ask("alice")
        await asyncio.sleep(2.5)
        assert len(w.jobs) == starts
        w.broken.clear()
        await asyncio.sleep(100)
        if starts == 1:
            # canceled: what comes instead, or nothing, is the operator's wish
            assert not task.done()
            w.ready("b")
            assert await task == "b"
        else:
            assert await task == "a"

    world(test)


def test_a_model_that_cannot_be_stopped_serves_on(
    world: Callable[[Test], None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(w: World) -> None:
        asked: list[float] = []

        async def stop(_: str) -> None:
            asked.append(w.clock())
            raise Error("not allowed")

        monkeypatch.setattr(w, "stop", stop)
        w.ready("a")
        await asyncio.sleep(170)
        assert asked == [60.0, 120.0]
        assert "a is idle, but could not be stopped: not allowed" in caplog.text
        assert await w.request("alice") == "a"
        assert not (w.folder / "unloaded.json").exists()

    world(test)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 1}', "\xff", '{"name": "../x", "file": ""}'])
def test_a_damaged_memory_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "unloaded.json").write_text(text)

    async def test(w: World) -> None:
        assert w.switcher.loaded is None
        assert w.switcher.wanted(record("alice", may_switch=True), "a") is None

    in_world(tmp_path, test)


def test_what_rounding_leaves_of_the_time_is_no_reason_to_look_for_ever(
    world: Callable[[Test], None],
) -> None:
    async def test(w: World) -> None:
        w.ready("a")
        await asyncio.sleep(1)
        # less than a tick of the clock, by which a timer fires too early
        w.queue._used = w.clock() - 60 + 5e-10
        w.queue.on_change()
        await asyncio.sleep(1)
        assert [job.verb for job in w.jobs] == ["stop"]

    world(test)
