"""What the ledger will say of one request: gathered on its way, one row at its end."""

from __future__ import annotations

import dataclasses
import datetime
import time
import uuid

from starlette.types import Scope

from llmsvc.proxy.access import Row
from llmsvc.proxy.backends import Usage
from llmsvc.proxy.participants import Participant


@dataclasses.dataclass(slots=True)
class Tally:
    """A request from its acceptance. Times are seconds of time.monotonic().

    :param client: the client's IP address
    """

    request_id: uuid.UUID
    who: Participant
    client: str | None
    path: str
    created: datetime.datetime = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.timezone.utc)
    )
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

    def row(self, response_bytes: int = 0, open_state: str | None = None) -> Row:
        """The columns of llama_requests.

        :param open_state: what to call a request that has not ended, if nothing else is ever heard of it
        """
        ended = open_state is None
        first = None if self.first_token is None else _milliseconds(self.first_token - self.start)
        return {
            "request_id": str(self.request_id),
            "username": self.who.record.username,
            "user_id": self.who.record.user_id,
            "key_id": self.who.record.key_id,
            "end_user": self.who.end_user,
            "client_addr": self.client,
            "path": self.path,
            "model": self.model,
            "state": open_state or self.state,
            "status_code": self.status if ended else None,
            "duration_ms": _milliseconds(time.monotonic() - self.start) if ended else None,
            "queue_ms": _milliseconds(self.queued) if ended else None,
            "first_token_ms": first,
            "request_bytes": self.request_bytes,
            "response_bytes": response_bytes,
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "created_at": self.created.isoformat(),
        }


def client_address(scope: Scope) -> str | None:
    """The IP address of the client; None on a unix socket."""
    client = scope.get("client")
    return client[0].partition("%")[0] or None if client else None


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
