"""/v1/responses with OpenAI's SDK, on both engines: whole and streamed, calls, JSON, thoughts, refusals."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from tests.engine.conftest import Backend
from tests.engine.gguf_copy import with_template
from tests.engine.test_thinking import ANSWER, THOUGHT
from tests.engine.test_thinking import TEMPLATE as THINKING
from tests.engine.test_tools import MESSAGES, SHOW, TEMPLATES, TOOL, TURNS

PATH = "/v1/responses"
SMALL = 512
"""Tokens of context."""
FLAT: Any = {"type": "function", "strict": False, **TOOL["function"]}
ASKED = "The weather in Paris?"
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


class Thing(pydantic.BaseModel):
    colour: Literal["red", "blue"]


def sdk(backend: Backend) -> openai.OpenAI:
    http = httpx.Client(
        transport=httpx.HTTPTransport(uds=str(backend.socket), verify=False), verify=False, timeout=60
    )
    return openai.OpenAI(base_url="http://backend/v1", api_key="none", http_client=http, max_retries=0)


def started(start_shared, file, n_ctx=2048) -> Backend:
    backend = start_shared(f"MODEL={file}\nN_THREADS=1\nN_CTX={n_ctx}\n")
    backend.wait_for("READY=1")
    return backend


@pytest.fixture
def client(smollm2):
    with sdk(smollm2) as client:
        yield client


@pytest.fixture(scope="module")
def caller(models, tmp_path_factory, start_shared):
    call, history = TEMPLATES["hermes"]
    template = SHOW + TURNS.replace("CALL", call) + MESSAGES.replace("HISTORY", history)
    file = with_template(models / "smollm2.gguf", tmp_path_factory.mktemp("gguf") / "x.gguf", template)
    backend = started(start_shared, file)
    yield backend
    assert backend.output == ""


@pytest.fixture(scope="module")
def small(models, tmp_path_factory, start_shared):
    """One with little context, that shows tools to the model."""
    _, history = TEMPLATES["hermes"]
    template = SHOW + MESSAGES.replace("HISTORY", history)
    file = with_template(models / "smollm2.gguf", tmp_path_factory.mktemp("gguf") / "x.gguf", template)
    backend = started(start_shared, file, SMALL)
    yield backend
    assert backend.output == ""


@pytest.fixture(scope="module")
def thinker(models, tmp_path_factory, start_shared):
    file = with_template(models / "smollm2.gguf", tmp_path_factory.mktemp("gguf") / "x.gguf", THINKING)
    backend = started(start_shared, file)
    yield backend
    assert backend.output == ""


def create(client, **fields):
    return client.responses.create(
        **{"model": "current", "input": "Say hello", "temperature": 0, "max_output_tokens": 8, **fields}
    )


def settled(client, **fields):
    """The second answer: a prompt that is held already is read in other steps, and near ties come out so."""
    create(client, **fields)
    return strict(create(client, **fields))


def strict(response: Response) -> Response:
    """As the SDK's types say, which the SDK itself does not check."""
    return Response.model_validate(response.to_dict(), strict=True)


def checked(events: list[ResponseStreamEvent]) -> Response:
    """The response that a stream comes to, after all that the events say of it on their way."""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    final = events[-1].response
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done")
    for place, item in enumerate(final.output):
        of_it = [event for event in events if getattr(event, "output_index", None) == place]
        assert of_it[0].type == "response.output_item.added"
        assert of_it[0].item.id == item.id and of_it[0].item.status == "in_progress"
        assert of_it[-1].type == "response.output_item.done"
        assert of_it[-1].item == item
        said = "".join(event.delta for event in of_it if event.type.endswith(".delta"))
        assert said == (item.arguments if item.type == "function_call" else item.content[0].text)
        assert all(event.item_id == item.id for event in of_it if hasattr(event, "item_id"))
    return strict(final)


def same(one: Response, other: Response) -> bool:
    def plain(response):
        told = json.loads(json.dumps(response.to_dict()))
        for thing in (told, *told["output"]):
            for key in ("id", "created_at", "completed_at", "call_id"):
                thing.pop(key, None)
        return told

    return plain(one) == plain(other)


