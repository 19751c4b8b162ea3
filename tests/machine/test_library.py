"""Models on a real machine: pulled from a hub on loopback, used, scheduled, in home directories, removed."""

from __future__ import annotations

import json
import time

import pytest

LIBRARY = "/var/lib/llmsvc/models"
HUB = "http://127.0.0.1:8999"
ENV = ("env", f"HF_ENDPOINT={HUB}")
START_HUB = (
    "systemd-run -q --unit=test-hub /opt/llmsvc/venv/bin/python /src/tests/hub.py /root/hub 8999\n"
    "until : </dev/tcp/127.0.0.1/8999; do sleep 0.1; done 2>/dev/null"
)


@pytest.fixture
def hub(machine):
    """A hub in the machine that has both models under other names; what a test pulled is removed again."""
    machine.shell(
        "mkdir -p /root/hub/owner/models && cd /root/hub/owner/models\n"
        f"ln {LIBRARY}/SmolLM2-135M-Instruct.Q4_1.gguf first.gguf\n"
        f"ln {LIBRARY}/gemma-3-270m-q4_k_m.gguf second.gguf\n" + START_HUB
    )
    yield
    machine.shell(
        "systemctl stop test-hub || :\nllmsvc model use smollm2\n"
        "for name in first second at-home; do llmsvc model remove $name || :; done\n"
        "rm -rf /root/hub /home/carol; systemctl reset-failed 'llama-server@*' || :",
    )
    assert machine.out("ls", "/etc/llmsvc/models.d").split() == ["gemma3.env", "smollm2.env"]


def llmsvc(machine, *arguments: str, check: bool = True):
    return machine.exec(*ENV, "llmsvc", "model", *arguments, check=check)


def ask(machine, model: str) -> str:
    with machine.network(), machine.openai(machine.key()) as client:
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Say hello"}], max_tokens=8
        )
    return answer.model


def who_runs(machine, name: str) -> str:
    return machine.out(
        "systemctl", "show", "-p", "MainPID,ActiveEnterTimestampMonotonic", f"llama-server@{name}"
    )


@pytest.mark.usefixtures("hub")
def test_a_model_is_pulled_used_and_the_one_before_it_removed(machine):
    pulled = json.loads(llmsvc(machine, "pull", "owner/models/first.gguf", "--json").stdout)
    assert (pulled["name"], pulled["changed"], pulled["context"]) == ("first", True, 8192)
    assert machine.out("stat", "-c", "%U %a", f"{LIBRARY}/first.gguf") == "root 644"
    llmsvc(machine, "use", "first")
    assert ask(machine, "first") == "first"
    said = llmsvc(machine, "pull", "owner/models/second.gguf").stderr
    assert "fetching second.gguf: 253 MB" in said
    machine.shell("sed -i 's/^#CHAT_FORMAT=.*/CHAT_FORMAT=snoozy/' /etc/llmsvc/models.d/second.env")
    before = who_runs(machine, "first")
    # other bytes than the hub described, while one runs: of a new model, and of the one that runs
    machine.shell(
        "cd /root/hub/owner/models; systemctl stop test-hub\n"
        "cp second.gguf third.gguf; head -c 1000000 second.gguf >third.gguf.sent; rm first.gguf\n"
        "cp third.gguf first.gguf; head -c -1 third.gguf >first.gguf.sent; printf x >>first.gguf.sent\n"
        + START_HUB
    )
    library = machine.out("ls", "-l", "--time-style=full-iso", LIBRARY)
    for name in ("third", "first"):
        refused = llmsvc(machine, "pull", f"owner/models/{name}.gguf", check=False)
        assert refused.returncode == 1
        assert "arrived damaged: " in refused.stderr
    assert machine.out("ls", "-l", "--time-style=full-iso", LIBRARY) == library
    assert llmsvc(machine, "show", "third", check=False).returncode == 3
    assert who_runs(machine, "first") == before
    assert ask(machine, "current") == "first"
    # and the switch
    llmsvc(machine, "use", "second")
    assert ask(machine, "second") == "second"
    refused = llmsvc(machine, "remove", "second", check=False)
    assert (refused.returncode, "model second is running" in refused.stderr) == (5, True)
    removed = llmsvc(machine, "remove", "first").stdout
    assert removed.endswith("is removed: first.gguf, 98 MB free again\n")
    listed = {one["name"]: one for one in json.loads(llmsvc(machine, "list", "--json").stdout)}
    assert (listed["second"]["active"], listed["second"]["default"]) == (True, True)
    assert listed["smollm2"]["last_used"] is not None
    verdicts = json.loads(llmsvc(machine, "verify", "--json").stdout)
    assert {one["name"]: one["state"] for one in verdicts} == dict.fromkeys(listed, "ok")


