"""Who is blamed for a crash of the model, and who is not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llmsvc.proxy import poison as module
from llmsvc.proxy.errors import ApiError
from llmsvc.proxy.incidents import Incidents
from llmsvc.proxy.poison import Fingerprint, Poison, digest

DEADLY = ("m", digest("/v1/completions", b"deadly"))
OTHER = ("m", digest("/v1/completions", b"other"))


@pytest.fixture
def poison(tmp_path: Path) -> Poison:
    (tmp_path / "crashes").mkdir()
    return Poison(Incidents(tmp_path))


def crash(tmp_path: Path, at: float) -> None:
    with (tmp_path / "crashes" / "m").open("a") as file:
        file.write(f"{at:.3f} signal\n")


def one_crash(poison: Poison, tmp_path: Path, *requests: Fingerprint) -> None:
    """The requests are sent, the model crashes, and it is back."""
    sent = time.time()
    for request in requests:
        poison.suspect(request, sent)
    crash(tmp_path, sent + 0.01)
    poison.resolve()
    time.sleep(0.02)


def refused(poison: Poison, request: Fingerprint) -> bool:
    try:
        poison.check(request)
    except ApiError as error:
        assert (error.status, error.state) == (400, "rejected_poison")
        return True
    return False


def test_second_crash_in_a_row_makes_it_refused(poison: Poison, tmp_path: Path) -> None:
    one_crash(poison, tmp_path, DEADLY)
    assert not refused(poison, DEADLY)
    one_crash(poison, tmp_path, DEADLY)
    assert refused(poison, DEADLY)
    assert not refused(poison, OTHER)


def test_of_several_in_flight_those_that_succeed_afterwards_are_cleared(
    poison: Poison, tmp_path: Path
) -> None:
    for _ in range(2):
        one_crash(poison, tmp_path, DEADLY, OTHER)
        poison.succeeded(OTHER)
    assert refused(poison, DEADLY)
    assert not refused(poison, OTHER)


def test_same_body_twice_in_one_crash_counts_once(poison: Poison, tmp_path: Path) -> None:
    one_crash(poison, tmp_path, DEADLY, DEADLY)
    assert not refused(poison, DEADLY)


@pytest.mark.parametrize("at", [-1.0, 61.0], ids=["before it was sent", "long after it left"])
def test_crash_at_another_time_is_not_its_fault(poison: Poison, tmp_path: Path, at: float) -> None:
    for number in range(2):
        poison.suspect(DEADLY, time.time())
        crash(tmp_path, time.time() + at + number * 0.01)
        poison.resolve()
    assert not poison


def test_stop_without_a_crash_clears_the_suspects(poison: Poison, tmp_path: Path) -> None:
    poison.suspect(DEADLY, time.time())
    poison.resolve()
    crash(tmp_path, time.time())
    poison.resolve()
    assert not poison


def test_it_is_forgotten_after_an_hour(
    poison: Poison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_crash(poison, tmp_path, DEADLY)
    one_crash(poison, tmp_path, DEADLY)
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 3700)
    assert not refused(poison, DEADLY)


def test_memory_is_bounded_and_keeps_the_latest(poison: Poison, tmp_path: Path) -> None:
    one_crash(poison, tmp_path, DEADLY)
    one_crash(poison, tmp_path, *(("m", digest("/", b"%d" % number)) for number in range(1200)))
    one_crash(poison, tmp_path, DEADLY)
    assert not refused(poison, DEADLY)
    assert len(poison._guilty) == 1000


@pytest.mark.parametrize("text", [b"", b"nonsense\n", b"\xff\xfe 1\n", b"\n\n"])
def test_damaged_file_is_no_crash(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "crashes").mkdir()
    (tmp_path / "crashes" / "m").write_bytes(text)
    (tmp_path / "rollback.json").write_bytes(text)
    incidents = Incidents(tmp_path)
    assert incidents.crashes("m") == []
    assert not incidents.rolled_back_since("m", 0)
