"""Both engines through the proxy, llama.cpp's server asked directly, and a bare llama_cpp.server: one table.

    sudo tests/run bench -- engines [--help]

Everything is on that is on in service: keys, limits, queue, ledger into a real PostgreSQL, our checks.
All contestants run all the time, and are loaded one after the other, round by round, so that they share what
else the machine does. Each client asks for one streamed answer after the other, as a user of its own; what
comes within the seconds counts, and at their end it leaves. Then four users talk in turns, each with a long
first message: how long the first token of a later turn takes, with the others' turns in between.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from llmsvc.errors import Error
from llmsvc.library import gguf
from tests.bench.backend import bare as bare_server
from tests.bench.rig import cluster
from tests.engine.conftest import MODELS, Backend
from tests.postgres.conftest import Cluster
from tests.postgres.proxy.conftest import Stack, run_stack

CORES = len(os.sched_getaffinity(0))
SLOTS = 8
USERS = 16
N_CTX = 2048
ONCE = httpx.Limits(max_keepalive_connections=0)
"""The engines' own servers close connections just as they are used again."""
TURNS = 4
TALKERS = 4
HISTORY = "Once there was a lighthouse at the end of the land. " * 30


class Server(NamedTuple):
    """What is measured; `client` makes one for the user of a number."""

    name: str
    client: Callable[[int], httpx.Client]


class Sample(NamedTuple):
    """What one user saw of one answer: seconds to the first token, and the time of each token."""

    first: float
    times: list[float]


def ask(client: httpx.Client, messages: list[dict[str, str]], tokens: int, end: float) -> Sample | None:
    """One streamed answer, as far as it comes until `end`; None where nothing did."""
    body: dict[str, Any] = {"messages": messages, "max_tokens": tokens, "stream": True, "temperature": 0}
    begun, times = time.perf_counter(), []
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {answer.read()!r}")
        for line in answer.iter_lines():
            if (now := time.perf_counter()) > end:
                break
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                if event["choices"] and event["choices"][0]["delta"].get("content"):
                    times.append(now)
    return Sample(times[0] - begun, times) if times else None


def load(server: Server, clients: int, seconds: float, tokens: int, said: Iterator[int]) -> list[Sample]:
    """All answers to so many clients within the seconds."""
    ready = threading.Barrier(clients, timeout=60)

    def work(number: int) -> list[Sample]:
        found = []
        with server.client(number) as client:
            ready.wait()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                say = f"Tell story {next(said)} of a dog."
                if sample := ask(client, [{"role": "user", "content": say}], tokens, end):
                    found.append(sample)
        return found

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        return [sample for found in pool.map(work, range(clients)) for sample in found]


def turns(server: Server) -> list[float]:
    """Seconds to the first token of later turns, with the turns of others in between."""
    later = []
    with contextlib.ExitStack() as exits:
        clients = [exits.enter_context(server.client(user)) for user in range(TALKERS)]
        talks = [[{"role": "user", "content": f"{user}: {HISTORY}"}] for user in range(TALKERS)]
        for turn in range(TURNS):
            for client, talk in zip(clients, talks, strict=True):
                sample = ask(client, talk, 4, time.perf_counter() + 600)
                assert sample is not None
                talk += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Go on."}]
                if turn:
                    later.append(sample.first)
    return later


def on_socket(path: Path) -> Callable[[int], httpx.Client]:
    """Clients of a server on a unix socket."""

    def client(_: int) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(path), limits=ONCE)
        return httpx.Client(transport=transport, base_url="http://server", timeout=600)

    return client


