"""What is measured: a real proxy with a real PostgreSQL, nginx as a plain reverse proxy, and the mock alone.

Proxy and nginx have one core to themselves; mock, load, PostgreSQL and the journal share another one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg

from llmsvc.accounts import keys as api_keys
from llmsvc.accounts import meta
from llmsvc.errors import Error
from tests.postgres.conftest import Cluster, run_cluster
from tests.postgres.proxy.conftest import PEPPER, Stack, run_stack, wait_for

ROOT = Path(__file__).parents[2]
PATH = "/v1/chat/completions"
_LIMIT_SECONDS = 60
_NGINX = """
daemon off; master_process off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/nginx.log;
events {{ worker_connections 8192; }}
http {{
    access_log off; client_body_temp_path {root}/nginx-body; proxy_temp_path {root}/nginx-proxy;
    fastcgi_temp_path {root}/nginx-f; uwsgi_temp_path {root}/nginx-u; scgi_temp_path {root}/nginx-s;
    upstream model {{ server unix:{socket}; keepalive 1024; }}
    server {{
        listen 127.0.0.1:{port} backlog=2048; keepalive_requests 1000000000;
        location / {{
            proxy_pass http://model; proxy_buffering off;
            proxy_http_version 1.1; proxy_set_header Connection "";
        }}
    }}
}}
"""


class Cores:
    """The two cores; children inherit the one of the thread that starts them."""

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise Error("this needs two cores", hint="one for the proxy, one for everything else")
        self._own, self._load = {cores[0]}, {cores[1]}
        os.sched_setaffinity(0, self._load)

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """What is started within gets the core of what is measured."""
        os.sched_setaffinity(0, self._own)
        try:
            yield
        finally:
            os.sched_setaffinity(0, self._load)


class Journal(threading.Thread):
    """Reads a datagram socket as journald does; `entries` counts what has come."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._buffer = bytearray(65536)
        self.entries = 0

    def run(self) -> None:
        while self._socket.recv_into(self._buffer):
            self.entries += 1


@dataclasses.dataclass(frozen=True)
class Process:
    """A process that is measured."""

    pid: int

    def cpu(self) -> float:
        """Seconds of CPU time that its threads have used."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    def rss(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


@dataclasses.dataclass(frozen=True)
class Target:
    """Where load may go. Without a process it is the mock alone."""

    name: str
    port: int
    process: Process | None = None


class LostError(Error):
    """The ledger does not have exactly one row for every request."""


@dataclasses.dataclass
class Rig:
    """Everything runs."""

    stack: Stack
    journal: Journal
    keys: list[str]
    targets: dict[str, Target]
    connection: psycopg.Connection[Any]

    def wrk(self, target: Target, clients: int, seconds: float, body: dict[str, Any]) -> dict[str, float]:
        """What wrk measured with whole answers or streams; times in milliseconds.

        :raises LostError: a request has no row, more than one, or was not served
        """
        files = self._files(body)
        command = [
            *("wrk", "-t1", f"-c{clients}", f"-d{seconds + _LIMIT_SECONDS:.0f}", "--timeout", "30"),
            *("-s", str(Path(__file__).with_name("wrk.lua")), f"http://127.0.0.1:{target.port}", "--"),
            *(str(seconds), str(clients), PATH, *files),
        ]
        found = self._measured(target, command)
        times = {name: found[name] / 1000 for name in ("p50", "p95", "p99")}
        return {**found, **times, "rate": found["answers"] / found["seconds"]}

    def streams(self, target: Target, count: int, body: dict[str, Any]) -> dict[str, float]:
        """What streams.py measured.

        :raises LostError: a request has no row, more than one, or was not served
        """
        command = [
            sys.executable,
            "-m",
            "tests.bench.streams",
            str(target.port),
            *self._files(body),
            str(count),
        ]
        found = self._measured(target, command)
        return {**found, "rate": found["events"] / found["seconds"]}

    def _files(self, body: dict[str, Any]) -> list[str]:
        (self.stack.root / "keys").write_text("\n".join(self.keys))
        (self.stack.root / "body").write_text(json.dumps(body))
        return [str(self.stack.root / "body"), str(self.stack.root / "keys")]

    def _measured(self, target: Target, command: list[str]) -> dict[str, float]:
        before, entries, cpu = self._rows(), self.journal.entries, target.process and target.process.cpu()
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        if found["errors"] or found["answers"] != found["sent"]:
            raise LostError(f"{target.name}: {found}\n{done.stdout}{done.stderr}\n{self.stack.log[-2000:]}")
        if target.process is not None and cpu is not None:
            found["cpu"] = (target.process.cpu() - cpu) * 1e6 / found["answers"]
            found["rss"] = target.process.rss()
        if target.name == "proxy":
            self._check_rows(before, int(found["answers"]))
            found["journal"] = self.journal.entries - entries
        return found

    def _rows(self) -> tuple[int, int]:
        good = "state = 'ok' AND completion_tokens > 0"
        query = f"SELECT count(*), count(*) FILTER (WHERE {good}) FROM llama_requests"
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    def _check_rows(self, before: tuple[int, int], answers: int) -> None:
        wanted = (before[0] + answers, before[1] + answers)
        deadline = time.monotonic() + 30
        # a backlog of no bytes: PostgreSQL has all there will be
        while (rows := self._rows()) != wanted or self.stack.status()["ledger_backlog"]:
            if time.monotonic() > deadline or max(rows) > wanted[0]:
                raise LostError(f"{answers} answers, but rows went from {before} to {rows} (all, good)")
            time.sleep(0.1)


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A throwaway PostgreSQL."""
    with run_cluster("UTF8") as running:
        running.run("psql", "-qc", 'CREATE ROLE "llmsvc-proxy" LOGIN', "postgres")
        yield running


