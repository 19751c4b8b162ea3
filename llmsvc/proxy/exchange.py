"""One request on its way: limits, body, queue, backend, answer, ledger. Read from serve() down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any

from starlette.types import Receive, Scope, Send

from llmsvc.accounts.directory import KeyRecord
from llmsvc.proxy import access, body, request_ids
from llmsvc.proxy.backend_client import RefusedError, Response
from llmsvc.proxy.backends import LOST, Backend, BudgetError, StoppingError
from llmsvc.proxy.budget import Budget
from llmsvc.proxy.client import Client
from llmsvc.proxy.dialects import ROUTES
from llmsvc.proxy.errors import (
    BODY_TIMEOUT,
    CLIENT_GONE,
    STOPPING,
    ApiError,
    Headers,
    model_not_allowed,
    model_not_found,
    switched_away,
    upstream_lost,
)
from llmsvc.proxy.ledger import new_request_id
from llmsvc.proxy.participants import Participant
from llmsvc.proxy.poison import Case
from llmsvc.proxy.relay import relay
from llmsvc.proxy.services import Services
from llmsvc.proxy.tally import Tally, client_address
from llmsvc.proxy.turns import Waiter
from llmsvc.proxy.unloaded import Unloaded

_log = logging.getLogger(__name__)

# crashes are the business of poison.py; this is for a backend that closes connections for no reason
_ATTEMPTS = 5
_SILENCE_SECONDS = 10.0
# how long a client that reads slowly may take to hear of an error
_LAST_WORDS_SECONDS = 5.0
# most answers are there before it would pay to watch for a client that leaves
_WATCH_AFTER_SECONDS = 0.05
_GIVE_WAY_SECONDS = 0.5


BUFFER_ANSWER = "llmsvc.buffer_answer"
"""In the scope: a function that lets the connection buffer a whole answer; for those who have shown a key."""


class Exchange:
    """A request with a valid key, from its acceptance to its row in the ledger."""

    def __init__(
        self, services: Services, record: KeyRecord, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.who = Participant(str(record.user_id), record)
        self._services = services
        self._scope = scope
        self._receive = receive
        self._path: str = scope["path"]
        self._dialect = ROUTES[self._path]
        self._key = new_request_id()
        self.id = str(self._key)
        self._chosen_id = request_ids.chosen(scope["headers"])
        known = self._chosen_id or self.id.encode()
        self._client = Client(send, self._headers, self._dialect, known)
        self._tally = Tally(self.id, self.who, client_address(scope), self._path)
        self._task: asyncio.Task[Any] | None = None
        self._reason: ApiError | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._helpers: list[asyncio.Task[None]] = []
        self._entered = False
        self._row: access.Row | None = None
        self._place: float | None = None
        self._waiter: Waiter | None = None
        self._budget: Budget | None = None
        self._turn_since = 0.0
        self._time_is_up: asyncio.TimerHandle | None = None
        self._body: body.Body | None = None
        self._backend: Backend | None = None
        self._response: Response | None = None
        self._at_backend = False
        self._case: Case | None = None
        self._expected: str | None = None
        self._wants: str | None = None
        self._held: float = 0.0

    @property
    def running_since(self) -> float | None:
        """Since when, by time.monotonic(), it has a slot of the model's; None where it has none."""
        return self._turn_since if self._at_backend and not self._dialect.counts else None

    @property
    def model(self) -> str | None:
        """The model that has it, or had it last."""
        return self._tally.model

    def abort(self, reason: ApiError) -> None:
        """Ends the request early; does nothing if its answer is complete or it is being ended already."""
        if self._task is not None and self._reason is None and not self._client.complete:
            self._reason = reason
            self._task.cancel()

    async def serve(self) -> None:
        """Serves the request, whatever happens, to its one row in the ledger."""
        self._task = asyncio.current_task()
        self._services.running.add(self)
        self._scope.get(BUFFER_ANSWER, _nothing)()
        error: ApiError | None = None
        try:
            try:
                await self._admit()
                await self._take_turns()
            except ApiError as refused:
                error = refused
            except body.ClientGoneError:
                error = CLIENT_GONE
            except asyncio.CancelledError:
                error = self._reason or STOPPING
            except Exception:  # a bug of ours is one failed request with its row, not a dead connection
                _log.exception("request %s failed", self.id)
                error = ApiError(500, "The proxy failed.", kind="server_error", code="internal_error")
            self._task = None
            for timer in self._timers:
                timer.cancel()
            for helper in self._helpers:
                helper.cancel()
            if error is not None:
                await self._fail(error)
        finally:
            self._leave_backend()
            if self._entered:
                self._services.limits.leave(self.who)
            self._services.running.discard(self)
            if self._is_over_limit() and not self._services.refusals.are_told(self.who):
                row = self._tally.row(self._client.bytes)
            else:
                row = self._row or self._record()
                told = row if self._chosen_id is None else {**row, **request_ids.journal(self._chosen_id)}
                access.write(self._services.journal, told)
            self._services.metrics.count(row)

    def _is_over_limit(self) -> bool:
        return not self._entered and self._tally.state == "rejected_limit"

    def _record(self) -> access.Row:
        row = self._row = self._tally.row(self._client.bytes)
        self._services.ledger.end(self._key, row)
        return row

    async def _admit(self) -> None:
        """Everything that can be refused before queueing."""
        services, config = self._services, self._services.config
        self.who = self._tally.who = services.participants.of(self.who.record, self._scope["headers"])
        self._place = services.limits.enter(self.who)
        self._entered = self._place is not None
        loop = asyncio.get_running_loop()
        timer = loop.call_later(config.llama_proxy_body_seconds, self.abort, BODY_TIMEOUT)
        self._timers.append(timer)
        raw = await body.read(self._scope, self._receive, config.llama_proxy_max_body_bytes)
        timer.cancel()
        self._tally.request_bytes = len(raw)
        self._body = body.parse(raw, self._dialect)
        self._case = Case(services.poison, self._path, raw)
        answer = None if self._dialect.reads_again else self._body.answer_tokens(self._bounds)
        self._budget = Budget(services.limits, self.who, len(raw), answer, self._context)
        self._wants = services.switcher.wanted(self.who.record, self._body.model)
        if self._wants is not None:
            self._check_allowed(self._wants)
        if services.switcher.loaded is not None:
            self._check_model(services.switcher.loaded)
        if services.queue.backend is not None:
            self._case.check(services.queue.backend.name)
        self._expected = services.upstream.expects(self._body.model)
        services.queue.check(self.who, len(raw), needs_slot=not self._dialect.counts)
        services.ledger.accept(self._key, self._tally.opening("proxy_killed"))
        self._timers.append(loop.call_later(_WATCH_AFTER_SECONDS, self._help, self._watch_client))
        if self._body.stream:
            self._timers.append(loop.call_later(_SILENCE_SECONDS, self._help, self._break_silence))

    def _check_model(self, backend: Backend | Unloaded) -> None:
        assert self._body is not None
        if self._wants not in (None, backend.name):
            return  # it waits until that one is loaded
        self._check_allowed(backend.name)
        if self._wants is not None:
            return
        model = self._body.model
        if not backend.answers_to(model) and self._services.config.llama_proxy_other_model == "refuse":
            if self._expected is not None:
                raise switched_away(self._expected, backend.name)
            raise model_not_found(str(model), backend.name)

    def _check_allowed(self, model: str) -> None:
        # not as it was when the request came: it may have waited for minutes
        allowed = self._services.keys.now(self.who.record).models
        if allowed is not None and model not in allowed:
            raise model_not_allowed(model)

    async def _take_turns(self) -> None:
        """Waits for a turn and lets the backend answer; again, if it went away before the first byte."""
        upstream, case = self._services.upstream, self._case
        assert case is not None
        lost, failures = False, 0
        while failures < _ATTEMPTS:
            backend = self._backend = await self._turn(first=lost)
            self._check_model(backend)
            case.check(backend.name)
            self._tally.model = backend.name
            try:
                if self._dialect.counts:
                    await self._forward_alone(backend, case)
                else:
                    await self._forward(backend, case)
                return
            except StoppingError:
                upstream.lost(backend)
            except LOST as error:
                upstream.lost(backend)
                # one that stops refuses connections: it never had the request
                if not isinstance(error, RefusedError):
                    failures += 1
                    case.lost(backend.name)
            if self._client.answering:
                break
            self._leave_backend()
            self._tally.forget_answer()
            lost = True
        raise upstream_lost()

    async def _turn(self, *, first: bool) -> Backend:
        assert self._budget is not None
        assert self._body is not None
        queue = self._services.queue
        since, outages = time.monotonic(), queue.outage_seconds()
        self._waiter = Waiter(
            self.who,
            self.id,
            since + self._services.config.llama_proxy_queue_seconds - self._tally.queued,
            size=len(self._body.raw),
            wants=self._wants,
            budget=self._budget if self._budget.limited and not self._dialect.counts else None,
            needs_slot=not self._dialect.counts,
            first=first,
            held=self._held,
        )
        try:
            return await queue.acquire(self._waiter)
        finally:
            self._turn_since = time.monotonic()
            self._tally.queued += self._turn_since - since
            self._held += queue.outage_seconds() - outages

    async def _forward_alone(self, backend: Backend, case: Case) -> None:
        """What needs no slot goes to the backend when its participant has no other such request there."""
        assert self._body is not None
        since = time.monotonic()
        async with self._services.counts.turn(self.who, len(self._body.raw)):
            self._tally.queued += time.monotonic() - since
            await self._forward(backend, case)

    def _context(self) -> int | None:
        """Tokens that the request can take at most, by the model's context."""
        backend = self._services.queue.backend
        # of what is only read there may be many texts, each as long as that
        return backend.context if backend and self._dialect.lengths else None

    @property
    def _bounds(self) -> body.Bounds:
        config = self._services.config
        most = self.who.record.max_tokens or config.llama_proxy_max_tokens_limit
        return body.Bounds(config.llama_proxy_max_tokens, most)

    async def _forward(self, backend: Backend, case: Case) -> None:
        assert self._body is not None
        assert self._budget is not None
        data = self._body.outgoing(backend.name, self._bounds)
        case.sent()
        self._at_backend, sent = True, time.monotonic()
        if not self._dialect.counts:
            self._give_way_after(self._services.config.llama_proxy_max_seconds, backend)
        response = self._response = await backend.post(
            self._path, data, self.id, self._budget.tokens, self.who.key
        )

        def free(answered: bool) -> None:
            tokens = self._tally.usage.completion_tokens
            if answered and tokens:
                self._services.speed.note(tokens, time.monotonic() - sent)
            if answered:
                case.succeeded(backend.name)
            self._leave_backend()
            # a client that has its answer has its row, even if we are killed in the next moment
            self._client.before_last = self._record

        try:
            events = self._dialect.stream(keep_usage=self._body.wants_usage)
            await relay(response, self._client, self._tally, free, events)
        except BudgetError as error:
            self._leave_backend()
            raise self._budget.too_small(error.usage) from None

    def _give_way(self, backend: Backend) -> None:
        """It had its time on the model: as soon as somebody else waits, its answer ends."""
        if self._backend is not backend:
            return
        if self._services.queue.others_wait(self.who):
            self._help(partial(backend.finish, self.id))
        else:
            self._give_way_after(_GIVE_WAY_SECONDS, backend)

    def _give_way_after(self, seconds: float, backend: Backend) -> None:
        self._time_is_up = asyncio.get_running_loop().call_later(seconds, self._give_way, backend)

    async def _fail(self, error: ApiError) -> None:
        """Frees the model and tells the client, who may be slow to hear it."""
        self._tally.status, self._tally.state = error.status, error.state
        told = None
        if error is CLIENT_GONE:
            had_turn = self._at_backend or self._tally.first_token is not None
            if self._place is not None and not had_turn:
                self._services.limits.give_back(self.who, self._place)
        else:
            told = asyncio.ensure_future(self._client.fail(error))
        # what only counts is not known by its id: it ends with its connection
        if self._at_backend and self._backend is not None and not self._dialect.counts:
            usage = await self._backend.cancel(self.id)
            if usage is not None:
                self._tally.usage = usage
            elif self._case is not None:
                self._case.lost(self._backend.name)
        self._leave_backend()
        if told is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(told, _LAST_WORDS_SECONDS)

    def _leave_backend(self) -> None:
        """Gives the slot back; a connection with an unread answer is closed."""
        response, self._response = self._response, None
        backend, self._backend = self._backend, None
        self._at_backend = False
        if self._time_is_up is not None:
            self._time_is_up.cancel()
        if self._budget is not None:
            self._budget.settle(self._tally.usage)
        if response is not None:
            response.close()
        if backend is not None:
            held, needs_slot = time.monotonic() - self._turn_since, not self._dialect.counts
            self._services.queue.release(backend, self.who, held, needs_slot=needs_slot)

    def _help(self, work: Any) -> None:
        coroutine: Coroutine[Any, Any, None] = work()
        self._helpers.append(asyncio.get_running_loop().create_task(coroutine))

    async def _watch_client(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.abort(CLIENT_GONE)

    async def _break_silence(self) -> None:
        while not self._client.complete:
            silence = time.monotonic() - self._client.last_write
            if silence >= _SILENCE_SECONDS:
                await self._client.comment()
                silence = 0.0
            await asyncio.sleep(_SILENCE_SECONDS - silence)

    def _headers(self) -> Headers:
        headers = [*request_ids.headers(self.id, self._chosen_id), *self._services.limits.headers(self.who)]
        if self._waiter is not None and self._waiter.position:
            headers.append((b"x-queue-position", b"%d" % self._waiter.position))
        return headers


def _nothing() -> None:
    pass
