"""The APIs that the proxy passes on, a class each: all that it knows of what stands in a body or a stream.

What the answers say is between client and backend. The proxy has errors of its own to word, keeps streams
alive, bounds the length of answers, and finds the usage.
"""

from __future__ import annotations

from llmsvc.proxy.errors import ApiError, Headers
from llmsvc.proxy.sse import COMMENT, EventStream


class Dialect:
    """OpenAI's completions and embeddings; the others say where they differ from it."""

    alive = COMMENT
    """Sent into a stream that would be silent for long."""
    x_api_key = False
    """Whether a key may come in `x-api-key` too."""
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


_PLAIN = Dialect()
ROUTES = {
    "/v1/chat/completions": Dialect("max_completion_tokens", "max_tokens"),
    # OpenAI's have no max_completion_tokens, but the backend reads it
    "/v1/completions": Dialect("max_completion_tokens", "max_tokens"),
    "/v1/embeddings": _PLAIN,
    "/extras/tokenize": _PLAIN,
    "/extras/tokenize/count": _PLAIN,
    "/extras/detokenize": _PLAIN,
}
"""The paths that the model answers, by POST."""


def of(path: str) -> Dialect:
    """How errors of a path are worded, whatever it is."""
    return ROUTES.get(path, _PLAIN)
