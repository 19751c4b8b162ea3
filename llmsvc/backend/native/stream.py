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
from llmsvc.backend.parser import Parser
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
class End:
    """Why the answer is over."""

    finish: str


Piece = Text | Thought | Call | End


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
        self._own = task.own
        self._call_text = ""
        self._open: dict[int, Call] = {}
        """Function calls that are not complete yet, by their place."""
        names = request.tools.names if request.tools else frozenset[str]()
        self._parser = Parser(task.hidden, names, 0) if task.hidden else None
        self._job = job
        self._begun = False
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

    def _cut(self) -> Iterator[Piece]:
        yield from self._rest("length")
        yield End("length")

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
            elif isinstance(piece, Call):
                yield self.reply.call(piece)
            else:
                yield self.reply.end(piece.finish)

    def whole(self) -> dict[str, Any]:
        """The answer in one piece, after all events; its usage is still to be added."""
        texts = [piece for piece in self._pieces if isinstance(piece, Text)]
        thoughts = [piece.text for piece in self._pieces if isinstance(piece, Thought)]
        finish = next((piece.finish for piece in self._pieces if isinstance(piece, End)), "stop")
        return self.reply.whole(
            "".join(piece.text for piece in texts),
            [piece for piece in self._pieces if isinstance(piece, Call)],
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
                yield from self._content(text)
                if self._stops.hit is not None:
                    self._job.stopped_by = self._stops.hit
                    yield from self._parsed_rest(cut=False)
                    self.ended = True
                    yield End("stop")
                    return
            for part in delta.get("tool_calls") or []:
                # the server makes more than one under some templates, whatever it was asked for
                if self._request.tools and part["index"] >= self._request.tools.most:
                    yield from self._rest("tool_calls")
                    self.ended = self._enough = True
                    yield End("tool_calls")
                    return
                yield from self._add(part)
            if finish := choice.get("finish_reason"):
                yield from self._rest(finish)
                yield self._end(finish)

    def _content(self, text: str) -> Iterator[Piece]:
        if self._is_call:
            self._call_text += text
        elif self._only is not None:
            # the whole answer is the arguments of the one call
            known = self._open.get(0) or Call(self._only, "")
            self._open[0] = dataclasses.replace(known, arguments=known.arguments + text)
        elif text := self._stops.feed(text):
            yield from self._text(text)

    def _text(self, text: str) -> Iterator[Piece]:
        if self._parser is not None:
            for found in self._parser.feed(text):
                assert isinstance(found, str)
                yield Text(found, [])
        else:
            entries, self._held = self._held, []
            yield Text(text, entries)

    def _add(self, part: dict[str, Any]) -> Iterator[Call]:
        """Takes a piece of a call; yields those before it, which are complete now."""
        index, function = int(part["index"]), part.get("function") or {}
        for before in sorted(place for place in self._open if place < index):
            yield self._open.pop(before)
        known = self._open.get(index, Call("", ""))
        self._open[index] = Call(
            known.name + (function.get("name") or ""),
            known.arguments + (function.get("arguments") or ""),
            known.id or part.get("id"),
        )

    def _rest(self, finish: str) -> Iterator[Piece]:
        """What was held back until the end."""
        if (text := self._stops.end()) or self._held:
            yield from self._text(text)
        yield from self._parsed_rest(cut=finish == "length")
        if self._is_call and finish != "length":
            call = json.loads(self._call_text)
            self._open[0] = Call(call["name"], json.dumps(call["arguments"], ensure_ascii=False))
        for index in sorted(self._open):
            # one that is cut off is of no use
            if finish != "length" or _is_json(self._open[index].arguments):
                yield self._open[index]

    def _parsed_rest(self, *, cut: bool) -> Iterator[Text]:
        for found in self._parser.end(cut=cut) if self._parser else ():
            assert isinstance(found, str)
            yield Text(found, [])

    def _end(self, finish: str) -> End:
        self.ended = True
        if finish != "length" and self._counts_end:
            # the token that ends an answer
            self._job.completion_tokens = max(self._job.completion_tokens - 1, 0)
        return End("tool_calls" if self._open and finish == "stop" else finish)

    def _count(self, event: dict[str, Any]) -> None:
        job = self._job
        if progress := event.get("prompt_progress"):
            job.prompt_tokens = progress["total"]
            return
        timings = event.get("timings")
        if not timings or self.ended:
            return
        job.prompt_tokens = timings["cache_n"] + timings["prompt_n"]
        if self._own:
            job.cached_tokens = timings["cache_n"]
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
