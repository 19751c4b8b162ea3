"""Cross-origin requests: which web pages may use the API from a browser. None, unless an admin names them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from starlette.types import Message, Scope, Send

from llmsvc.proxy.errors import Headers

_ALLOWED = re.compile(
    r"(?:authorization|x-api-key|content-type|accept|user-agent|idempotency-key|x-request-id|x-client-request-id"
    r"|x-stainless-[a-z0-9-]{1,64}|(?:openai|anthropic)-[a-z0-9-]{1,64}|x-openwebui-[a-z0-9-]{1,64})\Z"
)
_EXPOSED = (
    b"x-request-id, request-id, x-llmsvc-request-id, x-queue-position, retry-after, retry-after-ms, "
    b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    b"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_METHODS = b"GET, HEAD, POST, DELETE, OPTIONS"
_MAX_AGE_SECONDS = 600


class Cors:
    """The answers' headers for browsers.

    :param origins: of the pages that may use the API, in lower case; `*` for all
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._all = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def allows(self, scope: Scope) -> Headers:
        """The headers that let the page that sent this request read the answer."""
        origin = _header(scope["headers"], b"origin")
        vary = [] if self._all else [(b"vary", b"Origin")]
        if origin is None or not (self._all or origin.lower() in self._origins):
            return vary
        return [
            (b"access-control-allow-origin", b"*" if self._all else origin),
            (b"access-control-expose-headers", _EXPOSED),
            *vary,
        ]

    def preflight(self, scope: Scope) -> Headers | None:
        """The answer to a browser that asks first, which it does without key; None if it does not ask."""
        headers = scope["headers"]
        if scope["method"] != "OPTIONS" or _header(headers, b"access-control-request-method") is None:
            return None
        allowed = self.allows(scope)
        if not allowed or allowed[0][0] != b"access-control-allow-origin":
            return allowed
        asked = (_header(headers, b"access-control-request-headers") or b"").decode("latin-1").lower()
        names = [name for name in map(str.strip, asked.split(",")) if _ALLOWED.match(name)]
        answer = [*allowed, (b"access-control-allow-methods", _METHODS)]
        if names:
            answer.append((b"access-control-allow-headers", ", ".join(names).encode()))
        return [*answer, (b"access-control-max-age", b"%d" % _MAX_AGE_SECONDS)]


def adding(send: Send, headers: Headers) -> Send:
    """Sends answers with these headers too."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return send_with_headers


def _header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)
