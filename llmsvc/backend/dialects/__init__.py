"""The APIs that the backend speaks; each words requests, answers and errors in its own way.

Inside there is one: every request becomes a checked bodies.Request, and engines answer in OpenAI's chunks.
A dialect translates at both ends, so that neither the adapter nor an engine knows of it. `routes` says which
path speaks which.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from llmsvc.backend.bodies import Model, Request
from llmsvc.backend.jobs import Job
from llmsvc.backend.problem import ApiError


class Answer(Protocol):
    """Words one answer."""

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer in one piece.

        :param answer: OpenAI's, without its usage, which is in the job
        """

    def events(self, chunk: bytes) -> bytes:
        """The events of a stream, with the blank line behind each, that a chunk of the engine's becomes.

        :param chunk: `data: ` and OpenAI's chunk as JSON
        """

    def end(self, problem: ApiError | None) -> Iterator[bytes]:
        """The last events of a stream, with the usage.

        :param problem: what went wrong, if anything did
        """


class Dialect(Protocol):
    """What one path speaks."""

    @property
    def x_api_key(self) -> bool:
        """Whether a key may come in `x-api-key` too."""

    def request(self, body: dict[str, Any], model: Model) -> Request:
        """Checks a body.

        :param body: without its nulls at the top
        :raises ApiError: 400, or 404 for another model
        """

    def answer(self, body: dict[str, Any], job: Job) -> Answer:
        """What words the answer to a request.

        :param body: the one that request() has passed
        """

    def error(self, problem: ApiError, request_id: str) -> dict[str, Any]:
        """The JSON of an answer that is an error."""


class Counting(Dialect, Protocol):
    """What a path speaks that only counts the tokens of a prompt."""

    def counted(self, tokens: int) -> dict[str, Any]:
        """The answer."""
