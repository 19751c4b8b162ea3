"""Limits, front ends, weights, the view of the queue, and metrics, in a real proxy."""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmsvc import paths
from llmsvc.cli import main, session
from tests.postgres.proxy.conftest import wait_for

CHAT = "/v1/chat/completions"


def body(words: int = 3, **mock: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "word " * words}], "mock": mock}


def ask(
    stack: Any, key: str, words: int = 3, headers: dict[str, str] | None = None, **more: Any
) -> httpx.Response:
    mock = more.pop("mock", {"tokens": 2})
    with stack.http(key) as client:
        return client.post(CHAT, json={**body(words, **mock), **more}, headers=headers)


@contextlib.contextmanager
def busy(stack: Any, key: str, count: int = 1, **mock: object) -> Iterator[list[httpx.Response]]:
    """Some requests that run, or wait, within."""
    answers: list[httpx.Response] = []
    with stack.http(key, timeout=60) as client:

        def send() -> None:
            answers.append(client.post(CHAT, json=body(**{"tokens": 1, "silent": 1.5, **mock})))

        threads = [threading.Thread(target=send) for _ in range(count)]
        for thread in threads:
            thread.start()
        with stack.http(stack.served_key) as ours:
            wait_for(lambda: len(ours.get("/v1/queue").json()["data"]) >= count)
        yield answers
        for thread in threads:
            thread.join()


def test_more_requests_at_once_than_allowed_are_refused(stack: Any) -> None:
    key = stack.add_key(concurrent=1)
    with busy(stack, key) as answers:
        refused = ask(stack, key)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.headers["x-ratelimit-remaining-requests"] == "999"
    assert answers[0].status_code == 200
    assert ask(stack, key).status_code == 200


def test_parallel_requests_are_not_one_too_many(stack: Any) -> None:
    key = stack.add_key("eager", limit=10)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(stack, key).status_code, range(48)))
    assert (answers.count(200), answers.count(429)) == (10, 38)
    assert len(stack.rows("eager", 48)) == 48


def test_parallel_requests_take_no_token_too_many(make_stack: Any) -> None:
    stack = make_stack(LLAMA_PROXY_RATE_LIMIT=100000, LLAMA_PROXY_QUEUE_PER_USER=1000)
    stack.start_backend("mock", "--slots", "8")
    stack.start_proxy()
    stack.wait_served()
    # 5 of the prompt, and up to 7 of the answer
    key = stack.add_key("careful", tokens_per_minute=100)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(stack, key, 5, mock={"tokens": 7}), range(40)))
    assert {answer.status_code for answer in answers} == {200, 429}
    used = [answer.json()["usage"]["total_tokens"] for answer in answers if answer.status_code == 200]
    rows = stack.rows("careful", 40)
    assert sum(used) == sum((row["prompt_tokens"] or 0) + (row["completion_tokens"] or 0) for row in rows)
    # what is left is too little for a prompt and one token
    assert 100 - 5 <= sum(used) <= 100
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["type"] == "tokens"
    assert 0 < int(refused.headers["retry-after"]) <= 60
    with stack.http(key) as client:
        left = client.get("/v1/models").headers
    assert left["x-ratelimit-limit-tokens"] == "100"
    assert int(left["x-ratelimit-remaining-tokens"]) == 100 - sum(used)
    # after a restart, too
    stack.stop_proxy()
    stack.start_proxy()
    stack.wait_served()
    assert ask(stack, key, 5).status_code == 429
    assert ask(stack, stack.add_key()).status_code == 200


def test_a_prompt_that_no_minute_allows_is_a_bad_request(stack: Any) -> None:
    answer = ask(stack, stack.add_key(tokens_per_day=10), 11)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "token_limit_too_low")


def test_the_longest_answer_of_a_user(stack: Any) -> None:
    key = stack.add_key(max_tokens=3)
    for sent in ({}, {"max_tokens": 100}, {"max_completion_tokens": 100}, {"max_tokens": -1}):
        usage = ask(stack, key, mock={"tokens": 50}, **sent).json()["usage"]
        assert usage["completion_tokens"] == 3, sent