@pytest.mark.usefixtures("hub")
def test_a_model_in_a_home_directory_runs_where_it_lies(machine):
    """On another file system, below a directory that the service may not enter."""
    machine.shell(
        "useradd -m carol; mkdir -p /home/carol/disk; mount -t tmpfs tmpfs /home/carol/disk\n"
        "cp /root/hub/owner/models/first.gguf /home/carol/disk/m.gguf; chmod 0700 /home/carol\n"
        "chmod 0644 /home/carol/disk/m.gguf"
    )
    try:
        told = json.loads(
            llmsvc(machine, "add", "/home/carol/disk/m.gguf", "--link", "--name", "at-home", "--json").stdout
        )
        assert (told["in_place"], told["file"]) == (True, "/home/carol/disk/m.gguf")
        machine.exec("llmsvc", "start", "at-home")
        assert ask(machine, "at-home") == "at-home"
        machine.exec("llmsvc", "start", "smollm2")
        llmsvc(machine, "remove", "at-home")
        assert machine.out("ls", "/home/carol/disk") == "m.gguf"
    finally:
        machine.shell("llmsvc start smollm2\numount -l /home/carol/disk\nuserdel -r carol || :")


def test_a_schedule_switches_at_its_time_and_only_to_what_can_start(machine):
    # whenever it is set up, its next time is soon
    soon = "*-*-* *:*:00/5"
    try:
        machine.exec("llmsvc", "model", "schedule", "gemma3", "--on-calendar", soon)
        (listed,) = json.loads(machine.out("llmsvc", "model", "schedule", "list", "--json"))
        assert (listed["name"], listed["times"]) == ("gemma3", [soon])
        machine.await_states(["llama-server@gemma3", "llama-server@smollm2"], ["active", "inactive"])
        machine.exec("systemctl", "stop", "llmsvc-schedule@gemma3.timer")
        # its last deed is the row
        machine.await_states(["llmsvc-schedule@gemma3"], ["inactive"])
        assert machine.sql(
            "select object from llama_audit where verb = 'start' order by id desc limit 1"
        ) == [{"object": "gemma3"}]
        # one that cannot start leaves what runs alone
        machine.shell("echo N_CTX=lots >>/etc/llmsvc/models.d/smollm2.env")
        began = time.time()
        assert machine.exec("systemctl", "start", "llmsvc-schedule@smollm2", check=False).returncode != 0
        said = [entry["MESSAGE"] for entry in machine.journal(f"--since=@{began}", "-t", "llmsvc-schedule")]
        assert any("smollm2.env:" in line for line in said)
        assert machine.states("llama-server@gemma3") == ["active"]
        machine.exec("llmsvc", "model", "schedule", "remove", "gemma3")
        assert machine.exec("systemctl", "cat", "llmsvc-schedule@gemma3.timer", check=False).returncode != 0
    finally:
        machine.shell(
            "sed -i '/N_CTX=lots/d' /etc/llmsvc/models.d/smollm2.env\n"
            "llmsvc model schedule remove gemma3 || :\n"
            "systemctl reset-failed 'llmsvc-schedule@*' || :\n"
            "llmsvc start smollm2",
        )
