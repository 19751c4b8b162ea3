"""A small Hugging Face hub on loopback: as much of the real one's protocol as a download needs.

As the real one, it answers a file's address with a redirect to another host, and tells the file's commit,
sha256 and size beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "c0ff"
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclasses.dataclass
class Repository:
    """`gated`: needs `token`; `private`: seen only with it. `sent` is what a download really gets."""

    files: dict[str, bytes]
    sent: dict[str, bytes] = dataclasses.field(default_factory=dict)
    gated: bool = False
    private: bool = False
    etags: dict[str, str] = dataclasses.field(default_factory=dict)


class Hub(ThreadingHTTPServer):
    """`endpoint` is what HF_ENDPOINT must be; `requests` the (method, path) seen so far."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.token = "hf_right"
        self.requests: list[tuple[str, str]] = []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.downloads = f"http://localhost:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


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
        self.server.requests.append((self.command, self.path))
        path = self.path.partition("?")[0]
        if path.startswith("/downloads/"):
            return self._download(*_FILE.fullmatch(path.removeprefix("/downloads")).group(1, 3))
        found = _FILE.fullmatch(path)
        if not found:
            return self._refuse(404, "NotFound")
        name, revision, file = found.groups()
        repository = self.server.repositories.get(name)
        token = self.headers.get("Authorization", "")
        right = token == f"Bearer {self.server.token}"
        if token and not right:
            return self._refuse(401, None, "Invalid credentials in Authorization header")
        if repository is None or (repository.private and not right):
            return self._refuse(404 if right else 401, "RepoNotFound")
        if repository.gated and not right:
            return self._refuse(403 if token else 401, "GatedRepo")
        if revision not in ("main", COMMIT):
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

    def _download(self, name: str, file: str) -> None:
        repository = self.server.repositories[name]
        contents = repository.sent.get(file, repository.files[file])
        start = re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range", ""))
        if start:
            at = int(start[1])
            span = f"bytes {at}-{len(contents) - 1}/{len(contents)}"
            return self._send(206, {"Content-Range": span}, contents[at:])
        return self._send(200, {"Accept-Ranges": "bytes"}, contents)

    def _refuse(self, status: int, code: str | None, message: str = "no") -> None:
        self._send(status, ({"X-Error-Code": code} if code else {}) | {"X-Error-Message": message})

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
