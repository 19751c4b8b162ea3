"""What happens to requests when the backend goes away: a stop, a switch, a crash, a long load."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.postgres.proxy.clients import CHAT, background, body, open_stream, post
from tests.postgres.proxy.conftest import wait_for


def test_requests_are_held_while_the_backend_restarts(running: Any) -> None:
    key = running.add_key("held")
    running.stop_backend()
    held = background(lambda: post(running, key))
    time.sleep(0.3)
    assert not held.done()
    assert httpx.get(f"{running.url}/ready", trust_env=False, verify=False, timeout=60).status_code == 503
    running.start_backend()
    assert held.result(30).status_code == 200


def test_switch_sends_waiting_requests_to_the_new_model(running: Any) -> None:
    key = running.add_key("switched")
    with open_stream(running, key) as lines:
        current = background(lambda: post(running, key))
        named = background(lambda: post(running, key, model="mock"))
        wait_for(lambda: "2 waiting" in running.wait_notified("waiting"))
        # the new one is ready before the old one has finished
        running.start_backend("other")
        assert current.result(30).json()["model"] == "other"
        refused = named.result(30).json()["error"]
        assert refused["code"] == "model_not_found"
        assert refused["message"].startswith("mock was switched away for other while this request waited")
        assert '"model": "mock"' in next(line for line in lines if line)


def test_coming_model_is_listed_while_none_is_ready(make_stack: Callable[..., Any]) -> None:
    stack = make_stack()
    (stack.root / "run" / "next").mkdir(parents=True)
    stack.start_proxy()
    client = stack.client(stack.add_key())
    assert [model.id for model in client.models.list().data] == ["next", "current"]
    assert "no model is ready" in stack.wait_notified("database ok")
    stack.start_backend("next")
    stack.wait_served("next")


def test_request_without_a_byte_is_sent_again_and_one_with_is_ended(running: Any, tmp_path: Path) -> None:
    key, go_on = running.add_key("resent"), tmp_path / "go on"
    waiting = background(lambda: post(running, key, mock={"tokens": 5, "until": str(go_on)}))
    wait_for(lambda: running.mock()["running"])
    running.stop_backend(sig=signal.SIGKILL)
    go_on.touch()
    running.start_backend()
    assert waiting.result(30).status_code == 200
    with pytest.raises(openai.APIError, match="stopped before"):
        for _ in running.client(key).chat.completions.create(
            **body(stream=True), extra_body={"mock": {"die": 3}}
        ):
            pass
    running.stop_backend()
    rows = running.rows("resent", 2)
    assert [(r["state"], r["status_code"]) for r in rows] == [("ok", 200), ("error", 502)]


def test_nothing_ready_for_too_long_is_503_with_retry_after(make_stack: Callable[..., Any]) -> None:
    stack = make_stack(LLAMA_PROXY_HOLD_SECONDS=1)
    stack.start_proxy()
    answer = post(stack, stack.add_key("unheld"))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert stack.rows("unheld", 1)[0]["state"] == "timeout"


def test_drain_that_ends_sends_again_what_has_no_byte_and_cuts_streams_cleanly(
    make_stack: Callable[..., Any],
) -> None:
    stack = make_stack()
    stack.start_backend("mock", "--slots", "3", "--drain", "0.5")
    stack.start_proxy()
    stack.wait_served()
    key = stack.add_key("drained")
    slow = {"tokens": 200, "delay": 0.02}
    whole = background(lambda: post(stack, key, mock=slow))
    silent = background(lambda: post(stack, key, stream=True, mock={"tokens": 3, "silent": 3}))
    with open_stream(stack, key) as lines:
        wait_for(lambda: len(stack.mock()["running"]) == 3)
        stack.stop_backend()
        rest = [line for line in lines if line]
    assert "being stopped" in rest[-1]
    stack.start_backend("next", "--slots", "3")
    assert whole.result(30).json()["usage"]["completion_tokens"] == 200
    assert silent.result(30).text.endswith("data: [DONE]\n\n")
    rows = stack.rows("drained", 3)
    assert sorted((r["state"], r["status_code"], r["model"]) for r in rows) == [
        ("ok", 200, "next"),
        ("ok", 200, "next"),
        ("switched", 503, "mock"),
    ]
    [cut] = [row for row in rows if row["state"] == "switched"]
    assert cut["completion_tokens"] == sum('"content"' in line for line in rest) + 1


def test_body_that_crashes_the_model_twice_is_refused_until_it_changes(running: Any) -> None:
    key = running.add_key("poison")
    other = running.add_key("innocent")
    deadly = background(lambda: post(running, key, mock={"die": -1}))
    running.crash_backend()
    waiting = background(lambda: post(running, other))
    running.start_backend()
    running.crash_backend()
    running.start_backend()
    answer = deadly.result(30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request_crashes_model")
    assert waiting.result(30).status_code == 200
    again = post(running, key, mock={"die": -1})
    assert (again.status_code, again.json()["error"]["code"]) == (400, "request_crashes_model")
    assert post(running, key).status_code == 200
    states = [row["state"] for row in running.rows("poison", 3)]
    assert states == ["rejected_poison", "rejected_poison", "ok"]


def test_stream_that_was_out_is_a_suspect_too(running: Any) -> None:
    key = running.add_key("poison-stream")
    for _ in range(2):
        answer = post(running, key, stream=True, mock={"die": 2})
        assert "stopped before" in answer.text.splitlines()[-2]
        assert "[DONE]" not in answer.text
        running.crash_backend()
        running.start_backend()
        running.wait_served()
    assert post(running, key, stream=True, mock={"die": 2}).status_code == 400
    states = [row["state"] for row in running.rows("poison-stream", 3)]
    assert states == ["error", "error", "rejected_poison"]


def test_clean_stop_accuses_nobody(running: Any, tmp_path: Path) -> None:
    key, go_on = running.add_key("unlucky"), tmp_path / "go on"
    answer = background(lambda: post(running, key, mock={"tokens": 3, "until": str(go_on)}))
    for _ in range(3):
        wait_for(lambda: running.mock()["running"])
        # the time to stop is over
        running.stop_backend(sig=signal.SIGKILL)
        running.start_backend()
        running.wait_served()
    go_on.touch()
    assert answer.result(30).status_code == 200


def test_success_of_the_same_body_clears_it(running: Any, tmp_path: Path) -> None:
    key, go_on = running.add_key("cleared"), tmp_path / "go on"
    for _ in range(2):
        # the second time it is killed as the other one waits
        answer = background(lambda: post(running, key, mock={"tokens": 3, "until": str(go_on)}))
        wait_for(lambda: running.mock()["running"])
        running.backends["mock"].kill()
        running.crash_backend()
        go_on.touch()
        running.start_backend()
        assert answer.result(30).status_code == 200
        go_on.unlink()


def test_hung_backend_that_is_killed_ends_its_stream_and_everybody_else_is_answered(running: Any) -> None:
    key, leaver = running.add_key("hung"), running.add_key("hung-leaver")
    with open_stream(running, key) as lines:
        waiting = [background(lambda: post(running, key)) for _ in range(3)]
        running.backends["mock"].send_signal(signal.SIGSTOP)
        with running.http(leaver, timeout=0.3) as client, pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=body())
        [row] = running.rows("hung-leaver", 1)
        assert row["state"] == "client_gone"
        running.backends["mock"].kill()
        running.crash_backend()
        running.start_backend()
        assert "stopped before" in [line for line in lines if line][-1]
    assert [answer.result(30).status_code for answer in waiting] == [200] * 3
    assert sorted(row["state"] for row in running.rows("hung", 4)) == ["error", "ok", "ok", "ok"]
    # the file may still be the one of the moment without a backend, or with the last request
    switch = wait_for(lambda: (now := running.status())["running"] == 0 and now["last_switch"])
    assert switch["result"] == "crashed"


def test_client_that_leaves_a_hung_backend_is_out_at_once(running: Any) -> None:
    key = running.add_key("left-hung")
    with open_stream(running, key):
        running.backends["mock"].send_signal(signal.SIGSTOP)
    [row] = running.rows("left-hung", 1)
    assert row["state"] == "client_gone"
    running.backends["mock"].kill()
    running.crash_backend()
    running.start_backend()
    assert post(running, key).status_code == 200


def test_load_that_moves_is_waited_for_and_told(make_stack: Callable[..., Any]) -> None:
    stack = make_stack(LLAMA_PROXY_HOLD_SECONDS=1)
    stack.start_proxy()
    loading = stack.root / "run" / "next" / "loading"
    loading.parent.mkdir(parents=True)
    loading.write_text("37 Loading next.gguf\n")
    waiting = background(lambda: post(stack, stack.add_key("patient")))
    wait_for(lambda: stack.status()["waiting"])
    now = stack.status()
    assert (now["coming"], now["progress"], now["loading"]) == ("next", 37, "Loading next.gguf")
    assert (now["model"], now["held_since"] <= now["at"]) == (None, True)
    assert "no model is ready (next is loading: 37 %)" in stack.wait_notified("1 waiting")
    time.sleep(1.5)
    assert not waiting.done()
    stack.start_backend("next")
    assert waiting.result(30).status_code == 200


def test_status_tells_switch_speed_and_what_runs(running: Any) -> None:
    key = running.add_key()
    assert post(running, key, mock={"tokens": 20, "delay": 0.01}).status_code == 200
    with open_stream(running, key):
        wait_for(lambda: running.status()["running"] == 1)
    running.stop_backend()
    running.start_backend("other")
    running.wait_served("other")
    now = wait_for(lambda: (found := running.status())["model"] == "other" and found)
    assert {"at", "since", "ledger_backlog", "tokens_per_second"} < now.keys()
    assert now["database"] is True
    assert now["held_since"] is None
    # one each 10 ms at most
    assert 0 < now["tokens_per_second"] < 110
    switch = now["last_switch"]
    assert (switch["from"], switch["to"], switch["result"]) == ("mock", "other", "ok")
    assert 0 < switch["seconds"] < 60
    assert (running.root / "status.json").stat().st_mode & 0o777 == 0o644
    (running.root / "llmsvc").mkdir()
    (running.root / "llmsvc" / "rollback.json").write_text('{"at": %f, "to": "mock"}' % (time.time() + 1))
    running.stop_backend("other")
    running.start_backend()
    wait_for(lambda: running.status()["last_switch"]["result"] == "rolled back")


class RudeBackend:
    """Is healthy, but answers POSTs with these raw bytes and closes, or with None never; then properly."""

    def __init__(self, directory: Path, answers: list[bytes | None]) -> None:
        self.answers = answers
        self.posts = 0
        directory.mkdir(parents=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "http.sock"))
        self._listener.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()
        (directory / "ready").touch()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            request = received(connection)
            if request.startswith(b"GET"):
                connection.sendall(whole({"slots": 8, "n_ctx": 4096}))
                return
            if request.startswith(b"POST /cancel/"):
                connection.sendall(whole({}))
                return
            self.posts += 1
            if self.answers:
                answer = self.answers.pop(0)
                if answer is None:
                    connection.recv(1)  # until the other side closes
                else:
                    connection.sendall(answer)
            else:
                connection.sendall(whole({"usage": {"prompt_tokens": 1, "completion_tokens": 2}}))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def received(connection: socket.socket) -> bytes:
    """A whole request, in however many pieces it comes: whoever closes before has cut the connection."""
    request = b""
    while piece := connection.recv(65536):
        request += piece
        head, end, content = request.partition(b"\r\n\r\n")
        [length] = re.findall(rb"content-length: *(\d+)", head, re.IGNORECASE) or [b"0"]
        if end and len(content) >= int(length):
            break
    return request


def whole(value: dict[str, Any]) -> bytes:
    data = json.dumps(value).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + data


@pytest.fixture
def rude(make_stack: Callable[..., Any]) -> Iterator[Callable[[list[bytes | None]], tuple[Any, RudeBackend]]]:
    """rude(ANSWERS): a stack that runs with a RudeBackend."""
    backends = []

    def make(answers: list[bytes | None]) -> tuple[Any, RudeBackend]:
        stack = make_stack()
        backends.append(RudeBackend(stack.root / "run" / "rude", answers))
        stack.start_proxy()
        stack.wait_served("rude")
        return stack, backends[-1]

    yield make
    for backend in backends:
        backend.close()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: "


BROKEN = {
    "nothing": b"",
    "status": b"HTTP/1.1 2",
    "headers": HEAD + b"application/json\r\ncont",
    "body": HEAD + b'application/json\r\ncontent-length: 100\r\n\r\n{"half":',
    "chunk": HEAD + b"application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{",
    "stream": HEAD + b"text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    "stopping": HEAD
    + b"text/event-stream\r\nconnection: close\r\n\r\n"
    + b'data: {"error": {"message": "the model is being stopped", "code": "model_stopping"}}\n\n',
    "event": HEAD + b"text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata: \r\n",
}


def test_answer_that_breaks_off_before_its_first_byte_for_the_client_is_asked_for_again(rude: Any) -> None:
    stack, backend = rude([])
    for broken in BROKEN:
        key = stack.add_key(broken)
        for stream in (False, True):
            backend.answers[:] = [BROKEN[broken]] * 2
            posts = backend.posts
            answer = post(stack, key, stream=stream)
            assert answer.status_code == 200, (broken, answer.text)
            assert answer.json()["usage"]["completion_tokens"] == 2
            assert backend.posts == posts + 3
        rows = stack.rows(broken, 2)
        assert [(row["state"], row["completion_tokens"]) for row in rows] == [("ok", 2)] * 2
    wait_for(lambda: stack.status()["running"] == 0)


def test_answer_that_never_begins_is_left_at_once(rude: Any) -> None:
    stack, backend = rude([])
    backend.answers[:] = [None]
    key = stack.add_key("never")
    with stack.http(key, timeout=0.5) as client, pytest.raises(httpx.ReadTimeout):
        client.post(CHAT, json=body())
    [row] = stack.rows("never", 1)
    assert (row["state"], row["duration_ms"] < 5000) == ("client_gone", True)
    assert post(stack, key).status_code == 200


def test_backend_that_never_answers_is_given_up_after_some_attempts(rude: Any) -> None:
    stack, backend = rude([b""] * 5)
    key = stack.add_key("given-up")
    answer = post(stack, key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_lost")
    assert backend.posts == 5
    assert post(stack, key).status_code == 200
    assert [row["state"] for row in stack.rows("given-up", 2)] == ["error", "ok"]


def test_lost_connection_does_not_give_its_backend_more_slots(make_stack: Callable[..., Any]) -> None:
    stack = make_stack()
    stack.start_backend("mock", "--slots", "2")
    stack.start_proxy()
    stack.wait_served()
    key = stack.add_key()
    with open_stream(stack, key):
        assert "stopped before" in post(stack, key, stream=True, mock={"tokens": 3, "cut": 1}).text
        slow = {"tokens": 5, "delay": 0.05}
        answers = [background(lambda: post(stack, key, mock=slow)) for _ in range(4)]
        assert [answer.result(30).status_code for answer in answers] == [200] * 4
    assert stack.mock()["peak"] == 2
