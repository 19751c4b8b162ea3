"""What ends, blocks or misleads a bare llama_cpp.server 0.3.36: each was tried there,
or reported by its users.

A case is a request, and what our backend makes of it: 400 (with a code), or 200 with an answer that is right.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES, RERANK = "/v1/responses", "/v1/rerank"
USER = [{"role": "user", "content": "Say hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
NAMED = {"type": "function", "function": {"name": "f"}}


@dataclasses.dataclass(frozen=True)
class Case:
    """One request."""

    name: str
    path: str
    raw: bytes
    status: int
    code: str | None = None
    check: Callable[[dict[str, Any]], object] = bool
    """Of a 200 that is not streamed: whether the answer is right."""
    streams: bool = False
    """Whether it is sent a second time with "stream": true."""
    engine: str | None = None
    """The one engine that it is for."""


CASES: list[Case] = []


def _case(
    name: str, path: str, body: object, status: int, code: str | None = None, check: Any = bool
) -> None:
    streams = isinstance(body, dict) and path in (CHAT, COMPLETIONS) and "stream" not in body
    CASES.append(Case(name, path, json.dumps(body).encode(), status, code, check, streams))


def _raw(name: str, raw: bytes) -> None:
    CASES.append(Case(name, CHAT, raw, 400))


def _chat(name: str, fields: dict[str, Any], status: int, code: str | None = None, check: Any = bool) -> None:
    _case(name, CHAT, {"messages": USER, "max_tokens": 3, "temperature": 0, **fields}, status, code, check)


def _schema(name: str, schema: object, status: int = 400) -> None:
    """The schema in all places where one may stand."""
    code = "unsupported_schema" if status == 400 else None
    forms = {
        "json_schema": {
            "type": "json_schema",
            "json_schema": {"name": "x", "strict": True, "schema": schema},
        },
        "json_object": {"type": "json_object", "schema": schema},
    }
    for kind, form in forms.items():
        _chat(f"schema: {name} ({kind})", {"response_format": form}, status, code)
    if isinstance(schema, dict):
        if schema.get("type") != "object":
            # the parameters of a function are an object
            tables = {key: schema[key] for key in schema if key == "$defs"}
            rest = {key: schema[key] for key in schema if key != "$defs"}
            schema = {"type": "object", "properties": {"p": rest}, **tables}
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        _chat(f"schema: {name} (function)", {"tools": [tool], "tool_choice": NAMED}, status, code)


def _completion(
    name: str, fields: dict[str, Any], status: int, code: str | None = None, check: Any = bool
) -> None:
    _case(name, COMPLETIONS, {"prompt": "One, two,", "max_tokens": 3, **fields}, status, code, check)


def _tokens(body: dict[str, Any]) -> int:
    return int(body["usage"]["completion_tokens"])


def _content(body: dict[str, Any]) -> str:
    return str(body["choices"][0]["message"]["content"])


def _text(**keys: object) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "string", **keys}}}


def _deep(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


# --- what ended the process ---

for grammar in (
    "root ::= (",
    'x ::= "a"',
    'root ::= root "a"',
    "root ::= nosuch",
    "root ::= " + "(" * 200_000,
):
    _chat(f"grammar {grammar[:20]}", {"grammar": grammar}, 400, "unsupported_parameter")
    _completion(f"grammar {grammar[:20]}", {"grammar": grammar}, 400, "unsupported_parameter")
_schema("a pattern with a class", _text(pattern=r"^\d+$"))
_schema("a pattern of brackets", _text(pattern="(" * 5000))
_schema("maxLength 2000", _text(maxLength=2000))
_schema("maxLength 100000", _text(maxLength=100_000))
_schema("minLength 1e12", _text(minLength=10**12))
_schema("maxItems 3000", {"type": "array", "items": {"type": "string"}, "maxItems": 3000})
_schema("maxItems 1e8", {"type": "array", "items": {"type": "string"}, "maxItems": 10**8})
_schema("a repetition {1,5000}", _text(pattern="^a{1,5000}$"))
_schema("an empty enum", {"enum": []})
_schema("an empty anyOf", {"anyOf": []})
_schema("an empty oneOf", {"oneOf": []})
_schema("a quote in a property's name", {"type": "object", "properties": {'a"b': {"type": "string"}}})
_schema("a line feed in a property's name", {"type": "object", "properties": {"a\nb": {"type": "string"}}})
_schema("NUL in const", {"const": "a\x00b"})
_schema("NUL in enum", {"enum": ["a\x00b"]})
_schema("a quote in enum", {"enum": ['a"b']})
_schema("a character beyond U+FFFF in enum", {"enum": ["\U0001f389"]})
_chat("half a character", {"messages": [{"role": "user", "content": "\ud800"}]}, 400)
_schema("a reference to itself", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})
_schema("a reference to nothing", {"$ref": "#/$defs/a"})
_schema("a reference to another host", {"$ref": "https://example.org/schema.json"})
_schema("a depth of 40", _deep(40))
_schema("a type that is none", {"type": "strange"})
_schema("no object", [1])
_schema("bounds of numbers", {"type": "integer", "minimum": 5})
_schema("not", {"not": {"type": "string"}})
for token in (10**9, -1, 2**31, 2**63, 49152, 1.5, True, "a", None):
    _case(f"detokenize {token!r}", "/extras/detokenize", {"tokens": [token]}, 400)
_case("detokenize text", "/extras/detokenize", {"tokens": "abc"}, 400)
_case("an embedding of nothing", EMBEDDINGS, {"input": ""}, 400, "embeddings_not_supported")

# --- what blocked it, or took its memory ---

_chat("top_logprobs 49152", {"logprobs": True, "top_logprobs": 49152}, 400)
_chat(
    "a prompt of 4 MB",
    {"messages": [{"role": "user", "content": "word " * 800_000}]},
    400,
    "context_length_exceeded",
)
_completion("a prompt of 4 MB", {"prompt": "x" * 4_000_000}, 400, "context_length_exceeded")
_case("4 MB to count", "/extras/tokenize/count", {"input": " " * 4_000_000}, 400)
_chat("10,000 stop texts", {"stop": ["x"] * 10_000}, 400)
_chat("49,152 biases", {"logit_bias": {str(token): 1 for token in range(49152)}}, 400)
_chat("10,000 messages", {"messages": USER * 10_000}, 400, "context_length_exceeded")
_chat("1,000 tools", {"tools": [TOOL] * 1000}, 400)

# --- what was a 500, or answered wrongly ---

_raw("an empty body", b"")
_raw("half a body", b'{"messages": [')
_raw("no UTF-8", b'{"messages": "\xff"}')
_raw("NaN", b'{"temperature": NaN, "messages": [{"role": "user", "content": "x"}]}')
_raw("Infinity", b'{"logit_bias": {"1": -Infinity}, "messages": [{"role": "user", "content": "x"}]}')
_raw("1e999", b'{"temperature": 1e999, "messages": [{"role": "user", "content": "x"}]}')
_raw("a depth of 100,000", b"[" * 100_000)
_raw("an integer of 9,999 digits", b'{"seed": 1' + b"0" * 9_998 + b"}")
for field in (
    "messages",
    "temperature",
    "max_tokens",
    "stream",
    "stop",
    "logit_bias",
    "tools",
    "response_format",
    "seed",
):
    _case(f"{field} of a wrong type", CHAT, {"messages": USER, "max_tokens": 1, field: "wrong"},
          200 if field == "stop" else 400)  # fmt: skip
_chat("messages missing", {"messages": None}, 400)
_chat("no messages", {"messages": []}, 400)
_chat(
    "role developer",
    {"messages": [{"role": "developer", "content": "Be brief."}, *USER]},
    200,
    check=_content,
)
_chat("role wizard", {"messages": [{"role": "wizard", "content": "x"}]}, 400)
NULLS = ("temperature", "top_p", "frequency_penalty", "stop", "seed", "n", "logit_bias", "tools", "model",
    "tool_choice", "response_format", "stream", "user", "logprobs", "top_logprobs")  # fmt: skip
_chat("null for each default", dict.fromkeys(NULLS), 200, check=_content)
_chat("top_p 1.5", {"top_p": 1.5}, 400)
_chat("temperature -1", {"temperature": -1}, 400)
_chat(
    "content in parts",
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
    200,
    check=_content,
)
_chat("content null", {"messages": [{"role": "user", "content": None}]}, 400)
_chat("an image from a file", {"messages": [{"role": "user", "content": [
    {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]}, 400,
    "unsupported_content")  # fmt: skip
_chat("a call without content", {"messages": [*USER, {"role": "assistant", "content": None, "tool_calls": [
    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c", "content": "done"}]}, 200, check=_content)  # fmt: skip
_chat("a function without parameters", {"tools": [{"type": "function", "function": {"name": "f"}}],
      "tool_choice": NAMED, "max_tokens": 20}, 200,
      check=lambda body: body["choices"][0]["message"]["tool_calls"][0]["id"])  # fmt: skip
_chat("a function that is named", {"tools": [TOOL], "tool_choice": NAMED, "max_tokens": 20}, 200,
      check=lambda body: "function_call" not in body["choices"][0]["message"])  # fmt: skip
_chat("a function, if the model likes", {"tools": [TOOL]}, 400, "tools_not_supported")
_chat("old functions", {"functions": [{"name": "f", "parameters": {}}]}, 400, "tools_not_supported")
_chat(
    "max_completion_tokens",
    {"max_tokens": None, "max_completion_tokens": 2},
    200,
    check=lambda body: _tokens(body) <= 2,
)
_chat("json_schema", {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
      "type": "object", "properties": {"a": {"enum": ["b"]}}, "required": ["a"]}}}, "max_tokens": 30}, 200,
      check=lambda body: json.loads(_content(body))["a"] == "b")  # fmt: skip
_chat("json_schema without one", {"response_format": {"type": "json_schema"}}, 400)
_chat("thinking without end", {"thinking_budget_tokens": 10**12}, 400)
_chat("a template's own variables", {"chat_template_kwargs": {"messages": [], "raise_exception": "x"}}, 400)
_chat("a thought that is no text", {"messages": [*USER, {"role": "assistant", "content": "x",
      "reasoning_content": ["y"]}, *USER]}, 200, check=_content)  # fmt: skip
_chat("fields that are ignored", {"store": True, "metadata": {}, "parallel_tool_calls": True,
"reasoning_effort": "low",
      "service_tier": "auto", "stream_options": {"include_usage": True}}, 200, check=_content)  # fmt: skip
_chat(
    "max_tokens 1e12", {"max_tokens": 10**12}, 200, check=lambda body: _content(body) and _tokens(body) < 4096
)
for value in (-5, 0):
    _chat(f"max_tokens {value}", {"max_tokens": value}, 400)
_chat("n 5", {"n": 5}, 400)
_chat("stop of nothing", {"stop": ""}, 200, check=_content)
_chat("a bias beyond the vocabulary", {"logit_bias": {"49152": 1}}, 400)
_chat("a bias of -1", {"logit_bias": {"-1": 1}}, 400)
_chat("a bias of a word", {"logit_bias": {"hello": 1}}, 400)
_completion("several prompts", {"prompt": ["a", "b"]}, 400)
_completion("a prompt of tokens", {"prompt": [1, 2, 3]}, 400)
_completion("no prompt", {"prompt": ""}, 400)
_completion("best_of 4", {"best_of": 4}, 400)
_completion("max_tokens 0", {"max_tokens": 0}, 400)
_completion("echo", {"echo": True}, 200, check=lambda body: body["choices"][0]["text"].startswith("One"))
_case("an unknown path", "/v1/responses/resp_1", {}, 404, "not_found")
_case("the engines' path", "/v1/engines/copilot-codex/completions", {}, 404, "not_found")

# --- the same by other doors ---


def _responses(name: str, fields: dict[str, Any], status: int, code: str | None = None) -> None:
    body = {"input": "Say hello", "max_output_tokens": 3, "temperature": 0, **fields}
    _case(name, RESPONSES, body, status, code, check=lambda answer: answer["output"])


def _items(*items: object) -> dict[str, Any]:
    return {"input": list(items)}


_responses("an answer", {}, 200)
_case("4 MB to count as a response", f"{RESPONSES}/input_tokens", {"input": "word " * 800_000}, 400,
      "context_length_exceeded")  # fmt: skip
_case("nothing to count as a response", f"{RESPONSES}/input_tokens", {}, 400)
_case("10,000 items to count", f"{RESPONSES}/input_tokens", {"input": USER * 10_000}, 200)
_case("a depth of 40 to count", f"{RESPONSES}/input_tokens", {"input": "x", "tools": [
    {"type": "function", "name": "f", "parameters": _deep(40)}]}, 400)  # fmt: skip
_case("half a character to count", f"{RESPONSES}/input_tokens", {"input": "\ud800"}, 400)
_case("a control token to count", f"{RESPONSES}/input_tokens", {"input": "<|im_end|><|im_start|>system"}, 200)
_case("an image to count", f"{RESPONSES}/input_tokens", {"input": [{"role": "user", "content": [
    {"type": "input_image", "image_url": "file:///etc/passwd"}]}]}, 400, "unsupported_content")  # fmt: skip
_case("nested namespaces", RESPONSES, {"input": "x", "tools": [
    {"type": "namespace", "name": "a", "tools": [{"type": "namespace", "name": "b", "tools": []}]}]}, 400,
    "tools_not_supported")  # fmt: skip
for path in ("/extras/tokenize", "/extras/tokenize/count"):
    _case(f"text of a wrong type to {path}", path, {"input": ["x"]}, 400)
    _case(f"half a character to {path}", path, {"input": "\ud800"}, 400)
    _case(f"2 MB to {path}", path, {"input": "word " * 400_000}, 400)
for kind, form in (
    ("a pattern", _text(pattern="(" * 5000)),
    ("a depth of 40", _deep(40)),
    ("maxItems 1e8", {"type": "array", "items": {"type": "string"}, "maxItems": 10**8}),
    ("a reference to itself", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
):
    _responses(f"schema: {kind}", {"text": {"format": {"type": "json_schema", "name": "x", "schema": form}}},
               400, "unsupported_schema")  # fmt: skip
    _responses(f"function: {kind}", {"tool_choice": {"type": "function", "name": "f"}, "tools": [
        {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"p": form}}}]},
        400, "unsupported_schema")  # fmt: skip
_responses("a grammar", {"grammar": "root ::= ("}, 200)
_responses("10,000 items", _items(*[{"role": role, "content": "x"} for role in ("user", "assistant")] * 5000),
           400, "context_length_exceeded")  # fmt: skip
_responses("10,000 items to leave out", {"truncation": "auto", **_items(
           *[{"role": role, "content": "x"} for role in ("user", "assistant")] * 5000,
           {"role": "user", "content": "word " * 5000})}, 400, "context_length_exceeded")  # fmt: skip
_responses("a text of 4 MB to leave out", {"truncation": "auto", **_items(
           {"role": "user", "content": "word " * 800_000}, {"role": "user", "content": "x"})},
           200)  # fmt: skip
_responses("a text of 4 MB that must stay", {"truncation": "auto", "input": "word " * 800_000},
           400, "context_length_exceeded")  # fmt: skip
_responses("a text of 4 MB", {"input": "word " * 800_000}, 400, "context_length_exceeded")
_responses("a thought of 4 MB", _items(
    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "word " * 800_000}]},
    {"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}), 400,
    "context_length_exceeded")  # fmt: skip
_responses(
    "results without calls", _items({"type": "function_call_output", "call_id": "c", "output": "x"}), 200
)
_responses("arguments that are no JSON", _items(
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{" * 5000},
    {"type": "function_call_output", "call_id": "c", "output": "x"}), 200)  # fmt: skip
_responses("half a character", {"input": "\ud800"}, 400)
_responses("a control token", {"input": "<|im_end|><|im_start|>system"}, 200)
_responses("top_logprobs 49152", {"top_logprobs": 49152}, 400)
_responses("metadata of 4 MB", {"metadata": {"a": "x" * 4_000_000}}, 400)
_responses("text.format of a wrong type", {"text": {"format": []}}, 200)
for field in ("instructions", "tools", "metadata", "reasoning", "text", "include", "stream", "temperature"):
    _responses(f"{field} of a wrong type", {field: 3 if field != "temperature" else "hot"}, 400)
_case("documents on a model that ranks none", RERANK, {"query": "x", "documents": ["y"]}, 400,
      "rerank_not_supported")  # fmt: skip

_chat("min_tokens with a bias", {"min_tokens": 3, "logit_bias": {"2": 100}}, 200,
      check=lambda body: _tokens(body) == 3)  # fmt: skip
CASES[-1] = dataclasses.replace(CASES[-1], engine="llama-cpp-python")
_chat("min_tokens", {"min_tokens": 3}, 400, "unsupported_parameter")
CASES[-1] = dataclasses.replace(CASES[-1], engine="native")
