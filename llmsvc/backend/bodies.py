"""Checks a request's JSON and writes it anew, field by field.

What reaches llama_cpp is only what stands here, in types and bounds that it can take. Null means "default",
as SDKs send it; a field that is unknown is left out.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from llmsvc.backend import fields, messages, sampling, thinking, tools
from llmsvc.backend.capabilities import CAPABILITIES, lacking
from llmsvc.backend.problem import ApiError, bad
from llmsvc.backend.schemas import safe
from llmsvc.backend.thinking import Thinking
from llmsvc.backend.tools import Tools
from llmsvc.backend.vocabulary import MARK

if TYPE_CHECKING:
    from llmsvc.backend.dialects.truncation import Conversation

MAX_TOP_LOGPROBS = 20
MAX_LOGPROBS = 5
MAX_INPUTS = 2048
MAX_TEXT_BYTES = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Model:
    """What of the loaded model decides whether a request can be served."""

    name: str
    file: str
    n_vocab: int
    embedding: bool = False
    ranks: bool = False
    """Whether it is a reranker."""
    prompt_logits: bool = False
    """Whether the logprobs of a prompt are to be had."""
    can_go_on: bool = False
    """Whether it can be kept from ending an answer."""
    can_call: bool = False
    """Whether it was taught to call functions, in a syntax that we read."""
    thinks: bool = False
    """Whether it thinks before it answers, and that is told apart."""
    can_fill: bool = False
    """Whether it was taught to fill in the middle of a text."""

    @property
    def capabilities(self) -> list[str]:
        """What it can be asked for, in the words of capabilities.CAPABILITIES."""
        writes = not (self.embedding or self.ranks)
        has = {
            "prompt_logprobs": self.prompt_logits,
            "min_tokens": self.can_go_on,
            "tools": self.can_call,
            "reasoning": self.thinks,
            "infill": self.can_fill,
        }
        return [
            name
            for name in CAPABILITIES
            if (name == "embeddings" and self.embedding)
            or (name == "rerank" and self.ranks)
            or (name not in ("embeddings", "rerank") and writes and has.get(name, True))
        ]


@dataclasses.dataclass(frozen=True)
class Request:
    """A request: what llama_cpp.server gets of it, and what we see to ourselves."""

    path: str
    body: dict[str, Any]
    """For llama_cpp.server: the sampling, and a prompt or input in name only."""
    messages: list[dict[str, Any]] | None = None
    prompt: str = ""
    suffix: str | None = None
    echo: bool = False
    inputs: list[str] | None = None
    """The texts to make embeddings of, or the documents to rank."""
    query: str | None = None
    """What documents are ranked by."""
    top: int = 0
    """How many of them the answer lists."""
    return_documents: bool = False
    base64: bool = False
    """Whether embeddings are sent as base64."""
    stops: list[str] = dataclasses.field(default_factory=list)
    logprobs: int | None = None
    """How many likeliest tokens to list for each token; None for no logprobs."""
    json: bool = False
    """Whether the answer must be a JSON object."""
    schema: dict[str, Any] | None = None
    """The JSON schema that the answer must keep to."""
    tools: Tools | None = None
    thinking: Thinking = dataclasses.field(default_factory=Thinking)
    min_tokens: int = 0
    bias: dict[int, float] = dataclasses.field(default_factory=dict)
    tells_stop: bool = False
    """Whether Job.stopped_by must be known, which costs some engines something."""
    only_counted: bool = False
    """Whether its prompt's tokens are only to be counted; they may be more than there is room for."""
    conversation: Conversation | None = None
    """What the messages were made of, where the oldest of them may be left out."""

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))


