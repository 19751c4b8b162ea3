"""Real clients, a real proxy with a real database, and real backends with each engine in turn."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest

from tests.engine import gguf_reranker
from tests.engine.conformance.table import Table
from tests.engine.conftest import Backend
from tests.engine.gguf_copy import with_template
from tests.engine.test_filling import FILL
from tests.engine.test_thinking import TEMPLATE as THINKING
from tests.engine.test_tools import MESSAGES, SHOW, TEMPLATES, TURNS
from tests.postgres.conftest import cluster
from tests.postgres.proxy.conftest import Stack, run_stack

__all__ = ["cluster"]

MODEL = "smollm2"
BACKENDS = {
    "plain": "N_CTX=1024",
    "tools": "N_CTX=1024",
    "logprobs": "N_CTX=256\nLOGITS_ALL=1",  # the default engine only
    "embedding": "N_CTX=256\nEMBEDDING=1",
    "thinks": "N_CTX=1024\nENGINE=native",
    "fills": "N_CTX=512\nENGINE=native",
    "calls twice": "N_CTX=1024\nENGINE=native",
    "ranks": "RERANK=1\nENGINE=native",
}
TWICE = "".join(
    f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>\n'
    for city in ("Paris", "Rome")
)


class Service:
    """A proxy with a backend behind it, and a user's key."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.key = stack.add_key()
        self.url = f"{stack.url}/v1"

    def anthropic(self, key: str | None = None) -> anthropic.Anthropic:
        http = self.stack.exits.enter_context(httpx2.Client(trust_env=False, verify=False))
        return anthropic.Anthropic(
            base_url=self.stack.url, api_key=key or self.key, max_retries=0, http_client=http
        )

    @functools.cached_property
    def openai(self) -> openai.OpenAI:
        return self.stack.client(self.key)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at the table comes when both engines have filled it."""
    items.sort(key=lambda item: item.path.name == "test_table.py")


@pytest.fixture(scope="session")
def table() -> Table:
    """What the tests of this run saw."""
    return Table()


@pytest.fixture(scope="session")
def service(
    cluster: object, models: Path, engine: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Service]]:
    """service(NAME) with a name of BACKENDS: started when first asked for, and shared."""
    with contextlib.ExitStack() as exits:

        @functools.cache
        def begin(name: str) -> Service:
            root = tmp_path_factory.mktemp(name)
            file = _model(name, models, root)
            settings = f"MODEL={file}\nN_THREADS=1\n{BACKENDS[name]}\n"
            settings += "" if "ENGINE=" in settings else f"ENGINE={engine}\n"
            backend = exits.enter_context(contextlib.closing(Backend(root, settings, name=MODEL)))
            stack = exits.enter_context(run_stack(cluster, LLAMA_PROXY_RATE_LIMIT=1000))
            (stack.root / "run").symlink_to(root / "run")
            backend.wait_for("READY=1")
            backend.socket.with_name("ready").touch()
            stack.start_proxy()
            stack.wait_served(MODEL)
            exits.enter_context(listening(stack.notify))
            return Service(stack)

        yield begin


def _model(name: str, models: Path, root: Path) -> Path:
    """The file of a backend, mostly a copy of SmolLM2 that was taught something by its template."""
    source, target = models / "smollm2.gguf", root / "smollm2.gguf"
    if name in ("tools", "calls twice"):
        call, history = TEMPLATES["hermes"]
        shown = call if name == "tools" else TWICE.strip()
        template = SHOW + TURNS.replace("CALL", shown) + MESSAGES.replace("HISTORY", history)
        return with_template(source, target, template)
    if name == "thinks":
        return with_template(source, target, THINKING)
    if name == "fills":
        return with_template(source, target, None, FILL)
    return gguf_reranker.write(target) if name == "ranks" else source


@contextlib.contextmanager
def listening(notify: socket.socket) -> Iterator[None]:
    """Reads what systemd is told: the queue of the socket is short, and the proxy waits for room in it."""
    notify.settimeout(None)

    def read() -> None:
        while notify.recv(4096):
            pass

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    yield
    notify.shutdown(socket.SHUT_RD)
    thread.join()
