"""Debian 12 is upgraded to 13 below a service in use: another Python, and another PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.conftest import ROOT, SANDBOX, Machine, run
from tests.machine.debian import apt, build

pytestmark = pytest.mark.long

OLD, NEW = "bookworm", "trixie"
UNITS = ("auth-proxy.socket", "auth-proxy", "llama-server@smollm2")
INSTALL = ("/src/packaging/install.sh", "--wheelhouse", f"/var/cache/llmsvc/wheelhouse/{NEW}")
UPGRADE = f"""
export DEBIAN_FRONTEND=noninteractive
cp /media/upgrade/archives/*.deb /var/cache/apt/archives/
cp -R /media/upgrade/lists /var/lib/apt/
sed -i s/{OLD}/{NEW}/ /etc/apt/sources.list
apt-get -q -y --no-download -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold full-upgrade
apt-get clean
"""


@pytest.fixture(scope="module")
def binds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that give a machine what apt needs to upgrade it."""
    folder = tmp_path_factory.mktemp(NEW)
    run(ROOT / "tests/machine/fetch-upgrade", folder)
    return ["--bind", f"{folder}:/media/upgrade"]


@contextlib.contextmanager
def debian_12(*options: str) -> Iterator[Machine]:
    machine = Machine(f"test-upgrade-{os.getpid()}", OLD)
    try:
        run(SANDBOX, "up", machine.name, "--suite", OLD, *options)
        yield machine
    finally:
        subprocess.run([SANDBOX, "down", machine.name], check=False, timeout=300, capture_output=True)


@pytest.fixture
def server(binds: list[str]) -> Iterator[Machine]:
    """With llmsvc from the checkout."""
    with debian_12(*binds) as machine:
        yield machine


@pytest.fixture
def packaged(binds: list[str], tmp_path: Path) -> Iterator[Machine]:
    """A minimal one; at /packages a directory for each release, with the package for it."""
    for suite in (OLD, NEW):
        (tmp_path / suite).mkdir()
        build(suite, tmp_path / suite)
    with debian_12("--bare", *binds, "--bind", f"{tmp_path}:/packages") as machine:
        yield machine


def chat(server: Machine) -> None:
    """Yesterday's key gets an answer."""
    body = {"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    answer = server.post("/v1/chat/completions", body, server.key())
    assert answer.status_code == 200, answer.text


def await_rows(server: Machine, count: int) -> None:
    """Until the ledger has a row for each request of the first user."""
    deadline = time.monotonic() + 30
    ask = ("llmsvc", "requests", "--user", "admin", "--json")
    while len(rows := json.loads(server.out(*ask))) < count:
        assert time.monotonic() < deadline, f"{len(rows)} rows of {count} requests"
        time.sleep(0.2)
    assert [row["state"] for row in rows] == ["ok"] * count


def findings(server: Machine) -> list[str]:
    """What doctor calls that which is wrong."""
    said = json.loads(server.exec("llmsvc", "doctor", "--json", check=False).stdout)
    return [finding["name"] for finding in said["findings"]]


def clusters(server: Machine) -> list[str]:
    """Version, port and state of each PostgreSQL."""
    lines = server.out("pg_lsclusters", "--no-header").splitlines()
    return [" ".join(line.split()[place] for place in (0, 2, 3)) for line in lines]


def test_what_the_checkout_installed(server: Machine) -> None:
    chat(server)
    server.exec("bash", "-euc", UPGRADE, seconds=1500)
    assert server.out("readlink", "/usr/bin/python3") == "python3.13"

    # the old Python and PostgreSQL are still there: it goes on, over a reboot too, until they go
    server.reboot()
    server.await_states([*UNITS], ["active"] * 3)
    chat(server)
    assert "interpreter-old" in findings(server)
    server.exec("llmsvc", "db", "backup", "/root/backup.tar")

    # the old Python goes, and an empty cluster of the new PostgreSQL lies beside ours: nothing works any more
    server.shell("DEBIAN_FRONTEND=noninteractive apt-get -q -y autoremove; pg_createcluster --start 17 main")
    server.reboot()
    assert server.exec("llmsvc", "--version", check=False).returncode == 127
    assert "active" not in server.states(*UNITS[1:])
    assert clusters(server) == ["15 5432 online", "17 5433 online"]

    # repaired, with the cluster that has the data
    server.exec(*INSTALL, seconds=600)
    chat(server)
    assert findings(server) == []
    await_rows(server, 3)
    assert sorted(model["name"] for model in json.loads(server.out("llmsvc", "model", "list", "--json"))) == [
        "gemma3",
        "smollm2",
    ]
    assert "nothing to do" in server.exec(*INSTALL, seconds=600).stdout

    # the old cluster is stopped: the empty one is not taken for ours, and requests are still answered
    server.exec("systemctl", "stop", "postgresql@15-main")
    refused = server.exec(*INSTALL, check=False, seconds=600)
    assert refused.returncode != 0 and "the cluster 15 main is down" in refused.stderr, refused.stderr
    chat(server)
    server.exec("systemctl", "start", "postgresql@15-main")

    # its data get into the new version, on its port
    server.shell("cd /; pg_dropcluster --stop 17 main; pg_upgradecluster 15 main")
    assert clusters(server) == ["15 5433 down", "17 5432 online"]
    server.exec(*INSTALL, seconds=600)
    chat(server)
    assert findings(server) == []
    server.shell("cd /; pg_dropcluster 15 main; DEBIAN_FRONTEND=noninteractive apt-get -q -y autoremove")
    assert server.out("ls", "/usr/lib/postgresql") == "17"
    await_rows(server, 5)

    # or on another one
    server.shell(
        "sed -i 's/^port = .*/port = 5433/' /etc/postgresql/17/main/postgresql.conf; "
        "systemctl restart postgresql@17-main"
    )
    assert findings(server) == ["database-cluster"]
    server.exec(*INSTALL, seconds=600)
    assert "POSTGRES_AUTH_PORT=5433" in server.out("cat", "/etc/llmsvc/config.env").splitlines()
    chat(server)
    assert findings(server) == []
    await_rows(server, 6)

    # it is removed with its data: nothing is made unasked, and the one that is named gets a backup
    server.shell("cd /; pg_dropcluster --stop 17 main; pg_createcluster --start 17 main -p 5433")
    refused = server.exec(*INSTALL, check=False, seconds=600)
    anew = "postgresql:///llmsvc?port=5433"
    assert refused.returncode != 0 and f"--database '{anew}'" in refused.stderr, refused.stderr
    server.exec(*INSTALL, "--database", anew, seconds=600)
    server.exec("llmsvc", "db", "restore", "/root/backup.tar", "--force", seconds=300)
    chat(server)
    assert findings(server) == []
    await_rows(server, 3)


