"""A backup on a real machine: what was changed since is undone, and everything runs again."""

from __future__ import annotations

BODY = {"max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}


def test_yesterdays_key_answers_again_and_todays_does_not(machine):
    key = machine.add_user("yesterday")
    machine.shell("llmsvc db backup - >/root/backup.tar; chmod 600 /root/backup.tar")
    machine.exec("llmsvc", "user", "remove", "yesterday")
    today = machine.add_user("today")
    machine.shell("llmsvc model use gemma3")
    done = machine.exec("llmsvc", "db", "restore", "/root/backup.tar", check=False)
    assert done.returncode == 5 and "--force" in done.stderr
    done = machine.exec("llmsvc", "db", "restore", "/root/backup.tar", "--force")
    assert "its keys work on this machine" in done.stdout
    assert machine.states("auth-proxy.socket", "auth-proxy", "llama-server@smollm2") == ["active"] * 3
    assert machine.post("/v1/chat/completions", BODY, key).status_code == 200
    assert machine.post("/v1/chat/completions", BODY, today).status_code == 401
    machine.exec("llmsvc", "ask", "hi")
    assert "nothing to do" in machine.out("llmsvc", "install")
    machine.shell("rm -r /root/backup.tar /var/backups/llmsvc")
