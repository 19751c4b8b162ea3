"""What happens to requests when somebody goes away: client, key, backend, PostgreSQL, or the proxy itself."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.postgres.proxy.clients import CHAT, ENDLESS, background, body, open_stream, post
from tests.postgres.proxy.conftest import wait_for


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_frees_the_model_and_what_was_made_is_counted(stack: Any, stream: bool) -> None:
    user = "leaver-streaming" if stream else "leaver"
    key = stack.add_key(user)
    cancelled = stack.mock()["cancelled"]
    if stream:
        with open_stream(stack, key):
            pass
    else:
        with stack.http(key, timeout=2) as client, pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=body(mock=ENDLESS))
    # by itself it would run for minutes
    wait_for(lambda: stack.mock()["running"] == [])
    assert stack.mock()["cancelled"] == cancelled + 1
    [row] = stack.rows(user, 1)
    assert (row["state"], row["status_code"]) == ("client_gone", 499)
    assert row["prompt_tokens"] == 4
    assert 1 <= row["completion_tokens"] < ENDLESS["tokens"]


def test_client_that_leaves_at_the_sight_of_done_has_not_left_early(stack: Any) -> None:
    key = stack.add_key("hasty")
    for _ in range(5):
        with stack.http(key) as client:
            with client.stream("POST", CHAT, json=body(stream=True, mock={"linger": 0.3})) as answer:
                assert "data: [DONE]" in answer.iter_lines()
    assert {(row["state"], row["status_code"]) for row in stack.rows("hasty", 5)} == {("ok", 200)}


def test_client_that_leaves_the_queue_gets_its_place_in_the_window_back(stack: Any) -> None:
    key = stack.add_key("impatient", limit=1)
    with open_stream(stack, stack.add_key()):
        with stack.http(key, timeout=1) as client, pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=body())
        [row] = stack.rows("impatient", 1)
        assert (row["state"], row["completion_tokens"]) == ("client_gone", None)
        assert row["queue_ms"] > 100
    assert post(stack, key).status_code == 200


def test_client_that_does_not_read_does_not_hold_the_model(stack: Any) -> None:
    key = stack.add_key("slow-reader")
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(stack.listener.getsockname())
        content = json.dumps(body(stream=True, max_tokens=30000, mock={"tokens": 30000})).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        raw.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        [row] = stack.rows("slow-reader", 1)
    assert (row["state"], row["completion_tokens"]) == ("ok", 30000)


def test_revoked_key_cuts_its_stream_at_once_and_spares_others(stack: Any) -> None:
    key = stack.add_key("revoked")
    other = stack.add_key("not-revoked")
    with open_stream(stack, key) as lines:
        waiting = background(lambda: post(stack, other))
        mine = background(lambda: post(stack, key))
        wait_for(lambda: "2 waiting" in stack.wait_notified("waiting"))
        stack.sql(
            "UPDATE llama_api_keys SET revoked_at = now() FROM llama_users u "
            "WHERE u.id = user_id AND username = 'revoked'"
        )
        start = time.monotonic()
        rest = [line for line in lines if line]
        # a second at most on a machine that is not busy; keys are read anew every 30
        assert time.monotonic() - start < 10
        assert "no longer valid" in rest[-1]
    assert post(stack, key).status_code == 401
    refused = mine.result(30)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert waiting.result(30).status_code == 200
    assert [row["state"] for row in stack.rows("revoked", 2)] == ["cancelled"] * 2


def test_one_with_many_waiting_delays_another_by_one_request_only(stack: Any) -> None:
    greedy, modest = stack.add_key("greedy"), stack.add_key("modest")
    before = len(stack.mock()["served"])
    with open_stream(stack, stack.add_key()):
        many = []
        for _ in range(6):
            many.append(background(lambda: post(stack, greedy, user="greedy")))
        wait_for(lambda: "6 waiting" in stack.wait_notified("waiting"))
        one = background(lambda: post(stack, modest, user="modest"))
        wait_for(lambda: "7 waiting" in stack.wait_notified("waiting"))
    assert all(future.result(30).status_code == 200 for future in [*many, one])
    served = stack.mock()["served"][before + 1 :]
    assert served.index("modest") == 1
    assert stack.mock()["peak"] == 1


def test_postgres_may_be_away_and_no_row_is_lost(running: Any) -> None:
    key = running.add_key("steady")
    with running.postgres_stopped():
        assert [post(running, key).status_code for _ in range(5)] == [200] * 5
        wait_for(lambda: "not reachable" in running.wait_notified("database"))
        assert httpx.get(f"{running.url}/ready", trust_env=False, verify=False, timeout=60).status_code == 503
        # also after a restart, from the snapshot, and from a kill
        assert running.stop_proxy() == 0
        running.start_proxy()
        assert post(running, key).status_code == 200
        running.stop_proxy(signal.SIGKILL)
        running.start_proxy()
        assert post(running, key).status_code == 200
    rows = running.rows("steady", 7)
    assert [(r["state"], r["completion_tokens"]) for r in rows] == [("ok", 8)] * 7


FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON llama_requests EXECUTE FUNCTION full_disk();
"""
TROUBLE = {
    "full": (FULL, "DROP FUNCTION full_disk CASCADE", "PostgreSQL takes none: no space left"),
    "older": (
        "ALTER TABLE llama_users RENAME weight TO w; ALTER TABLE llama_requests RENAME end_user TO e",
        "ALTER TABLE llama_users RENAME w TO weight; ALTER TABLE llama_requests RENAME e TO end_user",
        "older than this llmsvc",
    ),
    "newer": (
        "ALTER TABLE llama_users ADD extra int; ALTER TABLE llama_requests ADD extra int",
        "SELECT 1",
        "",
    ),
}


