"""No secret lies where somebody else could read it, and the services are shut in."""

from __future__ import annotations

import pytest

SERVICES = ("auth-proxy", "llama-server@smollm2")


@pytest.fixture(scope="module")
def secrets(machine) -> list[str]:
    """Every secret of the machine: pepper, local key, the first user's key, one of a user who used it."""
    key = machine.add_user("careful")
    body = {"max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    assert machine.post("/v1/chat/completions", body, key).status_code == 200
    assert machine.post("/v1/chat/completions", body, key + "x").status_code == 401
    machine.exec("llmsvc", "ask", "hi")
    files = machine.out("sh", "-c", "cat /etc/llmsvc/credentials/*").split()
    found = [*files, machine.key(), key]
    assert len(found) >= 4
    assert all(len(secret) >= 32 for secret in found)
    return found


@pytest.mark.parametrize(
    "place",
    [
        "runuser -u postgres -- pg_dump llmsvc",
        "systemctl show '*'; systemctl show auth-proxy llama-server@smollm2 auth-proxy.socket",
        "cat /etc/systemd/system/*.service /etc/systemd/system/*.socket /run/systemd/generator/*/* "
        "/etc/llmsvc/config.env /etc/llmsvc/models.d/*",
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || true",
        "journalctl --no-pager -o export",
        "cat /var/lib/llmsvc/proxy/* /var/lib/llmsvc/manifest.json",
    ],
    ids=["database", "systemctl show", "files", "processes", "journal", "state"],
)
def test_no_secret_is_in_clear(machine, secrets, place):
    # counted in the machine: the secrets go in by stdin, and not into a command line
    done = machine.exec(
        "bash",
        "-c",
        f"cat >/run/secrets; {{ cd /; {place}; }} >/run/place; stat -c %s /run/place; "
        "grep -acFf /run/secrets /run/place; rm /run/secrets /run/place",
        stdin="\n".join(secrets) + "\n",
    )
    size, matches = done.stdout.split()
    assert int(size) > 100, done.stderr
    assert matches == "0"


def test_the_credentials_are_for_root_alone(machine):
    modes = machine.out(
        "sh", "-c", "stat -c '%a %U' /etc/llmsvc/credentials /etc/llmsvc/credentials/*"
    ).splitlines()
    assert len(modes) >= 3
    assert modes[0] == "700 root"
    assert set(modes[1:]) == {"600 root"}
    assert machine.out("stat", "-c", "%a %U", "/root/llmsvc.key") == "600 root"


def test_nobody_cannot_open_the_backends_socket(machine):
    script = "import socket; socket.socket(socket.AF_UNIX).connect('/run/llama-server/smollm2/http.sock')"
    assert machine.exec("python3", "-c", script).returncode == 0
    done = machine.exec("runuser", "-u", "nobody", "--", "python3", "-c", script, check=False)
    assert "PermissionError" in done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_the_exposure_of_the_services_is_at_most_a_half(machine, service):
    done = machine.exec("systemd-analyze", "security", "--no-pager", "--threshold=5", service, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
