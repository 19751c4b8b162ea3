"""One answer, token by token: takes the place of Llama._create_completion.

That one makes the whole text anew for each token, cuts tokens of more than 32 bytes, sorts the vocabulary in
Python for logprobs, and counts nothing. The sampling stays llama_cpp's: Llama.generate.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

from llmsvc.backend.calls import Syntax
from llmsvc.backend.jobs import Job
from llmsvc.backend.llama_cpp_python import logits
from llmsvc.backend.logprobs import Entry
from llmsvc.backend.parser import Parser
from llmsvc.backend.replies import Call, Reply
from llmsvc.backend.texts import Text

SAMPLING = {
    "temperature": "temp",
    **{
        key: key
        for key in (
            "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty",
            "mirostat_mode", "mirostat_tau", "mirostat_eta",
        )
    },
}  # fmt: skip
"""What llama_cpp.server's app hands to create_completion, and how generate calls it."""


@dataclasses.dataclass
class Task:
    """What an answer is made of, all but the sampling and the length, which come from the app."""

    prompt: list[int]
    stops: list[str]
    """Those of the client, and the template's."""
    chat: bool
    stream: bool
    grammar: Any = None
    """A LlamaGrammar, or None."""
    named_stops: frozenset[str] = frozenset()
    """Those of the client."""
    echo: str = ""
    """What a raw completion repeats before its text."""
    offset: int = 0
    """The characters of the prompt that are not repeated."""
    logprobs: int | None = None
    """How many likeliest tokens to list for each token; None for no logprobs."""
    syntax: Syntax | None = None
    functions: frozenset[str] = frozenset()
    most_calls: int = 0
    short_ids: bool = False
    min_tokens: int = 0
    bias: dict[int, float] = dataclasses.field(default_factory=dict)
    answers: bool = True

    @property
    def prompt_tokens(self) -> int:
        """What the model will read."""
        return len(self.prompt)


@dataclasses.dataclass
class Source:
    """What an answer needs of the loaded source."""

    name: str
    n_ctx: int
    generate: Callable[..., Iterator[int]]
    set_seed: Callable[[int], None]
    text: Callable[[int], bytes]
    is_end: Callable[[int], bool]
    ends: Callable[[], list[int]]
    """All tokens that end an answer."""
    logits: Callable[[], Any]
    """The model's last output, a numpy array over the vocabulary."""
    prompt_logits: Callable[[int], Any]
    """Its output for the place of the prompt, where all are kept."""


def run(task: Task, job: Job, source: Source, given: dict[str, Any]) -> Iterator[dict[str, Any] | str]:
    """Generates the chunks of a stream; or leaves the whole answer in `job.answer`, and yields one text.

    :param given: what the app would hand to create_completion
    """
    reply = Reply(
        chat=task.chat,
        model=source.name,
        with_logprobs=task.logprobs is not None,
        short_ids=task.short_ids,
        offset=task.offset,
    )
    job.reply = reply
    pieces = _pieces(task, job, source, given)
    if not task.stream:
        job.answer = _whole(reply, pieces)
        yield ""
        return
    started = False
    for piece in pieces:
        if not started:
            started = True
            yield from reply.begin()
        if isinstance(piece, Call):
            yield reply.call(piece)
        elif isinstance(piece, Piece):
            yield reply.content(piece.text, piece.entries)
        else:
            yield reply.end(piece)


@dataclasses.dataclass
class Piece:
    """A piece of text, with the tokens in it where logprobs are wanted."""

    text: str
    entries: list[Entry]


def _whole(reply: Reply, pieces: Iterator[Piece | Call | str]) -> dict[str, Any]:
    texts: list[str] = []
    calls: list[Call] = []
    entries: list[Entry] = []
    finish = ""
    for piece in pieces:
        if isinstance(piece, Call):
            calls.append(piece)
        elif isinstance(piece, Piece):
            texts.append(piece.text)
            entries += piece.entries
        else:
            finish = piece
    return reply.whole("".join(texts), calls, entries, finish)


def _pieces(task: Task, job: Job, source: Source, given: dict[str, Any]) -> Iterator[Piece | Call | str]:
    """The answer in pieces; the last one is the reason for its end."""
    text = Text(source.text, task.stops)
    parser = Parser(task.syntax, task.functions, task.most_calls) if task.syntax else None
    entries: list[Entry] = []
    finish, echo = "length", task.echo
    for token in _tokens(task, job, source, given):
        if echo:
            yield Piece(echo, _prompt_entries(task, source))
            echo = ""
        if token is None:
            finish = "stop"
            break
        new = text.feed(token)
        if task.logprobs is not None:
            entries.append(logits.entry(source.logits(), token, task.logprobs, source.text))
        if parser:
            for found in parser.feed(new) if new else []:
                yield Piece(found, []) if isinstance(found, str) else found
            if parser.done:
                break
        elif new:
            yield Piece(new, entries)
            entries = []
        if text.stopped is not None:
            finish = "stop"
            job.stopped_by = text.stopped if text.stopped in task.named_stops else None
            break
    rest = "" if text.stopped is not None else text.end()
    if parser:
        left = parser.feed(rest) + ([] if parser.done else parser.end(cut=finish == "length"))
        for found in left:
            yield Piece(found, []) if isinstance(found, str) else found
        if parser.calls and (finish == "stop" or parser.done):
            finish = "tool_calls"
    elif rest or (entries and text.stopped is None):
        yield Piece(rest, entries)
    yield finish


def _tokens(task: Task, job: Job, source: Source, given: dict[str, Any]) -> Iterator[int | None]:
    """The tokens of the answer; None at the end that the model chose."""
    job.prompt_tokens = len(task.prompt)
    job.check()
    most = source.n_ctx - len(task.prompt)
    if job.budget is not None:
        most = min(most, job.budget - len(task.prompt))
    if 0 < (wanted := given.get("max_tokens") or 0) < most:
        most = wanted
    if given.get("seed") is not None:
        source.set_seed(given["seed"])
    sampling = {ours: given[theirs] for theirs, ours in SAMPLING.items() if theirs in given}
    if task.bias or task.min_tokens:
        sampling["logits_processor"] = [_biasing(task, job, source)]
    is_end = source.is_end
    for token in source.generate(task.prompt, grammar=task.grammar, **sampling):
        job.check()
        job.last_token = time.monotonic()
        if is_end(token):
            yield None
            return
        if not job.completion_tokens:
            job.first_token = job.last_token
        job.completion_tokens += 1
        yield token
        if job.finishing or job.completion_tokens >= most:
            return


def _biasing(task: Task, job: Job, source: Source) -> Callable[[Any, Any], Any]:
    tokens, values = list(task.bias), list(task.bias.values())
    ends = source.ends() if task.min_tokens else []

    def biased(_tokens: Any, scores: Any) -> Any:
        if tokens:
            scores[tokens] += values
        if job.completion_tokens < task.min_tokens:
            scores[ends] = -float("inf")
        return scores

    return biased


def _prompt_entries(task: Task, source: Source) -> list[Entry]:
    """The logprobs of a prompt that is echoed; its first token has none."""
    if task.logprobs is None:
        return []
    first, *rest = task.prompt
    found = [Entry(source.text(first), None, [])]
    for place, token in enumerate(rest):
        found.append(logits.entry(source.prompt_logits(place), token, task.logprobs, source.text))
    return found
