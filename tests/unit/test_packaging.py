"""The packages' recipes agree with the code."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import llmsvc
from installer import render
from llmsvc import paths

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "packaging/rpm/llmsvc.spec"
DEBIAN = ROOT / "packaging/debian"


def test_rpm_understands_the_spec_and_its_version_is_ours() -> None:
    if not (rpmspec := shutil.which("rpmspec")):
        pytest.skip("there is no rpmspec; tests/run installs it")
    done = subprocess.run([rpmspec, "-P", SPEC], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"\nVersion:        {llmsvc.__version__}\n" in done.stdout


@pytest.mark.parametrize("script", [DEBIAN / "prerm", SPEC])
def test_a_removal_disables_what_an_installation_enables(script: Path) -> None:
    enabled = {name for name in render.FIXED if "WantedBy=" in render.ours(name)}
    enabled |= {"auth-proxy.service", "llama-server.socket"}
    assert enabled <= set(re.findall(r"[\w-]+\.(?:socket|service|path|timer)", script.read_text()))


def test_everything_that_a_package_brings_is_listed_for_rpm() -> None:
    text = SPEC.read_text().partition("%files")[2]
    for name in ("llmsvc-generator", "llmsvc.conf", "50-llmsvc.rules", "llmsvc.fish", "_llmsvc", "llmsvc.1*"):
        assert f"/{name}\n" in text
    for path in paths.COMPLETIONS.values():
        assert path.name in text or path.suffix == ".1"


def test_the_modules_of_a_package_are_those_of_its_place() -> None:
    assert "home=/usr/lib/llmsvc" in (ROOT / "packaging/payload").read_text()
    assert Path("/usr/lib/llmsvc") == paths.PACKAGE and not paths.PACKAGED
