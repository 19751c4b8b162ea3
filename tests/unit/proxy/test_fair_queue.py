"""Order, bounds and slots of the queue in front of the model."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from llmsvc import config, env
from llmsvc.proxy import fair_queue
from llmsvc.proxy.backend_client import Connections
from llmsvc.proxy.backends import Backend, Loading, Usage
from llmsvc.proxy.budget import Budget
from llmsvc.proxy.errors import ApiError
from llmsvc.proxy.fair_queue import FairQueue
from llmsvc.proxy.limits import Limits
from tests.unit.proxy import people
from tests.unit.proxy.on_demand import run
from tests.unit.proxy.people import person


def backend(slots: int = 1) -> Backend:
    made = Backend("m", None, 0, Connections(Path()))
    made.slots = slots
    return made


def now() -> float:
    return asyncio.get_running_loop().time()


def in_a_queue(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test with a queue in virtual time: none waits, none depends on how fast the machine is."""

    async def begin(fixtures: dict[str, Any]) -> None:
        queue = FairQueue(per_user=3, total=5, hold_seconds=0.3, clock=now)
        sweeper = asyncio.create_task(queue.sweep())
        await test(queue, **fixtures)
        sweeper.cancel()

    def wrapped(**fixtures: Any) -> None:
        run(begin(fixtures))

    wrapped.__name__ = test.__name__
    parameters = list(inspect.signature(test).parameters.values())[1:]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapped


def waiter(queue: FairQueue, user: str, **more: Any) -> asyncio.Task[Backend]:
    return asyncio.create_task(queue.acquire(people.waiter(user, **{"deadline": now() + 60, **more})))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@in_a_queue
async def test_turns_go_round_the_users_and_in_order_within_one(queue: FairQueue) -> None:
    model = backend()
    queue.set_backend(model)
    await waiter(queue, "running")
    order = ["running"]
    for name in ("a1", "a2", "a3", "b1", "c1"):
        task = waiter(queue, name[0])
        task.add_done_callback(lambda _, name=name: order.append(name))
        await settle()
    assert [turn.who.name for turn in queue.turns()] == ["a", "b", "c", "a", "a"]
    for _ in range(5):
        queue.release(model, person(order[-1].rstrip("123")))
        await settle()
    assert order == ["running", "a1", "b1", "c1", "a2", "a3"]
    assert queue.waiting == 0


@in_a_queue
async def test_what_needs_no_slot_waits_for_no_turn(queue: FairQueue) -> None:
    early = [waiter(queue, "a", needs_slot=False), waiter(queue, "a"), waiter(queue, "a", needs_slot=False)]
    await settle()
    assert queue.waiting == 3 and not any(task.done() for task in early), "while no model is ready it is held"
    model = backend()
    queue.set_backend(model)
    await settle()
    assert all(task.done() for task in early)
    assert (model.running, model.counting, queue.waiting) == (1, 2, 0)
    behind = waiter(queue, "b")
    for _ in range(10):
        # neither those that run nor those that wait, nor how many, are in its way
        queue.check(person("c"), needs_slot=False)
        assert await waiter(queue, "c", needs_slot=False) is model
    assert (model.running, model.counting, behind.done()) == (1, 12, False)
    for _ in range(12):
        queue.release(model, person("c"), 5.0, needs_slot=False)
    assert (model.running, model.counting, behind.done()) == (1, 0, False), "it gives no slot back"
    assert queue.idle_since is None
    queue.release(model, person("a"))
    assert await behind is model


@in_a_queue
async def test_what_needs_no_slot_waits_for_its_model(queue: FairQueue) -> None:
    model = backend()
    queue.set_backend(model)
    other = waiter(queue, "a", needs_slot=False, wants="other")
    queue.leave("m")
    leaving = waiter(queue, "b", needs_slot=False)
    gone = waiter(queue, "c", needs_slot=False)
    await settle()
    assert not other.done() and not leaving.done()
    gone.cancel()
    await settle()
    assert (queue.waiting, model.counting) == (2, 0)
    queue.leave(None)
    await settle()
    assert leaving.done() and not other.done()
    assert (queue.waiting, model.counting) == (1, 1)
    # the turn and the cancel come in the same moment
    queue.set_backend(None)
    late = waiter(queue, "d", needs_slot=False)
    await settle()
    queue.set_backend(model)
    late.cancel()
    await settle()
    assert model.counting == 1
    other.cancel()


