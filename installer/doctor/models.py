"""The models: each with a whole file that the backend may read and that fits, and one of them the default."""

from __future__ import annotations

import grp
import pwd
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from installer.doctor.code import HIDDEN
from installer.doctor.finding import Finding, error, warning
from installer.doctor.host import Host
from llmsvc import paths
from llmsvc.errors import Error, ModelError, SettingError
from llmsvc.library import fit, gguf, memory, records, settings, sources, store, wanted
from llmsvc.process import identity

FSTAB = Path("/etc/fstab")


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
            f"sudo llmsvc model use {_candidate(host)}",
        )
    elif not store.env_file(name).exists():
        yield error(
            "default-missing",
            f"the default model is {name}, and there is no {store.env_file(name)}, only those of "
            f"{', '.join(host.models)}",
            "after a boot no model runs",
            f"sudo llmsvc model use {_candidate(host)}",
        )


def _candidate(host: Host) -> str:
    """The model that is best made the default: the one that runs, else that which last ran well."""
    good = paths.GOOD_MODELS.read_text(encoding="utf-8").split() if paths.GOOD_MODELS.exists() else []
    return next(name for name in (*host.running, *good, *host.models) if name in host.models)


def check(host: Host) -> Iterator[Finding]:
    """Every model's file."""
    for name in host.models:
        try:
            loaded = settings.load(name)
        except SettingError:
            continue  # settings.py tells
        why = f"the model {name} does not start" + (" at boot" if name == store.default_model() else "")
        file = loaded.model
        parts = sources.all_parts(file)
        if missing := next((part for part in parts if not part.exists()), None):
            what = f"{missing}, a file of {name}, is missing"
            if mount := _unmounted(missing):
                fix = f"sudo mount {mount}"
                yield error("mount-missing", f"{what}, and {mount} is not mounted", why, fix)
            else:
                yield error("model-missing", what, why, _fetch(name, file))
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
            yield error("model-damaged", broken.message, why, _fetch(name, file, parts))
            continue
        if name not in host.running:
            yield from _memory(loaded, header, name)


def _memory(loaded: settings.ModelSettings, header: gguf.Header, name: str) -> Iterator[Finding]:
    try:
        fit.check(loaded, header, memory.room(name))
    except Error as tight:
        report = error if name == store.default_model() else warning
        largest = tight.details.get("largest_n_ctx")
        smaller = f"sudo llmsvc model set {name} N_CTX={largest}"
        fix = smaller if largest else tight.hint or ""
        yield report("memory", tight.message, f"{name} would not start, or be killed", fix)


def _fetch(name: str, file: Path, damaged: Iterable[Path] = ()) -> str:
    """How a file that is gone, or not as it was, comes back; the model's settings stay.

    :param damaged: files that would be in the way
    """
    parts = [part for part in damaged if part.exists()]
    away = f"sudo rm {shlex.join(map(str, parts))} && " if parts else ""
    known = records.read(file)
    origin = known.origin if known else ""
    if origin.startswith("hf:"):
        what = origin.removeprefix("hf:")
    elif _in_catalogue(name, file):
        what = name
    else:
        source = origin.removeprefix("file:")
        was = f" (it was made from {source})" if source else ""
        return f"copy the file there again, whole{was}; or sudo llmsvc model remove {name}"
    return f"{away}sudo llmsvc model add {shlex.quote(what)} --name {name}"


def _in_catalogue(name: str, file: Path) -> bool:
    """Whether the file is that of our catalogue's model of that name."""
    try:
        return file.name in wanted.resolve(name).file_names()
    except Error:
        return False


def _unmounted(file: Path) -> Path | None:
    """The file system of /etc/fstab that should hold the file and is not there."""
    try:
        lines = FSTAB.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    points = {fields[1] for line in lines if len(fields := line.split()) > 2 and fields[0][0] != "#"}
    return next((place for place in file.parents if str(place) in points and not place.is_mount()), None)


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
            fix = f"sudo chmod o+{'r' if place == real else 'x'} {shlex.quote(str(place))}"
            return f"{place} has mode {status.st_mode & 0o7777:o}", fix
    return None if bound else _refused(real)


def _refused(file: Path) -> tuple[str, str] | None:
    """What modes do not tell: an ACL, or a server of NFS that does not trust our users."""
    try:
        with identity(paths.BACKEND_USER), file.open("rb") as stream:
            stream.read(1)
    except PermissionError:
        why = "an access control list, or the file server, does not let it"
        return why, f"see 'namei -l {file}' and 'getfacl {file}', and let {paths.BACKEND_USER} read it"
    except OSError as broken:
        return f"{broken.strerror}", f"see 'sudo dmesg | tail' and 'findmnt -T {file}'"
    return None
