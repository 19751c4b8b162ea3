"""Other ways to run it, and back: several listening sockets, a database elsewhere, one key and no proxy."""

from __future__ import annotations

import threading
import time

import httpx
import pytest

from tests.machine.elsewhere import CLUSTER, COUNT, PASSWORD, URL

BODY = {"model": "current", "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module", autouse=True)
def as_before(machine):
    """The usual way to run it, whatever a test here did."""
    yield
    machine.exec(
        *("llmsvc", "install", "--proxy", "--listen", "127.0.0.1:8001", "--database", "postgresql:///llmsvc")
    )


def ask(machine, base: str, key: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    with machine.network(), httpx.Client(base_url=base, trust_env=False, verify=False, timeout=60) as client:
        return client.post(CHAT, json=BODY, headers=headers)


def test_it_listens_on_ipv4_ipv6_and_a_unix_socket_at_once(machine):
    places = ("127.0.0.1:8001", "[::1]:8001", "/run/llmsvc.sock")
    machine.exec("llmsvc", "install", *[word for place in places for word in ("--listen", place)])
    assert "nothing to do" in machine.out("llmsvc", "install")
    for base in ("http://127.0.0.1:8001", "http://[::1]:8001"):
        assert ask(machine, base, machine.key()).status_code == 200
    curl = machine.exec(
        *("curl", "-sS", "--unix-socket", "/run/llmsvc.sock", "http://localhost/v1/models"),
        *("-H", f"Authorization: Bearer {machine.key()}"),
    )
    assert '"smollm2"' in curl.stdout
    # once the proxy left its socket readable for ever, and PID 1 did nothing else from then on
    machine.exec("systemctl", "stop", "auth-proxy.socket", "auth-proxy", seconds=60)
    machine.exec("systemctl", "start", "auth-proxy.socket", "auth-proxy", seconds=60)
    machine.exec("llmsvc", "install", "--listen", "127.0.0.1:8001")
    assert "[::1]:8001" not in machine.out("ss", "-Hltn")
    assert machine.exec("ls", "/run/llmsvc.sock", check=False).returncode == 2


def test_a_database_elsewhere_over_tls_with_a_password(machine):
    machine.exec("bash", "-c", "umask 077; cat >/root/password", stdin=f"{PASSWORD}\n")
    machine.exec("bash", "-c", "echo wrong >/root/wrong")
    machine.shell(CLUSTER)
    before = machine.out("cat", "/etc/llmsvc/config.env")
    for url, password, said in (
        (f"{URL}db.pem", "/root/wrong", "password authentication failed"),
        (f"{URL}other.pem", "/root/password", "no secure connection"),
        (f"{URL}db.pem".replace("llm@", "llm:x@"), "/root/password", "password on the command line"),
    ):
        refused = machine.exec(
            *("llmsvc", "install", "--database", url, "--database-password-file", password), check=False
        )
        assert refused.returncode in (2, 6) and said in refused.stderr, refused.stderr
        assert PASSWORD not in refused.stderr + refused.stdout
    assert machine.out("cat", "/etc/llmsvc/config.env") == before
    machine.exec(
        *("llmsvc", "install", "--database", f"{URL}db.pem", "--database-password-file", "/root/password"),
        *("--key-file", "/root/elsewhere.key"),
    )
    assert "nothing to do" in machine.out("llmsvc", "install")
    assert ask(machine, machine.base_url, machine.out("cat", "/root/elsewhere.key")).status_code == 200
    assert ask(machine, machine.base_url, machine.key()).status_code == 401
    deadline = time.monotonic() + 30
    while machine.shell(COUNT).stdout.strip() == "0":
        assert time.monotonic() < deadline, "no row of the request"
        time.sleep(0.2)
    machine.shell("systemctl start llmsvc-prune; llmsvc user add bob >/dev/null")
    # neither where everybody can look, nor in what the services write down
    machine.shell(
        "word=se:cr; ! systemctl show auth-proxy llmsvc-prune | grep -F $word\n"
        "! journalctl -b | grep -F $word\n"
        "! grep -rF $word /etc/llmsvc /etc/systemd /var/lib/llmsvc --exclude-dir=credentials\n"
        "pid=$(systemctl show -P MainPID auth-proxy); ! tr '\\0' '\\n' </proc/$pid/environ | grep -F $word"
    )
    machine.exec("llmsvc", "install", "--database", "postgresql:///llmsvc")
    assert ask(machine, machine.base_url, machine.key()).status_code == 200
    assert machine.out("systemctl", "show", "-P", "PrivateNetwork", "auth-proxy") == "yes"


def test_single_key_mode_and_back(machine):
    machine.exec("llmsvc", "install", "--no-proxy", "--key-file", "/root/one.key")
    assert "nothing to do" in machine.out("llmsvc", "install")
    base, key = "http://127.0.0.1:8000", machine.out("cat", "/root/one.key")
    assert (
        machine.exec("systemctl", "list-unit-files", "--no-legend", "auth-proxy*", check=False).stdout == ""
    )
    assert machine.states("postgresql", "llama-server.socket") == ["active", "active"]
    assert ask(machine, base, "sk-llm-other").status_code == 401
    answers: list[httpx.Response] = []
    end = threading.Event()

    def client() -> None:
        while not end.is_set():
            answers.append(ask(machine, base, key))

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for model in ("gemma3", "smollm2"):
            machine.start(model)
            seen, begin = len(answers), time.monotonic()
            while len(answers) < seen + 4:
                assert time.monotonic() - begin < 60, "no answers any more"
                time.sleep(0.05)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["model"] for answer in answers} == {"gemma3", "smollm2"}
    assert machine.out("llmsvc", "ask", "Say hello")
    assert "single-key mode" in machine.out("llmsvc", "status")
    refused = machine.exec("llmsvc", "user", "list", check=False)
    assert (refused.returncode, "--proxy" in refused.stderr) == (2, True)
    assert machine.out("systemctl", "show", "-P", "PrivateNetwork", "llama-server@smollm2") == "yes"
    machine.exec("llmsvc", "install", "--proxy")
    assert "nothing to do" in machine.out("llmsvc", "install")
    assert ask(machine, machine.base_url, machine.key()).status_code == 200
    assert machine.out("ss", "-Hltn", "sport = :8000") == ""