def test_models_that_a_user_may_not_use(stack: Any) -> None:
    key = stack.add_key("picky", models=["other"])
    for named in ("current", "mock"):
        answer = ask(stack, key, model=named)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_allowed")
    with stack.http(key) as client:
        assert client.get("/v1/models").json()["data"] == []
    assert [row["state"] for row in stack.rows("picky", 2)] == ["rejected_model"] * 2
    assert ask(stack, stack.add_key(models=["other", "mock"])).status_code == 200


def test_a_model_that_an_admin_takes_away_is_taken_from_those_who_wait_too(stack: Any) -> None:
    key = stack.add_key("narrowed")
    with busy(stack, stack.add_key(), silent=60), stack.http(stack.served_key) as ours:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask, stack, key)
            wait_for(lambda: ours.get("/v1/queue").json()["waiting"] == 1)
            stack.sql("UPDATE llama_users SET models = '{other}' WHERE username = 'narrowed'")
            with stack.http(key) as mine:
                wait_for(lambda: mine.get("/v1/models").json()["data"] == [])
            assert ask(stack, key).status_code == 403
            first = ours.get("/v1/queue").json()["data"][0]
            assert ours.post(f"/v1/requests/{first['id']}/cancel").status_code == 200
            assert waiting.result().json()["error"]["code"] == "model_not_allowed"


def test_people_behind_an_admins_front_end_see_their_own_alone(make_stack: Any) -> None:
    stack = make_stack(LLAMA_PROXY_END_USERS=2)
    stack.start_backend()
    stack.start_proxy()
    stack.wait_served()
    key = stack.add_key("portal", role="admin", on_behalf_of="x-user")
    with busy(stack, stack.add_key(), silent=60), stack.http(stack.served_key) as ours:
        request_id = ours.get("/v1/queue").json()["data"][0]["id"]
        with stack.http(key) as client:
            for name in ("anna", "ben"):
                headers = {"x-user": name}
                assert client.get("/v1/queue", headers=headers).json()["data"] == []
                assert client.post(f"/v1/requests/{request_id}/cancel", headers=headers).status_code == 404
                assert client.get("/metrics", headers=headers).status_code == 403
            # one more than are told apart
            crowd = {"x-user": "carl"}
            for path in ("/v1/queue", "/v1/usage", "/metrics"):
                assert client.get(path, headers=crowd).json()["error"]["code"] == "end_user_unknown"
            assert client.get("/v1/models", headers=crowd).status_code == 200
        ours.post(f"/v1/requests/{request_id}/cancel")


def test_everybody_behind_a_front_end_has_limits_of_their_own(stack: Any) -> None:
    key = stack.add_key("webui", limit=2, on_behalf_of="x-openwebui-user-email")

    def status(name: str | None) -> int:
        headers = {} if name is None else {"X-OpenWebUI-User-Email": name}
        return ask(stack, key, headers=headers).status_code

    assert [status("alice@x.org") for _ in range(3)] == [200, 200, 429]
    assert [status("bob@x.org"), status(None), status(None), status(None)] == [200, 200, 200, 429]
    assert status("x" * 129) == 400
    found = stack.rows("webui", 8)
    assert sorted(str(row["end_user"]) for row in found) == ["None"] * 4 + ["alice@x.org"] * 3 + ["bob@x.org"]
    plain = stack.add_key("plain", limit=1)
    assert ask(stack, plain, headers={"X-OpenWebUI-User-Email": "a"}).status_code == 200
    assert ask(stack, plain, headers={"X-OpenWebUI-User-Email": "b"}).status_code == 429
    assert [row["end_user"] for row in stack.rows("plain", 2)] == [None, None]


def test_who_had_its_time_gives_way_to_others(make_stack: Any) -> None:
    stack = make_stack(LLAMA_PROXY_MAX_SECONDS=1)
    stack.start_backend()
    stack.start_proxy()
    stack.wait_served()
    long, other = stack.add_key("long"), stack.add_key("other")
    alone = ask(stack, long, mock={"tokens": 30, "delay": 0.05})
    assert alone.json()["choices"][0]["finish_reason"] == "stop"
    with busy(stack, long, tokens=4000, silent=0, delay=0.05) as answers:
        assert ask(stack, other).status_code == 200
    choice = answers[0].json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert 0 < answers[0].json()["usage"]["completion_tokens"] < 4000
    assert [row["state"] for row in stack.rows("long", 2)] == ["ok", "ok"]


