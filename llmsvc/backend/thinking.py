"""What a request says of a model's thinking: whether it is to think, for how long, and where that is told."""

from __future__ import annotations

import dataclasses
from typing import Any

from llmsvc.backend import fields
from llmsvc.backend.capabilities import lacking
from llmsvc.backend.problem import bad

MAX_TOKENS = 1_000_000_000
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


@dataclasses.dataclass(frozen=True)
class Thinking:
    """None always stands for the model's own default."""

    enabled: bool | None = None
    effort: str | None = None
    """One of EFFORTS, for templates that know it; `none` is as `enabled` false. Others pay it no heed."""
    tokens: int | None = None
    """After so many of them it is made to answer."""
    apart: bool | None = None
    """Whether it is told in reasoning_content, else in content."""

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What the chat template is told, by the name that most of them know."""
        enabled = False if self.effort == "none" else self.enabled
        return {} if enabled is None else {"enable_thinking": enabled}


def wanted(body: dict[str, Any], model: str, *, thinks: bool) -> Thinking:
    """Reads chat_template_kwargs, reasoning_effort, thinking_budget_tokens and reasoning_format.

    :param model: its name
    :param thinks: whether the model thinks, and the engine tells that apart from the answer
    :raises ApiError: 400, `reasoning_not_supported` for what takes such a model
    """
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in EFFORTS:
        raise bad(f"reasoning_effort must be one of {', '.join(EFFORTS)}", "reasoning_effort")
    tokens = fields.integer(body, "thinking_budget_tokens", 0, MAX_TOKENS)
    if tokens is not None and not thinks:
        raise lacking(model, "reasoning", "thinking_budget_tokens")
    form = body.get("reasoning_format", "auto")
    if form not in ("auto", "deepseek", "none"):
        raise bad("reasoning_format must be auto, deepseek or none", "reasoning_format")
    if form == "deepseek" and not thinks:
        raise lacking(model, "reasoning", "reasoning_format")
    return Thinking(_enabled(body), effort, tokens, {"deepseek": True, "none": False}.get(form))


def _enabled(body: dict[str, Any]) -> bool | None:
    arguments = body.get("chat_template_kwargs", {})
    if not isinstance(arguments, dict) or arguments.keys() - {"enable_thinking"}:
        # the template's other variables are not for users: one of them is the whole conversation
        raise bad("chat_template_kwargs may hold enable_thinking, and nothing else", "chat_template_kwargs")
    enabled = arguments.get("enable_thinking")
    if enabled is not None and not isinstance(enabled, bool):
        raise bad("enable_thinking must be true or false", "chat_template_kwargs.enable_thinking")
    return enabled
