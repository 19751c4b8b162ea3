"""A fresh machine serves OpenAI clients, counts what they do, and turns strangers away."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest

CHAT: dict[str, Any] = {
    "model": "current",
    "max_tokens": 8,
    "messages": [{"role": "user", "content": "Say hello"}],
}


def test_the_model_and_the_proxy_run_after_install(machine):
    assert machine.states("llama-server@smollm2", "auth-proxy", "auth-proxy.socket") == ["active"] * 3
    assert machine.out("systemctl", "--failed", "--no-legend") == ""


def test_a_chat_completion_answers_with_text_of_the_model(machine):
    answer = machine.post("/v1/chat/completions", CHAT, machine.key())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["choices"][0]["message"]["content"].strip()
    assert body["model"] == "smollm2"
    assert body["usage"]["completion_tokens"] > 0
    assert answer.headers["x-request-id"]


def test_the_sdk_lists_models_chats_and_streams(machine):
    with machine.network(), machine.openai(machine.key()) as client:
        assert {model.id for model in client.models.list()} >= {"smollm2", "current"}
        answer = client.chat.completions.create(**CHAT)
        assert answer.choices[0].message.content
        chunks = list(client.chat.completions.create(**CHAT, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).strip()
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


@pytest.mark.parametrize("key", [None, "-", "sk-llm-wrong", "sk-llm-" + "a" * 49])
def test_a_missing_or_wrong_key_is_401_in_openais_shape(machine, key):
    answer = machine.post("/v1/chat/completions", CHAT, key)
    assert answer.status_code == 401
    assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}


def test_the_sdk_raises_its_own_exceptions(machine):
    key = machine.add_user("limited", "--rate-limit", "2")
    with machine.network():
        with machine.openai("sk-llm-" + "b" * 49) as client, pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(**CHAT)
        with machine.openai(key) as client:
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(**{**CHAT, "model": "nosuch"})
            for _ in range(2):
                client.models.list()
            with pytest.raises(openai.RateLimitError):
                for _ in range(3):
                    client.chat.completions.create(**{**CHAT, "max_tokens": 1})


def test_a_disabled_user_is_refused_at_once_and_served_again_once_enabled(machine, measured):
    key = machine.add_user("doris")
    assert machine.post("/v1/chat/completions", CHAT, key).status_code == 200
    for verb, status in (("disable", 401), ("enable", 200)):
        machine.exec("llmsvc", "user", verb, "doris")
        told = time.monotonic()
        while machine.post("/v1/chat/completions", CHAT, key).status_code != status:
            assert time.monotonic() < told + 20, f"{verb} has no effect"
        measured(f"{machine.suite}: until {verb} counts", time.monotonic() - told)


def test_a_new_users_key_works_at_once_and_the_request_is_on_record(machine):
    key = machine.add_user("alice")
    answer = machine.post("/v1/chat/completions", CHAT, key)
    assert answer.status_code == 200, answer.text
    request = answer.headers["x-request-id"]
    usage = answer.json()["usage"]

    (entry,) = machine.journal("-u", "auth-proxy", "LLM_USER=alice", f"LLM_REQUEST_ID={request}")
    assert entry["LLM_STATUS"] == "200"
    assert entry["LLM_MODEL"] == "smollm2"

    deadline = time.monotonic() + 10
    while not (rows := machine.sql(f"select * from llama_requests where request_id = '{request}'")):
        assert time.monotonic() < deadline, "no row in llama_requests"
        time.sleep(0.2)
    (row,) = rows
    assert row["username"] == "alice"
    assert (row["path"], row["model"], row["status_code"]) == ("/v1/chat/completions", "smollm2", 200)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert row["request_bytes"] == int(answer.request.headers["content-length"])
    assert row["response_bytes"] == len(answer.content)
    # the proxy may come to take the time after its client
    assert 0 < row["duration_ms"] <= answer.elapsed.total_seconds() * 1000 + 5000
    assert int(entry["LLM_DURATION_MS"]) == row["duration_ms"]


def test_each_request_of_a_user_has_one_row(machine):
    key = machine.add_user("counted")
    statuses = [
        machine.post("/v1/chat/completions", {**CHAT, "model": model}, key).status_code
        for model in ("current", "nosuch", "smollm2")
    ]
    assert statuses == [200, 404, 200]
    deadline = time.monotonic() + 10
    query = "select status_code from llama_requests where username = 'counted' order by created_at"
    while len(rows := machine.sql(query)) < 3:
        assert time.monotonic() < deadline, rows
        time.sleep(0.2)
    assert [row["status_code"] for row in rows] == [200, 404, 200]
