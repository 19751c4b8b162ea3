"""Takes llmsvc off this host: exactly what the manifest says was ours, with `purge` also what came of it.

May be ended at any point and run again.
"""

from __future__ import annotations

import dataclasses
import grp
import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from installer import clusters, putback, services, users
from installer.manifest import Manifest
from llmsvc import config, paths
from llmsvc.config import Config
from llmsvc.database import provision
from llmsvc.errors import Error
from llmsvc.library import files
from llmsvc.process import run
from llmsvc.systemd import manager, schedule

_RUN = (paths.RUN, paths.RUN_INSTANCES, paths.PROXY_STATUS.parent, Path("/run/llmsvc-retry"))
_OURS = (
    *("auth-proxy.*", "llama-server@*.service", "llama-server-rollback@*.service", "llama-server.socket"),
    "llmsvc-*",
)
"""Patterns of our units."""
_CACHE = Path("/var/cache/llmsvc")


@dataclasses.dataclass(frozen=True)
class Removal:
    """One step: what it removes, and how."""

    title: str
    do: Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is removed, in order, and what stays on purpose: a line each."""

    steps: list[Removal]
    left: list[str]


def plan(*, purge: bool) -> Plan:
    """What is to be done on this host. Changes nothing.

    :raises Error: nobody can tell what is ours, or the database cannot be reached
    """
    manifest = Manifest()
    if not manifest.file.exists() and (unit := _ours_at_hand()):
        raise Error(
            f"{manifest.file} is missing, which tells what is llmsvc's, as {unit}",
            hint="run 'llmsvc install' first, which takes stock anew; then this again",
        )
    settings = _config()
    steps = [*_units(manifest), *_files(manifest, purge)]
    left = ["packages of the distribution: PostgreSQL, polkit, Python and what they brought along"]
    if purge:
        steps += [*_database(manifest, settings, left), *_users(manifest, left), *_data(settings, left)]
        if paths.PREFIX.exists():
            # last, for it is what runs
            steps.append(_remove_tree(paths.PREFIX))
        places = [str(place.resolve()) for place in (paths.ETC, paths.STATE, paths.PREFIX)]
        left += [f"{mount}, on which a file system is mounted" for mount in _mounts_below(places)]
    else:
        kept = [place for place in (paths.ETC, paths.STATE, paths.PREFIX) if place.exists()]
        left += [str(place) for place in kept]
        if settings is None or settings.local_database:
            left.append("the database, with users, keys and requests")
        left.append(
            f"the system's users {paths.PROXY_USER} and {paths.BACKEND_USER}, the group {paths.ADMIN_GROUP}"
        )
    if paths.SAVED.exists():
        left.append(
            f"{paths.SAVED}: what 'llmsvc db backup' made, for a restore elsewhere; rm -r {paths.SAVED}"
        )
    if _CACHE.exists():
        left.append(f"{_CACHE}: compiled packages, for another installation; rm -r {_CACHE}")
    return Plan(steps, left)


def _ours_at_hand() -> Path | None:
    """A unit of ours, if there is one."""
    names = (manager.PROXY, manager.SOCKET, manager.SERVER_SOCKET, services.WATCH[0])
    return next((paths.UNITS / name for name in names if (paths.UNITS / name).is_file()), None)


def _config() -> Config | None:
    try:
        return config.load()
    except Error:
        return None


def _units(manifest: Manifest) -> Iterator[Removal]:
    for one in schedule.every():
        yield Removal(f"remove the schedule of {one.name}", partial(schedule.remove, one.name, []))
    names = [Path(path).name for path in manifest.written if Path(path).parent == paths.UNITS]
    found = services.units([name for name in names if "@" not in name])
    running = [name for name, unit in found.items() if unit.active]
    running += [state.unit for state in manager.instances()]
    if running:
        # the socket first: a request would start the proxy again
        running.sort(key=lambda name: not name.endswith((".socket", ".path", ".timer")))
        running.append(services.SLICES[1])
        yield Removal(f"stop {', '.join(running)}", partial(run, ["systemctl", "stop", *running]))
    if enabled := [name for name, unit in found.items() if unit.enabled]:
        yield Removal(f"disable {', '.join(enabled)}", partial(services.disable, enabled))


def _files(manifest: Manifest, purge: bool) -> Iterator[Removal]:
    for name in sorted(manifest.written):
        path = Path(name)
        beside = path.with_name(path.name + ".llmsvc-new")
        if beside.exists():
            yield _unlink(beside)
        if not path.exists():
            continue
        if purge or not manifest.edited(path):
            yield _unlink(path)
        else:
            # not under its own name: systemd would run what is not there any more
            saved = path.with_name(path.name + ".llmsvc-saved")
            yield Removal(f"move {path}, which you edited, to {saved.name}", partial(path.replace, saved))
    for link in map(Path, manifest.links):
        # without a purge the environment stays, and with it the way to a purge
        if link.is_symlink() and not link.is_relative_to(paths.PREFIX):
            yield _unlink(link)
    if purge:
        for pattern in _OURS:
            yield from map(_remove_tree, sorted(paths.UNITS.glob(f"{pattern}.d")))
            yield from map(_unlink, sorted(paths.UNITS.glob(f"{pattern}.llmsvc-saved")))
        yield from map(_unlink, sorted(paths.UNITS.glob("*.wants/llama-server@*.service")))
    if paths.PRUNE_STAMP.exists():
        yield _unlink(paths.PRUNE_STAMP)
    # those of the environment go with it
    made = [path for path in manifest.directories if not Path(path).is_relative_to(paths.PREFIX)]
    if made := sorted(filter(os.path.isdir, made), reverse=True):
        yield Removal(f"remove {', '.join(made)}, where empty", partial(putback.remove_empty, made))
    yield Removal("reload systemd", _reload)
    if manifest.written and not purge:
        yield Removal(f"note it in {manifest.file}", partial(_forget, manifest))


def _reload() -> None:
    manager.daemon_reload()
    run(["systemctl", "reset-failed", *_OURS], check=False)
    for place in _RUN:
        shutil.rmtree(place, ignore_errors=True)


def _forget(manifest: Manifest) -> None:
    """Nothing on this host is ours any more but what a later purge must know."""
    manifest.written, manifest.links, manifest.directories = {}, [], []
    manifest.release = manifest.config = ""
    manifest.save()


def _database(manifest: Manifest, settings: Config | None, left: list[str]) -> Iterator[Removal]:
    if settings is None:
        left.append(f"the database: {paths.CONFIG_ENV}, which tells where it is, cannot be read")
        return
    database, role = settings.postgres_auth_db, settings.postgres_auth_user
    if not settings.local_database:
        left.append(f"the database {database} on {settings.postgres_auth_host}")
        return
    if clusters.gone():
        left.append(f"the database {database} went with PostgreSQL, of which this machine has none any more")
        return
    try:
        there = provision.database_exists(settings), provision.role_exists(settings)
    except Error as error:
        raise Error(
            f"the database cannot be removed: {error.message}",
            hint=f"{error.hint or 'start PostgreSQL'}; then run this again",
        ) from None
    for exists, kind, name, drop in (
        (there[0], "database", database, provision.drop_database),
        (there[1], "role", role, provision.drop_role),
    ):
        if exists and manifest.made.get(kind) == name:
            title = f"drop the PostgreSQL {kind} {name}"
            yield Removal(title, partial(drop, provision.Place.of(settings), name))
        elif exists:
            left.append(f"the PostgreSQL {kind} {name}, of which nothing tells that llmsvc made it")


def _data(settings: Config | None, left: list[str]) -> Iterator[Removal]:
    models = settings.llama_models_dir if settings else paths.MODELS
    if models.is_dir() and not models.resolve().is_relative_to(paths.STATE.resolve()):
        # a disk of the admin's: what came from us has a record of its sum beside it
        for record in sorted(models.glob("*.gguf.sha256")):
            yield _unlink(record.with_suffix(""))
            yield _unlink(record)
        if (models / files.INCOMING).exists():
            yield _remove_tree(models / files.INCOMING)
        left.append(f"{models}, with what else is in it")
    yield from (_remove_tree(place) for place in (paths.ETC, paths.STATE) if place.exists())


def _users(manifest: Manifest, left: list[str]) -> Iterator[Removal]:
    made, made_groups = manifest.made.get("users", ()), manifest.made.get("groups", ())
    for name in made:
        if putback.known(pwd.getpwnam, name):
            yield Removal(f"remove the user {name}", partial(run, ["userdel", name]))
    for name in made_groups:
        if putback.known(grp.getgrnam, name):
            yield Removal(f"remove the group {name}", partial(_remove_group, name))
    for kind, look_up, names, ours in (
        ("user", pwd.getpwnam, users.USERS, made),
        ("group", grp.getgrnam, users.GROUPS, made_groups),
    ):
        there = [name for name in names if name not in ours and putback.known(look_up, name)]
        left += [f"the {kind} {name}, of which nothing tells that llmsvc made it" for name in there]


def _remove_group(name: str) -> None:
    if putback.known(grp.getgrnam, name):  # userdel removes a user's own
        run(["groupdel", name])


def _unlink(path: Path) -> Removal:
    return Removal(f"remove {path}", partial(path.unlink, missing_ok=True))


def _remove_tree(path: Path) -> Removal:
    return Removal(f"remove {path}", partial(_empty_and_remove, path))


def _empty_and_remove(path: Path) -> None:
    """Removes a directory with all in it; of a link also where it leads, of a mount what is in it."""
    mounts = _mounts_below([str(path.resolve())])

    def failed(_function: object, name: str, info: Any) -> None:
        if not any(Path(mount).is_relative_to(name) for mount in mounts):
            raise info[1]

    shutil.rmtree(path.resolve(), onerror=failed)
    if path.is_symlink():
        path.unlink()


def _mounts_below(places: Sequence[str]) -> list[str]:
    """Where file systems are mounted at or below some directories."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    points = [re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4]) for line in lines]
    return [point for point in points if any(Path(point).is_relative_to(place) for place in places)]
