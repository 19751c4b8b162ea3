"""OpenAI's own SDK for Python: each feature does what the SDK promises, or is refused as the table says."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pydantic
import pytest

from tests.engine.test_tools import TOOL as WEATHER

CLIENT = "openai (Python)"
MESSAGES: Any = [{"role": "user", "content": "Say hello"}]
CHAT: Any = {"model": "smollm2", "max_tokens": 6, "temperature": 0, "messages": MESSAGES}
COMPLETION: Any = {"model": "smollm2", "prompt": "One, two, three,", "max_tokens": 4, "temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "thing", "strict": True, "schema": SCHEMA}}
TOOL: Any = {"type": "function", "function": {"name": "paint", "strict": True, "parameters": SCHEMA}}
NAMED: Any = {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "paint"}}}


class Thing(pydantic.BaseModel):
    colour: Literal["red", "blue"]


@pytest.fixture
def saw(table, engine):
    return lambda feature: table.saw(engine, CLIENT, feature)


@pytest.fixture
def client(service):
    return service("plain").openai


def create(client, **fields):
    return client.chat.completions.create(**{**CHAT, **fields})


def joined(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_models(client, saw):
    with saw("list of models"):
        assert "smollm2" in {model.id for model in client.models.list()}
        assert client.models.retrieve("smollm2").object == "model"


def test_chat(client, saw):
    with saw("chat"):
        answer = create(client)
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 6
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6
        assert answer.model == "smollm2"


def test_streams(client, saw):
    whole = create(client)
    with saw("chat, streamed"), create(client, stream=True) as stream:
        chunks = list(stream)
        assert joined(chunks) == whole.choices[0].message.content
        assert chunks[-1].choices[0].finish_reason == "length"
    with saw("no usage in a stream, where not"):
        assert all(chunk.usage is None for chunk in chunks)
    with saw("usage in a stream, where asked for"):
        chunks = list(create(client, stream=True, stream_options={"include_usage": True}))
        told = {"prompt_tokens", "completion_tokens", "total_tokens"}
        assert chunks[-1].usage.model_dump(include=told) == whole.usage.model_dump(include=told)
        assert chunks[-1].choices == []


def test_messages(client, saw):
    with saw("role developer"):
        assert create(client, messages=[{"role": "developer", "content": "Be kind."}, *MESSAGES]).choices
    with saw("content in parts"):
        parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello"}]
        assert create(client, messages=[{"role": "user", "content": parts}]).choices[0].message.content
    with saw("an image"):
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        create(client, messages=[{"role": "user", "content": [image]}])


def test_sampling(client, saw):
    with saw("max_completion_tokens"):
        fields = {key: value for key, value in CHAT.items() if key != "max_tokens"}
        answer = client.chat.completions.create(**fields, max_completion_tokens=3)
        assert answer.usage.completion_tokens == 3
    with saw("stop"):
        answer = client.completions.create(**{**COMPLETION, "max_tokens": 20}, stop=["five"])
        assert answer.choices[0].finish_reason == "stop"
        assert "five" not in answer.choices[0].text
    with saw("the same seed, the same answer"):
        same = {create(client, temperature=2, seed=7).choices[0].message.content for _ in range(2)}
        assert len(same) == 1
    with saw("n above 1"):
        create(client, n=2)


def test_json(client, saw):
    with saw("JSON object"):
        answer = create(client, response_format={"type": "json_object"}, max_tokens=100)
        assert answer.choices[0].message.content.startswith("{")
    with saw("JSON schema"):
        answer = create(client, response_format=FORMAT, max_tokens=40)
        assert answer.choices[0].finish_reason == "stop"
        Thing.model_validate_json(answer.choices[0].message.content)
    with saw("JSON schema, streamed"):
        Thing.model_validate_json(joined(create(client, response_format=FORMAT, max_tokens=40, stream=True)))
    with saw("JSON schema from a class, parsed into it"):
        parsed = client.chat.completions.parse(**{**CHAT, "max_tokens": 40}, response_format=Thing)
        assert isinstance(parsed.choices[0].message.parsed, Thing)
    with saw("JSON schema with pattern"):
        schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^\\d+$"}}}
        create(
            client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        )


def test_functions(client, saw):
    with saw("a function, named in tool_choice"):
        choice = create(client, **NAMED, max_tokens=40).choices[0]
        (call,) = choice.message.tool_calls
        assert (call.type, call.function.name) == ("function", "paint")
        Thing.model_validate_json(call.function.arguments)
        assert not choice.message.content
    with saw("a function, named, streamed"):
        chunks = list(create(client, **NAMED, max_tokens=40, stream=True))
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        assert [call.function.name for call in calls if call.function.name] == ["paint"]
        assert len([call.id for call in calls if call.id]) == 1
        Thing.model_validate_json("".join(call.function.arguments or "" for call in calls))
        assert joined(chunks) == ""
    with saw("functions, the model's choice, of a model that knows none"):
        create(client, tools=[TOOL], max_tokens=40)
    with saw("a conversation with a function's result"):
        call = {"id": "c1", "type": "function", "function": {"name": "paint", "arguments": "{}"}}
        said: Any = [
            *MESSAGES,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "done"},
        ]
        assert create(client, messages=said).choices[0].finish_reason


def test_functions_of_the_models_choice(service, saw):
    client = service("tools").openai
    asked = [{"role": "user", "content": "The weather in Paris?"}]
    with saw("functions, the model's choice"):
        choice = create(client, messages=asked, tools=[WEATHER], max_tokens=45).choices[0]
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert json.loads(call.function.arguments) == {"city": "Paris"}
        assert not choice.message.content
    with saw("functions, the model's choice, streamed"):
        with client.chat.completions.stream(
            **{**CHAT, "messages": asked, "tools": [WEATHER], "max_tokens": 45}
        ) as stream:
            final = stream.get_final_completion()
        (streamed,) = final.choices[0].message.tool_calls
        assert (streamed.function.name, streamed.function.arguments) == (
            "get_weather",
            call.function.arguments,
        )
        assert not final.choices[0].message.content


def test_logprobs(client, service, saw, table, engine):
    with saw("logprobs"):
        whole = create(client, logprobs=True, top_logprobs=2, max_tokens=3)
        check_logprobs(whole)
        assert (
            len(client.completions.create(**COMPLETION, logprobs=1).choices[0].logprobs.token_logprobs) == 4
        )
    with saw("logprobs, streamed"):
        chunks = list(create(client, logprobs=True, top_logprobs=2, max_tokens=3, stream=True))
        found = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
        streamed = [token.token for logprobs in found for token in logprobs.content or []]
        assert streamed == [token.token for token in whole.choices[0].logprobs.content]
    echo = {**COMPLETION, "echo": True, "logprobs": 1}
    with saw("logprobs of the prompt (echo)"):
        client.completions.create(**echo)
    kept = "logprobs of the prompt (echo), LOGITS_ALL=1"
    if engine == "native":  # tests/unit/library/test_settings.py has the words
        table.note(engine, CLIENT, kept, "the setting is refused")
        return
    with saw(kept):
        choice = service("logprobs").openai.completions.create(**echo).choices[0]
        assert "".join(choice.logprobs.tokens) == choice.text
        assert choice.text.startswith("One, two, three,")
        assert len(choice.logprobs.token_logprobs) == 10


def check_logprobs(answer):
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)
    # at temperature 0 the most likely token is the one that comes
    assert all(token.top_logprobs[0].logprob == token.logprob for token in tokens)


def test_completions(client, saw):
    with saw("completions"):
        whole = client.completions.create(**COMPLETION)
        assert whole.choices[0].text
        assert whole.usage.completion_tokens == 4
    with saw("completions, streamed"):
        chunks = list(client.completions.create(**COMPLETION, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    with saw("completions with suffix"):
        client.completions.create(**COMPLETION, suffix=" ten")
    with saw("completions with several prompts"):
        client.completions.create(**{**COMPLETION, "prompt": ["a", "b"]})


RESPONSE: Any = {"model": "smollm2", "max_output_tokens": 6, "temperature": 0, "input": "Say hello"}
FLAT: Any = {"type": "function", "name": "paint", "strict": True, "parameters": SCHEMA}


def test_responses(client, saw):
    with saw("responses"):
        whole = client.responses.create(**RESPONSE)
        assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert whole.output_text
        assert whole.usage.output_tokens == 6
    with saw("responses, streamed"):
        events = list(client.responses.create(**RESPONSE, stream=True))
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == events[-1].response.output_text
        assert events[-1].response.usage.output_tokens == 6
    with saw("responses, JSON schema from a class, parsed into it"):
        parsed = client.responses.parse(**{**RESPONSE, "max_output_tokens": 40}, text_format=Thing)
        assert isinstance(parsed.output_parsed, Thing)
    with saw("responses, a function, named, streamed"):
        named = {"tools": [FLAT], "tool_choice": {"type": "function", "name": "paint"}}
        with client.responses.stream(**{**RESPONSE, **named, "max_output_tokens": 40}) as stream:
            (call,) = stream.get_final_response().output
        Thing.model_validate_json(call.arguments)
    with saw("responses, metadata, store"):
        assert client.responses.create(**RESPONSE, store=True, metadata={"a": "b"}).metadata == {"a": "b"}
    with saw("responses with previous_response_id"):
        client.responses.create(**RESPONSE, previous_response_id=whole.id)
    with saw("responses with a tool of OpenAI's own"):
        client.responses.create(**RESPONSE, tools=[{"type": "web_search"}])


def test_responses_of_an_agent(service, saw):
    client = service("tools").openai
    flat: Any = {"type": "function", "strict": False, **WEATHER["function"]}
    said: Any = [{"role": "user", "content": "The weather in Paris?"}]
    asked: Any = {**RESPONSE, "max_output_tokens": 45, "tools": [flat]}
    with saw("responses, the loop of an agent"):
        first = client.responses.create(**{**asked, "input": said})
        (call,) = [item for item in first.output if item.type == "function_call"]
        assert json.loads(call.arguments) == {"city": "Paris"}
        said += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}]
        assert client.responses.create(**{**asked, "input": said, "max_output_tokens": 6}).output


def test_embeddings(client, service, saw):
    with saw("embeddings on a chat model"):
        client.embeddings.create(model="smollm2", input="Hello")
    makes_them = service("embedding").openai
    with saw("embeddings, EMBEDDING=1"):
        answer = makes_them.embeddings.create(model="smollm2", input=["Hello", "you there"])
        assert [item.index for item in answer.data] == [0, 1]
        assert sum(value * value for value in answer.data[0].embedding) == pytest.approx(1, abs=1e-4)
        assert answer.usage.prompt_tokens > 1
        floats = makes_them.embeddings.create(model="smollm2", input="Hello", encoding_format="float")
        assert floats.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-5)
    with saw("chat on an embedding model"):
        create(makes_them)


def test_errors_are_the_exceptions_of_the_sdk(client, service, saw):
    stack = service("plain").stack
    with saw("a wrong key"), pytest.raises(openai.AuthenticationError) as raised:
        create(stack.client("sk-llm-" + "b" * 49))
    refused(saw, "a wrong key", raised)
    with pytest.raises(openai.NotFoundError) as raised:
        create(client, model="nosuch")
    refused(saw, "an unknown model", raised)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as raised:
            create(client, messages=[{"role": "user", "content": "word " * 2000}], stream=stream)
        refused(saw, "a prompt longer than the context", raised)
    with pytest.raises(openai.BadRequestError) as raised:
        create(client, temperature=3)
    assert raised.value.param == "temperature"
    refused(saw, "a value out of range", raised)
    limited = stack.client(stack.add_key(limit=2))
    with pytest.raises(openai.RateLimitError) as raised:
        for _ in range(3):
            create(limited, max_tokens=1)
    assert int(raised.value.response.headers["retry-after"]) > 0
    refused(saw, "more requests than allowed", raised)


def refused(saw, feature, raised):
    assert json.loads(raised.value.response.content)["error"].keys() == {"message", "type", "param", "code"}
    with saw(feature):
        raise raised.value
