"""`llmsvc model use`, `start` and `status` on a real machine: what they check, show and leave alone."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest

from tests.machine.conftest import SANDBOX

FILE = "/var/lib/llmsvc/models/gemma-3-270m-q4_k_m.gguf"
ENV = "/etc/llmsvc/models.d/gemma3.env"
DROP_IN = "/etc/systemd/system/llama-server@gemma3.service.d/test.conf"

LIMIT = (
    f"mkdir -p {DROP_IN.rpartition('/')[0]}; printf '[Service]\\nMemoryMax=300000000\\n' >{DROP_IN}; "
    "systemctl daemon-reload"
)


@pytest.fixture(autouse=True)
def as_before(machine):
    """smollm2 runs, and what a test changed of gemma3 is put back."""
    machine.shell(f"mkdir /root/kept; cp -a {ENV} /root/kept/env; cp -a {FILE}.sha256 /root/kept/sum")
    machine.shell(f"ln {FILE} /root/kept/file")
    yield
    machine.shell(f"cp -a /root/kept/env {ENV}; cp -a /root/kept/sum {FILE}.sha256; rm {FILE} {DROP_IN} || :")
    machine.shell(f"mv /root/kept/file {FILE}; rm -r /root/kept; systemctl daemon-reload")
    machine.shell("systemctl reset-failed 'llama-server@*'; systemctl start llama-server@smollm2")


def llmsvc(machine, *arguments: str, user: str = "root"):
    return machine.exec("runuser", "-u", user, "--", "llmsvc", *arguments, check=False)


def drop_in(machine, line: str) -> None:
    """A line of gemma3's [Service]; what fails only there passes every check before."""
    text = f"[Service]\n{line}\n"
    machine.exec("bash", "-c", f"mkdir -p {DROP_IN.rpartition('/')[0]}; cat >{DROP_IN}", stdin=text)
    machine.exec("systemctl", "daemon-reload")


def who_runs(machine) -> str:
    return machine.out(
        "systemctl", "show", "-p", "MainPID,ActiveEnterTimestampMonotonic", "llama-server@smollm2"
    )


@pytest.mark.split
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            f"sed -i 's/^[0-9a-f]\\{{8\\}}/00000000/' {FILE}.sha256",
            "is damaged, or another file: its sha256 is",
        ),
        (f"sed -i 's/^N_CTX=.*/N_CTX=16000000/' {ENV}", "gemma3 does not fit: it needs 5"),
        (LIMIT, "300 MB is allowed by MemoryMax= of llama-server@gemma3.service"),
        (f"rm {FILE}; head -c 1000000 /root/kept/file >{FILE}", "is truncated"),
        (f"echo N_CTX=lots >>{ENV}", "gemma3.env:"),
    ],
    ids=["wrong checksum", "too large a context", "limited unit", "truncated file", "bad setting"],
)
def test_what_cannot_start_leaves_the_running_model_untouched(machine, script, said):
    machine.shell(script)
    before = who_runs(machine)
    for command in (("model", "use"), ("start",), ("restart",)):
        done = llmsvc(machine, *command, "gemma3")
        assert done.returncode in (1, 78)
        assert said in done.stderr
        assert "hint: the model that runs was not touched" in done.stderr
        assert "Traceback" not in done.stderr
    assert who_runs(machine) == before
    assert machine.states("llama-server@gemma3") == ["inactive"]
    assert machine.out("readlink", "/etc/llmsvc/default-model").endswith("smollm2.env")


def test_force_starts_a_model_whose_checksum_is_wrong(machine):
    machine.shell(f"sed -i 's/^[0-9a-f]\\{{8\\}}/00000000/' {FILE}.sha256")
    done = llmsvc(machine, "start", "--force", "gemma3")
    assert (done.returncode, done.stdout.startswith("gemma3 is ready.")) == (0, True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda machine: machine.shell(f"sed -i 's/^CHAT_FORMAT=.*/CHAT_FORMAT=nope/' {ENV}"), "CHAT_FORMAT"),
        (lambda machine: drop_in(machine, "ExecStartPre=/bin/false"), "status=1/FAILURE"),
    ],
    ids=["bad chat format", "broken drop-in"],
)
def test_a_start_that_fails_tells_why_and_which_model_is_back(machine, change, reason):
    change(machine)
    done = llmsvc(machine, "model", "use", "gemma3")
    assert done.returncode == 1
    *lines, error, hint = done.stderr.splitlines()
    assert any(reason in line for line in (*lines, error))
    assert any(line.startswith("  llama-server@gemma3.service: ") for line in lines)
    assert error.startswith("llmsvc: gemma3 did not start: ")
    assert hint.startswith("hint: smollm2 is back, and answers; ")
    assert machine.states("llama-server@smollm2") == ["active"]
    status = llmsvc(machine, "status", user="nobody")
    assert re.search(r"^rollback +gemma3 failed at \S+; went back to smollm2; ", status.stdout, re.MULTILINE)
    assert machine.out("readlink", "/etc/llmsvc/default-model").endswith("smollm2.env")