@pytest.mark.parametrize("kind", TROUBLE)
def test_trouble_with_the_database_costs_no_request_and_no_row(make_stack: Any, kind: str) -> None:
    begin, end, said = TROUBLE[kind]
    stack = make_stack()
    stack.start_backend()
    stack.start_proxy()
    stack.wait_served()
    key = stack.add_key("steady")
    stack.sql(begin)
    # a change makes it read all keys again
    stack.sql("UPDATE llama_users SET enabled = enabled")
    assert [post(stack, key).status_code for _ in range(3)] == [200] * 3
    wait_for(lambda: said in stack.log)
    assert stack.stop_proxy() == 0
    stack.start_proxy()
    assert post(stack, key).status_code == 200
    stack.sql(end)
    assert [row["state"] for row in stack.rows("steady", 4)] == ["ok"] * 4
    wait_for(
        lambda: httpx.get(f"{stack.url}/ready", trust_env=False, verify=False, timeout=60).status_code == 200,
        40,
    )


def test_postgres_that_is_slow_holds_up_nobody(running: Any) -> None:
    key = running.add_key("steady")
    with running.connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE llama_requests, llama_users")
        assert [post(running, key).status_code for _ in range(5)] == [200] * 5
    assert len(running.rows("steady", 5)) == 5


def test_without_postgres_and_snapshot_it_is_503_and_never_401(running: Any) -> None:
    key = running.add_key()
    running.stop_proxy()
    (running.state / "keys.json").unlink()
    with running.postgres_stopped():
        running.start_proxy()
        assert post(running, key).status_code == 503


def test_wrong_pepper_is_one_clear_line_and_503(running: Any) -> None:
    key = running.add_key()
    running.stop_proxy()
    (running.state / "pepper").write_text("ab" * 32 + "\n")
    running.start_proxy()
    assert post(running, key).status_code == 503
    time.sleep(1.2)
    assert running.log.count("this is not the pepper") == 1


def test_killed_proxy_leaves_exactly_one_row_for_each_request(running: Any) -> None:
    key = running.add_key("killed")
    done = [post(running, key) for _ in range(3)]
    with open_stream(running, key):
        wait_for(lambda: running.mock()["running"])
        running.stop_proxy(signal.SIGKILL)
    running.start_proxy()
    rows = running.rows("killed", 4)
    assert [row["state"] for row in rows] == ["ok", "ok", "ok", "proxy_killed"]
    assert {str(row["request_id"]) for row in rows[:3]} == {a.headers["x-request-id"] for a in done}
    running.stop_proxy()
    running.start_proxy()
    assert len(running.rows("killed", 4)) == 4


def test_restart_under_load_loses_no_request(running: Any) -> None:
    key = running.add_key("load")
    stop = threading.Event()

    def load() -> int:
        count = 0
        while not stop.is_set():
            assert post(running, key, mock={"tokens": 2, "delay": 0.001}).status_code == 200
            count += 1
        return count

    workers = [background(load) for _ in range(6)]
    slow = background(lambda: post(running, key, mock={"tokens": 20, "delay": 0.05}))
    for _ in range(2):
        time.sleep(0.2)
        assert running.stop_proxy() == 0
        running.start_proxy()
    time.sleep(0.2)
    stop.set()
    total = sum(worker.result(60) for worker in workers)
    assert slow.result(30).status_code == 200
    rows = running.rows("load", total + 1)
    assert len(rows) == total + 1
    assert {row["state"] for row in rows} == {"ok"}


