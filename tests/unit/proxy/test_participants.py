"""Who a request counts for."""

from __future__ import annotations

import logging

import pytest

from llmsvc.proxy.errors import ApiError
from llmsvc.proxy.participants import Participants
from tests.unit.proxy.clock import Clock
from tests.unit.proxy.people import record

FRONT_END = record("webui", on_behalf_of="x-user-email")


def named(*values: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), *((b"x-user-email", value) for value in values)]


def test_the_header_counts_on_a_front_ends_key_alone() -> None:
    people = Participants(10)
    alice, bob = (people.of(FRONT_END, named(who)) for who in (b"alice@example.org", b"bob@example.org"))
    assert (alice.end_user, alice.name) == ("alice@example.org", "webui/alice@example.org")
    assert alice.key != bob.key
    assert people.of(FRONT_END, named(b" alice@example.org ")) == alice
    nobody = people.of(FRONT_END, named())
    assert (nobody.end_user, nobody.name) == (None, "webui")
    assert people.of(FRONT_END, named(b"")) == nobody
    other = people.of(record("carol"), named(b"alice@example.org"))
    assert (other.end_user, other.name) == (None, "carol")


def test_no_end_user_can_be_taken_for_another_user() -> None:
    people = Participants(10)
    user = people.of(record("carol"), [])
    assert people.of(FRONT_END, named(user.key.encode())).key != user.key


@pytest.mark.parametrize(
    "value", [b"a" * 129, "é".encode() * 129, b"\xff", b"a\x01b", b"a\tb", b"a\xe2\x80\xa8b"]
)
def test_what_is_no_name_is_refused(value: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        Participants(10).of(FRONT_END, named(value))
    assert caught.value.status == 400


def test_two_different_names_are_refused_and_128_characters_are_not() -> None:
    people = Participants(10)
    with pytest.raises(ApiError, match="twice"):
        people.of(FRONT_END, named(b"alice", b"bob"))
    assert people.of(FRONT_END, named("é".encode() * 128)).end_user == "é" * 128


def test_a_front_end_cannot_make_itself_limits_without_end(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    people = Participants(2, clock)
    names = [people.of(FRONT_END, named(b"user%d" % number)).end_user for number in range(4)]
    assert names == ["user0", "user1", None, None]
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING]
    clock.now += 80000
    assert people.of(FRONT_END, named(b"user1")).end_user == "user1"
    clock.now += 10000
    # user0 was not there for a day
    assert people.of(FRONT_END, named(b"user9")).end_user == "user9"
    assert people.of(FRONT_END, named(b"user0")).end_user is None


def test_who_is_not_told_apart_sees_nothing_of_the_others() -> None:
    people = Participants(1)
    assert people.alone(FRONT_END, named(b"alice")).end_user == "alice"
    assert people.alone(FRONT_END, named()).name == "webui"
    with pytest.raises(ApiError) as caught:
        people.alone(FRONT_END, named(b"bob"))
    assert caught.value.status == 403
