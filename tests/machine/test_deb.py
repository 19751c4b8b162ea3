"""The Debian package on a minimal server: installed, upgraded under load, removed, purged."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmsvc import __version__
from tests.machine.conftest import SANDBOX, SUITES, Machine, run
from tests.machine.debian import apt, build
from tests.machine.elsewhere import CLUSTER, COUNT, PASSWORD, URL
from tests.machine.load import Load
from tests.machine.test_zero_loss import check_counted

VERSION, NEWER = __version__, f"{__version__}.1"
MODEL = "/var/cache/llmsvc/models/smollm2.gguf"
UNITS = ("auth-proxy.socket", "auth-proxy", "llama-server@smollm2")
OURS = r"""
find / -xdev \( -path /proc -o -path /sys -o -path /src -o -path /tmp -o -path /var/cache \) -prune -o \
    \( -name '*llmsvc*' -o -name '*llama*' -o -name 'auth-proxy*' \) -print
find /run -path /run/systemd -prune -o \( -name '*llmsvc*' -o -name '*llama*' -o -name 'auth-proxy*' \) -print
cd /
runuser -u postgres -- psql -Atc "select datname from pg_database where datname ~ 'llm'"
runuser -u postgres -- psql -Atc "select rolname from pg_roles where rolname ~ 'llm'"
"""


@pytest.fixture(scope="module", params=SUITES)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A suite, and a directory with its package and what a minimal server lacks for it."""
    suite = request.param
    if suite != SUITES[0] and not request.config.getoption("--long"):
        pytest.skip("the other suite with --long")
    folder = tmp_path_factory.mktemp(suite)
    build(suite, folder)
    return suite, folder


@pytest.fixture(scope="module")
def server(package: tuple[str, Path]) -> Iterator[Machine]:
    """A minimal machine without a network, the packages at /packages."""
    suite, folder = package
    machine = Machine(f"test-deb-{suite}-{os.getpid()}", suite)
    try:
        run(SANDBOX, "up", machine.name, "--suite", suite, "--bare", "--bind", f"{folder}:/packages")
        yield machine
    finally:
        subprocess.run([SANDBOX, "down", machine.name], check=False, timeout=60, capture_output=True)


def newer(folder: Path) -> str:
    """A package of a later version, with one more migration and another unit; its path in the machine."""
    (old,) = folder.glob("llmsvc_*.deb")
    tree = folder / "tree"
    run("dpkg-deb", "-R", old, tree)
    home = tree / "usr/lib/llmsvc"
    (code,) = home.glob("lib/python3*/site-packages/llmsvc")
    (unit,) = tree.glob("**/lib/systemd/system/auth-proxy.service")
    version, adjustment = (f"{VERSION}+", f"{NEWER}+"), ("OOMScoreAdjust=-100", "OOMScoreAdjust=-101")
    for file, (was, becomes) in {
        tree / "DEBIAN/control": version,
        home / "COMPLETE": version,
        code / "__init__.py": (f'"{VERSION}"', f'"{NEWER}"'),
        unit: adjustment,
        home / "share/llmsvc/templates/auth-proxy.service.j2": adjustment,
    }.items():
        assert was in file.read_text()
        file.write_text(file.read_text().replace(was, becomes))
    (code / "database/migrations/9001_newer.sql").write_text("CREATE TABLE newer (a int);")
    new = folder / "newer" / old.name.replace(*version)
    new.parent.mkdir()
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, new)
    return f"/packages/newer/{new.name}"


def upgrade_under_load(server: Machine, package: str, many: int, measured: Any) -> None:
    """No request is lost, cut or counted wrongly: `many` before it, as many after it, and those meanwhile."""
    keys = [server.add_user(f"load{number}", "--rate-limit", "1000000") for number in range(2)]
    since, load = time.time(), Load(server, keys, tokens=1, stream_tokens=24)
    with load.running():
        load.await_more(many)
        begin = time.time()
        apt(server, "install", package)
        measured(f"{server.suite}: upgrade of the package under load", time.time() - begin)
        ends = {unit: server.ended(unit) for unit in UNITS[1:]}
        load.await_more(many)
    check_counted(server, load, since)
    measured(f"{server.suite}: {len(load.answers)} requests, none lost, in", time.time() - since)
    for unit, end in ends.items():
        streams = load.streams_at(end)
        assert begin < end and streams, unit
        half = sum(answer.first < end for answer in streams)
        measured(
            f"{server.suite}: {unit} ended at {len(streams)} open streams, {half} half told, after",
            end - begin,
        )


