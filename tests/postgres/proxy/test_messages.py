"""Anthropic's API through a running proxy: its SDK, its errors, and all that other model paths have."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import pytest

from llmsvc.accounts import keys
from tests.postgres.proxy.clients import ENDLESS, HELLO, background, open_stream, post
from tests.postgres.proxy.conftest import wait_for

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"


def client(stack: Any, key: str, **more: Any) -> anthropic.Anthropic:
    http = stack.exits.enter_context(httpx2.Client(trust_env=False, verify=False))
    return anthropic.Anthropic(base_url=stack.url, api_key=key, max_retries=0, http_client=http, **more)


def body(**more: Any) -> dict[str, Any]:
    return {"model": "current", "max_tokens": 20, "messages": HELLO, **more}


def create(stack: Any, key: str, mock: dict[str, Any] | None = None, **more: Any) -> Any:
    return client(stack, key).messages.create(**body(**more), extra_body={"mock": mock or {}})


def ask(stack: Any, path: str = MESSAGES, headers: dict[str, str] | None = None, **more: Any) -> Any:
    return httpx.post(
        f"{stack.url}{path}", json=body(**more), headers=headers, trust_env=False, verify=False, timeout=30
    )


def check_error(answer: Any, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    assert told.keys() - {"usage"} == {"type", "error", "request_id"}
    assert (told["type"], told["error"]["type"]) == ("error", kind)
    assert told["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
    return dict(told["error"])


def test_a_message_is_answered_and_its_row_is_exact(stack: Any) -> None:
    answer = create(stack, stack.add_key("anthropic"))
    assert answer.content[0].text.startswith("word0 word1")
    assert (answer.model, answer.stop_reason) == ("mock", "end_turn")
    [row] = stack.rows("anthropic", 1)
    assert (row["state"], row["status_code"], row["model"], row["path"]) == ("ok", 200, "mock", MESSAGES)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (4, 8)
    assert str(row["request_id"]) == answer._request_id


def test_a_stream_is_passed_event_by_event_and_its_row_is_exact(stack: Any) -> None:
    with client(stack, stack.add_key("streams")).messages.stream(**body()) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert final.content[0].text.split()[-1] == "word7"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (4, 8)
    [row] = stack.rows("streams", 1)
    assert (row["state"], row["prompt_tokens"], row["completion_tokens"]) == ("ok", 4, 8)
    assert 0 <= row["first_token_ms"] <= row["duration_ms"]


def test_tokens_are_counted_and_cost_none(stack: Any) -> None:
    sdk = client(stack, stack.add_key("counts"))
    assert sdk.messages.count_tokens(model="current", messages=HELLO).input_tokens == 4
    [row] = stack.rows("counts", 1)
    assert (row["path"], row["state"], row["prompt_tokens"]) == (COUNT, "ok", None)


def test_counts_take_no_slot_and_each_user_has_one_at_a_time(make_stack: Any) -> None:
    stack = make_stack(LLAMA_PROXY_RATE_LIMIT=9)
    stack.start_backend()
    stack.start_proxy()
    stack.wait_served()
    key, other = stack.add_key("eager"), stack.add_key("other", tokens_per_minute=1000)

    def count(key: str, path: str = COUNT, **mock: Any) -> httpx.Response:
        shown = {"authorization": f"Bearer {key}"}
        fields = {"input": "Hi there", "messages": HELLO, "mock": mock}
        return httpx.post(
            f"{stack.url}{path}", headers=shown, json=fields, timeout=20, trust_env=False, verify=False
        )

    def seen() -> dict[str, Any]:
        transport = httpx.HTTPTransport(uds=str(stack.root / "run" / "mock" / "http.sock"), verify=False)
        with httpx.Client(transport=transport, verify=False, base_url="http://mock") as mock:
            return dict(mock.get("/mock").json())

    # the one slot is taken until the end, by one whose tokens are limited
    with concurrent.futures.ThreadPoolExecutor(8) as pool, open_stream(stack, other):
        for path in (COUNT, "/v1/responses/input_tokens"):
            assert count(other, path).json()["input_tokens"] > 0
        slow = [pool.submit(count, key, silent=0.3) for _ in range(4)]
        assert count(other).status_code == 200
        assert [one.result().status_code for one in slow] == [200] * 4
        assert seen()["counting_peak"] <= 2, "one of each"
        # who leaves is gone
        with pytest.raises(httpx.ReadTimeout):
            asked = {"messages": HELLO, "mock": {"silent": 60}}
            with stack.http(key, timeout=2) as client:
                client.post(COUNT, json=asked)
        assert count(key).status_code == 200
        # within the limit of requests
        refused = [count(key).status_code for _ in range(4)]
        assert 429 in refused
        assert len(seen()["running"]) == 1, "the model was busy all the time"
    assert {row["state"] for row in stack.rows("eager", 9)} >= {"ok", "client_gone"}


def test_counts_are_held_while_no_model_is_ready(make_stack: Any) -> None:
    stack = make_stack(LLAMA_PROXY_HOLD_SECONDS=30)
    stack.start_proxy()
    key = stack.add_key("early")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        counts = [pool.submit(ask, stack, COUNT, {"x-api-key": key}) for _ in range(2)]
        with stack.http(key) as client:
            wait_for(lambda: client.get("/v1/queue").json()["waiting"] == 2)
        stack.start_backend()
        assert [one.result().status_code for one in counts] == [200, 200]
    assert [row["queue_ms"] > 0 for row in stack.rows("early", 2)] == [True, True]


def test_the_models_are_listed_for_its_sdk_too(stack: Any) -> None:
    sdk = client(stack, stack.add_key())
    models = list(sdk.models.list())
    assert [model.id for model in models] == [model.display_name for model in models] == ["mock", "current"]
    assert models[0].type == "model" and models[0].created_at.tzinfo
    assert sdk.models.retrieve("mock").id == "mock"


def test_the_key_may_come_in_either_header_and_only_here(stack: Any) -> None:
    key = stack.add_key()
    bearer = {"authorization": f"Bearer {key}"}
    for headers in ({"x-api-key": key}, bearer, {**bearer, "x-api-key": "sk-ant-of-another-server"}):
        tolerated = {"anthropic-version": "2023-06-01", "anthropic-beta": "x"}
        assert ask(stack, "/v1/messages?beta=true", {**headers, **tolerated}).status_code == 200
    assert ask(stack, headers={"x-api-key": key, "authorization": "Bearer nonsense"}).status_code == 200
    assert ask(stack, "/v1/chat/completions", {"x-api-key": key}).status_code == 401


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
def test_errors_have_anthropics_shape_and_are_its_sdks_exceptions(stack: Any, path: str) -> None:
    key = stack.add_key()
    shown = {"x-api-key": key}
    assert "x-api-key" in check_error(ask(stack, path), 401, "authentication_error")["message"]
    wrong = check_error(ask(stack, path, {"x-api-key": keys.generate()}), 401, "authentication_error")
    assert wrong["details"] == {"error_code": "invalid_api_key"}
    missing = check_error(ask(stack, path, shown, model="claude"), 404, "not_found_error")
    assert "'mock'" in missing["message"]
    check_error(ask(stack, path, shown, model=7), 400, "invalid_request_error")
    check_error(ask(stack, path, shown, system="x" * 70000), 413, "request_too_large")
    check_error(
        httpx.get(stack.url + path, trust_env=False, verify=False, timeout=60), 405, "invalid_request_error"
    )
    broken = httpx.post(
        stack.url + path, content=b"{", headers=shown, trust_env=False, verify=False, timeout=60
    )
    check_error(broken, 400, "invalid_request_error")
    barred = {"x-api-key": stack.add_key(models=["another"])}
    check_error(ask(stack, path, barred), 403, "permission_error")
    sdk = client(stack, keys.generate())
    with pytest.raises(anthropic.AuthenticationError):
        sdk.messages.create(**body())
    with pytest.raises(anthropic.NotFoundError) as raised:
        create(stack, key, model="claude")
    assert raised.value.error_code == "model_not_found"
    with pytest.raises(anthropic.InternalServerError):
        create(stack, key, {"status": 500})


def test_limits_are_rate_limit_errors_that_say_when_to_come_again(stack: Any) -> None:
    key = stack.add_key("limited", limit=1)
    create(stack, key)
    with pytest.raises(anthropic.RateLimitError) as raised:
        create(stack, key)
    assert int(raised.value.response.headers["retry-after"]) > 0
    check_error(raised.value.response, 429, "rate_limit_error")
    assert [row["status_code"] for row in stack.rows("limited", 2)] == [200, 429]
    few = stack.add_key(tokens_per_minute=9)
    # only the backend knows how long its prompt is
    assert create(stack, few).usage.output_tokens == 5
    assert "tokens" in check_error(ask(stack, headers={"x-api-key": few}), 429, "rate_limit_error")["message"]
    fewer = {"x-api-key": stack.add_key(tokens_per_minute=3)}
    assert "4 tokens" in check_error(ask(stack, headers=fewer), 400, "invalid_request_error")["message"]


def test_answers_are_bounded_and_what_has_no_bound_is_the_backends_business(stack: Any) -> None:
    key = stack.add_key(max_tokens=5)
    assert create(stack, key).usage.output_tokens == 5
    assert create(stack, key, max_tokens=3).usage.output_tokens == 3
    for most in (None, 0, -1):
        ask(stack, headers={"x-api-key": key}, max_tokens=most)
        assert stack.mock()["bodies"][-1]["max_tokens"] == most
    for wrong in (True, "9"):
        assert ask(stack, headers={"x-api-key": key}, max_tokens=wrong).status_code == 400


def test_who_leaves_frees_the_model_and_pays_what_was_made(stack: Any) -> None:
    with create(stack, stack.add_key("leaves"), ENDLESS, stream=True) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                break
    wait_for(lambda: not stack.mock()["running"])
    [row] = stack.rows("leaves", 1)
    assert (row["state"], row["prompt_tokens"]) == ("client_gone", 4)
    assert row["completion_tokens"] >= 1


def test_a_request_is_seen_and_cancelled_by_its_user(stack: Any) -> None:
    key = stack.add_key()
    events = iter(create(stack, key, ENDLESS, stream=True, max_tokens=10000))
    assert next(events).type == "message_start"
    with stack.http(key) as http:
        [entry] = http.get("/v1/queue").json()["data"]
        assert entry["state"] == "running"
        assert http.post(f"/v1/requests/{entry['id']}/cancel").status_code == 200
    with pytest.raises(anthropic.APIStatusError) as raised:
        list(events)
    assert raised.value.body["error"]["type"] == "permission_error"
    assert raised.value.error_code == "request_cancelled"


def test_a_wait_has_pings_and_what_fails_after_one_is_an_event(
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
    with httpx.stream(
        "POST",
        stack.url + MESSAGES,
        json=body(stream=True, mock={"status": 400}),
        headers={"x-api-key": key},
        timeout=30,
        trust_env=False,
        verify=False,
    ) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_text()
        text = next(pieces)
        go_on.touch()
        *pings, failed = [event for event in (text + "".join(pieces)).split("\n\n") if event]
    assert set(pings) == {'event: ping\ndata: {"type": "ping"}'}
    assert failed.startswith("event: error\ndata: ")
    assert json.loads(failed.partition("data: ")[2])["type"] == "error"
    assert before.result(30).status_code == 200
    assert [row["status_code"] for row in stack.rows("waits", 2)] == [200, 400]


def test_a_request_is_held_until_a_model_is_ready(running: Any) -> None:
    key = running.add_key()
    running.stop_backend()
    with running.http(running.served_key) as http:
        waits = background(lambda: create(running, key))
        wait_for(lambda: http.get("/v1/queue").json()["waiting"] == 1)
        running.start_backend("other")
    assert waits.result(30).model == "other"


def test_a_stream_that_is_cut_ends_with_an_error_event(running: Any) -> None:
    """By a crash of the model, and by the stop of the proxy, once its drain time is over."""
    key = running.add_key("cut")
    with pytest.raises(anthropic.APIStatusError) as raised:
        list(create(running, key, {"tokens": 5, "die": 2}, stream=True))
    assert (raised.value.body["error"]["type"], raised.value.error_code) == ("api_error", "upstream_lost")
    running.crash_backend()
    running.start_backend()
    running.wait_served()
    events = iter(create(running, key, ENDLESS, stream=True, max_tokens=10000))
    assert next(events).type == "message_start"
    assert running.stop_proxy() == 0
    with pytest.raises(anthropic.APIStatusError) as raised:
        list(events)
    assert raised.value.body["error"]["type"] == "overloaded_error"
    assert [row["status_code"] for row in running.rows("cut", 2)] == [502, 503]