def in_turns(
    stack: Any, crowd: list[tuple[str, str, int]], slots: int = 1, seconds: float = 0.0
) -> list[str]:
    """The order in which requests are served that all wait from the beginning on: (key, name, how many).

    :param seconds: how long each takes
    """
    before = len(stack.mock()["served"])
    count = sum(many for _, _, many in crowd)
    with busy(stack, stack.add_key(), slots, silent=60), stack.http(stack.served_key) as ours:
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            sent, waiting = [], 0
            for key, name, many in crowd:
                mock = {"tokens": 2, "silent": seconds}
                sent += [pool.submit(ask, stack, key, user=name, mock=mock) for _ in range(many)]
                waiting += many
                wait_for(lambda waiting=waiting: ours.get("/v1/queue").json()["waiting"] == waiting, 60)
            for one in ours.get("/v1/queue").json()["data"][:slots]:
                assert ours.post(f"/v1/requests/{one['id']}/cancel").status_code == 200
            assert all(one.result().status_code == 200 for one in sent)
    return [name for name in stack.mock()["served"][before:] if name]


def test_weights_are_turns(stack: Any) -> None:
    heavy, light = stack.add_key("heavy", weight=4), stack.add_key("light")
    served = in_turns(stack, [(light, "light", 4), (heavy, "heavy", 8)])
    assert served[:5].count("heavy") == 4, served
    assert served[:10].count("heavy") == 8, served


def test_fifty_waiting_requests_of_one_delay_each_of_anothers_by_one(stack: Any) -> None:
    many, few = stack.add_key("many"), stack.add_key("few")
    served = in_turns(stack, [(many, "many", 50), (few, "few", 5)])
    assert [served.index("few", 2 * number) <= 2 * number + 1 for number in range(5)] == [True] * 5, served
    assert served[:10].count("few") == 5, served
    assert (len(stack.rows("many", 50)), len(stack.rows("few", 5))) == (50, 5)


def test_nobody_takes_all_of_four_slots_while_others_wait(make_stack: Any) -> None:
    stack = make_stack(LLAMA_PROXY_RATE_LIMIT=1000, LLAMA_PROXY_QUEUE_PER_USER=100)
    stack.start_backend("mock", "--slots", "4")
    stack.start_proxy()
    stack.wait_served()
    many, few = stack.add_key("many"), stack.add_key("few")
    with stack.http(stack.served_key) as ours, concurrent.futures.ThreadPoolExecutor(44) as pool:

        def count(user: str, state: str) -> int:
            return len([one for one in queue() if (one["user"], one["state"]) == (user, state)])

        def queue() -> list[dict[str, Any]]:
            return list(ours.get("/v1/queue").json()["data"])

        def end_one_of(user: str) -> None:
            running = next(one for one in queue() if (one["user"], one["state"]) == (user, "running"))
            assert ours.post(f"/v1/requests/{running['id']}/cancel").status_code == 200

        def ask_long(key: str) -> int:
            return ask(stack, key, mock={"silent": 60}).status_code

        # alone, one may have all slots
        sent = [pool.submit(ask_long, many) for _ in range(40)]
        wait_for(lambda: (count("many", "running"), count("many", "waiting")) == (4, 36))
        sent += [pool.submit(ask_long, few) for _ in range(4)]
        wait_for(lambda: count("few", "waiting") == 4)
        # what becomes free is for the one who has fewer, until both have as many
        for running in (1, 2):
            end_one_of("many")
            wait_for(lambda running=running: count("few", "running") == running)
        assert (count("many", "running"), count("many", "waiting")) == (2, 36)
        # then each has their own again
        for user, waiting in (("many", (35, 2)), ("few", (35, 1)), ("few", (35, 0))):
            end_one_of(user)
            wait_for(lambda waiting=waiting: (count("many", "waiting"), count("few", "waiting")) == waiting)
            assert (count("many", "running"), count("few", "running")) == (2, 2)
        while found := queue():
            ours.post(f"/v1/requests/{found[-1]['id']}/cancel")
        assert {one.result() for one in sent} == {403}


