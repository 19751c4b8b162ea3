"""The installed models: models.d/NAME.env, the default, and the files in LLAMA_MODELS_DIR."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from llmsvc import atomic, env, paths
from llmsvc.config import Config, valid_model_name
from llmsvc.errors import ConflictError, Error, ModelError, NotFoundError, SettingError
from llmsvc.library import envfile, files, gguf, purpose, records, settings, sources


@dataclasses.dataclass(frozen=True)
class Model:
    """An instance as it stands in models.d; `problem` says why it cannot start, what is not known is None."""

    name: str
    file: Path | None
    header: gguf.Header | None
    n_ctx: int | None
    """Tokens of context that it will start with."""
    default: bool
    active: bool
    last_used: float | None
    """When it last started or stopped, seconds since the epoch."""
    problem: str | None


@dataclasses.dataclass(frozen=True)
class Removed:
    """What remove() took away; `freed` in bytes."""

    name: str
    files: list[Path]
    freed: int


def env_file(name: str) -> Path:
    """Where the settings of model `name` are."""
    return paths.MODELS_D / f"{name}.env"


def names() -> list[str]:
    """The names of all instances, sorted."""
    return sorted(file.stem for file in paths.MODELS_D.glob("*.env") if valid_model_name(file.stem))


def require(name: str) -> None:
    """:raises NotFoundError: there is no model of that name"""
    if not valid_model_name(name) or not env_file(name).exists():
        known = names()
        raise NotFoundError(
            f"no model {name[:80]!r}",
            hint=f"there are {', '.join(known)}"
            if known
            else "'llmsvc model add smollm2' installs a first one",
        )


def model(name: str) -> Model:
    """One instance.

    :raises NotFoundError: there is none of that name
    """
    require(name)
    file = header = n_ctx = problem = None
    try:
        loaded = settings.load(name)
        file = loaded.model
        header = gguf.read_header(file)
        n_ctx = _n_ctx(loaded["N_CTX"], header.context_length)
        purpose.check(loaded, header)
    except SettingError as error:
        problem = error.message
    default = name == default_model()
    return Model(name, file, header, n_ctx, default, is_active(name), last_used(name), problem)


def models() -> list[Model]:
    """All instances, by name."""
    return [model(name) for name in names()]


def _n_ctx(value: int | None, trained: int | None) -> int | None:
    if value is None:
        return min(trained or settings.DEFAULT_N_CTX, settings.DEFAULT_N_CTX)
    return value or trained


def is_active(name: str) -> bool:
    """Whether the instance is ready; for those who may not look into its directory, whether it exists."""
    try:
        paths.instance_ready(name).stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def last_used(name: str) -> float | None:
    """When the model last got ready or ended, as units/instance-hook notes it; None where it never did."""
    try:
        return (paths.USED_MODELS / name).stat().st_mtime
    except OSError:
        return None


# ---------------------------------------------------------------------------------------------------------
# Changes


def default_model() -> str | None:
    """The name of the model that starts at boot; None if none is set."""
    try:
        name = paths.DEFAULT_MODEL.readlink().name.removesuffix(".env")
    except OSError:
        return None
    return name if valid_model_name(name) else None


def set_default(name: str) -> bool:
    """Makes a model the one that starts at boot; returns whether it was not that already.

    :raises NotFoundError: there is no model of that name
    """
    require(name)
    target = os.path.relpath(env_file(name), paths.DEFAULT_MODEL.parent)
    try:
        if paths.DEFAULT_MODEL.is_symlink() and str(paths.DEFAULT_MODEL.readlink()) == target:
            return False
        temporary = paths.DEFAULT_MODEL.with_name(f".{paths.DEFAULT_MODEL.name}.{os.getpid()}")
        temporary.symlink_to(target)
        temporary.replace(paths.DEFAULT_MODEL)
    except OSError as error:
        raise Error(f"{error.filename or paths.DEFAULT_MODEL}: {error.strerror}") from None
    return True


def change(name: str, values: Mapping[str, str]) -> bool:
    """Sets keys of models.d/NAME.env; an empty value goes back to the default. Returns whether it is another
    file now. The comments and all else that is in it stay.

    :raises NotFoundError: there is no model of that name
    :raises SettingError: a key or a value is not allowed, or something else in the file; nothing is changed
    """
    require(name)
    file = env_file(name)
    # not in the library, whose disk may be away
    with files.file_locked(paths.SETTINGS_LOCK):
        before = file.read_text(encoding="utf-8")
        after = envfile.changed(before, values)
        entries = env.parse(after, file)
        for key in values:
            # a key that is not allowed at all, also where its value is empty
            settings.check_key(env.Entry(key, values[key], entries[key].line if key in entries else 0), file)
        parsed = settings.parse(name, entries, file)
        with contextlib.suppress(ModelError):
            purpose.check(parsed, gguf.read_header(parsed.model))
        if after == before:
            return False
        atomic.write(file.resolve(), after, file.stat().st_mode & 0o777)
    return True


def remove(name: str, config: Config) -> Removed:
    """Removes an instance, and its file unless another instance uses it or it lies outside the library.

    :raises NotFoundError: there is no model of that name
    :raises ConflictError: it runs, or is the default
    """
    require(name)
    if (paths.RUN_INSTANCES / name).exists():
        raise ConflictError(
            f"model {name} is running", hint="start another model first: 'llmsvc model use OTHER'"
        )
    if name == default_model():
        raise ConflictError(
            f"model {name} is the default", hint="choose another one: 'llmsvc model use OTHER'"
        )
    try:
        file = _file_of(name)
        env_file(name).unlink()
        (paths.USED_MODELS / name).unlink(missing_ok=True)
        gone = remove_unused(file, config.llama_models_dir) if file else []
    except OSError as error:
        raise Error(f"{error.filename or env_file(name)}: {error.strerror}") from None
    return Removed(name, [path for path, _ in gone], sum(freed for _, freed in gone))


def _file_of(name: str) -> Path | None:
    try:
        return settings.load(name).model
    except SettingError:
        return None


def remove_unused(file: Path, models: Path) -> list[tuple[Path, int]]:
    """Removes a file of the library that no instance uses; what was removed, and the bytes that came free."""
    used = {path.resolve() for path in map(_file_of, names()) if path}
    if file.parent.resolve() != models.resolve() or file.resolve() in used:
        return []
    gone = []
    for part in sources.all_parts(file):
        with contextlib.suppress(FileNotFoundError):
            status = part.stat()
            part.unlink()
            records.remove(part)
            gone.append((part, status.st_size if status.st_nlink == 1 else 0))
    return gone
