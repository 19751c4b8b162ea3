"""Request bodies: reading them within bounds, and the few things in them that concern the proxy."""

from __future__ import annotations

import dataclasses
import json

from starlette.types import Receive, Scope

from llmsvc.proxy.dialects import Dialect
from llmsvc.proxy.errors import bad_request

# a client that is told 413 in the middle of sending would often see a reset connection instead
_DISCARD_FACTOR = 16

_SMALL_BYTES = 4096


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """How long an answer may be, in tokens.

    :param default: where the client does not say
    :param most: whatever the client says; 0 for no such bound
    """

    default: int
    most: int


@dataclasses.dataclass(slots=True)
class Body:
    """A request body.

    :param parsed: its JSON, for outgoing(); None where `raw` is not small, for it may be 25 times as large
    :param model: the model that the client names
    :param stream: whether the answer is to be streamed
    :param wants_usage: whether the client asked for the usage chunk of a stream
    :param max_tokens: how many tokens the client allows the answer; 0 or less for all that fit
    :param dialect: of the path
    """

    raw: bytes
    model: str | None
    stream: bool
    wants_usage: bool
    max_tokens: object
    parsed: dict[str, object] | None
    dialect: Dialect

    def answer_tokens(self, bounds: Bounds) -> int | None:
        """How many tokens the answer may have; None for as many as fit, or what the backend will refuse."""
        if not self.dialect.lengths:
            return 0
        if self.max_tokens is None and self.dialect.open_ended:
            return min(bounds.default, bounds.most or bounds.default)
        # true is an int in Python, too; the backend says what is wrong with it
        if type(self.max_tokens) is not int or (self.max_tokens <= 0 and not self.dialect.open_ended):
            return None
        if self.max_tokens <= 0 or 0 < bounds.most < self.max_tokens:
            return bounds.most or None
        return self.max_tokens

    def outgoing(self, model: str, bounds: Bounds) -> bytes:
        """The body for the backend: with the model's real name, and the answer within its bounds."""
        changes: dict[str, object] = {}
        if self.model != model:
            changes["model"] = model
        lengths, tokens = self.dialect.lengths, self.answer_tokens(bounds)
        if lengths and tokens not in (None, self.max_tokens):
            changes[lengths[-1]] = tokens
        if not changes:
            return self.raw
        parsed = {**(self.parsed or json.loads(self.raw)), **changes}
        if lengths and lengths[-1] in changes:
            for name in lengths[:-1]:
                parsed.pop(name, None)
        return json.dumps(parsed).encode()


async def read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Reads the whole body.

    :param limit: bytes
    :raises ApiError: 413, or 415 where it is compressed
    :raises ClientGoneError: it will never be complete
    """
    coding = next((value for name, value in scope["headers"] if name == b"content-encoding"), b"identity")
    if coding.strip().lower() not in (b"", b"identity"):
        raise bad_request(
            "The request body must not be compressed (Content-Encoding).",
            status=415,
            code="unsupported_encoding",
        )
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    parts: list[bytes] = []
    size = 0
    more = not (declared.isdigit() and int(declared) > limit * _DISCARD_FACTOR)
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        size += len(message.get("body", b""))
        if size <= limit:
            parts.append(message.get("body", b""))
        else:
            parts.clear()
        more = message.get("more_body", False) and size <= limit * _DISCARD_FACTOR
    if size > limit or int(declared) > limit:
        error = bad_request(
            f"The request body is larger than {limit} bytes.", status=413, code="body_too_large"
        )
        error.headers = [(b"connection", b"close")]
        raise error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parse(raw: bytes, dialect: Dialect) -> Body:
    """The JSON object in a body.

    :param dialect: of the path

    :raises ApiError: 400
    """
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError):
        raise bad_request("The request body is not valid JSON.", code="invalid_json") from None
    if not isinstance(parsed, dict):
        raise bad_request("The request body must be a JSON object.", code="invalid_json")
    if not isinstance(parsed.get("model"), str | None):
        raise bad_request("'model' must be a string.", param="model")
    options = parsed.get("stream_options")
    return Body(
        raw,
        model=parsed.get("model"),
        stream=parsed.get("stream") is True,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=next((parsed[name] for name in dialect.lengths if parsed.get(name) is not None), None),
        parsed=parsed if len(raw) <= _SMALL_BYTES else None,
        dialect=dialect,
    )
