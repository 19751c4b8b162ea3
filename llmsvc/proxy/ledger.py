"""The ledger: every accepted request gets exactly one row in llama_requests.

A row goes into the spool twice, at acceptance and at its end, and from there in batches into PostgreSQL,
which may be away for a while. What a killed proxy left open is closed at the next start. A row that is sent
twice is one row, for its id is the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import psycopg

from llmsvc.proxy.errors import unavailable
from llmsvc.proxy.spool import SIZE, DamagedError, Spool

_log = logging.getLogger(__name__)

_ACCEPTED, _ENDED = 1, 2
# with the longest name of an end user, of which JSON makes twelve bytes a character
_LARGEST_RECORD = 3072
_BATCH_BYTES = 256 * 1024
_FLUSH_SECONDS = 0.25
_RETRY_SECONDS = 2.0
_STATEMENT_SECONDS = 30.0
_REPEAT_WARNING_SECONDS = 60.0

COLUMNS = (
    "request_id, username, user_id, key_id, end_user, client_addr, path, model, state, status_code, "
    "duration_ms, queue_ms, first_token_ms, request_bytes, response_bytes, prompt_tokens, "
    "completion_tokens, created_at"
)
_INSERT = f"""
INSERT INTO llama_requests ({COLUMNS})
SELECT {COLUMNS} FROM json_populate_recordset(null::llama_requests, %s::json)
ON CONFLICT (request_id) DO NOTHING
"""  # noqa: S608 - no value is in it

_ENCODER = json.JSONEncoder(separators=(",", ":"))

Row = Mapping[str, object]


def new_request_id() -> uuid.UUID:
    """A random id that begins with the time (UUID version 7), so that new rows lie together in the index."""
    value = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10), "big")
    return uuid.UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)


class Ledger:
    """The rows on their way to PostgreSQL. `open` are the requests that have not ended."""

    def __init__(self, file: Path, conninfo: str, size: int = SIZE) -> None:
        try:
            self._spool = Spool(file, size)
        except DamagedError:
            aside = file.with_suffix(".damaged")
            file.replace(aside)
            _log.critical("the ledger's spool was damaged, its rows are lost; it is kept as %s", aside)
            self._spool = Spool(file, size)
        self._conninfo = conninfo
        self._connection: psycopg.AsyncConnection[tuple[object, ...]] | None = None
        self._warned = -_REPEAT_WARNING_SECONDS
        self.open: dict[bytes, bytes] = {}
        self._failing = False
        self._replay()

    @property
    def backlog(self) -> int:
        """Bytes that PostgreSQL does not have yet."""
        return self._spool.backlog

    @property
    def fill(self) -> float:
        """The part of the spool that is taken, 0 to 1."""
        return self._spool.backlog / self._spool.size

    @property
    def _reserve(self) -> int:
        """Bytes that the ends of all open requests, and one batch, may need."""
        return (len(self.open) + 3) * _LARGEST_RECORD + _BATCH_BYTES

    def accept(self, request_id: uuid.UUID, row: Row) -> None:
        """The request will be served.

        :raises ApiError: 503, no room is left for its row
        """
        if self._spool.free < self._reserve:
            if time.monotonic() - self._warned >= _REPEAT_WARNING_SECONDS:
                self._warned = time.monotonic()
                _log.critical(
                    "the ledger is full, requests are refused: PostgreSQL has not taken its %d bytes",
                    self.backlog,
                )
            raise unavailable("Requests cannot be recorded now.", "ledger_full", retry_after=30)
        payload = _encode(row)
        self.open[request_id.bytes] = payload
        self._spool.append(_ACCEPTED, request_id.bytes, payload)

    def end(self, request_id: uuid.UUID, row: Row) -> None:
        """The request has ended; also for one that was refused and never accepted."""
        accepted = self.open.pop(request_id.bytes, None) is not None
        payload = _encode(row)
        if not accepted and self._spool.free < self._reserve:
            return  # a flood of refused ones must not take the room of those that were accepted
        if self._spool.free < len(payload) + _LARGEST_RECORD:
            _log.critical("the ledger is full, the row of request %s is lost", request_id)
            return
        self._spool.append(_ENDED, request_id.bytes, payload)

    async def run(self) -> None:
        """Sends rows to PostgreSQL for ever; to be run as a task."""
        while True:
            try:
                more = await self.flush()
            except (psycopg.Error, OSError, asyncio.TimeoutError) as error:
                if not self._failing:
                    _log.warning("rows wait in the spool, PostgreSQL takes none: %s", _first_line(error))
                self._failing = True
                await self._disconnect()
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                if self._failing:
                    _log.info("PostgreSQL takes rows again, %d bytes wait", self.backlog)
                self._failing = False
                if not more:
                    await asyncio.sleep(_FLUSH_SECONDS)

    async def flush(self) -> bool:
        """Sends one batch; returns whether there is more.

        :raises psycopg.Error, OSError, TimeoutError: PostgreSQL does not take it now
        """
        if self._connection is None:
            self._connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        if not self.backlog:
            return False
        rows: list[bytes] = []
        open_ones: set[bytes] = set()
        end = self._spool.head
        for record in self._spool.records(_BATCH_BYTES):
            if record.kind == _ENDED:
                rows.append(record.payload)
            else:
                open_ones.add(record.request_id)
            end = record.end
        more = end < self._spool.tail
        if rows:
            await asyncio.wait_for(self._insert(self._connection, rows), _STATEMENT_SECONDS)
        if rows or more:
            # what has not ended must be found again after a kill; what ended meanwhile did so behind `end`
            for request_id in open_ones & self.open.keys():
                self._spool.append(_ACCEPTED, request_id, self.open[request_id])
            self._spool.advance(end)
        return more and bool(rows)

    async def close(self, seconds: float = 2.0) -> None:
        """Sends what is left, as far as that goes within some seconds; the next process sends the rest."""
        # run() may have been ended in the middle of a statement
        await self._disconnect()
        deadline = time.monotonic() + seconds
        with contextlib.suppress(psycopg.Error, OSError, asyncio.TimeoutError):
            while await asyncio.wait_for(self.flush(), max(0.1, deadline - time.monotonic())):
                pass
        await self._disconnect()
        self._spool.close()

    def _replay(self) -> None:
        for record in self._spool.records():
            if record.kind == _ACCEPTED:
                self.open[record.request_id] = record.payload
            else:
                self.open.pop(record.request_id, None)
        if self.open:
            _log.warning("%d requests were open when the proxy was killed", len(self.open))
        for request_id, payload in self.open.items():
            self._spool.append(_ENDED, request_id, payload)
        self.open.clear()

    async def _insert(
        self, connection: psycopg.AsyncConnection[tuple[object, ...]], rows: list[bytes]
    ) -> None:
        try:
            await connection.execute(_INSERT, [(b"[" + b",".join(rows) + b"]").decode()])
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            if len(rows) == 1:
                # one row that PostgreSQL will never take must not hold up all others
                _log.critical("a ledger row is dropped, PostgreSQL refuses it: %s", _first_line(error))
                return
            for row in rows:
                await self._insert(connection, [row])

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()


def _encode(row: Row) -> bytes:
    return _ENCODER.encode(row).encode()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
