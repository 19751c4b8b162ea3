"""Fetches a GGUF from the Hugging Face hub (or the mirror that HF_ENDPOINT names) with huggingface_hub, and
checks the contents: the library itself compares only sizes."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmsvc import paths
from llmsvc.errors import DeniedError, Error, NotFoundError, UnavailableError
from llmsvc.library import progress, sources, space
from llmsvc.library.download import Download, WrongContentsError, reason, transport_error
from llmsvc.library.sources import Hub

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What the hub says of a file: its path, the commit that it belongs to, its sha256 and size in bytes."""

    path: str
    commit: str
    sha256: str
    size: int


def look_up(source: Hub) -> list[Metadata]:
    """Asks the hub about a file, or all parts of a split one, without fetching it.

    :raises NotFoundError: no such repository, revision or file
    :raises DeniedError: the hub wants a token, or another one
    :raises UnavailableError: the hub does not answer
    :raises Error: the hub knows no sha256 of the file, or another one than the catalogue
    """
    first, *others = sources.parts(source.path)
    found = [_look_up(source, first, source.revision)]
    # of one commit, also where the branch moves on meanwhile
    return found + [_look_up(source, path, found[0].commit) for path in others]


def _look_up(source: Hub, path: str, revision: str) -> Metadata:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    endpoint = _endpoint()
    url = hf_hub_url(source.repository, path, revision=revision, endpoint=endpoint)
    try:
        found = get_hf_file_metadata(url, token=_token(), endpoint=endpoint)
    except HfHubHTTPError as error:
        raise _refusal(source, path, error) from None
    except (OSError, transport_error(), OfflineModeIsEnabled) as error:
        raise _unreachable(error) from None
    if found.etag is None or not _SHA256.match(found.etag) or not found.commit_hash or not found.size:
        raise Error(f"the hub does not tell the sha256 of {source}")
    if source.sha256 not in (None, found.etag):
        raise Error(f"{source} is not the file that the catalogue knows (sha256 differs)")
    return Metadata(path, found.commit_hash, found.etag, found.size)


def missing(metadata: Sequence[Metadata], directory: Path) -> int:
    """Bytes that are still to be fetched into `directory`, whatever a broken try left there."""
    return sum(max(0, one.size - _size(_part(directory, one))) for one in metadata)


def fetch(
    source: Hub, metadata: Sequence[Metadata], directory: Path, look: Callable[[Path, int, int], None]
) -> list[Path]:
    """Puts the verified file, or the parts of it, into `directory` and returns their paths.

    :param look: called with the first part, its size when complete and the bytes in it, while it arrives
    :raises UnavailableError: the download broke off; the next one goes on with what is there
    :raises FullError: the file system filled up; nothing is left
    :raises Error: the contents are not what the hub's metadata says; nothing is left
    """
    _drop_others(metadata, directory)
    files, done = [], 0
    current: list[Download] = []
    with progress.watch(
        f"fetching {source.file}",
        sum(one.size for one in metadata),
        lambda: done + (current[-1].arrived if current else 0),
    ):
        for one in metadata:
            part = _part(directory, one)

            def look_at(part: Path, arrived: int, one: Metadata = one) -> None:
                if one is metadata[0]:
                    look(part, one.size, arrived)

            current[:] = [Download(_url(source, one), _headers(), part, one.size, look_at)]
            _complete(source, one, current[0])
            files.append(part)
            done, current[:] = done + one.size, []
    named = [directory / path.rpartition("/")[2] for path in sources.parts(source.path)]
    for file, target in zip(files, named, strict=True):
        file.replace(target)
    return named


def _complete(source: Hub, one: Metadata, download: Download) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        sha256 = download.run()
    except HfHubHTTPError as error:
        raise _refusal(source, one.path, error) from None
    except WrongContentsError as error:
        raise _damaged(source, error.message) from None
    except UnavailableError as error:
        kept = progress.size(download.arrived)
        raise UnavailableError(
            f"the download of {source} broke off: {error.message}",
            hint=f"{kept} of {progress.size(one.size)} are kept: the same command goes on from there",
        ) from None
    if sha256 != one.sha256:
        download.part.unlink()
        raise _damaged(source, "its sha256 is not the hub's")


def _damaged(source: Hub, problem: str) -> Error:
    return Error(f"{source} arrived damaged: {problem}", hint="try again; nothing was kept")


def _part(directory: Path, one: Metadata) -> Path:
    return directory / f"{one.sha256}.part"


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _drop_others(metadata: Sequence[Metadata], directory: Path) -> None:
    """Removes halves of what the hub had under this address before."""
    wanted = {_part(directory, one) for one in metadata}
    for part in set(directory.glob("*.part")) - wanted:
        part.unlink()


def _url(source: Hub, one: Metadata) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(source.repository, one.path, revision=one.commit, endpoint=_endpoint())


def _headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    return dict(build_hf_headers(token=_token()))


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def _token() -> str | None:
    """The machine's own token, root only; else None, which is what huggingface_hub finds by itself."""
    try:
        return (paths.CREDENTIALS / "hf-token").read_text(encoding="ascii").strip() or None
    except (FileNotFoundError, PermissionError):
        return None


def _refusal(source: Hub, path: str, error: HfHubHTTPError) -> Error:
    from huggingface_hub.errors import (
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = error.response.status_code
    if isinstance(error, GatedRepoError) or status == 403:
        return DeniedError(
            f"{source.repository} is gated: its owner grants access",
            hint=f"ask for it at {_endpoint()}/{source.repository}, then put a token into "
            f"{paths.CREDENTIALS / 'hf-token'} (mode 0600)",
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return NotFoundError(f"{source.repository} has no file {path}")
    if isinstance(error, RevisionNotFoundError):
        return NotFoundError(f"{source.repository} has no revision {source.revision}")
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return NotFoundError(
            f"the hub has no repository {source.repository}, or it is private",
            hint=f"for a private one put a token into {paths.CREDENTIALS / 'hf-token'} (mode 0600)",
        )
    if status == 401:
        return DeniedError(
            "the hub refuses our token", hint=f"check {paths.CREDENTIALS / 'hf-token'} and HF_TOKEN"
        )
    return UnavailableError(f"{_endpoint()} answered {status} for {source}", hint="try again later")


def _unreachable(error: Exception) -> UnavailableError:
    return UnavailableError(
        f"{_endpoint()} cannot be reached: {reason(error)}",
        hint="check the network, HTTPS_PROXY and HF_ENDPOINT; sudo keeps them with --preserve-env=NAME",
    )


def require_space(metadata: Sequence[Metadata], directory: Path) -> None:
    """:raises FullError: there is no room for what is still to be fetched"""
    space.require(directory, missing(metadata, directory))
