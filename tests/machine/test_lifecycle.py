"""From one installation to the next, to an upgrade, to nothing: what is kept, what comes back, what goes."""

from __future__ import annotations

import difflib
import time

import pytest

from tests.machine.load import Load
from tests.machine.test_zero_loss import check_counted

UNIT = "/etc/systemd/system/auth-proxy.service"
DROP_IN = "/etc/systemd/system/llama-server@smollm2.service.d/mine.conf"
CONFIG = "/etc/llmsvc/config.env"
PARTS = "llmsvc installer units templates models docs packaging pyproject.toml README.md LICENSE"
FAULTS = "/opt/llmsvc/releases/other/bin/python /src/tests/machine/faults.py"
SAMPLE = {
    "bookworm": [("kill", 0.3), ("no-room", 0.5), ("systemctl-once", 0.9), ("kill", 1.0)],
    "trixie": [("interrupt", 0.95), ("no-database", 0.3), ("read-only", 0.6), ("systemctl-for-ever", 0.97)],
}
"""Faults of a normal run, and after which part of all changes they come."""


@pytest.fixture(scope="module")
def wheelhouse(machine):
    return f"/var/cache/llmsvc/wheelhouse/{machine.suite}"


@pytest.fixture(scope="module", autouse=True)
def as_before(machine, wheelhouse):
    """The release of the checkout with both models and a first user, whatever the tests here did."""
    yield
    machine.shell(
        "llmsvc uninstall --purge --yes || /opt/llmsvc/venv/bin/llmsvc uninstall --purge --yes || :\n"
        "rm -rf /srv/newer /srv/broken /opt/llmsvc"
    )
    machine.shell(
        f"/src/packaging/install.sh --wheelhouse {wheelhouse} --key-file /root/llmsvc.key\n"
        f"llmsvc model add gemma3 --wheelhouse {wheelhouse}"
    )


def checkout(machine, origin: str, place: str, version: str, number: int, patch: str = "") -> None:
    """A newer checkout with one more migration, which makes a table `newNUMBER`."""
    table = f"new{number}"
    machine.shell(
        f"mkdir {place} && cd {origin} && cp -r {PARTS} {place} && cd {place}\n"
        f"sed -i 's/^__version__ = .*/__version__ = \"{version}\"/' llmsvc/__init__.py\n"
        f"echo 'CREATE TABLE {table} (a int); ALTER TABLE llama_requests ADD COLUMN {table} int;' "
        f">llmsvc/database/migrations/{number}_{table}.sql\n{patch}"
    )


def tables(machine) -> set[str]:
    return {row["tablename"] for row in machine.sql("select tablename from pg_tables")}


def answered(load: Load, count: int) -> None:
    """Until so many more answers have come."""
    target, begin = len(load.answers) + count, time.monotonic()
    while len(load.answers) < target:
        assert time.monotonic() - begin < 60 + count, "no answers any more"
        time.sleep(0.05)


def test_what_the_admin_changed_is_kept(machine):
    machine.shell(
        f"sed -i 's/^OOMScoreAdjust=.*/OOMScoreAdjust=-50/' {UNIT}\n"
        f"mkdir -p {DROP_IN.rpartition('/')[0]}; printf '[Service]\\nCPUWeight=77\\n' >{DROP_IN}\n"
        f"sed -i 's/^#LLAMA_PROXY_RATE_LIMIT=.*/LLAMA_PROXY_RATE_LIMIT=61/' {CONFIG}"
    )
    planned = machine.exec("llmsvc", "install", "--dry-run", check=False)
    assert planned.returncode == 2
    assert f"keep your {UNIT}, write auth-proxy.service.llmsvc-new" in planned.stdout
    assert "+OOMScoreAdjust=-100" in planned.stdout
    done = machine.exec("llmsvc", "install")
    assert f"Kept {UNIT}, which you edited" in done.stdout and "systemctl edit" in done.stdout
    assert machine.out("systemctl", "show", "-P", "OOMScoreAdjust", "auth-proxy") == "-50"
    assert machine.out("systemctl", "show", "-P", "CPUWeight", "llama-server@smollm2") == "77"
    assert "LLAMA_PROXY_RATE_LIMIT=61\n" in machine.out("cat", CONFIG)
    assert "nothing to do" in machine.out("llmsvc", "install")
    assert machine.exec("llmsvc", "install", "--dry-run").returncode == 0


