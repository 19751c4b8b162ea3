"""What an admin means by `llmsvc model add WHAT`: a name of the catalogue, a file, or a file of the hub."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from llmsvc.config import MODEL_NAME_RULE, valid_model_name
from llmsvc.errors import NotFoundError, UsageError
from llmsvc.library import catalogue
from llmsvc.library.sources import GGUF_FILE, HUB_PATH, HUB_REPOSITORY, Hub, Local, Source


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A model to install: its instance's name, where the GGUF comes from, and its catalogue entry if any."""

    name: str
    source: Source
    entry: catalogue.Entry | None = None

    def file_names(self) -> list[str]:
        """Names that the file may get in the library, the best first."""
        own = [self.source.file] if GGUF_FILE.match(self.source.file) else []
        return [*own, f"{self.name}.gguf"]


def resolve(what: str, name: str | None = None) -> Wanted:
    """What `what` means: a path of a GGUF, OWNER/REPO/FILE.gguf of the hub, or a name of the catalogue.

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
        entry = catalogue.lookup(what)
        source = entry.source
        name = name or entry.name
    if not valid_model_name(name):
        raise UsageError(f"a model cannot be called {name[:80]!r}", hint=f"--name takes {MODEL_NAME_RULE}")
    return Wanted(name, source, entry)


def _named_file(what: str) -> Local | Hub:
    path = Path(what).expanduser()
    if path.is_file():
        return Local(path.resolve())
    owner, _, rest = what.partition("/")
    repository, _, file = rest.partition("/")
    if HUB_REPOSITORY.match(f"{owner}/{repository}"):
        if HUB_PATH.match(file):
            return Hub(f"{owner}/{repository}", file)
        if not file and not what.endswith(".gguf"):
            raise UsageError(
                f"{what} names a repository, not a file in it",
                hint="say OWNER/REPO/FILE.gguf, as on its page",
            )
    raise NotFoundError(
        f"no such file: {what[:200]}",
        hint="a file of the hub is named OWNER/REPO/FILE.gguf; see 'llmsvc model catalog'",
    )


def clean_name(file: str) -> str:
    """An instance's name made from a file name: `TinyLlama 1.1B.Q4_0.gguf` becomes `tinyllama-1.1b.q4_0`."""
    stem = file[: -len(".gguf")] if file.lower().endswith(".gguf") else file
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower())[:63].strip("._-")
