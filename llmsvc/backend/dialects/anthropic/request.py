"""Makes the body of a chat of the body of a messages request.

Here stands what Anthropic's API has otherwise than OpenAI's; types and bounds of the rest are checked with
the chat.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llmsvc.backend.dialects.anthropic import thinking
from llmsvc.backend.dialects.turns import Turns
from llmsvc.backend.problem import ApiError, bad

_SAME = ("model", "max_tokens", "temperature", "top_p", "top_k", "stream")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_BILLING = "x-anthropic-billing-header:"
"""A block of Claude Code's that differs in each request, so that no prompt would begin as the one before."""


def chat(body: dict[str, Any], *, thinks: bool) -> dict[str, Any]:
    """The chat's body; unknown fields are left out, as are those that ask for nothing here.

    :param thinks: see thinking.chat()
    :raises ApiError: 400 with the place of what is wrong, as `messages.2.content.0`
    """
    out = {name: body[name] for name in _SAME if name in body}
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise bad("must be a list with at least one message", "messages")
    turns = Turns()
    for made in _system(body["system"]) if "system" in body else []:
        turns.add(made)
    for index, message in enumerate(given):
        for made in _messages(message, f"messages.{index}"):
            turns.add(made)
    out["messages"] = turns.messages()
    if "stop_sequences" in body:
        if not isinstance(body["stop_sequences"], list):
            raise bad("must be a list of texts", "stop_sequences")
        out["stop"] = body["stop_sequences"]
    for name in ("thinking", "metadata", "output_config"):
        if not isinstance(body.get(name, {}), dict):
            raise bad("must be an object", name)
    out |= thinking.chat(body, thinks=thinks)
    form = body.get("output_config", {}).get("format") or body.get("output_format")
    if form is not None:
        out["response_format"] = _form(form)
    if body.get("tools"):
        out["tools"] = _tools(body["tools"])
    if "tool_choice" in body:
        out |= _choice(body["tool_choice"])
    return out


def _system(system: object) -> list[dict[str, Any]]:
    texts = _texts(system, "system")
    text = "\n".join(text for text in texts if not text.startswith(_BILLING))
    return [{"role": "system", "content": text}] if text else []


def _messages(message: object, place: str) -> Iterator[dict[str, Any]]:
    """The chat's messages that one of Anthropic's is."""
    if not isinstance(message, dict):
        raise bad("must be an object", place)
    role, content = message.get("role"), message.get("content")
    if role == "assistant":
        yield _assistant(content, f"{place}.content")
    elif role == "user":
        yield from _user(content, f"{place}.content")
    elif role == "system":
        yield {"role": "system", "content": "\n".join(_texts(content, f"{place}.content"))}
    else:
        raise bad("must be user, assistant or system", f"{place}.role")


def _user(content: object, place: str) -> Iterator[dict[str, Any]]:
    results, texts = [], []
    for block, at in _blocks(content, place):
        if block["type"] == "tool_result":
            results.append(_result(block, at))
        elif block["type"] == "text":
            texts.append(_string(block, "text", at))
        else:
            raise _unreadable(at)
    # results stand behind their calls, wherever the text came
    yield from results
    if texts or not results:
        yield {"role": "user", "content": "\n".join(texts)}


def _assistant(content: object, place: str) -> dict[str, Any]:
    texts, calls, thoughts = [], [], []
    for block, at in _blocks(content, place):
        if block["type"] == "text":
            texts.append(_string(block, "text", at))
        elif block["type"] == "thinking":
            # templates show the model what it has thought since the user's last message, and nothing before
            thoughts.append(_string(block, "thinking", at))
        elif block["type"] == "tool_use":
            given = block.get("input")
            if not isinstance(given, dict):
                raise bad("must be an object", f"{at}.input")
            function = {
                "name": _string(block, "name", at),
                "arguments": json.dumps(given, ensure_ascii=False),
            }
            calls.append({"id": _string(block, "id", at), "type": "function", "function": function})
        elif block["type"] != "redacted_thinking":
            raise _unreadable(at)
    out: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts)}
    if thoughts:
        out["reasoning_content"] = "\n".join(thoughts)
    return {**out, "tool_calls": calls} if calls else out


def _result(block: dict[str, Any], place: str) -> dict[str, Any]:
    content = block.get("content")
    text = "" if content is None else "\n".join(_texts(content, f"{place}.content"))
    failed = block.get("is_error")
    if not isinstance(failed, bool | None):
        raise bad("must be true or false", f"{place}.is_error")
    # a chat has no other way to say it
    text = f"Error: {text}" if failed else text
    return {"role": "tool", "tool_call_id": _string(block, "tool_use_id", place), "content": text}


def _texts(content: object, place: str) -> list[str]:
    texts = []
    for block, at in _blocks(content, place):
        if block["type"] != "text":
            raise _unreadable(at)
        texts.append(_string(block, "text", at))
    return texts


def _blocks(content: object, place: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The blocks of a content, each with its place; a text is one block."""
    if isinstance(content, str):
        yield {"type": "text", "text": content}, place
        return
    if not isinstance(content, list):
        raise bad("must be a text or a list of blocks", place)
    for index, block in enumerate(content):
        at = f"{place}.{index}"
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise bad("must be a block with a type", at)
        yield block, at


def _string(block: dict[str, Any], key: str, place: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise bad("must be a text", f"{place}.{key}")
    return value


def _unreadable(place: str) -> ApiError:
    return bad(
        "this model reads text only, no images, documents or other blocks", place, "unsupported_content"
    )


def _tools(given: object) -> list[dict[str, Any]]:
    if not isinstance(given, list):
        raise bad("must be a list", "tools")
    out = []
    for index, tool in enumerate(given):
        place = f"tools.{index}"
        if not isinstance(tool, dict):
            raise bad("must be an object", place)
        if tool.get("type", "custom") not in (None, "custom"):
            raise bad("this server has no tools of its own", f"{place}.type", "tools_not_supported")
        if not isinstance(tool.get("input_schema"), dict):
            raise bad("must be a JSON schema", f"{place}.input_schema")
        function = {key: tool.get(key) for key in ("name", "description")}
        out.append({"type": "function", "function": {**function, "parameters": tool["input_schema"]}})
    return out


def _choice(given: object) -> dict[str, Any]:
    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(kind, str) or kind not in (*_CHOICES, "tool"):
        raise bad("must be of type auto, any, tool or none", "tool_choice")
    alone = given.get("disable_parallel_tool_use")
    if not isinstance(alone, bool | None):
        raise bad("must be true or false", "tool_choice.disable_parallel_tool_use")
    out: dict[str, Any] = {"parallel_tool_calls": False} if alone else {}
    if kind != "tool":
        return {**out, "tool_choice": _CHOICES[kind]}
    return {
        **out,
        "tool_choice": {"type": "function", "function": {"name": _string(given, "name", "tool_choice")}},
    }


def _form(form: object) -> dict[str, Any]:
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        raise bad("must be of type json_schema", "output_config.format")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form.get("schema")}}
