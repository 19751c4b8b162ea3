"""Backend or proxy killed, hung or stopped: what was being answered breaks at most, the rest is answered."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.machine.conftest import Machine

BACKEND, PROXY = "llama-server@smollm2", "auth-proxy"
DROP_IN = f"/run/systemd/system/{BACKEND}.service.d"
# without its end tokens the model goes on and on
ENDLESS = {"max_tokens": 4000, "logit_bias": {"2": -100, "0": -100}}


def body(content: str, **more: Any) -> dict[str, Any]:
    return {"max_tokens": 4, "messages": [{"role": "user", "content": content}], **more}


class Stream:
    """A stream in a thread of its own; `begun` once its first event is there."""

    def __init__(self, machine: Machine, key: str, sent: dict[str, Any]) -> None:
        self.begun = threading.Event()
        self._machine, self._key, self._sent = machine, key, sent
        self._lines: concurrent.futures.Future[list[str]] = concurrent.futures.Future()
        threading.Thread(target=self._run, daemon=True).start()
        assert self.begun.wait(60)

    def lines(self, seconds: float = 90) -> list[str]:
        """The events, once it has ended; raises what its client saw if that was no end."""
        return self._lines.result(seconds)

    def _run(self) -> None:
        headers = {"authorization": f"Bearer {self._key}"}
        lines = []
        try:
            with (
                self._machine.network(),
                httpx.Client(
                    base_url=self._machine.base_url, trust_env=False, verify=False, timeout=120
                ) as client,
                client.stream("POST", "/v1/chat/completions", json=self._sent, headers=headers) as answer,
            ):
                for line in answer.iter_lines():
                    lines += [line] if line.startswith("data: ") else []
                    self.begun.set()
            self._lines.set_result(lines)
        except BaseException as error:
            self._lines.set_exception(error)


@pytest.fixture
def background() -> Iterator[Callable[..., concurrent.futures.Future[Any]]]:
    """background(FUNCTION, *ARGUMENTS): calls it in a thread."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool.submit


@pytest.fixture(autouse=True)
def smollm2_afterwards(machine: Machine) -> Iterator[None]:
    yield
    machine.shell(f"rm -rf {DROP_IN}; systemctl daemon-reload; systemctl reset-failed")
    # a clean stop: the crashes count no longer
    machine.exec("systemctl", "restart", BACKEND)
    machine.exec("systemctl", "start", f"{PROXY}.socket", PROXY)


@pytest.fixture
def impatient(machine: Machine) -> None:
    """A watchdog that need not be waited for half a minute."""
    machine.shell(
        f"mkdir -p {DROP_IN}; printf '[Service]\\nWatchdogSec=3\\n' >{DROP_IN}/watchdog.conf; "
        f"systemctl daemon-reload; systemctl restart {BACKEND}"
    )


def kill(machine: Machine, unit: str, signal: str) -> None:
    machine.shell(f"kill -s {signal} $(systemctl show -p MainPID --value {unit})")


def ask(machine: Machine, key: str, content: str) -> int:
    return machine.post("/v1/chat/completions", body(content), key).status_code


def await_status(machine: Machine, **fields: object) -> dict[str, Any]:
    """What the proxy tells of itself, once these fields are so."""
    deadline = time.monotonic() + 30
    while True:
        status = dict(json.loads(machine.out("cat", "/run/llmsvc-proxy/status.json")))
        if fields.items() <= status.items():
            return status
        assert time.monotonic() < deadline, f"{status} is not {fields}"
        time.sleep(0.1)


def states(machine: Machine, user: str, count: int) -> list[str]:
    """How the ledger says that the user's requests ended, once there are as many."""
    deadline = time.monotonic() + 15
    while True:
        query = f"select state from llama_requests where username = '{user}'"
        found = sorted(row["state"] for row in machine.sql(query))
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


