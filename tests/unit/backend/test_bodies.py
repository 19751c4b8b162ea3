"""What of a request's JSON reaches llama_cpp.server, and what is refused."""

import pytest

from llmsvc.backend import bodies, messages
from llmsvc.backend.bodies import Model
from llmsvc.backend.problem import ApiError

TEXT = Model("m", "m.gguf", n_vocab=1000)
HELLO = [{"role": "user", "content": "Hello"}]


def request(**fields):
    return bodies.chat({"messages": HELLO, **fields}, TEXT)


def chat(**fields):
    return request(**fields).body


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
    made = request(model="current", grammar_lazy=1, user="u", temperature=0.5, stop="x")
    assert set(made.body) == {"model", "stream", "repeat_penalty", "seed", "temperature", "messages"}
    assert made.body["model"] == "m"
    assert made.stops == ["x"]


@pytest.mark.parametrize("name", ["", "current", "m", "m.gguf"])
def test_the_names_that_the_model_answers_to(name):
    assert chat(model=name)["model"] == "m"


@pytest.mark.parametrize("make", [bodies.chat, bodies.completion])
def test_another_model_is_a_404(make):
    with pytest.raises(ApiError) as caught:
        make({"model": "gpt-4o", "messages": HELLO, "prompt": "x"}, TEXT)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_nulls_are_defaults():
    assert bodies.parse(b'{"temperature": null, "n": 1}') == {"n": 1}


def test_the_new_name_of_max_tokens_wins():
    assert chat(max_completion_tokens=5, max_tokens=9)["max_tokens"] == 5
    raw = bodies.completion({"prompt": "x", "max_completion_tokens": 5, "max_tokens": 9}, TEXT)
    assert raw.body["max_tokens"] == 5


def test_a_temperature_that_numbers_cannot_hold_is_none():
    assert chat(temperature=1e-40)["temperature"] == 0.0
    assert chat(temperature=0.001)["temperature"] == 0.001


def test_any_length_may_be_asked_for():
    assert "max_tokens" not in chat(max_tokens=-1)
    assert chat(max_tokens=10**12)["max_tokens"] == 10**12
    for wrong in (0, -5, -1.0, 6.0, True, "6"):
        assert refused(max_tokens=wrong).param == "max_tokens"
        assert refused(max_completion_tokens=wrong).param == "max_completion_tokens"


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
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 5, "response_format": {"type": "json_object"}}, "min_tokens"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)
def test_out_of_bounds_is_refused_with_its_name(fields, param):
    assert refused(**fields).param == param


def test_content_parts_become_text_and_developer_becomes_system():
    made = request(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "1", "content": "c", "extra": 1},
        ]
    )
    assert made.messages == [
        {"role": "system", "content": "a\nb"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "c", "tool_call_id": "1", "name": "f"},
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


def tool(parameters):
    return {"type": "function", "function": {"name": "h", "parameters": parameters}}


SECOND = {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "g"}}
CALLER = Model("m", "m.gguf", n_vocab=1000, can_call=True)


@pytest.mark.parametrize(
    ("fields", "shown", "forced", "most"),
    [
        ({"tool_choice": "auto"}, 2, set(), 128),
        ({"parallel_tool_calls": False}, 2, set(), 1),
        ({"tool_choice": "required"}, 2, {"f", "g"}, 128),
        ({"tool_choice": NAMED}, 2, {"g"}, 1),
        ({"tool_choice": "none"}, 0, set(), 0),
    ],
)
def test_what_a_model_that_knows_calls_is_told_and_held_to(fields, shown, forced, most):
    made = bodies.chat({"messages": HELLO, "tools": [TOOL, SECOND], **fields}, CALLER).tools
    assert made.names == {"f", "g"}
    assert (len(made.shown), set(made.forced), made.most) == (shown, forced, most)


def test_a_model_that_knows_no_calls_can_be_held_to_one_function_and_no_more():
    assert set(request(tools=[TOOL], tool_choice="required").tools.forced) == {"f"}
    assert set(request(tools=[TOOL, SECOND], tool_choice=NAMED).tools.forced) == {"g"}
    assert refused(tools=[TOOL]).code == "tools_not_supported"
    assert refused(tools=[TOOL], tool_choice="auto").code == "tools_not_supported"
    assert refused(tools=[TOOL, SECOND], tool_choice="required").code == "tools_not_supported"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "h"}}}, "tool_choice"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [tool({"type": "string"})]}, "tools[0].function.parameters"),
        ({"tools": [tool({"enum": ["a"]})]}, "tools[0].function.parameters"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_tools_that_cannot_be_are_refused(fields, param):
    with pytest.raises(ApiError) as caught:
        bodies.chat({"messages": HELLO, "tools": [TOOL], **fields}, CALLER)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_a_suffix_needs_a_model_that_fills_in():
    with pytest.raises(ApiError) as caught:
        bodies.completion({"prompt": "a", "suffix": "b"}, TEXT)
    assert (caught.value.param, caught.value.code) == ("suffix", "unsupported_parameter")
    filler = Model("m", "m.gguf", n_vocab=1000, can_fill=True)
    assert bodies.completion({"prompt": "a", "suffix": "b"}, filler).suffix == "b"
    assert bodies.completion({"prompt": "a", "suffix": ""}, filler).suffix is None


def test_logprobs_of_a_prompt_name_the_setting_that_they_need():
    with pytest.raises(ApiError, match="LOGITS_ALL=1") as caught:
        bodies.completion({"prompt": "a", "echo": True, "logprobs": 1}, TEXT)
    assert caught.value.code == "logprobs_not_supported"
    assert bodies.completion({"prompt": "a", "logprobs": 1}, TEXT).logprobs == 1


def test_a_json_schema_is_cleaned_of_notes():
    schema = {"type": "object", "title": "T", "properties": {"a": {"type": "string"}}}
    made = request(response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    assert made.json
    assert made.schema == {"type": "object", "properties": {"a": {"type": "string"}}}
    assert "response_format" not in made.body


def test_each_model_does_what_it_is_for():
    vectors = Model("v", "v.gguf", n_vocab=10, embedding=True)
    with pytest.raises(ApiError, match="embeddings only"):
        bodies.chat({"messages": HELLO}, vectors)
    with pytest.raises(ApiError, match="makes no embeddings"):
        bodies.embedding({"input": "x"}, TEXT)
    request = bodies.embedding({"input": "x", "user": "u", "encoding_format": "base64"}, vectors)
    assert request.body == {"model": "v", "input": ""}
    assert (request.inputs, request.base64) == (["x"], True)


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"1", b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":{"b":1e999}}', b'"\\ud800"', b"\xff"],
)
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
