"""What is served: the model endpoints by a plain ASGI callable, for speed, the small routes by FastAPI."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from llmsvc.accounts.directory import KeyRecord
from llmsvc.proxy import access, requests
from llmsvc.proxy.client import Client
from llmsvc.proxy.errors import ApiError, Headers, model_not_found
from llmsvc.proxy.exchange import Exchange
from llmsvc.proxy.ledger import new_request_id
from llmsvc.proxy.metrics import CONTENT_TYPE
from llmsvc.proxy.participants import Participant
from llmsvc.proxy.services import Services
from llmsvc.proxy.tally import client_address

MODEL_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/extras/tokenize",
        "/extras/tokenize/count",
        "/extras/detokenize",
    }
)
_REQUEST_ID = "llmsvc.request_id"
_SERVED = (
    "GET /v1/models, /v1/queue, /v1/usage, /metrics, /health, /ready; POST /v1/chat/completions, "
    "/v1/completions, /v1/embeddings, /v1/requests/ID/cancel, /extras/tokenize, /extras/tokenize/count, "
    "/extras/detokenize"
)


class Application:
    """The ASGI application of the proxy."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._routes = routes(services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] not in MODEL_PATHS or scope["method"] != "POST":
            request_id = str(new_request_id())
            scope[_REQUEST_ID] = request_id
            await self._routes(scope, receive, _with_request_id(send, request_id))
            return
        services = self._services
        try:
            record = services.keys.authenticate(scope["headers"])
        except ApiError as error:
            await _refuse(services, scope, send, error)
            return
        await Exchange(services, record, scope, receive, send).serve()


async def _refuse(services: Services, scope: Scope, send: Send, error: ApiError) -> None:
    """Answers a request without a valid key; it has no row in the ledger, but an entry in the journal."""
    start = time.monotonic()
    request_id = str(new_request_id())
    await Client(send, lambda: [(b"x-request-id", request_id.encode())]).fail(error)
    row = _refused_row(scope, request_id, error, start)
    access.write(services.journal, row)
    services.metrics.count(row)


def _refused_row(scope: Scope, request_id: str, error: ApiError, start: float) -> access.Row:
    return {
        "request_id": request_id,
        "client_addr": client_address(scope),
        "path": scope["path"],
        "state": error.state,
        "status_code": error.status,
        "duration_ms": round((time.monotonic() - start) * 1000),
    }


def _with_request_id(send: Send, request_id: str) -> Send:
    header = (b"x-request-id", request_id.encode())

    async def send_with_request_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), header]
        await send(message)

    return send_with_request_id


def routes(services: Services) -> FastAPI:
    """The small routes."""
    # no description of the interface: it would show nothing that is not in this file's 404
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    started = int(time.time())

    def authenticate(request: Request) -> KeyRecord:
        start = time.monotonic()
        try:
            return services.keys.authenticate(request.scope["headers"])
        except ApiError as error:
            row = _refused_row(request.scope, request.scope[_REQUEST_ID], error, start)
            access.write(services.journal, row)
            raise

    def participant(request: Request) -> Participant:
        return services.participants.alone(authenticate(request), request.scope["headers"])

    def limits(record: KeyRecord, request: Request) -> dict[str, str]:
        return _texts(services.limits.headers(services.participants.of(record, request.scope["headers"])))

    def models(record: KeyRecord) -> list[dict[str, Any]]:
        loaded, coming = services.switcher.loaded, services.upstream.coming
        allowed = record.models
        if loaded is not None:
            known = [_model(name, loaded.created, loaded.context) for name in (loaded.name, "current")]
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

    @app.get("/v1/models")
    async def list_models(request: Request) -> JSONResponse:
        record = authenticate(request)
        await services.upstream.scan()
        return JSONResponse({"object": "list", "data": models(record)}, headers=limits(record, request))

    @app.get("/v1/models/{model_id}")
    async def show_model(request: Request, model_id: str) -> JSONResponse:
        record = authenticate(request)
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
    async def api_error(_: Request, error: ApiError) -> Response:
        return _answer(error)

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        method, path = request.method, request.url.path
        hint = f" (the base URL ends in /v1: did you mean /v1{path}?)" if f"/v1{path}" in MODEL_PATHS else ""
        return _answer(
            ApiError(
                405 if path in MODEL_PATHS else error.status_code,
                f"{method} {path} is not served here{hint}. Served are: {_SERVED}.",
                code="method_not_allowed" if path in MODEL_PATHS else "not_found",
                headers=[(b"allow", b"POST")] if path in MODEL_PATHS else (),
            )
        )

    return app


def _model(name: str, created: int, context: int | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "llmsvc",
        "context_length": context,
        "max_model_len": context,
    }


def _answer(error: ApiError) -> Response:
    return Response(error.body(), error.status, _texts(error.headers), "application/json")


def _texts(headers: Headers) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}
