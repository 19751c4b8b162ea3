"""HTTP as bytes: what no well-behaved client would send, and the answers to it."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import io
import json
import socket
from collections.abc import Iterator
from typing import Any

SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["error"])


class _Bytes:
    """As http.client wants a socket."""

    def __init__(self, file: io.BytesIO) -> None:
        self.file = file

    def makefile(self, _mode: str) -> io.BytesIO:
        return self.file


class _Kept(io.BytesIO):
    def close(self) -> None:
        """The next answer is read from it too."""


def answers(data: bytes, method: str = "POST") -> list[Answer]:
    """The answers that these bytes are; they must be nothing but whole answers."""
    file = _Kept(data)
    found = []
    while file.tell() < len(data):
        response = http.client.HTTPResponse(_Bytes(file), method=method)  # type: ignore[arg-type]
        response.begin()
        body = response.read()
        assert response.isclosed(), "an answer is cut"
        headers = {name.lower(): value for name, value in response.getheaders()}
        found.append(Answer(response.status, headers, body))
    return found


@contextlib.contextmanager
def connect(stack: Any, address: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.create_connection(stack.listener.getsockname(), SECONDS, (address, 0)) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


def exchange(stack: Any, data: bytes, address: str = "127.0.0.1", method: str = "POST") -> list[Answer]:
    """Sends bytes, and gives all answers until the proxy closes the connection."""
    with connect(stack, address) as connection:
        connection.sendall(data)
        return answers(read_all(connection), method)


def request(
    path: str = "/health", *headers: str, method: str = "GET", body: bytes = b"", close: bool = True
) -> bytes:
    """A request with these header lines besides Host."""
    lines = [f"{method} {path} HTTP/1.1", "Host: proxy", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chat(key: str, *headers: str, close: bool = True, **more: Any) -> bytes:
    """A chat request; `more` goes into its body."""
    body = {"messages": [{"role": "user", "content": "say hello"}], **more}
    return request(
        "/v1/chat/completions",
        f"Authorization: Bearer {key}",
        *headers,
        method="POST",
        body=json.dumps(body).encode(),
        close=close,
    )
