"""Words an answer as Anthropic does: blocks of text, thoughts and calls, and events for each step of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from llmsvc.backend.answers import encode
from llmsvc.backend.dialects.anthropic import objects
from llmsvc.backend.jobs import Job
from llmsvc.backend.problem import ApiError

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_EMPTY: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


class Answer:
    """See dialects.Answer."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._begun = False
        self._finish = "stop"
        self._blocks = 0
        self._open: str | int | None = None
        """The block that is being sent: `text`, `thinking` or the number of a call."""

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """See dialects.Answer."""
        (choice,) = answer["choices"]
        message = choice["message"]
        content: list[dict[str, Any]] = []
        if thought := message.get("reasoning_content"):
            content.append({**_EMPTY["thinking"], "thinking": thought})
        if text := message["content"]:
            content.append({"type": "text", "text": text})
        for call in message.get("tool_calls", []):
            given = _arguments(call["function"]["arguments"])
            content.append(
                {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": given}
            )
        self._finish = choice["finish_reason"]
        return self._message(answer, content, self._stop(), self._usage())

    def events(self, chunk: bytes) -> bytes:
        """See dialects.Answer."""
        parsed = json.loads(chunk.removeprefix(b"data: "))
        return b"".join(map(_event, self._steps(parsed)))

    def end(self, problem: ApiError | None) -> Iterator[bytes]:
        """See dialects.Answer."""
        if problem is not None:
            problem.usage = self._job.usage()
            yield _event(objects.error(problem, self._job.request_id))
            return
        for event in self._close():
            yield _event(event)
        yield _event({"type": "message_delta", "delta": self._stop(), "usage": self._usage()})
        yield _event({"type": "message_stop"})

    def _steps(self, chunk: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not self._begun:
            self._begun = True
            # what the answer takes is said at its end
            usage = {**self._usage(), "output_tokens": 0}
            stop = {"stop_reason": None, "stop_sequence": None}
            yield {"type": "message_start", "message": self._message(chunk, [], stop, usage)}
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if thought := delta.get("reasoning_content"):
                yield from self._piece("thinking", _EMPTY["thinking"], "thinking_delta", "thinking", thought)
            if text := delta.get("content"):
                yield from self._piece("text", _EMPTY["text"], "text_delta", "text", text)
            for call in delta.get("tool_calls") or []:
                yield from self._call(call)
            self._finish = choice.get("finish_reason") or self._finish

    def _call(self, call: dict[str, Any]) -> Iterator[dict[str, Any]]:
        function = call.get("function") or {}
        block: dict[str, Any] = {
            "type": "tool_use",
            "id": call.get("id"),
            "name": function.get("name"),
            "input": {},
        }
        yield from self._piece(
            call["index"], block, "input_json_delta", "partial_json", function.get("arguments") or ""
        )

    def _piece(
        self, which: str | int, block: dict[str, Any], kind: str, key: str, text: str
    ) -> Iterator[dict[str, Any]]:
        """A piece of a block, which begins where another one was open until now."""
        if self._open != which:
            yield from self._close()
            self._open = which
            yield {"type": "content_block_start", "index": self._blocks, "content_block": block}
        if text:
            delta = {"type": kind, key: text}
            yield {"type": "content_block_delta", "index": self._blocks, "delta": delta}

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open is None:
            return
        if self._open == "thinking":
            # there is none, but clients wait for it
            delta = {"type": "signature_delta", "signature": ""}
            yield {"type": "content_block_delta", "index": self._blocks, "delta": delta}
        yield {"type": "content_block_stop", "index": self._blocks}
        self._open = None
        self._blocks += 1

    def _message(
        self,
        answer: dict[str, Any],
        content: list[dict[str, Any]],
        stop: dict[str, Any],
        usage: dict[str, int],
    ) -> dict[str, Any]:
        return {
            "id": f"msg_{answer['id'].rpartition('-')[2]}",
            "type": "message",
            "role": "assistant",
            "model": answer["model"],
            "content": content,
            **stop,
            # last, for those who look for it from the end
            "usage": usage,
        }

    def _stop(self) -> dict[str, Any]:
        if self._finish == "stop" and self._job.stopped_by is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": self._job.stopped_by}
        return {"stop_reason": _REASONS[self._finish], "stop_sequence": None}

    def _usage(self) -> dict[str, int]:
        return objects.usage(self._job.usage())


def _event(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encode(event))


def _arguments(text: str) -> dict[str, Any]:
    """The arguments of a call as an object, which is all that Anthropic has."""
    with contextlib.suppress(ValueError, RecursionError):
        given = json.loads(text)
        if isinstance(given, dict):
            return given
    return {}
