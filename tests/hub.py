"""A small Hugging Face hub on loopback: as much of the real one's protocol as a download needs.

As the real one, it answers a file's address with a redirect to another host, and tells the file's commit,
sha256 and size beside it. `python tests/hub.py DIRECTORY [PORT]` serves DIRECTORY/OWNER/REPO/FILE.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" * 6 + "c0ff"
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_CHUNK = 64 << 10


@dataclasses.dataclass
class Repository:
    """`gated`: needs `token`; `private`: seen only with it. `sent` is what a download really gets."""

    files: dict[str, bytes]
    sent: dict[str, bytes] = dataclasses.field(default_factory=dict)
    gated: bool = False
    private: bool = False
    etags: dict[str, str] = dataclasses.field(default_factory=dict)
    branches: tuple[str, ...] = ("main",)


@dataclasses.dataclass(frozen=True)
class Request:
    """What the hub was asked. `host` is the one that it was for, `first` a download's first byte."""

    method: str
    path: str
    host: str
    token: str
    first: int = 0


class Hub(ThreadingHTTPServer):
    """`endpoint` is what HF_ENDPOINT must be; `requests` what was asked so far, `sent` bytes of downloads.

    :ivar before: called before each chunk of a download with the file and the chunk's place in it; it may
        wait, or raise ConnectionError to break the connection off
    :ivar moved: old names of repositories, and the new ones
    :ivar refusals: statuses that the next downloads are answered with
    :ivar ranges: whether it can send a part of a file
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.token = "hf_right"
        self.requests: list[Request] = []
        self.sent = 0
        self.before: Callable[[str, int], None] = lambda file, at: None
        self.moved: dict[str, str] = {}
        self.refusals: list[int] = []
        self.ranges = True
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.downloads = f"http://localhost:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""

    def got(self, method: str = "GET") -> list[Request]:
        """The downloads that were asked for."""
        return [one for one in self.requests if one.method == method and one.path.startswith("/downloads/")]


@contextmanager
def running() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        # a proxy is asked for a whole address
        path = re.sub(r"\Ahttp://[^/]+", "", self.path).partition("?")[0]
        token = self.headers.get("Authorization", "")
        span = _RANGE.fullmatch(self.headers.get("Range", "")) if self.server.ranges else None
        self.server.requests.append(
            Request(self.command, path, self.headers.get("Host", ""), token, int(span[1]) if span else 0)
        )
        if path.startswith("/downloads/"):
            return self._download(*_FILE.fullmatch(path.removeprefix("/downloads")).group(1, 3), span)
        found = _FILE.fullmatch(path)
        if not found:
            return self._refuse(404, "NotFound")
        name, revision, file = found.groups()
        if name in self.server.moved:
            return self._send(307, {"Location": path.replace(name, self.server.moved[name])})
        repository = self.server.repositories.get(name)
        right = token == f"Bearer {self.server.token}"
        if token and not right:
            return self._refuse(401, None, "Invalid credentials in Authorization header")
        if repository is None or (repository.private and not right):
            return self._refuse(404 if right else 401, "RepoNotFound")
        if repository.gated and not right:
            return self._refuse(403 if token else 401, "GatedRepo")
        if revision not in (*repository.branches, COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if file not in repository.files:
            return self._refuse(404, "EntryNotFound")
        contents = repository.files[file]
        etag = repository.etags.get(file) or hashlib.sha256(contents).hexdigest()
        return self._send(
            302,
            {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{etag}"',
                "X-Linked-Size": str(len(contents)),
                "Location": f"{self.server.downloads}/downloads{path}",
            },
        )

    def _download(self, name: str, file: str, span: re.Match[str] | None) -> None:
        if self.server.refusals:
            return self._refuse(self.server.refusals.pop(0), None)
        repository = self.server.repositories[name]
        contents = repository.sent.get(file, repository.files[file])
        first, end = 0, len(contents)
        if span:
            first = int(span[1])
            end = min(end, int(span[2]) + 1) if span[2] else end
        headers = {"Content-Range": f"bytes {first}-{end - 1}/{len(contents)}"} if span else {}
        self.send_response(206 if span else 200)
        for key, value in {**headers, "Content-Length": str(max(0, end - first))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "GET":
            return None
        for at in range(first, end, _CHUNK):
            try:
                self.server.before(file, at)
            except ConnectionError:
                self.close_connection = True
                return None
            chunk = contents[at : min(at + _CHUNK, end)]
            self.wfile.write(chunk)
            self.server.sent += len(chunk)
        return None

    def _refuse(self, status: int, code: str | None, message: str = "no") -> None:
        self._send(status, ({"X-Error-Code": code} if code else {}) | {"X-Error-Message": message})

    def _send(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()


def main(directory: Path, port: int) -> None:
    """Serves a directory; a file FILE.sent beside FILE is what a download of it really gets."""
    with Hub(port) as hub:
        for folder in directory.glob("*/*"):
            files = {file.name: file.read_bytes() for file in folder.iterdir()}
            sent = {
                name.removesuffix(".sent"): files.pop(name) for name in list(files) if name.endswith(".sent")
            }
            hub.repositories[f"{folder.parent.name}/{folder.name}"] = Repository(files, sent)
        print(hub.endpoint, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            hub.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
