"""A switch by command: what it checks first and shows meanwhile, its entry, and what a failure tells."""

from __future__ import annotations

import io
import json
import socket
import threading
import time

import pytest

from llmsvc import paths
from llmsvc.cli import main, session, switching
from llmsvc.errors import DeniedError
from llmsvc.library import preflight
from llmsvc.library.progress import ProgressLine
from llmsvc.systemd import journal, manager, rollback
from tests.unit.cli.states import state


class Systemd:
    """Instances that are what a test says; `asked` is what was asked of it."""

    def __init__(self):
        self.asked = []
        self.looks = [[state("old")]]
        self.error = None
        self.queued = None
        self.after_rollback = None
        self.go = threading.Event()

    def rollback_ends(self):
        self.looks = self.after_rollback or self.looks

    def instances(self):
        """What the next look sees; the command ends when the last one was seen."""
        if len(self.looks) == 1:
            self.go.set()
            return self.looks[0]
        return self.looks.pop(0)

    def act(self, verb):
        def call(name):
            self.asked.append((verb, name))
            self.go.wait(20)
            if self.error:
                raise self.error

        return call


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    fake = Systemd()
    notes = fake.notes = []
    monkeypatch.setattr(paths, "ROLLBACK", tmp_path / "rollback.json")
    monkeypatch.setattr(paths, "MODELS_D", tmp_path)
    (tmp_path / "new.env").touch()
    monkeypatch.setattr(paths, "DEFAULT_MODEL", tmp_path / "default-model")
    monkeypatch.setattr(
        preflight, "check", lambda name, **options: fake.asked.append(("check", name, options["force"]))
    )
    monkeypatch.setattr(manager, "instances", fake.instances)
    monkeypatch.setattr(manager, "queued_start", lambda: fake.queued)
    for verb, name in (("start", "switch"), ("restart", "restart"), ("stop", "stop")):
        monkeypatch.setattr(manager, name, fake.act(verb))
    monkeypatch.setattr(rollback, "await_end", fake.rollback_ends)
    monkeypatch.setattr(rollback, "at_work", lambda: False)
    monkeypatch.setattr(journal, "note", lambda *about: notes.append(about))
    monkeypatch.setattr(session, "note", lambda verb, name: None)
    monkeypatch.setattr(switching, "_LOOK_SECONDS", 0.1)
    monkeypatch.setenv("SUDO_USER", "root")
    return fake


@pytest.fixture
def failing(systemd):
    """The start of `new` fails."""
    systemd.error = manager.StartError("new", "it is a dud", ["loading", "it is a dud"])
    return systemd


def test_it_is_checked_before_anything_is_stopped(systemd):
    assert main.main(["start", "new", "--force"]) == 0
    assert systemd.asked == [("check", "new", True), ("start", "new")]


def test_each_step_is_one_plain_line_where_there_is_no_terminal(systemd, capsys):
    systemd.looks = [
        [state("old")],
        [state("old", "deactivating")],
        [state("old", "deactivating")],
        [state("new", "activating", text="Loading new.gguf: 3 %")],
        [state("new", "activating", text="Loading new.gguf: 37 %")],
        [state("new", "activating", text="Testing new.gguf")],
        [state("new", "activating", text="Serving new (x.gguf, 8192 tokens, cpu)")],
    ]
    assert main.main(["start", "new"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == ["waiting for old to finish its requests", "loading new: 3 %", "testing new"]
    assert out == "new is ready. It runs until the next boot; 'llmsvc model use new' keeps it.\n"


def test_json_stands_alone(systemd, capsys):
    systemd.looks = [[state("old")], [state("old", "deactivating")], []]
    assert main.main(["restart", "new", "--json"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"model": "new", "state": "active"}, "")


@pytest.mark.parametrize(
    ("command", "message"),
    [("start", "starts new instead of old"), ("restart", "restarts new"), ("stop", "stops new")],
)
def test_the_journal_learns_who_did_it(systemd, command, message):
    main.main([command, "new"])
    ((identifier, text, fields),) = systemd.notes
    assert identifier == "llmsvc"
    assert text.endswith(f") {message}")
    assert text.startswith(f"{fields['LLM_ACTOR']} (uid ")
    assert (fields["LLM_MODEL"], fields["LLM_VERB"]) == ("new", command)


def test_who_was_refused_did_nothing(systemd, capsys):
    systemd.error = DeniedError("no", hint="use sudo")
    systemd.go.set()
    assert main.main(["start", "new"]) == 4
    assert systemd.notes == []


def test_an_entry_of_the_journal_has_its_fields(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "journal"))
        journal.note("llmsvc", "alice starts x", {"LLM_ACTOR": "alice"}, str(tmp_path / "journal"))
        entry = journald.recv(4096).decode().splitlines()
    assert entry == ["MESSAGE=alice starts x", "PRIORITY=6", "SYSLOG_IDENTIFIER=llmsvc", "LLM_ACTOR=alice"]
    journal.note("llmsvc", "nobody hears it", {}, str(tmp_path / "gone"))


def test_a_failure_is_told_with_the_journal_and_the_model_that_is_back(failing, capsys):
    failing.looks = [
        [state("old")],
        [],
        [state("old", "activating", text="Loading old.gguf: 9 %")],
        [state("old")],
    ]
    failing.go.set()
    assert main.main(["start", "new"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "  loading",
        "  it is a dud",
        "going back to the last good model",
        "going back: loading old: 9 %",
        "llmsvc: new did not start: it is a dud",
        "hint: old is back, and answers; journalctl -u llama-server@new.service -n 30 tells more",
    ]


def test_a_failure_in_json_has_the_lines_and_the_model(failing, capsys):
    assert main.main(["start", "new", "--json"]) == 1
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (error["lines"], error["model"], error["coming"]) == (["loading", "it is a dud"], "old", None)
    assert err == ""


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ({"to": None, "retry_at": None}, "no model runs now; journalctl"),
        ({"to": "old", "retry_at": 1.0}, "no model runs now; old is tried at 1970-01-01"),
    ],
)
def test_it_does_not_wait_for_a_model_that_will_not_come(failing, capsys, plan, told):
    failing.looks = [[], [], [state("late")]]
    failing.go.set()
    told_at = {"at": time.time() + 100, "failed": "new", "reason": "it is a dud", **plan}
    paths.ROLLBACK.write_text(json.dumps(told_at))
    assert main.main(["start", "new"]) == 1
    assert f"hint: {told}" in capsys.readouterr().err


