"""The ledger under everything at once: clients that leave, PostgreSQL away, a proxy that is killed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import signal
from collections import Counter
from typing import Any

import psycopg.rows

from tests.postgres.proxy.conftest import Stack, wait_for

WORKERS = 16
# every request has a length of its own, by which its row is found
SHORTEST = 500
TOKENS = 10**9


@dataclasses.dataclass
class Outcome:
    """What a client saw of its request.

    :param state: `answered`, `left` (by itself) or `broken` (by the proxy's end)
    """

    state: str
    usage: dict[str, int] | None = None


def request(number: int, key: str, rng: random.Random) -> bytes:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "word " * rng.randint(1, 9)}],
        "stream": rng.random() < 0.5,
        "stream_options": {"include_usage": True},
        "mock": {"tokens": rng.randint(1, 9), "delay": rng.choice([0, 0, 0.002])},
        "pad": "",
    }
    body["pad"] = "x" * (SHORTEST + number - len(json.dumps(body)))
    raw = json.dumps(body).encode()
    assert len(raw) == SHORTEST + number
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw


async def one(port: int, raw: bytes, leaves_after: float | None) -> Outcome:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(raw)
            await writer.drain()
            answer = await asyncio.wait_for(reader.read(), leaves_after)
        finally:
            writer.close()
    except asyncio.TimeoutError:
        return Outcome("left")
    except OSError:
        return Outcome("broken")
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        assert not head, head
        return Outcome("broken")
    if b"text/event-stream" not in head:
        return Outcome("answered", json.loads(rest)["usage"])
    events = [line[6:] for line in rest.splitlines() if line.startswith(b"data: ")]
    if b"[DONE]" not in events:
        return Outcome("broken")
    chunks = [json.loads(event) for event in events if event.startswith(b"{")]
    return Outcome("answered", next(chunk["usage"] for chunk in chunks if chunk.get("usage")))


async def load(stack: Stack, key: str, count: int, kills: int, outage: float) -> dict[int, Outcome]:
    """Sends all requests while things happen; returns what became of each."""
    rng = random.Random(4)
    port = stack.listener.getsockname()[1]
    numbers = iter(range(count))
    outcomes: dict[int, Outcome] = {}

    async def work() -> None:
        for number in numbers:
            leaves_after = rng.choice([None, None, None, rng.random() * 0.03])
            outcomes[number] = await one(port, request(number, key, rng), leaves_after)

    async def reached(part: float) -> None:
        while len(outcomes) < count * part:
            await asyncio.sleep(0.01)

    async def kill() -> None:
        for number in range(kills):
            await reached((number + 1) / (kills + 1))
            await asyncio.to_thread(stack.stop_proxy, signal.SIGKILL)
            await asyncio.to_thread(stack.start_proxy)

    async def stop_postgres() -> None:
        await reached(0.4)
        with stack.postgres_stopped():
            await asyncio.sleep(outage)

    await asyncio.gather(*(work() for _ in range(WORKERS)), kill(), stop_postgres())
    return outcomes


def test_every_request_has_one_row_and_every_token_is_counted(make_stack: Any, long: bool) -> None:
    count, kills, outage = (20_000, 5, 60.0) if long else (1_000, 2, 3.0)
    stack: Stack = make_stack(LLAMA_PROXY_RATE_LIMIT=1000000, LLAMA_PROXY_QUEUE_PER_USER=1000)
    log = stack.root / "backend.log"
    stack.start_backend("mock", "--slots", "4", "--log", str(log))
    stack.start_proxy()
    stack.wait_served()
    # so much that none is refused: what is left at the end shows whether any reservation was forgotten
    key = stack.add_key("soak", tokens_per_day=TOKENS)
    outcomes = asyncio.run(load(stack, key, count, kills, outage))
    assert len(outcomes) == count
    states = Counter(outcome.state for outcome in outcomes.values())
    assert states["answered"] > count / 2, states
    assert 0 < states["broken"] <= WORKERS * kills, states
    # all rows are there once the proxy, which sends what is left as it stops, has ended
    wait_for(lambda: stack.status()["database"], 60)
    wait_for(lambda: stack.status()["running"] == 0, 60)
    with stack.http(key) as client:
        left = int(client.get("/v1/models").headers["x-ratelimit-remaining-tokens"])
    assert stack.stop_proxy() == 0
    with stack.connect() as connection:
        cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
        found = cursor.execute("SELECT * FROM llama_requests WHERE username = 'soak'").fetchall()
    spent = sum((row["prompt_tokens"] or 0) + (row["completion_tokens"] or 0) for row in found)
    # what the killed ones had not saved yet may be missing in the windows
    assert TOKENS - spent <= left < TOKENS
    print(f"\n{dict(states)}, {len(found)} rows: {dict(Counter(row['state'] for row in found))}")
    rows = {row["request_bytes"] - SHORTEST: row for row in found if row["request_bytes"]}
    unread = len([row for row in found if not row["request_bytes"]])
    assert len(rows) + unread == len(found), "a request has two rows"
    made = {line["id"]: line for line in map(json.loads, log.read_text().splitlines())}
    by_id = {str(row["request_id"]): row for row in found}

    for number, outcome in outcomes.items():
        row = rows.get(number)
        if outcome.state == "answered":
            assert row is not None and row["state"] == "ok", (number, row)
            assert outcome.usage is not None
            counted = (row["prompt_tokens"], row["completion_tokens"])
            assert counted == (outcome.usage["prompt_tokens"], outcome.usage["completion_tokens"])
        elif outcome.state == "left" and row is not None:
            assert row["state"] in ("client_gone", "ok", "proxy_killed"), row
    # of those who left, some had not sent all before; theirs are the rows without a length, if they have one
    answered_or_left = states["answered"] + states["left"]
    assert answered_or_left - states["left"] <= len(found) <= count
    missing = [n for n, outcome in outcomes.items() if outcome.state == "left" and n not in rows]
    assert len(missing) <= unread + WORKERS * kills, (len(missing), unread)

    for request_id, usage in made.items():
        row = by_id[request_id]  # whatever reached the model has its row
        if row["state"] != "proxy_killed":
            assert (row["prompt_tokens"], row["completion_tokens"]) == (
                usage["prompt_tokens"],
                usage["completion_tokens"],
            ), dict(row)
