"""The ASGI application on the backend's socket: makes an engine keep the backend contract.

It answers by itself what must not wait for the model. A request for the model gets a Job, waits for a slot
and goes to the engine; what the engine sends passes a queue, so that a client that reads slowly never holds
the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import re
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from llmsvc.backend import answers, bodies, bounded, budget
from llmsvc.backend.answers import Events, Message, Receive, Scope, Send
from llmsvc.backend.bodies import Request
from llmsvc.backend.dialects import Answer, routes, truncation
from llmsvc.backend.dialects.routes import COUNTS, EXTRAS, PUBLIC, ROUTES
from llmsvc.backend.engines import Engine
from llmsvc.backend.jobs import Job, Jobs
from llmsvc.backend.problem import ApiError, bad

log = logging.getLogger(__name__)

PREPARE_SECONDS = 20.0
"""A request whose prompt is not made after so long is refused."""

COUNTS_AT_ONCE = 2
"""Requests that only count tokens run beside the model; more of them would take its processors from it."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")
_CANCELLED = {
    "cancel": (499, "the request was cancelled", "request_cancelled"),
    "left": (499, "the client left", "request_cancelled"),
    "slow": (499, "the client did not read its answer", "request_cancelled"),
    "stopping": (503, "the model is being stopped", "model_stopping"),
}


