"""Alerts: one line in the journal that says what is wrong, and whatever an admin adds to it."""

from __future__ import annotations

import time

import pytest

from tests.machine.conftest import Machine, await_journal

KINDS = ("rollback", "no-model", "gpu-lost", "database-down", "spool-filling")


def lines(machine: Machine, kind: str, since: float) -> list[dict[str, object]]:
    return machine.journal(f"--since=@{since:.3f}", f"LLM_ALERT={kind}")


def send(machine: Machine, kind: str) -> int:
    """As the proxy does."""
    return machine.exec(
        "runuser", "-u", "llmsvc-proxy", "--", "systemctl", "start", f"llmsvc-alert@{kind}", check=False
    ).returncode


def test_each_kind_is_one_critical_line_that_says_where_to_look(machine):
    since = time.time()
    for kind in KINDS:
        assert send(machine, kind) == 0
        (line,) = lines(machine, kind, since)
        assert line["PRIORITY"] == "2"
        assert "See: " in str(line["MESSAGE"])


def test_the_proxy_may_send_no_other_kind_and_one_is_harmless(machine):
    assert send(machine, "nosuch") != 0
    assert machine.exec("systemctl", "start", "llmsvc-alert@nosuch", check=False).returncode != 0
    assert machine.states("llmsvc-alert@nosuch") == ["inactive"]


@pytest.fixture
def drop_in(machine):
    """drop_in(TEXT): an admin's own settings of the alerts."""
    place = "/etc/systemd/system/llmsvc-alert@.service.d"

    def write(text: str) -> None:
        machine.exec("mkdir", "-p", place)
        machine.exec("tee", f"{place}/mine.conf", stdin=text)
        machine.exec("systemctl", "daemon-reload")

    yield write
    machine.shell(f"rm -rf {place}; systemctl daemon-reload")


def test_an_admin_adds_a_webhook_by_a_drop_in(machine, drop_in):
    receiver = (
        "import http.server\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_POST(self):\n"
        "        print(self.rfile.read(int(self.headers['content-length'])).decode(), flush=True)\n"
        "        self.send_response(204); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', 9999), Handler).handle_request()\n"
    )
    machine.exec("tee", "/root/receiver.py", stdin=receiver)
    machine.exec("systemd-run", "-q", "--unit=receiver", "python3", "/root/receiver.py")
    drop_in(
        "[Service]\n"
        "PrivateNetwork=no\nIPAddressDeny=\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n"
        "ExecStart=/bin/sh -c '/usr/local/bin/llmsvc --json alert %i | "
        "curl -sS --retry 5 --retry-connrefused --json @- http://127.0.0.1:9999/hook'\n"
    )
    since = time.time()
    assert send(machine, "database-down") == 0
    assert len(lines(machine, "database-down", since)) == 1
    received = machine.journal("-u", "receiver", f"--since=@{since:.3f}", "-t", "python3")
    assert any("PostgreSQL" in entry["MESSAGE"] for entry in received)


def test_a_lost_gpu_is_told_with_the_drivers_words(machine):
    since = time.time()
    machine.shell(
        "cd /run/llama-server/smollm2; "
        "runuser -u llmsvc-backend -- sh -c 'echo CUDA error: device lost >gpu-lost'; "
        "systemctl kill -s KILL --kill-who=main llama-server@smollm2"
    )
    machine.await_states(["llama-server@smollm2"], ["activating"])
    machine.await_states(["llama-server@smollm2"], ["active"])
    (line,) = await_journal(machine, since, "LLM_ALERT=gpu-lost")
    assert "CUDA error: device lost" in str(line["MESSAGE"])