def test_a_switch_is_one_entry_of_the_journal_with_who_did_it(machine):
    machine.shell("useradd -m -G llmsvc-admin eve")
    try:
        # users of tests before may have had the same uid
        begin = time.time()
        assert llmsvc(machine, "start", "gemma3", user="eve").returncode == 0
        refused = llmsvc(machine, "model", "use", "gemma3", user="eve")
        assert (refused.returncode, "may 'llmsvc start gemma3'" in refused.stderr) == (4, True)
        uid = machine.out("id", "-u", "eve")
        (entry,) = machine.journal(f"--since=@{begin:.6f}", "-t", "llmsvc", f"_UID={uid}")
    finally:
        machine.shell("userdel -r eve || :")
    assert entry["MESSAGE"] == f"eve (uid {uid}) starts gemma3 instead of smollm2"
    assert (entry["LLM_ACTOR"], entry["LLM_MODEL"], entry["LLM_VERB"]) == ("eve", "gemma3", "start")


def test_a_load_is_seen_by_everybody_and_ctrl_c_does_not_end_it(machine):
    units = ["llama-server@gemma3", "llama-server@smollm2"]
    drop_in(machine, "ExecStartPre=/bin/sh -c 'until [ -e /run/llama-server/gemma3/go ]; do sleep 0.1; done'")
    command = [SANDBOX, "exec", machine.name, "--", "llmsvc", "start", "gemma3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as starting:
        machine.await_states(units, ["activating", "inactive"])
        machine.shell("kill -s INT $(pgrep -f '/llmsvc start gemma3$')")
        _, said = starting.communicate(timeout=60)
    assert starting.returncode == 130
    assert "the start of gemma3 goes on in systemd" in said
    status = llmsvc(machine, "status", user="nobody")
    assert status.returncode == 3
    assert re.search(r"^model +gemma3  loading", status.stdout, re.MULTILINE)
    machine.exec("touch", "/run/llama-server/gemma3/go")
    machine.await_states(units, ["active", "inactive"])


def test_status_watch_tells_each_change(machine):
    machine.shell(
        "cd /tmp; rm -f watched painted pid; llmsvc status --watch --json >watched & json=$!\n"
        "export TERM=xterm\n"
        "script -qec 'echo $$ >pid; exec llmsvc status --watch' painted >/dev/null </dev/null &\n"
        "until grep -q smollm2 watched && grep -q smollm2 painted; do sleep 0.1; done\n"
        "llmsvc start gemma3\n"
        'until grep -q \'"ready": true, "model": "gemma3"\' watched; do sleep 0.1; done\n'
        "until grep -q 'gemma3  .*ready' painted; do sleep 0.1; done\n"
        "kill $json $(cat pid); wait $json; wait"
    )
    told = [json.loads(line) for line in machine.out("cat", "/tmp/watched").splitlines()]
    assert (told[0]["model"], told[-1]["model"], told[-1]["ready"]) == ("smollm2", "gemma3", True)
    painted = machine.out("cat", "/tmp/painted")
    assert "\x1b[?1049h" in painted and "\x1b[?1049l" in painted
    assert "gemma3  \x1b[32mready" in painted


def test_status_tells_what_is_down_also_to_who_is_not_root(machine):
    try:
        machine.shell("systemctl stop auth-proxy.socket auth-proxy")
        done = llmsvc(machine, "status", user="nobody")
        assert done.returncode == 3
        lines = {line.split()[0]: line for line in done.stdout.splitlines()}
        assert "smollm2  ready since" in lines["model"]
        assert "INACTIVE" in lines["proxy"]
        assert "NOT READY" in lines["clients"]
        assert done.stderr == ""
    finally:
        machine.shell("systemctl start auth-proxy.socket auth-proxy")
