"""LangChain's ChatOpenAI, as applications use it."""

from __future__ import annotations

import functools
import operator
from typing import Literal

import httpx
import openai
import pydantic
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.engine.test_tools import TOOL as WEATHER

CLIENT = "langchain-openai"


class Thing(pydantic.BaseModel):
    """A thing with a colour."""

    colour: Literal["red", "blue"]


@pytest.fixture
def saw(table, engine):
    return lambda feature: table.saw(engine, CLIENT, feature)


@pytest.fixture
def make(service):
    def chat(name="plain", **fields):
        given = service(name)
        return ChatOpenAI(
            base_url=given.url,
            api_key=fields.pop("api_key", given.key),
            model=fields.pop("model", "smollm2"),
            max_retries=0,
            http_client=given.stack.exits.enter_context(httpx.Client(trust_env=False, verify=False)),
            **{"temperature": 0, "max_tokens": 40, **fields},
        )

    return chat


def test_chat(make, saw):
    with saw("chat"):
        answer = make().invoke([SystemMessage("Be brief."), HumanMessage("Say hello")])
        assert answer.content
        assert answer.usage_metadata["total_tokens"] > answer.usage_metadata["output_tokens"] > 0
    with saw("chat, streamed"):
        chunks = list(make().stream([SystemMessage("Be brief."), HumanMessage("Say hello")]))
        assert "".join(chunk.content for chunk in chunks) == answer.content
    with saw("usage in a stream, where asked for"):
        chunks = list(make(stream_usage=True).stream("Hi"))
        assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0
    with saw("stop"):
        assert "\n" not in make(stop=["\n"]).invoke("Write a poem of two lines").content


def test_json(make, saw):
    with saw("JSON schema from a class, parsed into it"):
        assert isinstance(make().with_structured_output(Thing, method="json_schema").invoke("A thing"), Thing)


def test_functions(make, saw):
    with saw("a function, named in tool_choice"):
        answer = make().bind_tools([Thing], tool_choice="Thing").invoke("A thing")
        assert answer.tool_calls[0]["name"] == "Thing"
        Thing.model_validate(answer.tool_calls[0]["args"])
    with saw("a function, named, streamed"):
        chunks = make().bind_tools([Thing], tool_choice="Thing").stream("A thing")
        gathered = functools.reduce(operator.add, chunks)
        assert [call["name"] for call in gathered.tool_calls] == ["Thing"]
        Thing.model_validate(gathered.tool_calls[0]["args"])
    with saw("functions, the model's choice, of a model that knows none"):
        make().bind_tools([Thing]).invoke("A thing")
    with saw("functions, the model's choice"):
        (call,) = make("tools").bind_tools([WEATHER]).invoke("The weather in Paris?").tool_calls
        assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    with saw("functions, the model's choice, streamed"):
        chunks = make("tools").bind_tools([WEATHER]).stream("The weather in Paris?")
        gathered = functools.reduce(operator.add, chunks)
        assert [call["args"] for call in gathered.tool_calls] == [{"city": "Paris"}]
    with saw("a conversation with a function's result"):
        call = {"name": "Thing", "args": {"colour": "red"}, "id": "c1"}
        said = [
            HumanMessage("A thing"),
            AIMessage("", tool_calls=[call]),
            ToolMessage("done", tool_call_id="c1"),
        ]
        assert make(max_tokens=4).invoke(said).response_metadata["finish_reason"]


def test_logprobs(make, saw):
    with saw("logprobs"):
        answer = make(max_tokens=2).bind(logprobs=True).invoke("Hi")
        assert len(answer.response_metadata["logprobs"]["content"]) == 2


def test_embeddings(service, saw):
    with saw("embeddings, EMBEDDING=1"):
        given = service("embedding")
        with httpx.Client(trust_env=False, verify=False) as http:
            # it would else download OpenAI's tokenizer and send the numbers of OpenAI's tokens
            maker = OpenAIEmbeddings(
                base_url=given.url, api_key=given.key, model="smollm2", http_client=http, max_retries=0,
                check_embedding_ctx_length=False,
            )  # fmt: skip
            vectors = maker.embed_documents(["Hello", "you there"])
        assert [len(vector) for vector in vectors] == [576, 576]


def test_errors_are_the_exceptions_of_the_sdk(make, saw):
    for feature, fields, kind in [
        ("a wrong key", {"api_key": "sk-llm-" + "b" * 49}, openai.AuthenticationError),
        ("an unknown model", {"model": "nosuch"}, openai.NotFoundError),
        ("a value out of range", {"temperature": 3}, openai.BadRequestError),
    ]:
        with pytest.raises(kind) as raised:
            make(**fields).invoke("Hi")
        with saw(feature):
            raise raised.value
    with pytest.raises(openai.BadRequestError) as raised:
        make().invoke("word " * 2000)
    with saw("a prompt longer than the context"):
        raise raised.value


def test_responses(make, service, saw):
    with saw("responses"):
        answer = make(use_responses_api=True).invoke([SystemMessage("Be brief."), HumanMessage("Say hello")])
        assert answer.text
        assert answer.usage_metadata["output_tokens"] > 0
    with saw("responses, streamed"):
        chunks = make(use_responses_api=True).stream([SystemMessage("Be brief."), HumanMessage("Say hello")])
        assert "".join(chunk.text for chunk in chunks) == answer.text
    with saw("responses, the loop of an agent"):
        model = make("tools", use_responses_api=True).bind_tools([WEATHER])
        said = [HumanMessage("The weather in Paris?")]
        called = model.invoke(said)
        (call,) = called.tool_calls
        assert call["args"] == {"city": "Paris"}
        assert model.invoke([*said, called, ToolMessage("Sunny", tool_call_id=call["id"])])