@in_a_queue
async def test_no_more_than_the_slots_run_at_once(queue: FairQueue) -> None:
    model = backend(slots=2)
    queue.set_backend(model)
    tasks = [waiter(queue, "a") for _ in range(3)]
    await settle()
    assert [task.done() for task in tasks] == [True, True, False]
    queue.release(model, person("a"))
    await settle()
    assert tasks[2].done()
    assert model.running == 2


@in_a_queue
async def test_one_that_lost_its_backend_comes_first(queue: FairQueue) -> None:
    order: list[str] = []
    for name, first in (("a1", False), ("a2", False), ("b1", True)):
        waiter(queue, name[0], first=first).add_done_callback(lambda _, name=name: order.append(name))
        await settle()
    queue.set_backend(backend(slots=3))
    await settle()
    assert order == ["b1", "a1", "a2"]


@in_a_queue
async def test_one_that_leaves_gives_its_place_up_at_once(queue: FairQueue) -> None:
    tasks = [waiter(queue, "a") for _ in range(3)]
    await settle()
    with pytest.raises(ApiError) as caught:
        queue.check(person("a"))
    assert caught.value.status == 429
    tasks[1].cancel()
    await settle()
    queue.check(person("a"))
    assert queue.waiting == 2


@in_a_queue
async def test_slot_is_not_lost_if_turn_and_cancel_come_together(queue: FairQueue) -> None:
    model = backend()
    task = waiter(queue, "a")
    await settle()
    queue.set_backend(model)
    task.cancel()
    await settle()
    assert task.cancelled()
    assert model.running == 0


@in_a_queue
async def test_queue_is_bounded_in_total(queue: FairQueue) -> None:
    tasks = [waiter(queue, user) for user in ("a", "a", "b", "b", "c")]
    await settle()
    with pytest.raises(ApiError) as caught:
        queue.check(person("d"))
    assert caught.value.status == 503
    for task in tasks:
        task.cancel()


@in_a_queue
async def test_queue_is_bounded_in_bytes_too(queue: FairQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "_MOST_BYTES", 100)
    monkeypatch.setattr(fair_queue, "_MOST_BYTES_PER_USER", 60)
    large = waiter(queue, "a", size=200)  # one is always let in, however large
    await settle()
    for user, status in (("a", 429), ("b", 503)):
        with pytest.raises(ApiError) as caught:
            queue.check(person(user), 1)
        assert caught.value.status == status
    large.cancel()
    await settle()
    queue.check(person("a"), 200)
    waiter(queue, "a", size=60)
    await settle()
    queue.check(person("b"), 40)
    with pytest.raises(ApiError, match="1 requests waiting"):
        queue.check(person("a"), 1)


@in_a_queue
async def test_wait_ends_at_its_deadline_also_while_a_backend_is_ready(queue: FairQueue) -> None:
    queue.set_backend(backend())
    await waiter(queue, "a")
    with pytest.raises(ApiError, match="busy"):
        await waiter(queue, "b", deadline=now() + 0.1)
    assert queue.waiting == 0


@in_a_queue
async def test_wait_without_a_backend_ends_after_the_hold_time_only(queue: FairQueue) -> None:
    queue.set_backend(backend())
    await waiter(queue, "a")
    patient = waiter(queue, "b")
    await asyncio.sleep(0.6)
    assert not patient.done()
    queue.set_backend(None)
    start = now()
    with pytest.raises(ApiError, match="No model is ready"):
        await patient
    assert 0.25 < now() - start < 1


@in_a_queue
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


@in_a_queue
async def test_no_wait_at_all_means_none_during_a_load_either(queue: FairQueue) -> None:
    queue.hold_seconds = 0
    queue.see_loading(Loading("gemma3", 1))
    with pytest.raises(ApiError, match="No model is ready"):
        await asyncio.wait_for(waiter(queue, "a"), 1)


@in_a_queue
async def test_moves_of_the_load_before_do_not_lengthen_the_next_wait(queue: FairQueue) -> None:
    queue.see_loading(Loading("gemma3", 99))
    queue.set_backend(backend())
    queue.see_loading(None)
    queue.set_backend(None)
    with pytest.raises(ApiError, match=r"No model is ready\."):
        await asyncio.wait_for(waiter(queue, "a"), 1)


@in_a_queue
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
    start = now()
    with pytest.raises(ApiError, match="No model is ready"):
        await waiter(queue, "a", held=held)
    assert now() - start < 0.9
    start = now()
    patient = waiter(queue, "a")
    await asyncio.sleep(0.35)
    assert not patient.done()
    with pytest.raises(ApiError, match="No model is ready"):
        await patient