def test_what_a_package_installed(packaged: Machine) -> None:
    apt(packaged, "install", *packaged.shell(f"find /packages/{OLD} -name '*.deb'").stdout.split())
    # as if they had come from a mirror, and not as files that somebody named
    packaged.shell(
        f"for file in /packages/{OLD}/depends/*; do apt-mark auto $(dpkg-deb -f $file Package); done"
    )
    model = ("--model", "/var/cache/llmsvc/models/smollm2.gguf")
    packaged.exec("llmsvc", "install", *model, "--key-file", "/root/llmsvc.key", seconds=300)
    chat(packaged)
    packaged.exec("bash", "-euc", UPGRADE, seconds=1500)

    # it keeps the Python that it needs, and goes on
    apt(packaged, "autoremove")
    packaged.reboot()
    packaged.await_states([*UNITS], ["active"] * 3)
    chat(packaged)
    assert "interpreter-old" in findings(packaged)

    # until there is the package for the new release
    apt(packaged, "install", *packaged.shell(f"ls /packages/{NEW}/*.deb").stdout.split())
    assert packaged.out("readlink", "-f", "/usr/lib/llmsvc/bin/python") == "/usr/bin/python3.13"
    apt(packaged, "autoremove")
    assert packaged.exec("test", "-e", "/usr/bin/python3.11", check=False).returncode == 1
    chat(packaged)
    assert findings(packaged) == []
    await_rows(packaged, 3)
