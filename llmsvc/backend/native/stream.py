"""Reads the stream of one answer from llama.cpp's server, and makes it the chunks, or the whole, of ours."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

from llmsvc.backend.bodies import Request
from llmsvc.backend.jobs import Job
from llmsvc.backend.logprobs import Entry
from llmsvc.backend.native.requests import Task
from llmsvc.backend.replies import Call, Reply
from llmsvc.backend.stops import Stops


@dataclasses.dataclass(frozen=True)
class Text:
    """A piece of text, with its tokens where logprobs are wanted."""

    text: str
    entries: list[Entry]


@dataclasses.dataclass(frozen=True)
class Thought:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclasses.dataclass(frozen=True)
class Part:
    """A function call, or the next piece of one, in OpenAI's shape."""

    index: int
    call: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class End:
    """Why the answer is over."""

    finish: str


Piece = Text | Thought | Part | End


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
        self._stops = Stops(request.stops if request.tells_stop else [])
        self._counts_end = not task.body.get("stop")
        self._only = task.only
        self._is_call = task.is_call
        self._call_text = ""
        self._job = job
        self._begun = False
        self._called = False
        self._enough = False
        self.ended = False
        """Whether it is known why the answer is over."""
        self._held: list[Entry] = []
        """Of tokens whose text is still to come."""
        self._pieces: list[Piece] = []

    @property
    def stopped(self) -> bool:
        """Whether it is over for a reason of which the server knows nothing: a stop text, enough calls."""
        return self._stops.hit is not None or self._enough

    @property
    def used_up(self) -> bool:
        """Whether its tokens are as many as the job may have."""
        job = self._job
        return job.budget is not None and job.prompt_tokens + job.completion_tokens >= job.budget

    def feed(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Takes an event of the server's; yields what the client of a stream gets for it."""
        return self._chunks(self._read(event))

    def finish(self) -> Iterator[dict[str, Any]]:
        """What is left to say at the end; where the server has said none, it ends as at max_tokens."""
        return self._chunks(iter(()) if self.ended else self._cut())

    def _chunks(self, pieces: Iterator[Piece]) -> Iterator[dict[str, Any]]:
        for piece in pieces:
            if not self._request.stream:
                self._pieces.append(piece)
                continue
            if not self._begun:
                self._begun = True
                yield from self.reply.begin()
            if isinstance(piece, Text):
                yield self.reply.content(piece.text, piece.entries)
            elif isinstance(piece, Thought):
                yield self.reply.reasoning(piece.text)
            elif isinstance(piece, Part):
                yield self.reply.part_of_call(piece.index, piece.call)
            else:
                yield self.reply.end(piece.finish)

    def whole(self) -> dict[str, Any]:
        """The answer in one piece, after all events; its usage is still to be added."""
        texts = [piece for piece in self._pieces if isinstance(piece, Text)]
        thoughts = [piece.text for piece in self._pieces if isinstance(piece, Thought)]
        calls: dict[int, Call] = {}
        for piece in self._pieces:
            if isinstance(piece, Part):
                known, function = calls.get(piece.index, Call("", "")), piece.call.get("function") or {}
                calls[piece.index] = Call(
                    known.name + (function.get("name") or ""),
                    known.arguments + (function.get("arguments") or ""),
                    known.id or piece.call.get("id"),
                )
        finish = next((piece.finish for piece in self._pieces if isinstance(piece, End)), "stop")
        return self.reply.whole(
            "".join(piece.text for piece in texts),
            # one that is cut off is of no use
            [
                calls[index]
                for index in sorted(calls)
                if finish != "length" or _is_json(calls[index].arguments)
            ],
            [entry for piece in texts for entry in piece.entries],
            finish,
            "".join(thoughts),
        )

    def _read(self, event: dict[str, Any]) -> Iterator[Piece]:
        self._count(event)
        if "prompt_progress" in event:
            return
        for choice in event["choices"]:
            delta = choice.get("delta") or {"content": choice.get("text")}
            if self._request.echo and not self._begun and not self._pieces:
                yield Text(self._request.prompt, [])
            self._held += self._scored(choice.get("logprobs"))
            if thought := delta.get("reasoning_content"):
                self._job.reasoning_tokens = self._job.completion_tokens
                yield Thought(thought)
            if text := delta.get("content"):
                if self._is_call:
                    self._call_text += text
                elif self._only is not None:
                    yield self._text(text)
                else:
                    if text := self._stops.feed(text):
                        yield self._text(text)
                    if self._stops.hit is not None:
                        self._job.stopped_by = self._stops.hit
                        self.ended = True
                        yield End("stop")
                        return
            for part in delta.get("tool_calls") or []:
                # the server makes more than one under some templates, whatever it was asked for
                if self._request.tools and part["index"] >= self._request.tools.most:
                    self.ended = self._enough = True
                    yield End("tool_calls")
                    return
                yield Part(int(part["index"]), {key: value for key, value in part.items() if key != "index"})
            if finish := choice.get("finish_reason"):
                if (text := self._stops.end()) or self._held:
                    yield self._text(text)
                if self._is_call and finish != "length":
                    call = json.loads(self._call_text)
                    self._only = call["name"]
                    yield self._text(json.dumps(call["arguments"], ensure_ascii=False))
                yield self._end(finish)

    def _cut(self) -> Iterator[Piece]:
        if text := self._stops.end():
            yield self._text(text)
        yield End("length")

    def _text(self, text: str) -> Piece:
        if self._only is None:
            entries, self._held = self._held, []
            return Text(text, entries)
        # the whole answer is the arguments of the one call
        if self._called:
            return Part(0, {"function": {"arguments": text}})
        self._called = True
        call = self.reply.identified(Call(self._only, text))
        function = {"name": call.name, "arguments": call.arguments}
        return Part(0, {"id": call.id, "type": "function", "function": function})

    def _end(self, finish: str) -> End:
        self.ended = True
        if finish != "length" and self._counts_end:
            # the token that ends an answer
            self._job.completion_tokens = max(self._job.completion_tokens - 1, 0)
        return End("tool_calls" if self._called and finish == "stop" else finish)

    def _count(self, event: dict[str, Any]) -> None:
        job = self._job
        if progress := event.get("prompt_progress"):
            job.prompt_tokens = progress["total"]
            return
        timings = event.get("timings")
        if not timings or self.ended:
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


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
