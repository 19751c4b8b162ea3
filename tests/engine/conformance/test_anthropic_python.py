"""Anthropic's own SDK for Python: each feature does what the SDK promises, or is refused so."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from tests.engine.test_messages import PAINT, WEATHER

CLIENT = "anthropic (Python)"
MESSAGES: Any = [{"role": "user", "content": "Say hello"}]
BODY: Any = {"model": "smollm2", "max_tokens": 6, "messages": MESSAGES, "extra_body": {"temperature": 0}}
NAMED: Any = {"tools": [PAINT], "tool_choice": {"type": "tool", "name": "paint"}, "max_tokens": 40}
FORM: Any = {"format": {"type": "json_schema", "schema": PAINT["input_schema"]}}


@pytest.fixture
def saw(table, engine):
    return lambda feature: table.saw(engine, CLIENT, feature)


@pytest.fixture(scope="module")
def client(service):
    return service("plain").anthropic()


def create(client, **fields):
    return client.messages.create(**{**BODY, **fields})


def final(client, **fields):
    with client.messages.stream(**{**BODY, **fields}) as stream:
        return stream.get_final_message()


def test_models(client, saw):
    with saw("list of models"):
        assert "smollm2" in {model.id for model in client.models.list()}
        assert client.models.retrieve("smollm2").type == "model"


def test_messages(client, saw):
    with saw("chat"):
        whole = create(client)
        assert whole.content[0].text
        assert (whole.stop_reason, whole.usage.output_tokens) == ("max_tokens", 6)
    with saw("chat, streamed"):
        made = final(client)
        assert (made.content[0].text, made.usage) == (whole.content[0].text, whole.usage)
    with saw("content in parts"):
        parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello"}]
        assert create(client, messages=[{"role": "user", "content": parts}]).content
    with saw("an image"):
        source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
        create(client, messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])
    with saw("stop"):
        word = whole.content[0].text.split()[1]
        stopped = create(client, stop_sequences=[word])
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)
    with saw("tokens of a prompt, counted"):
        counted = client.messages.count_tokens(model="smollm2", messages=MESSAGES)
        assert counted.input_tokens == whole.usage.input_tokens


def test_json(client, saw):
    with saw("JSON schema"):
        answer = create(client, output_config=FORM, max_tokens=40)
        assert json.loads(answer.content[0].text)["colour"] in ("red", "blue")
    with saw("JSON schema, streamed"):
        json.loads(final(client, output_config=FORM, max_tokens=40).content[0].text)


def test_functions(client, service, saw):
    with saw("a function, named in tool_choice"):
        (block,) = create(client, **NAMED).content
        assert (block.type, block.name) == ("tool_use", "paint")
    with saw("a function, named, streamed"):
        (block,) = final(client, **NAMED).content
        assert block.input["colour"] in ("red", "blue")
    with saw("functions, the model's choice, of a model that knows none"):
        create(client, tools=[PAINT])
    asked: Any = {"tools": [WEATHER], "max_tokens": 45}
    asked["messages"] = [{"role": "user", "content": "The weather in Paris?"}]
    knows = service("tools").anthropic()
    with saw("functions, the model's choice"):
        whole = create(knows, **asked)
        assert (whole.stop_reason, whole.content[0].input) == ("tool_use", {"city": "Paris"})
    with saw("functions, the model's choice, streamed"):
        assert final(knows, **asked).content[0].input == {"city": "Paris"}
    with saw("a conversation with a function's result"):
        result = {"type": "tool_result", "tool_use_id": whole.content[0].id, "content": "sunny"}
        turns = [whole.to_param(), {"role": "user", "content": [result]}]
        assert create(knows, tools=[WEATHER], messages=[*asked["messages"], *turns]).stop_reason


def test_embeddings(service, saw):
    with saw("chat on an embedding model"):
        create(service("embedding").anthropic())


def test_errors_are_the_exceptions_of_the_sdk(client, service, saw):
    with pytest.raises(anthropic.AuthenticationError) as raised:
        create(service("plain").anthropic("sk-llm-" + "b" * 49))
    refused(saw, "a wrong key", raised)
    with pytest.raises(anthropic.NotFoundError) as raised:
        create(client, model="nosuch")
    refused(saw, "an unknown model", raised)
    for make in (create, final):
        with pytest.raises(anthropic.BadRequestError) as raised:
            make(client, messages=[{"role": "user", "content": "word " * 2000}])
        refused(saw, "a prompt longer than the context", raised)
    with pytest.raises(anthropic.BadRequestError) as raised:
        create(client, extra_body={"temperature": 3})
    refused(saw, "a value out of range", raised)
    limited = service("plain").anthropic(service("plain").stack.add_key(limit=2))
    with pytest.raises(anthropic.RateLimitError) as raised:
        for _ in range(3):
            create(limited, max_tokens=1)
    assert int(raised.value.response.headers["retry-after"]) > 0
    refused(saw, "more requests than allowed", raised)


def refused(saw, feature, raised):
    assert raised.value.body["type"] == "error"
    assert raised.value.body["request_id"] == raised.value.request_id
    with saw(feature):
        raise raised.value
