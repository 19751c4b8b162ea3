"""Writes a request anew for llama.cpp's server, from what the checks of all engines have passed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from typing import Any

from llmsvc.backend.bodies import Request
from llmsvc.backend.calls import Syntax
from llmsvc.backend.messages import all_texts, begun
from llmsvc.backend.native.slots import fingerprints
from llmsvc.backend.problem import ApiError, bad, too_long
from llmsvc.backend.schemas import safe
from llmsvc.backend.thinking import Thinking
from llmsvc.backend.tools import Tools
from llmsvc.backend.vocabulary import Vocabulary

_COMPLETION_TOKENS = 16
"""What a raw completion makes at most where its client does not say: OpenAI's default."""


@dataclasses.dataclass
class Task:
    """What the server is asked, and how its answer is read."""

    path: str
    body: dict[str, Any]
    prints: tuple[bytes, ...]
    """See slots.fingerprints()."""
    only: str | None = None
    """The function whose arguments the whole answer is."""
    is_call: bool = False
    """Whether the whole answer is one call, as JSON with `name` and `arguments`."""
    fill: tuple[str, str] | None = None
    """What stands before and behind the text that is wanted: the prompt is still to be made of it."""
    own: bool = False
    """Whether what its slot held was left by the same user, who may know how much of it helped."""
    hidden: Syntax | None = None
    """How the model writes calls, where none are wanted: what it writes so is left out."""
    inputs: list[str] | None = None
    """The texts that are read, of a request that writes none."""
    prompt_tokens: int | None = None
    """Known only as the server reads them: see budget.check()."""
    answers: bool = True


@dataclasses.dataclass(frozen=True)
class Planner:
    """What a plan needs of the loaded model."""

    vocabulary: Callable[[], Vocabulary]
    n_ctx: int
    can_call: bool
    syntax: Syntax | None
    """How its template writes calls; None where that is none of ours."""
    fewest_thoughts: int = 0
    """The least budget of tokens for thinking. With none for what the prompt has begun already, the rest of
    the mark before it would be taken for a thought."""

    def plan(self, request: Request) -> Task:
        """The task of a request.

        :raises ApiError: 400, too long, or not to be held to its form
        """
        if request.inputs is not None:
            for text in request.inputs:
                self.check([request.query or "", text])
            return Task(request.path, {}, (), inputs=request.inputs)
        common = self._sampling(request)
        if request.messages is None:
            return self._completion(request, common)
        task = self._chat(request, request.messages, common)
        if request.tools:
            self._add_tools(task, request.tools)
        elif request.json:
            task.body["response_format"] = _form(request.schema or {"type": "object"})
        return task

    def check(self, given: list[str]) -> None:
        """Refuses what is too long whatever its tokens are, and what the tokenizer takes too long over.

        :raises ApiError: 400
        """
        fewest = self.vocabulary().fewest_tokens(sum(len(text.encode()) for text in given))
        if fewest >= self.n_ctx:
            raise too_long(fewest, self.n_ctx, None)
        self.check_cost(given)

    def check_cost(self, given: list[str]) -> None:
        """Refuses what the tokenizer takes too long over.

        :raises ApiError: 400
        """
        if self.vocabulary().is_costly(given):
            raise bad("too many of the characters that control tokens begin with, as '<'")

    def _sampling(self, request: Request) -> dict[str, Any]:
        body = {key: value for key, value in request.body.items() if key not in _NOT_SAMPLING}
        if "mirostat_mode" in body:
            body["mirostat"] = body.pop("mirostat_mode")
        if "max_tokens" in body:
            body["max_tokens"] = min(body["max_tokens"], self.n_ctx)
        if request.bias:
            body["logit_bias"] = {str(token): value for token, value in request.bias.items()}
        # it does not say which one ended an answer: where that must be told, stream.py looks for them
        if request.stops and not request.tells_stop:
            body["stop"] = request.stops
        body["stream"] = body["return_progress"] = body["timings_per_token"] = True
        return body

    def _completion(self, request: Request, body: dict[str, Any]) -> Task:
        self.check([request.prompt, request.suffix or ""])
        body.setdefault("max_tokens", _COMPLETION_TOKENS)
        if request.logprobs is not None:
            body["logprobs"] = max(request.logprobs, 1)
        prints = fingerprints([request.prompt])
        if request.suffix is not None:
            return Task("/v1/completions", body, prints, fill=(request.prompt, request.suffix))
        body["prompt"] = request.prompt
        return Task("/v1/completions", body, prints)

    def _chat(self, request: Request, messages: list[dict[str, Any]], body: dict[str, Any]) -> Task:
        shown = request.tools.shown if request.tools else []
        self.check(list(all_texts([messages, shown])))
        body["messages"] = self.vocabulary().protect([_parsed(message) for message in messages])
        for message in body["messages"]:
            for call in message.get("tool_calls", []):
                call["function"]["arguments"] = _dumped(call["function"]["arguments"])
        if begun(messages):
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        body |= _of_thinking(request.thinking, self.fewest_thoughts)
        if request.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": max(request.logprobs, 1)}
        return Task("/v1/chat/completions", body, fingerprints(map(json.dumps, [*shown, *messages])))

    def _add_tools(self, task: Task, tools: Tools) -> None:
        if not tools.shown:
            # llama.cpp reads none then
            task.hidden = self.syntax
            return
        if self.can_call:
            task.body["tools"] = self.vocabulary().protect([_grammatical(tool) for tool in tools.shown])
            task.body["parallel_tool_calls"] = tools.most > 1
        if not tools.forced:
            return
        # llama.cpp's "required" is not kept to under every template; a schema is
        task.body["tool_choice"] = "none"
        if len(tools.forced) == 1:
            task.only, schema = next(iter(tools.forced.items()))
        else:
            task.is_call, schema = True, _schema_of_call(tools.forced)
        task.body["response_format"] = _form(schema)


