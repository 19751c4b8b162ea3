"""The models: each with a whole file that the backend may read and that fits, and one of them the default."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Iterator
from pathlib import Path

from installer.doctor.code import HIDDEN
from installer.doctor.finding import Finding, error, warning
from installer.doctor.host import Host
from llmsvc import paths
from llmsvc.errors import Error, ModelError, SettingError
from llmsvc.library import fit, gguf, memory, records, settings, sources, store


def default(host: Host) -> Iterator[Finding]:
    """What starts at boot."""
    if not host.models:
        yield error(
            "no-models",
            "no model is installed",
            "every request waits, then gets 503",
            "sudo llmsvc model add smollm2",
        )
        return
    name = store.default_model()
    if name is None:
        yield warning(
            "no-default",
            "no model is the default",
            "after a boot none runs, and requests get 503",
            "sudo llmsvc model use NAME",
        )
    elif not store.env_file(name).exists():
        yield error(
            "default-missing",
            f"the default model is {name}, and there is no {store.env_file(name)}",
            "after a boot no model runs",
            f"sudo llmsvc model use NAME; there are {', '.join(host.models)}",
        )


def check(host: Host) -> Iterator[Finding]:
    """Every model's file."""
    for name in host.models:
        try:
            loaded = settings.load(name)
        except SettingError:
            continue  # settings.py tells
        again = f"sudo llmsvc model remove {name}, and add it again"
        why = f"the model {name} does not start" + (" at boot" if name == store.default_model() else "")
        file = loaded.model
        parts = sources.all_parts(file)
        if missing := next((part for part in parts if not part.exists()), None):
            yield error("model-missing", f"{missing}, a file of {name}, is missing", why, _fetch(name, file))
            continue
        if problem := next(filter(None, map(_hidden, parts)), None):
            yield error(
                "model-unreadable", f"{paths.BACKEND_USER} cannot read {file}: {problem[0]}", why, problem[1]
            )
            continue
        try:
            header = gguf.read_header(file)
            for part in parts:
                records.check(part)
        except ModelError as broken:
            yield error("model-damaged", broken.message, why, broken.hint or again)
            continue
        if name not in host.running:
            yield from _memory(loaded, header, name)


def _memory(loaded: settings.ModelSettings, header: gguf.Header, name: str) -> Iterator[Finding]:
    try:
        fit.check(loaded, header, memory.room(name))
    except Error as tight:
        report = error if name == store.default_model() else warning
        yield report("memory", tight.message, f"{name} would not start, or be killed", tight.hint or "")


def _fetch(name: str, file: Path) -> str:
    known = records.read(file)
    origin = (known.origin if known else "").removeprefix("hf:")
    what = origin if origin and not origin.startswith("pypi:") else name if origin else "SOURCE"
    return f"sudo llmsvc model add {what} --name {name}"


def _hidden(file: Path) -> tuple[str, str] | None:
    """Why the backend may not read a file, and what mends that."""
    real = file.resolve()
    try:
        uid = pwd.getpwnam(paths.BACKEND_USER).pw_uid
        groups = {pwd.getpwnam(paths.BACKEND_USER).pw_gid}
        groups |= {group.gr_gid for group in grp.getgrall() if paths.BACKEND_USER in group.gr_mem}
    except KeyError:
        return None
    # into home directories the services cannot look: the generator binds such a file into the sandbox
    bound = any(file.is_relative_to(place) for place in HIDDEN)
    for place in (real, *(() if bound else real.parents)):
        status = place.stat()
        shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
        bit = 0o4 if place == real else 0o1
        if not status.st_mode >> shift & bit:
            fix = f"sudo chmod o+{'r' if place == real else 'x'} {place}"
            return f"{place} has mode {status.st_mode & 0o7777:o}", fix
    return None
