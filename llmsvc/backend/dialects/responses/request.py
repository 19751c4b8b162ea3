"""Makes the body of a chat of the body of a Responses request.

Here stands what this API has otherwise than the chat; types and bounds of the rest are checked with that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmsvc.backend import fields
from llmsvc.backend.dialects.turns import Turns
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
    """The chat's body; what asks for nothing here is left out.

    :raises ApiError: 400 with the place of what is wrong, as `input[2].content[0]`
    """
    for name, instead in _KEPT.items():
        if name in body:
            raise bad(f"nothing is kept on this server: {instead}", name, "unsupported_parameter")
    if fields.boolean(body, "background"):
        raise bad("there are no answers in the background here", "background", "unsupported_parameter")
    fields.boolean(body, "store")
    if body.get("truncation", "disabled") not in ("auto", "disabled"):
        raise bad("truncation must be auto or disabled", "truncation")
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
    out["messages"] = _messages(body)
    return out


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


# ---------------------------------------------------------------------------------------------------------
# The conversation


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    turns = Turns()
    instructions = body.get("instructions", "")
    if not isinstance(instructions, str):
        raise bad("instructions must be a text", "instructions")
    if instructions:
        turns.add({"role": "system", "content": instructions})
    given = body.get("input", "")
    if isinstance(given, str):
        if not given and not instructions:
            raise bad("input must be a text or a list of items, not empty", "input")
        given = [{"role": "user", "content": given}] if given else []
    if not isinstance(given, list):
        raise bad("input must be a text or a list of items", "input")
    thought = ""
    for index, item in enumerate(given):
        place = f"input[{index}]"
        if not isinstance(item, dict):
            raise bad("an item must be an object", place)
        kind = item.get("type", "message")
        if kind == "reasoning":
            thought = _thought(item, place)
            continue
        if not isinstance(kind, str) or kind not in _ITEMS:
            raise _unreadable(kind, f"{place}.type")
        message = _ITEMS[kind](item, place)
        if thought and message["role"] == "assistant":
            message["reasoning_content"] = thought
        thought = ""
        turns.add(message)
    messages = turns.messages()
    if not messages:
        raise bad("input must have at least one item", "input")
    return messages


def _message(item: dict[str, Any], place: str) -> dict[str, Any]:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise bad("role must be user, assistant, system or developer", f"{place}.role")
    text = _text(item.get("content"), f"{place}.content")
    return {"role": "system" if role == "developer" else role, "content": text}


def _call(item: dict[str, Any], place: str) -> dict[str, Any]:
    function = {key: _string(item, key, place) for key in ("name", "arguments")}
    call = {"id": _string(item, "call_id", place), "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _result(item: dict[str, Any], place: str) -> dict[str, Any]:
    text = _text(item.get("output"), f"{place}.output")
    return {"role": "tool", "tool_call_id": _string(item, "call_id", place), "content": text}


_ITEMS: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _result,
}


def _thought(item: dict[str, Any], place: str) -> str:
    """What was thought, in full or else in short; what is encrypted is not of our making."""
    for key in ("content", "summary"):
        if text := _text(item.get(key) or [], f"{place}.{key}"):
            return text
    return ""


def _text(content: object, place: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad("must be a text or a list of parts", place)
    texts = []
    for index, part in enumerate(content):
        at = f"{place}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or kind not in _TEXTS:
            raise bad("this model reads text only", at, "unsupported_content")
        texts.append(_string(part, "refusal" if kind == "refusal" else "text", at))
    return "\n".join(texts)


_TEXTS = ("input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text")


def _string(item: dict[str, Any], key: str, place: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise bad("must be a text", f"{place}.{key}")
    return value


def _unreadable(kind: object, place: str) -> ApiError:
    if kind == "item_reference":
        return bad("nothing is kept on this server: send the item itself", place, "unsupported_parameter")
    known = ", ".join([*_ITEMS, "reasoning"])
    return bad(f"an item must be of type {known}", place, "unsupported_content")
