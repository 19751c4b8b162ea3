"""The Debian package and apt, for tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.machine.conftest import ROOT, Machine, run


def build(suite: str, folder: Path) -> None:
    """Puts the package of a suite into `folder`, and what a minimal server lacks for it into depends/ in it.

    LLMSVC_TEST_DEB_BOOKWORM or _TRIXIE names such a folder that is there already: to try something out,
    without the minutes that a build takes.
    """
    if built := os.environ.get(f"LLMSVC_TEST_DEB_{suite.upper()}"):
        shutil.copytree(built, folder, dirs_exist_ok=True)
    else:
        run(ROOT / "packaging/deb", "--suite", suite, "--depends", folder)


def apt(server: Machine, *arguments: str) -> str:
    """Runs apt-get in a machine; what it says."""
    command = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", "--no-install-recommends")
    return server.exec(*command, *arguments, seconds=600).stdout
