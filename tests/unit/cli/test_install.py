"""What the command `llmsvc install` refuses by itself, and how it tells what it does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmsvc import process
from llmsvc.cli import install
from llmsvc.cli.main import main


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "require_root", lambda what: None)
    monkeypatch.setattr(os, "umask", lambda mask: None)


def test_a_line_of_progress_that_nobody_reads_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        install.report("one")
        install.report("two")
        assert os.readlink(f"/proc/self/fd/{stream.fileno()}") == os.devnull


def test_a_password_file_that_is_no_text_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"\xff\xfe\x00")
    database = ["--database", "postgresql://u@192.0.2.1/x", "--database-password-file", str(file)]
    assert main(["install", "--dry-run", *database]) == 2
    assert capsys.readouterr().err == f"llmsvc: {file} is not UTF-8 text\n"


@pytest.mark.parametrize("option", ["--model", "--database"])
def test_an_empty_value_is_not_taken_for_none(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--dry-run", option, ""]) == 2
    assert capsys.readouterr().err.startswith(f"llmsvc: {option}")


@pytest.mark.parametrize(
    "place", ["/run/../etc/passwd", "/run/./x", "/run/..", f"/run/{'a' * 103}", "[fe80::1%eth0]:8001"]
)
def test_a_place_that_no_unit_can_have_is_refused(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--dry-run", "--listen", "127.0.0.1:8001", "--listen", place]) == 2
    assert capsys.readouterr().err.startswith(f"llmsvc: --listen {place}: ")


def test_units_are_not_rendered_over_those_of_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "/tmp/.."]) == 2
    assert "DIR is the root of this machine" in capsys.readouterr().err
