"""Makes of a request what the model is to do: the tokens of its prompt, the grammar of its answer.

It needs the loaded model's vocabulary and template, but not the model: it is done before a request's turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from llmsvc.backend.bodies import Request
from llmsvc.backend.calls import Only, Syntax
from llmsvc.backend.llama_cpp_python import grammars
from llmsvc.backend.llama_cpp_python.completion import Task
from llmsvc.backend.llama_cpp_python.embeddings import Inputs
from llmsvc.backend.llama_cpp_python.templates import Template
from llmsvc.backend.messages import all_texts
from llmsvc.backend.problem import bad, too_long
from llmsvc.backend.tools import Tools
from llmsvc.backend.vocabulary import Tokenize, Vocabulary


@dataclasses.dataclass(frozen=True)
class Planner:
    """What a plan needs of the loaded model.

    :param together: whether inputs of embeddings may be read in one batch
    :param around: the tokens before and after a raw prompt
    :param fill: the tokens before a prefix, a suffix and the middle that is to be filled in, if there are
    """

    vocab: object
    vocabulary: Callable[[], Vocabulary]
    template: Template
    tokenize: Tokenize
    n_ctx: int
    n_batch: int
    together: bool
    around: tuple[list[int], list[int]]
    fill: tuple[int, int, int] | None

    def plan(self, request: Request) -> Task | Inputs:
        """The task of a request.

        :raises ApiError: 400, too long, refused by the template, or not to be held to its form
        """
        if request.inputs is not None:
            batches, tokens = self._batches(request.inputs)
            return Inputs(batches, request.base64, tokens)
        stops = list(request.stops)
        if request.messages is None:
            self._check([request.prompt, request.suffix or ""])
            prompt = self._raw_prompt(request)
        else:
            shown = request.tools.shown if request.tools else []
            self._check(all_texts([request.messages, shown]))
            rendered = self._rendered(request, request.messages, shown)
            prompt = self.tokenize(rendered.text.encode(), rendered.add_bos, True)
            stops += rendered.stops
        if not prompt:
            raise bad("the prompt is empty", "messages")
        if len(prompt) >= self.n_ctx and not request.only_counted:
            raise too_long(len(prompt), self.n_ctx, None)
        task = Task(
            prompt,
            stops,
            chat=request.messages is not None,
            stream=request.stream,
            named_stops=frozenset(request.stops),
            echo=request.prompt if request.echo else "",
            offset=0 if request.echo else len(request.prompt),
            logprobs=request.logprobs,
            min_tokens=request.min_tokens,
            bias=request.bias,
        )
        if request.tools:
            self._add_calls(task, request.tools)
        elif request.json:
            param = "response_format"
            text = grammars.of_schema(request.schema or {"type": "object"}, param)
            task.grammar = grammars.made(self.vocab, text, param)
        return task

    def _add_calls(self, task: Task, tools: Tools) -> None:
        syntax: Syntax | None = self.template.syntax
        if syntax is None and tools.forced:
            syntax = Only(next(iter(tools.forced)))
        if syntax is None:
            return
        task.syntax, task.functions, task.most_calls = syntax, tools.names, tools.most
        task.short_ids = self.template.short_ids
        if tools.forced:
            text = grammars.of_calls(syntax, tools.forced, several=tools.most > 1)
            task.grammar = grammars.made(self.vocab, text, "tools")

    def _rendered(self, request: Request, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
        arguments = request.thinking.template_arguments
        try:
            return self.template.render(messages, tools, arguments, self.vocabulary().protect)
        except Exception as error:  # a template can raise whatever it likes
            # a ValueError is what it says itself, as "roles must alternate"
            own = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
            said = str(error)[:200] if own else "it fails on them"
            refused = f"the chat template of this model does not take these messages: {said}"
            raise bad(refused, "messages") from error

    def _raw_prompt(self, request: Request) -> list[int]:
        first, last = self.around
        if request.suffix is None or self.fill is None:
            return [*first, *self.tokenize(request.prompt.encode(), False, True), *last]
        prefix, suffix, middle = self.fill
        before, behind = self._inside(request.prompt), self._inside(request.suffix)
        return [*first, prefix, *before, suffix, *behind, middle]

    def _inside(self, text: str) -> list[int]:
        """The tokens of a text in the middle: at a beginning some tokenizers would put a blank first."""
        start = self.tokenize("☺".encode(), False, False)
        tokens = self.tokenize(("☺" + text).encode(), False, False)
        return (
            tokens[len(start) :]
            if tokens[: len(start)] == start
            else self.tokenize(text.encode(), False, False)
        )

    def _batches(self, inputs: list[str]) -> tuple[list[list[str]], int]:
        """The texts parted into what the model can read at once, or it would cut them; their tokens."""
        batches: list[list[str]] = []
        room = tokens = 0
        for index, text in enumerate(inputs):
            self._check([text], self.n_batch + 1)
            if (count := len(self.tokenize(text.encode(), True, False))) > self.n_batch:
                raise too_long(count, self.n_batch, f"input[{index}]")
            if not count:
                raise bad("an input comes to nothing", f"input[{index}]")
            if count > room or not self.together:
                batches.append([])
                room = self.n_batch
            batches[-1].append(text)
            room -= count
            tokens += count
        return batches, tokens

    def _check(self, texts: Iterable[str], limit: int | None = None) -> None:
        """Refuses what is too long whatever its tokens are: making tokens of megabytes takes seconds."""
        texts, limit = list(texts), limit or self.n_ctx
        text_bytes = sum(len(text.encode()) for text in texts)
        if (fewest := self.vocabulary().fewest_tokens(text_bytes)) >= limit:
            raise too_long(fewest, limit, None)
        self.refuse_costly(texts)

    def refuse_costly(self, texts: list[str]) -> None:
        """Refuses what the tokenizer takes too long over.

        :raises ApiError: 400
        """
        if self.vocabulary().is_costly(texts):
            raise bad("too many of the characters that control tokens begin with, as '<'")
