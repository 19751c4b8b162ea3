"""Members of llmsvc-admin switch models without sudo, and may do nothing else; others may not even that."""

from __future__ import annotations

import time

import pytest


@pytest.fixture(scope="module")
def people(machine):
    """carl is in llmsvc-admin, dora is not."""
    machine.shell("useradd -m -G llmsvc-admin carl; useradd -m dora")
    yield
    machine.shell("systemctl start llama-server@smollm2\nuserdel -r carl || :\nuserdel -r dora || :")


def run_as(machine, user: str, *command: str):
    return machine.exec("runuser", "-u", user, "--", *command, check=False)


def test_an_admin_switches_by_systemctl_and_by_llmsvc(machine, people):
    assert run_as(machine, "carl", "systemctl", "start", "llama-server@gemma3").returncode == 0
    assert machine.states("llama-server@gemma3", "llama-server@smollm2") == ["active", "inactive"]
    done = run_as(machine, "carl", "llmsvc", "start", "smollm2")
    assert (done.returncode, done.stdout.strip()) == (0, "smollm2 is ready.")
    assert machine.states("llama-server@gemma3", "llama-server@smollm2") == ["inactive", "active"]


@pytest.mark.parametrize(
    "command",
    [
        "systemctl restart auth-proxy",
        "systemctl stop auth-proxy.socket",
        "systemctl enable llama-server@gemma3",
        "systemctl kill llama-server@smollm2",
        "systemctl daemon-reload",
    ],
)
def test_an_admin_may_do_nothing_else(machine, people, command):
    assert run_as(machine, "carl", *command.split()).returncode != 0
    assert machine.states("llama-server@smollm2", "auth-proxy") == ["active", "active"]


def test_what_an_admin_does_is_in_the_journal_with_the_name(machine, people):
    since = time.time()
    run_as(machine, "carl", "systemctl", "restart", "llama-server@smollm2")
    said = [entry["MESSAGE"] for entry in machine.journal(f"--since=@{since:.3f}", "-t", "llmsvc")]
    assert "carl: restart llama-server@smollm2.service" in said


def test_an_admin_ends_the_retries_and_sends_no_alerts(machine, people):
    assert run_as(machine, "carl", "systemctl", "stop", "llmsvc-retry").returncode == 0
    assert run_as(machine, "carl", "systemctl", "start", "llmsvc-retry").returncode != 0
    assert run_as(machine, "carl", "systemctl", "start", "llmsvc-alert@rollback").returncode != 0


def test_others_are_refused_with_a_hint(machine, people):
    assert run_as(machine, "dora", "systemctl", "start", "llama-server@gemma3").returncode != 0
    done = run_as(machine, "dora", "llmsvc", "start", "gemma3")
    assert done.returncode == 4
    assert "llmsvc-admin" in done.stderr and "Traceback" not in done.stderr
    assert machine.states("llama-server@smollm2") == ["active"]
