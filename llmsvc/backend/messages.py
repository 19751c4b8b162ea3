"""The messages of a chat, from all that SDKs send to what chat templates can take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmsvc.backend.problem import bad

# templates and the tokenizer take time that grows with the square of their number
MAX_MESSAGES = 4096

_ROLES = {"system", "developer", "user", "assistant", "tool", "function"}


def normalise(messages: object) -> list[dict[str, Any]]:
    """The list of messages with plain text as content.

    :raises ApiError: 400 with the place of what is wrong, as `messages[2].content`
    """
    if not isinstance(messages, list) or not messages:
        raise bad("messages must be a list with at least one message", "messages")
    if len(messages) > MAX_MESSAGES:
        raise bad(f"messages must be at most {MAX_MESSAGES}", "messages", "context_length_exceeded")
    out = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    # some templates want the name of the function beside its result, which OpenAI's API leaves out
    names = {call["id"]: call["function"]["name"] for one in out for call in one.get("tool_calls", [])}
    for one in out:
        if one.get("tool_call_id") in names:
            one.setdefault("name", names[one["tool_call_id"]])
    return out


def begun(messages: list[dict[str, Any]]) -> str:
    """The answer that a chat ends in, for the model to go on with; empty where its own is a new one."""
    last = messages[-1]
    return str(last["content"]) if last["role"] == "assistant" and "tool_calls" not in last else ""


def _message(message: object, place: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise bad("a message must be an object", place)
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad(f"role must be one of {', '.join(sorted(_ROLES))}", f"{place}.role")
    content = message.get("content")
    calls = message.get("tool_calls")
    if content is None and role != "assistant":
        raise bad("content must be a text", f"{place}.content")
    out: dict[str, Any] = {
        "role": "system" if role == "developer" else role,
        "content": "" if content is None else _text(content, f"{place}.content"),
    }
    if role == "tool":
        out["tool_call_id"] = _string(message.get("tool_call_id"), f"{place}.tool_call_id")
        if message.get("name") is not None:
            out["name"] = _string(message["name"], f"{place}.name")
    if role == "function":
        out["name"] = _string(message.get("name"), f"{place}.name")
    if role == "assistant" and isinstance(thought := message.get("reasoning_content"), str):
        out["reasoning_content"] = thought
    if role == "assistant" and calls:
        out["tool_calls"] = _calls(calls, f"{place}.tool_calls")
    return out


def _text(content: object, place: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad("content must be a text or a list of parts", place)
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "refusal"):
            raise bad("this model reads text only", f"{place}[{index}]", "unsupported_content")
        texts.append(_string(part.get(kind), f"{place}[{index}].{kind}"))
    return "\n".join(texts)


def _calls(calls: object, place: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise bad("tool_calls must be a list", place)
    out = []
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise bad("a tool call must have a function", f"{place}[{index}]")
        out.append(
            {
                "id": _string(call.get("id"), f"{place}[{index}].id"),
                "type": "function",
                "function": {
                    key: _string(function.get(key), f"{place}[{index}].function.{key}")
                    for key in ("name", "arguments")
                },
            }
        )
    return out


def _string(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise bad("must be a text", place)
    return value


def all_texts(value: object) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from all_texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from all_texts(item)
