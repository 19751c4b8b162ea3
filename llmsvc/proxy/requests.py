"""Requests that have not ended, for those who sent them and for admins: where they stand, and their end."""

from __future__ import annotations

import time
from typing import Any

from llmsvc.proxy.errors import CANCELLED, ApiError
from llmsvc.proxy.exchange import Exchange
from llmsvc.proxy.participants import Participant
from llmsvc.proxy.services import Services


def sees_all(who: Participant) -> bool:
    """Whether somebody may see, and end, the requests of others: admins, and this machine's own checks.

    Behind a front end there are many people: whoever made its key for an admin did not mean all of them.
    """
    record = who.record
    return record.on_behalf_of is None and (record.role == "admin" or record.hidden)


def queue(services: Services, who: Participant) -> dict[str, Any]:
    """The requests that somebody may see, those that wait in the order of their turns.

    `position` is 1 for the next one and 0 for one that runs; `seconds` is for how long it has waited, or run;
    `expected_seconds` until its turn, if requests last as of late and nobody comes before it.
    """
    fair_queue, everybody = services.queue, sees_all(who)
    now = time.monotonic()
    entries = []
    for exchange in sorted(services.running, key=lambda one: one.running_since or now):
        if exchange.running_since is not None and (everybody or exchange.who.key == who.key):
            model, seconds = exchange.model, now - exchange.running_since
            entries.append(_entry(exchange.id, exchange.who, everybody, "running", model, 0, seconds, 0.0))
    for place, waiter in enumerate(fair_queue.turns(), 1):
        if everybody or waiter.who.key == who.key:
            seconds, expected = now - waiter.since, fair_queue.expected_seconds(place)
            entries.append(
                _entry(
                    waiter.request_id,
                    waiter.who,
                    everybody,
                    "waiting",
                    waiter.wants,
                    place,
                    seconds,
                    expected,
                )
            )
    return {
        "object": "list",
        "data": entries,
        "running": services.upstream.running,
        "waiting": fair_queue.waiting,
        "slots": fair_queue.backend.slots if fair_queue.backend else 0,
    }


def _entry(
    request_id: str,
    who: Participant,
    with_user: bool,
    state: str,
    model: str | None,
    position: int,
    seconds: float,
    expected: float | None,
) -> dict[str, Any]:
    shown = {"user": who.record.username, "end_user": who.end_user} if with_user else {}
    return {
        "id": request_id,
        "object": "request",
        **shown,
        "state": state,
        "model": model,
        "position": position,
        "seconds": round(seconds, 1),
        "expected_seconds": expected,
    }


def cancel(services: Services, who: Participant, request_id: str) -> dict[str, Any]:
    """Ends a request that waits or runs.

    :raises ApiError: 404, there is none of this id, or it is somebody else's
    """
    found: Exchange | None = next((one for one in services.running if one.id == request_id), None)
    if found is None or not (sees_all(who) or found.who.key == who.key):
        raise ApiError(
            404,
            "There is no request of this id that waits or runs.",
            code="request_not_found",
            param="id",
        )
    found.abort(CANCELLED)
    return {
        "id": request_id,
        "object": "request.cancelled",
        "user": found.who.record.username,
        "end_user": found.who.end_user,
    }
