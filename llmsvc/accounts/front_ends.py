"""Trusted front ends: in which header one may say who is asking through its key."""

from __future__ import annotations

import re

from llmsvc.errors import UsageError

_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}\Z")  # a token of RFC 9110, which was RFC 7230

_TAKEN = frozenset((
    "age", "allow", "authorization", "cache-control", "connection", "cookie", "cookie2", "date", "dnt",
    "expect", "forwarded", "from", "host", "http2-settings", "if-match", "if-modified-since", "if-none-match",
    "if-range", "if-unmodified-since", "keep-alive", "last-event-id", "max-forwards", "origin", "pragma",
    "priority", "range", "referer", "retry-after", "set-cookie", "te", "traceparent", "tracestate", "trailer",
    "transfer-encoding", "upgrade", "user-agent", "vary", "via", "warning", "x-api-key", "x-client-ip",
    "x-cluster-client-ip", "x-correlation-id", "x-forwarded", "x-forwarded-by", "x-forwarded-for",
    "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-forwarded-server",
    "x-http-method-override", "x-original-host", "x-original-url", "x-queue-position", "x-real-ip",
    "x-request-id", "x-requested-with",
))  # fmt: skip
"""Headers with a meaning of their own: who sets or changes them on the way is not the front end."""
_TAKEN_PREFIXES = (
    "accept", "access-control-", "content-", "openai-", "proxy-", "sec-", "x-ratelimit-", "x-stainless-",
)  # fmt: skip


def header(name: str) -> str:
    """The name of a header in which a front end may say who is asking, in lower case.

    :raises UsageError: it is no header's name, or that of a header with another meaning
    """
    lower = name.lower()
    if not _HEADER.match(lower):
        raise UsageError(
            f"{name[:80]!r} cannot be the name of a header",
            hint="letters, digits and '-', at most 64, such as X-OpenWebUI-User-Email",
        )
    if lower in _TAKEN or lower.startswith(_TAKEN_PREFIXES):
        raise UsageError(
            f"the header {name} means something else, it cannot say who is asking",
            hint="give the one that the front end adds, such as X-OpenWebUI-User-Email",
        )
    return lower
