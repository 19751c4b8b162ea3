"""Installing again, and machines with many models."""

from __future__ import annotations

import time


def test_a_second_install_has_nothing_to_do(machine, measured):
    before = machine.out("systemctl", "show", "-P", "InvocationID", "auth-proxy", "llama-server@smollm2")
    begun = time.monotonic()
    done = machine.exec("llmsvc", "install", "--yes")
    measured(f"second install, {machine.suite}", time.monotonic() - begun)
    assert "nothing to do" in done.stdout + done.stderr
    assert (
        machine.out("systemctl", "show", "-P", "InvocationID", "auth-proxy", "llama-server@smollm2") == before
    )


def test_a_daemon_reload_with_200_models(machine, measured):
    models = "/etc/llmsvc/models.d"
    machine.shell(f"for n in $(seq 200); do cp {models}/smollm2.env {models}/many-$n.env; done")
    try:
        begun = time.monotonic()
        machine.exec("systemctl", "daemon-reload")
        measured(f"daemon-reload with 200 models, {machine.suite}", time.monotonic() - begun)
        conflicts = machine.out(
            "systemctl", "show", "-P", "Conflicts", "llama-server@many-7", "llama-server@smollm2"
        )
        assert "llama-server@many-200.service" in conflicts
    finally:
        machine.shell(f"rm {models}/many-*.env; systemctl daemon-reload")
    assert machine.states("llama-server@smollm2") == ["active"]


def test_the_command_line_starts_quickly(machine, measured):
    machine.exec("llmsvc", "--help")
    begun = time.monotonic()
    machine.shell("for n in 1 2 3 4 5; do llmsvc --help >/dev/null; done")
    measured(f"llmsvc --help, {machine.suite}", (time.monotonic() - begun) / 5)


def test_completions_and_the_manual_page_are_where_shells_and_man_look(machine):
    load = ". /usr/share/bash-completion/bash_completion; "
    load += "_comp_load llmsvc 2>/dev/null || _completion_loader llmsvc"
    assert "_llmsvc" in machine.out("bash", "-c", f"{load}; complete -p llmsvc")
    machine.exec("test", "-s", "/usr/local/share/zsh/site-functions/_llmsvc")
    machine.exec("test", "-s", "/usr/local/share/fish/vendor_completions.d/llmsvc.fish")
    machine.exec("test", "-s", "/usr/local/share/man/man1/llmsvc.1")
    assert "man:llmsvc(1)" in machine.out("systemctl", "show", "-P", "Documentation", "auth-proxy")


def test_the_port_is_opened_for_others_and_closed_again(machine):
    for address in ("0.0.0.0:8001", "127.0.0.1:8001"):
        done = machine.exec("llmsvc", "install", "--listen", address)
        assert address in machine.out("ss", "-Hltn")
        assert "It answered:" in done.stdout
    assert machine.post("/v1/chat/completions", {"max_tokens": 1, "messages": []}, None).status_code == 401


def test_two_installations_at_once_wait_for_each_other(machine):
    script = "rm /etc/polkit-1/rules.d/50-llmsvc.rules; llmsvc install & llmsvc install; wait $!"
    machine.shell(script)
    assert "nothing to do" in machine.out("llmsvc", "install")
