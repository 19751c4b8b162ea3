"""Requests out of the bytes of a connection, strictly.

llhttp parses, and refuses what two servers could read differently. What it leaves to us is here: sizes,
codings other than chunked, trailers, and upgrades that nobody asked for in earnest.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import httptools

from llmsvc.proxy.errors import ApiError, bad_request

HEAD_BYTES = 64 * 1024
"""Request line and headers, and what is no content of a chunked body."""
HEADERS = 100
"""Headers of one request."""

_URL_BYTES = 8 * 1024
# a chunk's size and line ends; more than that per chunk are extensions or zeros
_CHUNK_BYTES = 16
_UPGRADE = (b"upgrade", b"http2-settings", b"connection")


@dataclasses.dataclass(slots=True)
class Head:
    """What stands before a body. `version` is `1.1` or `1.0`; the names of headers are in lower case.

    :param keep_alive: the client may send another request afterwards
    :param expects_continue: it waits with its body until it is told to go on
    """

    method: str
    path: bytes
    query: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    keep_alive: bool
    expects_continue: bool


class Receiver(Protocol):
    """Who is told."""

    def request_begins(self) -> None:
        """The first byte of a request is there."""

    def head_is_there(self, head: Head) -> None:
        """Request line and headers are complete and sound."""

    def body_comes(self, data: bytes) -> None:
        """A piece of the body."""

    def request_ends(self) -> None:
        """The request is complete."""


class Framing:
    """Tells of the requests in a stream of bytes."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._parser = _parser(self)
        self.in_request = False
        """A request has begun and is not complete."""
        self.in_head = False
        """Nor are its headers."""
        self._overhead = 0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._header_bytes = 0
        self._refusal: ApiError | None = None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes.

        :raises ApiError: they are no request, and what follows cannot be understood
        """
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._again_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            raise self._refusal or _bad_http(f"This is no valid HTTP: {error}.") from None
        if self._overhead > HEAD_BYTES:
            raise _too_large("headers or chunks")

    def close(self) -> None:
        """Lets go of the parser, which refers to us."""
        self._parser = None  # type: ignore[assignment]

    def on_message_begin(self) -> None:
        """For the parser, as all that follow."""
        self.in_request = self.in_head = True
        self._url = b""
        self._headers = []
        self._header_bytes = 0
        self._receiver.request_begins()

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > _URL_BYTES:
            self._refuse(_too_large("URL", 414))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:
            return  # a trailer, which could pretend to be what it is too late for
        self._headers.append((name.lower(), value))
        self._header_bytes += len(name) + len(value)
        if len(self._headers) > HEADERS or self._header_bytes > HEAD_BYTES:
            self._refuse(_too_large("headers"))

    def on_headers_complete(self) -> None:
        method = self._parser.get_method().decode()
        if self._parser.should_upgrade() and method != "CONNECT":
            return  # it comes again
        version = self._parser.get_http_version()
        self._check_version(version)
        expects_continue = self._check_headers(version)
        # CONNECT names a host, and is served nowhere
        url = None if method == "CONNECT" else httptools.parse_url(self._url)
        self.in_head = False
        self._overhead = 0
        self._receiver.head_is_there(
            Head(
                method,
                (url.path if url else None) or b"/",
                (url.query if url else None) or b"",
                version,
                self._headers,
                version == "1.1" and url is not None and self._parser.should_keep_alive(),
                expects_continue,
            )
        )

    def on_chunk_header(self) -> None:
        self._overhead = max(0, self._overhead - _CHUNK_BYTES)

    def on_body(self, body: bytes) -> None:
        self._overhead = max(0, self._overhead - len(body))
        if not self.in_head:
            self._receiver.body_comes(body)

    def on_message_complete(self) -> None:
        self._overhead = 0
        if not self.in_head:
            self.in_request = False
            self._receiver.request_ends()

    def _check_version(self, version: str) -> None:
        if version not in ("1.1", "1.0"):
            self._refuse(bad_request("HTTP/1.1 and HTTP/1.0 are understood.", status=505, code="bad_http"))

    def _check_headers(self, version: str) -> bool:
        """Refuses what may mean two things; returns whether the client waits to be told to go on."""
        hosts, has_body, expects = 0, False, False
        for name, value in self._headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                has_body = value != b"0"
            elif name == b"transfer-encoding":
                has_body = True
                if value.lower() != b"chunked" or version != "1.1":
                    self._refuse(_bad_http("Only 'Transfer-Encoding: chunked' is understood."))
            elif name == b"expect":
                expects = version == "1.1"
                if value.lower() != b"100-continue":
                    self._refuse(bad_request("Only 'Expect: 100-continue' is understood.", status=417))
        if hosts != 1 and (version == "1.1" or hosts):
            self._refuse(_bad_http("A request has exactly one Host header."))
        return expects and has_body

    def _again_without_upgrade(self, rest: bytes) -> None:
        """Takes a request for another protocol, whose body llhttp skips, again as if it asked for none."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            return
        head = [b"%s %s HTTP/%s" % (method, self._url, self._parser.get_http_version().encode())]
        head += [b"%s: %s" % header for header in self._headers if header[0] not in _UPGRADE]
        closes = [b"close" in value.lower() for name, value in self._headers if name == b"connection"]
        if any(closes):
            head.append(b"connection: close")
        self._parser = _parser(self)
        self._overhead = 0
        self.feed(b"\r\n".join([*head, b"", b""]) + rest)

    def _refuse(self, error: ApiError) -> None:
        """Ends the parsing; feed() raises this."""
        self._refusal = error
        raise error


def _parser(framing: Framing) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(framing)
    # what comes behind the last request that a client announced is dropped, and no bad request
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _bad_http(message: str) -> ApiError:
    return bad_request(message, code="bad_http")


def _too_large(what: str, status: int = 431) -> ApiError:
    return bad_request(f"The {what} of this request are too large.", status=status, code="headers_too_large")