def parse(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body, without its nulls at the top.

    :raises ApiError: 400, not a JSON object in UTF-8 with finite numbers
    """
    try:
        # NaN, 1e999 and lone surrogates pass json.loads
        body = json.loads(raw)
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise bad("the body is not valid JSON in UTF-8") from None
    if not isinstance(body, dict):
        raise bad("the body must be a JSON object")
    return {key: value for key, value in body.items() if value is not None}


def chat(body: dict[str, Any], model: Model) -> Request:
    """/v1/chat/completions."""
    _need_text_model(model, "chat")
    check_model(body, model)
    out = sampling.of_app(body, model.name)
    out["messages"] = [{"role": "user", "content": ""}]
    chat_messages = messages.normalise(body.get("messages"))
    if set(fields.texts(body, "modalities", 10)) - {"text"} or "audio" in body:
        raise bad("this model answers in text only", "modalities")
    logprobs = (
        (fields.integer(body, "top_logprobs", 0, MAX_TOP_LOGPROBS) or 0)
        if fields.boolean(body, "logprobs")
        else None
    )
    wants_json, schema = _response_format(body)
    functions = tools.normalise(body, model.name, can_choose=model.can_call)
    if functions and wants_json:
        raise bad("tools and a response_format of JSON cannot be used together", "response_format")
    if functions and logprobs is not None:
        raise bad("logprobs cannot be had together with tools", "logprobs", "unsupported_parameter")
    rest = _ours(body, model)
    if rest["min_tokens"] and (wants_json or (functions and functions.forced)):
        # a form that is complete can only end
        raise bad("min_tokens cannot be used together with a form of the answer", "min_tokens")
    return Request(
        "/v1/chat/completions",
        out,
        messages=chat_messages,
        logprobs=logprobs,
        json=wants_json,
        schema=schema,
        tools=functions,
        thinking=thinking.wanted(body, model.name, thinks=model.thinks),
        **rest,
    )


def completion(body: dict[str, Any], model: Model) -> Request:
    """/v1/completions."""
    _need_text_model(model, "completions")
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt.strip(MARK):
        raise bad("prompt must be one text that is not empty", "prompt")
    suffix = body.get("suffix") or None
    if suffix is not None and not isinstance(suffix, str):
        raise bad("suffix must be a text", "suffix")
    if suffix is not None and not model.can_fill:
        raise lacking(model.name, "infill", "suffix")
    if body.get("best_of", 1) != 1:
        raise bad("best_of must be 1", "best_of")
    echo, logprobs = fields.boolean(body, "echo"), fields.integer(body, "logprobs", 0, MAX_LOGPROBS)
    if echo and logprobs is not None and not model.prompt_logits:
        raise lacking(model.name, "prompt_logprobs", "logprobs")
    check_model(body, model)
    out = sampling.of_app(body, model.name)
    out["prompt"] = ""
    return Request(
        "/v1/completions",
        out,
        prompt=prompt,
        suffix=suffix,
        echo=echo,
        logprobs=logprobs,
        **_ours(body, model),
    )


def embedding(body: dict[str, Any], model: Model) -> Request:
    """/v1/embeddings."""
    if not model.embedding:
        raise lacking(model.name, "embeddings")
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not 0 < len(texts) <= MAX_INPUTS:
        raise bad(f"input must be a text or a list of 1 to {MAX_INPUTS} texts", "input")
    if not all(isinstance(text, str) and text for text in texts):
        raise bad("input must consist of texts that are not empty", "input")
    encoding = body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise bad("encoding_format must be float or base64", "encoding_format")
    if "dimensions" in body:
        raise bad("dimensions cannot be chosen", "dimensions", "unsupported_parameter")
    check_model(body, model)
    body = {"model": model.name, "input": ""}
    return Request("/v1/embeddings", body, inputs=texts, base64=encoding == "base64")


def text(body: dict[str, Any]) -> str:
    """The input of /extras/tokenize and /extras/tokenize/count."""
    value = body.get("input")
    if not isinstance(value, str):
        raise bad("input must be a text", "input")
    # nothing can cancel the tokenizer, whose time grows with the square of a run of blanks
    if len(value.encode()) > MAX_TEXT_BYTES:
        raise bad(f"input may have at most {MAX_TEXT_BYTES} bytes", "input")
    return value


def tokens(body: dict[str, Any], model: Model) -> list[int]:
    """The tokens of /extras/detokenize."""
    value = body.get("tokens")
    if not isinstance(value, list) or not all(
        type(item) is int and 0 <= item < model.n_vocab for item in value
    ):
        raise bad(f"tokens must be a list of whole numbers from 0 to {model.n_vocab - 1}", "tokens")
    return value


def check_model(body: dict[str, Any], model: Model) -> None:
    """:raises ApiError: 404, it names another model than this one"""
    wanted = body.get("model", "")
    if not isinstance(wanted, str):
        raise bad("model must be a text", "model")
    if wanted not in ("", "current", model.name, model.file):
        raise ApiError(404, f"the model here is {model.name}", param="model", code="model_not_found")


def _ours(body: dict[str, Any], model: Model) -> dict[str, Any]:
    rest = sampling.ours(body, model.n_vocab)
    if rest["min_tokens"] and not model.can_go_on:
        raise lacking(model.name, "min_tokens", "min_tokens")
    return rest


def _response_format(body: dict[str, Any]) -> tuple[bool, dict[str, Any] | None]:
    """Whether the answer must be JSON, and of which schema."""
    wanted = body.get("response_format", {"type": "text"})
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "text":
        return False, None
    if kind == "json_object":
        schema, param = wanted.get("schema"), "response_format.schema"
    elif kind == "json_schema" and isinstance(wanted.get("json_schema"), dict):
        schema, param = wanted["json_schema"].get("schema"), "response_format.json_schema.schema"
    else:
        raise bad("response_format must be of type text, json_object or json_schema", "response_format")
    return True, None if schema is None else safe(schema, param)


def _need_text_model(model: Model, capability: str) -> None:
    if model.embedding:
        raise lacking(f"{model.name} makes embeddings only (POST /v1/embeddings) and", capability)
    if model.ranks:
        raise lacking(f"{model.name} ranks documents only (POST /v1/rerank) and", capability)
