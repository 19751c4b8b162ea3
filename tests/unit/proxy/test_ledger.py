"""The ledger without PostgreSQL: what it does where its file is damaged or full."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from pathlib import Path

import pytest

from llmsvc.proxy.backends import Usage
from llmsvc.proxy.errors import ApiError
from llmsvc.proxy.ledger import _LARGEST_RECORD, Ledger, new_request_id
from llmsvc.proxy.participants import Participant
from llmsvc.proxy.tally import Tally
from tests.unit.proxy import people


def test_damaged_spool_is_put_aside_loudly_and_does_not_stop_the_proxy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ledger.spool").write_bytes(b"x" * 5000)
    ledger = Ledger(tmp_path / "ledger.spool", "", size=1 << 20)
    ledger.accept(new_request_id(), {"state": "proxy_killed"})
    assert (tmp_path / "ledger.damaged").read_bytes() == b"x" * 5000
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]


def test_full_spool_refuses_requests_but_takes_the_end_of_those_it_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path / "ledger.spool", "", size=1 << 19)
    row = {"path": "x" * 500}
    accepted: list[uuid.UUID] = []
    with pytest.raises(ApiError) as caught:
        while True:
            accepted.append(new_request_id())
            ledger.accept(accepted[-1], row)
    assert caught.value.status == 503
    assert len(accepted) > 50
    for request_id in accepted[:-1]:
        ledger.end(request_id, row)
    assert not ledger.open
    assert [record.message.split(",")[0] for record in caplog.records] == ["the ledger is full"]


def test_request_ids_are_version_7_and_come_in_order_of_time() -> None:
    first = new_request_id()
    assert (first.version, first.variant) == (7, uuid.RFC_4122)
    ids = [new_request_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert [i.int >> 80 for i in ids] == sorted(i.int >> 80 for i in ids)


async def test_a_flood_of_refused_requests_leaves_room_for_those_that_were_accepted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "spool", "host=/nonexistent", size=1024 * 1024)
    row = {"request_id": "x", "username": "u" * 60, "state": "rejected_limit"}
    accepted = [new_request_id() for _ in range(3)]
    for request_id in accepted:
        ledger.accept(request_id, row)
    for _ in range(10_000):
        ledger.end(new_request_id(), row)
    for request_id in accepted:
        before = ledger.backlog
        ledger.end(request_id, {**row, "state": "ok"})
        assert ledger.backlog > before


def test_the_largest_row_has_its_room(tmp_path: Path) -> None:
    user = dataclasses.replace(people.record("x", on_behalf_of="x-user"), username="u" * 63, user_id=2**31)
    who = Participant("2147483648:name", dataclasses.replace(user, key_id=2**31), "\U0001f600" * 128)
    tally = Tally(str(new_request_id()), who, "ffff:" * 7 + "ffff", "/v1/chat/completions", model="m" * 63)
    tally.status, tally.state, tally.usage = 503, "rejected_request", Usage(2**31, 2**31)
    tally.first_token, tally.queued, tally.request_bytes = tally.start + 2**20, 2**20, 2**30
    ledger = Ledger(tmp_path / "spool", "", size=1 << 20)
    ledger.end(new_request_id(), tally.row(2**40))
    assert 2048 < ledger.backlog <= _LARGEST_RECORD
