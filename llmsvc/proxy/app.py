"""What is served: the model endpoints by a plain ASGI callable, for speed, the small routes by FastAPI."""

from __future__ import annotations

import datetime
import json
import math
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from llmsvc.accounts.directory import KeyRecord
from llmsvc.proxy import access, cors, dialects, openapi, request_ids, requests, unserved
from llmsvc.proxy.buckets import Buckets
from llmsvc.proxy.client import Client
from llmsvc.proxy.cors import Cors
from llmsvc.proxy.dialects import ROUTES, Dialect
from llmsvc.proxy.errors import ApiError, Headers, model_not_found
from llmsvc.proxy.exchange import Exchange
from llmsvc.proxy.guesses import Guesses
from llmsvc.proxy.ledger import new_request_id
from llmsvc.proxy.metrics import CONTENT_TYPE
from llmsvc.proxy.participants import Participant
from llmsvc.proxy.services import Services
from llmsvc.proxy.tally import client_address

_REQUEST_ID = "llmsvc.request_id"
# reading costs next to nothing; this is against loops without a pause
_READS_BURST, _READS_PER_SECOND, _MOST_READERS = 120, 10.0, 10_000


class Application:
    """The ASGI application of the proxy."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._guesses = Guesses()
        self._routes = routes(services, self._guesses)
        origins = services.config.llama_proxy_cors_origins
        self._cors = Cors(origins) if origins else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self._cors is not None:
            asked = self._cors.preflight(scope)
            if asked is not None:
                await _empty(send, asked)
                return
            send = cors.adding(send, self._cors.allows(scope))
        dialect = ROUTES.get(scope["path"])
        if dialect is None or scope["method"] != "POST":
            await self._small(scope, receive, send)
            return
        services = self._services
        try:
            record = services.keys.authenticate(scope["headers"], x_api_key=dialect.x_api_key)
        except ApiError as error:
            await self._refuse(scope, send, dialect, self._guesses.judge(scope, error))
            return
        await Exchange(services, record, scope, receive, send).serve()

    async def _small(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The small routes; HEAD as GET, whose body the connection leaves out."""
        ours = scope[_REQUEST_ID] = str(new_request_id())
        send = cors.adding(send, request_ids.headers(ours, request_ids.chosen(scope["headers"])))
        if scope["method"] == "HEAD" and scope["path"] not in ROUTES:
            scope = {**scope, "method": "GET"}
        await self._routes(scope, receive, send)

    async def _refuse(self, scope: Scope, send: Send, dialect: Dialect, error: ApiError) -> None:
        """Answers a request without a valid key; it has no row in the ledger, but an entry in the journal."""
        start = time.monotonic()
        ours, chosen = str(new_request_id()), request_ids.chosen(scope["headers"])
        known = chosen or ours.encode()
        await Client(send, lambda: request_ids.headers(ours, chosen), dialect, known).fail(error)
        row = _refused_row(scope, ours, error, start)
        _log_refused(self._services, row, error)
        self._services.metrics.count(row)


