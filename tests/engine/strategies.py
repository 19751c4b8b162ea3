"""What the fuzzer sends: JSON that is valid, requests that often are, and JSON schemas of every kind."""

from __future__ import annotations

import json
import string
from typing import Any

from hypothesis import strategies as st

MOST_TOKENS = 4
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES, INPUT_TOKENS = "/v1/responses", "/v1/responses/input_tokens"
MESSAGES, COUNT_TOKENS = "/v1/messages", "/v1/messages/count_tokens"
RERANK = "/v1/rerank"
NASTY = [
    "", " ", "\n", "\x00", "a\x00b", '"', "\\", "\\u0000", "<|im_start|>system\n", "<|endoftext|>", "</s>",
    "🎉" * 9,
    "e\u0301", "\u202e", "\ufdd0", "\ufffd", "١٢", "'; --", "{{ 7 * 7 }}", "%s%n", "[]", "null",
    "a" * 3000,
    "\U0010ffff", "\r\n\r\n", "data: [DONE]", "root ::= (", "$ref", "#/$defs/a", "__proto__", "0" * 40,
]  # fmt: skip
NUMBERS = [
    0, -1, 1, 2, 0.5, 1.5, -0.0, 1e-300, 1e300, -1e300, 255, 256, 511, 512, 513, 2000, 65536, 49151, 49152,
    2**31 - 1,
    2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63, 2**64, -(2**63), 10**12, 10**30,
]  # fmt: skip
PATTERNS = [
    r"^\d+$", r"^[a-z]{3,5}$", "^(foo|bar)*$", "^[^\"]+$", "(((", "[", r"\p{L}+", r"^(?=a)b$", "a{1,5000}",
    ".*", "",
    r"(a+)+$", r"\b\w\b", r"^\S+@\S+\.\S+$", "^" + "a?" * 200 + "$", r"\u0041", "(" * 5000, r"[\]-]",
    "^[0-9a-f]{32}$",
]  # fmt: skip
FORMATS = ["date", "time", "date-time", "uuid", "email", "uri", "ipv4", "regex", "json-pointer", "x"]
KINDS = ["object", "array", "string", "number", "integer", "boolean", "null"]

texts = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=30), st.text(st.sampled_from(string.ascii_lowercase + " "),
    max_size=60)
)  # fmt: skip
numbers = st.one_of(
    st.sampled_from(NUMBERS), st.integers(-5, 600), st.floats(allow_nan=False, allow_infinity=False)
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
junk = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)
names = st.one_of(
    st.sampled_from(["a", "b", "name", "_id", "a b", "a.b", "a-b", "x1"]),
    st.sampled_from(['a"b', "", "ключ", "🎉", "a\nb", "a\\b", "$ref", "root", "string", "a" * 65, "\x00"]),
    st.text(min_size=1, max_size=6),
)
counts = st.one_of(
    st.integers(0, 8), st.sampled_from([100, 511, 512, 513, 2000, 3000, 100_000, 10**8, 10**12, -1])
)
references = st.sampled_from(
    ["#/$defs/a", "#/$defs/b", "#/definitions/a", "#", "#/properties/a", "https://example.org/x.json",
     "#/$defs/none", "file:///etc/passwd", "a", "#/$defs/a~1b", "../x", "#a"]
)  # fmt: skip


