"""What the plan must know of this host. Gathering facts changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path

from installer import package, release
from llmsvc import paths
from llmsvc.errors import UnavailableError
from llmsvc.library import accelerators
from llmsvc.process import run

OLDEST_SYSTEMD = 249


@dataclasses.dataclass(frozen=True)
class Facts:
    """The host as it is."""

    systemd: int
    """systemd's major version."""
    gpu: str
    """The device nodes that the backend may use: none, nvidia, amd or drm."""
    release: str
    """The environment that the services shall run from; see release.py."""


def gather() -> Facts:
    """The facts of this host.

    :raises UnavailableError: systemd does not run, or is too old
    :raises Error: the environment that we run in cannot be that of the services
    """
    if not Path("/run/systemd/system").is_dir():
        raise UnavailableError(
            "systemd does not run on this machine",
            hint="packaging/install.sh --sandbox sets llmsvc up in a throwaway machine where it does",
        )
    version = installed_systemd()
    if version < OLDEST_SYSTEMD:
        raise UnavailableError(
            f"systemd {version} is too old", hint=f"llmsvc needs systemd {OLDEST_SYSTEMD} or later"
        )
    return Facts(
        systemd=version,
        gpu=gpu_kind(),
        release=package.release() if paths.PACKAGED else str(release.wanted()),
    )


def installed_systemd() -> int:
    """The major version of this machine's systemd.

    :raises UnavailableError: there is none
    """
    return systemd_version(run(["systemctl", "--version"]).stdout)


def systemd_version(text: str) -> int:
    """The major version out of `systemctl --version`: 252 from 'systemd 252 (252.39-1~deb12u1)'."""
    match = re.match(r"systemd (\d+)", text)
    if not match:
        raise UnavailableError(f"cannot tell systemd's version from {text[:60]!r}")
    return int(match[1])


def gpu_kind(dev: Path = Path("/dev")) -> str:
    """Which GPU the engine can use: 'none' unless it was built for one and its device nodes are there."""
    if not accelerators.installed():
        return "none"
    if (dev / "nvidiactl").exists() or (dev / "dxg").exists():
        return "nvidia"
    if (dev / "kfd").exists():
        return "amd"
    return "drm" if (dev / "dri").is_dir() else "none"


def gpu_hardware(sys: Path = Path("/sys"), dev: Path = Path("/dev")) -> str | None:
    """What this machine has, and which --accel is for it: `NVIDIA GPU (cuda)`; None if nothing."""
    if (dev / "nvidiactl").exists() or (dev / "dxg").exists():
        return "NVIDIA GPU (cuda)"
    found = set()
    for device in (sys / "bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            if (device / "class").read_text().startswith("0x03"):
                found.add((device / "vendor").read_text().strip())
    if "0x10de" in found:
        return "NVIDIA GPU (cuda)"
    if "0x1002" in found:
        return "AMD GPU (rocm or vulkan)"
    return None