@in_a_queue
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


@in_a_queue
async def test_those_who_wait_for_what_is_loaded_change_nothing_and_others_do(queue: FairQueue) -> None:
    changes: list[None] = []
    queue.on_change = lambda: changes.append(None)
    queue.set_backend(backend())
    running = await queue.acquire(people.waiter("a", deadline=now() + 60))
    assert len(changes) == 1
    behind = [waiter(queue, "b", wants=wants) for wants in (None, "m")]
    await settle()
    assert queue.waiting == 2
    queue.release(running, person("a"))
    queue.release(await behind[0], person("b"))
    assert await behind[1] is running
    assert len(changes) == 1
    other = waiter(queue, "c", wants="other")
    await settle()
    assert len(changes) == 2
    other.cancel()
    await settle()
    assert len(changes) == 3


async def drain(queue: FairQueue, model: Backend, names: list[str]) -> list[str]:
    """The order of turns on one slot, if each of these (`a1` is a's first) waits from the beginning on."""
    order: list[str] = []
    for name in names:
        waiter(queue, name[0], weight=int(name[2:] or 1)).add_done_callback(
            lambda _, name=name: order.append(name[:2])
        )
        await settle()
    queue.set_backend(model)
    await settle()
    while len(order) < len(names):
        queue.release(model, person(order[-1][0]))
        await settle()
    return order


@in_a_queue
async def test_somebody_who_comes_late_waits_for_one_of_anothers_many(queue: FairQueue) -> None:
    queue.per_user = queue.total = 100
    model = backend()
    order: list[str] = []
    queue.set_backend(model)
    for number in range(50):
        waiter(queue, "a").add_done_callback(lambda _, name=f"a{number}": order.append(name))
    await settle()
    for _ in range(3):
        queue.release(model, person("a"))
        await settle()
    for number in range(5):
        waiter(queue, "b").add_done_callback(lambda _, name=f"b{number}": order.append(name))
    await settle()
    while len(order) < 55:
        queue.release(model, person(order[-1][0]))
        await settle()
    places = [order.index(f"b{number}") for number in range(5)]
    # four had their turn already; from then on every second turn at least is b's
    assert places[0] == 4
    assert all(later - earlier <= 2 for earlier, later in itertools.pairwise(places))
    assert sorted(order) == sorted({*order})


@in_a_queue
async def test_weight_is_the_number_of_turns_for_one_of_another(queue: FairQueue) -> None:
    queue.per_user = queue.total = 100
    names = [f"a{number}3" for number in range(9)] + [f"b{number}" for number in range(3)]
    order = await drain(queue, backend(), names)
    for end, turns in ((4, 3), (8, 6), (12, 9)):
        assert sum(name[0] == "a" for name in order[:end]) == turns, order


@in_a_queue
async def test_on_several_slots_who_has_fewer_running_comes_first(queue: FairQueue) -> None:
    queue.per_user = queue.total = 100
    model = backend(slots=4)
    queue.set_backend(model)
    many = [waiter(queue, "a") for _ in range(40)]
    await settle()
    few = [waiter(queue, "b") for _ in range(4)]
    await settle()
    for done in (1, 2):
        queue.release(model, person("a"))
        await settle()
        assert sum(task.done() for task in few) == done
        assert sum(task.done() for task in many) == 4
    # two each: from here on everybody keeps two
    queue.release(model, person("a"))
    await settle()
    assert (sum(task.done() for task in few), sum(task.done() for task in many)) == (2, 5)
    queue.release(model, person("b"))
    await settle()
    assert (sum(task.done() for task in few), sum(task.done() for task in many)) == (3, 5)
    for task in (*many, *few):
        task.cancel()


def budget(limits: Limits, user: str, tokens: int) -> Budget:
    return Budget(limits, person(user), 0, None, lambda: tokens)


def tokens_per_minute(limit: int) -> Limits:
    file = Path("config.env")
    return Limits(config.parse(env.parse(f"LLAMA_PROXY_TOKENS_PER_MINUTE={limit}\n", file), file), now)


@in_a_queue
async def test_who_may_not_start_yet_lets_others_pass(queue: FairQueue) -> None:
    limits, model = tokens_per_minute(100), backend(slots=2)
    queue.set_backend(model)
    first = budget(limits, "a", 80)
    await waiter(queue, "a", budget=first)
    held = waiter(queue, "a", budget=budget(limits, "a", 80))
    await settle()
    assert not held.done()
    assert await waiter(queue, "b", budget=budget(limits, "b", 80)) is model
    first.settle(Usage(10, 10))
    queue.release(model, person("a"))
    assert await held is model


