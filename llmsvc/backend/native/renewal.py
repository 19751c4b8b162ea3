"""Chat templates that do not end, which llama.cpp's server renders in threads that nothing can end.

Such a thread would keep a core busy for ever. So the server is started again, as soon as the others' answers
are complete; whoever comes in the meantime waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from llmsvc.backend.jobs import Job
from llmsvc.backend.problem import ApiError, bad

_RENDER_SECONDS = 20.0
_UNWANTED_SECONDS = 5.0
"""Of a request that was cancelled meanwhile; most templates take milliseconds."""

Events = AsyncGenerator[dict[str, Any], None]
Result = TypeVar("Result")


class Renewal:
    """Who uses the server, and its new start.

    :param restart: ends the server and starts it again; in a thread
    """

    def __init__(self, restart: Callable[[], None]) -> None:
        self._restart = restart
        self._open = asyncio.Event()
        self._open.set()
        self._users = 0
        self._work: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def using(self, job: Job | None = None) -> AsyncIterator[None]:
        """The server is there, and is not started again within.

        :raises JobCancelledError: the job was cancelled before that
        """
        while not self._open.is_set():
            unwanted = job.unwanted if job else asyncio.Event()
            waits = [asyncio.ensure_future(event.wait()) for event in (self._open, unwanted)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if job:
                job.check()
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._look()

    async def first(self, events: Events, rendered: Callable[[], Awaitable[bool]]) -> dict[str, Any] | None:
        """The first event of an answer; None where there is none. The events are closed if there is an error.

        :param rendered: whether the request is past its template
        :raises ApiError: 400, the template does not end
        """
        begun = asyncio.ensure_future(_next(events))
        try:
            while not begun.done():
                await asyncio.wait({begun}, timeout=_RENDER_SECONDS)
                if not begun.done() and not await rendered():
                    self._renew()
                    raise _endless()
            return begun.result()
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and not begun.done() and not await rendered():
                self._do(self._watch(begun, events))
            else:
                await _close(begun, events)
            raise

    async def rendering(self, answer: Coroutine[Any, Any, Result]) -> Result:
        """The answer to a request for which the server does little but render.

        :raises ApiError: 400, the template does not end
        """
        work = asyncio.ensure_future(answer)
        try:
            await asyncio.wait({work}, timeout=_RENDER_SECONDS)
        except asyncio.CancelledError:
            self._do(self._see_end(work))
            raise
        if not work.done():
            self._renew()
            await _drop(work)
            raise _endless()
        return work.result()

    async def _see_end(self, work: asyncio.Future[Any]) -> None:
        """As _watch(), of what rendering() has left."""
        await asyncio.wait({work}, timeout=_UNWANTED_SECONDS)
        if not work.done():
            self._renew()
        await _drop(work)

    async def _watch(self, begun: asyncio.Future[Any], events: Events) -> None:
        """Sees to a request that was cancelled while its template was at work."""
        await asyncio.wait({begun}, timeout=_UNWANTED_SECONDS)
        if not begun.done():
            self._renew()
        await _close(begun, events)

    def _renew(self) -> None:
        self._open.clear()
        self._look()

    def _look(self) -> None:
        if not self._open.is_set() and not self._users and not self._work:
            self._do(self._start())

    async def _start(self) -> None:
        await asyncio.to_thread(self._restart)
        self._open.set()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        self._look()


async def _next(events: Events) -> dict[str, Any] | None:
    async for event in events:
        return event
    return None


async def _close(begun: asyncio.Future[Any], events: Events) -> None:
    await _drop(begun)
    await events.aclose()


async def _drop(work: asyncio.Future[Any]) -> None:
    """Nobody wants its result, or its failure."""
    work.cancel()
    await asyncio.wait({work})
    if not work.cancelled():
        work.exception()


def _endless() -> ApiError:
    return bad("the chat template takes too long over these messages", "messages")
