"""What goes wrong says so in one clear line and leaves what ran as it was."""

from __future__ import annotations

import pytest

GOOD = "/etc/llmsvc/models.d/smollm2.env"
FILE = "/var/lib/llmsvc/models/SmolLM2-135M-Instruct.Q4_1.gguf"


def as_nobody(machine, *command: str):
    return machine.exec("runuser", "-u", "nobody", "--", *command, check=False)


@pytest.fixture
def bad_model(machine):
    """bad_model(SCRIPT): makes the model `bad` from a copy of the good one's settings, changed by SCRIPT."""
    yield lambda script: machine.shell(
        f"cd /etc/llmsvc/models.d; cp {GOOD} bad.env; {script}; systemctl daemon-reload"
    )
    machine.shell(
        "rm -f /etc/llmsvc/models.d/bad.env /var/lib/llmsvc/models/bad.gguf; systemctl daemon-reload"
    )
    machine.shell("systemctl reset-failed; systemctl start llama-server@smollm2")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            f"head -c 100000 {FILE} >/var/lib/llmsvc/models/bad.gguf; sed -i s,{FILE},bad.gguf, bad.env",
            "truncated",
        ),
        (f"sed -i s,{FILE},bad.gguf, bad.env", "No such file"),
        ("echo N_CTX=lots >>bad.env", "bad.env:"),
    ],
    ids=["truncated file", "no file", "bad value"],
)
def test_a_model_that_cannot_start_gives_the_old_one_back(machine, bad_model, script, said):
    bad_model(script)
    assert machine.exec("systemctl", "start", "llama-server@bad", check=False).returncode != 0
    machine.await_states(["llama-server@smollm2", "llama-server@bad"], ["active", "failed"])
    own = [entry["MESSAGE"] for entry in machine.journal("-b", "-u", "llama-server@bad", "_COMM=llmsvc")]
    assert own, "the backend said nothing"
    assert said in own[-1]
    assert not any("Traceback" in line for line in own)
    status = machine.out("systemctl", "show", "-P", "ExecMainStatus", "llama-server@bad")
    assert status == "78"


def test_going_back_tries_each_good_model_once_until_one_is_ready(machine):
    history, models = "/var/lib/llmsvc/good-models", "/etc/llmsvc/models.d"
    names = ("gone-a", "gone-b", "gone-c")
    machine.shell(
        f"for n in {' '.join(names)}; do echo MODEL=$n.gguf >{models}/$n.env; done; systemctl daemon-reload; "
        f"cp {history} /root/; printf '%s\\n' gone-a gone-b smollm2 >{history}"
    )
    try:
        assert machine.exec("systemctl", "start", "llama-server@gone-c", check=False).returncode != 0
        machine.await_states(["llama-server@smollm2"], ["active"])
        for name in names:
            said = machine.journal("-b", "-u", f"llama-server@{name}", "_COMM=llmsvc")
            assert len(said) == 1 and "No such file" in said[0]["MESSAGE"]
    finally:
        machine.shell(
            f"rm {models}/gone-*.env; mv /root/good-models {history}; "
            "systemctl daemon-reload; systemctl reset-failed; systemctl start llama-server@smollm2"
        )


def test_adding_a_broken_file_changes_nothing(machine):
    before = machine.out("ls", "-R", "/etc/llmsvc", "/var/lib/llmsvc/models")
    machine.shell(f"head -c 100000 {FILE} >/root/broken.gguf")
    done = machine.exec("llmsvc", "model", "add", "/root/broken.gguf", "--name", "broken", check=False)
    assert done.returncode != 0
    first, hint = done.stderr.splitlines()
    assert first.startswith("llmsvc: ") and "broken.gguf" in first
    assert hint.startswith("hint: ")
    assert machine.out("ls", "-R", "/etc/llmsvc", "/var/lib/llmsvc/models") == before


@pytest.mark.parametrize(
    "setting", ["LLAMA_PROXY_PORT=eight", "LLAMA_PROXY_RATE_LIMIT=-1", "LLAMA_PROXY_DRAIN_SECONDS=soon"]
)
def test_a_bad_value_in_config_env_is_named_and_does_not_stop_the_proxy_that_runs(machine, setting):
    file = "/etc/llmsvc/config.env"
    machine.shell(f"cp -a {file} /root/; echo {setting} >>{file}; systemctl daemon-reload")
    try:
        done = machine.exec("llmsvc", "status", check=False)
        assert done.returncode == 78
        assert (
            f"/etc/llmsvc/config.env:{machine.out('sh', '-c', 'wc -l </etc/llmsvc/config.env')}:"
            in done.stderr
        )
        assert len(done.stderr.splitlines()) <= 2
        body = {"max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
        assert machine.post("/v1/chat/completions", body, machine.key()).status_code == 200
        machine.exec("systemctl", "restart", "auth-proxy", check=False)
    finally:
        machine.shell("mv /root/config.env /etc/llmsvc/; systemctl daemon-reload")
    machine.shell("systemctl reset-failed auth-proxy.service auth-proxy.socket; systemctl restart auth-proxy")
    machine.exec("llmsvc", "ask", "hi")


def test_a_normal_user_gets_a_hint_and_no_traceback(machine):
    for command in (("user", "list"), ("install",), ("model", "add", "gemma3")):
        done = as_nobody(machine, "llmsvc", *command)
        assert done.returncode not in (0, 1), command
        assert "sudo" in done.stderr
        assert "Traceback" not in done.stderr
    assert as_nobody(machine, "llmsvc", "status").returncode == 0


def test_a_bad_value_of_the_proxys_alone_keeps_no_model_from_starting(machine):
    file = "/etc/llmsvc/config.env"
    machine.shell(f"cp -a {file} /root/; echo LLAMA_PROXY_RATE_LIMIT=many >>{file}")
    try:
        machine.exec("systemctl", "restart", "llama-server@smollm2")
        refused = machine.exec("llmsvc", "start", "gemma3", check=False)
        assert (refused.returncode, machine.states("llama-server@smollm2")) == (78, ["active"])
        assert "LLAMA_PROXY_RATE_LIMIT" in refused.stderr
    finally:
        machine.shell("mv /root/config.env /etc/llmsvc/")
