"""The snapshot of the keys, with which the proxy starts while PostgreSQL is down."""

from __future__ import annotations

import asyncio
import datetime
import json
from pathlib import Path

import pytest

from llmsvc.accounts import keys
from llmsvc.accounts.directory import KeyRecord
from llmsvc.proxy.auth import KeyDirectory
from llmsvc.proxy.errors import ApiError

PEPPER = bytes(32)


async def directory(file: Path) -> KeyDirectory:
    await asyncio.sleep(0)
    return KeyDirectory(PEPPER, "host=/nonexistent", file, lambda _: None)


def record(key: str) -> KeyRecord:
    expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    return KeyRecord(
        key_id=1,
        digest=keys.digest(PEPPER, key),
        prefix=keys.display_prefix(key),
        user_id=2,
        username="alice",
        role="admin",
        hidden=False,
        rate_limit=5,
        expires_at=expires,
        may_switch=True,
        concurrent=3,
        tokens_per_minute=1000,
        tokens_per_day=10**10,
        max_tokens=512,
        weight=4,
        models=("mistral", "smollm2"),
        on_behalf_of="x-openwebui-user-email",
    )


async def test_a_snapshot_brings_every_key_back_as_it_was(tmp_path: Path) -> None:
    key = keys.generate()
    wanted = record(key)
    writer = await directory(tmp_path / "keys.json")
    writer._write_snapshot([wanted])
    reader = await directory(tmp_path / "keys.json")
    reader.load_snapshot()
    assert reader.authenticate([(b"authorization", f"Bearer {key}".encode())]) == wanted


async def test_a_snapshot_of_another_version_is_read_and_gives_no_further_rights(tmp_path: Path) -> None:
    key = keys.generate()
    file = tmp_path / "keys.json"
    writer = await directory(file)
    writer._write_snapshot([record(key)])
    data = json.loads(file.read_text())
    (item,) = data["keys"]
    later = ("may_switch", "concurrent", "weight", "models", "on_behalf_of")
    data["keys"] = [{name: item[name] for name in item if name not in later} | {"unheard_of": 1}]
    file.write_text(json.dumps(data))
    reader = await directory(file)
    reader.load_snapshot()
    found = reader.authenticate([(b"authorization", f"Bearer {key}".encode())])
    assert (found.username, found.max_tokens) == ("alice", 512)
    assert [getattr(found, name) for name in later] == [False, None, 1, None, None]


async def test_a_snapshot_that_makes_no_sense_is_not_used(tmp_path: Path) -> None:
    key = keys.generate()
    file = tmp_path / "keys.json"
    writer = await directory(file)
    writer._write_snapshot([record(key)])
    data = json.loads(file.read_text())
    for broken in ([1, "x"], {**data["keys"][0], "digest": 7}, {"key_id": 1}):
        file.write_text(json.dumps({**data, "keys": [broken]}))
        reader = await directory(file)
        reader.load_snapshot()
        with pytest.raises(ApiError) as refused:
            reader.authenticate([(b"authorization", f"Bearer {key}".encode())])
        assert refused.value.status == 503
