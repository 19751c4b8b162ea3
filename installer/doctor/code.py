"""The environment that the services run from: there, in working order, nobody else's to write."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from installer.doctor.finding import RELOAD, Finding, error, warning
from installer.doctor.host import Host
from llmsvc import paths
from llmsvc.errors import Error, UnavailableError
from llmsvc.library import processor, settings
from llmsvc.process import run

HIDDEN = tuple(Path(place) for place in ("/home", "/root", "/run/user"))
"""What ProtectHome= hides from the services."""
_SECONDS = 20.0


def check(host: Host) -> Iterator[Finding]:
    """The environment, its interpreter, and who may change it."""
    release = paths.VENV.resolve()
    command, python = release / "bin/llmsvc", release / "bin/python"
    if not command.exists() or not (python.is_symlink() or python.exists()):
        yield error("code-missing", f"there is no {command}", "no service of llmsvc can start", host.repair)
        return
    interpreter = python.resolve()
    if not interpreter.exists():
        yield error(
            "interpreter-missing",
            f"{python} leads to {interpreter}, which is not there",
            "no service can start again; an upgrade of the distribution took its Python away",
            host.repair,
        )
        return
    for place in (release, interpreter):
        if any(place.is_relative_to(hidden) for hidden in HIDDEN):
            yield error(
                "interpreter-hidden",
                f"{python} is {interpreter}, below {place.parts[1]}",
                "the services may not look into home directories, and cannot start again",
                host.repair,
            )
            return
    yield from _version(host, release, python)
    yield from _superseded(host, python, interpreter)
    yield from _processor(host)
    yield from _writable(release, interpreter)


def _version(host: Host, release: Path, python: Path) -> Iterator[Finding]:
    """Whether the interpreter is the one that the packages lie there for."""
    try:
        done = run(
            [python, "-I", "-c", "import llmsvc, sys; print(sys.prefix)"], check=False, seconds=_SECONDS
        )
        said = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else ""
    except UnavailableError as failed:
        said = failed.message
    if said:
        made_for = ", ".join(sorted(place.name for place in release.glob("lib/python3.*"))) or "no Python"
        yield error(
            "interpreter-wrong",
            f"{python} cannot run llmsvc: {said}",
            f"no service can start again; the packages in {release} are for {made_for}",
            host.repair,
        )


def _superseded(host: Host, python: Path, interpreter: Path) -> Iterator[Finding]:
    """Whether the distribution has been upgraded to another Python since."""
    current = paths.PYTHON.resolve()
    if current.exists() and current != interpreter:
        yield warning(
            "interpreter-old",
            f"{python} is {interpreter}, and the Python of this release of the distribution is {current}",
            "it gets no security updates any more; once 'apt autoremove' takes it away, no service can start",
            "install the package for this release: sudo apt install ./llmsvc_*.deb"
            if paths.PACKAGED
            else host.repair,
        )


def _processor(host: Host) -> Iterator[Finding]:
    """Whether the engines that models name can run here."""
    named = {host.config.llama_engine}
    for name in host.models:
        with contextlib.suppress(Error):
            named.add(settings.load(name)["ENGINE"])
    for engine in sorted(named):
        try:
            processor.check(engine)
        except Error as problem:
            yield error(
                "processor",
                problem.message,
                "a model with that engine ends by SIGILL as soon as it loads",
                problem.hint or host.repair,
            )


def _writable(release: Path, interpreter: Path) -> Iterator[Finding]:
    places = [
        release,
        *release.parents,
        release / "bin",
        interpreter,
        *release.glob("lib/python3.*/site-packages"),
    ]
    places += [
        place / name
        for place in release.glob("lib/python3.*/site-packages")
        for name in ("llmsvc", "installer")
    ]
    for place in places:
        try:
            status = place.stat()
        except OSError:
            continue
        sticky = status.st_mode & stat.S_ISVTX
        if status.st_uid != 0 or (status.st_mode & 0o022 and not sticky):
            yield error(
                "code-writable",
                f"{place} can be changed by others than root (mode {status.st_mode & 0o7777:o}, "
                f"uid {status.st_uid})",
                "whoever may write there becomes root with the next command of llmsvc",
                f"sudo chown root:root {place} && sudo chmod go-w {place}",
            )


def services(host: Host) -> Iterator[Finding]:
    """Whether the programs that units and drop-ins name are there."""
    for name, values in host.units.items():
        if values.get("LoadState") != "loaded":
            continue  # units.py tells
        for line in values.get("ExecStart", "").splitlines():
            program = line.partition("path=")[2].partition(" ;")[0]
            if program and not Path(program).exists():
                yield error(
                    "program-missing",
                    f"{name} starts {program}, which is not there",
                    "it cannot start again",
                    f"correct or remove your {mine}, then {RELOAD} && sudo systemctl restart {name}"
                    if (mine := host.drop_in(name))
                    else host.repair,
                )
