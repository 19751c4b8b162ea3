"""Makes the body of a chat of the body of a Responses request.

Here stands what this API has otherwise than the chat; types and bounds of the rest are checked with that.
"""

from __future__ import annotations

from typing import Any

from llmsvc.backend import fields
from llmsvc.backend.problem import ApiError, bad

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
    _add_tools(out, body)
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


def _add_tools(out: dict[str, Any], body: dict[str, Any]) -> None:
    given = body.get("tools", [])
    if not isinstance(given, list):
        raise bad("tools must be a list", "tools")
    if given:
        out["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(given)]
    choice = body.get("tool_choice")
    if choice is None:
        return
    if not isinstance(choice, dict):
        out["tool_choice"] = choice
        return
    if choice.get("type") == "allowed_tools":
        _allow(out, choice)
        return
    if choice.get("type") != "function":
        raise _not_ours(choice.get("type"), "tool_choice")
    out["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}


def _tool(tool: object, place: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise bad("a tool must be an object", place)
    if tool.get("type") != "function":
        raise _not_ours(tool.get("type"), f"{place}.type")
    function = {key: tool[key] for key in ("name", "description", "parameters") if tool.get(key) is not None}
    return {"type": "function", "function": function}


def _allow(out: dict[str, Any], choice: dict[str, Any]) -> None:
    """Of the tools, those that tool_choice allows."""
    allowed, mode = choice.get("tools"), choice.get("mode", "auto")
    if mode not in ("auto", "required") or not isinstance(allowed, list):
        raise bad("tool_choice of allowed_tools must have a mode, auto or required, and tools", "tool_choice")
    names = [tool.get("name") for tool in allowed if isinstance(tool, dict)]
    out["tools"] = [tool for tool in out.get("tools", []) if tool["function"].get("name") in names]
    out["tool_choice"] = mode


def _not_ours(kind: object, place: str) -> ApiError:
    shown = kind if isinstance(kind, str) and kind.isidentifier() and len(kind) < 40 else "that"
    return bad(
        f"this server has no tool {shown}; tools of type function are called by the client",
        place,
        "tools_not_supported",
    )