@contextlib.contextmanager
def rig(postgres: Cluster, cores: Cores, *, slots: int, users: int = 16) -> Iterator[Rig]:
    """Everything running, with a key for each of so many users."""
    settings = {"LLAMA_PROXY_RATE_LIMIT": 10**6, "LLAMA_PROXY_QUEUE_TOTAL": 2000}
    with run_stack(postgres, **settings) as stack, contextlib.ExitStack() as exits:
        created = _add_keys(stack, users)
        ports = {"mock": _free_port(), "nginx": _free_port()}
        command = [sys.executable, "-m", "tests.bench.mock", str(stack.root / "run"), "mock"]
        stack.backends["mock"] = subprocess.Popen(
            [*command, str(ports["mock"]), "--slots", str(slots)], cwd=ROOT
        )
        wait_for((stack.root / "run" / "mock" / "ready").exists)
        journal = Journal(stack.root / "journal")
        journal.start()
        with cores.measured():
            stack.start_proxy(JOURNAL=str(stack.root / "journal"), PYTHONPATH=str(ROOT))
            nginx = exits.enter_context(_nginx(stack.root, ports["nginx"]))
        assert stack.proxy is not None
        with stack.http(created[0]) as client:
            wait_for(lambda: client.get("/v1/models").json()["data"][0]["context_length"])
        targets = {
            "proxy": Target("proxy", stack.listener.getsockname()[1], Process(stack.proxy.pid)),
            "mock": Target("mock", ports["mock"]),
            "nginx": Target("nginx", ports["nginx"], Process(nginx)),
        }
        yield Rig(stack, journal, created, targets, exits.enter_context(stack.connect()))


def _add_keys(stack: Stack, count: int) -> list[str]:
    created = [api_keys.generate() for _ in range(count)]
    with stack.connect() as connection:
        meta.bind_pepper(connection, PEPPER)
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO llama_users (username) SELECT 'user' || n FROM generate_series(1, %s) AS n",
                [count],
            )
            cursor.executemany(
                "INSERT INTO llama_api_keys (user_id, name, prefix, digest) "
                "SELECT id, 'key', %s, %s FROM llama_users WHERE username = %s",
                [
                    (api_keys.display_prefix(key), api_keys.digest(PEPPER, key), f"user{number}")
                    for number, key in enumerate(created, 1)
                ],
            )
    return created


@contextlib.contextmanager
def _nginx(root: Path, port: int) -> Iterator[int]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or shutil.which("wrk") is None:
        raise Error("nginx or wrk is not installed", hint="sudo tests/run bench sets up all that is needed")
    config = root / "nginx.conf"
    config.write_text(_NGINX.format(root=root, port=port, socket=root / "run" / "mock" / "http.sock"))
    process = subprocess.Popen([program, "-p", str(root), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _answers(port))
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
