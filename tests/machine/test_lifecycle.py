"""From one installation to the next, to an upgrade, to nothing: what is kept, what comes back, what goes."""

from __future__ import annotations

import time

import pytest

from tests.machine.conftest import others_follow
from tests.machine.load import Load
from tests.machine.test_zero_loss import check_counted

UNIT = "/etc/systemd/system/auth-proxy.service"
DROP_IN = "/etc/systemd/system/llama-server@smollm2.service.d/mine.conf"
CONFIG = "/etc/llmsvc/config.env"
PARTS = "llmsvc installer units templates models docs packaging pyproject.toml README.md LICENSE"
FAIL = r"/&\n    raise SystemExit(1)/'"
BROKEN = {
    "the proxy does not start": f"sed -i 's/^def main() -> int:{FAIL} llmsvc/proxy/main.py",
    "no backend starts": f"sed -i 's/^def main(name: str) -> int:{FAIL} llmsvc/backend/main.py",
    "a migration fails": "echo 'CREATE TABLE half (); SELECT no;' >llmsvc/database/migrations/9003_no.sql",
    "a unit is wrong": "sed -i 's/^Type=notify.*/Type=nosuch/' templates/auth-proxy.service.j2",
    "the last question has no answer": "sed -i 's/max_tokens=48/max_tokens=\"many\"/' installer/verify.py",
}
"""What may be wrong with a newer checkout; the first in a normal run."""


@pytest.fixture(scope="module")
def wheelhouse(machine):
    return f"/var/cache/llmsvc/wheelhouse/{machine.suite}"


@pytest.fixture(scope="module", autouse=True)
def as_before(request, machine, wheelhouse):
    """The release of the checkout with both models and a first user, whatever the tests here did."""
    yield
    if not others_follow(request, machine):
        return
    machine.shell(
        "llmsvc uninstall --purge --yes || /opt/llmsvc/venv/bin/llmsvc uninstall --purge --yes || :\n"
        "rm -rf /srv/newer /srv/broken* /opt/llmsvc"
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
    keys = [machine.add_user(f"loader{n}", "--rate-limit", "1000000") for n in range(4)]
    checkout(machine, "/src", "/srv/newer", "0.1.1", 9001)
    kinds = list(BROKEN) if long else list(BROKEN)[:1]
    for number, kind in enumerate(kinds):
        checkout(machine, "/srv/newer", f"/srv/broken{number}", "0.1.2", 9002, BROKEN[kind])
    since = time.time()
    load = Load(machine, keys, tokens=2 if long else 12)
    around, total = (1000, 5000) if long else (8, 0)
    with load.running():
        load.await_more(around)
        begin = time.time()
        machine.exec("llmsvc", "upgrade", "/srv/newer", "--wheelhouse", wheelhouse, seconds=300)
        measured(f"{machine.suite}: upgrade under load", time.time() - begin)
        ends = [machine.ended(unit) for unit in ("auth-proxy", "llama-server@smollm2")]
        load.await_more(around)
        assert machine.out("llmsvc", "--version") == "llmsvc 0.1.1"
        assert "new9001" in tables(machine)
        for number, kind in enumerate(kinds):
            failed = machine.exec(
                *("llmsvc", "upgrade", f"/srv/broken{number}", "--wheelhouse", wheelhouse),
                check=False,
                seconds=400,
            )
            assert failed.returncode != 0, kind
            assert machine.out("llmsvc", "--version") == "llmsvc 0.1.1", kind
            load.await_more(8)
            assert "new9001" in tables(machine) and "new9002" not in tables(machine), kind
            assert "0.1.2" not in machine.out("ls", "/opt/llmsvc/releases"), kind
        load.await_more(max(0, total - len(load.answers)))
    assert machine.out("llmsvc", "db", "migrate") == "nothing to do"
    check_counted(machine, load, since)
    for end in ends:
        assert begin < end
        assert load.streams_at(end), (end, [(a.begin, a.end) for a in load.answers])
    measured(f"{machine.suite}: {len(load.answers)} requests, none lost, in", time.time() - since)
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


LEFT = r"""
find / -xdev \( -path /proc -o -path /sys -o -path /src -o -path /var/cache/llmsvc -o -path /tmp \) -prune \
    -o \( -name '*llmsvc*' -o -name '*llama*' -o -name 'auth-proxy*' \) -print
find /run -path /run/systemd -prune -o \( -name '*llmsvc*' -o -name '*llama*' -o -name 'auth-proxy*' \) -print
getent passwd | grep llm; getent group | grep llm
systemctl list-units --all --plain --no-legend 'llm*' 'llama*' 'auth-proxy*'
systemctl list-unit-files --no-legend 'llm*' 'llama*' 'auth-proxy*'
ls -A /var/spool/cron 2>/dev/null
cd /
runuser -u postgres -- psql -XAtc "select datname from pg_database union select rolname from pg_roles" |
    grep -vE '^(pg_|template[01]$|postgres$)'
"""


def test_after_a_purge_nothing_is_left(machine):
    machine.exec("llmsvc", "uninstall", "--purge", "--yes")
    machine.shell("rm -rf /root/llmsvc.key /srv/newer /srv/broken*")
    assert machine.exec("bash", "-c", LEFT, check=False).stdout == ""
