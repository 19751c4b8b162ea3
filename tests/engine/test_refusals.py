"""Requests that llama_cpp.server would crash on, answer with a 500, or leak something with."""

import json

import pytest

CHAT = "/v1/chat/completions"
DEEP = json.loads('{"type":"array","items":' * 40 + "{}" + "}" * 40)


def form(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def text_schema(**keys):
    return form({"type": "object", "properties": {"a": {"type": "string", **keys}}})


@pytest.mark.parametrize(
    "fields",
    [
        {"grammar": "root ::= ("},
        text_schema(pattern=r"^\d+$"),
        text_schema(maxLength=2000),
        form({"type": "array", "items": {"type": "string"}, "maxItems": 100000000}),
        form({"enum": []}),
        form({"anyOf": []}),
        form({"const": "a\x00b"}),
        form({"enum": ['a"b']}),
        form({"type": "object", "properties": {'a"b': {"type": "string"}}}),
        form({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
        form({"$ref": "#/$defs/none"}),
        form({"$ref": "https://example.org/schema"}),
        form({"type": "strange"}),
        form(DEEP),
        {"response_format": {"type": "yaml"}},
        {"top_logprobs": 49152, "logprobs": True},
        {"logit_bias": {"99999": 1}},
        {"logit_bias": {"-1": 1}},
        {"logit_bias": {"1": 1e9}},
        {"messages": []},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}
            ]
        },
        {"messages": [{"role": "wizard", "content": "x"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"temperature": -1},
        {"temperature": "hot"},
        {"max_tokens": 0},
        {"n": 2},
        {"stream": "yes"},
        {"stop": ["x"] * 100},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": "required",
            "max_tokens": 0,
        },
        {"functions": [{"name": "f", "parameters": {}}]},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_bad_chat_is_a_400_and_harms_nobody(smollm2, fields, stream):
    pid = smollm2.process.pid
    answer = smollm2.chat("SECRET", **{"stream": stream, **fields})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert "SECRET" not in answer.text
    assert "/" not in error["message"].replace("/v1/", "")
    assert smollm2.client.get("/health").status_code == 200
    assert smollm2.process.poll() is None and smollm2.process.pid == pid


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/extras/detokenize", {"tokens": [10**9]}),
        ("/extras/detokenize", {"tokens": [-1]}),
        ("/extras/detokenize", {"tokens": "abc"}),
        ("/extras/tokenize", {"input": 5}),
        ("/v1/completions", {"prompt": ""}),
        ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/v1/completions", {"prompt": [1, 2]}),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}),
        ("/v1/completions", {"prompt": "a", "logprobs": 3, "echo": True}),
        ("/v1/completions", {"prompt": "a", "logprobs": 6}),
        ("/v1/completions", {"prompt": "a", "suffix": ["b"]}),
        ("/v1/completions", {"prompt": "a", "best_of": 4}),
        (CHAT, [1]),
        (CHAT, "x"),
    ],
)
def test_other_bad_requests_are_a_400(smollm2, path, body):
    answer = smollm2.post(path, body)
    assert answer.status_code == 400, answer.text
    assert smollm2.client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b'{"temperature": NaN}', b'{"messages": "\\ud800"}', b"\xff", b"[" * 100000,
        b'{"a": 1' + b"0" * 9999 + b"}",
    ],
    ids=["empty", "cut", "nan", "surrogate", "bytes", "deep", "huge"],
)  # fmt: skip
def test_what_is_not_json_is_a_400(smollm2, raw):
    answer = smollm2.client.post(CHAT, content=raw)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_told_before_any_stream_header(smollm2, stream):
    for words in (5000, 2_000_000):
        answer = smollm2.chat("w " * words, stream=stream)
        assert answer.status_code in (400, 413)
        assert answer.json()["error"]["code"] in ("context_length_exceeded", "request_too_large")


def test_megabytes_are_refused_without_making_tokens_of_them(smollm2):
    answer = smollm2.chat("x" * 4_000_000)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert answer.elapsed.total_seconds() < 0.5


def test_what_takes_the_tokenizer_minutes_is_refused_at_once(gemma3):
    text = "<" * 150_000
    for path, body in (
        ("/extras/tokenize/count", {"input": text}),
        ("/v1/completions", {"prompt": text}),
        (CHAT, {"messages": [{"role": "user", "content": text}]}),
    ):
        answer = gemma3.post(path, body)
        assert answer.status_code == 400, answer.text
        assert answer.elapsed.total_seconds() < 2
    page = "<p>Some text of a page, with its tags</p>\n" * 150
    assert gemma3.post("/extras/tokenize/count", {"input": page}).status_code == 200


def test_messages_that_the_template_refuses_are_a_400_in_its_own_words(start, models, tmp_path):
    data = (models / "smollm2.gguf").read_bytes()
    begin = data.index(b"{{ '<|im_start|>system")
    end = data.index(b"}}", begin)
    picky = b"{{ raise_exception('roles must alternate') if messages|length > 1 else '' "
    (tmp_path / "picky.gguf").write_bytes(data[:begin] + picky.ljust(end - begin) + data[end:])
    backend = start(f"MODEL={tmp_path}/picky.gguf\nN_THREADS=1\nN_CTX=256\n")
    backend.wait_for("READY=1")
    assert backend.chat(max_tokens=1).status_code == 200
    for stream in (False, True):
        answer = backend.post(
            CHAT, {"messages": [{"role": "user", "content": "SECRET"}] * 2, "stream": stream}
        )
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"].endswith("these messages: roles must alternate")
    assert backend.output == ""


def test_unknown_paths_and_methods(smollm2):
    for path in ("/", "/v1/models", "/docs", "/openapi.json", "/v1/engines/copilot-codex/completions"):
        assert smollm2.post(path, {}).status_code == 404
    answer = smollm2.client.get(CHAT)
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "method_not_allowed"


def test_nothing_of_all_this_was_written_to_the_journal(smollm2):
    smollm2.chat("SECRET", response_format={"type": "json_object"}, max_tokens=3)
    assert smollm2.output == ""
