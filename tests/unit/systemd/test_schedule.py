"""Schedules of models: what is a time is asked of the real systemd-analyze, systemctl is noted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmsvc import paths, process
from llmsvc.cli import main, model_change, session
from llmsvc.errors import NotFoundError, UsageError
from llmsvc.systemd import schedule


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What systemctl was called with; units are written below tmp_path."""
    monkeypatch.setattr(paths, "UNITS", tmp_path)
    calls: list[str] = []
    real = process.run

    def run(argv, **options):  # type: ignore[no-untyped-def]
        if argv[0] != "systemctl":
            return real(argv, **options)
        calls.append(" ".join(map(str, argv[1:])))
        return real(["echo", "Mon 2030-01-07 08:00:00 UTC"], **options)

    monkeypatch.setattr(schedule, "run", run)
    return calls


def times(name: str) -> list[str]:
    return [line for line in text(name).splitlines() if line.startswith("OnCalendar=")]


def text(name: str) -> str:
    return (paths.UNITS / f"llmsvc-schedule@{name}.timer").read_text()


def test_times_are_added_to_one_timer_a_model(asked: list[str]) -> None:
    assert schedule.add("coder", ["Mon..Fri 08:00"])
    assert schedule.add("coder", ["Sat 10:00", "Mon..Fri 8:00"])
    assert not schedule.add("coder", ["Sat 10:00"])
    assert times("coder") == ["OnCalendar=Mon..Fri *-*-* 08:00:00", "OnCalendar=Sat *-*-* 10:00:00"]
    assert (
        asked
        == [
            "daemon-reload",
            "enable --quiet llmsvc-schedule@coder.timer",
            "restart llmsvc-schedule@coder.timer",
        ]
        * 2
    )
    assert (paths.UNITS / "llmsvc-schedule@coder.timer").stat().st_mode & 0o777 == 0o644
    schedule.add("b", ["daily"])
    assert [one.name for one in schedule.every()] == ["b", "coder"]
    assert schedule.get("b").next == "Mon 2030-01-07 08:00:00 UTC"
    assert schedule.get("none") == schedule.Schedule("none", [])


def test_a_time_or_all_are_removed(asked: list[str]) -> None:
    schedule.add("m", ["Mon 08:00", "Tue 08:00"])
    schedule.remove("m", ["Mon 8:00"])
    assert times("m") == ["OnCalendar=Tue *-*-* 08:00:00"]
    with pytest.raises(NotFoundError, match=r"m has no schedule at Mon \*-\*-\* 08:00:00"):
        schedule.remove("m", ["Mon 08:00"])
    asked.clear()
    schedule.remove("m", [])
    assert asked == ["disable --quiet --now llmsvc-schedule@m.timer", "daemon-reload"]
    assert list(paths.UNITS.iterdir()) == []
    with pytest.raises(NotFoundError, match="m has no schedule"):
        schedule.remove("m", [])


@pytest.mark.parametrize("time", ["whenever", "25:00", "", "Mon 08:00\nOnBootSec=1", "--help", "08:00 09:00"])
def test_what_is_no_time_changes_nothing(asked: list[str], time: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        schedule.add("m", ["Mon 08:00", time])
    assert asked == []
    assert list(paths.UNITS.iterdir()) == []


def test_the_timer_is_one_that_systemd_takes(asked: list[str]) -> None:
    schedule.add("m", ["Mon..Fri 08:00", "*-*-01 06:30"])
    service = paths.UNITS / "llmsvc-schedule@m.service"
    service.write_text("[Service]\nExecStart=/bin/true\n")
    timer = paths.UNITS / "llmsvc-schedule@m.timer"
    done = process.run(
        ["systemd-analyze", "verify", "--man=no", timer],
        env={"SYSTEMD_UNIT_PATH": f"{paths.UNITS}:"},
        check=False,
    )
    assert "llmsvc" not in done.stderr


@pytest.fixture
def cli(asked, tmp_path, monkeypatch, capsys):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(model_change, "require_root", lambda what: None)
    monkeypatch.setattr(session, "note", lambda verb, thing: None)
    models_d = tmp_path / "models.d"
    models_d.mkdir()
    (models_d / "m.env").touch()
    monkeypatch.setattr(paths, "MODELS_D", models_d)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main.main(["model", "schedule", *arguments])
        return code, *capsys.readouterr()

    return call


def test_the_command_adds_lists_and_removes(cli) -> None:  # type: ignore[no-untyped-def]
    assert "no schedules; sudo llmsvc model schedule" in cli()[1]
    code, out, _ = cli("m", "--on-calendar", "Mon..Fri 08:00", "--on-calendar", "Sat 9:00")
    assert code == 0
    assert out.splitlines() == [
        "m is switched to at Mon..Fri *-*-* 08:00:00, Sat *-*-* 09:00:00",
        "the next time: Mon 2030-01-07 08:00:00 UTC",
    ]
    for listed in (cli("list", "--json"), cli("m", "--json"), cli("--json")):
        (one,) = json.loads(listed[1])
        assert (one["name"], len(one["times"])) == ("m", 2)
    assert len(cli("list")[1].splitlines()) == 3
    assert "m is switched to at Sat" in cli("remove", "m", "--on-calendar", "Mon..Fri 08:00")[1]
    assert "m has no schedule any more" in cli("remove", "m")[1]
    assert cli("remove", "m")[0] == 3
    assert cli("other", "--on-calendar", "daily")[0] == 3
    assert cli("m", "--on-calendar", "whenever")[0] == 2
    assert cli("a", "b", "c")[0] == cli("list", "--on-calendar", "daily")[0] == 2
