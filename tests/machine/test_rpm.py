"""The RPM, built, looked at, installed and removed with Debian's rpm, for want of its own distributions."""

from __future__ import annotations

import subprocess

import pytest

from tests.machine.conftest import ROOT


def test_the_rpm_is_in_order(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("with --long")
    done = subprocess.run(
        [ROOT / "packaging/rpm/check"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0 and "is in order" in done.stdout, done.stdout[-5000:]
