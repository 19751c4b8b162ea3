"""A model of the native engine is switched, killed, rolled back from and confined as any other."""

from __future__ import annotations

import json
import time

from tests.machine.conftest import Machine
from tests.machine.test_autoswitch import STAY, body, configured
from tests.machine.test_rollback import model

NATIVE = r"sed -i /^N_CTX/d NAME.env; printf 'ENGINE=native\nSLOTS=2\nN_CTX=512\n' >>NAME.env"
CHILD = "llmsvc.backend.native.child"
BACKEND = "llama-server@quick"


def engine_that_answers(machine: Machine, key: str, name: str) -> str:
    """The engine of the model NAME, after it has answered a request."""
    answer = machine.post("/v1/chat/completions", body(name), key)
    assert (answer.status_code, answer.json().get("model")) == (200, name), answer.text
    health = machine.out(
        "curl", "-s", "--unix-socket", f"/run/llama-server/{name}/http.sock", "http://x/health"
    )
    return str(json.loads(health)["engine"])


def children(machine: Machine) -> list[str]:
    """The processes of llama.cpp's server."""
    return machine.exec("pgrep", "-f", CHILD, check=False).stdout.split()


def confinement(machine: Machine, pid: str) -> str:
    """What a process is in, and what it may do."""
    return machine.shell(
        f"cat /proc/{pid}/cgroup; grep -E '^(Uid|Gid|Cap|NoNewPrivs|Seccomp):?' /proc/{pid}/status; "
        f"readlink /proc/{pid}/ns/net /proc/{pid}/ns/mnt"
    ).stdout


def test_a_model_of_the_native_engine_is_a_unit_like_any_other(machine: Machine) -> None:
    key = machine.add_user(f"engines-{machine.suite}", "--may-switch", "--rate-limit", "1000")
    broken = f"{NATIVE}; echo CHAT_FORMAT=snoozy >>NAME.env"
    with (
        model(machine, "quick", NATIVE.replace("NAME", "quick")),
        model(machine, "broken", broken.replace("NAME", "broken")),
    ):
        machine.start("quick")
        assert engine_that_answers(machine, key, "quick") == "native"
        status = machine.out("systemctl", "show", "-p", "StatusText", "--value", BACKEND)
        assert "2 slots of 512 tokens" in status
        (child,) = children(machine)
        main = machine.out("systemctl", "show", "-p", "MainPID", "--value", BACKEND)
        assert confinement(machine, child) == confinement(machine, main)
        machine.exec("systemd-analyze", "security", "--no-pager", "--threshold=5", BACKEND)

        machine.exec("kill", "-KILL", child)
        assert engine_that_answers(machine, key, "quick") == "native"
        (other,) = children(machine)
        assert other != child
        assert machine.out("systemctl", "show", "-p", "NRestarts", "--value", BACKEND) == "1"

        # one that does not start gives it back
        assert machine.exec("systemctl", "start", "llama-server@broken", check=False).returncode
        machine.await_states([BACKEND, "llama-server@broken"], ["active", "failed"])
        assert engine_that_answers(machine, key, "quick") == "native"

        with configured(machine, LLAMA_PROXY_AUTOSWITCH=1, LLAMA_PROXY_SWITCH_SECONDS=STAY):
            for name, engine in (("smollm2", "llama-cpp-python"), ("quick", "native")):
                time.sleep(STAY)  # a model stays so long
                assert engine_that_answers(machine, key, name) == engine
        # smollm2 runs again, and nothing of the other is left
        assert engine_that_answers(machine, key, "smollm2") == "llama-cpp-python"
        assert children(machine) == []
