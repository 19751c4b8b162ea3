"""Completes one half-downloaded file of the hub, over broken connections and killed processes alike.

huggingface_hub gives the HTTP client (proxies, certificates, time-outs), the headers and the errors. Its own
hf_hub_download() throws away what a killed or failed download has got so far, and hashes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from llmsvc.errors import Error, UnavailableError
from llmsvc.library import space

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further try in a row that brought nothing; then it is given up."""
_SEGMENT = 8 << 30
"""Bytes of one request: the hub refuses files of over 50 GB in one, and its signed addresses expire."""
_SPACE_BYTES = 32 << 20
_CHUNK = 1 << 20
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)\Z")


class WrongContentsError(Error):
    """What the hub sends is not the file that it described."""


@dataclasses.dataclass
class Download:
    """One file: where it is, and how far.

    :ivar part: the file to complete; what is in it already counts
    :ivar size: bytes that it will have
    :ivar arrived: bytes of it by now
    """

    url: str
    headers: dict[str, str]
    part: Path
    size: int
    look: Callable[[Path, int], None] = lambda part, arrived: None
    """Called with the file now and then, and with the bytes in it; what it raises ends the download."""
    arrived: int = 0
    _digest: Any = dataclasses.field(default_factory=hashlib.sha256)

    def run(self) -> str:
        """Completes the file and returns its sha256.

        :raises UnavailableError: the hub or the network gave up; what arrived is kept
        :raises HfHubHTTPError: the hub refuses it; what arrived is kept
        :raises WrongContentsError, FullError, Error of `look`: nothing is kept
        """
        try:
            return self._run()
        except UnavailableError:
            raise
        except Error:
            self.part.unlink(missing_ok=True)
            raise

    def _run(self) -> str:
        from huggingface_hub.errors import HfHubHTTPError

        tries = 0
        with self.part.open("a+b", buffering=0) as out:
            self._resume(out)
            while self.arrived < self.size:
                before = self.arrived
                try:
                    self._request(out)
                    problem = f"the hub sends no more than {self.arrived} of {self.size} bytes"
                except HfHubHTTPError as error:
                    if error.response.status_code not in _AGAIN:
                        raise
                    problem = f"the hub answers {error.response.status_code}"
                except transport_error() as error:
                    problem = reason(error)
                if self.arrived > before:
                    tries = 0
                elif tries == len(PAUSES):
                    raise UnavailableError(problem)
                else:
                    time.sleep(PAUSES[tries])
                    tries += 1
        return str(self._digest.hexdigest())

    def _resume(self, out: IO[bytes]) -> None:
        out.seek(0)
        if self.part.stat().st_size > self.size:
            out.truncate(0)
        while chunk := out.read(_CHUNK):
            self._digest.update(chunk)
            self.arrived += len(chunk)
        self.look(self.part, self.arrived)

    def _request(self, out: IO[bytes]) -> None:
        """One request, from what is there to the end, or as much as one may ask for."""
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]

        end = min(self.size, self.arrived + _SEGMENT)
        asked = {"Range": f"bytes={self.arrived}-{end - 1}", "Accept-Encoding": "identity"}
        with get_session().stream(
            "GET",
            self.url,
            headers={**self.headers, **asked},
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            follow_redirects=True,
        ) as response:
            if response.status_code >= 400:
                response.read()
            hf_raise_for_status(response)
            self._check_range(response.status_code, response.headers)
            if response.status_code == 200 and self.arrived:
                # it sends all of it, whatever one asks for
                out.truncate(0)
                self._digest = hashlib.sha256()
                self.arrived = 0
            self._receive(response.iter_raw(), out)

    def _check_range(self, status: int, headers: Any) -> None:
        found = _RANGE.match(headers.get("Content-Range", "")) if status == 206 else None
        if status == 206 and (not found or int(found[1]) != self.arrived):
            raise WrongContentsError("the hub does not send the part that it was asked for")
        total = found[2] if found else headers.get("Content-Length", "*")
        if total not in ("*", str(self.size)):
            raise WrongContentsError(f"the hub described {self.size} bytes and sends {total}")

    def _receive(self, chunks: Iterable[bytes], out: IO[bytes]) -> None:
        looked = self.arrived
        for chunk in chunks:
            if self.arrived + len(chunk) > self.size:
                raise WrongContentsError(f"the hub described {self.size} bytes and sends more")
            try:
                _write(out, chunk)
            except OSError as error:
                if space.is_full(error):
                    raise space.full(self.part.parent) from None
                raise
            self._digest.update(chunk)
            self.arrived += len(chunk)
            if self.arrived - looked >= _SPACE_BYTES:
                looked = self.arrived
                space.check(self.part.parent)
                self.look(self.part, self.arrived)


def _write(out: IO[bytes], chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[out.write(view) :]


def transport_error() -> type[Exception]:
    """The base of connection errors of whichever HTTP library this version of huggingface_hub uses."""
    from huggingface_hub import errors

    base: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    return base


def reason(error: Exception) -> str:
    """What an exception says, in one short line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
