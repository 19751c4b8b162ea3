"""What `llmsvc status` tells, whatever part is missing, and how it watches."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from llmsvc import client, config, paths
from llmsvc.cli import main, overview, status
from llmsvc.errors import UnavailableError
from llmsvc.systemd import manager
from tests.unit.cli.states import state

PROXY = {
    "model": "smollm2",
    "since": 1.0,
    "coming": None,
    "progress": None,
    "loading": None,
    "running": 1,
    "slots": 1,
    "waiting": 2,
    "expected_seconds": 12.5,
    "held_since": None,
    "tokens_per_second": 36.8,
    "database": True,
    "ledger_backlog": 0,
    "last_switch": {"at": 1.0, "from": "gemma3", "to": "smollm2", "seconds": 1.4, "result": "ok"},
}


class Host:
    """What each part tells; to be changed by a test."""

    def __init__(self, root):
        self.root = root
        self.instances = [state("smollm2")]
        self.queued = None
        self.ready = True

    def proxy(self, age=0.0, **changed):
        (self.root / "status.json").write_text(json.dumps({"at": time.time() - age, **PROXY, **changed}))

    def rollback(self, **changed):
        told = {"at": time.time(), "failed": "dud", "reason": "bad", "to": "smollm2", "retry_at": None}
        (self.root / "rollback.json").write_text(json.dumps(told | changed))


@pytest.fixture
def host(tmp_path, monkeypatch):
    host = Host(tmp_path)
    monkeypatch.setattr(paths, "CONFIG_ENV", tmp_path / "config.env")
    monkeypatch.setattr(paths, "DEFAULT_MODEL", tmp_path / "default-model")
    monkeypatch.setattr(paths, "PROXY_STATUS", tmp_path / "status.json")
    monkeypatch.setattr(paths, "ROLLBACK", tmp_path / "rollback.json")
    monkeypatch.setattr(manager, "instances", lambda: host.instances)
    monkeypatch.setattr(manager, "states", lambda units: [state(unit) for unit in units])
    monkeypatch.setattr(manager, "queued_start", lambda: host.queued)
    monkeypatch.setattr(paths, "LOCAL_KEY", tmp_path / "local-key")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(client, "get_json", lambda *about, **options: (200 if host.ready else 503, None))
    return host


def shown(colour=False):
    """The lines by their first word."""
    lines = status.text(overview.gather(), colour=colour).splitlines()
    return {line.split()[0]: line[10:] for line in lines}


def test_all_is_told_on_a_line_each(host):
    host.proxy()
    host.rollback()
    (host.root / "default-model").symlink_to("models.d/smollm2.env")
    lines = shown()
    assert re.fullmatch(r"smollm2  ready since .* \(1 min\)  36.8 tokens/s", lines["model"])
    assert lines["requests"] == "1 running, 2 waiting (a new one for about 12 s)"
    host.proxy(slots=4, running=2, waiting=0)
    assert shown()["requests"] == "2 of 4 running, 0 waiting"
    host.proxy()
    assert re.fullmatch(r"gemma3 -> smollm2 at .* in 1.4 s: ok", lines["switch"])
    assert re.fullmatch(r"dud failed at .*; went back to smollm2; bad", lines["rollback"])
    assert lines["default"] == "smollm2"
    assert lines["proxy"].startswith("active since")
    assert lines["database"] == "ok"
    assert lines["clients"] == "http://127.0.0.1:8001/v1  ready"


def test_who_has_a_key_sees_the_queue(host, monkeypatch):
    def get_json(base_url, path, key=None, **options):
        if path != "/v1/queue":
            return 200, None
        assert key == "sk-llm-ours"
        seen = {"model": None, "end_user": None}
        return 200, {
            "data": [
                {**seen, "id": "a", "user": "alice", "state": "running", "position": 0, "seconds": 3.0}
                | {"model": "smollm2", "expected_seconds": 0.0},
                {**seen, "id": "b", "user": "webui", "state": "waiting", "position": 1, "seconds": 2.0}
                | {"end_user": "anna\x1b[2J", "expected_seconds": 8.0},
            ]
        }

    host.proxy()
    (host.root / "local-key").write_text("sk-llm-ours\n")
    monkeypatch.setattr(client, "get_json", get_json)
    lines = status.text(overview.gather()).splitlines()
    assert [line.strip() for line in lines if " a " in line or " b " in line] == [
        "-     a  alice  running for 3.0 s",
        "1     b  webui/anna?[2J  waiting for 2.0 s, its turn in about 8.0 s",
    ]


def test_the_exit_status_tells_whether_requests_are_answered(host, capsys):
    assert main.main(["status"]) == 0
    host.ready = False
    assert main.main(["status", "--json"]) == 3
    assert json.loads(capsys.readouterr().out.split("ready\n", 1)[1])["ready"] is False


def test_a_load_is_shown_with_its_percent(host):
    host.instances = [state("gemma3", "activating", text="Loading gemma-3.gguf: 37 %")]
    host.proxy(model=None, coming="gemma3", progress=35)
    assert shown()["model"].startswith("gemma3  loading 37 % since")
    assert overview.gather()["progress"] == 37


def test_a_drain_is_shown_with_what_comes_next(host):
    host.instances, host.queued = [state("smollm2", "deactivating")], "gemma3"
    host.proxy(held_since=time.time())
    assert shown()["model"] == "smollm2  finishing its requests; gemma3 comes next  36.8 tokens/s"
    assert "2 waiting for a model since" in shown()["requests"]


def test_a_retry_that_waits_is_told(host):
    host.instances = [state("dud", "failed", result="exit-code")]
    host.rollback(retry_at=time.time() + 10)
    assert re.fullmatch(r"none  smollm2 is tried at \d\d:\d\d:\d\d", shown()["model"])
    assert shown()["failed"].startswith("dud  exit-code since")


def test_a_model_that_failed_and_runs_again_is_tried_no_more(host):
    host.rollback(failed="smollm2", retry_at=time.time() - 60)
    assert re.fullmatch(r"smollm2 failed at .*; it runs again; bad", shown()["rollback"])


def test_a_model_that_was_stopped_while_idle_is_told(host):
    host.instances = []
    host.proxy(model=None, unloaded="smollm2", tokens_per_second=None)
    assert shown()["model"] == "none  smollm2 was idle, the next request starts it"


@pytest.mark.parametrize("age", [None, 3600], ids=["none", "stale"])
def test_a_proxy_that_tells_nothing_is_unknown_not_wrong(host, age):
    if age:
        host.proxy(age=age)
    lines = shown()
    assert "requests" not in lines
    assert "unknown" in lines["database"]
    assert lines["proxy"].endswith("tells nothing of its requests")


def test_without_systemd_the_proxys_own_word_is_taken(host, monkeypatch):
    def absent(*about):
        raise UnavailableError("systemd does not run here")

    monkeypatch.setattr(manager, "instances", absent)
    monkeypatch.setattr(manager, "states", absent)
    assert shown()["model"] == "unknown: systemd does not run here"
    host.proxy()
    assert shown()["model"].startswith("smollm2  ready since")
    assert shown()["proxy"] == "tells that it runs"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"at": "x"}', "\xff"])
def test_files_that_make_no_sense_are_no_files(host, text):
    for name in ("status.json", "rollback.json"):
        (host.root / name).write_text(text, encoding="latin-1")
    found = overview.gather()
    assert (found["rollback"], found["running"]) == (None, None)


def test_what_waits_for_the_database_is_told(host):
    host.proxy(ledger_backlog=12_000)
    assert shown()["database"] == "ok"
    host.proxy(ledger_backlog=12_000_000)
    assert shown()["database"] == "ok  12 MB of rows wait for it"
    host.proxy(database=False, ledger_backlog=12_000)
    assert shown()["database"] == "DOWN  12 kB of rows wait for it"
    assert "database down" in status.line(overview.gather())


def test_only_a_terminal_gets_colours(host, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    main.main(["status"])
    assert "\x1b" not in sys.stdout.getvalue()
    assert "\x1b[32mready\x1b[0m" in shown(colour=True)["clients"]
    host.ready = False
    assert "\x1b[31mNOT READY\x1b[0m" in shown(colour=True)["clients"]


def test_a_reason_cannot_steer_the_terminal(host):
    host.rollback(reason="\x1b[2J")
    assert "\x1b" not in status.text(overview.gather())


# ---------------------------------------------------------------------------------------------------------
# --watch


def watching(host, monkeypatch, *, changes):
    """Runs --watch; before each further look one of the changes is made, and Ctrl-C after the last."""
    steps = iter(changes)

    def sleep(seconds):
        try:
            next(steps)()
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(status.time, "sleep", sleep)


def nothing():
    pass


def test_watch_prints_a_line_for_each_change(host, monkeypatch, capsys):
    host.proxy(waiting=0)
    changes = [
        nothing,
        lambda: host.proxy(waiting=3),
        lambda: host.proxy(waiting=3, tokens_per_second=9.0),
        nothing,
    ]
    watching(host, monkeypatch, changes=changes)
    assert main.main(["status", "--watch"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "smollm2  ready since" in first and "0 waiting" in first
    assert "3 waiting" in second


def test_watch_with_json_prints_an_object_for_each_change(host, monkeypatch, capsys):
    loading = state("gemma3", "activating", text="Loading x: 5 %")
    watching(host, monkeypatch, changes=[nothing, lambda: host.instances.__setitem__(0, loading)])
    assert main.main(["status", "--watch", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["model"], second["coming"], second["progress"]) == ("smollm2", "gemma3", 5)
    assert second["at"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_on_a_terminal_watch_paints_and_puts_the_screen_back(tmp_path, number):
    code = (
        "from pathlib import Path; from llmsvc import paths; from llmsvc.cli import main\n"
        f"paths.CONFIG_ENV = Path({str(tmp_path / 'config.env')!r})\n"
        "raise SystemExit(main.main(['status', '--watch']))"
    )
    (tmp_path / "config.env").write_text("LLAMA_PROXY_PORT=1\n")
    reader, terminal = pty.openpty()
    # the tests themselves may run in the background of a shell, which has its commands ignore SIGINT
    command = ["env", "--default-signal=INT", sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, stdin=terminal) as watch:
        os.close(terminal)
        said = b""
        while b"clients" not in said:
            said += os.read(reader, 4096)
        watch.send_signal(number)
        try:
            assert watch.wait(60) == 0
        finally:
            watch.kill()
    while True:
        try:
            said += os.read(reader, 4096)
        except OSError:
            break
    os.close(reader)
    assert said.startswith(status._ALTERNATE.encode())
    painted, left, after = said.rpartition(status._NORMAL.encode())
    assert left and b"\x1b[H" in painted
    assert b"NOT READY" in after and b"Traceback" not in said


def test_a_bad_setting_is_told_as_such(host):
    (host.root / "config.env").write_text("LLAMA_PROXY_PORT=many\n")
    assert main.main(["status", "--watch"]) == 78


def test_an_address_of_all_networks_is_shown_as_it_is_reached_here(host):
    (host.root / "config.env").write_text("LLAMA_PROXY_HOST=0.0.0.0\n")
    assert config.load(host.root / "config.env").base_url in shown()["clients"]