def test_an_upgrade_under_load_loses_nothing_and_a_failed_one_leaves_nothing(
    machine, wheelhouse, long, measured
):
    keys = [machine.add_user(f"load{n}", "--rate-limit", "1000000") for n in range(4)]
    checkout(machine, "/src", "/srv/newer", "0.1.1", 9001)
    checkout(
        machine,
        "/srv/newer",
        "/srv/broken",
        "0.1.2",
        9002,
        "sed -i 's/^def main() -> int:/def main() -> int:\\n    raise SystemExit(1)/' llmsvc/proxy/main.py",
    )
    since = time.time()
    load = Load(machine, keys)
    with load.running():
        answered(load, 2500 if long else 8)
        begin = time.time()
        machine.exec("llmsvc", "upgrade", "/srv/newer", "--wheelhouse", wheelhouse, seconds=300)
        measured(f"{machine.suite}: upgrade under load", time.time() - begin)
        answered(load, 2500 if long else 8)
        assert machine.out("llmsvc", "--version") == "llmsvc 0.1.1"
        assert "new9001" in tables(machine)
        failed = machine.exec(
            *("llmsvc", "upgrade", "/srv/broken", "--wheelhouse", wheelhouse), check=False, seconds=300
        )
        assert failed.returncode != 0 and "putting back what was changed" in failed.stderr
        answered(load, 8)
    assert machine.out("llmsvc", "--version") == "llmsvc 0.1.1"
    assert "new9001" in tables(machine) and "new9002" not in tables(machine)
    assert "0.1.2" not in machine.out("ls", "/opt/llmsvc/releases")
    assert machine.out("llmsvc", "db", "migrate") == "nothing to do"
    check_counted(machine, load, since)
    assert machine.out("systemctl", "show", "-P", "OOMScoreAdjust", "auth-proxy") == "-50"
    assert "nothing to do" in machine.out("llmsvc", "install")


def test_uninstalled_and_installed_again_with_the_old_data(machine, wheelhouse):
    key = machine.key()
    said = machine.exec("llmsvc", "uninstall").stdout
    assert "  /var/lib/llmsvc\n" in said and "  /etc/llmsvc\n" in said
    assert machine.states("auth-proxy.socket", "llama-server@smollm2") == ["inactive", "inactive"]
    assert machine.exec("ls", f"{UNIT}.llmsvc-saved", DROP_IN).returncode == 0
    assert machine.exec("ls", UNIT, "/usr/local/bin/llmsvc", check=False).returncode == 2
    machine.exec("/opt/llmsvc/venv/bin/llmsvc", "install", "--wheelhouse", wheelhouse)
    body = {"model": "current", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}
    assert machine.post("/v1/chat/completions", body, key).status_code == 200


def test_whatever_fails_an_installation_the_host_is_as_before(machine, wheelhouse, long, measured):
    """And a purge leaves nothing: the same comparison at its end."""
    machine.shell(
        "cp -a $(readlink /opt/llmsvc/venv) /root/other && llmsvc uninstall --purge --yes\n"
        "mkdir -p /opt/llmsvc/releases && mv /root/other /opt/llmsvc/releases/\n"
        "sed -i '1s|.*|#!/opt/llmsvc/releases/other/bin/python|' /opt/llmsvc/releases/other/bin/llmsvc"
    )
    before = machine.out("/src/tests/machine/snapshot")
    named = [line for line in before.splitlines() if "llmsvc" in line or "llama" in line]
    assert all(line.startswith(("/opt/llmsvc d", "/root/llmsvc.key")) for line in named), named

    def differs() -> str:
        now = machine.out("/src/tests/machine/snapshot")
        return "\n".join(difflib.unified_diff(before.splitlines(), now.splitlines(), lineterm="", n=0))

    install = f"install --wheelhouse {wheelhouse}"
    counted = machine.shell(f"{FAULTS} count 0 {install}").stderr
    lines = int(counted.split()[-2])
    machine.shell("cp -a /opt/llmsvc/releases/other /root/other; llmsvc uninstall --purge --yes")
    machine.shell("mkdir -p /opt/llmsvc/releases; mv /root/other /opt/llmsvc/releases/")
    assert differs() == ""
    kinds = sorted({kind for sample in SAMPLE.values() for kind, _ in sample})
    faults = [(kind, n) for n in range(1, lines + 1) for kind in kinds]
    if not long:
        faults = [(kind, max(1, round(part * lines))) for kind, part in SAMPLE[machine.suite]]
    begin = time.time()
    for kind, number in faults:
        failed = machine.shell(f"{FAULTS} {kind} {number} {install}", check=False)
        assert failed.returncode != 0, (kind, number)
        assert "Traceback" not in failed.stderr, (kind, number, failed.stderr)
        # what is broken is mended, and the next run does this before all else
        machine.shell("! mountpoint -q /etc || umount /etc; systemctl start postgresql")
        if kind in ("kill", "read-only", "no-database", "systemctl-for-ever"):
            machine.shell(f"{FAULTS} recover 0")
        assert differs() == "", (kind, number)
    measured(f"{machine.suite}: {len(faults)} failed installations of {lines} changes", time.time() - begin)
