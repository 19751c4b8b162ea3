"""What is checked of a model before the one that runs is stopped for it: settings, file, checksum, memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmsvc import config, paths
from llmsvc.errors import Error
from llmsvc.library import fit, gguf, memory, processor, purpose, records, settings, sources, store

UNTOUCHED = "the model that runs was not touched"
_FORCE = "--force starts it all the same"


def check(
    name: str, *, force: bool = False, progress: Callable[[Path, int, int], None] | None = None
) -> None:
    """Checks that a model can start.

    :param force: leave out the checksum and the memory
    :param progress: called with the file, the bytes of it that are checked, and its size
    :raises NotFoundError: there is no model of that name
    :raises SettingError, ModelError: a bad value or file, which nothing can force
    :raises FitError: not enough memory is free
    """
    store.require(name)
    try:
        # a bad value in there would keep this model, and the one to go back to, from starting
        config.load(paths.CONFIG_ENV)
        loaded = settings.load(name)
        processor.check(loaded["ENGINE"])
        header = gguf.read_header(loaded.model)
        purpose.check(loaded, header)
    except Error as error:
        _explain(error, UNTOUCHED)
        raise
    if force:
        return

    done = 0

    def checked(count: int) -> None:
        if progress:
            progress(loaded.model, done + count, header.size)

    try:
        for part in sources.all_parts(loaded.model):
            records.check(part, checked)
            done += part.stat().st_size
        fit.check(loaded, header, memory.room(name))
    except Error as error:
        _explain(error, UNTOUCHED, _FORCE)
        raise


def _explain(error: Error, first: str, *others: str) -> None:
    error.hint = "; ".join(part for part in (first, error.hint, *others) if part)
