"""What the ledger will say of one request: gathered on its way, one row at its end."""

from __future__ import annotations

import dataclasses
import datetime
import time

from starlette.types import Scope

from llmsvc.proxy.access import Row
from llmsvc.proxy.backends import Usage
from llmsvc.proxy.participants import Participant


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat()


@dataclasses.dataclass(slots=True)
class Tally:
    """A request from its acceptance. Times are seconds of time.monotonic().

    :param client: the client's IP address
    """

    request_id: str
    who: Participant
    client: str | None
    path: str
    created: str = dataclasses.field(default_factory=_now)
    start: float = dataclasses.field(default_factory=time.monotonic)
    request_bytes: int = 0
    model: str | None = None
    """The backend that had the request last."""
    queued: float = 0.0
    """Seconds of waiting."""
    first_token: float | None = None
    usage: Usage = dataclasses.field(default_factory=Usage)
    status: int = 200
    state: str = "ok"

    def forget_answer(self) -> None:
        """The backend went away before the client had a byte of it; the next one begins anew."""
        self.first_token = None
        self.usage = Usage()

    def opening(self, state: str) -> Row:
        """The columns of llama_requests that are known of a request as it is accepted.

        :param state: what to call it if nothing else is ever heard of it
        """
        record = self.who.record
        return {
            "request_id": self.request_id,
            "username": record.username,
            "user_id": record.user_id,
            "key_id": record.key_id,
            "end_user": self.who.end_user,
            "client_addr": self.client,
            "path": self.path,
            "state": state,
            "request_bytes": self.request_bytes,
            "response_bytes": 0,
            "created_at": self.created,
        }

    def row(self, response_bytes: int) -> Row:
        """The columns of llama_requests at the end of the request."""
        record = self.who.record
        first = None if self.first_token is None else _milliseconds(self.first_token - self.start)
        return {
            "request_id": self.request_id,
            "username": record.username,
            "user_id": record.user_id,
            "key_id": record.key_id,
            "end_user": self.who.end_user,
            "client_addr": self.client,
            "path": self.path,
            "model": self.model,
            "state": self.state,
            "status_code": self.status,
            "duration_ms": _milliseconds(time.monotonic() - self.start),
            "queue_ms": _milliseconds(self.queued),
            "first_token_ms": first,
            "request_bytes": self.request_bytes,
            "response_bytes": response_bytes,
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "created_at": self.created,
        }


def client_address(scope: Scope) -> str | None:
    """The IP address of the client; None on a unix socket."""
    client = scope.get("client")
    return client[0].partition("%")[0] or None if client else None


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
