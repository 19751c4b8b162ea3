"""Order, bounds and slots of the queue in front of the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import pytest

from llmsvc.proxy import fair_queue
from llmsvc.proxy.backends import Backend, Loading
from llmsvc.proxy.errors import ApiError
from llmsvc.proxy.fair_queue import FairQueue


def backend(slots: int = 1) -> Backend:
    made = Backend("m", None, 0, cast(aiohttp.ClientSession, None))
    made.slots = slots
    return made


@pytest.fixture
async def queue() -> AsyncIterator[FairQueue]:
    queue = FairQueue(per_user=3, total=5, hold_seconds=0.3)
    sweeper = asyncio.create_task(queue.sweep())
    yield queue
    sweeper.cancel()


def waiter(queue: FairQueue, user: str, **more: Any) -> asyncio.Task[Backend]:
    return asyncio.create_task(queue.acquire(user, more.pop("deadline", time.monotonic() + 60), **more))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_turns_go_round_the_users_and_in_order_within_one(queue: FairQueue) -> None:
    model = backend()
    queue.set_backend(model)
    await waiter(queue, "running")
    order: list[str] = []
    for name in ("a1", "a2", "a3", "b1", "c1"):
        task = waiter(queue, name[0])
        task.add_done_callback(lambda _, name=name: order.append(name))
        await settle()
    for _ in range(5):
        queue.release(model)
        await settle()
    assert order == ["a1", "b1", "c1", "a2", "a3"]
    assert queue.waiting == 0


async def test_no_more_than_the_slots_run_at_once(queue: FairQueue) -> None:
    model = backend(slots=2)
    queue.set_backend(model)
    tasks = [waiter(queue, "a") for _ in range(3)]
    await settle()
    assert [task.done() for task in tasks] == [True, True, False]
    queue.release(model)
    await settle()
    assert tasks[2].done()
    assert model.running == 2


async def test_one_that_lost_its_backend_comes_first(queue: FairQueue) -> None:
    order: list[str] = []
    for name, first in (("a1", False), ("a2", False), ("b1", True)):
        waiter(queue, name[0], first=first).add_done_callback(lambda _, name=name: order.append(name))
        await settle()
    queue.set_backend(backend(slots=3))
    await settle()
    assert order == ["b1", "a1", "a2"]


async def test_one_that_leaves_gives_its_place_up_at_once(queue: FairQueue) -> None:
    tasks = [waiter(queue, "a") for _ in range(3)]
    await settle()
    with pytest.raises(ApiError) as caught:
        queue.check("a")
    assert caught.value.status == 429
    tasks[1].cancel()
    await settle()
    queue.check("a")
    assert queue.waiting == 2


async def test_slot_is_not_lost_if_turn_and_cancel_come_together(queue: FairQueue) -> None:
    model = backend()
    task = waiter(queue, "a")
    await settle()
    queue.set_backend(model)
    task.cancel()
    await settle()
    assert task.cancelled()
    assert model.running == 0


async def test_queue_is_bounded_in_total(queue: FairQueue) -> None:
    tasks = [waiter(queue, user) for user in ("a", "a", "b", "b", "c")]
    await settle()
    with pytest.raises(ApiError) as caught:
        queue.check("d")
    assert caught.value.status == 503
    for task in tasks:
        task.cancel()


async def test_wait_ends_at_its_deadline_also_while_a_backend_is_ready(queue: FairQueue) -> None:
    queue.set_backend(backend())
    await waiter(queue, "a")
    with pytest.raises(ApiError, match="busy"):
        await waiter(queue, "b", deadline=time.monotonic() + 0.1)
    assert queue.waiting == 0


async def test_wait_without_a_backend_ends_after_the_hold_time_only(queue: FairQueue) -> None:
    queue.set_backend(backend())
    await waiter(queue, "a")
    patient = waiter(queue, "b")
    await asyncio.sleep(0.6)
    assert not patient.done()
    queue.set_backend(None)
    start = time.monotonic()
    with pytest.raises(ApiError, match="No model is ready"):
        await patient
    assert 0.25 < time.monotonic() - start < 1


async def test_wait_lasts_longer_while_the_load_moves_and_the_refusal_tells_of_it(
    queue: FairQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "_MOVING_SECONDS", 0.4)
    waiting = waiter(queue, "a")
    for percent in range(3):
        queue.see_loading(Loading("gemma3", 35 + percent, "Loading", moved=percent))
        await asyncio.sleep(0.3)
    assert not waiting.done()
    queue.see_loading(queue.loading)  # no move
    with pytest.raises(ApiError, match="No model is ready; gemma3 is loading: 37 %"):
        await waiting


async def test_no_wait_at_all_means_none_during_a_load_either() -> None:
    queue = FairQueue(per_user=3, total=5, hold_seconds=0)
    queue.see_loading(Loading("gemma3", 1))
    sweeper = asyncio.create_task(queue.sweep())
    with pytest.raises(ApiError, match="No model is ready"):
        await asyncio.wait_for(waiter(queue, "a"), 1)
    sweeper.cancel()


async def test_moves_of_the_load_before_do_not_lengthen_the_next_wait(queue: FairQueue) -> None:
    queue.see_loading(Loading("gemma3", 99))
    queue.set_backend(backend())
    queue.see_loading(None)
    queue.set_backend(None)
    with pytest.raises(ApiError, match=r"No model is ready\."):
        await asyncio.wait_for(waiter(queue, "a"), 1)


async def test_outages_add_up_to_the_most_that_a_request_is_held(
    queue: FairQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "_MOST_HELD_SECONDS", 0.5)
    queue.hold_seconds = 10
    model = backend()
    await asyncio.sleep(0.2)  # before it came
    waiting = waiter(queue, "a")
    await asyncio.sleep(0.2)
    queue.set_backend(model)
    assert await waiting is model
    held = queue.outage_seconds() - 0.2
    queue.set_backend(None)
    start = time.monotonic()
    with pytest.raises(ApiError, match="No model is ready"):
        await waiter(queue, "a", held=held)
    assert time.monotonic() - start < 0.9
    start = time.monotonic()
    patient = waiter(queue, "a")
    await asyncio.sleep(0.35)
    assert not patient.done()
    with pytest.raises(ApiError, match="No model is ready"):
        await patient


async def test_one_that_still_waits_is_held_through_several_outages_only_so_long(
    queue: FairQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "_MOST_HELD_SECONDS", 0.6)
    queue.hold_seconds = 0.5
    busy = backend()
    busy.running = 1
    waiting = waiter(queue, "a")
    for _ in range(2):
        await asyncio.sleep(0.2)
        queue.set_backend(busy)
        await asyncio.sleep(0.4)
        assert not waiting.done()
        queue.set_backend(None)
    with pytest.raises(ApiError, match="No model is ready"):
        await asyncio.wait_for(waiting, 0.6)


async def test_those_who_wait_for_what_is_loaded_change_nothing_and_others_do(queue: FairQueue) -> None:
    changes: list[None] = []
    queue.on_change = lambda: changes.append(None)
    queue.set_backend(backend())
    running = await queue.acquire("a", time.monotonic() + 60)
    assert len(changes) == 1
    behind = [waiter(queue, "b", wants=wants) for wants in (None, "m")]
    await settle()
    assert queue.waiting == 2
    queue.release(running)
    queue.release(await behind[0])
    assert await behind[1] is running
    assert len(changes) == 1
    other = waiter(queue, "c", wants="other")
    await settle()
    assert len(changes) == 2
    other.cancel()
    await settle()
    assert len(changes) == 3
