"""The pieces of a conversation: a chat's messages, one for each item of a request's input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmsvc.backend.dialects.responses import functions
from llmsvc.backend.problem import ApiError, bad


def pieces(body: dict[str, Any]) -> list[dict[str, Any]]:
    """What was said, in order; what is one turn may come in several pieces.

    :raises ApiError: 400 with the place of what is wrong, as `input[2].content[0]`
    """
    found: list[dict[str, Any]] = []
    instructions = body.get("instructions", "")
    if not isinstance(instructions, str):
        raise bad("instructions must be a text", "instructions")
    if instructions:
        found.append({"role": "system", "content": instructions})
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
        found.append(message)
    if not found:
        raise bad("input must have at least one item", "input")
    return found


def _message(item: dict[str, Any], place: str) -> dict[str, Any]:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise bad("role must be user, assistant, system or developer", f"{place}.role")
    text = _text(item.get("content"), f"{place}.content")
    return {"role": "system" if role == "developer" else role, "content": text}


def _call(item: dict[str, Any], place: str) -> dict[str, Any]:
    function = {key: _string(item, key, place) for key in ("name", "arguments")}
    function["name"] = str(functions.joined(item.get("namespace"), function["name"]))
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
