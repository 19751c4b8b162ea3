"""Starts and stops models through systemd, as the proxy may, without ever holding up the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from llmsvc.errors import ConflictError
from llmsvc.systemd import manager


class Systemd:
    """The Manager of a Switcher that is real."""

    async def start(self, model: str, running: str | None) -> None:
        """See Manager."""
        await _in_thread(lambda: manager.demand(model, running))

    async def stop(self, model: str) -> None:
        """See Manager."""
        await _in_thread(lambda: _stop(model))


def _stop(model: str) -> None:
    # it would take the place of an operator's restart; another stop does no harm
    if manager.jobs() - {"stop"}:
        raise ConflictError(f"{model} is not stopped: another command is at work")
    manager.stop(model)


async def _in_thread(work: Callable[[], None]) -> None:
    """Runs it in a thread of its own: asyncio's would hold up our end for as long as a model loads."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def end(error: Exception | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)

    def run() -> None:
        error = None
        try:
            work()
        except Exception as problem:  # raised where it is awaited
            error = problem
        # the loop is closed where the process ends meanwhile
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(end, error)

    threading.Thread(target=run, name="systemctl", daemon=True).start()
    await done
