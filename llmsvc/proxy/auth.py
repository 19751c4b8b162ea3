"""Who is asking: all valid keys in memory, so that no request needs the database, and a snapshot on disk.

PostgreSQL tells of every change (LISTEN/NOTIFY); besides, all keys are read again every 30 s. While it is
down the last known keys count, after a restart of the proxy those of the snapshot.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime
import hmac
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import class_row

from llmsvc import atomic
from llmsvc.accounts import directory, keys, meta
from llmsvc.accounts.directory import KeyRecord
from llmsvc.errors import SettingError
from llmsvc.proxy.errors import unauthorized, unavailable

_log = logging.getLogger(__name__)

_RELOAD_SECONDS = 30.0
_ANSWER_SECONDS = 10.0
_RETRY_SECONDS = 1.0

Removed = Callable[[frozenset[int]], None]


class KeyDirectory:
    """The keys that may be used now.

    :param snapshot: file that keeps them for a start without PostgreSQL; holds digests, no keys
    :param on_removed: told the ids of keys that are no longer valid
    """

    def __init__(self, pepper: bytes, conninfo: str, snapshot: Path, on_removed: Removed) -> None:
        self._pepper = pepper
        self._fingerprint = meta.fingerprint(pepper)
        self._conninfo = conninfo
        self._snapshot = snapshot
        self._on_removed = on_removed
        self._records: dict[bytes, KeyRecord] | None = None
        self.database_ok = False
        self.first_attempt = asyncio.Event()
        """Set once PostgreSQL was asked for the first time, whatever the outcome."""
        self._problem: str | None = None

    def authenticate(self, headers: Iterable[tuple[bytes, bytes]], *, x_api_key: bool = False) -> KeyRecord:
        """The key of a request, from its Authorization header.

        :param x_api_key: whether that header will do, too
        :raises ApiError: 401, or 503 while neither PostgreSQL nor a snapshot has told us any key
        """
        shown = list(_shown(headers, x_api_key))
        if not shown:
            also = " or 'x-api-key: sk-llm-...'" if x_api_key else ""
            raise unauthorized(f"No API key: send the header 'Authorization: Bearer sk-llm-...'{also}.")
        key = next((key for key in shown if keys.well_formed(key)), None)
        if key is None:
            raise unauthorized("This is no API key of this server, or it is not complete.")
        if self._records is None:
            raise unavailable("API keys cannot be checked now.", "keys_unavailable")
        digest = keys.digest(self._pepper, key)
        record = self._records.get(digest)
        # what is looked up is a keyed hash, so the time of the look-up tells nothing about any key
        if record is None or not hmac.compare_digest(record.digest, digest):
            raise unauthorized("This API key is not valid.")
        if record.expires_at is not None and record.expires_at <= datetime.datetime.now(
            datetime.timezone.utc
        ):
            raise unauthorized("This API key has expired.")
        return record

    def now(self, record: KeyRecord) -> KeyRecord:
        """What holds for a key now, whose request came a while ago; the same where it is no longer valid."""
        return (self._records or {}).get(record.digest, record)

    def load_snapshot(self) -> None:
        """Takes the keys of the snapshot, if there is a whole one that was made with this pepper."""
        try:
            data = json.loads(self._snapshot.read_bytes())
            if data["pepper_fingerprint"] != self._fingerprint:
                return
            records = [_from_json(item) for item in data["keys"]]
        except (OSError, ValueError, KeyError, TypeError):
            return
        self._records = {record.digest: record for record in records}

    async def run(self) -> None:
        """Follows PostgreSQL for ever; to be run as a task."""
        while True:
            try:
                await self._follow()
            except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable):
                self._report(
                    "the database is older than this llmsvc, known keys count: 'sudo llmsvc db migrate'",
                    logging.CRITICAL,
                )
            except (psycopg.Error, OSError, asyncio.TimeoutError) as error:
                self._report(f"PostgreSQL does not answer: {_first_line(error)}")
            self.database_ok = False
            self.first_attempt.set()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self) -> None:
        connection = await asyncio.wait_for(
            psycopg.AsyncConnection.connect(self._conninfo, autocommit=True), _ANSWER_SECONDS
        )
        async with connection:
            await asyncio.wait_for(connection.execute(f"LISTEN {directory.CHANNEL}"), _ANSWER_SECONDS)
            while await asyncio.wait_for(self._reload(connection), _ANSWER_SECONDS):
                if self._problem is not None:
                    _log.info("PostgreSQL answers again")
                self.database_ok = True
                self._problem = None
                self.first_attempt.set()
                async for _ in connection.notifies(timeout=_RELOAD_SECONDS, stop_after=1):
                    pass

    async def _reload(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> bool:
        """Reads all keys; False where this is not the pepper they were made with."""
        row = await (await connection.execute(meta.FINGERPRINT_QUERY)).fetchone()
        try:
            meta.compare(str(row[0]) if row else None, self._pepper)
        except SettingError as error:
            self._report(f"{error}; {error.hint}", logging.CRITICAL)
            self._records = None
            return False
        async with connection.cursor(row_factory=class_row(KeyRecord)) as cursor:
            records = await (await cursor.execute(directory.QUERY)).fetchall()
        fresh = {record.digest: record for record in records}
        if fresh != self._records:
            known = {record.key_id for record in (self._records or {}).values()}
            self._records = fresh
            removed = known - {record.key_id for record in records}
            if removed:
                self._on_removed(frozenset(removed))
            await asyncio.to_thread(self._write_snapshot, records)
        return True

    def _write_snapshot(self, records: list[KeyRecord]) -> None:
        data = {"pepper_fingerprint": self._fingerprint, "keys": [_to_json(record) for record in records]}
        try:
            atomic.write(self._snapshot, json.dumps(data), 0o600)
        except OSError as error:
            _log.warning("the keys cannot be saved for a start without PostgreSQL: %s", error)

    def _report(self, problem: str, level: int = logging.WARNING) -> None:
        if problem != self._problem:
            self._problem = problem
            _log.log(level, "%s", problem)


def _shown(headers: Iterable[tuple[bytes, bytes]], x_api_key: bool) -> Iterator[bytes]:
    """What a request shows as its key; some clients send both headers, one of them for another server."""
    authorized = False
    for name, value in headers:
        if name == b"authorization" and not authorized:
            authorized = True
            scheme, _, key = value.partition(b" ")
            yield key.strip() if scheme.lower() == b"bearer" else b""
        elif x_api_key and name == b"x-api-key":
            yield value.strip()


def _to_json(record: KeyRecord) -> dict[str, object]:
    return dataclasses.asdict(record) | {
        "digest": base64.b64encode(record.digest).decode(),
        "expires_at": record.expires_at and record.expires_at.isoformat(),
    }


def _from_json(item: dict[str, Any]) -> KeyRecord:
    """Another version may have written it: what is missing has its default, what is unknown is left out."""
    known = {field.name: item[field.name] for field in dataclasses.fields(KeyRecord) if field.name in item}
    expires_at = item["expires_at"]
    return KeyRecord(
        **known
        | {
            "digest": base64.b64decode(item["digest"]),
            "expires_at": expires_at and datetime.datetime.fromisoformat(expires_at),
        }
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