def test_a_few_wait_a_fifth_of_what_many_do_with_four_slots(make_stack: Any) -> None:
    stack = make_stack(LLAMA_PROXY_RATE_LIMIT=1000, LLAMA_PROXY_QUEUE_PER_USER=100)
    stack.start_backend("mock", "--slots", "4")
    stack.start_proxy()
    stack.wait_served()
    crowd = [(stack.add_key("many"), "many", 40), (stack.add_key("few"), "few", 4)]
    served = in_turns(stack, crowd, slots=4, seconds=0.2)
    # of requests of one length, those that end before it in its slot are the wait of one
    waits = {
        name: [place // 4 for place, one in enumerate(served) if one == name] for name in ("many", "few")
    }
    p95 = {name: found[math.ceil(len(found) * 0.95) - 1] for name, found in waits.items()}
    assert p95["few"] <= p95["many"] / 5, served


def test_the_queue_shows_ones_own_and_admins_all(stack: Any) -> None:
    alice, bob, admin = stack.add_key("alice"), stack.add_key("bob"), stack.add_key("root", role="admin")
    with busy(stack, alice, 2, silent=60) as answers, stack.http(bob) as mine, stack.http(admin) as theirs:
        assert mine.get("/v1/queue").json() | {"slots": 1} == {
            "object": "list", "data": [], "running": 1, "waiting": 1, "slots": 1,
        }  # fmt: skip
        shown = theirs.get("/v1/queue").json()["data"]
        assert [(one["user"], one["state"], one["position"]) for one in shown] == [
            ("alice", "running", 0),
            ("alice", "waiting", 1),
        ]
        assert mine.post(f"/v1/requests/{shown[1]['id']}/cancel").status_code == 404
        with stack.http(alice) as hers:
            assert [one["id"] for one in hers.get("/v1/queue").json()["data"]] == [one["id"] for one in shown]
        assert theirs.post(f"/v1/requests/{shown[1]['id']}/cancel").json()["user"] == "alice"
        wait_for(lambda: len(answers) == 1)
        assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (403, "request_cancelled")
        assert theirs.post(f"/v1/requests/{shown[0]['id']}/cancel").status_code == 200
    assert [row["state"] for row in stack.rows("alice", 2)] == ["cancelled", "cancelled"]
    wait_for(lambda: stack.mock()["running"] == [])


def test_the_command_cancels_and_says_why_it_does_not(
    stack: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = tmp_path / "config.env"
    port = stack.listener.getsockname()[1]
    settings.write_text(f"{stack.config().read_text()}LLAMA_PROXY_PORT={port}\n")
    monkeypatch.setattr(paths, "CONFIG_ENV", settings)
    monkeypatch.setattr(paths, "LOCAL_KEY", tmp_path / "local-key")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    audit: list[tuple[str, str]] = []
    monkeypatch.setattr(session, "note", lambda verb, thing: audit.append((verb, thing)))

    def cancel(request_id: str) -> tuple[int, str, str]:
        code = main.main(["requests", "cancel", request_id])
        told = capsys.readouterr()
        return code, told.out, told.err

    key = stack.add_key("webapp", on_behalf_of="x-user")
    headers = {"x-user": "anna@example.org"}
    with busy(stack, stack.add_key(), silent=60) as answers, stack.http(stack.served_key) as ours:
        running = ours.get("/v1/queue").json()["data"][0]["id"]
        code, _, told = cancel(running)
        assert (code, "no API key" in told, "use sudo" in told) == (4, True, True)
        (tmp_path / "local-key").write_text(f"{stack.served_key}\n")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask, stack, key, headers=headers)
            wait_for(lambda: ours.get("/v1/queue").json()["waiting"] == 1)
            request_id = ours.get("/v1/queue").json()["data"][1]["id"]
            told = f"cancelled webapp/anna@example.org's request {request_id}\n"
            assert cancel(request_id) == (0, told, "")
            assert waiting.result().json()["error"]["code"] == "request_cancelled"
        code, _, told = cancel(request_id)
        assert (code, "no request of this id" in told, "llmsvc status" in told) == (3, True, True), told
        code, _, told = cancel("../x")
        assert (code, "must be the id of a request, not '../x'" in told) == (2, True)
        monkeypatch.setenv("OPENAI_API_KEY", key)
        assert cancel(running)[0] == 3
        monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-not-ours")
        assert cancel(running)[0] == 4
        monkeypatch.delenv("OPENAI_API_KEY")
        assert cancel(running)[0] == 0
    assert answers[0].status_code == 403
    assert [verb for verb, _ in audit] == ["requests cancel"] * 2
    assert audit[0][1] == f"{request_id} of webapp/anna@example.org"
    settings.write_text(settings.read_text().replace(str(port), "9"))
    code, _, told = cancel(running)
    assert (code, "nothing answers at" in told) == (6, True)


def test_an_answer_that_had_to_wait_tells_its_place(stack: Any) -> None:
    with busy(stack, stack.add_key()):
        answer = ask(stack, stack.add_key())
    assert answer.headers["x-queue-position"] == "1"
    assert "x-queue-position" not in ask(stack, stack.add_key()).headers


def test_everybody_sees_their_own_usage(stack: Any) -> None:
    key, other = stack.add_key("using"), stack.add_key("front", on_behalf_of="x-user")
    for _ in range(3):
        ask(stack, key)
    ask(stack, other, headers={"x-user": "anna"})
    ask(stack, other, headers={"x-user": "ben"})
    stack.rows("using", 3)
    stack.rows("front", 2)

    def usage(key: str, query: str = "", **headers: str) -> dict[str, Any]:
        with stack.http(key) as client:
            return dict(client.get(f"/v1/usage{query}", headers=headers).json())

    found = usage(key, "?days=1")
    assert (found["user"], found["time_zone"], found["since"] == found["until"]) == ("using", "UTC", True)
    assert [(row["model"], row["requests"], row["prompt_tokens"]) for row in found["data"]] == [
        ("mock", 3, 9)
    ]
    assert found["total"]["completion_tokens"] == 6
    assert usage(other, **{"x-user": "anna"})["total"]["requests"] == 1
    assert usage(other)["total"]["requests"] == 2
    for days in ("0", "367", "x", "-1", "", "\u0661"):
        assert usage(key, f"?days={days}")["error"]["param"] == "days"


def test_usage_without_postgres_is_503_and_comes_back(running: Any) -> None:
    key = running.add_key()
    with running.http(key) as client:
        assert client.get("/v1/usage").json()["data"] == []
        with running.postgres_stopped():
            assert client.get("/v1/usage").status_code == 503
        wait_for(lambda: client.get("/v1/usage").status_code == 200, 30)


def test_metrics_are_for_admins_and_count_what_the_ledger_counts(running: Any) -> None:
    stack = running
    admin, user = stack.add_key(role="admin"), stack.add_key("counted", limit=3)
    for _ in range(4):
        ask(stack, user, mock={"tokens": 5})
    assert [row["status_code"] for row in stack.rows("counted", 4)].count(200) == 3
    with stack.http(user) as client:
        assert client.get("/metrics").status_code == 403
    with stack.http(admin) as client:
        text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    named = {key.replace(" ", ""): float(value) for key, value in values.items()}
    assert named[f'llmsvc_requests_total{{model="mock",path="{CHAT}",state="ok",status="200"}}'] == 3
    assert named['llmsvc_tokens_total{direction="out",model="mock"}'] == 15
    assert named['llmsvc_tokens_total{direction="in",model="mock"}'] == 9
    assert named['llmsvc_request_seconds_count{model="mock"}'] == 3
    assert named['llmsvc_model_ready{model="mock"}'] == 1
    assert named["llmsvc_database_up"] == 1
    assert "counted" not in text


@pytest.mark.parametrize("path", ["/v1/queue", "/metrics"])
def test_views_need_a_key(stack: Any, path: str) -> None:
    assert httpx.get(f"{stack.url}{path}", trust_env=False, verify=False, timeout=60).status_code == 401
    assert (
        httpx.post(f"{stack.url}/v1/requests/x/cancel", trust_env=False, verify=False, timeout=60).status_code
        == 401
    )
