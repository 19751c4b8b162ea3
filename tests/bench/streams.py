"""Opens many streams at once and notes how long each waits for its next event.

    python -m tests.bench.streams PORT BODY_FILE KEYS_FILE STREAMS

The last line of its output is JSON; times are milliseconds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import sys
import time
from pathlib import Path
from typing import cast

import uvloop

# all at once would measure how fast connections are made
_OPENED_A_SECOND = 500


class Stream(asyncio.Protocol):
    """One stream; `gaps` are seconds between events that came, `events` how many came."""

    def __init__(self, request: bytes, gaps: list[float]) -> None:
        self._request = request
        self.gaps = gaps
        self.events = 0
        self.first = math.nan
        self._done = self.whole = False
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._last = self._begun = time.monotonic()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        events = data.count(b"data: ")
        if events:
            if self.events:
                self.gaps.append(now - self._last)
            else:
                self.first = now - self._begun
            self.events += events
            self._last = now
        self._done = self._done or b"data: [DONE]" in data
        self.whole = self._done and data.endswith(b"0\r\n\r\n")
        if self.whole or not (self.events or data.startswith(b"HTTP/1.1 200")):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def percentile(values: list[float], part: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(len(values) * part))] if values else math.nan


async def run(port: int, keys: list[str], body: bytes, count: int) -> dict[str, float]:
    """Opens the streams and returns what was measured once the last one has ended."""
    loop = asyncio.get_running_loop()
    gaps: list[float] = []
    streams = []
    begun = time.monotonic()
    for number in range(count):
        await asyncio.sleep(begun + number / _OPENED_A_SECOND - time.monotonic())
        request = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {keys[number % len(keys)]}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        _, stream = await loop.create_connection(lambda sent=request: Stream(sent, gaps), "127.0.0.1", port)
        streams.append(stream)
    await asyncio.gather(*(stream.ended for stream in streams))
    spent = time.monotonic() - begun
    gaps.sort()
    firsts = sorted(stream.first for stream in streams)
    return {
        "sent": count,
        "answers": sum(stream.whole for stream in streams),
        "errors": sum(not stream.whole for stream in streams),
        "events": sum(stream.events for stream in streams),
        "seconds": spent,
        "first_p50": percentile(firsts, 0.5) * 1000,
        "first_p99": percentile(firsts, 0.99) * 1000,
        "p50": percentile(gaps, 0.5) * 1000,
        "p95": percentile(gaps, 0.95) * 1000,
        "p99": percentile(gaps, 0.99) * 1000,
        "largest": gaps[-1] * 1000 if gaps else math.nan,
    }


def main() -> None:
    port, body_file, keys_file, count = sys.argv[1:]
    gc.disable()
    keys = Path(keys_file).read_text().split()
    print(json.dumps(uvloop.run(run(int(port), keys, Path(body_file).read_bytes(), int(count)))))


if __name__ == "__main__":
    main()
