"""The backend as a real process with real models: LLMSVC_TEST_MODELS names a directory with smollm2.gguf and
gemma3.gguf."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from llmsvc.backend.llama_cpp_python import internals

MODELS = Path(os.environ.get("LLMSVC_TEST_MODELS", "/var/cache/llmsvc/models"))
ENGINES = ("llama-cpp-python", "native")
LAUNCH = Path(__file__).with_name("launch.py")


class Backend:
    """One `llmsvc backend NAME`; `messages` are what systemd would have been told."""

    def __init__(
        self,
        root: Path,
        settings: str,
        *,
        name: str = "m",
        env: dict[str, str] | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        self.socket = root / "run" / name / "http.sock"
        self.socket.parent.mkdir(parents=True)
        (root / "models.d").mkdir()
        self.file = root / "models.d" / f"{name}.env"
        self.file.write_text(settings)
        self.messages: list[str] = []
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(root / "notify"))
        self._told = threading.Condition()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._output = root / "output"
        passed = [sock.fileno() for sock in sockets]
        env = {**(env or {}), **({"TEST_SOCKETS": ",".join(map(str, passed))} if passed else {})}
        environ = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(root / "notify"), **env}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(LAUNCH), str(root), name],
                env=environ,
                stdout=output,
                stderr=output,
                pass_fds=passed,
            )
        self.client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket), verify=False),
            verify=False,
            base_url="http://backend",
            timeout=300,
        )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, what: str, seconds: float = 180) -> None:
        """Until systemd was told `what`, or the process ended."""
        deadline = time.monotonic() + seconds
        with self._told:
            while not any(what in message for message in self.messages):
                assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.output}"
                assert time.monotonic() < deadline, f"no {what}: {self.messages} {self.output}"
                self._told.wait(0.1)

    def finish(self, seconds: float = 180) -> int:
        """Until the process ends; its exit status."""
        return self.process.wait(seconds)

    def stop(self) -> float:
        """SIGTERM; how long it took to end with status 0, in seconds."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.finish() == 0
        return time.monotonic() - start

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._notify.shutdown(socket.SHUT_RD)
        self._listener.join()
        self._notify.close()

    def _listen(self) -> None:
        # the queue of a datagram socket is short, and a sender waits for room in it
        while message := self._notify.recv(4096):
            with self._told:
                self.messages.append(message.decode())
                self._told.notify_all()

    @staticmethod
    def events(response: httpx.Response) -> list[dict]:
        """The JSON of a stream's events; the last, `[DONE]`, is checked and left out."""
        lines = [line for line in response.text.split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line[6:]) for line in lines[:-1]]

    def chat(self, content: str = "Say hello", **fields: object) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, **fields}
        return self.post("/v1/chat/completions", body)

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        return self.client.post(path, content=json.dumps(body), headers=headers)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests of one engine in the other's turn."""
    left_out = []
    for item in items:
        only = item.get_closest_marker("engine")
        callspec = getattr(item, "callspec", None)
        if only and callspec and callspec.params.get("engine", only.args[0]) != only.args[0]:
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn; a test that is for one only is marked so: @pytest.mark.engine(NAME)."""
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def kernels() -> None:
    """What the backend does before it loads a model; for tests that load one themselves."""
    internals.load_kernels()


@pytest.fixture(scope="session")
def models() -> Path:
    """The directory with the real models."""
    assert (MODELS / "smollm2.gguf").is_file(), f"LLMSVC_TEST_MODELS: no smollm2.gguf in {MODELS}"
    return MODELS


@pytest.fixture
def start(tmp_path: Path, models: Path, engine: str) -> Iterator[Callable[..., Backend]]:
    """Starts a backend; `{models}` in its settings is the models' directory."""
    with _starting(tmp_path, models, engine) as begin:
        yield begin


@pytest.fixture(scope="module")
def start_shared(
    tmp_path_factory: pytest.TempPathFactory, models: Path, engine: str
) -> Iterator[Callable[..., Backend]]:
    """`start` for backends that all tests of a module share."""
    with _starting(tmp_path_factory.mktemp("shared"), models, engine) as begin:
        yield begin


@contextlib.contextmanager
def _starting(folder: Path, models: Path, engine: str) -> Iterator[Callable[..., Backend]]:
    started: list[Backend] = []

    def begin(settings: str, **arguments: object) -> Backend:
        root = folder / str(len(started))
        root.mkdir()
        (root / "config.env").write_text(str(arguments.pop("config", "")))
        settings = settings.replace("{models}", str(models)) + f"ENGINE={engine}\n"
        started.append(Backend(root, settings, **arguments))
        return started[-1]

    yield begin
    for backend in started:
        backend.close()


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory, models: Path, engine: str) -> Iterator[Backend]:
    """One running backend for all tests that do not end it."""
    settings = f"MODEL={models}/smollm2.gguf\nN_THREADS=1\nN_CTX=4096\nENGINE={engine}\n"
    yield from _running(tmp_path_factory, settings, "smollm2")


@pytest.fixture(scope="session")
def gemma3(tmp_path_factory: pytest.TempPathFactory, models: Path, engine: str) -> Iterator[Backend]:
    """Another one, with the second model."""
    settings = f"MODEL={models}/gemma3.gguf\nN_THREADS=1\nENGINE={engine}\n"
    yield from _running(tmp_path_factory, settings, "gemma3")


def _running(factory: pytest.TempPathFactory, settings: str, name: str) -> Iterator[Backend]:
    backend = Backend(factory.mktemp(name), settings, name=name, env={"WATCHDOG_USEC": "1000000"})
    backend.wait_for("READY=1")
    yield backend
    backend.close()