class Adapter:
    """See the module. `jobs` is what the server cancels when it has drained for long enough."""

    def __init__(self, engine: Engine, *, max_body_bytes: int, load_seconds: float) -> None:
        self.jobs = Jobs()
        self._engine = engine
        self._load_seconds = round(load_seconds, 3)
        self._max_body_bytes = max_body_bytes
        self._slots = asyncio.Semaphore(engine.slots)
        self._counts = asyncio.Semaphore(COUNTS_AT_ONCE)
        answering = (self._tokenize, self._count, self._detokenize)
        self._extras: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = dict(
            zip(EXTRAS, answering, strict=True)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _request_id(scope)
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._route(scope, receive, sending, request_id)
        except ApiError as error:
            problem = error
        except (
            Exception
        ) as error:  # a bug of ours; uvicorn would log its message, which may quote the request
            problem = _unexpected(request_id, error)
        else:
            return
        if not started:
            told = routes.of(scope["path"]).error(problem, request_id)
            await answers.send_json(send, problem.status, told, request_id)

    async def _route(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        method, path = scope["method"], scope["path"]
        cancels = path.removeprefix("/cancel/") if path.startswith("/cancel/") else None
        finishes = path.removeprefix("/finish/") if path.startswith("/finish/") else None
        known = path in PUBLIC or cancels or finishes
        if path == "/health" and method in ("GET", "HEAD"):
            await answers.send_json(send, 200, self.health(), request_id)
        elif method != "POST" and (known or path == "/health"):
            raise ApiError(405, f"{path} does not answer {method}", code="method_not_allowed")
        elif cancels:
            await answers.send_json(send, 200, await self._cancel(cancels), request_id)
        elif finishes:
            self._job(finishes).finishing = True
            await answers.send_json(send, 200, {}, request_id)
        elif dialect := ROUTES.get(path):
            body = bodies.parse(await answers.read_body(receive, self._max_body_bytes))
            request = dialect.request(body, self._engine.model)
            limit = budget.of(_header(scope, b"x-token-budget"))
            job = self.jobs.add(request_id, limit, _header(scope, b"x-user"))
            await self._generate(request, job, dialect.answer(body, job), receive, send)
        elif counting := COUNTS.get(path):
            body = bodies.parse(await answers.read_body(receive, self._max_body_bytes))
            request = counting.request(body, self._engine.model)
            told = counting.counted(await self._prompt_tokens(request, Job(request_id), receive))
            await answers.send_json(send, 200, told, request_id)
        elif path in self._extras:
            body = bodies.parse(await answers.read_body(receive, self._max_body_bytes))
            async with self._counts:
                told = await self._extras[path](body)
            await answers.send_json(send, 200, told, request_id)
        else:
            raise ApiError(404, "there is no such path", code="not_found")

    def health(self) -> dict[str, Any]:
        """What the proxy and `llmsvc status` want to know of the model."""
        engine = self._engine
        return {
            "status": "ok",
            "model": engine.model.name,
            "model_file": engine.model.file,
            **dataclasses.asdict(engine.facts),
            "slots": engine.slots,
            "running": self.jobs.running,
            "busy_since": self.jobs.busy_since(),
            "tokens_per_second": engine.tokens_per_second,
            "load_seconds": self._load_seconds,
            "embedding": engine.model.embedding,
            "capabilities": engine.model.capabilities,
        }

    async def _cancel(self, request_id: str) -> dict[str, int]:
        job = self._job(request_id)
        job.cancel("cancel")
        await job.done.wait()
        usage = job.usage()
        return {key: usage[key] for key in ("prompt_tokens", "completion_tokens")}

    def _job(self, request_id: str) -> Job:
        """:raises ApiError: 404"""
        job = self.jobs.find(request_id)
        if job is None:
            raise ApiError(404, "there is no request of this id", code="request_not_found")
        return job

    async def _tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"tokens": await self._engine.tokenize(bodies.text(body))}

    async def _count(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"count": len(await self._engine.tokenize(bodies.text(body)))}

    async def _detokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        tokens = bodies.tokens(body, self._engine.model)
        return {"text": await self._engine.detokenize(tokens)}

    async def _prompt_tokens(self, request: Request, job: Job, receive: Receive) -> int:
        """Counts the tokens of a chat's prompt, beside whatever the model does."""
        leaving = asyncio.create_task(_cancel_when_left(receive, job))
        try:
            async with self._turn(job, self._counts):
                task = await self._prepared(request, job, time.monotonic() + PREPARE_SECONDS)
                return await self._counted(task, job)
        except Exception as error:  # as in _produce()
            raise self._explain(job, error) from None
        finally:
            leaving.cancel()

    async def _counted(self, task: object, job: Job) -> int:
        """The tokens of a prompt, for as long as they are wanted."""
        counting = asyncio.ensure_future(self._engine.count(task))
        unwanted = asyncio.ensure_future(job.unwanted.wait())
        try:
            await asyncio.wait({counting, unwanted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            unwanted.cancel()
            if not counting.done():
                counting.cancel()
                await asyncio.wait({counting})
        job.check()
        return counting.result()

    async def _generate(
        self, request: Request, job: Job, answer: Answer, receive: Receive, send: Send
    ) -> None:
        events: Events = asyncio.Queue()
        producer = asyncio.create_task(self._produce(job, request, events))
        leaving = asyncio.create_task(_cancel_when_left(receive, job))
        try:
            if request.stream:
                await answers.stream(send, events, job, answer)
            else:
                await answers.whole(send, events, job, answer)
        finally:
            leaving.cancel()
            job.cancel("left")
            await producer
            job.answer = None  # the job is remembered, its text is not

    async def _produce(self, job: Job, request: Request, events: Events) -> None:
        """Runs the request when its turn comes; the last thing in `events` is None or what went wrong."""
        problem: ApiError | None = None
        try:
            request, job.task = await self._fitted(request, job)
            budget.check(job)
            async with self._turn(job, self._slots):
                await self._engine.run(request, job, events)
        except Exception as error:  # whatever it raises, its client gets an answer and others the slot
            problem = self._explain(job, job.failure or error)
        finally:
            if problem:
                problem.usage = job.usage()
            self.jobs.finish(job)
            events.put_nowait(problem)

    @contextlib.asynccontextmanager
    async def _turn(self, job: Job, turns: asyncio.Semaphore) -> AsyncIterator[None]:
        """Waits for one of the turns, as long as the job is wanted."""
        turn = asyncio.ensure_future(turns.acquire())
        unwanted = asyncio.ensure_future(job.unwanted.wait())
        await asyncio.wait({turn, unwanted}, return_when=asyncio.FIRST_COMPLETED)
        unwanted.cancel()
        if not turn.done():
            turn.cancel()
            job.check()
        try:
            job.check()
            yield
        finally:
            turns.release()

    async def _fitted(self, request: Request, job: Job) -> tuple[Request, object]:
        """The request, made shorter where it may and must be, and what _prepared() makes of it."""
        end = time.monotonic() + PREPARE_SECONDS
        if request.conversation is None:
            return request, await self._prepared(request, job, end)
        return await truncation.fitted(
            request,
            self._engine.facts.n_ctx,
            lambda shorter: self._prepared(shorter, job, end),
            lambda task: self._counted(task, job),
        )

    async def _prepared(self, request: Request, job: Job, end: float) -> object:
        """What takes time and needs the model's vocabulary and template, but not its turn.

        :param end: when it must be done, by time.monotonic()
        :raises ApiError: 400, what the model cannot serve as it is
        """
        left = max(end - time.monotonic(), 0.0)
        try:
            return await bounded.run(lambda: self._engine.plan(request), job.unwanted, left)
        except bounded.EndedError:
            job.check()
            raise bad("the chat template takes too long over these messages", "messages") from None

    def _explain(self, job: Job, failure: BaseException) -> ApiError:
        if job.cancelled:
            status, message, code = _CANCELLED[job.cancelled]
            return ApiError(status, message, code=code)
        if isinstance(failure, ApiError):
            return failure
        return _unexpected(job.request_id, failure)


def _unexpected(request_id: str, failure: BaseException) -> ApiError:
    """A neutral 500; the journal gets kind and place of the failure, but not its message."""
    frame = traceback.extract_tb(failure.__traceback__)[-1:]
    place = f"{frame[0].filename.rpartition('/')[2]}:{frame[0].lineno}" if frame else "?"
    log.error("request %s failed: %s in %s", request_id, type(failure).__name__, place)
    return ApiError(500, "the model failed on this request")


async def _cancel_when_left(receive: Receive, job: Job) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    job.cancel("left")


def _request_id(scope: Scope) -> str:
    given = _header(scope, b"x-request-id")
    return given if _REQUEST_ID.match(given) else str(uuid.uuid4())


def _header(scope: Scope, wanted: bytes) -> str:
    """A header's value; empty where there is none."""
    found: bytes = next((value for name, value in scope["headers"] if name == wanted), b"")
    return found.decode("latin-1")
