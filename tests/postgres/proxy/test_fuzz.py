"""Whatever bytes come, the proxy answers or closes: no 5xx, no hang, no descriptor and no memory lost.

The inputs come from a fixed seed: requests good and bad, of which pieces are cut, doubled or overwritten. A
sample runs by default, 60,000 of them with --long.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import os
import random
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.postgres.proxy import wire
from tests.postgres.proxy.conftest import wait_for
from tests.postgres.proxy.test_wire import MALFORMED

SECONDS = 15.0
"""No input may be held for longer."""

PATIENCE = 0.05
"""How long an answer is waited for before the client says that it sends nothing more."""

THREADS = 4
ODD = [
    *(b"\r\n", b"\n", b"\r", b"\0", b"\r\n\r\n", b": ", b";", b"0", b"ffffffffffffffff", b"%", b"\xff" * 8),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Host: x\r\n", b" ", b"\t"),
    *(b"HTTP/1.0", b"HTTP/1.1", b"GET / ", b"{", b'"', b"5\r\nabcde\r\n", b"0\r\n\r\n", b"-1"),
    b"A: " + b"b" * 70000 + b"\r\n",
]


def seeds(key: str) -> list[bytes]:
    """Sound requests of every kind."""
    bearer = f"Authorization: Bearer {key}"
    chunked = wire.request(
        "/v1/completions", bearer, "Transfer-Encoding: chunked", method="POST", close=False
    )
    paths = ("/v1/models", "/health", "/v1/queue", "/nothing")
    return [
        *(wire.request(path, bearer, close=False) for path in paths),
        wire.request("/v1/models", method="OPTIONS", close=False),
        wire.request("/v1/models/%00%0a%ff", bearer, method="HEAD", close=False),
        wire.chat(key, close=False),
        wire.chat(key, "Expect: 100-continue"),
        wire.chat(key, close=False, stream=True),
        wire.chat(key).replace(b"HTTP/1.1", b"HTTP/1.0"),
        chunked + b'10;x=y\r\n{"prompt": "hi"}\r\n0\r\nX: y\r\n\r\n',
    ]


def made(rng: random.Random, good: list[bytes], bad: list[bytes]) -> bytes:
    """One input: up to three requests, broken in up to eight places."""
    data = bytearray(b"".join(rng.choices(good if rng.random() < 0.7 else bad, k=rng.choice((1, 1, 2, 3)))))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((1, 1, 4, 40)))
        match rng.randrange(6):
            case 0:
                del data[start:end]
            case 1:
                data[start:end] = rng.choice(ODD)
            case 2:
                data[start:start] = rng.choice(ODD)
            case 3:
                data[start:start] = data[start:end] * rng.choice((1, 3))
            case 4:
                data[start:end] = rng.randbytes(end - start)
            case 5:
                del data[start:]
    return bytes(data)


def statuses(stack: Any, data: bytes) -> list[int]:
    """Sends an input in pieces; the status of every answer that begins in what comes back."""
    rng = random.Random(data)
    got = b""
    with wire.connect(stack) as connection, contextlib.suppress(ConnectionError, BrokenPipeError):
        cut = rng.randrange(len(data) + 1) if rng.random() < 0.3 else len(data)
        connection.sendall(data[:cut])
        connection.sendall(data[cut:])
        connection.settimeout(PATIENCE)
        ended = False
        while True:
            try:
                part = connection.recv(65536)
            except TimeoutError:
                assert not ended, f"held for {SECONDS} s: {data!r}"
                ended = True
                connection.settimeout(SECONDS)
                connection.shutdown(socket.SHUT_WR)
                continue
            if not part:
                break
            got += part
    assert not got or got.startswith(b"HTTP/1.1 "), (data, got)
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) [A-Z]", got)]


def rss(pid: int) -> int:
    """KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_whatever_bytes_come(
    make_stack: Callable[..., Any], long: bool, record_property: Callable[[str, object], None]
) -> None:
    stack = make_stack(
        LLAMA_PROXY_RATE_LIMIT=1000000, LLAMA_PROXY_HEADER_SECONDS=3, LLAMA_PROXY_BODY_SECONDS=3
    )
    stack.start_backend("mock", "--slots", "8", "--tokens", "2")
    stack.start_proxy()
    stack.wait_served()
    key = stack.add_key("fuzzer", hidden=True)
    pid = stack.proxy.pid
    count = 60_000 if long else 1_500
    good, bad = seeds(key), [text.encode("latin-1") for text in MALFORMED.values()]
    rng = random.Random(4)
    seen: collections.Counter[int] = collections.Counter()
    slowest, warm, open_before = 0.0, 0, descriptors(pid)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool, stack.http(key) as client:
        for number in range(0, count, 100):
            inputs = [made(rng, good, bad) for _ in range(100)]
            for found in pool.map(lambda data: statuses(stack, data), inputs):
                seen.update(found)
            begin = time.monotonic()
            assert client.get("/health").status_code == 200
            slowest = max(slowest, time.monotonic() - begin)
            if number == count // 5:
                warm = rss(pid)
    ours = {status: number for status, number in seen.items() if status >= 500 and status != 505}
    assert not ours, stack.log[-4000:]
    assert {200, 400, 404, 431} <= set(seen)
    wait_for(lambda: descriptors(pid) <= open_before + 12, 20)
    wait_for(lambda: stack.status()["running"] == 0, 20)
    assert stack.proxy.poll() is None
    assert "Traceback" not in stack.log, stack.log[stack.log.index("Traceback") :][:4000]
    assert rss(pid) < warm * 1.1, (warm, rss(pid))
    record_property(
        "measured",
        f"fuzzing the proxy: {count} inputs, {dict(sorted(seen.items()))}; slowest health {slowest:.2f} s; "
        f"memory {warm // 1024} MiB after a fifth, {rss(pid) // 1024} MiB at the end",
    )
