"""What one request costs, in things that can be counted on any machine; tests/bench measures the time."""

from __future__ import annotations

import pstats
from collections import Counter
from pathlib import Path
from typing import Any

from tests.postgres.proxy.clients import CHAT

REQUESTS = 200


def test_a_request_parses_once_writes_twice_and_asks_no_database(make_stack: Any, tmp_path: Path) -> None:
    stack = make_stack(LLAMA_PROXY_RATE_LIMIT=100000)
    stack.start_backend()
    stack.start_proxy(PROFILE=str(tmp_path / "profile"))
    stack.wait_served()
    key = stack.add_key("cost")
    body = {"model": "current", "messages": [{"role": "user", "content": "hello"}]}
    with stack.http(key) as client:
        for _ in range(REQUESTS):
            assert client.post(CHAT, json=body).status_code == 200
    stack.rows("cost", REQUESTS)
    assert stack.stop_proxy() == 0
    calls: Counter[str] = Counter()
    for (file, _, name), (_, count, *_) in pstats.Stats(str(tmp_path / "profile")).stats.items():
        calls[f"{Path(file).parent.name}/{Path(file).stem} {name}"] += count
    # what goes on besides
    few = REQUESTS // 2
    for call, most in {
        "json/__init__ loads": 1,
        "json/__init__ dumps": 1,
        "json/encoder encode": 3,
        "proxy/spool append": 2,
        "systemd/journal send": 1,
        "proxy/backend_client _connect": 0,
        "psycopg/connection_async execute": 0,
    }.items():
        assert calls[call] < REQUESTS * most + few, (call, calls[call] / REQUESTS)
    # and it is these that are called
    assert calls["proxy/spool append"] >= 2 * REQUESTS
    assert calls["json/__init__ loads"] >= REQUESTS
