"""Whatever is sent to the backend, its process lives, nobody hangs, and nothing is a 500.

The inputs come from a fixed seed; a failing one is made smaller and printed by hypothesis. A sample runs by
default; all of it (45,000 requests, 6,000 of them with JSON schemas, and 3,000 times bytes) with --long.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.engine import gguf_reranker, strategies
from tests.engine.conftest import Backend

SECONDS = 30.0
"""No answer may take longer, also not that of the health route meanwhile."""

WARM_UP = 0.2
"""The part of the requests after which memory must no longer grow."""

SETTINGS = "MODEL={models}/smollm2.gguf\nN_THREADS=1\nN_CTX=512\n"
ERROR_KEYS = {"message", "type", "param", "code"}


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the backend's socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("backend", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Target:
    """A backend under fire: started anew if it ends, asked for its health all the time."""

    def __init__(self, start: Callable[[str], Backend], settings: str = SETTINGS) -> None:
        self._start = start
        self._settings = settings
        self.seen: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0
        self.health: list[float] = []
        self.sizes: list[int] = []
        self._over = threading.Event()
        self._begin()
        self._poller = threading.Thread(target=self._poll, daemon=True)
        self._poller.start()

    def _begin(self) -> None:
        self.backend = self._start(self._settings)
        self.backend.wait_for("READY=1")
        self._connection = UnixConnection(self.backend.socket)

    def _poll(self) -> None:
        while not self._over.wait(0.2):
            connection = UnixConnection(self.backend.socket)
            begun = time.monotonic()
            with contextlib.suppress(
                ConnectionError, FileNotFoundError
            ):  # an ended process is seen elsewhere
                connection.request("GET", "/health")
                connection.getresponse().read()
            self.health.append(time.monotonic() - begun)
            connection.close()

    def post(self, path: str, body: object) -> tuple[int, bytes]:
        """Sends JSON; status and body of the answer."""
        begun = time.monotonic()
        try:
            self._connection.request("POST", path, strategies.encoded(body))
            answer = self._connection.getresponse()
            found = answer.status, answer.read()
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            self.check_alive()
            raise AssertionError(f"no answer after {time.monotonic() - begun:.1f} s: {error!r}") from None
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self._note(str(found[0]))
        return found

    def throw(self, data: bytes) -> bytes:
        """Sends bytes and closes the sending side; what came back until the other side closed too."""
        begun, parts = time.monotonic(), []
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(SECONDS)
            raw.connect(str(self.backend.socket))
            with contextlib.suppress(ConnectionError):
                raw.sendall(data)
                raw.shutdown(socket.SHUT_WR)
                while part := raw.recv(65536):
                    parts.append(part)
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self._note("raw")
        return b"".join(parts)

    def check_alive(self) -> None:
        """The process lives and has written nothing; a new one is started else, to go on with."""
        status, output = self.backend.process.poll(), self.backend.output
        if status is None:
            with contextlib.suppress(TimeoutError):
                connection = UnixConnection(self.backend.socket)
                connection.request("GET", "/health")
                assert connection.getresponse().status == 200
                connection.close()
                assert output == ""
                return
            self.backend.process.kill()
        self._connection.close()
        self._begin()
        raise AssertionError("the process hangs" if status is None else f"it ended with {status}: {output}")

    def _note(self, what: str) -> None:
        self.seen[what] += 1
        if not sum(self.seen.values()) % 20:
            self.sizes.append(self.memory())

    def memory(self) -> int:
        """Resident memory of the process in KiB."""
        text = Path(f"/proc/{self.backend.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", text)
        assert found
        return int(found[1])

    def close(self) -> None:
        self._over.set()
        self._poller.join()
        self._connection.close()


@pytest.fixture(scope="module")
def target(start_shared: Callable[[str], Backend]) -> Iterator[Target]:
    target = Target(start_shared)
    yield target
    target.close()


@pytest.fixture
def fuzz(long: bool) -> Callable[..., None]:
    """fuzz(CHECK, STRATEGY, SAMPLE, ALL): calls CHECK with so many inputs, always the same ones."""

    def run(check: Callable[[Any], None], strategy: Any, sample: int, everything: int) -> None:
        limits = settings(
            max_examples=everything if long else sample,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        limits(given(strategy)(check))()

    return run


def check_answer(status: int, raw: bytes, body: object) -> dict[str, Any] | None:
    """The answer keeps to the contract; its JSON, or of a stream the joined content, if it is complete."""
    assert status in (200, 400, 404, 405, 413), raw
    if status != 200:
        told = json.loads(raw)
        assert told["error"].keys() == ERROR_KEYS or told["type"] == "error"
        return None
    if not (isinstance(body, dict) and body.get("stream") is True):
        return dict(json.loads(raw))
    *events, last = raw.decode().strip().split("\n\n")
    assert last == "data: [DONE]", raw
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert chunks[-1]["usage"]["prompt_tokens"] > 0
    assert chunks[-2]["choices"][0]["finish_reason"]
    return joined(chunks[:-1])


def joined(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """A stream of chat chunks as the whole answer would be, as far as a schema can be kept to in it."""
    deltas = [chunk["choices"][0].get("delta", {}) for chunk in chunks]
    content = "".join(delta.get("content") or "" for delta in deltas)
    arguments = [call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", [])]
    message: dict[str, Any] = {"content": content}
    if arguments:
        message["tool_calls"] = [{"function": {"arguments": "".join(arguments)}}]
    return {"choices": [{"message": message, "finish_reason": chunks[-1]["choices"][0]["finish_reason"]}]}


def wanted_schema(body: dict[str, Any]) -> Any:
    if "tools" in body:
        return body["tools"][0]["function"]["parameters"]
    form = body["response_format"]
    return form["schema"] if "schema" in form else form["json_schema"]["schema"]


def made(choice: dict[str, Any], body: dict[str, Any]) -> str:
    """The JSON of an answer that is complete."""
    if "tools" not in body:
        assert choice["finish_reason"] == "stop"
        return str(choice["message"]["content"])
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    return str(call["function"]["arguments"])


def test_schemas_of_every_kind_are_kept_to_or_refused(target: Target, fuzz: Callable[..., None]) -> None:
    outcomes: collections.Counter[str] = collections.Counter()

    def check(request: tuple[str, dict[str, Any]]) -> None:
        path, body = request
        status, raw = target.post(path, body)
        answer = check_answer(status, raw, body)
        target.check_alive()
        outcomes["refused" if answer is None else "cut"] += 1
        if answer and answer["choices"][0]["finish_reason"] != "length":
            text = made(answer["choices"][0], body)
            jsonschema.Draft202012Validator(wanted_schema(body)).validate(json.loads(text))
            outcomes.update({"cut": -1, "kept to": 1})

    fuzz(check, strategies.schema_requests, 120, 6_000)
    assert min(outcomes["refused"], outcomes["cut"], outcomes["kept to"]) > 0, outcomes


def test_requests_of_every_kind(target: Target, fuzz: Callable[..., None]) -> None:
    check_all(target, fuzz, strategies.requests, 150, 8_000)


def test_whatever_is_json(target: Target, fuzz: Callable[..., None]) -> None:
    check_all(target, fuzz, strategies.odd_requests, 60, 7_000)


def test_responses_of_every_kind(target: Target, fuzz: Callable[..., None]) -> None:
    outcomes: collections.Counter[int] = collections.Counter()

    def check(request: tuple[str, Any]) -> None:
        path, body = request
        status, raw = target.post(path, body)
        counted, count = target.post(strategies.INPUT_TOKENS, body)
        assert status in (200, 400, 404, 413) and counted in (200, 400, 404, 413), (raw, count)
        outcomes[status] += 1
        if counted != 200:
            assert json.loads(count)["error"].keys() == ERROR_KEYS
        if status != 200:
            assert json.loads(raw)["error"].keys() == ERROR_KEYS
        else:
            told = json.loads(raw) if body.get("stream") is not True else last_event(raw)["response"]
            assert told["status"] in ("completed", "incomplete"), raw
            # less is read than there is where something may be left out
            assert 0 < told["usage"]["input_tokens"] <= json.loads(count)["input_tokens"]
        target.check_alive()

    fuzz(check, strategies.responses, 100, 5_000)
    assert min(outcomes[200], outcomes[400]) > 0, outcomes


def test_messages_of_every_kind(target: Target, fuzz: Callable[..., None]) -> None:
    outcomes: collections.Counter[int] = collections.Counter()

    def check(request: tuple[str, Any]) -> None:
        path, body = request
        status, raw = target.post(path, body)
        counted, count = target.post(strategies.COUNT_TOKENS, body)
        assert status in (200, 400, 404, 413) and counted in (200, 400, 404, 413), (raw, count)
        outcomes[status] += 1
        if status != 200:
            assert json.loads(raw)["type"] == "error"
        elif body.get("stream") is True:
            assert last_event(raw)["type"] == "message_stop"
        else:
            assert json.loads(raw)["usage"]["input_tokens"] == json.loads(count)["input_tokens"]
        target.check_alive()

    fuzz(check, strategies.messages, 100, 5_000)
    assert min(outcomes[200], outcomes[400]) > 0, outcomes


def last_event(raw: bytes) -> dict[str, Any]:
    """Of a stream whose events have names."""
    *_, last = raw.decode().strip().split("\n\n")
    return dict(json.loads(last.partition("\ndata: ")[2]))


@pytest.mark.engine("native")
def test_rankings_of_every_kind(
    start: Callable[..., Backend], tmp_path: Path, fuzz: Callable[..., None]
) -> None:
    model = gguf_reranker.write(tmp_path / "ranks.gguf")
    target = Target(start, f"MODEL={model}\nN_THREADS=1\nRERANK=1\n")
    outcomes: collections.Counter[int] = collections.Counter()

    def check(request: tuple[str, Any]) -> None:
        path, body = request
        status, raw = target.post(path, body)
        outcomes[status] += 1
        check_answer(status, raw, body)
        if status == 200 and path == strategies.RERANK:
            assert len(json.loads(raw)["results"]) <= len(body["documents"])
        target.check_alive()

    fuzz(check, strategies.rankings, 60, 3_000)
    fuzz(check, strategies.odd_requests, 20, 500)
    assert min(outcomes[200], outcomes[400]) > 0, outcomes
    target.close()


def check_all(target: Target, fuzz: Callable[..., None], strategy: Any, sample: int, everything: int) -> None:
    def check(request: tuple[str, Any]) -> None:
        path, body = request
        status, raw = target.post(path, body)
        check_answer(status, raw, body)
        target.check_alive()

    fuzz(check, strategy, sample, everything)


def test_bytes_that_are_no_http(target: Target, fuzz: Callable[..., None]) -> None:
    def check(data: bytes) -> None:
        answer = target.throw(data)
        assert not answer or answer.startswith(b"HTTP/1.1 ")
        assert not answer.startswith(b"HTTP/1.1 5"), answer
        target.check_alive()

    fuzz(check, strategies.wire, 80, 3_000)


def test_after_all_that_nobody_waited_and_no_memory_is_lost(target: Target, record_property: Any) -> None:
    status, _ = target.post(
        strategies.CHAT, {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    )
    assert status == 200
    assert max(target.health) < SECONDS
    assert target.slowest < SECONDS
    warm, last = target.sizes[int(len(target.sizes) * WARM_UP)], target.memory()
    seen = ", ".join(f"{count} x {what}" for what, count in sorted(target.seen.items()))
    record_property(
        "measured",
        f"fuzzing: {seen}; slowest answer {target.slowest:.2f} s, slowest health {max(target.health):.2f} s; "
        f"memory {warm // 1024} MiB after {WARM_UP:.0%}, {last // 1024} MiB at the end",
    )
    assert last < warm * 1.1, target.sizes
