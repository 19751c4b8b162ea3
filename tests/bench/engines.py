"""Both engines and a bare llama_cpp.server under the same load: one table.

    python -m tests.bench.engines MODEL.gguf [--clients 1,4,8,16] [--seconds 20] [--tokens 48]

Each client asks for one streamed answer after the other. Before that, four users talk in turns, each with a
long first message: how long the first token of a later turn takes, with the others' turns in between.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.bench.backend import bare as bare_server
from tests.engine.conftest import Backend

SLOTS = 8
N_CTX = 2048
TURNS = 3
HISTORY = "Once there was a lighthouse at the end of the land. " * 30


class Answer(NamedTuple):
    """One streamed answer: seconds to its first token, seconds for each further one, tokens."""

    first: float
    each: float
    tokens: int


class Server(NamedTuple):
    """What is measured."""

    name: str
    client: Callable[[], httpx.Client]


def ask(client: httpx.Client, messages: list[dict[str, str]], tokens: int) -> Answer:
    """One streamed answer."""
    body: dict[str, Any] = {"messages": messages, "max_tokens": tokens, "stream": True, "temperature": 0}
    begun, times = time.perf_counter(), []
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                if event["choices"] and event["choices"][0]["delta"].get("content"):
                    times.append(time.perf_counter())
    each = (times[-1] - times[0]) / max(len(times) - 1, 1)
    return Answer(times[0] - begun, each, len(times))


def load(server: Server, clients: int, seconds: float, tokens: int) -> tuple[list[Answer], float]:
    """All answers of so many clients, and the tokens a second of all together."""
    end = time.perf_counter() + seconds
    ready = threading.Barrier(clients)

    def work(number: int) -> list[Answer]:
        found = []
        with server.client() as client:
            ready.wait()
            while time.perf_counter() < end:
                say = f"Tell story {number}.{len(found)} of a dog."
                found.append(ask(client, [{"role": "user", "content": say}], tokens))
        return found

    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        answers = [answer for found in pool.map(work, range(clients)) for answer in found]
    return answers, sum(answer.tokens for answer in answers) / (time.perf_counter() - begun)


def turns(server: Server, users: int) -> float:
    """Median seconds to the first token of later turns, with the turns of others in between."""
    talks = [[{"role": "user", "content": f"{user}: {HISTORY}"}] for user in range(users)]
    later = []
    with server.client() as client:
        for turn in range(TURNS):
            for talk in talks:
                answer = ask(client, talk, 4)
                talk += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Go on."}]
                if turn:
                    later.append(answer.first)
    return statistics.median(later)


@contextlib.contextmanager
def ours(model: Path, engine: str) -> Iterator[Server]:
    """Our backend with an engine, as its unit starts it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "config.env").touch()
        settings = f"MODEL={model}\nN_CTX={N_CTX}\nENGINE={engine}\n"
        settings += f"SLOTS={SLOTS}\n" if engine == "native" else ""
        backend = Backend(root, settings)
        try:
            backend.wait_for("READY=1", 300)

            def client() -> httpx.Client:
                transport = httpx.HTTPTransport(uds=str(backend.socket))
                return httpx.Client(transport=transport, base_url="http://backend", timeout=600)

            yield Server(engine, client)
        finally:
            backend.close()


@contextlib.contextmanager
def bare(model: Path) -> Iterator[Server]:
    """llama_cpp.server alone."""
    with bare_server(model) as server:
        url = server.client.base_url
        yield Server("llama_cpp.server", lambda: httpx.Client(base_url=url, timeout=600))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", default="1,4,8,16")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--tokens", type=int, default=48)
    options = parser.parse_args()
    counts = [int(count) for count in options.clients.split(",")]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.model.name}, {SLOTS} slots")
    head = ("engine", "clients", "tokens/s", "first p50 s", "first p95 s", "ms/token", "later turn s")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for begin in (
        lambda: bare(options.model),
        lambda: ours(options.model, "llama-cpp-python"),
        lambda: ours(options.model, "native"),
    ):
        with begin() as server:
            later = turns(server, 4)
            for clients in counts:
                answers, rate = load(server, clients, options.seconds, options.tokens)
                first = sorted(answer.first for answer in answers)
                p95 = first[min(int(len(first) * 0.95), len(first) - 1)]
                each = statistics.median(answer.each for answer in answers) * 1000
                row = (
                    server.name, clients, f"{rate:.1f}", f"{statistics.median(first):.2f}", f"{p95:.2f}",
                    f"{each:.1f}", f"{later:.2f}",
                )  # fmt: skip
                print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
