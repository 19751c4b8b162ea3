"""packaging/common.sh, and what a Debian package does at its end."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bash(script: str, *programs: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a script that has common.sh, with programs of directories before those of the machine."""
    path = ":".join([*map(str, programs), "/usr/bin:/bin"])
    return subprocess.run(
        ["bash", "-euc", f'. "{ROOT}/packaging/common.sh"; {script}'],
        capture_output=True,
        text=True,
        env={"PATH": path},
        stdin=subprocess.DEVNULL,
        cwd=cwd,
    )


def program(directory: Path, name: str, script: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


def test_a_failure_is_one_object_for_programs() -> None:
    done = bash(r"""json=yes; die 'no "such" C:\dir' 'take another'""")
    assert done.returncode == 1
    message = {"type": "Error", "message": 'no "such" C:\\dir', "hint": "take another", "exit_code": 1}
    assert json.loads(done.stdout) == {"error": message}
    assert json.loads(bash("json=yes; die no").stdout)["error"]["hint"] is None
    assert bash("die no hint").stderr == "llmsvc: no\nhint: hint\n"


def test_another_apt_is_waited_for_and_a_failure_is_not(tmp_path: Path) -> None:
    locked = (
        "echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1 (apt-get)'; exit 100"
    )
    program(tmp_path / "bin", "apt-get", f"[ -e {tmp_path}/tried ] || {{ : >{tmp_path}/tried; {locked}; }}")
    program(tmp_path / "bin", "sleep", "")
    done = bash('apt_get "$work/log" update -q', tmp_path / "bin")
    assert done.returncode == 0 and "waiting for another apt to end" in done.stderr
    program(tmp_path / "bin", "apt-get", f"echo x >>{tmp_path}/count; exit 100")
    assert bash('apt_get "$work/log" update -q', tmp_path / "bin").returncode == 1
    assert (tmp_path / "count").read_text() == "x\n"


def test_a_directory_that_is_gone_is_left(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["bash", "-euc", f'rmdir "{gone}"; . "{ROOT}/packaging/common.sh"; pwd -P'],
        capture_output=True,
        text=True,
        cwd=gone,
    )
    assert (done.returncode, done.stdout) == (0, "/\n")


@pytest.mark.parametrize(
    ("made", "dropped"),
    [
        ({"database": "llmsvc", "role": "llmsvc-proxy"}, ["dropdb --force", "dropuser"]),
        ({"role": "llmsvc-proxy"}, ["dropuser"]),
        ({"database": "another"}, []),
        (None, []),
    ],
)
def test_a_purged_package_drops_only_the_database_that_it_made(
    tmp_path: Path, made: dict[str, str] | None, dropped: list[str]
) -> None:
    script = (ROOT / "packaging/debian/postrm").read_text()
    script = re.sub(r"(?<![\w}.])/(etc|var|run)\b", rf"{tmp_path}/\1", script)
    for place in ("etc/llmsvc", "var/lib/llmsvc", "run/postgresql"):
        (tmp_path / place).mkdir(parents=True)
    if made is not None:
        stored = json.dumps({"files": {"/etc/database": "x"}, "made": made, "release": ""}, indent=1)
        (tmp_path / "var/lib/llmsvc/manifest.json").write_text(stored)
    program(tmp_path / "bin", "runuser", f'shift 3; echo "$*" >>{tmp_path}/calls')
    with socket.socket(socket.AF_UNIX) as cluster:
        cluster.bind(str(tmp_path / "run/postgresql/.s.PGSQL.5432"))
        done = subprocess.run(
            ["sh", "-c", script, "postrm", "purge"],
            capture_output=True,
            text=True,
            env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"},
        )
    assert (done.returncode, done.stderr) == (0, "")
    calls = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
    assert [call.partition(" -h")[0] for call in calls] == dropped
    assert done.stdout.count("stays, if it is there") == 2 - len(dropped)
    assert not (tmp_path / "etc/llmsvc").exists() and not (tmp_path / "var/lib/llmsvc").exists()
