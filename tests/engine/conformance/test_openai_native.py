"""What only the engine native has, through a proxy, with OpenAI's SDK for Python."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.engine.conformance.test_openai_python import CHAT, CLIENT, COMPLETION, RESPONSE, create, joined
from tests.engine.test_thinking import ANSWER, THOUGHT
from tests.engine.test_tools import TOOL as WEATHER

pytestmark = pytest.mark.engine("native")

THINK: Any = [{"role": "user", "content": "Think"}]
ASKED: Any = {"messages": [{"role": "user", "content": "The weather in Paris?"}], "tools": [WEATHER]}


@pytest.fixture
def saw(table):
    return lambda feature: table.saw("native", CLIENT, f"{feature}, ENGINE=native")


def test_thinking(service, saw):
    client = service("thinks").openai
    assert "reasoning" in client.models.retrieve("current").to_dict()["capabilities"]
    with saw("thinking told apart"):
        answer = create(client, messages=THINK, max_tokens=40)
        message = answer.choices[0].message
        assert (message.reasoning_content.strip(), message.content) == (THOUGHT, ANSWER)
        assert answer.usage.completion_tokens_details.reasoning_tokens > 0
        short = create(client, messages=THINK, max_tokens=40, extra_body={"thinking_budget_tokens": 2})
        assert len(short.choices[0].message.reasoning_content) < len(message.reasoning_content)
        silent = {"chat_template_kwargs": {"enable_thinking": False}}
        message = create(client, messages=THINK, max_tokens=40, extra_body=silent).choices[0].message
        assert (message.content, message.to_dict().get("reasoning_content")) == (ANSWER, None)
    with saw("thinking told apart, streamed"):
        chunks = list(create(client, messages=THINK, max_tokens=40, stream=True))
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        assert (thought.strip(), joined(chunks)) == (THOUGHT, ANSWER)
    with saw("thinking in responses"):
        response = client.responses.create(**{**RESPONSE, "input": "Think", "max_output_tokens": 40})
        assert [item.type for item in response.output] == ["reasoning", "message"]
        assert response.output[0].content[0].text.strip() == THOUGHT


def test_several_calls_at_once(service, saw):
    client = service("calls twice").openai
    with saw("several calls at once"):
        for stream in (False, True):
            cities = called(client, stream)
            assert cities[:2] == ["Paris", "Rome"], cities
        assert called(client, False, parallel_tool_calls=False) == ["Paris"]


def called(client, stream, **fields):
    asked = {**CHAT, **ASKED, "max_tokens": 64, **fields}
    if not stream:
        calls = client.chat.completions.create(**asked).choices[0].message.tool_calls
        assert len({call.id for call in calls}) == len(calls)
        return [json.loads(call.function.arguments)["city"] for call in calls]
    with client.chat.completions.stream(**asked) as events:
        calls = events.get_final_completion().choices[0].message.tool_calls
    return [json.loads(call.function.arguments)["city"] for call in calls]


def test_a_suffix(service, saw):
    client = service("fills").openai
    with saw("completions with suffix, of a model for it"):
        whole = client.completions.create(**COMPLETION, suffix=" ten")
        assert whole.choices[0].text
        chunks = list(client.completions.create(**COMPLETION, suffix=" ten", stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
        assert whole.usage.prompt_tokens > client.completions.create(**COMPLETION).usage.prompt_tokens


def test_a_reranker(service, saw):
    given = service("ranks")
    key = given.stack.add_key("ranks")
    with saw("documents ranked, RERANK=1"), given.stack.http(key) as http:
        body = {"model": "current", "query": "a cat", "documents": ["a dog", "the cat"], "top_n": 1}
        answer = http.post("/v1/rerank", json=body)
        assert answer.status_code == 200, answer.text
        (result,) = answer.json()["results"]
        assert result["index"] in (0, 1)
        [row] = given.stack.rows("ranks", 1)
        assert row["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"] > 10
    with saw("chat on a reranker"):
        create(given.openai)
