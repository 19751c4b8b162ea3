"""Server-sent events on their way through: whole events only, without the usage chunk nobody asked for."""

from __future__ import annotations

import json

from llmsvc.proxy.backends import Usage

_DECODER = json.JSONDecoder()

COMMENT = b":\n\n"
"""Says that the stream lives. Empty, for some clients take the text of a comment for data."""


class EventStream:
    """The events of one stream, of OpenAI's dialect; others differ in where they say what.

    :param keep_usage: the client asked for the usage chunk
    """

    def __init__(self, keep_usage: bool = True) -> None:
        self._keep_usage = keep_usage
        self._rest = b""
        self.usage: Usage | None = None
        self.done = False
        """The event that ends a good stream was there."""
        self.failed = False
        """An error event was there."""
        self.stopping = False
        """It said that the model is being stopped."""

    def feed(self, data: bytes) -> bytes:
        """What to send on of these bytes and those left over before: whole events."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not data.endswith((b"\n\n", b"\r\n\r\n")):
            end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4)
            if end < 4 and not data.startswith(b"\n\n"):
                end = 0
            self._rest = data[end:]
            data = data[:end]
        if self.tells(data):
            data = b"".join(event for event in _split(data) if self.keep(event))
        if self.ends(data):
            self.done = True
        return data

    def tells(self, data: bytes) -> bool:
        """Whether an error or a usage object may be in it; all other events are not even parsed."""
        # in a JSON string the quotes would be escaped, so this stands in a usage object or nowhere
        return b'"total_tokens"' in data or b'data: {"error"' in data

    def ends(self, data: bytes) -> bool:
        """Whether the last of these events is the one that ends a good stream."""
        return data.rstrip().endswith(b"data: [DONE]")

    def keep(self, event: bytes) -> bool:
        """Notes what an event tells; false if the client is not to have it."""
        if not event.startswith(b"data: {") or not self.tells(event):
            return True
        try:
            chunk = json.loads(event[6:])
        except ValueError:
            return True
        if "error" in chunk:
            self.fail(chunk)
        usage = Usage.of(chunk.get("usage"))
        if usage is None:
            return True
        self.usage = usage
        return self._keep_usage or bool(chunk.get("choices"))

    def fail(self, error: object) -> None:
        """An error event was there, with this JSON."""
        self.failed = True
        self.stopping = says_stopping(error)


def _split(data: bytes) -> list[bytes]:
    events = []
    for part in data.replace(b"\r\n", b"\n").split(b"\n\n"):
        if part:
            events.append(part + b"\n\n")
    return events


def says_stopping(answer: object) -> bool:
    """Whether an error is the backend's, that it ends this request because it is being stopped."""
    return error_code(answer) == "model_stopping"


def error_code(answer: object) -> object:
    """The code of the error that an answer is, in any dialect; None where it is none."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return None
    details = error.get("details")
    return details.get("error_code") if isinstance(details, dict) else error.get("code")


def usage_of_answer(body: bytes) -> Usage | None:
    """The usage of a whole JSON answer, without parsing all of it: an embedding may be large."""
    place = body.rfind(b'"usage"')
    colon = body.find(b":", place)
    if place < 0 or colon < 0:
        return None
    try:
        data, _ = _DECODER.raw_decode(body[colon + 1 :].decode().lstrip())
    except ValueError:
        return None
    return Usage.of(data)