def _mostly(good: st.SearchStrategy[Any], *bad: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The first in seven of eight cases: one_of() gives each branch of each of them the same weight."""
    return st.integers(0, 7).flatmap(lambda dice: good if dice else st.one_of(*bad))


def _maybe(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with some of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


def _merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda dicts: {key: value for one in dicts for key, value in one.items()})


_notes = _maybe(
    title=texts, description=texts, default=junk, examples=st.lists(junk, max_size=2),
    format=st.sampled_from(FORMATS)
)  # fmt: skip
_leaves = st.one_of(
    st.sampled_from(KINDS).map(lambda kind: {"type": kind}),
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=3).map(lambda kinds: {"type": kinds}),
    _merged(st.just({"type": "string"}), _maybe(minLength=counts, maxLength=counts)),
    st.sampled_from(PATTERNS).map(lambda pattern: {"type": "string", "pattern": pattern}),
    st.sampled_from(FORMATS).map(lambda form: {"type": "string", "format": form}),
    _merged(
        st.sampled_from([{"type": "integer"}, {"type": "number"}]),
        _maybe(
            minimum=numbers, maximum=numbers, exclusiveMinimum=numbers, exclusiveMaximum=numbers,
            multipleOf=st.sampled_from([0, 1, 0.1, 3, -2]),
        ),
    ),
    st.lists(st.one_of(names, scalars, junk), max_size=5).map(lambda values: {"enum": values}),
    st.one_of(names, scalars, junk).map(lambda value: {"const": value}),
    references.map(lambda reference: {"$ref": reference}),
    st.booleans(),
    st.just({}),
)  # fmt: skip


def _inner(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    table = st.dictionaries(names, part, max_size=4)
    choices = st.lists(part, max_size=3)
    return st.one_of(
        _merged(
            st.just({"type": "object"}),
            _maybe(
                properties=table, required=st.lists(names, max_size=3), additionalProperties=part,
                patternProperties=st.dictionaries(st.sampled_from(PATTERNS), part, max_size=1),
                minProperties=counts,
                maxProperties=counts, propertyNames=part, dependentRequired=st.just({"a": ["b"]}),
            ),
        ),
        # as Pydantic and the SDKs write it
        table.map(
            lambda properties: {
                "type": "object", "properties": properties, "required": list(properties),
                "additionalProperties": False,
            }
        ),
        _merged(
            st.just({"type": "array"}),
            _maybe(
                items=part, minItems=counts, maxItems=counts, uniqueItems=st.booleans(), contains=part,
                prefixItems=choices,
            ),
        ),
        choices.map(lambda parts: {"anyOf": parts}),
        choices.map(lambda parts: {"oneOf": parts}),
        choices.map(lambda parts: {"allOf": parts}),
        part.map(lambda one: {"not": one}),
        st.tuples(part, part, part).map(lambda three: dict(zip(("if", "then", "else"), three, strict=True))),
        _merged(part.filter(lambda one: isinstance(one, dict)), _notes),
    )  # fmt: skip


_parts = st.recursive(_leaves, _inner, max_leaves=12)


def _nested(depth: int, kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = (
            {"properties": {"a": schema}}
            if kind == "object"
            else {kind: schema if kind == "items" else [schema]}
        )
    return schema


_deep = st.builds(
    _nested, st.sampled_from([3, 15, 16, 17, 60, 200]), st.sampled_from(["object", "items", "anyOf", "oneOf"])
)
_tables = _maybe(
    **{"$defs": st.dictionaries(st.sampled_from(["a", "b", "a/b"]), _parts, max_size=2)},
    definitions=st.dictionaries(st.just("a"), _parts, max_size=1),
)
schemas = st.one_of(
    _parts, _parts, _merged(_inner(_parts).filter(lambda one: isinstance(one, dict)), _tables), _deep
)
"""JSON schemas: nested, with references that end or not, patterns, enums, bounds out of all bounds."""

_plain_schemas = st.recursive(
    st.one_of(
        st.sampled_from(KINDS[2:]).map(lambda kind: {"type": kind}),
        st.builds(
            lambda n, m: {"type": "string", "minLength": n, "maxLength": n + m},
            st.integers(0, 6),
            st.integers(0, 6),
        ),
        st.lists(
            st.sampled_from(["red", "blue", 1, True, None, "ü"]), min_size=1, max_size=4, unique_by=repr
        ).map(lambda values: {"enum": values}),
        st.sampled_from(FORMATS[:4]).map(lambda form: {"type": "string", "format": form}),
    ),
    lambda part: st.one_of(
        st.dictionaries(st.sampled_from(["a", "b", "the name", "x_1"]), part, min_size=1, max_size=3).map(
            lambda table: {
                "type": "object", "properties": table, "required": list(table), "additionalProperties": False
            }
        ),
        st.builds(lambda item, n: {"type": "array", "items": item, "maxItems": n}, part, st.integers(0, 3)),
        st.lists(part, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
    ),
    max_leaves=6,
)  # fmt: skip

_messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "developer"]),
    "content": texts}),
    min_size=1,
    max_size=3,
)  # fmt: skip
_bad_messages = st.one_of(
    junk,
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "role": st.sampled_from(["user", "tool", "function", "assistant", "wizard", "", None, 1]),
                "content": st.one_of(
                    junk, st.just([{"type": "text", "text": "Hi"}]),
                    st.just([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]),
                ),
                "tool_calls": st.one_of(
                    junk, st.just([{"id": "1", "type": "function", "function": {"name": "f",
                    "arguments": "{"}}])
                ),
                "tool_call_id": texts,
                "name": texts,
            },
        ),
        max_size=3,
    ),
)  # fmt: skip
_tools = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["function", "function", "code_interpreter"]),
            "function": st.fixed_dictionaries(
                {"name": st.sampled_from(["f", "g", "get weather", ""])},
                optional={"parameters": schemas, "description": texts, "strict": st.booleans()},
            ),
        }
    ),
    max_size=3,
)  # fmt: skip
_choices = st.one_of(
    st.sampled_from(["auto", "none", "required", "x"]),
    st.sampled_from(["f", "g", "h"]).map(lambda name: {"type": "function", "function": {"name": name}}),
    junk,
)
_fractions = _mostly(st.sampled_from([0, 0.01, 0.3, 0.9, 1]), numbers)
_penalties = _mostly(st.sampled_from([-2, -0.5, 0, 0.7, 1, 2]), numbers)
_sampling = _maybe(
    temperature=_fractions, top_p=_fractions, min_p=_fractions, top_k=_mostly(st.integers(-1, 50), numbers),
    presence_penalty=_penalties, frequency_penalty=_penalties,
    repeat_penalty=_mostly(st.sampled_from([0.5, 1, 1.1]), numbers),
    seed=_mostly(st.integers(-2, 2**33), numbers), n=_mostly(st.just(1), numbers),
    mirostat_mode=_mostly(st.integers(0, 2), numbers), mirostat_tau=_fractions,
    mirostat_eta=_mostly(st.just(0.1), numbers), min_tokens=_mostly(st.integers(0, 9), numbers),
    stop=_mostly(st.one_of(texts, st.lists(texts, max_size=4)), st.lists(texts, max_size=20), junk),
    user=junk,
    logprobs=_mostly(st.one_of(st.booleans(), st.integers(0, 5)), numbers),
    top_logprobs=_mostly(st.integers(0, 20), numbers),
    stream_options=_mostly(st.just({"include_usage": True}), junk), grammar=texts, unknown=junk,
    reasoning_effort=_mostly(st.sampled_from(["none", "low", "high"]), junk),
    reasoning_format=_mostly(st.sampled_from(["auto", "none"]), junk),
    chat_template_kwargs=_mostly(st.fixed_dictionaries({"enable_thinking": st.booleans()}), junk),
    logit_bias=_mostly(
        st.dictionaries(st.integers(0, 49151).map(str), st.sampled_from([-100, -1, 0.5, 100]), max_size=5),
        st.dictionaries(st.one_of(st.integers(-1, 49160).map(str), texts), numbers, max_size=5),
        junk,
    ),
)  # fmt: skip


def _few(body: dict[str, Any]) -> dict[str, Any]:
    """The body, with so few tokens to make that 20,000 of them fit into the time there is."""
    for key in ("max_tokens", "max_completion_tokens"):
        value = body.get(key)
        # -1 is no limit
        if type(value) is int and (value == -1 or MOST_TOKENS < value < 10**30):
            body[key] = MOST_TOKENS
    if body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
        body["max_tokens"] = 2
    return body


def _some_of(fields: dict[str, Any], keep: list[str]) -> dict[str, Any]:
    return {key: fields[key] for key in fields if key in keep}


_few_fields = _sampling.flatmap(
    lambda fields: (
        st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True).map(
            lambda keep: _some_of(fields, keep)
        )
        if fields
        else st.just({})
    )
)
_some_tokens = _mostly(st.integers(1, MOST_TOKENS), numbers, junk)
_common = _maybe(
    stream=st.booleans(),
    max_tokens=_some_tokens,
    max_completion_tokens=_some_tokens,
    model=_mostly(st.sampled_from(["m", "current", ""]), texts),
)

chats = _merged(
    _mostly(_messages, _bad_messages).map(lambda messages: {"messages": messages}),
    _common,
    _few_fields,
    _mostly(st.just({}), _maybe(tools=st.one_of(_tools, junk), tool_choice=_choices, response_format=junk)),
).map(lambda body: (CHAT, _few(body)))

completions = _merged(
    _mostly(texts, junk, st.lists(texts, max_size=2), st.lists(st.integers(-1, 50000), max_size=9)).map(
        lambda prompt: {"prompt": prompt}
    ),
    _common,
    _few_fields,
    _mostly(st.just({}), _maybe(suffix=texts, echo=st.booleans(), best_of=numbers)),
).map(lambda body: (COMPLETIONS, _few(body)))

_parts = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["input_text", "output_text", "refusal", "summary_text", "input_image"])},
        optional={"text": texts, "refusal": texts, "annotations": junk},
    ),
    max_size=3,
)
_item = st.fixed_dictionaries(
    {
        "type": _mostly(
            st.sampled_from(["message", "function_call", "function_call_output", "reasoning"]), junk
        )
    },
    optional={
        "role": _mostly(st.sampled_from(["user", "assistant", "system", "developer"]), junk),
        "content": st.one_of(texts, _parts, junk),
        "summary": st.one_of(_parts, junk),
        "call_id": st.one_of(st.just("c"), texts),
        "name": st.one_of(st.just("f"), texts),
        "arguments": st.one_of(st.just("{}"), texts, junk),
        "output": st.one_of(texts, _parts, junk),
        "id": texts,
    },
)
_flat_tools = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["function", "function", "web_search"]),
            "name": st.sampled_from(["f", "g", "get weather", ""]),
        },
        optional={"parameters": schemas, "description": texts, "strict": st.booleans()},
    ),
    max_size=3,
)
_flat_choices = st.one_of(
    st.sampled_from(["auto", "none", "required", "x"]),
    st.sampled_from(["f", "g", "h"]).map(lambda name: {"type": "function", "name": name}),
    st.fixed_dictionaries({"type": st.just("allowed_tools"), "mode": junk, "tools": _flat_tools}),
    junk,
)


def _few_of_responses(body: dict[str, Any]) -> dict[str, Any]:
    value = body.get("max_output_tokens")
    if value is None or (type(value) is int and (value == -1 or MOST_TOKENS < value < 10**30)):
        body["max_output_tokens"] = MOST_TOKENS
    return body


responses = _merged(
    _mostly(
        st.one_of(texts, st.lists(_item, max_size=4)).map(lambda given: {"input": given}),
        st.fixed_dictionaries({"input": junk}),
    ),
    _maybe(
        stream=st.booleans(),
        max_output_tokens=_some_tokens,
        instructions=_mostly(texts, junk),
        truncation=_mostly(st.sampled_from(["auto", "auto", "disabled"]), junk),
    ),
    _few_fields,
    _mostly(
        st.just({}),
        _maybe(
            tools=st.one_of(_flat_tools, junk),
            tool_choice=_flat_choices,
            parallel_tool_calls=junk,
            text=st.one_of(junk, st.fixed_dictionaries({"format": junk})),
            reasoning=st.one_of(junk, st.fixed_dictionaries({"effort": junk})),
            metadata=junk,
            include=st.one_of(st.just(["message.output_text.logprobs"]), junk),
            previous_response_id=junk,
            background=junk,
        ),
    ),
).map(lambda body: (RESPONSES, _few_of_responses(body)))
"""(path, body): a request of the Responses API that often can be served."""

_block = st.fixed_dictionaries(
    {
        "type": _mostly(
            st.sampled_from(["text", "text", "tool_use", "tool_result", "thinking", "redacted_thinking"]),
            junk,
        )
    },
    optional={
        "text": _mostly(texts, junk), "thinking": _mostly(texts, junk), "signature": junk,
        "id": _mostly(st.just("c"), junk), "tool_use_id": _mostly(st.just("c"), junk),
        "name": _mostly(st.just("f"), texts, junk), "input": _mostly(st.just({"a": 1}), junk),
        "content": _mostly(texts, junk), "is_error": _mostly(st.booleans(), junk), "cache_control": junk,
    },
)  # fmt: skip
_blocks = _mostly(st.one_of(texts, st.lists(_block, max_size=3)), junk)
_schema_tools = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["f", "g", "get weather", ""])},
        optional={
            "input_schema": schemas,
            "description": texts,
            "type": st.sampled_from(["custom", "bash_1"]),
        },
    ),
    max_size=3,
)


def _few_of_messages(body: dict[str, Any]) -> dict[str, Any]:
    value = body.get("max_tokens")
    if type(value) is int and MOST_TOKENS < value < 10**30:
        body["max_tokens"] = MOST_TOKENS
    return body


messages = _merged(
    st.fixed_dictionaries(
        {
            "messages": _mostly(
                st.lists(
                    st.fixed_dictionaries(
                        {"role": _mostly(st.sampled_from(["user", "user", "assistant", "system"]), junk),
                         "content": _blocks}
                    ),
                    min_size=1,
                    max_size=4,
                ),
                junk,
            ),
            "max_tokens": _some_tokens,
        }
    ),
    _maybe(stream=st.booleans(), system=_blocks),
    _few_fields,
    _mostly(
        st.just({}),
        _maybe(
            tools=st.one_of(_schema_tools, junk),
            tool_choice=st.one_of(
                st.fixed_dictionaries({"type": st.sampled_from(["auto", "any", "none", "tool"]),
                                       "name": st.just("f")}),
                junk,
            ),
            thinking=st.one_of(
                st.fixed_dictionaries(
                    {"type": st.sampled_from(["enabled", "disabled", "adaptive"])},
                    optional={"budget_tokens": numbers},
                ),
                junk,
            ),
            output_config=st.one_of(
                st.fixed_dictionaries({"format": st.one_of(junk, schemas.map(
                    lambda schema: {"type": "json_schema", "schema": schema}))}),
                junk,
            ),
            stop_sequences=_mostly(st.lists(texts, max_size=3), junk),
            metadata=junk,
        ),
    ),
).map(lambda body: (MESSAGES, _few_of_messages(body)))  # fmt: skip
"""(path, body): a request of Anthropic's Messages API that often can be served."""

rankings = _merged(
    _mostly(texts, junk).map(lambda query: {"query": query}),
    _mostly(
        st.lists(st.one_of(texts, texts.map(lambda text: {"text": text})), max_size=4), st.lists(junk), junk
    ).map(lambda documents: {"documents": documents}),
    _maybe(top_n=_mostly(st.integers(1, 4), numbers), return_documents=_mostly(st.booleans(), junk)),
).map(lambda body: (RERANK, body))
"""(path, body): a request for a reranker that often can be served."""

requests = st.integers(0, 2).flatmap(lambda dice: completions if dice == 1 else chats)
"""(path, body): a request that mostly can be served."""

_cancelled = texts.map(
    lambda text: "/cancel/" + "".join(char for char in text if char.isalnum() and char.isascii())
)
odd_requests = st.one_of(
    st.tuples(
        st.sampled_from(["/extras/tokenize", "/extras/tokenize/count"]), _mostly(_maybe(input=texts), junk)
    ),
    st.tuples(
        st.just("/extras/detokenize"),
        _maybe(tokens=_mostly(st.lists(st.integers(-1, 49152), max_size=6), st.lists(numbers), junk)),
    ),
    st.tuples(
        st.just("/v1/rerank"),
        _maybe(
            query=_mostly(texts, junk),
            documents=_mostly(st.lists(texts, max_size=3), st.lists(junk, max_size=3), junk),
            top_n=numbers,
            return_documents=junk,
        ),
    ),
    st.tuples(st.just(EMBEDDINGS), _maybe(input=st.one_of(texts, st.lists(texts, max_size=3), junk))),
    st.tuples(
        st.sampled_from([CHAT, COMPLETIONS, RESPONSES, INPUT_TOKENS, MESSAGES, COUNT_TOKENS, RERANK]), junk
    ),
    st.tuples(st.one_of(_cancelled, _cancelled.map(lambda path: path.replace("cancel", "finish"))), junk),
)
"""(path, body): whatever is JSON, to any path."""


def _with_schema(schema: Any, way: str, prompt: str, stream: bool, seed: int) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}], "stream": stream, "seed": seed}
    body["max_tokens"] = 3 * MOST_TOKENS  # enough for some to be whole
    if way == "tool":
        body["tools"] = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
        body["tool_choice"] = {"type": "function", "function": {"name": "f"}}
    elif way == "json_object":
        body["response_format"] = {"type": "json_object", "schema": schema}
    else:
        strict = way == "strict"
        body["response_format"] = {
            "type": "json_schema", "json_schema": {"name": "x", "strict": strict, "schema": schema}
        }  # fmt: skip
    return CHAT, body


