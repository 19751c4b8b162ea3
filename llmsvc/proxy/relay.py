"""Takes a backend's answer to the client, whole or as a stream, and notes what the ledger will say of it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable

from llmsvc.proxy import sse
from llmsvc.proxy.backend_client import LostError, Response
from llmsvc.proxy.backends import BudgetError, StoppingError, Usage
from llmsvc.proxy.client import Client
from llmsvc.proxy.sse import EventStream
from llmsvc.proxy.tally import Tally


async def relay(
    response: Response,
    client: Client,
    tally: Tally,
    free: Callable[[bool], None],
    events: EventStream,
) -> None:
    """Takes the whole answer to the client.

    :param free: called once the model is done with the request, which may be before the client has it all;
        told whether this was no failure of the model
    :param events: reads a stream
    :raises BudgetError: the prompt alone takes more tokens than the request may
    :raises StoppingError: the backend is being stopped, and the client has no byte of the answer yet
    :raises LOST: the backend went away
    """
    if response.status == 200 and response.content_type.startswith("text/event-stream"):
        await _stream(response, client, tally, free, events)
    else:
        await _whole(response, client, tally, free)


async def _whole(response: Response, client: Client, tally: Tally, free: Callable[[bool], None]) -> None:
    answer = await response.read()
    if response.status == 503 and sse.says_stopping(_parsed(answer)):
        raise StoppingError
    if response.status == 429 and sse.error_code(_parsed(answer)) == "token_budget_exceeded":
        raise BudgetError(sse.usage_of_answer(answer) or Usage())
    tally.first_token = time.monotonic()
    tally.usage = sse.usage_of_answer(answer) or tally.usage
    tally.status = response.status
    if response.status != 200:
        tally.state = "rejected_request" if response.status < 500 else "error"
    free(response.status < 500)
    if client.started:
        await client.end_failed(_one_line(answer))
    else:
        kind = response.content_type or "application/json"
        await client.answer(response.status, answer, [(b"content-type", kind.encode("latin-1"))])


async def _stream(
    response: Response,
    client: Client,
    tally: Tally,
    free: Callable[[bool], None],
    events: EventStream,
) -> None:
    # goes out with the end: who has seen [DONE] may leave at once, and has not left early
    last = b""
    while data := await response.read_some():
        if tally.first_token is None:
            tally.first_token = time.monotonic()
        out = events.feed(data)
        if events.stopping and not client.answering:
            raise StoppingError
        if events.done:
            last += out
        elif out:
            await client.events(out)
    if events.usage is not None:
        tally.usage = events.usage
    if events.stopping:
        tally.status, tally.state = 503, "switched"
    elif events.failed:
        tally.state = "error"
    elif not events.done:
        raise LostError("the stream has no end")
    free(tally.state == "ok")
    await client.end(last)


def _one_line(answer: bytes) -> bytes:
    parsed = _parsed(answer)
    if parsed is None:
        parsed = {"error": {"message": "The model failed.", "type": "server_error"}}
    return json.dumps(parsed).encode()


def _parsed(answer: bytes) -> object:
    with contextlib.suppress(ValueError):
        return json.loads(answer)
    return None