def test_a_text(client):
    whole = settled(client, metadata={"a": "b"}, user="me", instructions="Be brief.", store=True)
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    (message,) = whole.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "incomplete")
    assert whole.output_text
    assert whole.usage.output_tokens == 8
    assert whole.usage.total_tokens == whole.usage.input_tokens + 8
    assert (whole.model, whole.metadata, whole.user) == ("smollm2", {"a": "b"}, "me")
    assert (whole.instructions, whole.max_output_tokens, whole.temperature) == ("Be brief.", 8, 0)
    assert whole.to_dict()["store"] is False
    events = list(
        create(client, metadata={"a": "b"}, user="me", instructions="Be brief.", store=True, stream=True)
    )
    assert events[-1].type == "response.incomplete"
    assert same(checked(events), whole)


def test_an_end_by_itself(client):
    fields = {"input": "One, two", "max_output_tokens": 200, "extra_body": {"stop": ["."]}}
    whole = settled(client, **fields)
    assert (whole.status, whole.incomplete_details) == ("completed", None)
    assert whole.output[0].status == "completed" and whole.to_dict()["completed_at"]
    events = list(create(client, **fields, stream=True))
    assert events[-1].type == "response.completed"
    assert same(checked(events), whole)


def test_a_conversation_comes_to_the_same_as_in_a_chat(client):
    items = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {
            "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
        },
        {"role": "user", "content": "And"},
        {"role": "user", "content": "now?"},
    ]  # fmt: skip
    response = settled(client, instructions="Be brief.", input=items)
    chat = client.chat.completions.create(
        model="smollm2",
        temperature=0,
        max_tokens=8,
        messages=[
            {"role": "system", "content": "Be brief.\nBe kind."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "And\nnow?"},
        ],
    )
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.input_tokens == chat.usage.prompt_tokens


def test_tokens_are_counted_beforehand(client, caller):
    asked = {"model": "current", "instructions": "Be brief.", "input": "Hi"}
    counted = client.responses.input_tokens.count(**asked)
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == create(client, **asked).usage.input_tokens
    with sdk(caller) as other:
        asked = {"model": "current", "input": ASKED, "tools": [FLAT]}
        counted = other.responses.input_tokens.count(**asked)
        assert counted.input_tokens == create(other, **asked).usage.input_tokens
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.input_tokens.count(model="current", input=[])
    assert raised.value.param == "input"


def test_a_conversation_that_is_too_long_loses_its_oldest_turns_where_the_client_says_so(small):
    old = "The sea is wide and the ship is small. " * 4
    talk: list[Any] = []
    for turn in range(30):
        talk += [{"role": "user", "content": f"{turn}: {old}"}, {"role": "assistant", "content": "Yes."}]
    talk += [
        {"role": "user", "content": "The weather?"},
        {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "Sunny"},
    ]
    asked: dict[str, Any] = {"input": talk, "instructions": "Be kind.", "tools": [FLAT]}
    with sdk(small) as client:
        for fields in ({}, {"truncation": "disabled"}):
            with pytest.raises(openai.BadRequestError) as raised:
                create(client, **asked, **fields)
            assert raised.value.code == "context_length_exceeded"
        counted = client.responses.input_tokens.count(model="current", truncation="auto", **asked)
        assert counted.input_tokens > SMALL, "what would be too long, before anything is left out"
        for stream in (False, True):
            made = create(client, **asked, truncation="auto", stream=stream)
            response = checked(list(made)) if stream else strict(made)
            assert response.truncation == "auto" and response.output
            # of the context, what the answer may take is kept free
            assert SMALL - 8 - 80 < response.usage.input_tokens <= SMALL - 8
        short = create(client, **{**asked, "input": talk[-3:]}, truncation="auto")
        plain = create(client, **{**asked, "input": talk[-3:]})
        assert short.usage.input_tokens == plain.usage.input_tokens
        with pytest.raises(openai.BadRequestError) as raised:
            create(client, input=[*talk, {"role": "user", "content": old * 30}], truncation="auto")
        assert raised.value.code == "context_length_exceeded"


def test_json(client):
    parsed = client.responses.parse(
        model="smollm2", input="A colour", text_format=Thing, max_output_tokens=40, temperature=0
    )
    assert isinstance(parsed.output_parsed, Thing)
    form = {"type": "json_schema", "name": "thing", "schema": SCHEMA, "strict": True}
    whole = strict(create(client, text={"format": form}, max_output_tokens=40))
    Thing.model_validate_json(whole.output_text)
    assert whole.text.format.to_dict() == form
    with client.responses.stream(
        model="smollm2", input="A colour", text_format=Thing, max_output_tokens=40, temperature=0
    ) as stream:
        assert stream.get_final_response().output_parsed == parsed.output_parsed
    free = create(client, text={"format": {"type": "json_object"}}, max_output_tokens=100)
    assert free.output_text.startswith("{")


