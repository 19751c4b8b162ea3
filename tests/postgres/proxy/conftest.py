"""A real proxy process on a socket that the test holds, as systemd would; real PostgreSQL; mock backends."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pwd
import queue
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psycopg
import pytest

from llmsvc import config, database, paths
from llmsvc.accounts import keys, meta

HERE = Path(__file__).parent
MOCK = HERE.parents[1] / "mock_backend.py"
PEPPER = bytes(range(32))
_NOTIFIED = 10
_numbers = itertools.count()


def wait_for(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What the function returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.02)
    return found


@dataclasses.dataclass
class Stack:
    """A proxy, its database and its backends."""

    root: Path
    db: str
    listener: socket.socket
    notify: socket.socket
    settings: dict[str, str]
    cluster: Any
    notified: queue.Queue[str] = dataclasses.field(default_factory=queue.Queue)
    proxy: subprocess.Popen[bytes] | None = None
    backends: dict[str, subprocess.Popen[bytes]] = dataclasses.field(default_factory=dict)
    exits: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def log(self) -> str:
        return (self.root / "log").read_text()

    def config(self) -> Path:
        file = self.root / "config.env"
        file.write_text("".join(f"{key}={value}\n" for key, value in self.settings.items()))
        return file

    def start_proxy(self, **environ: str) -> None:
        """Starts it as systemd does and returns after its READY=1."""
        fd = self.listener.fileno()
        arguments = [fd, self.config(), self.state, self.root / "run"]
        with (self.root / "log").open("ab") as log:
            self.proxy = subprocess.Popen(
                [sys.executable, HERE / "run_proxy.py", *map(str, arguments)],
                pass_fds=[fd],
                stderr=log,
                env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(self.root / "notify"), **environ},
            )
        self.wait_notified("READY=1", 40)

    def wait_notified(self, what: str, seconds: float = 15.0) -> str:
        """The next message to systemd that contains this."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                message = self.notified.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"systemd was not told {what}; the log:\n{self.log}")
            if what in message:
                return message

    def read_notify(self) -> None:
        """Reads what systemd is told, which would hold up the proxy if nobody did; keeps the latest."""
        with contextlib.suppress(OSError):
            while message := self.notify.recv(4096):
                self.notified.put(message.decode())
                if self.notified.qsize() > _NOTIFIED:
                    self.notified.get_nowait()

    def stop_proxy(self, sig: int = signal.SIGTERM) -> int:
        assert self.proxy is not None
        self.proxy.send_signal(sig)
        status = self.proxy.wait(20)
        self.proxy = None
        return status

    def start_backend(self, name: str = "mock", *options: str) -> None:
        """Starts one and returns as soon as it is ready."""
        command = [sys.executable, str(MOCK), str(self.root / "run"), name, *options]
        self.backends[name] = subprocess.Popen(command)
        wait_for((self.root / "run" / name / "ready").exists)

    @functools.cached_property
    def served_key(self) -> str:
        """A key without limits, that may see all."""
        return self.add_key("served", hidden=True)

    def wait_served(self, name: str = "mock") -> None:
        """Returns once the proxy uses this backend."""
        client = self.client(self.served_key)
        wait_for(lambda: [m for m in client.models.list().data if m.id == name and m.context_length])

    def stop_backend(self, name: str = "mock", sig: int = signal.SIGTERM) -> None:
        process = self.backends.pop(name)
        process.send_signal(sig)
        process.wait(10)
        (self.root / "run" / name / "ready").unlink(missing_ok=True)

    def crash_backend(self, name: str = "mock") -> None:
        """Waits until it has been killed, and notes that as units/instance-hook does."""
        self.backends.pop(name).wait(10)
        self.note_crash(name)
        (self.root / "run" / name / "ready").unlink()

    def note_crash(self, name: str = "mock") -> None:
        file = self.root / "llmsvc" / "crashes" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as lines:
            lines.write(f"{time.time():.3f} signal\n")

    def status(self) -> dict[str, Any]:
        """What the proxy tells of itself."""
        file = self.root / "status.json"
        wait_for(file.exists)
        return dict(json.loads(file.read_text()))

    def mock(self, name: str = "mock") -> dict[str, Any]:
        """What the backend saw."""
        transport = httpx.HTTPTransport(uds=str(self.root / "run" / name / "http.sock"), verify=False)
        with httpx.Client(transport=transport, verify=False, timeout=60) as client:
            return dict(client.get("http://mock/mock").json())

    def connect(self) -> database.Connection:
        return psycopg.connect(database.conninfo(config.load(self.config())), autocommit=True)

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def add_key(
        self,
        user: str | None = None,
        *,
        hidden: bool = False,
        limit: int | None = None,
        on_behalf_of: str | None = None,
        **columns: object,
    ) -> str:
        """A new user's new key, once the proxy knows it.

        :param columns: of llama_users
        """
        user = user or f"user{next(_numbers)}"
        key = keys.generate()
        with self.connect() as connection:
            meta.bind_pepper(connection, PEPPER)
            values = {"username": user, "hidden": hidden, "rate_limit": limit, **columns}
            row = connection.execute(
                f"INSERT INTO llama_users ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(values))})"
                " RETURNING id",
                [*values.values()],
            ).fetchone()
            assert row
            connection.execute(
                "INSERT INTO llama_api_keys (user_id, name, prefix, digest, on_behalf_of)"
                " VALUES (%s, 'key', %s, %s, %s)",
                [row[0], keys.display_prefix(key), keys.digest(PEPPER, key), on_behalf_of],
            )
        if self.proxy is not None:
            with self.http(key) as client:
                wait_for(lambda: client.get("/v1/models").status_code == 200)
        return key

    def rows(self, user: str, count: int) -> list[dict[str, Any]]:
        """The ledger rows of a user, once there are as many."""

        def read() -> list[dict[str, Any]]:
            with self.connect() as connection:
                cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
                query = "SELECT * FROM llama_requests WHERE username = %s ORDER BY created_at"
                return cursor.execute(query, [user]).fetchall()

        return list(wait_for(lambda: (found := read()) and len(found) >= count and found))

    def http(self, key: str, timeout: float = 20) -> httpx.Client:
        # nothing is encrypted, and to read whom to trust would take longer than most requests
        return httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"},
            timeout=timeout,
            trust_env=False,
            verify=False,
        )

    def client(self, key: str) -> openai.OpenAI:
        http = self.exits.enter_context(httpx.Client(trust_env=False, verify=False, timeout=60))
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, http_client=http)

    @contextlib.contextmanager
    def postgres_stopped(self) -> Iterator[None]:
        """PostgreSQL is down within."""
        data = self.cluster.socket_dir / "data"
        account = pwd.getpwnam(self.cluster.user)
        drop = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        drop = drop if os.geteuid() == 0 else {}
        command = shlex.split((data / "postmaster.opts").read_text())
        pid = int((data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGINT)
        wait_for(lambda: not (data / "postmaster.pid").exists())
        try:
            yield
        finally:
            with (self.root / "postgres.log").open("wb") as log:
                # it outlives us, and belongs to the fixture that started it first
                command = ["setsid", "--fork", *command]
                subprocess.run(command, cwd=data, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **drop)
            wait_for(self._postgres_answers)

    def _postgres_answers(self) -> bool:
        try:
            return bool(self.sql("SELECT 1"))
        except psycopg.OperationalError:
            return False

    def close(self) -> None:
        self.exits.close()
        for process in [*self.backends.values(), *([self.proxy] if self.proxy else [])]:
            process.kill()
            process.wait()
        self.listener.close()
        self.notify.shutdown(socket.SHUT_RDWR)
        self.notify.close()


@contextlib.contextmanager
def run_stack(cluster: Any, **settings: object) -> Iterator[Stack]:
    """A fresh database and everything for a proxy, which is not started yet."""
    name = f"proxy{os.getpid()}_{next(_numbers)}"
    cluster.run("psql", "-qc", f'CREATE DATABASE {name} OWNER "{paths.PROXY_USER}"', "postgres")
    with tempfile.TemporaryDirectory(prefix="llmsvc-proxy-") as folder:
        root = Path(folder)
        (root / "state").mkdir(mode=0o750)
        (root / "state" / "pepper").write_text(PEPPER.hex() + "\n")
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(root / "notify"))
        values = {
            "POSTGRES_AUTH_HOST": cluster.socket_dir,
            "POSTGRES_AUTH_PORT": cluster.port,
            "POSTGRES_AUTH_DB": name,
            **settings,
        }
        texts = {key: str(value) for key, value in values.items()}
        stack = Stack(root, name, listener, notify, texts, cluster)
        threading.Thread(target=stack.read_notify, daemon=True).start()
        try:
            with stack.connect() as connection:
                database.migrate(connection)
            yield stack
        finally:
            stack.close()
            cluster.run("psql", "-qc", f"DROP DATABASE {name} WITH (FORCE)", "postgres")


