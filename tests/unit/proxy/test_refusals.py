"""Requests over a limit, sent in a loop."""

import logging

import pytest

from llmsvc.proxy.refusals import A_MINUTE, Refusals
from tests.unit.proxy.people import person


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_so_many_a_minute_are_told_of_for_each_participant() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    told = [refusals.are_told(person("alice")) for _ in range(A_MINUTE + 5)]
    assert told == [True] * A_MINUTE + [False] * 5
    assert refusals.are_told(person("bob"))
    clock.now += 60
    assert all(refusals.are_told(person("alice")) for _ in range(A_MINUTE))


def test_the_journal_hears_the_number_of_the_others_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    refusals = Refusals(clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(A_MINUTE + 11):
            refusals.are_told(person("alice"))
        assert [record.getMessage().partition(",")[2] for record in caplog.records] == [
            " 1 refused without a row, the last of alice"
        ]
        clock.now += 60
        for _ in range(A_MINUTE + 1):
            refusals.are_told(person("alice"))
    assert "11 refused without a row" in caplog.records[1].getMessage()
