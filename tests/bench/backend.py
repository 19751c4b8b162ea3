"""What the backend costs beside a bare llama_cpp.server: both serve the same model, and are asked in turns.

    python -m tests.bench.backend MODEL.gguf [--rounds 30] [--tokens 64]

Wanted: at most 1 % of the tokens a second, at most 2 ms to the first token. Wall times tell something on a
quiet machine only; the CPU time of the two processes depends less on what else runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.engine.conftest import Backend

SECONDS_TO_START = 60


class Sample(NamedTuple):
    """One streamed answer."""

    first: float
    """Milliseconds to the first token."""
    rate: float
    """Tokens a second after the first one."""
    cpu: float
    """CPU milliseconds of the server for each token, reading the prompt included."""
    text: str


class Server(NamedTuple):
    """One of the two that are compared."""

    name: str
    pid: int
    client: httpx.Client

    def ask(self, number: int, tokens: int) -> Sample:
        """One streamed answer to a prompt of its own."""
        body = {
            "prompt": f"{number} little ducks went swimming one day, over the hills and far away. They",
            "max_tokens": tokens, "temperature": 0, "repeat_penalty": 1.0, "seed": 1, "stream": True,
        }  # fmt: skip
        texts: list[str] = []
        times: list[float] = []
        cpu, begun = self._cpu(), time.perf_counter()
        with self.client.stream("POST", "/v1/completions", json=body) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line[6:])
                    if event["choices"] and (text := event["choices"][0]["text"]):
                        times.append(time.perf_counter())
                        texts.append(text)
        rate = (len(times) - 1) / (times[-1] - times[0])
        cpu = (self._cpu() - cpu) / len(times)
        return Sample((times[0] - begun) * 1000, rate, cpu, "".join(texts))

    def _cpu(self) -> float:
        """Milliseconds of CPU time that the threads of the process have used."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6


@contextlib.contextmanager
def ours(model: Path, folder: Path) -> Iterator[Server]:
    """The backend, as its unit starts it."""
    (folder / "config.env").touch()
    backend = Backend(folder, f"MODEL={model}\nN_THREADS=1\nN_CTX=2048\n")
    try:
        backend.wait_for("READY=1", SECONDS_TO_START)
        yield Server("llmsvc backend", backend.process.pid, backend.client)
    finally:
        backend.close()


BARE = """
import runpy
from llmsvc.backend.llama_cpp_python import internals
internals.load_kernels()  # a build for any processor finds none by itself
runpy.run_module("llama_cpp.server", run_name="__main__")
"""


@contextlib.contextmanager
def bare(model: Path, threads: int = 1) -> Iterator[Server]:
    """llama_cpp.server with the settings that the backend gives it, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "model": model, "n_ctx": 2048, "n_threads": threads, "n_threads_batch": threads, "port": port,
        "host": "127.0.0.1", "verbose": False, "logits_all": False, "interrupt_requests": False,
    }  # fmt: skip
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    environ = {"PATH": os.environ["PATH"]}
    process = subprocess.Popen(
        [sys.executable, "-c", BARE, *arguments], env=environ,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while True:
            with contextlib.suppress(httpx.TransportError):
                client.get("/openapi.json")
                break
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("llama_cpp.server does not start")
            time.sleep(0.1)
        yield Server("bare llama_cpp.server", process.pid, client)
    finally:
        client.close()
        process.kill()
        process.wait()


def table(samples: dict[str, list[Sample]]) -> str:
    """Medians of both, and of the differences between answers to the same prompt."""
    mine, theirs = samples.values()
    rows = [("", *samples, "difference")]

    def row(what: str, value: Callable[[Sample], float], digits: int) -> None:
        medians = [statistics.median(map(value, found)) for found in samples.values()]
        differences = [value(a) - value(b) for a, b in zip(mine, theirs, strict=True)]
        difference = statistics.median(differences)
        share = difference / medians[1]
        rows.append(
            (
                what,
                *(f"{median:.{digits}f}" for median in medians),
                f"{difference:+.{digits}f} ({share:+.1%})",
            )
        )

    row("first token, ms", lambda sample: sample.first, 1)
    row("tokens a second", lambda sample: sample.rate, 2)
    row("CPU a token, ms", lambda sample: sample.cpu, 2)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines)


def compare(model: Path, rounds: int, tokens: int) -> dict[str, list[Sample]]:
    """Asks both in turns, each first every other time; one round to warm up is left out."""
    with tempfile.TemporaryDirectory() as folder, ours(model, Path(folder)) as one, bare(model) as other:
        samples: dict[str, list[Sample]] = {one.name: [], other.name: []}
        for number in range(rounds + 1):
            for server in (one, other) if number % 2 else (other, one):
                samples[server.name].append(server.ask(number, tokens))
    same = sum(a.text == b.text for a, b in zip(*samples.values(), strict=True))
    print(f"{rounds} answers of {tokens} tokens from each; {same} of {rounds + 1} pairs say the same\n")
    return {name: found[1:] for name, found in samples.items()}


def main() -> None:
    parser: Any = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    print(table(compare(arguments.model, arguments.rounds, arguments.tokens)))


if __name__ == "__main__":
    main()
