"""The end of the proxy's own tasks."""

from __future__ import annotations

import asyncio

from llmsvc.proxy import server


async def test_a_task_that_drops_a_cancel_is_ended_all_the_same() -> None:
    async def drops_one() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    task = asyncio.create_task(drops_one())
    await asyncio.sleep(0)
    await asyncio.wait_for(server._end([task]), 5)
    assert task.cancelled()
