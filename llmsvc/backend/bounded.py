"""Runs Python code that nobody has bounded, as chat templates, so that it can be ended from outside."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class EndedError(BaseException):
    """Raised within the code that was ended, between two of its instructions; no Exception, for that code may
    catch these."""


async def run(function: Callable[[], Result], unwanted: asyncio.Event, seconds: float) -> Result:
    """Runs a function in a thread, until it is done, `unwanted` is set or the time is over.

    One call into C is not interrupted, but what follows it is. It is ended, too, if the caller is cancelled.

    :raises EndedError: it did not come to its end
    """
    work = _Work(function)
    done = asyncio.ensure_future(asyncio.to_thread(work))
    waiting = asyncio.ensure_future(unwanted.wait())
    try:
        await asyncio.wait({done, waiting}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        if not done.done():
            work.end()
            # nobody may be left to look at it, and asyncio would complain of that
            done.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return await done


class _Work(Generic[Result]):
    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._ended = False

    def __call__(self) -> Result:
        with self._lock:
            if self._ended:
                raise EndedError
            self._thread = threading.get_ident()
        try:
            return self._function()
        except BaseException:
            if self._ended:
                # torn in the middle it may raise anything: a Condition, that its lock is not held
                raise EndedError from None
            raise
        finally:
            # the lock makes sure that nothing is raised in what the thread does next
            with self._lock:
                self._thread = None

    def end(self) -> None:
        with self._lock:
            self._ended = True
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(EndedError)
                )
