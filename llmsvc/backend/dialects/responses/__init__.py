"""OpenAI's Responses API, in front of the chat of any engine: what its Agents SDK and Codex speak.

Nothing is kept: a request holds its whole conversation, and what refers to an earlier one is refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from llmsvc.backend import bodies
from llmsvc.backend.bodies import Model, Request
from llmsvc.backend.dialects.responses import conversation, objects, request
from llmsvc.backend.dialects.responses.answer import Answer
from llmsvc.backend.dialects.truncation import Conversation
from llmsvc.backend.jobs import Job
from llmsvc.backend.problem import ApiError


class Responses:
    """See Dialect."""

    x_api_key = False

    def request(self, body: dict[str, Any], model: Model) -> Request:
        """See Dialect."""
        given, said = request.chat(body), Conversation(conversation.pieces(body))
        truncates = request.truncates(body)
        messages = said.without(said.fewest if truncates else 0)
        made = bodies.chat({**given, "messages": messages}, model)
        return dataclasses.replace(made, conversation=said) if truncates else made

    def answer(self, body: dict[str, Any], job: Job) -> Answer:
        """See Dialect."""
        return Answer(body, job)

    def error(self, problem: ApiError, request_id: str) -> dict[str, Any]:
        """See Dialect."""
        return objects.named(problem).body()


class Counting(Responses):
    """/v1/responses/input_tokens: the same body, whose prompt is only counted."""

    def request(self, body: dict[str, Any], model: Model) -> Request:
        """See Dialect."""
        # all of it, so that a client learns what would be left out
        body = {**body, "max_output_tokens": 1, "stream": False, "truncation": "disabled"}
        made = super().request(body, model)
        return dataclasses.replace(made, only_counted=True)

    def counted(self, tokens: int) -> dict[str, Any]:
        """The answer."""
        return {"object": "response.input_tokens", "input_tokens": tokens}
