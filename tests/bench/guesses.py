"""Wrong API keys: whether the time of an answer tells anything, and whether other users notice.

    python -m tests.bench.guesses [--count 100000]

Sends wrong keys of two kinds in turns: *unknown* ones, random but well formed, and *near* ones, which begin
as a key that exists, with as much of it as `llmsvc key list` shows. Their times are compared by medians of
paired samples, beside the same comparison of unknown ones with themselves, which shows what is noise. A user
goes on asking, before the wrong keys and during them.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import statistics
import threading
import time

from llmsvc.accounts import keys
from tests.bench.rig import cluster
from tests.postgres.proxy.conftest import Stack, run_stack

_PAIRS_A_SAMPLE = 50
_QUIET_SECONDS = 5.0


def near(key: str) -> str:
    """A well-formed key that begins as this one."""
    start = keys.display_prefix(key)
    body = start + keys.generate()[len(start) : -6]
    return body + keys._checksum(body.encode())


class Asker:
    """A connection that is kept."""

    def __init__(self, stack: Stack) -> None:
        self._socket = socket.create_connection(stack.listener.getsockname())
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> tuple[float, int]:
        """Sends a request; seconds until its whole answer, and the status."""
        begin = time.perf_counter()
        self._socket.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._socket.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += self._socket.recv(65536)
        return time.perf_counter() - begin, int(head[9:12])


def request(key: str) -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class User(threading.Thread):
    """Asks again and again, and notes the times in milliseconds."""

    def __init__(self, stack: Stack, key: str) -> None:
        super().__init__(daemon=True)
        self._asker, self._request = Asker(stack), request(key)
        self.times: list[float] = []
        self.end = threading.Event()

    def run(self) -> None:
        while not self.end.is_set():
            seconds, status = self._asker.ask(self._request)
            assert status == 200, status
            self.times.append(seconds * 1000)
            time.sleep(0.005)


def measure(stack: Stack, count: int) -> None:
    """Prints what was found."""
    existing = [stack.add_key() for _ in range(100)]
    user = User(stack, existing[0])
    user.start()
    time.sleep(_QUIET_SECONDS)
    quiet = user.times[:]
    asker, statuses = Asker(stack), {401: 0, 429: 0}
    differences: dict[str, list[float]] = {"near - unknown": [], "unknown - unknown": []}
    samples: dict[str, list[float]] = {"unknown": [], "near": [], "unknown again": []}
    rng = random.Random(1)
    for _ in range(count // (3 * _PAIRS_A_SAMPLE)):
        for times in samples.values():
            times.clear()
        for _ in range(_PAIRS_A_SAMPLE):
            turn = list(samples)
            rng.shuffle(turn)
            for kind in turn:
                wrong = near(rng.choice(existing)) if kind == "near" else keys.generate()
                seconds, status = asker.ask(request(wrong))
                statuses[status] += 1
                samples[kind].append(seconds * 1e6)
        middle = {kind: statistics.median(times) for kind, times in samples.items()}
        differences["near - unknown"].append(middle["near"] - middle["unknown"])
        differences["unknown - unknown"].append(middle["unknown again"] - middle["unknown"])
    user.end.set()
    user.join()
    during = user.times[len(quiet) :]
    print(f"{sum(statuses.values())} wrong keys: {statuses[401]} x 401, {statuses[429]} x 429")
    for what, found in differences.items():
        error = statistics.stdev(found) / len(found) ** 0.5
        print(f"{what:18} {statistics.mean(found):+7.2f} µs, standard error {error:.2f} µs")
    for what, found in (("before", quiet), ("meanwhile", during)):
        middle, late = statistics.median(found), statistics.quantiles(found, n=100)[98]
        print(f"a user's requests {what:9} p50 {middle:6.2f} ms, p99 {late:6.2f} ms ({len(found)})")
    print(f"memory {stack_memory(stack)} MiB")


def stack_memory(stack: Stack) -> int:
    """Resident memory of the proxy, in MiB."""
    assert stack.proxy is not None
    with open(f"/proc/{stack.proxy.pid}/status") as status:
        return int(status.read().split("VmRSS:")[1].split()[0]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100_000)
    count = parser.parse_args().count
    with cluster() as running, run_stack(running, LLAMA_PROXY_RATE_LIMIT=1000000) as stack:
        stack.start_backend("mock", "--slots", "16", "--tokens", "1")
        stack.start_proxy()
        stack.wait_served()
        measure(stack, count)


if __name__ == "__main__":
    main()
