"""Puts a backup in the place of what this machine has: all of it, or on a failure nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path

from llmsvc import atomic, config, config_settings, env, paths
from llmsvc.accounts import audit, keys, local, meta
from llmsvc.backup import archive, services, tables
from llmsvc.backup.archive import Backup
from llmsvc.backup.make import NOT_SAVED
from llmsvc.config import Config, valid_model_name
from llmsvc.database import connect, schema
from llmsvc.errors import ConflictError, Error, SettingError
from llmsvc.library import catalogue, files, settings, store

_OWN = re.compile(r"\s*(POSTGRES_AUTH_[A-Z]+|LLAMA_PROXY_ENABLED)\s*=")
"""Settings of how this machine is made, which a backup of another one does not change."""


@dataclasses.dataclass(frozen=True)
class Missing:
    """A model whose file is not on this machine. `what`: what `llmsvc model add` takes for it, if known."""

    name: str
    file: str | None
    what: str | None


@dataclasses.dataclass(frozen=True)
class Restored:
    """What restore() did: models without a file, and the default model, which is never one of them."""

    missing: list[Missing]
    default_model: str | None
    problem: str | None
    """Why the model does not run, if it should."""


def check(backup: Backup) -> None:
    """Finds what would make the restore fail, before anything is changed.

    :raises Error: made by a newer version, or without what a service needs
    """
    about = backup.about
    for name in (archive.DATABASE, archive.PEPPER):
        if name not in backup.members:
            raise Error(f"the backup of {about.host} has no {name}", hint="use another backup")
    newer = sorted(set(about.migrations) - schema.known().keys())
    if newer:
        raise Error(
            f"the backup was made by llmsvc {about.llmsvc}, which is newer: its database has {newer[-1]}",
            hint="restore it with that version",
        )
    pepper = keys.read_pepper(backup.members[archive.PEPPER])
    if about.pepper_fingerprint not in (None, meta.fingerprint(pepper)):
        raise Error("the pepper in the backup is not that of its database", hint="use another backup")
    _config_text(backup)


def in_the_way(own: Config) -> str | None:
    """What would be lost here, for people; None where there is nothing."""
    with connect(own) as connection:
        if not schema.applied(connection):
            return None
        users, requests = connection.execute(
            "SELECT (SELECT count(*) FROM llama_users WHERE NOT hidden),"
            " (SELECT count(*) FROM llama_requests)"
        ).fetchone() or (0, 0)
    return f"{users} user(s) and {requests} request(s)" if users or requests else None


def restore(backup: Backup, own: Config) -> Restored:
    """Puts the backup in the place of settings, models.d, credentials and database. Needs root.

    Clients are refused while it works; what runs is finished before. Models that only this machine has stay.

    :param own: the settings of this machine as it is
    :raises Error: nothing was changed then; or the services do not start, which their journal explains
    """
    before = services.stop()
    try:
        with contextlib.ExitStack() as undo:
            for file, text, mode in _files(backup):
                _replace(file, text, mode, undo)
            tables.load(own, backup.members[archive.DATABASE])
            undo.pop_all()
        with connect(own) as connection:
            schema.migrate(connection)
            local.ensure(connection, keys.read_pepper(paths.PEPPER), paths.LOCAL_KEY)
            audit.record(connection, "db restore", f"backup of {backup.about.host}, {backup.about.made}")
        missing = _missing(backup)
        default = backup.about.default_model
        if default and store.env_file(default).exists() and default not in {model.name for model in missing}:
            store.set_default(default)
        default = store.default_model()
    except BaseException:
        with contextlib.suppress(Error):  # the first failure is the one to tell
            services.start(before)
        raise
    problem = services.start(before, default)
    return Restored(missing, default, problem)


def _files(backup: Backup) -> list[tuple[Path, str, int]]:
    """Every file that the restore writes: place, text and mode."""
    found = [(paths.CONFIG_ENV, text, 0o644)] if (text := _config_text(backup)) is not None else []
    for member, file in backup.members.items():
        folder, _, name = member.rpartition("/")
        if folder == "etc/models.d" and valid_model_name(name.removesuffix(".env")) and name.endswith(".env"):
            found.append((paths.MODELS_D / name, _text(member, file), 0o644))
        elif folder == "credentials" and name not in NOT_SAVED:
            place = paths.PEPPER if member == archive.PEPPER else paths.CREDENTIALS / name
            found.append((place, _text(member, file), 0o600))
    return found


def _config_text(backup: Backup) -> str | None:
    """The backup's config.env with this machine's own way to its database; None where it has none."""
    if archive.CONFIG not in backup.members:
        return None
    text = _text(archive.CONFIG, backup.members[archive.CONFIG])
    own = env.read(paths.CONFIG_ENV)
    defaults = {setting.key: setting.default for setting in config_settings.SETTINGS}
    named = {match[1] for line in text.splitlines() if (match := _OWN.match(line))}
    named |= {key for key in own if _OWN.match(f"{key}=")}
    values = {key: own[key].value if key in own else defaults.get(key, "") for key in sorted(named)}
    text = env.set_values(text, values)
    try:
        config.parse(env.parse(text, paths.CONFIG_ENV), paths.CONFIG_ENV)
    except SettingError as error:
        error.message = f"in the backup: {error.message}"
        raise
    return text


def _text(member: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Error(f"the backup is damaged: {member} is no text", hint="use another backup") from None


def _replace(file: Path, text: str, mode: int, undo: contextlib.ExitStack) -> None:
    """Writes a file; `undo` gets what puts back the one that was there."""
    files.make_directory(file.parent)
    if file.exists():
        undo.callback(atomic.write, file, file.read_text(encoding="utf-8"), file.stat().st_mode & 0o7777)
    else:
        undo.callback(file.unlink, missing_ok=True)
    atomic.write(file, text, mode)


def _missing(backup: Backup) -> list[Missing]:
    """The models of the backup whose file is not here."""
    known = {str(entry.source): name for name, entry in catalogue.load().items()}
    missing = []
    for model in backup.about.models:
        name, origin = str(model["name"]), model["origin"] or ""
        try:
            if settings.load(name).model.is_file():
                continue
        except SettingError:
            continue  # `llmsvc model list` names the reason
        what = known.get(origin) or (origin.removeprefix("hf:") if origin.startswith("hf:") else None)
        missing.append(Missing(name, model["file"], what))
    return missing


def require_free(own: Config, *, force: bool) -> bool:
    """Whether there is something that the restore replaces, which `force` allows.

    :raises ConflictError: there is, and nobody said so
    """
    here = in_the_way(own)
    if here and not force:
        raise ConflictError(
            f"this machine has {here}, which a restore replaces",
            hint=f"--force does it, and saves what is here in {paths.SAVED} first",
        )
    return here is not None
