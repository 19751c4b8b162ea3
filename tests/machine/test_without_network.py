"""A minimal machine without any network: `packaging/wheelhouse --suite` holds all that it lacks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.machine.conftest import ROOT, SANDBOX, SUITES, Machine, run

# but for what postgresql-common itself puts there, and what scripts of packages ask apt for
APT = """find /etc/apt /var/lib/apt/lists /var/cache/apt -type f ! -name 02autoremove-postgresql \\
    ! -name '*pkgcache.bin' -exec sha256sum {} + | sort"""
STATE = (
    f"{APT}; dpkg-query -W; getent passwd; find /etc /opt /usr /var/lib -xdev ! -path '/var/lib/apt/*' | sort"
)


@pytest.fixture(scope="module", params=SUITES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A bare machine; its wheelhouse is at /media/usb, and one that is damaged at /media/bad."""
    suite = request.param
    if suite != SUITES[-1] and not request.config.getoption("--long"):
        pytest.skip("the other suite with --long")
    folder = tmp_path_factory.mktemp(suite)
    usb, bad = folder / "usb", folder / "bad"
    run(ROOT / "packaging/wheelhouse", "--suite", suite, usb)
    # nothing to do for one that is complete
    assert "downloading" not in run(ROOT / "packaging/wheelhouse", "--suite", suite, usb)
    shutil.copytree(usb, bad, copy_function=os.link)
    (cut,) = bad.glob("debs/postgresql-client-common_*.deb")
    content = cut.read_bytes()
    cut.unlink()
    cut.write_bytes(content[: len(content) // 2])
    machine = Machine(f"test-usb-{suite}-{os.getpid()}", suite)
    try:
        binds = ("--bind", f"{usb}:/media/usb", "--bind", f"{bad}:/media/bad")
        run(SANDBOX, "up", machine.name, "--suite", suite, "--bare", *binds)
        yield machine
    finally:
        subprocess.run([SANDBOX, "down", machine.name], check=False, timeout=60, capture_output=True)


def test_it_installs_and_answers(server: Machine) -> None:
    # the loopback is all there is
    assert "default" not in server.out("ip", "route") and server.out("ip", "-o", "link").count("\n") == 0
    before = server.shell(STATE).stdout

    # a damaged one changes nothing
    refused = server.exec("/src/packaging/install.sh", "--wheelhouse", "/media/bad", check=False)
    assert refused.returncode == 1
    assert "/media/bad is damaged: debs/postgresql-client-common_" in refused.stderr
    assert server.shell(STATE).stdout == before

    apt = server.shell(APT).stdout
    install = ("/src/packaging/install.sh", "--wheelhouse", "/media/usb", "--key-file", "/root/llmsvc.key")
    done = server.exec(*install, seconds=600)
    said = (done.stdout + done.stderr).lower()
    for word in ("hugging", "download", "pypi", "is the network up"):
        assert word not in said, said
    assert server.shell(APT).stdout == apt
    body = {"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    assert server.post("/v1/chat/completions", body, server.key()).status_code == 200
    doctor = json.loads(server.exec("llmsvc", "doctor", "--json", check=False).stdout)
    assert doctor["findings"] == []
    again = server.exec(*install[:3], seconds=600)
    assert "nothing to do" in again.stdout + again.stderr
    server.exec("llmsvc", "model", "add", "gemma3", "--wheelhouse", "/media/usb")
