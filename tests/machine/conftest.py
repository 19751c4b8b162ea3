"""Machines with the whole service installed: one a suite for all tests, which leave it as they found it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

ROOT = Path(__file__).parents[2]
SANDBOX = str(ROOT / "packaging" / "sandbox")
SUITES = ("bookworm", "trixie")
LAST = Path(__file__).with_name("test_lifecycle.py")
CLONE_NEWNET = 0x40000000


class Machine:
    """A booted machine; commands in it run as root."""

    base_url = "http://127.0.0.1:8001"

    def __init__(self, name: str, suite: str) -> None:
        self.name = name
        self.suite = suite
        self._pid = 0

    def exec(
        self, *command: str, check: bool = True, stdin: str = "", seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command; with `check`, a failure shows what the command said."""
        done = subprocess.run(
            self.argv(*command), input=stdin, capture_output=True, text=True, timeout=seconds
        )
        if check and done.returncode:
            pytest.fail(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def argv(self, *command: str) -> list[str]:
        """What runs a command in the machine."""
        return [SANDBOX, "exec", self.name, "--", *command]

    def _leader(self) -> int:
        """The process of this host that is the machine's first one."""
        if not self._pid or not Path(f"/proc/{self._pid}").exists():
            listed = subprocess.run([SANDBOX, "list"], capture_output=True, text=True, check=True).stdout
            (line,) = (line for line in listed.splitlines() if line.split()[0] == self.name)
            self._pid = int(line.split()[-1])
        return self._pid

    def out(self, *command: str) -> str:
        return self.exec(*command).stdout.strip()

    def shell(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.exec("bash", "-euc", script, check=check)

    def reboot(self) -> None:
        subprocess.run([SANDBOX, "reboot", self.name], check=True, timeout=300)
        self._pid = 0

    def states(self, *units: str) -> list[str]:
        """The active state of each unit."""
        return self.exec("systemctl", "is-active", *units, check=False).stdout.split()

    def await_states(self, units: list[str], states: list[str], seconds: float = 60) -> None:
        """Until the units have these states; looks closely, for some do not last."""
        look = (
            'end=$((SECONDS + $1)); shift; until now=$(systemctl is-active "${@:2}"); [ "$now" = "$1" ]; do '
            "[ $SECONDS -lt $end ] || exit 1; sleep 0.02; done"
        )
        arguments = [str(round(seconds)), "\n".join(states), *units]
        done = self.exec("bash", "-c", look, "bash", *arguments, check=False, seconds=seconds + 60)
        assert done.returncode == 0, f"{units} are {self.states(*units)}, not {states}"

    def ended(self, unit: str) -> float:
        """When the unit last began to stop, as time.time() counts."""
        since_boot = int(self.out("systemctl", "show", "-P", "ActiveExitTimestampMonotonic", unit)) / 1e6
        return since_boot - time.monotonic() + time.time()

    def start(self, model: str) -> None:
        self.exec("systemctl", "start", f"llama-server@{model}")

    def sql(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query."""
        rows = self.exec(
            *("runuser", "-u", "postgres", "--", "psql", "-d", "llmsvc", "-XAtq", "-c"),
            f"select coalesce(json_agg(q), '[]') from ({query}) q",
        ).stdout
        return json.loads(rows)  # type: ignore[no-any-return]

    def journal(self, *arguments: str) -> list[dict[str, Any]]:
        """Entries of the journal since the machine was made, up to now."""
        # what was said before the call may still wait to be written
        self.exec("journalctl", "--sync")
        lines = self.exec("journalctl", "-o", "json", "--no-pager", *arguments).stdout.splitlines()
        return [json.loads(line) for line in lines]

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """What the calling thread opens in here is a socket of the machine: its port 8001 is ours."""
        pid = self._leader()
        with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{pid}/ns/net") as theirs:
            _enter(theirs.fileno())
            try:
                yield
            finally:
                _enter(ours.fileno())

    def post(self, path: str, body: dict[str, Any], key: str | None) -> httpx.Response:
        """One request; the key None sends no header."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        with (
            self.network(),
            httpx.Client(base_url=self.base_url, trust_env=False, verify=False, timeout=120) as client,
        ):
            return client.post(path, json=body, headers=headers)

    def openai(self, key: str) -> openai.OpenAI:
        """The real SDK; use it within `network()`."""
        return openai.OpenAI(
            api_key=key,
            base_url=f"{self.base_url}/v1",
            max_retries=0,
            http_client=httpx.Client(trust_env=False, verify=False, timeout=120),
        )

    def key(self) -> str:
        """The first user's."""
        return self.out("cat", "/root/llmsvc.key")

    def add_user(self, name: str, *options: str) -> str:
        """Makes a user and returns its key."""
        return self.out("llmsvc", "user", "add", name, "-q", *options)


def await_journal(machine: Machine, since: float, *match: str) -> list[dict[str, Any]]:
    """The entries since then that match, once there are any."""
    deadline = time.monotonic() + 30
    while not (found := machine.journal(f"--since=@{since:.3f}", *match)):
        assert time.monotonic() < deadline, f"no {match}"
        time.sleep(0.1)
    return found


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _listed() -> list[str]:
    """The machines that run."""
    listed = subprocess.run([SANDBOX, "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listed.splitlines()[1:]]


def _remove_left_over() -> None:
    """Machines of test runs that were killed."""
    for name in _listed():
        pid = name.rpartition("-")[2]
        if name.startswith("test-") and pid.isdigit() and not Path("/proc", pid).exists():
            subprocess.run([SANDBOX, "down", name], check=True)


def run(*command: str | Path) -> str:
    """Runs a program of this host that prepares a machine; what it says, with which the test may fail."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    if done.returncode:
        pytest.fail(f"{command} ended with {done.returncode}:\n{done.stdout[-5000:]}")
    return done.stdout


@pytest.hookimpl(tryfirst=True)  # then pytest puts those of one machine together
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is split is on one suite each; what leaves nothing of the service comes last."""
    if not config.getoption("--long"):
        cases: dict[str, list[str]] = {}
        left_out = []
        for item in items:
            if item.get_closest_marker("split"):
                suite = item.callspec.params["machine"]  # type: ignore[attr-defined]
                case = item.callspec.id.removeprefix(suite)  # type: ignore[attr-defined]
                known = cases.setdefault(item.originalname, [])  # type: ignore[attr-defined]
                known += [case] if case not in known else []
                left_out += [item] if SUITES[known.index(case) % len(SUITES)] != suite else []
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: item.path == LAST)


def others_follow(request: pytest.FixtureRequest, machine: Machine) -> bool:
    """Whether tests of another file come on this machine after those of the file that asks."""
    on_it = [
        item.path
        for item in request.session.items
        if getattr(item, "callspec", None) and item.callspec.params.get("machine") == machine.suite
    ]
    return on_it[-1] != request.path


@pytest.fixture(scope="session", params=SUITES)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine with smollm2 running and gemma3 installed, private network."""
    _remove_left_over()
    machine = Machine(f"test-{request.param}-{os.getpid()}", request.param)
    try:
        up = subprocess.run(
            [SANDBOX, "up", machine.name, "--suite", machine.suite],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
        )
        if up.returncode:
            pytest.fail(f"the machine did not come up:\n{up.stdout}")
        yield machine
    finally:
        subprocess.run([SANDBOX, "down", machine.name], check=False, timeout=300, capture_output=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[misc, assignment]
    machine = getattr(item, "funcargs", {}).get("machine")
    if report.failed and machine is not None:
        journal = machine.exec(
            "journalctl", "--no-pager", "-o", "short-precise", f"--since=@{call.start:.6f}", check=False
        )
        report.sections.append(("journal of the machine", journal.stdout[-20_000:]))
    return report  # type: ignore[return-value]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """After the last test of a file the machine is as the next file expects it."""
    machine = getattr(item, "funcargs", {}).get("machine")
    yield
    follows = getattr(nextitem, "callspec", None)
    same = machine is not None and follows is not None and follows.params.get("machine") == machine.suite
    if not same or nextitem is None or nextitem.path == item.path:
        return
    units = ("auth-proxy.service", "llama-server@smollm2.service")
    assert machine.states(*units) == ["active", "active"], (
        f"{item.path.name} left another machine than it found"
    )


@pytest.fixture
def measured(record_property: Any) -> Any:
    """measured(WHAT, SECONDS): shown at the end of the run; times are told, never asserted."""
    return lambda what, seconds: record_property("measured", f"{what}: {seconds:.2f} s")
