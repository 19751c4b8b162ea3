"""Request bodies: reading them within bounds, and the few things in them that concern the proxy."""

from __future__ import annotations

import dataclasses
import json

from starlette.types import Receive, Scope

from llmsvc.proxy.errors import bad_request

# a client that is told 413 in the middle of sending would often see a reset connection instead
_DISCARD_FACTOR = 16

COMPLETIONS = ("/v1/chat/completions", "/v1/completions")


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


@dataclasses.dataclass(slots=True)
class Body:
    """A request body. Its parsed JSON, up to 25 times as large as `raw`, is not kept while it waits.

    :param model: the model that the client names
    :param stream: whether the answer is to be streamed
    :param wants_usage: whether the client asked for the usage chunk of a stream
    :param bounded: whether it says how many tokens the answer may have
    """

    raw: bytes
    model: str | None
    stream: bool
    wants_usage: bool
    bounded: bool

    def outgoing(self, path: str, model: str, max_tokens: int) -> bytes:
        """The body for the backend: with the model's real name, and a bound on the answer if it has none.

        :param max_tokens: the bound
        """
        changes: dict[str, object] = {}
        if self.model != model:
            changes["model"] = model
        if path in COMPLETIONS and not self.bounded:
            changes["max_tokens"] = max_tokens
        return json.dumps({**json.loads(self.raw), **changes}).encode() if changes else self.raw


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
    options = parsed.get("stream_options")
    return Body(
        raw,
        model=parsed.get("model"),
        stream=parsed.get("stream") is True,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
        bounded=(parsed.get("max_tokens"), parsed.get("max_completion_tokens")) != (None, None),
    )
