"""Fetches a GGUF from the Hugging Face hub (or the mirror that HF_ENDPOINT names) with huggingface_hub, and
checks the contents: the library itself compares only sizes."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from llmsvc import paths
from llmsvc.errors import DeniedError, Error, NotFoundError, UnavailableError
from llmsvc.library import progress
from llmsvc.library.files import sha256
from llmsvc.library.sources import Hub

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What the hub says of a file: the commit that it belongs to, its sha256 and its size in bytes."""

    commit: str
    sha256: str
    size: int


def look_up(source: Hub) -> Metadata:
    """Asks the hub about a file without fetching it.

    :raises NotFoundError: no such repository, revision or file
    :raises DeniedError: the hub wants a token, or another one
    :raises UnavailableError: the hub does not answer
    :raises Error: the hub knows no sha256 of the file, or another one than the catalogue
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    endpoint = _endpoint()
    url = hf_hub_url(source.repository, source.path, revision=source.revision, endpoint=endpoint)
    try:
        found = get_hf_file_metadata(url, token=_token(), endpoint=endpoint)
    except HfHubHTTPError as error:
        raise _refusal(source, error) from None
    except (OSError, _transport_error(), OfflineModeIsEnabled) as error:
        raise _unreachable(error) from None
    if found.etag is None or not _SHA256.match(found.etag) or not found.commit_hash or not found.size:
        raise Error(f"the hub does not tell the sha256 of {source}")
    if source.sha256 not in (None, found.etag):
        raise Error(f"{source} is not the file that the catalogue knows (sha256 differs)")
    return Metadata(found.commit_hash, found.etag, found.size)


def fetch(source: Hub, metadata: Metadata, directory: Path) -> Path:
    """Puts the verified GGUF into `directory` and returns its path.

    :raises UnavailableError: the download broke off
    :raises Error: the contents are not what the hub's metadata says
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    with progress.watch(directory, f"fetching {source.file}", metadata.size):
        try:
            file = Path(
                hf_hub_download(
                    source.repository,
                    source.path,
                    revision=metadata.commit,
                    local_dir=directory,
                    token=_token(),
                    endpoint=_endpoint(),
                )
            )
        except HfHubHTTPError as error:
            raise _refusal(source, error) from None
        except (OSError, RuntimeError, _transport_error()) as error:
            raise UnavailableError(
                f"the download of {source} broke off: {_reason(error)}", hint="try again; nothing was kept"
            ) from None
    if sha256(file) != metadata.sha256:
        raise Error(
            f"{source} arrived damaged: its sha256 is not the hub's", hint="try again; nothing was kept"
        )
    return file


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def _token() -> str | None:
    """The machine's own token, root only; else None, which is what huggingface_hub finds by itself."""
    try:
        return (paths.CREDENTIALS / "hf-token").read_text(encoding="ascii").strip() or None
    except (FileNotFoundError, PermissionError):
        return None


def _transport_error() -> type[Exception]:
    """The base of connection errors of whichever HTTP library this version of huggingface_hub uses."""
    from huggingface_hub import errors

    base: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    return base


def _refusal(source: Hub, error: HfHubHTTPError) -> Error:
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
        return NotFoundError(f"{source.repository} has no file {source.path}")
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
        f"{_endpoint()} cannot be reached: {_reason(error)}",
        hint="check the network, HTTPS_PROXY and HF_ENDPOINT; sudo keeps them with --preserve-env=NAME",
    )


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