def test_logprobs(client):
    whole = settled(client, top_logprobs=2, max_output_tokens=3)
    scores = whole.output[0].content[0].logprobs
    assert "".join(score.token for score in scores) == whole.output_text
    assert [len(score.top_logprobs) for score in scores] == [2, 2, 2]
    events = list(create(client, top_logprobs=2, max_output_tokens=3, stream=True))
    streamed = [
        score.token for event in events if event.type.endswith("text.delta") for score in event.logprobs
    ]
    assert streamed == [score.token for score in scores]
    assert same(checked(events), whole)
    listed = create(client, include=["message.output_text.logprobs"], max_output_tokens=2)
    assert len(listed.output[0].content[0].logprobs) == 2


def test_a_named_function(client):
    fields = {
        "tools": [FLAT],
        "tool_choice": {"type": "function", "name": "get_weather"},
        "max_output_tokens": 60,
    }
    whole = settled(client, **fields)
    (call,) = whole.output
    assert (call.type, call.name, whole.status) == ("function_call", "get_weather", "completed")
    assert isinstance(json.loads(call.arguments)["city"], str)
    assert whole.tools[0].to_dict() == {**FLAT}
    assert same(checked(list(create(client, **fields, stream=True))), whole)


def test_a_function_of_a_namespace(client):
    """As Codex has some: the model sees one name, the client gets the two."""
    space = {"type": "namespace", "name": "sky", "description": "The sky", "tools": [FLAT]}
    choice = {"type": "function", "name": "get_weather", "namespace": "sky"}
    fields = {"tools": [space], "tool_choice": choice, "max_output_tokens": 60}
    whole = settled(client, **fields)
    (call,) = whole.output
    assert (call.type, call.namespace, call.name) == ("function_call", "sky", "get_weather")
    assert whole.tools[0].to_dict() == space
    assert same(checked(list(create(client, **fields, stream=True))), whole)
    said = [{"role": "user", "content": "Hi"}, call.to_dict()]
    said += [{"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}]
    assert create(client, input=said).output


def test_a_loop_of_an_agent(caller):
    """The model calls by its own choice, gets the result, and goes on."""
    with sdk(caller) as client:
        said: list[Any] = [{"role": "user", "content": ASKED}]
        first = strict(create(client, input=said, tools=[FLAT], max_output_tokens=45))
        call = first.output[0]
        assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Paris"}
        streamed = checked(list(create(client, input=said, tools=[FLAT], max_output_tokens=45, stream=True)))
        assert same(streamed, first)
        # as the SDK's users do it
        said += first.output
        said.append({"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"})
        second = strict(create(client, input=said, tools=[FLAT]))
        assert second.status in ("completed", "incomplete")
        chat = client.chat.completions.create(
            model="current",
            max_tokens=1,
            tools=[TOOL],
            messages=[
                {"role": "user", "content": ASKED},
                {"role": "assistant", "content": None, "tool_calls": [
                    {"id": call.call_id, "type": "function",
                     "function": {"name": call.name, "arguments": call.arguments}}]},
                {"role": "tool", "tool_call_id": call.call_id, "content": "Sunny"},
            ],
        )  # fmt: skip
        assert second.usage.input_tokens == chat.usage.prompt_tokens
        allowed = {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "other"}],
        }
        other = {**FLAT, "name": "other"}
        only = create(client, tools=[FLAT, other], tool_choice=allowed, max_output_tokens=60)
        assert only.output[0].name == "other"


@pytest.mark.engine("native")
def test_thoughts_are_items_of_their_own(thinker):
    with sdk(thinker) as client:
        whole = strict(create(client, input="Think", max_output_tokens=40))
        thought, message = whole.output
        assert (thought.type, message.type) == ("reasoning", "message")
        assert thought.content[0].text.strip() == THOUGHT
        assert whole.output_text == ANSWER
        assert 0 < whole.usage.output_tokens_details.reasoning_tokens < whole.usage.output_tokens
        events = list(create(client, input="Think", max_output_tokens=40, stream=True))
        assert same(checked(events), whole)
        assert {"response.reasoning_text.delta", "response.reasoning_text.done"} < {e.type for e in events}
        again = [{"role": "user", "content": "Hi"}, *whole.output, {"role": "user", "content": "Hi"}]
        silent = [again[0], again[2], again[3]]
        sizes = [create(client, input=items).usage.input_tokens for items in (silent, again)]
        assert sizes[0] < sizes[1], "what was thought reaches the template"
        off = create(client, input="Think", reasoning={"effort": "none"}, max_output_tokens=40)
        assert [item.type for item in off.output] == ["message"]
        assert off.reasoning.effort == "none"