def test_next_request_on_the_connection_of_a_stream_that_was_finished_in_a_stop_is_served(
    running: Any,
) -> None:
    """The stream's headers were out before the stop, and had promised that the connection stays open."""
    key = running.add_key("reuses")
    headers = {"authorization": f"Bearer {key}"}
    connection = http.client.HTTPConnection(*running.listener.getsockname(), timeout=20)
    connection.auto_open = 0  # no new connection, which would only wait for the next proxy
    connection.connect()
    slow = json.dumps(body(stream=True, mock={"tokens": 20, "delay": 0.05}))
    connection.request("POST", CHAT, slow, headers)
    stream = connection.getresponse()
    assert not stream.will_close
    stop = background(running.stop_proxy)
    running.wait_notified("STOPPING=1")
    assert b"[DONE]" in stream.read()
    connection.request("POST", CHAT, json.dumps(body()), headers)
    answer = connection.getresponse()
    assert (answer.status, answer.will_close) == (200, True)
    answer.read()
    assert stop.result(30) == 0
    assert {row["state"] for row in running.rows("reuses", 2)} == {"ok"}


def test_stop_waits_only_so_long_then_ends_streams_and_refuses_those_that_wait(
    make_stack: Callable[..., Any],
) -> None:
    stack = make_stack(LLAMA_PROXY_DRAIN_SECONDS=1)
    stack.start_backend()
    stack.start_proxy()
    stack.wait_served()
    key = stack.add_key("drained")
    with open_stream(stack, key) as lines:
        waiting = background(lambda: post(stack, key))
        wait_for(lambda: "1 waiting" in stack.wait_notified("waiting"))
        # by itself the stream would go on for minutes
        assert stack.stop_proxy() == 0
        assert "restarts" in [line for line in lines if line][-1]
    refused = waiting.result(30)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    wait_for(lambda: stack.mock()["running"] == [])
    assert [row["state"] for row in stack.rows("drained", 2)] == ["error", "error"]


def test_window_of_the_limit_outlives_a_restart(running: Any) -> None:
    key = running.add_key("windowed", limit=2)
    assert post(running, key).status_code == 200
    running.stop_proxy()
    running.start_proxy()
    assert [post(running, key).status_code for _ in range(2)] == [200, 429]


def test_body_that_does_not_arrive_is_408(make_stack: Callable[..., Any]) -> None:
    stack = make_stack(LLAMA_PROXY_BODY_SECONDS=1)
    stack.start_proxy()
    key = stack.add_key("slow")
    with socket.create_connection(stack.listener.getsockname()) as raw:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 9\r\n\r\n"
        raw.sendall(head.encode() + b"{")
        raw.settimeout(30)
        assert raw.recv(4096).startswith(b"HTTP/1.1 408 ")
    assert stack.rows("slow", 1)[0]["status_code"] == 408


def test_silent_stream_gets_its_headers_and_empty_comments(
    make_stack: Callable[..., Any], tmp_path: Path
) -> None:
    stack = make_stack()
    stack.start_backend()
    stack.start_proxy(SILENCE_SECONDS="0.3")
    stack.wait_served()
    key = stack.add_key("silent")
    with stack.http(key) as client:
        start, go_on = time.monotonic(), tmp_path / "go on"
        mock = {"until": str(go_on), "tokens": 2, "delay": 0.01}
        with client.stream("POST", CHAT, json=body(stream=True, mock=mock)) as answer:
            pieces, text = answer.iter_text(), ""
            while text.count(":\n\n") < 4:
                text += next(pieces)
            go_on.touch()
            text += "".join(pieces)
            seconds = time.monotonic() - start
        assert text.startswith(":\n\n" * 4)
        assert text.count(":\n\n") <= seconds / 0.3
        assert text.endswith("data: [DONE]\n\n")
        # an error that comes after the headers can only be an event
        late = client.post(CHAT, json=body(stream=True, mock={"status": 400}))
        assert late.status_code == 400
        with contextlib.ExitStack() as before:
            before.enter_context(open_stream(stack, stack.add_key()))
            with client.stream("POST", CHAT, json=body(stream=True, mock={"status": 400})) as answer:
                before.close()  # it has waited so long that its headers are there
                assert answer.status_code == 200
                lines = [line for line in answer.iter_lines() if line]
        assert lines[-1].startswith('data: {"error": {"message": "the mock was told')


@pytest.mark.parametrize("unit", [b"x" * 65536, b"a: b\r\n" * 10000], ids=["one header", "many headers"])
def test_endless_headers_are_cut_and_others_are_served(stack: Any, unit: bytes) -> None:
    with socket.create_connection(stack.listener.getsockname(), timeout=10) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx: ")
        with pytest.raises(OSError):
            for _ in range(1000):
                raw.sendall(unit)
    assert post(stack, stack.add_key()).status_code == 200
