"""Queue and switcher with a systemd of the test's own, on a clock that jumps to the next thing to happen."""

from __future__ import annotations

import asyncio
import dataclasses
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from llmsvc import config, env
from llmsvc.errors import CanceledError, ConflictError, Error
from llmsvc.proxy.backend_client import Connections
from llmsvc.proxy.backends import Backend
from llmsvc.proxy.fair_queue import FairQueue
from llmsvc.proxy.installed import Installed
from llmsvc.proxy.switcher import Switcher
from llmsvc.proxy.unloaded import Memory
from llmsvc.systemd.journal import Journal
from tests.unit.proxy import people

T = TypeVar("T")


class _Jumping(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing will ever happen"
        self.now += max(0.0, timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop without waiting: time jumps to the next timer."""

    def __init__(self) -> None:
        self.clock = _Jumping()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a test in virtual time."""

    async def to_the_end() -> T:
        try:
            return await work
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    loop = Loop()
    try:
        return loop.run_until_complete(to_the_end())
    finally:
        loop.close()


class Entries(Journal):
    """Keeps what is sent."""

    def __init__(self) -> None:
        super().__init__("test")
        self.entries: list[dict[str, object]] = []

    def send(self, message: str, priority: int = 6, fields: Mapping[str, object] | None = None) -> None:
        self.entries.append({"MESSAGE": message, "PRIORITY": priority, **(fields or {})})


@dataclasses.dataclass
class Job:
    """What the test's systemd was told."""

    verb: str
    model: str
    at: float


class World:
    """All of it; `load` is the seconds that a model needs to start.

    :param models: what is installed
    """

    def __init__(
        self, folder: Path, models: str = "a b c", load: float = 2.0, slots: int = 1, **settings: object
    ) -> None:
        self.folder, self.load, self.slots = folder, load, slots
        self.models_d = folder / "models.d"
        self.models_d.mkdir(exist_ok=True)
        for model in models.split():
            (self.models_d / f"{model}.env").write_text(f"MODEL=/var/lib/x/{model}-q4.gguf\n")
        text = "".join(f"{key}={value}\n" for key, value in settings.items())
        file = Path("config.env")
        self.config = config.parse(env.parse(text, file), file)
        self.clock = asyncio.get_running_loop().time
        self.jobs: list[Job] = []
        self.broken: dict[str, Error] = {}
        self.lives = 0
        self.journal = Entries()
        self.boot()

    def boot(self) -> None:
        """A proxy that has just started."""
        self.queue = FairQueue(1000, 1000, 1e6, clock=self.clock)
        self.switcher = Switcher(
            self.config,
            self.queue,
            Installed(self.models_d),
            Memory(self.folder / "unloaded.json"),
            self,
            self.journal,
            clock=self.clock,
        )
        self.task = asyncio.ensure_future(self.switcher.run())

    def ready(self, model: str) -> None:
        """The model is READY now, whoever started it."""
        self.lives += 1
        made = Backend(model, self.lives, 0, Connections(Path()))
        made.slots, made.file, made.context = self.slots, f"{model}-q4.gguf", 512
        self.queue.set_backend(made)

    async def start(self, model: str, running: str | None) -> None:
        assert (self.queue.backend.name if self.queue.backend else None) == running
        assert self.queue.backend is None or not self.queue.backend.running, "a request was cut"
        self.jobs.append(Job("start", model, self.clock()))
        error = self.broken.get(model)
        if isinstance(error, ConflictError) and not isinstance(error, CanceledError):
            raise error
        self.queue.set_backend(None)
        await asyncio.sleep(self.load)
        if error is None:
            self.ready(model)
            return
        if running and not isinstance(error, CanceledError):
            asyncio.get_running_loop().call_later(self.load, self.ready, running)
        raise error

    async def stop(self, model: str) -> None:
        assert self.queue.backend is not None and not self.queue.backend.running
        self.jobs.append(Job("stop", model, self.clock()))
        await asyncio.sleep(0.5)
        self.queue.set_backend(None)

    def switches(self) -> list[str]:
        return [job.model for job in self.jobs if job.verb == "start"]

    async def request(
        self, user: str, model: str | None = None, seconds: float = 1.0, *, may_switch: bool = True
    ) -> str:
        """One request from admission to its answer; returns the model that answered."""
        wants = self.switcher.wanted(people.record(user, may_switch=may_switch), model)
        backend = await self.queue.acquire(people.waiter(user, deadline=self.clock() + 1e6, wants=wants))
        try:
            assert wants in (None, backend.name)
            await asyncio.sleep(seconds)
        finally:
            self.queue.release(backend, people.person(user))
        return backend.name

    def ask(self, *arguments: Any, **more: Any) -> asyncio.Task[str]:
        return asyncio.ensure_future(self.request(*arguments, **more))


def in_world(folder: Path, test: Callable[[World], Awaitable[None]], **settings: object) -> None:
    """Runs a test in a world of its own."""

    async def work() -> None:
        world = World(folder, **settings)  # type: ignore[arg-type]
        await test(world)
        assert not world.task.done()

    run(work())