@pytest.mark.parametrize(
    "fields, param, code",
    [
        ({"input": None}, "input", None),
        ({"input": []}, "input", None),
        ({"input": ""}, "input", None),
        ({"input": 3}, "input", None),
        ({"input": ["a"]}, "input[0]", None),
        ({"input": [{"role": "wizard", "content": "a"}]}, "input[0].role", None),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "file:///etc/passwd"}]}]},
         "input[0].content[0]", "unsupported_content"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "unsupported_parameter"),
        ({"input": [{"type": "web_search_call", "id": "a"}]}, "input[0].type", "unsupported_content"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id", None),
        ({"input": "word " * 5000}, None, "context_length_exceeded"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "tools_not_supported"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].type", "tools_not_supported"),
        ({"tools": [{"type": "custom", "name": "f"}]}, "tools[0].type", "tools_not_supported"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", None),
        ({"tools": [FLAT]}, "tool_choice", "tools_not_supported"),
        ({"tools": [FLAT], "tool_choice": {"type": "file_search"}}, "tool_choice", "tools_not_supported"),
        ({"tools": [FLAT], "tool_choice": {"type": "function"}}, "tool_choice", None),
        ({"tools": [FLAT], "tool_choice": {"type": "allowed_tools", "tools": 3}}, "tool_choice", None),
        ({"text": {"format": {"type": "xml"}}}, "text.format", None),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", None),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"enum": []}}}},
         "text.format.schema", "unsupported_schema"),
        ({"text": "plain"}, "text", None),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort", None),
        ({"max_output_tokens": 0}, "max_output_tokens", None),
        ({"max_output_tokens": "8"}, "max_output_tokens", None),
        ({"temperature": 3}, "temperature", None),
        ({"truncation": "some"}, "truncation", None),
        ({"metadata": {"a": 1}}, "metadata", None),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", None),
        ({"include": "all"}, "include", None),
        ({"instructions": ["a"]}, "instructions", None),
        ({"stream": "yes"}, "stream", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be(smollm2, fields, param, code, stream):
    body = {"model": "smollm2", "input": "Hello", "max_output_tokens": 2, "stream": stream, **fields}
    answer = smollm2.post(PATH, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    assert not any(word in error["message"] for word in ("messages", "response_format", "max_tokens"))
    assert smollm2.output == ""


def test_what_is_allowed_and_does_nothing(smollm2):
    """What Codex and the Agents SDK send along."""
    answer = smollm2.post(
        PATH,
        {
            "model": "current", "input": "Hello", "max_output_tokens": 2, "store": False,
            "truncation": "auto",
            "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k", "tool_choice": "auto",
            "parallel_tool_calls": False, "service_tier": "auto", "tools": [], "background": False,
            "reasoning": {"effort": "low", "summary": "auto"}, "text": {"verbosity": "low"},
            "previous_response_id": None, "stream_options": {"include_obfuscation": False},
            "client_metadata": {"a": 1}, "max_tool_calls": 3, "prompt_cache_retention": "24h",
        },
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["truncation"], told["parallel_tool_calls"], told["prompt_cache_key"]) == (
        "auto",
        False,
        "k",
    )


def test_a_cancel_is_an_error_event_and_a_failed_response(smollm2):
    body = {"input": "Write a very long story about the sea.", "stream": True, "max_output_tokens": 2000}
    headers = {"x-request-id": "goes"}
    with smollm2.client.stream("POST", PATH, content=json.dumps(body), headers=headers) as answer:
        lines = answer.iter_lines()
        while "output_text.delta" not in next(lines):
            pass
        assert smollm2.post("/cancel/goes", {}).json()["completion_tokens"] > 0
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    error, failed = events[-2:]
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    assert error["code"] == error["error"]["code"] == "request_cancelled"
    response = failed["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", "request_cancelled")
    assert response["usage"]["output_tokens"] > 0 and response["output"][0]["content"][0]["text"]


def test_a_model_that_does_not_chat(start):
    backend = start("MODEL={models}/smollm2.gguf\nN_THREADS=1\nN_CTX=256\nEMBEDDING=1\n")
    backend.wait_for("READY=1")
    error = backend.post(PATH, {"input": "Hello"}).json()["error"]
    assert error["code"] == "completions_not_supported" and "/v1/embeddings" in error["message"]