@pytest.mark.parametrize("signal", ["KILL", "STOP"])
@pytest.mark.usefixtures("impatient")
def test_backend_that_dies_or_hangs_in_mid_stream_breaks_that_stream_alone(
    machine: Machine, background: Any, signal: str, measured: Any
) -> None:
    user = f"broken-{signal.lower()}"
    key = machine.add_user(user)
    # not the same words each time: what crashed the model twice is refused
    stream = Stream(machine, key, body(f"Tell me a story of {signal}.", stream=True, **ENDLESS))
    others = [background(ask, machine, key, f"number {number}") for number in range(4)]
    await_status(machine, waiting=4)
    began = time.monotonic()
    kill(machine, BACKEND, signal)
    lines = stream.lines()
    measured(f"SIG{signal} of the backend until its stream ends", time.monotonic() - began)
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "upstream_lost"
    assert [other.result(120) for other in others] == [200] * 4
    measured(f"SIG{signal} of the backend until all others are answered", time.monotonic() - began)
    assert states(machine, user, 5) == ["error", "ok", "ok", "ok", "ok"]
    assert await_status(machine, running=0, waiting=0)["last_switch"]["result"] == "crashed"
    assert machine.states(BACKEND) == ["active"]


@pytest.mark.usefixtures("impatient")
def test_backend_that_hangs_while_idle_is_replaced_before_the_next_request_gives_up(
    machine: Machine, background: Any
) -> None:
    key = machine.add_user("idle-hang")
    with (
        machine.network(),
        httpx.Client(base_url=machine.base_url, trust_env=False, verify=False, timeout=1) as client,
    ):
        headers = {"authorization": f"Bearer {key}"}
        kill(machine, BACKEND, "STOP")
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/chat/completions", json=body("no time"), headers=headers)
        answers = [background(ask, machine, key, f"number {number}") for number in range(2)]
    assert [answer.result(120) for answer in answers] == [200] * 2
    assert states(machine, "idle-hang", 3) == ["client_gone", "ok", "ok"]
    await_status(machine, running=0, waiting=0)


def test_killed_proxy_breaks_its_open_connections_alone(machine: Machine, background: Any) -> None:
    key = machine.add_user("proxy-kill")
    stream = Stream(machine, key, body("Tell me a story.", stream=True, **ENDLESS))
    waiting = background(ask, machine, key, "me too")
    await_status(machine, waiting=1)
    kill(machine, PROXY, "KILL")
    assert ask(machine, key, "the next one") == 200
    with pytest.raises(httpx.RemoteProtocolError):
        stream.lines()
    with pytest.raises(httpx.HTTPError):
        waiting.result(60)
    assert states(machine, "proxy-kill", 3) == ["ok", "proxy_killed", "proxy_killed"]


def test_request_that_crashes_the_model_twice_is_refused_and_no_other(machine: Machine) -> None:
    key, other = machine.add_user("poison"), machine.add_user("innocent")
    deadly = body("Tell me how to crash.", stream=True, **ENDLESS)
    for _ in range(2):
        stream = Stream(machine, key, deadly)
        kill(machine, BACKEND, "SEGV")
        assert "upstream_lost" in stream.lines()[-1]
        assert ask(machine, other, "am I served?") == 200
    refused = machine.post("/v1/chat/completions", deadly, key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "request_crashes_model")
    assert ask(machine, key, "something else") == 200
    assert states(machine, "poison", 4) == ["error", "error", "ok", "rejected_poison"]
    assert states(machine, "innocent", 2) == ["ok", "ok"]


def test_stop_of_socket_and_proxy_refuses_at_once_and_finishes_what_runs(
    machine: Machine, background: Any
) -> None:
    key = machine.add_user("last-one")
    stream = Stream(machine, key, body("Tell me a story.", stream=True, **ENDLESS | {"max_tokens": 150}))
    stop = background(machine.exec, "systemctl", "stop", f"{PROXY}.socket", PROXY)
    with machine.network():
        deadline = time.monotonic() + 30
        with pytest.raises(ConnectionRefusedError):
            while time.monotonic() < deadline:
                with contextlib.closing(socket.create_connection(("127.0.0.1", 8001), timeout=10)):
                    time.sleep(0.05)
    assert not stop.done()
    assert stream.lines()[-1] == "data: [DONE]"
    stop.result(60)
    assert machine.states(f"{PROXY}.socket", PROXY) == ["inactive", "inactive"]
    assert states(machine, "last-one", 1) == ["ok"]


@pytest.mark.long
def test_database_that_is_down_for_half_a_minute_is_one_alert(machine: Machine) -> None:
    key = machine.key()
    before = len(machine.journal("LLM_ALERT=database-down"))
    machine.exec("systemctl", "stop", "postgresql")
    try:
        time.sleep(40)
        assert ask(machine, key, "still there?") == 200
        [alert] = machine.journal("LLM_ALERT=database-down")[before:]
        assert alert["PRIORITY"] == "2"
    finally:
        machine.exec("systemctl", "start", "postgresql")
