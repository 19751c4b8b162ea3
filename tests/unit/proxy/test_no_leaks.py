"""Whatever happens to requests, nothing of them is left behind: no slot, no place, no token, no byte."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from llmsvc import config, env
from llmsvc.proxy.backend_client import Connections
from llmsvc.proxy.backends import Backend, Usage
from llmsvc.proxy.budget import Budget
from llmsvc.proxy.errors import ApiError
from llmsvc.proxy.fair_queue import FairQueue
from llmsvc.proxy.limits import Limits
from llmsvc.proxy.participants import Participant
from tests.unit.proxy import people
from tests.unit.proxy.on_demand import run

LIMIT = 100
SETTINGS = f"LLAMA_PROXY_TOKENS_PER_MINUTE={LIMIT}\nLLAMA_PROXY_CONCURRENT=4\nLLAMA_PROXY_RATE_LIMIT=1000\n"


@dataclasses.dataclass
class Sent:
    """What one client does.

    :param begins: seconds after the one before
    :param lasts: seconds on the model
    :param leaves: after so many seconds, whatever happens to it
    """

    user: str
    begins: float
    lasts: float
    leaves: float
    tokens: int
    wants: str | None
    weight: int


# together often, for that is where things go wrong
TIMES = st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0])
REQUESTS = st.builds(
    Sent,
    user=st.sampled_from("abc"),
    begins=TIMES,
    lasts=TIMES,
    leaves=st.sampled_from([0.0, 0.5, 1.0, 2.5, 1000.0, 1000.0]),
    tokens=st.integers(1, 150),
    wants=st.sampled_from([None, None, "m", "other"]),
    weight=st.integers(1, 3),
)
BACKENDS = st.lists(st.tuples(TIMES, st.sampled_from([None, "m", "other"]), st.integers(1, 3)), max_size=6)


class World:
    """Queue and limits, without HTTP."""

    def __init__(self) -> None:
        self.clock = asyncio.get_running_loop().time
        file = Path("config.env")
        self.limits = Limits(config.parse(env.parse(SETTINGS, file), file), self.clock)
        self.queue = FairQueue(100, 100, hold_seconds=5, clock=self.clock)
        self.spent: list[tuple[str, float, int]] = []
        self.backends: list[Backend] = []

    async def serve(self, sent: Sent) -> None:
        """As Exchange does."""
        who = people.person(sent.user, weight=sent.weight)
        self.limits.enter(who)
        budget = Budget(self.limits, who, 0, None, lambda: sent.tokens)
        usage, backend = Usage(), None
        waiter = people.waiter(
            sent.user,
            weight=sent.weight,
            deadline=self.clock() + 30,
            wants=sent.wants,
            budget=budget,
            size=7,
        )
        try:
            self.queue.check(who, 7)
            backend = await self.queue.acquire(waiter)
            self.check_tokens(who)
            assert budget.tokens is not None
            await asyncio.sleep(sent.lasts)
            usage = Usage(0, budget.tokens)
        finally:
            budget.settle(usage)
            if usage.completion_tokens:
                self.spent.append((who.key, self.clock(), usage.completion_tokens))
            if backend is not None:
                self.queue.release(backend, who, sent.lasts)
            self.limits.leave(who)

    def check_tokens(self, who: Participant) -> None:
        used = sum(n for key, at, n in self.spent if key == who.key and at > self.clock() - 60)
        assert used + self.limits._minute.reserved(who.key) <= LIMIT
        assert all(backend.running <= backend.slots for backend in self.backends)

    async def one(self, sent: Sent) -> None:
        with contextlib.suppress(ApiError, asyncio.TimeoutError):
            await asyncio.wait_for(self.serve(sent), sent.leaves)

    async def change(self, changes: list[tuple[float, str | None, int]]) -> None:
        for seconds, name, slots in changes:
            await asyncio.sleep(seconds)
            backend = None
            if name is not None:
                backend = Backend(name, object(), 0, Connections(Path()))
                backend.slots = slots
                self.backends.append(backend)
            self.queue.set_backend(backend)


@settings(max_examples=300, deadline=None)
@given(requests=st.lists(REQUESTS, max_size=25), backends=BACKENDS)
def test_nothing_is_left_of_requests_that_ended(
    requests: list[Sent], backends: list[tuple[float, str | None, int]]
) -> None:
    async def work() -> None:
        world = World()
        sweeper = asyncio.create_task(world.queue.sweep())
        tasks = [asyncio.create_task(world.change(backends))]
        for sent in requests:
            await asyncio.sleep(sent.begins)
            tasks.append(asyncio.create_task(world.one(sent)))
        await asyncio.gather(*tasks)
        sweeper.cancel()
        queue, limits = world.queue, world.limits
        turns = queue._turns
        assert (turns.waiting, turns.bytes, turns._lines, turns._running) == (0, 0, {}, {})
        assert [backend.running for backend in world.backends] == [0] * len(world.backends)
        assert (limits._open, limits._minute._reserved, limits._day._reserved) == ({}, {}, {})
        # and time does the rest
        await asyncio.sleep(61)
        assert limits.dump() | {"at": 0} == {"at": 0, "requests": {}, "minute": {}, "day": {}}
        assert (limits._requests._hits, limits._minute._spent, limits._minute._sums) == ({}, {}, {})

    run(work())
