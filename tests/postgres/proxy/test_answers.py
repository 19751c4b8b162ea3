"""What clients get: the real OpenAI SDK and raw HTTP against a running proxy."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import httpx
import openai
import pytest

from llmsvc.accounts import keys
from llmsvc.proxy.refusals import A_MINUTE
from tests.postgres.proxy.clients import ENDLESS
from tests.postgres.proxy.conftest import wait_for

HELLO = [{"role": "user", "content": "say hello to me"}]


def body(**more: Any) -> dict[str, Any]:
    return {"model": "current", "messages": HELLO, **more}


def test_chat_answers_with_the_models_real_name_and_its_row_is_exact(stack: Any) -> None:
    key = stack.add_key("exact")
    with stack.http(key) as client:
        answer = client.post("/v1/chat/completions", json=body())
    assert answer.status_code == 200
    assert answer.json()["model"] == "mock"
    assert answer.json()["choices"][0]["message"]["content"].startswith("word0 word1")
    [row] = stack.rows("exact", 1)
    assert (row["state"], row["status_code"], row["model"]) == ("ok", 200, "mock")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (4, 8)
    assert row["response_bytes"] == len(answer.content)
    assert row["request_bytes"] == int(answer.request.headers["content-length"])
    assert str(row["request_id"]) == answer.headers["x-request-id"]
    assert str(row["client_addr"]) == "127.0.0.1"
    assert row["path"] == "/v1/chat/completions"
    assert 0 <= row["queue_ms"] <= row["first_token_ms"] <= row["duration_ms"] < 30_000


def test_the_loaded_model_says_what_it_can(stack: Any) -> None:
    with stack.http(stack.add_key()) as http:
        for model in http.get("/v1/models").json()["data"]:
            assert model["capabilities"] == ["chat", "completions"]


def test_sdk_lists_chats_streams_and_embeds(stack: Any) -> None:
    client = stack.client(stack.add_key())
    assert [model.id for model in client.models.list().data] == ["mock", "current"]
    assert client.models.retrieve("mock").max_model_len == 4096
    assert client.chat.completions.create(**body()).usage.completion_tokens == 8
    chunks = list(client.chat.completions.create(**body(stream=True)))
    assert "".join(c.choices[0].delta.content or "" for c in chunks).split()[-1] == "word7"
    assert client.embeddings.create(model="mock", input="a b c").usage.prompt_tokens == 3


def test_stream_gives_its_first_event_before_the_last_is_produced(stack: Any) -> None:
    key = stack.add_key()
    with stack.http(key) as client:
        # all of it takes longer than the client waits
        with client.stream("POST", "/v1/chat/completions", json=body(stream=True, mock=ENDLESS)) as r:
            assert "word0" in next(r.iter_lines())
    wait_for(lambda: not stack.mock()["running"])
    assert r.headers["content-type"].startswith("text/event-stream")
    assert r.headers["x-accel-buffering"] == "no"
    assert r.headers["cache-control"] == "no-cache"


def test_usage_chunk_only_for_those_who_asked_and_counted_always(stack: Any) -> None:
    client = stack.client(stack.add_key("usage"))
    plain = list(client.chat.completions.create(**body(stream=True)))
    assert all(chunk.usage is None and chunk.choices for chunk in plain)
    asked = list(client.chat.completions.create(**body(stream=True, stream_options={"include_usage": True})))
    assert asked[-1].usage.total_tokens == 12
    for row in stack.rows("usage", 2):
        assert (row["prompt_tokens"], row["completion_tokens"]) == (4, 8)


@pytest.mark.parametrize("made", ["none", "malformed", "unknown", "disabled", "expired"])
def test_no_valid_key_is_401_in_openais_shape(stack: Any, made: str) -> None:
    key = {"none": "", "malformed": "sk-llm-typo"}.get(made, keys.generate())
    if made in ("disabled", "expired"):
        key = stack.add_key(made)
        change = {
            "disabled": "UPDATE llama_users SET enabled = false WHERE username = %s",
            "expired": "UPDATE llama_api_keys SET expires_at = now() FROM llama_users u "
            "WHERE u.id = user_id AND u.username = %s",
        }
        stack.sql(change[made], made)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    # a second on a machine that is not busy; keys are read anew every 30
    deadline = time.monotonic() + 25
    while True:
        answer = httpx.post(
            f"{stack.url}/v1/chat/completions",
            json=body(),
            headers=headers,
            trust_env=False,
            verify=False,
            timeout=60,
        )
        if answer.status_code == 401 or time.monotonic() > deadline:
            break
    assert answer.status_code == 401, stack.log[-2000:]
    assert answer.headers["www-authenticate"] == "Bearer"
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert f"x-request-id: {answer.headers['x-request-id']}"
    with pytest.raises(openai.AuthenticationError):
        stack.client(key or "nothing").models.list()


def test_journal_has_refused_and_served_requests_but_neither_key_nor_prompt(stack: Any) -> None:
    key = stack.add_key("logged")
    stack.client(key).chat.completions.create(**body())
    with pytest.raises(openai.AuthenticationError):
        stack.client(keys.generate()).chat.completions.create(**body())
    assert "logged /v1/chat/completions 200" in stack.log
    assert "- /v1/chat/completions 401" in stack.log
    assert key not in stack.log
    assert "say hello" not in stack.log


def test_unknown_model_is_404_that_says_what_is_loaded(stack: Any) -> None:
    client = stack.client(stack.add_key("unknown-model"))
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**body() | {"model": "gpt-4"})
    assert caught.value.code == "model_not_found"
    assert "'mock'" in str(caught.value)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
    for name in ("mock", "mock.gguf", "current"):
        assert client.chat.completions.create(**body() | {"model": name}).model == "mock"
    states = [row["state"] for row in stack.rows("unknown-model", 4)]
    assert states == ["rejected_model", "ok", "ok", "ok"]


def test_other_paths_are_404_that_names_what_is_served(stack: Any) -> None:
    answer = httpx.post(
        f"{stack.url}/chat/completions", json=body(), trust_env=False, verify=False, timeout=60
    )
    assert answer.status_code == 404
    assert "/v1/chat/completions" in answer.json()["error"]["message"]
    wrong = httpx.get(f"{stack.url}/v1/chat/completions", trust_env=False, verify=False, timeout=60)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "OPTIONS, POST")


def test_past_the_limit_is_429_with_the_time_to_wait(stack: Any) -> None:
    client = stack.client(stack.add_key("limited", limit=2))
    for left in (1, 0):
        answer = client.chat.completions.with_raw_response.create(**body())
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**body())
    assert 58 <= int(caught.value.response.headers["retry-after"]) <= 60
    assert caught.value.response.headers["x-ratelimit-reset-requests"].endswith("s")
    assert [row["state"] for row in stack.rows("limited", 3)] == ["ok", "ok", "rejected_limit"]


def test_refused_requests_in_a_loop_do_not_fill_the_ledger(stack: Any) -> None:
    with stack.http(stack.add_key("looping", limit=1)) as http:
        statuses = [http.post("/v1/chat/completions", json=body()).status_code for _ in range(A_MINUTE + 40)]
    assert statuses == [200] + [429] * (A_MINUTE + 39)
    stack.client(stack.add_key("afterwards")).chat.completions.create(**body())
    assert len(stack.rows("afterwards", 1)) == 1  # and so all that came before it are there
    # a slow loop gets some back
    assert A_MINUTE + 1 <= len(stack.rows("looping", A_MINUTE + 1)) < A_MINUTE + 30


def test_hidden_user_is_outside_the_limits(stack: Any) -> None:
    client = stack.client(stack.add_key(hidden=True, limit=1))
    for _ in range(3):
        answer = client.chat.completions.with_raw_response.create(**body())
        assert "x-ratelimit-limit-requests" not in answer.headers


def test_bound_on_the_answer_is_added_only_where_the_client_gave_none(stack: Any) -> None:
    client = stack.client(stack.add_key())
    client.chat.completions.create(**body())
    client.chat.completions.create(**body(max_completion_tokens=3))
    client.chat.completions.create(**body(max_tokens=2))
    bodies = stack.mock()["bodies"][-3:]
    assert [b.get("max_tokens") for b in bodies] == [4096, None, 2]


@pytest.mark.parametrize(
    ("content", "status"), [(b"{", 400), (b"[]", 400), (b'{"model": 1}', 400), (b" " * 70000, 413)]
)
def test_bad_bodies_are_refused_in_openais_shape(stack: Any, content: bytes, status: int) -> None:
    user = f"bad{status}{len(content)}"
    with stack.http(stack.add_key(user)) as client:
        answer = client.post("/v1/chat/completions", content=content)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    [row] = stack.rows(user, 1)
    assert (row["state"], row["status_code"]) == ("rejected_request", status)


def test_a_compressed_body_is_refused_by_what_it_is(stack: Any) -> None:
    with stack.http(stack.add_key("zipped")) as client:
        packed = gzip.compress(json.dumps(body()).encode())
        answer = client.post("/v1/chat/completions", content=packed, headers={"content-encoding": "gzip"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")
        plain = {"content-encoding": "identity"}
        assert client.post("/v1/chat/completions", json=body(), headers=plain).status_code == 200
    assert [row["status_code"] for row in stack.rows("zipped", 2)] == [415, 200]


def test_error_of_the_backend_passes_through(stack: Any) -> None:
    client = stack.client(stack.add_key("passed"))
    with pytest.raises(openai.BadRequestError, match="the mock was told to fail"):
        client.chat.completions.create(**body(), extra_body={"mock": {"status": 400}})
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**body(stream=True), extra_body={"mock": {"status": 500}})
    rows = stack.rows("passed", 2)
    assert [(r["state"], r["status_code"]) for r in rows] == [("rejected_request", 400), ("error", 500)]


def test_stream_that_just_ends_is_an_error_not_a_short_answer(stack: Any) -> None:
    client = stack.client(stack.add_key("cut"))
    with pytest.raises(openai.APIError, match="stopped before"):
        list(client.chat.completions.create(**body(stream=True), extra_body={"mock": {"cut": 3}}))
    [row] = stack.rows("cut", 1)
    assert (row["state"], row["status_code"], row["completion_tokens"]) == ("error", 502, 3)


def test_health_and_ready_need_no_key_and_tell_little(stack: Any) -> None:
    assert httpx.get(f"{stack.url}/health", trust_env=False, verify=False, timeout=60).json() == {
        "status": "ok"
    }
    ready = httpx.get(f"{stack.url}/ready", trust_env=False, verify=False, timeout=60)
    assert (ready.status_code, ready.json()) == (200, {"ready": True})


def test_status_for_systemd_says_what_is_served(stack: Any) -> None:
    stack.client(stack.add_key()).chat.completions.create(**body())
    assert "serving mock, 0 running, 0 waiting; database ok" in stack.wait_notified("database ok")


def test_state_on_disk_holds_no_key_and_only_we_may_read_it(stack: Any) -> None:
    key = stack.add_key()
    for name in ("keys.json", "ledger.spool"):
        file = stack.state / name
        assert file.stat().st_mode & 0o077 == 0
        assert key.encode() not in file.read_bytes()
    assert json.loads((stack.state / "keys.json").read_text())["keys"]
