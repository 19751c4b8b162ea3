"""Calls llama_cpp.server's app with a request of our own making."""

from __future__ import annotations

import asyncio

from llmsvc.backend import answers
from llmsvc.backend.answers import Events, Message, Receive, Scope, Send
from llmsvc.backend.bodies import Request
from llmsvc.backend.jobs import Job


def call(request: Request, job: Job, events: Events) -> tuple[Scope, Receive, Send]:
    """What the app is called with: a scope and a body of our own; it never sees the client leave."""
    raw = answers.encode(request.body)
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            await asyncio.Event().wait()
        given = True
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message: Message) -> None:
        answers.put(events, message, job)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(raw))],
        "client": None,
        "server": None,
        "state": {},
    }
    return scope, receive, send
