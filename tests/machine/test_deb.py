"""The Debian package on a minimal server: installed, upgraded under load, removed, purged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.conftest import ROOT, SANDBOX, SUITES, Machine, run
from tests.machine.load import Load

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
    # to try something out, without the minutes that a build takes
    if built := os.environ.get(f"LLMSVC_TEST_DEB_{suite.upper()}"):
        folder = tmp_path_factory.mktemp(suite) / "copy"
        shutil.copytree(built, folder)
        return suite, folder
    folder = tmp_path_factory.mktemp(suite)
    run(ROOT / "packaging/deb", "--suite", suite, "--depends", folder)
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


def apt(server: Machine, *arguments: str) -> str:
    command = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", "--no-install-recommends")
    return server.exec(*command, *arguments, seconds=600).stdout


def newer(folder: Path) -> str:
    """The same package as revision 2, in the same directory; its path in the machine."""
    (old,) = folder.glob("llmsvc_*.deb")
    tree = folder / "tree"
    run("dpkg-deb", "-R", old, tree)
    control, complete = tree / "DEBIAN/control", tree / "usr/lib/llmsvc/COMPLETE"
    for file in (control, complete):
        assert "+1~deb" in file.read_text()
        file.write_text(file.read_text().replace("+1~deb", "+2~deb"))
    new = folder / "newer" / old.name.replace("+1~deb", "+2~deb")
    new.parent.mkdir()
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, new)
    return f"/packages/newer/{new.name}"


def test_a_package_from_apt_to_purge(package: tuple[str, Path], server: Machine) -> None:
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

    # upgraded under load: no request is lost, and the new version runs
    before = server.out("systemctl", "show", "-P", "InvocationID", *UNITS).split()
    load = Load(server, [server.add_user("load", "--rate-limit", "1000000")], clients=4)
    with load.running():
        apt(server, "install", newer(folder))
    assert load.problems() == [] and len(load.answers) > 4
    after = server.out("systemctl", "show", "-P", "InvocationID", *UNITS).split()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, False]
    assert server.states(*UNITS) == ["active"] * 3

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
