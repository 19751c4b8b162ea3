"""One request's life in the model, and the list of all of them: who runs, who waits, who was just there."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import Iterator
from typing import Any, Protocol

from llmsvc.backend.problem import ApiError

_TELLING_TOKENS = 4

REMEMBERED = 100
"""Finished requests whose token counts a late cancel still gets."""


class JobCancelledError(Exception):
    """Raised inside the model's thread when its request is no longer wanted."""


class Reply(Protocol):
    """What makes the objects of one answer."""

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The chunk that OpenAI sends for stream_options.include_usage."""


class Job:
    """One request. The event loop cancels it; the model's thread counts its tokens and notes its failure."""

    def __init__(self, request_id: str, budget: int | None = None, user: str = "") -> None:
        """
        :param budget: tokens that prompt and answer may take together; None for all of the context
        :param user: whose it is, by a name of the proxy's making; empty where it does not say
        """
        self.request_id = request_id
        self.budget = budget
        self.user = user
        self.finishing = False
        """It has had its time: the next token is its last, and the answer ends as at max_tokens."""
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.reasoning_tokens = 0
        """Of these, what the model thought, where the engine tells that apart."""
        self.cached_tokens: int | None = None
        """Those of the prompt that had been read for the same user already; None where that is not told."""
        self.cancelled: str | None = None
        """Why it was cancelled: `left`, `cancel`, `stopping` or `slow`."""
        self.task: Any = None
        """What the model is to do, once that is known."""
        self.reply: Reply | None = None
        """What makes the answer's chunks, once the model is at work on it."""
        self.answer: dict[str, Any] | None = None
        """The whole answer, of a request that is no stream."""
        self.stopped_by: str | None = None
        """Which of its stop texts ended the answer."""
        self.failure: BaseException | None = None
        """The first exception that the model's thread saw."""
        self.unwanted = asyncio.Event()
        """Set with `cancelled`, for those who wait."""
        self.done = asyncio.Event()
        """Set once the model is free of it."""
        self.started: float | None = None
        """When the model took it up, seconds since 1970."""
        self.first_token = 0.0
        self.last_token = 0.0
        """When the model made them, by time.monotonic()."""

    def cancel(self, reason: str) -> None:
        """Ends it as soon as the model can be interrupted; has no effect on a finished one."""
        if not self.done.is_set() and self.cancelled is None:
            self.cancelled = reason
            self.unwanted.set()

    def check(self) -> None:
        """Raises JobCancelledError if it was cancelled."""
        if self.cancelled:
            raise JobCancelledError(self.cancelled)

    @contextlib.contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Keeps the exception of the model's thread: the app makes an answer of its own of it."""
        try:
            yield
        except Exception as error:
            self.failure = self.failure or error
            raise

    def speed(self) -> float | None:
        """Tokens a second between the first one and the last; None where there are too few to tell."""
        seconds = self.last_token - self.first_token
        if self.completion_tokens < _TELLING_TOKENS or seconds <= 0:
            return None
        return round((self.completion_tokens - 1) / seconds, 2)

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object: what was read and produced until now."""
        usage: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }
        if self.reasoning_tokens:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        if self.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        return usage


class Jobs:
    """All requests that wait or run, and the last finished ones."""

    def __init__(self) -> None:
        self._open: dict[str, Job] = {}
        self._finished: collections.OrderedDict[str, Job] = collections.OrderedDict()

    def add(self, request_id: str, budget: int | None = None, user: str = "") -> Job:
        """A new job; see Job.

        :raises ApiError: one of this id is still open
        """
        if request_id in self._open:
            raise ApiError(409, "a request of this id is still running")
        job = self._open[request_id] = Job(request_id, budget, user)
        return job

    def finish(self, job: Job) -> None:
        """The model is free of the job."""
        job.done.set()
        # the prompt is in both, the one through its traceback
        job.failure = job.task = None
        del self._open[job.request_id]
        self._finished[job.request_id] = job
        while len(self._finished) > REMEMBERED:
            self._finished.popitem(last=False)

    def find(self, request_id: str) -> Job | None:
        """The open or lately finished job of that id."""
        return self._open.get(request_id) or self._finished.get(request_id)

    def cancel_all(self, reason: str) -> None:
        """Cancels every job that is open."""
        for job in self._open.values():
            job.cancel(reason)

    @property
    def running(self) -> int:
        """How many the model is at work on."""
        return sum(job.started is not None for job in self._open.values())

    def busy_since(self) -> float | None:
        """Since when the model has been at work on its present job, seconds since 1970; None when idle."""
        return next((job.started for job in self._open.values() if job.started), None)


def start(job: Job) -> None:
    """Notes that the model takes the job up now."""
    job.started = time.time()
