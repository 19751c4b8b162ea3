"""What the distribution must have, by apt where that is there. Removing llmsvc leaves these packages."""

from __future__ import annotations

import ctypes.util
import importlib.util
import shutil
from collections.abc import Iterator, Sequence

from installer.actions import Action, Step
from llmsvc.errors import UnavailableError
from llmsvc.process import PATH, run, undisturbed

_PROGRAMS = {"postgresql": "pg_lsclusters", "polkitd": "pkaction"}
"""A program of each package: also one of another name, or built by hand, will do."""
_OPENMP = "libgomp1"
"""llama-cpp-python is linked against it: it comes with a compiler, but not with a wheel from elsewhere."""
_SECONDS = 1800


def actions(wanted: Sequence[str]) -> Iterator[Action]:
    """Installs those packages that are missing."""
    lacking = [package for package in wanted if missing(package)]
    yield Step(
        "package",
        f"install the packages {', '.join(lacking)}",
        lambda: bool(lacking),
        lambda _undo: _undisturbed_install(lacking),
    )


def wanted(*, database: bool) -> list[str]:
    """The packages.

    :param database: whether the database is one of this machine
    """
    needed = list(_PROGRAMS) if database else ["polkitd"]
    # what runs us has the engines that the services will have
    return [*needed, _OPENMP] if importlib.util.find_spec("llama_cpp") else needed


def missing(package: str) -> bool:
    """Whether this machine lacks it."""
    if package == _OPENMP:
        return ctypes.util.find_library("gomp") is None
    return not shutil.which(_PROGRAMS[package], path=PATH)


def _undisturbed_install(packages: list[str]) -> None:
    # a dpkg that is cut off leaves packages half installed, and every other one refused
    with undisturbed():
        _install(packages)


def _install(packages: list[str]) -> None:
    if not shutil.which("apt-get", path=PATH):
        raise UnavailableError(
            f"missing on this machine: {', '.join(packages)}", hint="install them, then run this again"
        )
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    hint = "is the network up? Without one these must be installed before"
    keep = ("http_proxy", "https_proxy", "no_proxy")
    run(["apt-get", "update", "-q"], env=quiet, keep_env=keep, seconds=_SECONDS, hint=hint)
    run(
        [
            "apt-get",
            "-o",
            "DPkg::Lock::Timeout=300",
            "install",
            "-q",
            "-y",
            "--no-install-recommends",
            *packages,
        ],
        env=quiet,
        keep_env=keep,
        seconds=_SECONDS,
        hint=hint,
    )
