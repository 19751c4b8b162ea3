"""The checks of the code itself, as one run of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# sandbox.d and common.sh are checked with those that source them
SCRIPTS = (
    "packaging/install.sh",
    "packaging/wheelhouse",
    "packaging/wheelhouse.d/debs",
    "packaging/sandbox",
    "packaging/deb",
    "packaging/payload",
    "packaging/rpm/check",
    *(f"packaging/debian/{name}" for name in ("build", "depends", "preinst", "postinst", "prerm", "postrm")),
    "tests/run",
    "tests/machine/fetch-upgrade",
    ".ci/run",
)
UNITS = ("units/llmsvc-generator", "units/instance-hook")


def check(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def tool(name: str) -> str:
    """A tool of the environment that runs the tests, or of the host."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, f"{name} is missing: run tests/run"
    return found


def test_ruff_finds_nothing():
    check(tool("ruff"), "check", ".")


def test_ruff_would_format_nothing():
    check(tool("ruff"), "format", "--check", ".")


def test_the_types_are_right():
    check(tool("mypy"))


def test_imports_only_go_down():
    check(tool("lint-imports"), "--no-cache")


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    check(tool("shellcheck"), "--external-sources", "--check-sourced", script)


def test_every_shell_script_is_checked():
    scripts = {
        str(file.relative_to(ROOT))
        for place in ("packaging", "tests", ".ci", "units")
        for file in (ROOT / place).rglob("*")
        if file.is_file()
        and file.read_bytes().startswith((b"#!/bin/sh", b"#!/usr/bin/env bash", b"#!/bin/bash"))
    }
    assert scripts <= {*SCRIPTS, *UNITS}


@pytest.mark.parametrize("script", UNITS)
def test_shellcheck_finds_nothing_in_units(script):
    check(tool("shellcheck"), script)