@pytest.fixture(scope="module")
def stack(cluster: Any) -> Iterator[Stack]:
    """A proxy with a backend of one slot, shared by the tests of a module: use a user of your own."""
    with run_stack(cluster, LLAMA_PROXY_RATE_LIMIT=1000, LLAMA_PROXY_MAX_BODY_BYTES=65536) as stack:
        stack.start_backend()
        stack.start_proxy()
        stack.wait_served()
        yield stack


@pytest.fixture
def make_stack(cluster: Any) -> Iterator[Callable[..., Stack]]:
    """Makes a stack of the test's own, with some settings; nothing of it runs yet."""
    with contextlib.ExitStack() as exits:
        yield lambda **settings: exits.enter_context(run_stack(cluster, **settings))


@pytest.fixture(scope="module")
def make_module_stack(cluster: Any) -> Iterator[Callable[..., Stack]]:
    """The same for a stack that the tests of a module share."""
    with contextlib.ExitStack() as exits:
        yield lambda **settings: exits.enter_context(run_stack(cluster, **settings))


@pytest.fixture
def running(make_stack: Callable[..., Any]) -> Any:
    """A stack of the test's own that runs."""
    stack = make_stack(LLAMA_PROXY_RATE_LIMIT=100000, LLAMA_PROXY_DRAIN_SECONDS=5)
    stack.start_backend()
    stack.start_proxy()
    stack.wait_served()
    return stack
