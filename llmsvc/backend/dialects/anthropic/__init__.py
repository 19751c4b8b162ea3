"""Anthropic's Messages API, in front of the chat of any engine: what its SDKs and Claude Code speak."""

from __future__ import annotations

import dataclasses
from typing import Any

from llmsvc.backend import bodies
from llmsvc.backend.bodies import Model, Request
from llmsvc.backend.dialects.anthropic import objects, request
from llmsvc.backend.dialects.anthropic.answer import Answer
from llmsvc.backend.jobs import Job
from llmsvc.backend.problem import ApiError, bad


class Anthropic:
    """See Dialect."""

    x_api_key = True

    def request(self, body: dict[str, Any], model: Model) -> Request:
        """See Dialect."""
        if "max_tokens" not in body:
            raise bad("is required", "max_tokens")
        made = bodies.chat(request.chat(body, thinks=model.thinks), model)
        return dataclasses.replace(made, tells_stop=True)

    def answer(self, body: dict[str, Any], job: Job) -> Answer:
        """See Dialect."""
        return Answer(job)

    def error(self, problem: ApiError, request_id: str) -> dict[str, Any]:
        """See Dialect."""
        return objects.error(problem, request_id)


class Counting(Anthropic):
    """/v1/messages/count_tokens: the same body, whose prompt is only counted."""

    def request(self, body: dict[str, Any], model: Model) -> Request:
        """See Dialect."""
        body = {**body, "max_tokens": 1, "stream": False}
        made = bodies.chat(request.chat(body, thinks=model.thinks), model)
        return dataclasses.replace(made, only_counted=True)

    def counted(self, tokens: int) -> dict[str, Any]:
        """The answer."""
        return {"input_tokens": tokens}
