"""Reads an installed model's files again, all of them, and compares them with what is recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from llmsvc.config import Config
from llmsvc.errors import SettingError
from llmsvc.library import gguf, records, settings, sources, store
from llmsvc.library.records import Record

Progress = Callable[[Path, int, int], None]
"""Called with a file, the bytes of it that are read, and its size."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came out for one model.

    :ivar state: `ok`; `recorded`: there was no sum, and now there is; `no sum`: nothing to compare with, and
        none of ours to record; `broken`
    :ivar problem: what is wrong; None if nothing is
    """

    name: str
    file: Path | None
    state: str
    problem: str | None = None


def verify(name: str, config: Config, progress: Progress) -> Verdict:
    """Checks settings, header and sums of one model.

    :raises NotFoundError: there is none of that name
    """
    store.require(name)
    file = None
    try:
        file = settings.load(name).model
        gguf.read_header(file)
        checked = [_check(part, progress) for part in sources.all_parts(file)]
    except SettingError as error:
        return Verdict(name, file, "broken", error.message)
    if all(checked):
        return Verdict(name, file, "ok")
    if file.parent.resolve() != config.llama_models_dir.resolve():
        return Verdict(name, file, "no sum")
    for part, known in zip(sources.all_parts(file), checked, strict=True):
        if not known:
            records.write(part, Record(records.sha256(part), ""))
    return Verdict(name, file, "recorded")


def _check(file: Path, progress: Progress) -> bool:
    size = file.stat().st_size
    return records.check(file, lambda done: progress(file, done, size), whole=True)
