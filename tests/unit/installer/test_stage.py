"""Units are judged by systemd before anything on the host is touched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from installer import render, stage
from installer.facts import Facts
from llmsvc import config, paths
from llmsvc.errors import Error


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """All units, and an environment with the programs that they run."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/llmsvc").symlink_to("/bin/true")
    found = render.files(Facts(systemd=252, gpu="none", release=""), config.parse({}, Path("x")))
    return {path.name: text for path, (text, _) in found.items() if path.parent == paths.UNITS}


def test_our_units_are_accepted(units: dict[str, str]) -> None:
    stage.verify(units, systemd=252)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("auth-proxy.service", "[Service]\n", "[Service]\nNoSuchKey=1\n", "NoSuchKey"),
        ("llama-server@.service", "WatchdogSec=30", "WatchdogSec=soon", "soon"),
        ("auth-proxy.service", "/bin/llmsvc proxy", "/bin/nosuch proxy", "nosuch"),
    ],
)
@pytest.mark.parametrize("systemd", [249, 252])
def test_what_systemd_would_only_warn_of_is_refused(
    units: dict[str, str], name: str, old: str, new: str, said: str, systemd: int
) -> None:
    assert old in units[name]
    units[name] = units[name].replace(old, new)
    with pytest.raises(Error, match="systemd does not accept a unit") as caught:
        stage.verify(units, systemd=systemd)
    assert said in caught.value.message and name.partition(".")[0] in caught.value.message
    assert "nothing was changed" in (caught.value.hint or "")
