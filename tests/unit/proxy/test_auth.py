"""The snapshot of the keys, with which the proxy starts while PostgreSQL is down."""

from __future__ import annotations

import asyncio
import datetime
import json
from pathlib import Path

from llmsvc.accounts import keys
from llmsvc.accounts.directory import KeyRecord
from llmsvc.proxy.auth import KeyDirectory

PEPPER = bytes(32)


async def directory(file: Path) -> KeyDirectory:
    await asyncio.sleep(0)
    return KeyDirectory(PEPPER, "host=/nonexistent", file, lambda _: None)


def record(key: str) -> KeyRecord:
    expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    digest = keys.digest(PEPPER, key)
    return KeyRecord(1, digest, keys.display_prefix(key), 2, "alice", "admin", False, 5, expires, True)


async def test_a_snapshot_brings_every_key_back_as_it_was(tmp_path: Path) -> None:
    key = keys.generate()
    wanted = record(key)
    writer = await directory(tmp_path / "keys.json")
    writer._write_snapshot([wanted])
    reader = await directory(tmp_path / "keys.json")
    reader.load_snapshot()
    assert reader.authenticate([(b"authorization", f"Bearer {key}".encode())]) == wanted


async def test_a_snapshot_of_an_older_version_is_read_and_gives_no_right_to_switch(tmp_path: Path) -> None:
    key = keys.generate()
    file = tmp_path / "keys.json"
    writer = await directory(file)
    writer._write_snapshot([record(key)])
    data = json.loads(file.read_text())
    data["keys"] = [item[:9] for item in data["keys"]]
    file.write_text(json.dumps(data))
    reader = await directory(file)
    reader.load_snapshot()
    found = reader.authenticate([(b"authorization", f"Bearer {key}".encode())])
    assert (found.username, found.may_switch) == ("alice", False)
