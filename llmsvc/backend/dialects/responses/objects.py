"""The objects that whole answers, streams and errors share."""

from __future__ import annotations

import re
import secrets
import time
from typing import Any

from llmsvc.backend.problem import ApiError

_OURS = (
    (re.compile(r"^messages\b.*"), "input"),
    (re.compile(r"^(tools\[\d+\])\.function"), r"\1"),
    (re.compile(r"^response_format(\.json_schema)?"), "text.format"),
    (re.compile(r"^max_tokens"), "max_output_tokens"),
    (re.compile(r"^reasoning_effort"), "reasoning.effort"),
)
"""From the chat's names of fields to those of this API."""


def named(problem: ApiError) -> ApiError:
    """The problem with the names of fields that this API has."""
    param = problem.param or ""
    for pattern, ours in _OURS:
        param = pattern.sub(ours, param)
    if param == (problem.param or ""):
        return problem
    message = problem.message.replace(str(problem.param), param)
    told = ApiError(problem.status, message, param=param, code=problem.code)
    told.usage = problem.usage
    return told


def usage(counted: dict[str, Any]) -> dict[str, Any]:
    """This API's usage object, of the chat's. What of a prompt was held already is not told: it might be of
    somebody else's."""
    details = counted.get("completion_tokens_details", {})
    return {
        "input_tokens": counted["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": counted["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": details.get("reasoning_tokens", 0)},
        "total_tokens": counted["total_tokens"],
    }


def identity(kind: str) -> str:
    """A new id: `msg_…`."""
    return f"{kind}_{secrets.token_hex(16)}"


class Response:
    """The response object of one request, which says again what was asked for.

    :param body: of the request, checked
    """

    def __init__(self, body: dict[str, Any], model: str) -> None:
        reasoning, text = body.get("reasoning", {}), body.get("text", {})
        tools = [_tool(tool) for tool in body.get("tools", [])]
        self._fields: dict[str, Any] = {
            "id": identity("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "max_tool_calls": body.get("max_tool_calls"),
            "model": model,
            "output": [],
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "previous_response_id": None,
            "prompt_cache_key": body.get("prompt_cache_key"),
            "reasoning": {"effort": reasoning.get("effort"), "summary": None},
            "safety_identifier": body.get("safety_identifier"),
            "service_tier": "default",
            "store": False,
            "temperature": body.get("temperature"),
            "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity")},
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": tools,
            "top_logprobs": body.get("top_logprobs", 0),
            "top_p": body.get("top_p"),
            "truncation": body.get("truncation", "disabled"),
            "user": body.get("user"),
            "metadata": body.get("metadata", {}),
        }

    def now(self, status: str, output: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        """What it is now.

        :param output: its items
        :param fields: what else there is to say by now
        """
        if status == "completed":
            fields["completed_at"] = int(time.time())
        # last, for those who look for it from the end
        used = fields.pop("usage", None)
        return {**self._fields, **fields, "status": status, "output": output, "usage": used}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool["type"] != "function":
        return tool
    return {"description": None, "parameters": None, **tool, "strict": tool.get("strict") is True}