def _of_thinking(thinking: Thinking, fewest: int) -> dict[str, Any]:
    form = None if thinking.apart is None else "deepseek" if thinking.apart else "none"
    found = {
        "chat_template_kwargs": thinking.template_arguments or None,
        "reasoning_effort": thinking.effort,
        "thinking_budget_tokens": None if thinking.tokens is None else max(thinking.tokens, fewest),
        "reasoning_format": form,
    }
    return {key: value for key, value in found.items() if value is not None}


_ANY_OBJECT = {"type": "object", "properties": {}, "additionalProperties": True}
_NOT_SAMPLING = {"messages", "model", "prompt", "input"}


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _schema_of_call(functions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The schema of a call of one of some functions."""
    choices: list[dict[str, Any]] = []
    tables: dict[str, dict[str, Any]] = {"$defs": {}, "definitions": {}}
    for name, schema in functions.items():
        arguments = dict(schema)
        for table, parts in tables.items():
            parts.update(arguments.pop(table, {}))
        properties = {"name": {"const": name}, "arguments": arguments}
        choices.append({"type": "object", "properties": properties, "required": list(properties)})
    return {**{table: parts for table, parts in tables.items() if parts}, "anyOf": choices}


def _grammatical(tool: dict[str, Any]) -> dict[str, Any]:
    """The tool, its parameters such that llama.cpp may make a grammar of them, which it does of all tools.

    What it cannot be trusted with becomes any object, and the schema a part of the description.
    """
    function = tool["function"]
    try:
        safe(function["parameters"], "tools")
    except ApiError:
        told = (
            f"{function['description']}\nJSON schema of its parameters: {json.dumps(function['parameters'])}"
        )
        return {**tool, "function": {**function, "description": told, "parameters": _ANY_OBJECT}}
    return tool


def _parsed(message: dict[str, Any]) -> dict[str, Any]:
    """The message with the arguments of its calls as objects: text may hold control tokens in escapes."""
    if "tool_calls" not in message:
        return message
    made: list[dict[str, Any]] = []
    for call in message["tool_calls"]:
        arguments = call["function"]["arguments"]
        with contextlib.suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
        made.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**message, "tool_calls": made}


def _dumped(arguments: object) -> str:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    # half a character in an escape is no text that can be sent
    return text.encode("utf-8", "replace").decode()