def test_what_an_earlier_rollback_said_is_not_taken_for_news(failing, capsys):
    failing.looks = [[state("old")], [], [], [state("old")]]
    failing.go.set()
    earlier = {"at": time.time() - 1, "failed": "x", "reason": "", "to": None, "retry_at": None}
    paths.ROLLBACK.write_text(json.dumps(earlier))
    main.main(["start", "new"])
    assert "hint: old is back" in capsys.readouterr().err


def test_ctrl_c_leaves_the_switch_to_systemd(systemd, monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    systemd.looks = [[state("old")], [], []]
    monkeypatch.setattr(switching, "step", lambda *about: interrupt())
    try:
        assert main.main(["start", "new"]) == 130
        assert capsys.readouterr().err.splitlines() == [
            "llmsvc: interrupted; the start of new goes on in systemd",
            "hint: 'llmsvc status --watch' shows how far it is",
        ]
        assert len(systemd.notes) == 1
    finally:
        systemd.go.set()


def test_a_bug_in_the_waiting_thread_is_not_lost(systemd):
    systemd.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        main.main(["start", "new"])


def test_stop_tells_what_the_next_boot_brings(systemd, capsys):
    paths.DEFAULT_MODEL.symlink_to("models.d/old.env")
    assert main.main(["stop", "new"]) == 0
    assert capsys.readouterr().out == (
        "new is stopped. old starts at the next boot; 'llmsvc start' starts it now.\n"
    )


@pytest.mark.parametrize("name", ["typo", "*"])
def test_stop_of_a_model_that_is_not_there_is_an_error(systemd, name, capsys):
    assert main.main(["stop", name]) == 3
    assert systemd.asked == [] and "no model" in capsys.readouterr().err


def test_stop_ends_a_retry_that_waits(systemd, capsys):
    systemd.looks = [[]]
    plan = {"at": time.time(), "failed": "new", "reason": "", "to": "old", "retry_at": time.time() + 60}
    paths.ROLLBACK.write_text(json.dumps(plan))
    assert main.main(["stop"]) == 0
    assert systemd.asked == [("stop", "old")]
    assert capsys.readouterr().out == "No model runs; old is not tried again.\n"


def test_stop_without_a_model_stops_the_one_that_loads_too(systemd):
    systemd.looks = [[state("new", "activating")]]
    assert main.main(["stop"]) == 0
    assert systemd.asked == [("stop", "new")]


@pytest.mark.parametrize("verb", ["stop", "restart"])
@pytest.mark.parametrize(("queued", "meant"), [("new", "new"), (None, "old")])
def test_while_a_model_finishes_its_requests_the_one_that_comes_is_meant(systemd, verb, queued, meant):
    systemd.looks, systemd.queued = [[state("old", "deactivating")]], queued
    assert main.main([verb]) == 0
    assert (verb, meant) in systemd.asked


def test_stop_while_a_rollback_begins_stops_what_it_starts(systemd):
    systemd.looks, systemd.after_rollback = [[]], [[state("old", "activating")]]
    assert main.main(["stop"]) == 0
    assert systemd.asked == [("stop", "old")]


def test_stop_where_nothing_runs_does_nothing(systemd, capsys):
    systemd.looks = [[]]
    assert main.main(["stop"]) == 0
    assert (systemd.asked, capsys.readouterr().out) == ([], "No model runs.\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_one_line_that_is_painted_anew(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with ProgressLine() as line:
        line.show("loading new", "3 %")
        line.show("loading new", "37 %")
        line.show("loading new", "37 %")
    assert terminal.getvalue() == "\r\x1b[Kloading new: 3 %\r\x1b[Kloading new: 37 %\r\x1b[K"
