"""The chat template of the loaded model: what it makes of messages, and whether it knows functions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import secrets
from collections.abc import Callable
from typing import Any

from llmsvc.backend import calls
from llmsvc.backend.llama_cpp_python import internals
from llmsvc.backend.messages import begun

_TOOL_USE = "chat_template.tool_use"
_PROBE = "probe_of_a_function"
_ARGUMENTS = {"probe_key": "probe_value"}
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}\Z")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A rendered chat, still text."""

    text: str
    add_bos: bool
    stops: list[str]


class Template:
    """Renders chats with what llama_cpp chose for the model.

    :param arguments: the model's CHAT_TEMPLATE_KWARGS
    """

    def __init__(self, llama: Any, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        named = llama.chat_format
        self._plain = self._with_tools = internals.chat_handler(llama, named)
        if not self._knows_tools() and f"tokenizer.{_TOOL_USE}" in llama.metadata:
            named = _TOOL_USE
            self._with_tools = internals.chat_handler(llama, named)
        texts = {
            key.removeprefix("tokenizer."): str(text)
            for key, text in llama.metadata.items()
            if key.startswith("tokenizer.chat_template")
        }
        self.source = "".join(texts.values())
        """The text of all templates in the GGUF; empty where there are none."""
        source = texts.get("chat_template" if named == "chat_template.default" else named, "")
        self.syntax = calls.syntax_of(source) if self._knows_tools() else None
        """How the model was taught to call functions; None where it was not, or in no syntax of ours."""
        self.short_ids = isinstance(self.syntax, calls.Mistral)
        """Whether ids of calls must be nine letters and digits."""
        self._objects = self.syntax is not None and self._wants_objects()

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        arguments: dict[str, Any],
        protect: Callable[[Any], Any],
    ) -> Prompt:
        """The prompt of a chat. A template may raise whatever it likes.

        :param arguments: what else it is told
        :param protect: Vocabulary.protect
        """
        has_calls = any("tool_calls" in message for message in messages)
        if self._objects and has_calls:
            messages = [_with_objects(message) for message in messages]
        if self.short_ids and has_calls:
            messages = [_with_short_ids(message) for message in messages]
        handler = self._with_tools if tools or has_calls else self._plain
        # only now: the JSON of arguments may hold control tokens in escapes
        messages, tools = protect(messages), protect(tools)
        if not (answer := begun(messages)):
            return self._render(handler, messages, tools, arguments)
        # it is written as a complete one, as some templates put more before it than they ask for, and cut off
        mark = secrets.token_hex(16)
        whole = self._render(handler, [*messages[:-1], {**messages[-1], "content": mark}], tools, arguments)
        text, found, _ = whole.text.rpartition(mark)
        if not found:
            raise ValueError("it cannot go on with an answer")
        return dataclasses.replace(whole, text=text + answer)

    def _render(
        self, handler: Any, messages: list[dict[str, Any]], tools: Any, arguments: dict[str, Any]
    ) -> Prompt:
        given = {**self._arguments, **arguments, **({"tools": tools} if tools else {})}
        text, add_bos, stops = internals.formatted(handler, messages=messages, **given)
        return Prompt(text, add_bos, stops)

    def _knows_tools(self) -> bool:
        parameters = {"type": "object", "properties": {"probe_key": {"type": "string"}}}
        function = {"name": _PROBE, "description": "", "parameters": parameters}
        text = self._probe([], [{"type": "function", "function": function}])
        return _PROBE in text

    def _wants_objects(self) -> bool:
        """Whether it wants the arguments of past calls as objects and not, as clients send them, as text."""
        as_text = self._probe(_called(json.dumps(_ARGUMENTS)), None)
        return '"probe_key"' not in as_text and '"probe_key"' in self._probe(_called(_ARGUMENTS), None)

    def _probe(self, more: list[dict[str, Any]], tools: Any) -> str:
        try:
            return self._render(self._with_tools, [{"role": "user", "content": "x"}, *more], tools, {}).text
        except Exception:  # whatever a template raises, it does not know what it was given
            return ""


def _called(arguments: object) -> list[dict[str, Any]]:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": _PROBE, "arguments": arguments}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "y", "tool_call_id": "abcdefghi", "name": _PROBE},
    ]


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in message:
        return message
    made = []
    for call in message["tool_calls"]:
        arguments = call["function"]["arguments"]
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError):
            value = arguments
        made.append({**call, "function": {**call["function"], "arguments": value}})
    return {**message, "tool_calls": made}


def _with_short_ids(message: dict[str, Any]) -> dict[str, Any]:
    out = dict(message)
    if "tool_calls" in out:
        out["tool_calls"] = [{**call, "id": _short(call["id"])} for call in out["tool_calls"]]
    if "tool_call_id" in out:
        out["tool_call_id"] = _short(out["tool_call_id"])
    return out


def _short(identity: str) -> str:
    return identity if _SHORT_ID.match(identity) else hashlib.sha256(identity.encode()).hexdigest()[:9]
