"""Request bodies: reading them within bounds, and the few things in them that concern the proxy."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from starlette.types import Receive, Scope

from llmsvc.proxy.errors import bad_request

# a client that is told 413 in the middle of sending would often see a reset connection instead
_DISCARD_FACTOR = 16

COMPLETIONS = ("/v1/chat/completions", "/v1/completions")


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


@dataclasses.dataclass(slots=True)
class Body:
    """A request body. `parsed` is the JSON object in `raw`."""

    raw: bytes
    parsed: dict[str, Any]

    @property
    def model(self) -> str | None:
        """The model that the client names."""
        model: str | None = self.parsed.get("model")
        return model

    @property
    def stream(self) -> bool:
        """Whether the answer is to be streamed."""
        return self.parsed.get("stream") is True

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the usage chunk of a stream."""
        options = self.parsed.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    def outgoing(self, path: str, model: str, max_tokens: int) -> bytes:
        """The body for the backend: with the model's real name, and a bound on the answer if it has none.

        :param max_tokens: the bound
        """
        changes: dict[str, object] = {}
        if self.parsed.get("model") != model:
            changes["model"] = model
        bounds = (self.parsed.get("max_tokens"), self.parsed.get("max_completion_tokens"))
        if path in COMPLETIONS and bounds == (None, None):
            changes["max_tokens"] = max_tokens
        return json.dumps({**self.parsed, **changes}).encode() if changes else self.raw


async def read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Reads the whole body.

    :param limit: bytes
    :raises ApiError: 413
    :raises ClientGoneError: it will never be complete
    """
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


def parse(raw: bytes) -> Body:
    """The JSON object in a body.

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
    return Body(raw, parsed)
