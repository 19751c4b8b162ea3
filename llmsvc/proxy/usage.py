"""What somebody has used, for themselves: the sums of their days, read from PostgreSQL when asked for."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from typing import Any

import psycopg
import psycopg_pool
from psycopg.rows import class_row

from llmsvc.accounts import usage
from llmsvc.accounts.usage import OwnUsage
from llmsvc.proxy.errors import bad_request, unavailable
from llmsvc.proxy.participants import Participant

_MOST_DAYS = 366
_MOST_CONNECTIONS = 2
_SECONDS = 5.0


class UsageReader:
    """Reads reports; it has a connection only while somebody asks for one, and a minute longer."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]] | None = None

    async def of(self, who: Participant, days: str) -> dict[str, Any]:
        """The usage of somebody within the last UTC days, today included, by day and model.

        :param days: a number, as the client wrote it
        :raises ApiError: 400, that is no such number; 503, PostgreSQL does not answer
        """
        if not days.isascii() or not days.isdigit() or not 1 <= int(days[:9]) <= _MOST_DAYS:
            raise bad_request(f"'days' must be a number from 1 to {_MOST_DAYS}.", param="days")
        period = usage.own_days(int(days))
        try:
            rows = await asyncio.wait_for(self._rows(who, period), _SECONDS)
        except (psycopg.Error, psycopg_pool.PoolTimeout, OSError, asyncio.TimeoutError):
            raise unavailable("The usage cannot be read now.", "usage_unavailable") from None
        data = [{**dataclasses.asdict(row), "day": row.day.isoformat()} for row in rows]
        sums = [name for name in data[0] if name not in ("day", "model")] if data else []
        return {
            "object": "list",
            "user": who.record.username,
            "end_user": who.end_user,
            "time_zone": "UTC",
            "since": period["since"].isoformat(),
            "until": (period["until"] - datetime.timedelta(days=1)).isoformat(),
            "data": data,
            "total": {name: sum(entry[name] for entry in data) for name in sums},
        }

    async def _rows(self, who: Participant, period: dict[str, datetime.date]) -> list[OwnUsage]:
        if self._pool is None:
            self._pool = psycopg_pool.AsyncConnectionPool(
                self._conninfo,
                min_size=0,
                max_size=_MOST_CONNECTIONS,
                max_idle=60,
                timeout=_SECONDS,
                kwargs={"autocommit": True},
                open=False,
            )
            await self._pool.open()
        parameters = {"username": who.record.username, "end_user": who.end_user, **period}
        async with self._pool.connection() as connection:
            async with connection.cursor(row_factory=class_row(OwnUsage)) as cursor:
                return await (await cursor.execute(usage.OWN_USAGE_QUERY, parameters)).fetchall()

    async def close(self) -> None:
        """Closes its connections."""
        if self._pool is not None:
            await self._pool.close(timeout=1)
