"""Who is let in, and who is sent away: by count, by time, and for reading nothing."""

from __future__ import annotations

from typing import Any

from llmsvc.proxy.addresses import Proxies
from llmsvc.proxy.door import UNREAD_SECONDS, Door, turn_out


class Client:
    """A connection, as the door sees it, and its transport."""

    def __init__(self) -> None:
        self.deadline = float("inf")
        self.written = 0
        self.unread = 0
        self.ended: list[str] = []
        self.transport = self

    def get_write_buffer_size(self) -> int:
        return self.unread

    def overdue(self) -> None:
        self.ended.append("overdue")

    def abort(self) -> None:
        self.ended.append("aborted")


def sweep(client: Any, read: dict[Any, Any], now: float) -> dict[Any, Any]:
    return turn_out([client], read, now)


def test_an_address_has_a_ceiling_and_a_trusted_proxy_has_that_of_all() -> None:
    door = Door(5, 2, 1, 1, Proxies())
    assert [door.enter("192.0.2.1", exempt=False) for _ in range(2)] == [None, None]
    refused = door.enter("192.0.2.1", exempt=False)
    assert refused is not None
    assert refused.status == 429
    assert [door.enter("192.0.2.7", exempt=True) for _ in range(3)] == [None] * 3
    full = door.enter("192.0.2.2", exempt=False)
    assert full is not None
    assert full.status == 503
    door.leave("192.0.2.1", exempt=False)
    assert door.enter("192.0.2.2", exempt=False) is None
    door.leave("192.0.2.7", exempt=True)
    assert door.enter("192.0.2.1", exempt=False) is None


def test_nothing_is_kept_of_addresses_that_left() -> None:
    door = Door(10, 2, 1, 1, Proxies())
    for number in range(1000):
        door.enter(f"2001:db8::{number:x}", exempt=False)
        door.leave(f"2001:db8::{number:x}", exempt=False)
    assert not door._addresses


def test_who_reads_nothing_of_its_answer_is_cut() -> None:
    client = Client()
    client.written = client.unread = 1000
    read = sweep(client, {}, 0)
    for now in range(1, int(UNREAD_SECONDS) + 1):
        read = sweep(client, read, now)
        # more that nobody reads changes nothing
        client.written += 10
        client.unread += 10
    assert client.ended == []
    sweep(client, read, UNREAD_SECONDS + 1)
    assert client.ended == ["aborted"]


def test_who_reads_slowly_stays_and_so_does_a_stream_that_grows_meanwhile() -> None:
    client = Client()
    client.written = client.unread = 1_000_000
    read: dict[Any, Any] = {}
    for now in range(0, 1000, 50):
        read = sweep(client, read, now)
        client.written += 500
        client.unread += 499
    client.unread = 0
    read = sweep(client, read, 1000)
    assert (client.ended, read) == ([], {})


def test_the_deadline_is_kept() -> None:
    client = Client()
    client.deadline = 10
    sweep(client, {}, 10)
    assert client.ended == []
    sweep(client, {}, 10.5)
    assert client.ended == ["overdue"]
