"""Code that would run for ever is ended; other code is left alone."""

import asyncio
import threading
import time

import pytest

from llmsvc.backend import bounded


def endless():
    while True:
        time.sleep(0)


async def test_what_ends_is_not_touched():
    assert await bounded.run(lambda: 5, asyncio.Event(), 1) == 5
    with pytest.raises(ValueError, match="its own"):
        await bounded.run(lambda: int_of("its own"), asyncio.Event(), 1)


def int_of(text):
    raise ValueError(text)


async def test_what_takes_too_long_is_ended():
    begun = time.monotonic()
    with pytest.raises(bounded.EndedError):
        await bounded.run(endless, asyncio.Event(), 0.05)
    assert time.monotonic() - begun < 5


async def test_what_nobody_wants_any_more_is_ended():
    unwanted = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, unwanted.set)
    with pytest.raises(bounded.EndedError):
        await bounded.run(endless, unwanted, 60)


async def test_code_that_catches_exceptions_is_ended_too():
    def stubborn():
        while True:
            try:
                endless()
            except Exception:  # as a template may do
                continue

    with pytest.raises(bounded.EndedError):
        await bounded.run(stubborn, asyncio.Event(), 0.05)


async def test_code_that_is_torn_in_the_middle_may_raise_what_it_likes():
    """As Condition.wait does where it is ended between giving its lock back and taking it again."""
    held = threading.Lock()

    def torn():
        try:
            endless()
        finally:
            held.release()

    with pytest.raises(bounded.EndedError):
        await bounded.run(torn, asyncio.Event(), 0.05)


async def test_what_its_caller_gives_up_is_ended():
    begun, gone = threading.Event(), threading.Event()

    def work():
        begun.set()
        try:
            endless()
        finally:
            gone.set()

    running = asyncio.ensure_future(bounded.run(work, asyncio.Event(), 60))
    assert await asyncio.to_thread(begun.wait, 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await asyncio.to_thread(gone.wait, 10)


async def test_many_at_the_edge_end_one_way_or_the_other_and_harm_no_thread():
    def short():
        threading.Event().wait(0.002)
        return threading.get_ident()

    async def one():
        try:
            return await bounded.run(short, asyncio.Event(), 0.002)
        except bounded.EndedError:
            return None

    for _ in range(30):
        await asyncio.gather(*(one() for _ in range(4)))
    assert await asyncio.to_thread(lambda: 1) == 1
