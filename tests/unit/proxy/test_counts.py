"""One count at a time for each participant, and not too many that wait."""

from __future__ import annotations

import asyncio

import pytest

from llmsvc.proxy import counts
from llmsvc.proxy.counts import Counts
from llmsvc.proxy.errors import ApiError
from tests.unit.proxy.people import person


class Turns:
    """Who counts now; each ends when told."""

    def __init__(self, per_user: int = 3) -> None:
        self.counts = Counts(per_user)
        self.now: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}

    def begin(self, name: str, size: int = 10) -> asyncio.Task[None]:
        self.ends[name] = asyncio.Event()

        async def work() -> None:
            async with self.counts.turn(person(name[0]), size):
                self.now.append(name)
                await self.ends[name].wait()
                self.now.remove(name)

        return asyncio.create_task(work())

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_each_has_one_and_nobody_waits_for_another() -> None:
    turns = Turns()
    for name in ("a1", "a2", "a3", "b1"):
        turns.begin(name)
    await settle()
    assert turns.now == ["a1", "b1"]
    await turns.end("a1")
    assert turns.now == ["b1", "a2"]
    for name in ("b1", "a2", "a3"):
        await turns.end(name)
    assert not turns.now and not turns.counts._lines, "nothing is kept of them"


async def test_who_leaves_makes_room() -> None:
    turns = Turns()
    first, second, _ = turns.begin("a1"), turns.begin("a2"), turns.begin("a3")
    await settle()
    second.cancel()
    first.cancel()
    await settle()
    assert turns.now[-1] == "a3"


async def test_too_many_are_refused_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(per_user=2)
    for name in ("a1", "a2", "a3"):
        turns.begin(name)
    await settle()
    with pytest.raises(ApiError, match="2 requests waiting") as refused:
        await turns.begin("a4")
    assert (refused.value.status, refused.value.state) == (429, "rejected_queue")
    monkeypatch.setattr(counts, "_MOST_BYTES_PER_USER", 100)
    turns.begin("b1", 90)
    await settle()
    with pytest.raises(ApiError):
        await turns.begin("b2", 20)
    turns.begin("c1", 1000)
    await settle()
    assert turns.now == ["a1", "b1", "c1"], "one may be as large as any"
