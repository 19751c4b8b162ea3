"""What a request's `thinking` and `output_config.effort` come to in a chat."""

from __future__ import annotations

from typing import Any

from llmsvc.backend import fields
from llmsvc.backend.problem import bad
from llmsvc.backend.thinking import MAX_TOKENS

_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "xhigh"}


def chat(body: dict[str, Any], *, thinks: bool) -> dict[str, Any]:
    """Fields of the chat's.

    What must think is refused with the chat where the model cannot. `adaptive`, which Claude Code always
    sends, leaves it to the model, as does a request without a word about it.

    :param thinks: whether the model does, and the engine can end it
    :raises ApiError: 400 with the place of what is wrong
    """
    out: dict[str, Any] = {}
    effort = body.get("output_config", {}).get("effort")
    if effort is not None:
        if not isinstance(effort, str) or effort not in _EFFORTS:
            raise bad(f"must be one of {', '.join(_EFFORTS)}", "output_config.effort")
        out["reasoning_effort"] = _EFFORTS[effort]
    wanted = body.get("thinking", {"type": "adaptive"})
    kind = wanted.get("type")
    if kind == "enabled":
        if "budget_tokens" not in wanted:
            raise bad("is required", "thinking.budget_tokens")
        out["thinking_budget_tokens"] = _budget(wanted["budget_tokens"])
        out["chat_template_kwargs"] = {"enable_thinking": True}
    elif kind == "disabled":
        out["chat_template_kwargs"] = {"enable_thinking": False}
        if thinks:
            # not every template has a switch
            out["thinking_budget_tokens"] = 0
    elif kind != "adaptive":
        raise bad("must be of type enabled, disabled or adaptive", "thinking")
    return out


def _budget(given: object) -> int:
    """The tokens of thinking that are wanted; Anthropic's own models must have 1,024, ours may have fewer."""
    return int(fields.number(given, "thinking.budget_tokens", int, 1, MAX_TOKENS))