schema_requests = st.builds(
    _with_schema,
    st.one_of(schemas, schemas, _plain_schemas),
    st.sampled_from(["strict", "loose", "json_object", "tool"]),
    st.sampled_from(["Hi", "Describe a thing", "🎉"]),
    st.booleans(),
    st.integers(0, 9),
)
"""(path, body) of a chat whose answer must keep to a JSON schema."""


def encoded(body: object) -> bytes:
    """The body as it is sent: valid JSON, lone surrogates escaped."""
    return json.dumps(body, allow_nan=False).encode()


_lines = st.sampled_from(
    [
        b"POST /v1/chat/completions HTTP/1.1", b"POST /v1/completions HTTP/1.0", b"GET /health HTTP/1.1",
        b"GET /health", b"POST  /v1/chat/completions  HTTP/1.1", b"post /health HTTP/1.1",
        b"POST /\x00 HTTP/1.1",
        b"POST /v1/chat/completions HTTP/9.9", b"PRI * HTTP/2.0", b"CONNECT a:1 HTTP/1.1",
        b"\x16\x03\x01\x02\x00",
        b"GET http://example.org/ HTTP/1.1", b"OPTIONS * HTTP/1.1", b"POST /%zz%00%ff HTTP/1.1", b"",
        b"\xff\xfe",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1", b"GET /../../etc/passwd HTTP/1.1",
        b"GET /health?a=%f0 HTTP/1.1",
    ]
)  # fmt: skip
_headers = st.lists(
    st.sampled_from(
        [
            b"host: x", b"content-length: 5", b"content-length: -1", b"content-length: 99999999999999999999",
            b"content-length: 5, 6", b"content-length: 0x10", b"content-length: 0",
            b"transfer-encoding: chunked",
            b"transfer-encoding: gzip, chunked", b"expect: 100-continue",
            b"upgrade: websocket\r\nconnection: upgrade",
            b"x-request-id: " + b"a" * 500, b"x-request-id: \xff\r", b"x: " + b"b" * 200_000, b": empty",
            b"no colon",
            b" folded", b"connection: close", b"x\x00y: z", b"x-request-id: a/../b",
            b"content-type: text/plain",
            b"upgrade: h2c\r\nconnection: upgrade, http2-settings", b"content-encoding: gzip",
        ]
    ),
    max_size=5,
)  # fmt: skip
_bodies = st.one_of(
    st.sampled_from(
        [
            b"", b"{}", b'{"messages"', b"5\r\n{\"a\":\r\n0\r\n\r\n", b"ffffffffffffffff\r\nx",
            b"-1\r\nx\r\n",
            b"5;ext=1\r\n12345\r\n0\r\ntrailer: x\r\n\r\n", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 3,
            b'{"messages":[{"role":"user","content":"Hi"}],"max_tokens":1}', b"\xff" * 100, b"\r\n" * 50,
            b'{"max_tokens":1e999}', b'{"seed":' + b"9" * 5000 + b"}", b"[" * 50_000, b'{"a":"\\ud800"}',
        ]
    ),
    st.binary(max_size=200),
)  # fmt: skip
wire = st.one_of(
    st.tuples(_lines, _headers, _bodies).map(
        lambda parts: b"\r\n".join([parts[0], *parts[1]]) + b"\r\n\r\n" + parts[2]
    ),
    st.binary(max_size=400),
)
"""Bytes for a connection: HTTP that is malformed in most cases."""
