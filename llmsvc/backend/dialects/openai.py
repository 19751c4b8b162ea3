"""OpenAI's own: chats, completions and embeddings pass as the engine words them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llmsvc.backend.answers import DONE, encode
from llmsvc.backend.bodies import Model, Request
from llmsvc.backend.jobs import Job
from llmsvc.backend.problem import ApiError


class OpenAI:
    """See Dialect.

    :param check: makes a request of the body of this path
    """

    x_api_key = False

    def __init__(self, check: Callable[[dict[str, Any], Model], Request]) -> None:
        self.request = check

    def answer(self, body: dict[str, Any], job: Job) -> Answer:
        """See Dialect."""
        return Answer(job)

    def error(self, problem: ApiError, request_id: str) -> dict[str, Any]:
        """See Dialect."""
        return problem.body()


class Answer:
    """See dialects.Answer."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """See dialects.Answer."""
        return {**answer, "usage": self._job.usage()}

    def events(self, chunk: bytes) -> bytes:
        """See dialects.Answer."""
        return chunk + b"\n\n"

    def end(self, problem: ApiError | None) -> Iterator[bytes]:
        """See dialects.Answer. The usage is an event of its own, for those in between who take it out."""
        assert self._job.reply is not None
        yield b"data: " + encode(self._job.reply.usage(self._job.usage())) + b"\n\n"
        if problem is None:
            yield DONE + b"\n\n"
        else:
            problem.usage = None
            yield b"data: " + encode(problem.body()) + b"\n\n"