@contextlib.contextmanager
def ours(
    model: Path, engine: str, threads: int, postgres: Cluster
) -> Iterator[tuple[Stack, Backend, list[str]]]:
    """Our backend with an engine, as its unit starts it, a proxy before it, and users' keys."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as exits:
        root = Path(folder)
        (root / "config.env").touch()
        settings = f"MODEL={model}\nN_CTX={N_CTX}\nN_THREADS={threads}\nENGINE={engine}\n"
        settings += f"SLOTS={SLOTS}\n" if engine == "native" else ""
        backend = exits.enter_context(contextlib.closing(Backend(root, settings, name="model")))
        limits = {"LLAMA_PROXY_RATE_LIMIT": 10**6, "LLAMA_PROXY_QUEUE_SECONDS": 600}
        stack = exits.enter_context(run_stack(postgres, **limits))
        (stack.root / "run").symlink_to(root / "run")
        backend.wait_for("READY=1", 300)
        backend.socket.with_name("ready").touch()
        stack.start_proxy()
        stack.wait_served("model")
        yield stack, backend, [stack.add_key() for _ in range(USERS)]


@contextlib.contextmanager
def contestants(model: Path, threads: int, *, parts: bool) -> Iterator[list[Server]]:
    """All that is measured, running.

    :param threads: of each engine
    :param parts: also our backends without the proxy
    """
    with cluster() as postgres, contextlib.ExitStack() as exits:
        bare = exits.enter_context(bare_server(model, threads))
        url = bare.client.base_url
        alone = Server(
            "llama_cpp.server, bare", lambda _: httpx.Client(base_url=url, timeout=600, limits=ONCE)
        )
        found = [alone]
        for engine, name in (("llama-cpp-python", "default"), ("native", "native")):
            stack, backend, keys = exits.enter_context(ours(model, engine, threads, postgres))
            # made at their use, in threads of the load: each closes its own
            found.append(Server(f"{name}, through the proxy", _users(stack, keys)))
            if parts:
                found.append(Server(f"{name}, our backend alone", on_socket(backend.socket)))
        direct = backend.socket.with_name("engine") / "http.sock"
        found.append(Server("llama.cpp's server, directly", on_socket(direct)))
        yield found


def _users(stack: Stack, keys: list[str]) -> Callable[[int], httpx.Client]:
    return lambda number: httpx.Client(
        base_url=stack.url,
        headers={"Authorization": f"Bearer {keys[number]}"},
        timeout=600,
        trust_env=False,
    )


def row(samples: list[Sample], seconds: float) -> tuple[str, ...]:
    """Tokens a second of all together, seconds to the first token, and milliseconds for a further one."""
    if not samples:
        return ("-",) * 4
    first = sorted(sample.first for sample in samples)
    p95 = first[min(int(len(first) * 0.95), len(first) - 1)]
    each = [
        (sample.times[-1] - sample.times[0]) / (len(sample.times) - 1)
        for sample in samples
        if len(sample.times) > 1
    ]
    rate = sum(len(sample.times) for sample in samples) / seconds
    median = statistics.median(each) * 1000 if each else 0.0
    return f"{rate:.1f}", f"{statistics.median(first):.2f}", f"{p95:.2f}", f"{median:.1f}"


def printed(cells: tuple[object, ...]) -> None:
    """One line of a table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def unfit(model: Path) -> str | None:
    """Why the contestants cannot be compared by this model, if they cannot."""
    try:
        header = gguf.read_header(model)
    except Error as error:
        return error.message
    if header.has_chat_template:
        return None
    # each engine would take another format for it, and with some it ends its answer before the first word
    return f"{model} has no chat template: choose a model that was tuned to chat"


def positive(text: str) -> int:
    """The whole number above 0 that an option names."""
    if not text.isdecimal() or not (number := int(text)):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return number


def positives(text: str) -> list[int]:
    """Several of them, with commas between."""
    return [positive(number) for number in text.split(",")]


def seconds_of(text: str) -> float:
    """The time that an option names."""
    if not 0 < (seconds := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text!r}")
    return seconds


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODELS / "smollm2.gguf")
    parser.add_argument(
        "--clients", type=positives, default="1,4,8,16", help="1,4 is a row for one, and one for four"
    )
    parser.add_argument("--seconds", type=seconds_of, default=10.0)
    parser.add_argument("--rounds", type=positive, default=2)
    parser.add_argument("--tokens", type=positive, default=48)
    threads = max(CORES - 1, min(CORES, 2))
    parser.add_argument("--threads", type=positive, default=threads, help="of each engine")
    parser.add_argument("--parts", action="store_true", help="our backends without the proxy, too")
    options = parser.parse_args()
    if refusal := unfit(options.model):
        sys.exit(f"engines: {refusal}")
    said = iter(range(10**9))
    # also then everything that was started is ended
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with contestants(options.model, options.threads, parts=options.parts) as servers:
        machine = f"{CORES} cores, load {os.getloadavg()[0]:.1f}"
        print(f"{machine}, {options.model.name}, {SLOTS} slots, {options.threads} threads each")
        printed(("", "clients", "tokens/s", "first token p50 s", "p95 s", "ms a token"))
        printed(("---",) * 6)
        for clients in options.clients:
            samples: dict[str, list[Sample]] = {server.name: [] for server in servers}
            for server in servers:
                # every slot has read the system prompt then
                load(server, clients, min(options.seconds, 3), 8, said)
            for number in range(options.rounds):
                for server in servers[number:] + servers[:number]:
                    found = load(server, clients, options.seconds, options.tokens, said)
                    samples[server.name] += found
            for server in servers:
                seconds = options.seconds * options.rounds
                printed((server.name, clients, *row(samples[server.name], seconds)))
        print("\nA later turn of a conversation, three others' in between:\n")
        printed(("", "first token p50 s", "slowest s"))
        printed(("---",) * 3)
        for server in servers:
            later = turns(server)
            printed((server.name, f"{statistics.median(later):.2f}", f"{max(later):.2f}"))
        print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