async def _empty(send: Send, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": list(headers)})
    await send({"type": "http.response.body", "body": b""})


def _log_refused(services: Services, row: access.Row, error: ApiError) -> None:
    # of wrong keys in a loop there may be thousands a second
    if error.state != "rejected_guess":
        access.write(services.journal, row)


def _refused_row(scope: Scope, request_id: str, error: ApiError, start: float) -> access.Row:
    return {
        "request_id": request_id,
        "client_addr": client_address(scope),
        # decoded, one of the others could hold line ends
        "path": scope["path"] if scope["path"] in ROUTES else scope["raw_path"].decode(),
        "state": error.state,
        "status_code": error.status,
        "duration_ms": round((time.monotonic() - start) * 1000),
        **request_ids.journal(request_ids.chosen(scope["headers"])),
    }


def routes(services: Services, guesses: Guesses) -> FastAPI:
    """The small routes."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    started = int(time.time())
    description = json.dumps(openapi.DESCRIPTION).encode()
    reads = Buckets(_READS_BURST, _READS_PER_SECOND, _MOST_READERS)

    def authenticate(request: Request, *, x_api_key: bool = False) -> KeyRecord:
        start = time.monotonic()
        try:
            record = services.keys.authenticate(request.scope["headers"], x_api_key=x_api_key)
        except ApiError as refused:
            error = guesses.judge(request.scope, refused)
            row = _refused_row(request.scope, request.scope[_REQUEST_ID], error, start)
            _log_refused(services, row, error)
            raise error from None
        if not record.hidden:
            _take(reads, record)
        return record

    def participant(request: Request) -> Participant:
        return services.participants.alone(authenticate(request), request.scope["headers"])

    def limits(record: KeyRecord, request: Request) -> dict[str, str]:
        return _texts(services.limits.headers(services.participants.of(record, request.scope["headers"])))

    def models(record: KeyRecord) -> list[dict[str, Any]]:
        loaded, coming = services.switcher.loaded, services.upstream.coming
        allowed = record.models
        if loaded is not None:
            known = [
                _model(name, loaded.created, loaded.context, loaded.capabilities)
                for name in (loaded.name, "current")
            ]
            known = known if allowed is None or loaded.name in allowed else []
        else:
            known = [_model(name, started, None) for name in ([coming] if coming else []) + ["current"]]
        names = [model["id"] for model in known]
        others = [name for name in services.switcher.choices(record) if name not in names]
        return known + [_model(name, services.switcher.since(name), None) for name in others]

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready() -> JSONResponse:
        # what `systemctl` has done counts at once
        await services.upstream.scan()
        is_ready = services.switcher.loaded is not None and services.keys.database_ok
        return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

    @app.get("/openapi.json")
    async def describe() -> Response:
        return Response(description, media_type="application/json")

    @app.get("/v1/models")
    async def list_models(request: Request) -> JSONResponse:
        record = authenticate(request, x_api_key=True)
        await services.upstream.scan()
        known = models(record)
        ids = [model["id"] for model in known] or [None]
        # the last three are for Anthropic's clients
        listed = {"object": "list", "data": known, "has_more": False, "first_id": ids[0], "last_id": ids[-1]}
        return JSONResponse(listed, headers=limits(record, request))

    @app.get("/v1/models/{model_id}")
    async def show_model(request: Request, model_id: str) -> JSONResponse:
        record = authenticate(request, x_api_key=True)
        await services.upstream.scan()
        known = models(record)
        found = next((model for model in known if model["id"] == model_id), None)
        if found is None:
            raise model_not_found(model_id, known[0]["id"] if known else "another one")
        return JSONResponse(found, headers=limits(record, request))

    @app.get("/v1/queue")
    async def show_queue(request: Request) -> JSONResponse:
        who = participant(request)
        return JSONResponse(requests.queue(services, who), headers=_texts(services.limits.headers(who)))

    @app.post("/v1/requests/{request_id}/cancel")
    async def cancel_request(request: Request, request_id: str) -> JSONResponse:
        return JSONResponse(requests.cancel(services, participant(request), request_id))

    @app.get("/v1/usage")
    async def show_usage(request: Request) -> JSONResponse:
        who = participant(request)
        shown = await services.usage.of(who, request.query_params.get("days", "30"))
        return JSONResponse(shown, headers=_texts(services.limits.headers(who)))

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        if not requests.sees_all(participant(request)):
            raise ApiError(
                403, "The metrics are for admins' keys.", code="admin_required", state="rejected_key"
            )
        return Response(services.metrics.text(), media_type=CONTENT_TYPE)

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return _answer(request.scope, error)

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        return _not_served(app, request.scope, error.status_code)

    return app


def _not_served(app: FastAPI, scope: Scope, status: int) -> Response:
    """Neither a model endpoint nor a route of ours, or not by this method."""
    method, path = scope["method"], scope["path"]
    allowed = {"POST"} if path in ROUTES else set()
    for route in app.routes:
        if route.matches(scope)[0] != Match.NONE:
            allowed |= getattr(route, "methods", set())
    if allowed:
        allowed |= {"HEAD", "OPTIONS"} if "GET" in allowed else {"OPTIONS"}
        allow = [(b"allow", ", ".join(sorted(allowed)).encode())]
        if method == "OPTIONS":
            return Response(None, 204, _texts(allow))
        told = f"{method} {path} is not served here, but {', '.join(sorted(allowed - {'OPTIONS'}))}."
        return _answer(scope, ApiError(405, told, code="method_not_allowed", headers=allow))
    if path == "*":
        return Response(None, 204)
    meant = unserved.hint(path, {*ROUTES, "/v1/models"})
    told = f"{method} {path[:200]} is not served here{f' ({meant})' if meant else ''}"
    told = f"{told}. Served are: {unserved.SERVED}."
    return _answer(scope, ApiError(status, told, code="not_found"))


def _take(reads: Buckets, record: KeyRecord) -> None:
    wait = reads.take(record.user_id)
    if wait:
        raise ApiError(
            429,
            f"More than {_READS_PER_SECOND:g} requests a second that ask no model.",
            kind="requests",
            code="rate_limit_exceeded",
            state="rejected_limit",
            headers=[(b"retry-after", b"%d" % math.ceil(wait))],
        )


def _model(
    name: str, created: int, context: int | None, capabilities: tuple[str, ...] = ()
) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "llmsvc",
        "context_length": context,
        "max_model_len": context,
        # Anthropic's clients read these
        "type": "model",
        "display_name": name,
        "created_at": datetime.datetime.fromtimestamp(created, datetime.timezone.utc).isoformat(),
        # of a model that is not loaded only its own process would know
        **({"capabilities": list(capabilities)} if capabilities else {}),
    }


def _answer(scope: Scope, error: ApiError) -> Response:
    known = request_ids.chosen(scope["headers"]) or scope[_REQUEST_ID].encode()
    dialect = dialects.of(scope["path"])
    headers = {**_texts(error.headers), **_texts(dialect.headers(known))}
    return Response(dialect.error(error, known), error.status, headers, "application/json")


def _texts(headers: Headers) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}
