"""The objects of OpenAI's API that an answer consists of."""

from __future__ import annotations

import dataclasses
import secrets
import time
from typing import Any

from llmsvc.backend import logprobs
from llmsvc.backend.logprobs import Entry


@dataclasses.dataclass(frozen=True)
class Call:
    """One function call of an answer; `arguments` is JSON text."""

    name: str
    arguments: str
    id: str | None = None
    """None where the engine gives it none."""


class Reply:
    """Makes the chunks of one answer, or the whole of it.

    :param chat: whether it answers a chat, else a raw completion
    :param model: the name that the answer bears
    :param short_ids: whether the model knows ids of calls of nine characters only
    :param offset: the characters of text before the answer, for the logprobs of a raw completion
    """

    def __init__(self, *, chat: bool, model: str, with_logprobs: bool, short_ids: bool, offset: int) -> None:
        self._chat = chat
        self._with_logprobs = with_logprobs
        self._short_ids = short_ids
        self._id = f"{'chat' if chat else ''}cmpl-{secrets.token_hex(16)}"
        self._created = int(time.time())
        self._model = model
        self._places = logprobs.Places(offset)
        self._calls = 0

    def begin(self) -> list[dict[str, Any]]:
        """The chunks before the first content."""
        return [self._chunk({"role": "assistant", "content": ""})] if self._chat else []

    def content(self, text: str, entries: list[Entry]) -> dict[str, Any]:
        """A chunk of text."""
        return self._chunk({"content": text} if self._chat else text, self._logprobs(entries))

    def call(self, call: Call) -> dict[str, Any]:
        """A chunk that is a function call."""
        self._calls += 1
        return self._chunk({"tool_calls": [{"index": self._calls - 1, **self._call(call)}]})

    def reasoning(self, text: str) -> dict[str, Any]:
        """A chunk of what the model thinks before it answers."""
        return self._chunk({"reasoning_content": text})

    def end(self, finish: str) -> dict[str, Any]:
        """The chunk that says why the answer is over."""
        return self._chunk({} if self._chat else "", finish=finish)

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The chunk that OpenAI sends for stream_options.include_usage."""
        return self._object({"choices": [], "usage": usage}, stream=True)

    def whole(
        self, text: str, calls: list[Call], entries: list[Entry], finish: str, reasoning: str = ""
    ) -> dict[str, Any]:
        """The answer in one piece; its usage is still to be added."""
        choice: dict[str, Any] = {"index": 0}
        if self._chat:
            message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
            if reasoning:
                message["reasoning_content"] = reasoning
            if calls:
                message["tool_calls"] = [self._call(call) for call in calls]
            choice["message"] = message
        else:
            choice["text"] = text
        choice["logprobs"] = self._logprobs(entries)
        choice["finish_reason"] = finish
        return self._object({"choices": [choice]}, stream=False)

    def _chunk(
        self, content: dict[str, Any] | str, scores: dict[str, Any] | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        key = "delta" if self._chat else "text"
        choice = {"index": 0, key: content, "logprobs": scores, "finish_reason": finish}
        return self._object({"choices": [choice]}, stream=True)

    def _object(self, fields: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        kind = f"chat.completion{'.chunk' if stream else ''}" if self._chat else "text_completion"
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, **fields}

    def _logprobs(self, entries: list[Entry]) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        return logprobs.chat(entries) if self._chat else logprobs.completion(entries, self._places)

    def identified(self, call: Call) -> Call:
        """The call with an id."""
        made = secrets.token_hex(12)
        return dataclasses.replace(call, id=call.id or (made[:9] if self._short_ids else f"call_{made}"))

    def _call(self, call: Call) -> dict[str, Any]:
        return {
            "id": self.identified(call).id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
