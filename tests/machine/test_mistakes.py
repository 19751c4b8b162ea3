"""What goes wrong says so in one clear line and leaves what ran as it was."""

from __future__ import annotations

import pytest

FILE = "/var/lib/llmsvc/models/SmolLM2-135M-Instruct.Q4_1.gguf"


def as_nobody(machine, *command: str):
    return machine.exec("runuser", "-u", "nobody", "--", *command, check=False)


def test_adding_a_broken_file_changes_nothing(machine):
    before = machine.out("ls", "-R", "/etc/llmsvc", "/var/lib/llmsvc/models")
    machine.shell(f"head -c 100000 {FILE} >/root/broken.gguf")
    done = machine.exec("llmsvc", "model", "add", "/root/broken.gguf", "--name", "broken", check=False)
    assert done.returncode != 0
    first, hint = done.stderr.splitlines()
    assert first.startswith("llmsvc: ") and "broken.gguf" in first
    assert hint.startswith("hint: ")
    assert machine.out("ls", "-R", "/etc/llmsvc", "/var/lib/llmsvc/models") == before


@pytest.mark.split
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
