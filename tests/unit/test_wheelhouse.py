"""packaging/wheelhouse.d: a wheelhouse that is not whole, or not for this machine, is refused in one line."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("common.sh", "accel.sh", "wheelhouse.d/engine.sh", "wheelhouse.d/contents.sh")


def bash(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    sourced = "".join(f'. "{ROOT}/packaging/{part}"\n' for part in PARTS)
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{sourced}{script}", "bash", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "TMPDIR": os.environ.get("TMPDIR", "/tmp")},
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    """A small one, as packaging/wheelhouse --suite makes it for this machine, with no easy name."""
    place = tmp_path / "a wheel'house"
    (place / "debs").mkdir(parents=True)
    (place / "one-1.0-py3-none-any.whl").write_text("one")
    (place / "debs/two_1.0_all.deb").write_text("two")
    (place / "UNFINISHED").touch()
    made = bash(
        "find_python; suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)\n"
        'complete "$1" "$(contents this cpu "$suite" "$(python_version)" smollm2)"',
        place,
    )
    assert made.returncode == 0, made.stderr
    assert not (place / "UNFINISHED").exists()
    return place


def refused(wheelhouse: Path) -> str:
    """What check_wheelhouse says of it; nothing if all is well."""
    done = bash('check_wheelhouse "$1"', wheelhouse)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert done.stdout == "" and bool(done.returncode) == bool(lines)
    assert len(lines) in (0, 2), done.stderr
    return "\n".join(lines)


def test_one_that_is_whole_is_taken_wherever_it_lies(wheelhouse: Path) -> None:
    assert refused(wheelhouse) == ""
    copy = wheelhouse.parent / "copy"
    wheelhouse.rename(copy)
    assert refused(copy) == ""


@pytest.mark.parametrize("name", ["one-1.0-py3-none-any.whl", "debs/two_1.0_all.deb", "WHEELHOUSE"])
def test_a_file_that_is_cut_or_changed_or_gone_is_named(wheelhouse: Path, name: str) -> None:
    file = wheelhouse / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert f"is damaged: {name} is not what" in refused(wheelhouse)
    file.write_bytes(whole[:-1] + b"x")
    assert f"is damaged: {name} is not what" in refused(wheelhouse)
    file.unlink()
    if name != "WHEELHOUSE":
        assert f"is not whole: {name} is missing" in refused(wheelhouse)
    assert "hint: " in refused(wheelhouse)


@pytest.mark.parametrize("name", ["COMPLETE", "SHA256SUMS", "WHEELHOUSE"])
def test_one_that_was_never_finished_is_refused(wheelhouse: Path, name: str) -> None:
    (wheelhouse / name).unlink()
    assert "is not a complete wheelhouse" in refused(wheelhouse)


def test_files_put_there_later_are_refused(wheelhouse: Path) -> None:
    (wheelhouse / "debs/more_1.0_all.deb").touch()
    assert "debs/more_1.0_all.deb was put there later" in refused(wheelhouse)
    listed = wheelhouse / "SHA256SUMS"
    listed.write_text(listed.read_text() + f"{'0' * 64}  debs/more_1.0_all.deb\n")
    assert "SHA256SUMS is not the list" in refused(wheelhouse)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("suite", "sid", "was made for sid"),
        ("machine", "s390x", "is for s390x"),
        ("release", "0123456789abcdef", "another release of llmsvc"),
        ("python", "3.8", "is for Python 3.8"),
        ("instructions", "sse4_2 avx10000", "this one lacks avx10000"),
    ],
)
def test_one_for_another_machine_is_refused(wheelhouse: Path, key: str, value: str, said: str) -> None:
    text = re.sub(f"(?m)^{key}=.*$", f"{key}={value}", (wheelhouse / "WHEELHOUSE").read_text())
    assert bash('complete "$1" "$2"', wheelhouse, text).returncode == 0
    assert said in refused(wheelhouse)


def test_one_without_a_suite_goes_by_its_python_alone(wheelhouse: Path) -> None:
    text = re.sub("(?m)^suite=.*$", "suite=", (wheelhouse / "WHEELHOUSE").read_text())
    assert bash('complete "$1" "$2"', wheelhouse, text).returncode == 0
    assert refused(wheelhouse) == ""


def test_apt_looks_nowhere_else(wheelhouse: Path) -> None:
    shown = bash(
        'use_debs "$1"; apt-config "${apt_options[@]}" shell list Dir::Etc::SourceList/f '
        "parts Dir::Etc::SourceParts/f lists Dir::State::Lists/d\n"
        'cat "$work/apt/sources.list"; ls "$work/apt/debs"; echo "in $work"',
        wheelhouse,
    )
    assert shown.returncode == 0, shown.stderr
    work = shown.stdout.splitlines()[-1].removeprefix("in ")
    assert f"list='{work}/apt/sources.list'" in shown.stdout and "parts='/dev/null" in shown.stdout
    assert f"lists='{work}/apt/lists/'" in shown.stdout
    assert f"deb [trusted=yes] file:{work}/apt/debs ./" in shown.stdout and "two_1.0_all.deb" in shown.stdout
