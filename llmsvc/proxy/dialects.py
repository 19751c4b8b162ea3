"""The APIs that the proxy passes on, a class each: all that it knows of what stands in a body or a stream.

What the answers say is between client and backend. The proxy has errors of its own to word, keeps streams
alive, bounds the length of answers, and finds the usage.
"""

from __future__ import annotations

import json

from llmsvc.proxy.backends import Usage
from llmsvc.proxy.errors import ApiError, Headers
from llmsvc.proxy.sse import COMMENT, EventStream


class Dialect:
    """OpenAI's completions and embeddings; the others say where they differ from it."""

    alive = COMMENT
    """Sent into a stream that would be silent for long."""
    x_api_key = False
    """Whether a key may come in `x-api-key` too."""
    reads_again = False
    """Whether the model reads some of a body more than once, so that its bytes bound no tokens."""
    counts = False
    """Whether there are only tokens to count or to show: that takes no slot of the model's."""
    open_ended = True
    """Whether a bound of 0 or less means as many tokens as fit, and an absent one ours."""

    def __init__(self, *lengths: str) -> None:
        """
        :param lengths: the fields that bound an answer, in tokens: the first that is there counts, and the
            last is what we write; none where answers have no length
        """
        self.lengths = lengths

    def stream(self, *, keep_usage: bool) -> EventStream:
        """Reads a stream.

        :param keep_usage: the client asked for OpenAI's usage chunk
        """
        return EventStream(keep_usage)

    def error(self, error: ApiError, request_id: bytes) -> bytes:
        """The JSON of an error, in one line.

        :param request_id: as the client knows it
        """
        return error.body()

    def error_event(self, error: bytes) -> bytes:
        """The event of an error in a stream that has begun.

        :param error: its JSON, in one line
        """
        return b"data: " + error + b"\n\n"

    def headers(self, request_id: bytes) -> Headers:
        """Headers that every answer has besides those of all dialects."""
        return ()


class Anthropic(Dialect):
    """Anthropic's messages."""

    alive = b'event: ping\ndata: {"type": "ping"}\n\n'
    x_api_key = True
    open_ended = False

    def stream(self, *, keep_usage: bool) -> EventStream:
        return _Messages()

    def error(self, error: ApiError, request_id: bytes) -> bytes:
        kind = "invalid_request_error" if error.status < 500 else "api_error"
        told: dict[str, object] = {
            "type": _ANTHROPIC_ERRORS.get(error.status, kind),
            "message": error.message,
        }
        if error.code:
            told["details"] = {"error_code": error.code}
        return json.dumps({"type": "error", "error": told, "request_id": request_id.decode()}).encode()

    def error_event(self, error: bytes) -> bytes:
        return b"event: error\ndata: " + error + b"\n\n"

    def headers(self, request_id: bytes) -> Headers:
        return [(b"request-id", request_id)]


class AnthropicCounting(Anthropic):
    """What counts the tokens of a message."""

    counts = True


# by status, which is the same in all dialects
_ANTHROPIC_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class _NamedEvents(EventStream):
    """A stream whose events have names. `good` end one well, `telling` are others with usage or an error."""

    # no JSON holds a line end, so these stand before an event's data or nowhere
    good: tuple[bytes, ...] = ()
    telling: tuple[bytes, ...] = ()

    def tells(self, data: bytes) -> bool:
        return any(mark in data for mark in (*self.good, *self.telling))

    def ends(self, data: bytes) -> bool:
        return any(mark in data for mark in self.good)

    def keep(self, event: bytes) -> bool:
        if not self.tells(event):
            return True
        try:
            told = json.loads(event.partition(b"\ndata: ")[2])
        except ValueError:
            return True
        if told.get("type") == "error":
            self.fail(told)
        # where the event is about an answer as a whole, it is within that
        response = told.get("response")
        usage = (response if isinstance(response, dict) else told).get("usage")
        self.usage = Usage.of(usage) or self.usage
        return True


class _Messages(_NamedEvents):
    """The usage is in the event before the last one, or with an error."""

    good = (b"event: message_stop\n",)
    telling = (b"event: message_delta\n", b"event: error\n")


class Counting(Dialect):
    """What only counts or shows tokens, with errors as OpenAI's."""

    counts = True


class Rerank(Dialect):
    """Rerankers read the query with each document."""

    reads_again = True


class Responses(Dialect):
    """OpenAI's responses."""

    def stream(self, *, keep_usage: bool) -> EventStream:
        return _Responses()

    def error_event(self, error: bytes) -> bytes:
        told = json.loads(error)["error"]
        # OpenAI's SDKs raise it for the object, others read what is beside that
        beside = {key: told.get(key) for key in ("code", "message", "param")}
        event = {"type": "error", "sequence_number": 0, **beside, "error": told}
        return b"event: error\ndata: " + json.dumps(event).encode() + b"\n\n"


class _Responses(_NamedEvents):
    """The usage is in the response that the last event holds; the error of one that failed stands before."""

    good = (b"event: response.completed\n", b"event: response.incomplete\n")
    telling = (b"event: error\n", b"event: response.failed\n")


_PLAIN = Dialect()
_COUNTING = Counting()
ROUTES = {
    "/v1/chat/completions": Dialect("max_completion_tokens", "max_tokens"),
    # OpenAI's have no max_completion_tokens, but the backend reads it
    "/v1/completions": Dialect("max_completion_tokens", "max_tokens"),
    "/v1/embeddings": _PLAIN,
    "/v1/rerank": Rerank(),
    "/v1/responses": Responses("max_output_tokens"),
    "/v1/responses/input_tokens": _COUNTING,
    "/v1/messages": Anthropic("max_tokens"),
    "/v1/messages/count_tokens": AnthropicCounting(),
    "/extras/tokenize": _COUNTING,
    "/extras/tokenize/count": _COUNTING,
    "/extras/detokenize": _COUNTING,
}
"""The paths that the backend answers, by POST."""


def of(path: str) -> Dialect:
    """How errors of a path are worded, whatever it is."""
    return ROUTES.get(path, _PLAIN)
