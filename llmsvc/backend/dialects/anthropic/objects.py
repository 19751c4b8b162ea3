"""The objects that whole answers, streams and errors share."""

from __future__ import annotations

import re
from typing import Any

from llmsvc.backend.problem import ApiError

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_OURS = (
    (re.compile(r"\[(\d+)\]"), r".\1"),
    (re.compile(r"^(tools\.\d+)\.function\.parameters"), r"\1.input_schema"),
    (re.compile(r"^(tools\.\d+)\.function"), r"\1"),
    (re.compile(r"^stop$"), "stop_sequences"),
    (re.compile(r"^thinking_budget_tokens$"), "thinking.budget_tokens"),
    (re.compile(r"^response_format.*"), "output_config.format.schema"),
)
"""From the chat's names of fields to Anthropic's."""


def error(problem: ApiError, request_id: str) -> dict[str, Any]:
    """The JSON of an error."""
    param = problem.param or ""
    for pattern, ours in _OURS:
        param = pattern.sub(ours, param)
    message = problem.message
    if problem.too_long:
        # Claude Code knows by these words that it is to make its conversation shorter
        message = "prompt is too long: {} tokens > {} maximum".format(*problem.too_long)
    elif param:
        said = message.removeprefix(f"{problem.param} ")
        message = f"{param}: {said}"
    kind = _KINDS.get(problem.status, "invalid_request_error" if problem.status < 500 else "api_error")
    told: dict[str, Any] = {"type": kind, "message": message}
    if problem.code:
        told["details"] = {"error_code": problem.code}
    out = {"type": "error", "error": told, "request_id": request_id}
    return out if problem.usage is None else {**out, "usage": usage(problem.usage)}


def usage(counted: dict[str, int]) -> dict[str, int]:
    """Anthropic's usage object, of OpenAI's."""
    return {
        "input_tokens": counted["prompt_tokens"],
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": counted["completion_tokens"],
    }
