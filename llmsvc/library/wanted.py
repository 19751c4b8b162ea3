"""What an admin means by `llmsvc model pull WHAT`: a name of the catalogue, a file, or a file of the hub."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from llmsvc.config import MODEL_NAME_RULE, valid_model_name
from llmsvc.errors import NotFoundError, UsageError
from llmsvc.library import catalogue
from llmsvc.library.sources import (
    GGUF_FILE,
    HUB_PATH,
    HUB_REPOSITORY,
    HUB_REVISION,
    Hub,
    Local,
    Source,
    parts,
    stem,
)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A model to install: its instance's name, where the GGUF comes from, and its catalogue entry if any."""

    name: str
    source: Source
    entry: catalogue.Entry | None = None

    def file_names(self) -> list[str]:
        """Names that the file may get in the library, the best first."""
        given = self.source.file if self.source.file.endswith(".gguf") else f"{self.source.file}.gguf"
        ending = _ending(self.source)
        own = [given] if GGUF_FILE.match(given) else []
        return [*own, f"{self.name}{ending}"]


def _ending(source: Source) -> str:
    """`.gguf`, or of a split one `-00001-of-00003.gguf`."""
    of = len(parts(source.file))
    return f"-00001-of-{of:05d}.gguf" if of > 1 else ".gguf"


def resolve(what: str, name: str | None = None) -> Wanted:
    """What `what` means: a path of a GGUF, OWNER/REPO/FILE.gguf[@REVISION] of the hub, or NAME[:QUANTIZATION]
    of the catalogue.

    :param name: the instance's name; made from the catalogue's or the file's by default
    :raises UsageError: `name` is not a valid one, or none can be made
    :raises NotFoundError: no such file or catalogue entry
    """
    entry = None
    source: Source
    if "/" in what or what.endswith(".gguf"):
        source = _named_file(what)
        name = name or clean_name(source.file)
    else:
        called, _, quantization = what.partition(":")
        entry = catalogue.lookup(called)
        file = entry.file(quantization or entry.quantization)
        source = file.source
        # one that is not the usual one is a model beside it
        usual = file.quantization == entry.quantization
        name = name or (entry.name if usual else f"{entry.name}-{file.quantization.lower()}")
    return Wanted(checked_name(name), source, entry)


def checked_name(name: str) -> str:
    """The name itself.

    :raises UsageError: no instance can be called so
    """
    if not valid_model_name(name):
        raise UsageError(f"a model cannot be called {name[:80]!r}", hint=f"--name takes {MODEL_NAME_RULE}")
    return name


def _named_file(what: str) -> Local | Hub:
    path = Path(what).expanduser()
    if path.is_file():
        return local(path)
    owner, _, rest = what.partition("/")
    repository, _, file = rest.partition("/")
    if HUB_REPOSITORY.match(f"{owner}/{repository}"):
        file, at, revision = file.rpartition(".gguf@")
        file, revision = (f"{file}.gguf", revision) if at else (revision, "main")
        if HUB_PATH.match(file):
            if not HUB_REVISION.match(revision):
                raise UsageError(f"{revision[:80]!r} is no revision", hint="a branch, a tag or a commit")
            return Hub(f"{owner}/{repository}", parts(file)[0], revision)
        if not file and not what.endswith(".gguf"):
            raise UsageError(
                f"{what} names a repository, not a file in it",
                hint="say OWNER/REPO/FILE.gguf, as on its page",
            )
    raise NotFoundError(
        f"no such file: {what[:200]}",
        hint="a file of the hub is named OWNER/REPO/FILE.gguf; see 'llmsvc model catalog'",
    )


def local(path: Path, label: str | None = None, sha256: str | None = None) -> Local:
    """A file on this machine, of which `path` may be a symlink, or any part of a split one.

    A split one's parts are found by their names, which its symlinks may have and their targets not.
    """
    first = path.with_name(parts(path.name)[0]) if path.with_name(parts(path.name)[0]).exists() else path
    resolved = first.resolve()
    if len(parts(first.name)) > 1 and parts(resolved.name) != parts(first.name):
        resolved = first.parent.resolve() / first.name
    return Local(resolved, label, sha256)


def clean_name(file: str) -> str:
    """An instance's name made from a file name: `TinyLlama 1.1B.Q4_0.gguf` becomes `tinyllama-1.1b.q4_0`."""
    return re.sub(r"[^a-z0-9._-]+", "-", stem(file).lower())[:63].strip("._-")
