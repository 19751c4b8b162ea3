"""Models that other programs have on this machine already: Ollama, LM Studio, the cache of Hugging Face."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pwd
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from llmsvc.errors import ModelError, NotFoundError
from llmsvc.library import gguf, sources, wanted

_MOST_FILES = 20_000
"""Files of one place that are looked at: a home directory may be mounted there by mistake."""
_MOST_JSON = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_MODEL = "application/vnd.ollama.image.model"
_ADDED = ("application/vnd.ollama.image.adapter", "application/vnd.ollama.image.projector")
_OLLAMA = ("registry.ollama.ai", "library")
"""What Ollama leaves out of a name."""


@dataclasses.dataclass(frozen=True)
class Found:
    """A model of another program.

    :ivar name: what it would be called here
    :ivar known_as: what the other program calls it
    :ivar sha256: what its contents should be, where the program knows it
    :ivar problem: why it cannot be used; None if it can
    """

    name: str
    known_as: str
    file: Path
    sha256: str | None = None
    size: int = 0
    quantization: str | None = None
    problem: str | None = None

    def source(self) -> sources.Local:
        """The same as a source to install from."""
        split = len(sources.parts(self.file.name)) > 1
        return wanted.local(self.file, None if split else f"{self.name}.gguf", self.sha256)


def find(program: str, directories: Iterable[Path] | None = None) -> list[Found]:
    """The models of a program, by name.

    :param program: one of PROGRAMS
    :param directories: where to look instead of the usual places
    """
    look, places = PROGRAMS[program]
    found: dict[Path, Found] = {}
    for directory in places() if directories is None else directories:
        for one in look(directory):
            found.setdefault(one.file.resolve(), _described(one))
    return sorted(found.values(), key=lambda one: one.name)


def places(program: str) -> list[Path]:
    """Where the models of a program usually are, for root and for who called sudo."""
    return PROGRAMS[program][1]()


def pick(found: list[Found], name: str) -> Found:
    """The one of that name, here or in the other program.

    :raises NotFoundError: there is none
    """
    for one in found:
        if name in (one.name, one.known_as):
            return one
    raise NotFoundError(
        f"no model {name[:80]!r} there",
        hint=f"there are {', '.join(one.name for one in found)[:300]}" if found else None,
    )


def _described(one: Found) -> Found:
    try:
        header = gguf.read_header(one.file)
    except ModelError as error:
        return dataclasses.replace(one, problem=one.problem or error.problem)
    return dataclasses.replace(one, size=header.size, quantization=header.quantization)


# ---------------------------------------------------------------------------------------------------------
# Ollama: manifests/HOST/OWNER/MODEL/TAG name the blob that holds the GGUF, blobs/sha256-DIGEST


def _ollama(directory: Path) -> Iterator[Found]:
    manifests = directory / "manifests"
    for manifest in _files(manifests, "*/*/*/*"):
        host, owner, model, tag = manifest.relative_to(manifests).parts
        layers = _layers(manifest)
        digest = next((one for kind, one in layers if kind == _MODEL), "").replace(":", "-", 1)
        if not _SHA256.match(digest.removeprefix("sha256-")):
            continue
        own = model if owner == _OLLAMA[1] or host != _OLLAMA[0] else f"{owner}-{model}"
        added = [kind.rpartition(".")[2] for kind, _ in layers if kind in _ADDED]
        yield Found(
            name=wanted.clean_name(own if tag == "latest" else f"{own}-{tag}.gguf"),
            known_as=_ollama_name(host, owner, model, tag),
            file=directory / "blobs" / digest,
            sha256=digest.removeprefix("sha256-"),
            problem="has an adapter, which is not imported" if "adapter" in added else None,
        )


def _ollama_name(host: str, owner: str, model: str, tag: str) -> str:
    parts = [host, owner, model]
    for usual in _OLLAMA:
        if parts[0] == usual:
            parts.pop(0)
        else:
            break
    return f"{'/'.join(parts)}:{tag}"


def _layers(manifest: Path) -> list[tuple[str, str]]:
    """(media type, digest) of each layer; none where the file makes no sense."""
    try:
        with manifest.open("rb") as stream:
            table = json.loads(stream.read(_MOST_JSON))
        layers = table["layers"]
        return [(str(layer["mediaType"]), str(layer["digest"])) for layer in layers]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _ollama_places() -> list[Path]:
    own = os.environ.get("OLLAMA_MODELS")
    homes = [*(home / ".ollama/models" for home in _homes()), Path("/usr/share/ollama/.ollama/models")]
    return [*([Path(own)] if own else []), *homes, Path("/var/lib/ollama/models"), Path("/var/lib/ollama")]


# ---------------------------------------------------------------------------------------------------------
# LM Studio: PUBLISHER/REPOSITORY/FILE.gguf


def _lm_studio(directory: Path) -> Iterator[Found]:
    for file in _files(directory, "*/*/*.gguf"):
        if _is_model(file):
            yield Found(wanted.clean_name(file.name), str(file.relative_to(directory)), file)


def _lm_studio_places() -> list[Path]:
    return [home / place for home in _homes() for place in (".lmstudio/models", ".cache/lm-studio/models")]


# ---------------------------------------------------------------------------------------------------------
# The cache of huggingface_hub: models--OWNER--REPO/snapshots/COMMIT/FILE are links to blobs/SHA256


def _hf_cache(directory: Path) -> Iterator[Found]:
    for file in _files(directory, "models--*/snapshots/*/**/*.gguf"):
        repository, _, _, *path = file.relative_to(directory).parts
        if _is_model(file):
            blob = file.resolve()
            yield Found(
                name=wanted.clean_name(file.name),
                known_as="/".join([*repository.removeprefix("models--").split("--", 1), *path]),
                file=file if len(sources.parts(file.name)) > 1 else blob,
                sha256=blob.name if _SHA256.match(blob.name) else None,
            )


def _hf_places() -> list[Path]:
    own = [Path(os.environ[key]) for key in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") if key in os.environ]
    own += [Path(os.environ["HF_HOME"]) / "hub"] if "HF_HOME" in os.environ else []
    return [*own, *(home / ".cache/huggingface/hub" for home in _homes())]


# ---------------------------------------------------------------------------------------------------------


PROGRAMS: dict[str, tuple[Callable[[Path], Iterator[Found]], Callable[[], list[Path]]]] = {
    "ollama": (_ollama, _ollama_places),
    "lmstudio": (_lm_studio, _lm_studio_places),
    "hf-cache": (_hf_cache, _hf_places),
}


def _is_model(file: Path) -> bool:
    """Whether a .gguf is one that runs, and of a split one the first part."""
    return "mmproj" not in file.name.lower() and sources.parts(file.name)[0] == file.name


def _files(directory: Path, pattern: str) -> Iterator[Path]:
    for count, file in enumerate(directory.glob(pattern)):
        if count >= _MOST_FILES:
            return
        if file.is_file():
            yield file


def _homes() -> list[Path]:
    """Of who called sudo, and our own."""
    homes = []
    if caller := os.environ.get("SUDO_USER"):
        with contextlib.suppress(KeyError):
            homes.append(Path(pwd.getpwnam(caller).pw_dir))
    return [*homes, Path.home()]
