"""OpenAI's Responses API through a running proxy: all that other model paths have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from llmsvc.accounts import keys
from tests.postgres.proxy.clients import ENDLESS, background, post
from tests.postgres.proxy.conftest import wait_for

PATH = "/v1/responses"
INPUT = "say hello to me"


def create(stack: Any, key: str, mock: dict[str, Any] | None = None, **more: Any) -> Any:
    asked = {"model": "current", "input": INPUT, **more}
    return stack.client(key).responses.create(**asked, extra_body={"mock": mock or {}})


def ask(stack: Any, key: str, **more: Any) -> Any:
    with stack.http(key) as http:
        return http.post(PATH, json={"input": INPUT, **more})


def test_an_answer_and_its_row_are_exact(stack: Any) -> None:
    answer = create(stack, stack.add_key("whole"), metadata={"usage": '"usage":{"input_tokens":999}'})
    assert answer.output_text.startswith("word0 word1")
    assert (answer.model, answer.status) == ("mock", "completed")
    [row] = stack.rows("whole", 1)
    assert (row["state"], row["status_code"], row["model"], row["path"]) == ("ok", 200, "mock", PATH)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (4, 8)
    assert str(row["request_id"]) == answer._request_id


@pytest.mark.parametrize("most", [None, 3])
def test_a_stream_is_passed_event_by_event_and_its_row_is_exact(stack: Any, most: int | None) -> None:
    name, count = ("bounded", most) if most else ("streams", 8)
    more = {"max_output_tokens": most} if most else {}
    events = list(create(stack, stack.add_key(name), stream=True, **more))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert "".join(event.delta for event in events[1:-1]) == events[-1].response.output_text
    assert events[-1].response.usage.output_tokens == count
    [row] = stack.rows(name, 1)
    assert (row["state"], row["prompt_tokens"], row["completion_tokens"]) == ("ok", 4, count)
    assert 0 <= row["first_token_ms"] <= row["duration_ms"]


def test_events_come_before_the_last_is_produced(stack: Any) -> None:
    with create(stack, stack.add_key(), ENDLESS, stream=True) as events:
        kinds = [next(events).type for _ in range(3)]
    assert kinds == ["response.created", "response.output_text.delta", "response.output_text.delta"]


def test_tokens_are_counted_and_cost_none(stack: Any) -> None:
    sdk = stack.client(stack.add_key("counts"))
    assert sdk.responses.input_tokens.count(model="current", input=INPUT).input_tokens == 4
    [row] = stack.rows("counts", 1)
    assert (row["path"], row["state"], row["prompt_tokens"]) == (f"{PATH}/input_tokens", "ok", None)


def test_errors_are_the_exceptions_of_the_sdk(stack: Any) -> None:
    key = stack.add_key()
    with pytest.raises(openai.AuthenticationError):
        create(stack, keys.generate())
    with pytest.raises(openai.NotFoundError) as raised:
        create(stack, key, model="gpt-5")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.InternalServerError):
        create(stack, key, {"status": 500})
    with pytest.raises(openai.BadRequestError):
        create(stack, key, max_output_tokens=True)
    # an answer is not kept, and so not to be had again
    with pytest.raises(openai.NotFoundError, match="not kept here"):
        stack.client(key).responses.retrieve("resp_1")


def test_limits_hold_here_too(stack: Any) -> None:
    key = stack.add_key("limited", limit=1)
    create(stack, key)
    with pytest.raises(openai.RateLimitError) as raised:
        create(stack, key)
    assert int(raised.value.response.headers["retry-after"]) > 0
    assert [row["status_code"] for row in stack.rows("limited", 2)] == [200, 429]
    few = stack.add_key(tokens_per_minute=9)
    assert create(stack, few).usage.output_tokens == 5
    with pytest.raises(openai.RateLimitError, match="tokens"):
        create(stack, few)
    with pytest.raises(openai.BadRequestError, match="4 tokens"):
        create(stack, stack.add_key(tokens_per_minute=3))


def test_answers_are_bounded(stack: Any) -> None:
    key = stack.add_key(max_tokens=5)
    assert create(stack, key).usage.output_tokens == 5
    assert create(stack, key, max_output_tokens=3).usage.output_tokens == 3
    assert create(stack, key, max_output_tokens=300).usage.output_tokens == 5
    create(stack, stack.add_key())
    assert stack.mock()["bodies"][-1]["max_output_tokens"] == 4096
    assert "max_tokens" not in stack.mock()["bodies"][-1]


def test_who_leaves_frees_the_model_and_pays_what_was_made(stack: Any) -> None:
    with create(stack, stack.add_key("leaves"), ENDLESS, stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break
    wait_for(lambda: not stack.mock()["running"])
    [row] = stack.rows("leaves", 1)
    assert (row["state"], row["prompt_tokens"]) == ("client_gone", 4)
    assert row["completion_tokens"] >= 1


def test_a_request_is_seen_and_cancelled_by_its_user(stack: Any) -> None:
    key = stack.add_key()
    events = iter(create(stack, key, ENDLESS, stream=True, max_output_tokens=10000))
    assert next(events).type == "response.created"
    with stack.http(key) as http:
        [entry] = http.get("/v1/queue").json()["data"]
        assert entry["state"] == "running"
        assert http.post(f"/v1/requests/{entry['id']}/cancel").status_code == 200
    with pytest.raises(openai.APIError) as raised:
        list(events)
    assert raised.value.code == "request_cancelled"


def test_a_wait_has_comments_and_what_fails_after_one_is_an_event(
    make_stack: Callable[..., Any], tmp_path: Path
) -> None:
    stack = make_stack()
    stack.start_backend()
    stack.start_proxy(SILENCE_SECONDS="0.5")
    stack.wait_served()
    key = stack.add_key("waits")
    go_on = tmp_path / "go on"
    before = background(lambda: post(stack, key, mock={"until": str(go_on), "tokens": 1}))
    wait_for(lambda: stack.mock()["running"])
    with stack.http(key) as http:
        asked = {"input": INPUT, "stream": True, "mock": {"status": 400}}
        with http.stream("POST", PATH, json=asked) as answer:
            assert answer.status_code == 200
            pieces = answer.iter_text()
            text = next(pieces)
            go_on.touch()
            *alive, failed = [event for event in (text + "".join(pieces)).split("\n\n") if event]
    assert set(alive) == {":"}
    assert failed.startswith("event: error\ndata: ")
    told = json.loads(failed.partition("data: ")[2])
    assert (told["type"], told["code"], told["error"]["code"]) == ("error", "400", "400")
    assert before.result(30).status_code == 200
    assert [row["status_code"] for row in stack.rows("waits", 2)] == [200, 400]


def test_a_stream_that_is_cut_ends_with_an_error_event(running: Any) -> None:
    """By a crash of the model, and by the stop of the proxy, once its drain time is over."""
    key = running.add_key("cut")
    with pytest.raises(openai.APIError) as raised:
        list(create(running, key, {"tokens": 5, "die": 2}, stream=True))
    assert raised.value.code == "upstream_lost"
    running.crash_backend()
    running.start_backend()
    running.wait_served()
    events = iter(create(running, key, ENDLESS, stream=True, max_output_tokens=10000))
    assert next(events).type == "response.created"
    assert running.stop_proxy() == 0
    with pytest.raises(openai.APIError) as raised:
        list(events)
    assert raised.value.code == "restarting"


def test_a_model_that_is_stopped_in_the_middle_is_a_switch_in_the_ledger(
    make_stack: Callable[..., Any],
) -> None:
    stack = make_stack()
    stack.start_backend("mock", "--drain", "0.1")
    stack.start_proxy()
    stack.wait_served()
    events = iter(create(stack, stack.add_key("switched"), ENDLESS, stream=True, max_output_tokens=10000))
    assert next(events).type == "response.created"
    assert next(events).type == "response.output_text.delta"
    stack.stop_backend()
    with pytest.raises(openai.APIError) as raised:
        list(events)
    assert raised.value.code == "model_stopping"
    [row] = stack.rows("switched", 1)
    assert (row["state"], row["status_code"], row["prompt_tokens"]) == ("switched", 503, 4)
    assert row["completion_tokens"] >= 1