def test_a_package_from_apt_to_purge(
    package: tuple[str, Path], server: Machine, long: bool, measured: Any
) -> None:
    _, folder = package
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.deb"))

    # unpacked: nothing runs, nothing is enabled, and it says what to do
    said = apt(server, "install", *(f"/packages/{name}" for name in names))
    assert "sudo llmsvc install" in said
    assert server.states(*UNITS) == ["inactive"] * 3
    assert not server.out("bash", "-c", "ls -d /etc/llmsvc /var/lib/llmsvc 2>/dev/null; true")

    # installed: a chat
    server.exec("llmsvc", "install", "--model", MODEL, "--key-file", "/root/llmsvc.key", seconds=300)
    assert server.states(*UNITS) == ["active"] * 3
    body = {"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    assert server.post("/v1/chat/completions", body, server.key()).status_code == 200
    assert "nothing to do" in server.out("llmsvc", "install")
    doctor = json.loads(server.exec("llmsvc", "doctor", "--json", check=False).stdout)
    assert doctor["findings"] == []
    for unit in UNITS[1:]:
        server.exec("systemd-analyze", "security", "--no-pager", "--threshold=5", unit)
        assert "/lib/systemd/system/" in server.out("systemctl", "show", "-P", "FragmentPath", unit)
    assert not server.out("find", "/etc/systemd/system", "-type", "f", "-name", "*ll*m*")
    assert "_llmsvc" in server.out(
        "bash", "-c", ". /usr/share/bash-completion/bash_completion; "
        "_comp_load llmsvc 2>/dev/null || _completion_loader llmsvc; complete -p llmsvc"
    )  # fmt: skip

    # the other mode, and back: what differs is in drop-ins, and the package's units stay
    server.exec("llmsvc", "install", "--no-proxy", "--key-file", "/root/one.key", seconds=300)
    assert server.states(*UNITS, "llama-server.socket") == ["inactive", "inactive", "active", "active"]
    assert "nothing to do" in server.out("llmsvc", "install")
    assert json.loads(server.exec("llmsvc", "doctor", "--json", check=False).stdout)["findings"] == []
    asked = ("curl", "-sS", "http://127.0.0.1:8000/v1/chat/completions", "-d", json.dumps(body), "-H")
    key = server.out("cat", "/root/one.key")
    assert '"choices"' in server.out(*asked, f"Authorization: Bearer {key}")
    assert '"choices"' not in server.out(*asked, "Authorization: Bearer sk-llm-other")
    server.exec("llmsvc", "install", "--proxy", seconds=300)
    assert server.states(*UNITS, "llama-server.socket") == [*["active"] * 3, "inactive"]
    assert "nothing to do" in server.out("llmsvc", "install")
    assert server.post("/v1/chat/completions", body, server.key()).status_code == 200

    # upgraded under load
    before = server.out("systemctl", "show", "-P", "InvocationID", *UNITS).split()
    upgrade_under_load(server, newer(folder), 250 if long else 30, measured)
    after = server.out("systemctl", "show", "-P", "InvocationID", *UNITS).split()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, False]
    assert server.states(*UNITS) == ["active"] * 3
    assert server.out("llmsvc", "--version") == f"llmsvc {NEWER}"
    assert server.out("systemctl", "show", "-P", "OOMScoreAdjust", "auth-proxy") == "-101"
    assert server.sql("select tablename from pg_tables where tablename = 'newer'")
    assert "nothing to do" in server.out("llmsvc", "install")
    assert json.loads(server.exec("llmsvc", "doctor", "--json", check=False).stdout)["findings"] == []

    # removed: nothing runs, data stay; and back again
    apt(server, "remove", "llmsvc")
    assert server.states(*UNITS) == ["inactive"] * 3
    assert server.exec("test", "-e", "/usr/lib/llmsvc", check=False).returncode == 1
    apt(server, "install", *(f"/packages/newer/{file.name}" for file in (folder / "newer").iterdir()))
    assert server.post("/v1/chat/completions", body, server.key()).status_code == 200

    # purged: nothing of ours is left but its users, as packages leave them
    apt(server, "purge", "llmsvc")
    server.exec("rm", "/root/llmsvc.key", "/root/one.key")
    left = server.shell(OURS).stdout.split()
    assert [path for path in left if "/dpkg/" not in path and "/var/log" not in path] == []


def test_a_package_with_a_database_elsewhere(package: tuple[str, Path], server: Machine) -> None:
    """On the machine that the test before has purged: over TCP with TLS and a password."""
    _, folder = package
    files = sorted(
        file.relative_to(folder) for place in (".", "depends") for file in (folder / place).glob("*.deb")
    )
    apt(server, "install", *(f"/packages/{file}" for file in files))
    server.exec("bash", "-c", "umask 077; cat >/root/password", stdin=f"{PASSWORD}\n")
    server.shell(CLUSTER)
    database = ("--database", f"{URL}db.pem", "--database-password-file", "/root/password")
    key = ("--key-file", "/root/llmsvc.key")
    server.exec("llmsvc", "install", "--model", MODEL, *database, *key, seconds=300)
    assert "nothing to do" in server.out("llmsvc", "install")
    body = {"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    assert server.post("/v1/chat/completions", body, server.key()).status_code == 200
    assert json.loads(server.exec("llmsvc", "doctor", "--json", check=False).stdout)["findings"] == []
    deadline = time.monotonic() + 30
    while server.shell(COUNT).stdout.strip() == "0":
        assert time.monotonic() < deadline, "no row of the request"
        time.sleep(0.2)
    # what differs from the package's units is in drop-ins, and the password is a credential
    assert not server.out("find", "/etc/systemd/system", "-type", "f", "-name", "*ll*m*.service")
    server.shell("! grep -rF se:cr /etc/llmsvc /etc/systemd /var/lib/llmsvc --exclude-dir=credentials")

    # neither the local PostgreSQL was touched, nor is the other by a purge
    ours = "cd /; runuser -u postgres -- psql -Atc \"select datname from pg_database where datname ~ 'llm'\""
    assert server.shell(ours).stdout == ""
    apt(server, "purge", "llmsvc")
    server.exec("rm", "/root/llmsvc.key")
    left = server.shell(OURS).stdout.split()
    assert [path for path in left if "/dpkg/" not in path and "/var/log" not in path] == []
    assert server.shell(COUNT).stdout.strip() != "0"
