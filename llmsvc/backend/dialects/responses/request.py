"""Makes the body of a chat of the body of a Responses request.

Here stands what this API has otherwise than the chat; types and bounds of the rest are checked with that.
"""

from __future__ import annotations

from typing import Any

from llmsvc.backend import fields
from llmsvc.backend.dialects.responses import functions
from llmsvc.backend.problem import bad

_SAME = (
    "model", "stream", "temperature", "top_p", "parallel_tool_calls",
    # not OpenAI's, but the chat has them too
    "top_k", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty", "repeat_penalty", "logit_bias",
    "min_tokens", "chat_template_kwargs", "thinking_budget_tokens",
)  # fmt: skip
_KEPT = {
    "previous_response_id": "send the whole conversation as input",
    "conversation": "send the whole conversation as input",
    "prompt": "send the text itself",
}
"""What refers to something that would have to be kept here, and what to do."""
_LOGPROBS = "message.output_text.logprobs"
_MAX_METADATA = 16
_MAX_METADATA_CHARS = 512


def chat(body: dict[str, Any]) -> dict[str, Any]:
    """The chat's body, without its messages; what asks for nothing here is left out.

    :raises ApiError: 400 with the field that is wrong
    """
    for name, instead in _KEPT.items():
        if name in body:
            raise bad(f"nothing is kept on this server: {instead}", name, "unsupported_parameter")
    if fields.boolean(body, "background"):
        raise bad("there are no answers in the background here", "background", "unsupported_parameter")
    fields.boolean(body, "store")
    truncates(body)
    _check_metadata(body)
    out = {name: body[name] for name in _SAME if name in body}
    if "max_output_tokens" in body:
        out["max_tokens"] = body["max_output_tokens"]
    if effort := _object(body, "reasoning").get("effort"):
        out["reasoning_effort"] = effort
    if form := _object(body, "text").get("format"):
        out["response_format"] = _form(form)
    _add_logprobs(out, body)
    out |= functions.chat(body)
    return out


def truncates(body: dict[str, Any]) -> bool:
    """Whether what is too long may be made shorter."""
    wanted = body.get("truncation", "disabled")
    if wanted not in ("auto", "disabled"):
        raise bad("truncation must be auto or disabled", "truncation")
    return bool(wanted == "auto")


def _check_metadata(body: dict[str, Any]) -> None:
    metadata = _object(body, "metadata")
    if len(metadata) > _MAX_METADATA or not all(
        isinstance(value, str) and len(value) <= _MAX_METADATA_CHARS for value in metadata.values()
    ):
        raise bad(f"metadata may hold {_MAX_METADATA} texts of {_MAX_METADATA_CHARS} characters", "metadata")
    # they come back in the answer
    for name in ("user", "prompt_cache_key", "safety_identifier"):
        if not isinstance(body.get(name, ""), str):
            raise bad(f"{name} must be a text", name)
    fields.integer(body, "max_tool_calls", 0, 1_000_000_000)


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name, {})
    if not isinstance(value, dict):
        raise bad(f"{name} must be an object", name)
    return value


def _form(form: object) -> dict[str, Any]:
    kind = form.get("type") if isinstance(form, dict) else None
    if not isinstance(form, dict) or kind not in ("text", "json_object", "json_schema"):
        raise bad("text.format must be of type text, json_object or json_schema", "text.format")
    if kind != "json_schema":
        return {"type": kind}
    if not isinstance(form.get("schema"), dict):
        raise bad("text.format.schema must be a JSON schema", "text.format.schema")
    return {"type": kind, "json_schema": {"name": form.get("name"), "schema": form["schema"]}}


def _add_logprobs(out: dict[str, Any], body: dict[str, Any]) -> None:
    wanted = _LOGPROBS in fields.texts(body, "include", 100)
    if wanted or body.get("top_logprobs"):
        out["logprobs"] = True
        out |= {name: body[name] for name in ("top_logprobs",) if name in body}