@in_a_queue
async def test_turns_that_come_together_take_their_tokens_one_after_another(queue: FairQueue) -> None:
    limits, model = tokens_per_minute(100), backend(slots=8)
    budgets = [budget(limits, "a", 60) for _ in range(3)]
    tasks = [waiter(queue, "a", budget=one) for one in budgets]
    await settle()
    queue.set_backend(model)
    await settle()
    # the others wait until it is known what the first one really takes; they are neither refused nor cut
    assert ([task.done() for task in tasks], model.running) == ([True, False, False], 1)
    assert budgets[0].tokens == 60
    budgets[0].settle(Usage(20, 20))
    queue.release(model, person("a"))
    await settle()
    assert [task.done() for task in tasks] == [True, True, False]
    assert budgets[1].tokens == 60
    budgets[1].settle(Usage(30, 30))
    queue.release(model, person("a"))
    with pytest.raises(ApiError, match="tokens per minute"):
        await tasks[2]
    assert (model.running, queue.waiting) == (0, 0)


@in_a_queue
async def test_who_leaves_as_its_turn_comes_leaves_its_tokens_to_the_next(queue: FairQueue) -> None:
    limits, model = tokens_per_minute(100), backend(slots=2)
    tasks = [waiter(queue, "a", budget=budget(limits, "a", 60)) for _ in range(2)]
    await settle()
    queue.set_backend(model)
    tasks[0].cancel()
    assert await tasks[1] is model
    assert (model.running, queue.waiting) == (1, 0)


@in_a_queue
async def test_a_weight_that_an_admin_changes_counts_for_those_who_wait_all_the_time(
    queue: FairQueue,
) -> None:
    queue.per_user = queue.total = 100
    model, order = backend(), []
    for number in range(12):
        for user in "ab":
            # from a's second request on
            weight = 3 if user == "a" and number else 1
            waiter(queue, user, weight=weight).add_done_callback(lambda _, user=user: order.append(user))
            await settle()
    queue.set_backend(model)
    await settle()
    while len(order) < 12:
        queue.release(model, person(order[-1]))
        await settle()
    assert order.count("a") in (8, 9), order


@in_a_queue
async def test_what_is_known_of_those_who_left_is_bounded_and_not_sorted_out_at_each_turn(
    queue: FairQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = queue._turns
    monkeypatch.setattr("llmsvc.proxy.turns._MOST_TAGS", 4)
    turns._most_tags = 4
    model = backend()
    queue.set_backend(model)
    kept: list[dict[str, float]] = []
    for number in range(200):
        user = person(f"{number:03}")
        queue.release(await queue.acquire(people.waiter(f"{number:03}")), user)
        if not kept or turns._tags is not kept[-1]:
            kept.append(turns._tags)
    # all of them came once, so that none is behind another: they matter, and were sorted out a few times only
    assert len(kept) < 10
    for _ in range(2):
        for number in range(200):
            queue.release(await queue.acquire(people.waiter(f"{number:03}")), person(f"{number:03}"))
    assert len(turns._tags) <= 2 * 200


@in_a_queue
async def test_place_and_expected_wait(queue: FairQueue) -> None:
    model = backend()
    queue.set_backend(model)
    await waiter(queue, "x")
    assert queue.expected_seconds(3) is None
    requests = [people.waiter(user, deadline=now() + 60) for user in ("a", "a", "b", "a", "b")]
    queue.per_user = 5
    for request in requests:
        asyncio.ensure_future(queue.acquire(request))  # noqa: RUF006 - the queue holds it
        await settle()
    # the last of b's comes before the last of a's, as both know at their time
    assert [request.position for request in requests] == [1, 2, 2, 4, 4]
    assert queue.turns() == [requests[0], requests[2], requests[1], requests[4], requests[3]]
    queue.release(model, person("x"), seconds=2.0)
    assert queue.expected_seconds(3) == 6.0


@in_a_queue
async def test_a_turn_that_nobody_waited_for_counts_too(queue: FairQueue) -> None:
    model = backend()
    queue.set_backend(model)
    await waiter(queue, "a")
    order: list[str] = []
    for name in ("a1", "b1"):
        waiter(queue, name[0]).add_done_callback(lambda _, name=name: order.append(name))
        await settle()
    queue.release(model, person("a"))
    await settle()
    assert order == ["b1"]
