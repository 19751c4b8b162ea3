"""What of a request's JSON reaches llama_cpp.server, and what is refused."""

import pytest

from llmsvc.backend import bodies, messages
from llmsvc.backend.bodies import Model
from llmsvc.backend.problem import ApiError

TEXT = Model("m", n_vocab=1000, embedding=False, logits_all=False)
HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields):
    return bodies.chat({"messages": HELLO, **fields}, TEXT).body


def refused(**fields):
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert caught.value.status == 400
    return caught.value


def test_safe_values_stand_where_the_client_says_nothing():
    body = chat()
    assert body["model"] == "m"
    assert body["repeat_penalty"] == 1.0
    assert body["stream"] is False
    assert 0 <= body["seed"] < 2**32 - 1
    assert chat()["seed"] != body["seed"]


def test_only_known_fields_pass_and_the_model_is_ours():
    body = chat(model="/etc/passwd", grammar_lazy=1, user="u", temperature=0.5, stop="x")
    assert set(body) == {"model", "stream", "repeat_penalty", "seed", "temperature", "stop", "messages"}
    assert body["model"] == "m"
    assert body["stop"] == ["x"]


def test_nulls_are_defaults():
    assert bodies.parse(b'{"temperature": null, "n": 1}') == {"n": 1}


def test_the_new_name_of_max_tokens_wins():
    assert chat(max_completion_tokens=5, max_tokens=9)["max_tokens"] == 5


@pytest.mark.parametrize("seed", [-1, 0, 2**32 - 1, 2**32, 2**70, -(2**70)])
def test_a_seed_of_any_size_fits(seed):
    assert 0 <= chat(seed=seed)["seed"] < 2**32 - 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": True}, "temperature"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_p": 1.01}, "top_p"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"seed": "1"}, "seed"),
        ({"stop": [1]}, "stop"),
        ({"stop": "x" * 501}, "stop"),
        ({"logit_bias": {"1": "x"}}, "logit_bias"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"logit_bias": {"1000": 1}}, "logit_bias"),
        ({"logit_bias": {str(n): 1 for n in range(301)}}, "logit_bias"),
        ({"logit_bias": {"1": 1}, "min_tokens": 3}, "min_tokens"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)
def test_out_of_bounds_is_refused_with_its_name(fields, param):
    assert refused(**fields).param == param


def test_content_parts_become_text_and_developer_becomes_system():
    body = chat(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "1", "content": "c", "extra": 1},
        ]
    )
    assert body["messages"] == [
        {"role": "system", "content": "a\nb"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "c", "tool_call_id": "1"},
    ]


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ("x", "messages"),
        ([1], "messages[0]"),
        ([*HELLO, {"role": "user"}], "messages[1].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0]"),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "messages[0].tool_calls[0]"),
    ],
)
def test_a_bad_message_is_named(messages, param):
    assert refused(messages=messages).param == param


def test_one_tool_that_is_required_is_forced():
    request = bodies.chat({"messages": HELLO, "tools": [TOOL], "tool_choice": "required"}, TEXT)
    assert request.tool == "f"
    assert request.body["tool_choice"] == {"type": "function", "function": {"name": "f"}}


def test_tools_that_the_model_would_have_to_choose_are_refused():
    second = {"type": "function", "function": {"name": "g"}}
    assert refused(tools=[TOOL]).code == "tools_not_supported"
    assert refused(tools=[TOOL], tool_choice="auto").code == "tools_not_supported"
    assert refused(tools=[TOOL, second], tool_choice="required").code == "tools_not_supported"
    assert "tools" not in chat(tools=[TOOL], tool_choice="none")
    assert (
        refused(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "h"}}).param
        == "tool_choice"
    )


def test_a_json_schema_becomes_the_form_that_llama_cpp_knows():
    schema = {"type": "object", "title": "T", "properties": {"a": {"type": "string"}}}
    request = bodies.chat(
        {"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
        TEXT,
    )
    clean = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert request.body["response_format"] == {"type": "json_object", "schema": clean}
    assert request.schema == clean


def test_each_model_does_what_it_is_for():
    vectors = Model("v", n_vocab=10, embedding=True, logits_all=False)
    with pytest.raises(ApiError, match="embeddings only"):
        bodies.chat({"messages": HELLO}, vectors)
    with pytest.raises(ApiError, match="does not make embeddings"):
        bodies.embedding({"input": "x"}, TEXT)
    assert bodies.embedding({"input": "x", "user": "u"}, vectors).body == {"model": "v", "input": ["x"]}


@pytest.mark.parametrize("raw", [b"", b"[]", b"1", b'{"a":NaN}', b'{"a":-Infinity}', b'"\\ud800"', b"\xff"])
def test_what_is_no_json_object_is_refused(raw):
    with pytest.raises(ApiError):
        bodies.parse(raw)


def test_what_takes_the_tokenizer_too_long_is_refused():
    assert refused(messages=HELLO * (messages.MAX_MESSAGES + 1)).code == "context_length_exceeded"
    assert bodies.text({"input": "x" * bodies.MAX_TEXT_BYTES})
    with pytest.raises(ApiError):
        bodies.text({"input": "x" * (bodies.MAX_TEXT_BYTES + 1)})


@pytest.mark.parametrize("prompt", ["", "\ufdd0", "\ufdd0\ufdd0", [], ["a", "b"], None, 1])
def test_a_prompt_that_comes_to_nothing_is_refused(prompt):
    with pytest.raises(ApiError) as caught:
        bodies.completion({"prompt": prompt}, TEXT)
    assert caught.value.status == 400
