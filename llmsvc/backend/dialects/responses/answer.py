"""Words an answer as the Responses API does: items of thought, text and calls, and events for each step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llmsvc.backend.answers import encode
from llmsvc.backend.dialects.responses import functions, objects
from llmsvc.backend.dialects.responses.items import Call, Item, Text, Thought
from llmsvc.backend.jobs import Job
from llmsvc.backend.problem import ApiError

Event = dict[str, Any]


class Answer:
    """See dialects.Answer.

    :param body: of the request
    """

    def __init__(self, body: dict[str, Any], job: Job) -> None:
        self._body = body
        self._namespaces = functions.apart(body)
        self._job = job
        self._response: objects.Response | None = None
        self._finish = "stop"
        self._number = 0
        self._items: list[Item] = []
        self._which: str | int | None = None
        """What the last item is: `text`, `thought` or the number of a call."""

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """See dialects.Answer."""
        (choice,) = answer["choices"]
        message = choice["message"]
        # as one event with all of it, of which nobody is told
        calls = [{**call, "index": index} for index, call in enumerate(message.get("tool_calls") or [])]
        whole = {**choice, "delta": {**message, "tool_calls": calls}}
        list(self._steps({**answer, "choices": [whole]}))
        list(self._close())
        assert self._response is not None
        return self._response.now(*self._outcome(), **self._reason(), usage=self._usage())

    def events(self, chunk: bytes) -> bytes:
        """See dialects.Answer."""
        return b"".join(map(self._event, self._steps(json.loads(chunk.removeprefix(b"data: ")))))

    def end(self, problem: ApiError | None) -> Iterator[bytes]:
        """See dialects.Answer."""
        assert self._response is not None
        if problem is not None:
            yield from self._failed(problem, self._response)
            return
        for event in self._close():
            yield self._event(event)
        status, output = self._outcome()
        response = self._response.now(status, output, **self._reason(), usage=self._usage())
        yield self._event({"type": f"response.{status}", "response": response})

    def _failed(self, problem: ApiError, response: objects.Response) -> Iterator[bytes]:
        problem.usage = None
        error = objects.named(problem).body()["error"]
        told = {key: error[key] for key in ("code", "message", "param")}
        # OpenAI's SDKs raise it for the object, others read what is beside that
        yield self._event({"type": "error", **told, "error": error})
        code = "rate_limit_exceeded" if problem.status == 429 else "server_error"
        failure = {"code": problem.code or code, "message": problem.message}
        output = [item.now("incomplete") for item in self._items]
        failed = response.now("failed", output, error=failure, usage=self._usage())
        yield self._event({"type": "response.failed", "response": failed})

    def _steps(self, chunk: dict[str, Any]) -> Iterator[Event]:
        if self._response is None:
            self._response = objects.Response(self._body, chunk["model"])
            begun = self._response.now("in_progress", [])
            yield {"type": "response.created", "response": begun}
            yield {"type": "response.in_progress", "response": begun}
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if thought := delta.get("reasoning_content"):
                yield from self._item("thought", Thought())
                yield from self._items[-1].add(thought)
            if text := delta.get("content"):
                yield from self._item("text", Text())
                yield from self._items[-1].add(text, (choice.get("logprobs") or {}).get("content") or [])
            for call in delta.get("tool_calls") or []:
                function = call.get("function") or {}
                if self._which != call["index"]:
                    known = function["name"]
                    namespace, name = self._namespaces.get(known, ("", known))
                    yield from self._item(call["index"], Call(call["id"], name, namespace))
                if arguments := function.get("arguments"):
                    yield from self._items[-1].add(arguments)
            self._finish = choice.get("finish_reason") or self._finish

    def _item(self, which: str | int, item: Item) -> Iterator[Event]:
        """Begins an item, where the last one is another."""
        if self._which == which:
            return
        if self._items:
            yield from self._items[-1].end("completed")
        item.place = len(self._items)
        self._which = which
        self._items.append(item)
        yield from item.begin()

    def _close(self) -> Iterator[Event]:
        """Ends the last item; an answer without any has an empty text."""
        if not self._items:
            yield from self._item("text", Text())
        yield from self._items[-1].end("incomplete" if self._finish == "length" else "completed")

    def _outcome(self) -> tuple[str, list[dict[str, Any]]]:
        status = "incomplete" if self._finish == "length" else "completed"
        return status, [item.now(status if item is self._items[-1] else "completed") for item in self._items]

    def _reason(self) -> dict[str, Any]:
        return {"incomplete_details": {"reason": "max_output_tokens"}} if self._finish == "length" else {}

    def _usage(self) -> dict[str, Any]:
        return objects.usage(self._job.usage())

    def _event(self, event: Event) -> bytes:
        told = {"type": event["type"], "sequence_number": self._number, **event}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encode(told))
