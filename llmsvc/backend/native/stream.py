"""Reads the stream of one answer from llama.cpp's server, and makes it the chunks, or the whole, of ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from llmsvc.backend.bodies import Request
from llmsvc.backend.jobs import Job
from llmsvc.backend.logprobs import Entry
from llmsvc.backend.native.requests import Task
from llmsvc.backend.replies import Call, Reply

_FINISHES = {"limit": "length", "eos": "stop", "word": "stop"}
"""How /infill, which has no shape of OpenAI's, says why it ended."""


class Answer:
    """One answer. It counts the tokens in the job as they come."""

    def __init__(self, request: Request, task: Task, job: Job, model: str) -> None:
        self.reply = Reply(
            chat=request.messages is not None,
            model=model,
            with_logprobs=request.logprobs is not None,
            short_ids=False,
            offset=0 if request.echo else len(request.prompt),
        )
        self._request = request
        self._only = task.only
        self._job = job
        self._begun = False
        self._finish = ""
        self._entries: list[Entry] = []
        self._pending: list[Entry] = []
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: dict[int, Call] = {}

    def feed(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the client of a stream gets for an event."""
        self._count(event)
        if "prompt_progress" in event:
            return
        if "choices" not in event:
            event = {"choices": [_of_infill(event)]}
        for choice in event["choices"]:
            if not self._begun:
                self._begun = True
                yield from self.reply.begin()
                if self._request.echo:
                    yield self._content(self._request.prompt)
            yield from self._pieces(choice)

    def whole(self) -> dict[str, Any]:
        """The answer in one piece, after all events; its usage is still to be added."""
        calls = [self._calls[index] for index in sorted(self._calls)]
        text, thoughts = "".join(self._texts), "".join(self._thoughts)
        return self.reply.whole(text, calls, self._entries, self._finish, thoughts)

    def _pieces(self, choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
        delta = choice.get("delta") or {"content": choice.get("text")}
        self._pending += self._scored(choice.get("logprobs"))
        if thought := delta.get("reasoning_content"):
            self._thoughts.append(thought)
            yield self.reply.reasoning(thought)
        if text := delta.get("content"):
            yield self._argument(text) if self._only else self._content(text)
        for part in delta.get("tool_calls") or []:
            yield self._part(part)
        if finish := choice.get("finish_reason"):
            if self._pending:
                yield self._content("")
            yield self._end(finish)

    def _content(self, text: str) -> dict[str, Any]:
        self._texts.append(text)
        entries, self._pending = self._pending, []
        self._entries += entries
        return self.reply.content(text, entries)

    def _argument(self, text: str) -> dict[str, Any]:
        """The next piece of the arguments of the one call that the whole answer is."""
        assert self._only is not None
        first = not self._calls
        if first:
            self._calls[0] = self.reply.identified(Call(self._only, ""))
        call = self._calls[0]
        self._calls[0] = Call(call.name, call.arguments + text, call.id)
        named = {"id": call.id, "type": "function"} if first else {}
        name = {"name": call.name} if first else {}
        return self.reply.part_of_call(0, {**named, "function": {**name, "arguments": text}})

    def _part(self, part: dict[str, Any]) -> dict[str, Any]:
        index, function = int(part.get("index", 0)), part.get("function") or {}
        known = self._calls.get(index, Call("", "", None))
        self._calls[index] = Call(
            known.name + (function.get("name") or ""),
            known.arguments + (function.get("arguments") or ""),
            known.id or part.get("id"),
        )
        return self.reply.part_of_call(index, {key: part[key] for key in part if key != "index"})

    def _end(self, finish: str) -> dict[str, Any]:
        if self._only and self._calls and finish == "stop":
            finish = "tool_calls"
        if finish != "length" and not self._request.stops:
            # llama.cpp counts the token that ends an answer
            self._job.completion_tokens = max(self._job.completion_tokens - 1, 0)
        self._finish = finish
        return self.reply.end(finish)

    def _count(self, event: dict[str, Any]) -> None:
        job = self._job
        if progress := event.get("prompt_progress"):
            job.prompt_tokens = progress["total"]
            return
        timings = event.get("timings")
        if not timings or self._finish:
            return
        job.prompt_tokens = timings["cache_n"] + timings["prompt_n"]
        if timings["predicted_n"] > job.completion_tokens:
            job.last_token = time.monotonic()
            job.first_token = job.first_token or job.last_token
            job.completion_tokens = timings["predicted_n"]

    def _scored(self, logprobs: dict[str, Any] | None) -> list[Entry]:
        count = self._request.logprobs
        if not logprobs or count is None:
            return []
        return [
            Entry(
                bytes(item["bytes"]),
                item["logprob"],
                [(bytes(top["bytes"]), top["logprob"]) for top in item["top_logprobs"][:count]],
            )
            for item in logprobs["content"]
        ]


def _of_infill(event: dict[str, Any]) -> dict[str, Any]:
    scores = event.get("completion_probabilities")
    return {
        "text": event.get("content"),
        "finish_reason": _FINISHES.get(event.get("stop_type", ""), "stop") if event.get("stop") else None,
        "logprobs": {"content": scores} if scores else None,
    }
