"""The OpenAPI description of what is served; by hand, for most of it is served outside FastAPI.

It tells nothing that the 404 of an unknown path does not tell, so it needs no key. What the model's engine
makes of a request is its own business: here is what the proxy itself reads, all else passes.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number", "minimum": 0}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(*, required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _all(**properties: Schema) -> Schema:
    return _object(required=tuple(properties), **properties)


def _list(of: Schema, **properties: Schema) -> Schema:
    return _all(object={"const": "list"}, data={"type": "array", "items": of}, **properties)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_MODEL_NAME = {
    **_nullable(_TEXT),
    "description": "An installed model, its GGUF file's name, or 'current' (also if absent): what is loaded.",
}
_MAX_TOKENS = {"type": ["integer", "null"], "description": "0 or less: as many as fit."}
_STREAM = {
    "stream": {"type": ["boolean", "null"], "default": False},
    "stream_options": _nullable(_object(include_usage={"type": ["boolean", "null"]})),
}
_MESSAGES = {
    "model": _MODEL_NAME,
    "messages": {
        "type": "array",
        "minItems": 1,
        "items": _object(
            required=("role", "content"), role={"enum": ["user", "assistant", "system"]}, content=_TEXT
        ),
    },
    "system": _nullable(_TEXT),
    "stream": _STREAM["stream"],
}
_SCHEMAS: dict[str, Schema] = {
    "Error": _all(error=_all(message=_TEXT, type=_TEXT, param=_nullable(_TEXT), code=_nullable(_TEXT))),
    "ChatRequest": _object(
        required=("messages",),
        model=_MODEL_NAME,
        messages={
            "type": "array",
            "minItems": 1,
            "items": _object(
                required=("role", "content"),
                role={"enum": ["system", "developer", "user", "assistant"]},
                content=_TEXT,
            ),
        },
        max_tokens=_MAX_TOKENS,
        max_completion_tokens=_MAX_TOKENS,
        **_STREAM,
    ),
    "CompletionRequest": _object(
        required=("prompt",), model=_MODEL_NAME, prompt=_TEXT, max_tokens=_MAX_TOKENS, **_STREAM
    ),
    "EmbeddingRequest": _object(
        required=("input",), model=_MODEL_NAME, input={"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}
    ),
    "RerankRequest": _object(
        required=("query", "documents"),
        model=_MODEL_NAME,
        query=_TEXT,
        documents={"type": "array", "minItems": 1, "items": {"anyOf": [_TEXT, _object(text=_TEXT)]}},
        top_n={"type": ["integer", "null"], "minimum": 1},
        return_documents={"type": ["boolean", "null"], "default": False},
    ),
    "ResponsesRequest": _object(
        required=("input",),
        model=_MODEL_NAME,
        input={"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": {"type": "object"}}]},
        instructions=_nullable(_TEXT),
        max_output_tokens={"type": ["integer", "null"], "minimum": 1},
        stream={"type": ["boolean", "null"], "default": False},
    ),
    "InputTokensRequest": _object(
        required=("input",),
        model=_MODEL_NAME,
        input={"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": {"type": "object"}}]},
    ),
    "MessagesRequest": _object(
        required=("messages", "max_tokens"), max_tokens={"type": "integer", "minimum": 1}, **_MESSAGES
    ),
    "CountRequest": _object(required=("messages",), **_MESSAGES),
    "AnthropicError": _all(
        type={"const": "error"}, error=_object(required=("type", "message"), type=_TEXT, message=_TEXT)
    ),
    "TokenizeRequest": _object(required=("input",), model=_MODEL_NAME, input=_TEXT),
    "DetokenizeRequest": _object(
        required=("tokens",), model=_MODEL_NAME, tokens={"type": "array", "items": _COUNT}
    ),
    "Answer": {"type": "object", "description": "As OpenAI's API has it, or Anthropic's."},
    "Model": _object(
        required=(
            *("id", "object", "created", "owned_by", "context_length", "max_model_len"),
            *("type", "display_name", "created_at"),
        ),
        id=_TEXT,
        object={"const": "model"},
        created=_COUNT,
        owned_by=_TEXT,
        context_length=_nullable(_COUNT),
        max_model_len=_nullable(_COUNT),
        type={"const": "model"},
        display_name=_TEXT,
        created_at=_TEXT,
        capabilities={"type": "array", "items": _TEXT, "description": "Of the loaded model: what it can."},
    ),
    "Waiting": _all(
        id=_TEXT,
        object={"const": "request"},
        state={"enum": ["waiting", "running"]},
        model=_nullable(_TEXT),
        position={**_COUNT, "description": "1 is next; 0 runs."},
        seconds=_NUMBER,
        expected_seconds=_nullable(_NUMBER),
    ),
    "Usage": _list(
        {"type": "object"},
        user=_TEXT,
        end_user=_nullable(_TEXT),
        time_zone=_TEXT,
        since=_TEXT,
        until=_TEXT,
        total={"type": "object"},
    ),
}
_ERRORS = {
    "400": "It can never work so.",
    "401": "No API key, or one that is not valid.",
    "403": "This key may not.",
    "404": "There is no such thing, or the model is not loaded.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is compressed.",
    "429": "A limit is reached; Retry-After says until when.",
    "502": "The model stopped in the middle.",
    "503": "No model is ready, or too many requests wait; Retry-After says when to come again.",
    "504": "The model took too long.",
}
_OF_A_KEY = ("401", "429", "503")
_OF_A_MODEL = ("400", "401", "403", "404", "408", "413", "415", "429", "502", "503", "504")


def _answers(
    schema: Schema,
    *errors: str,
    media: str = "application/json",
    stream: bool = False,
    error: str = "Error",
) -> Schema:
    content: Schema = {media: {"schema": schema}}
    if stream:
        content["text/event-stream"] = {"schema": {}}
    found: Schema = {"200": {"description": "As asked for.", "content": content}}
    for status in errors:
        content = {"application/json": {"schema": _ref(error)}}
        found[status] = {"description": _ERRORS[status], "content": content}
    return found


def _get(summary: str, answers: Schema, *, key: bool = True, parameters: tuple[Schema, ...] = ()) -> Schema:
    operation: Schema = {"summary": summary, "responses": answers}
    if parameters:
        operation["parameters"] = list(parameters)
    return {"get": operation if key else {**operation, "security": []}}


def _post(
    summary: str, request: str, *, stream: bool = False, answer: Schema | None = None, error: str = "Error"
) -> Schema:
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(request)}}},
            "responses": _answers(answer or _ref("Answer"), *_OF_A_MODEL, stream=stream, error=error),
        }
    }


def _anthropic(operation: Schema) -> Schema:
    """An operation whose key may come in x-api-key too."""
    return {"post": {**operation["post"], "security": [{"key": []}, {"x-api-key": []}]}}


def _in_path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


_DAYS = {
    "name": "days",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": 366, "default": 30},
}
_STATUS = _all(status={"const": "ok"})
_READY = _all(ready={"type": "boolean"})

DESCRIPTION: Schema = {
    "openapi": "3.1.0",
    "info": {
        "title": "llmsvc",
        "version": "1",
        "description": "OpenAI's API, and Anthropic's messages, for the model of this machine. "
        "Every answer has an x-request-id.",
    },
    "servers": [{"url": "/"}],
    "security": [{"key": []}],
    "components": {
        "securitySchemes": {
            "key": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        },
        "schemas": _SCHEMAS,
    },
    "paths": {
        "/v1/chat/completions": _post("The next message of a conversation.", "ChatRequest", stream=True),
        "/v1/completions": _post("How a text goes on.", "CompletionRequest", stream=True),
        "/v1/embeddings": _post("Texts as vectors.", "EmbeddingRequest"),
        "/v1/rerank": _post("Documents, ranked by how well they answer a query.", "RerankRequest"),
        "/v1/responses/input_tokens": _post("How many tokens a conversation is.", "InputTokensRequest"),
        "/v1/responses": _post("The next items of a conversation.", "ResponsesRequest", stream=True),
        "/v1/messages": _anthropic(
            _post(
                "The next message of a conversation, by Anthropic's API.",
                "MessagesRequest",
                stream=True,
                error="AnthropicError",
            )
        ),
        "/v1/messages/count_tokens": _anthropic(
            _post(
                "How many tokens the model would read of it.",
                "CountRequest",
                answer=_all(input_tokens=_COUNT),
                error="AnthropicError",
            )
        ),
        "/extras/tokenize": _post("A text as tokens.", "TokenizeRequest"),
        "/extras/tokenize/count": _post("How many tokens a text is.", "TokenizeRequest"),
        "/extras/detokenize": _post("Tokens as a text.", "DetokenizeRequest"),
        "/v1/models": _get("The models that this key can name.", _answers(_list(_ref("Model")), *_OF_A_KEY)),
        "/v1/models/{model_id}": _get(
            "One of them.",
            _answers(_ref("Model"), *_OF_A_KEY, "404"),
            parameters=(_in_path("model_id"),),
        ),
        "/v1/queue": _get(
            "One's own requests that wait or run; an admin's key shows all.",
            _answers(_list(_ref("Waiting"), running=_COUNT, waiting=_COUNT, slots=_COUNT), *_OF_A_KEY, "400"),
        ),
        "/v1/requests/{request_id}/cancel": {
            "post": {
                "summary": "Ends one of them.",
                "parameters": [_in_path("request_id")],
                "responses": _answers(
                    _all(id=_TEXT, object=_TEXT, user=_TEXT, end_user=_nullable(_TEXT)),
                    *_OF_A_KEY,
                    "400",
                    "404",
                ),
            }
        },
        "/v1/usage": _get(
            "What one has used, by day and model.",
            _answers(_ref("Usage"), *_OF_A_KEY, "400"),
            parameters=(_DAYS,),
        ),
        "/metrics": _get(
            "Metrics for Prometheus; for an admin's key.",
            _answers(_TEXT, *_OF_A_KEY, "403", media="text/plain"),
        ),
        "/health": _get("Whether the proxy lives.", _answers(_STATUS), key=False),
        "/ready": _get(
            "Whether requests are answered.",
            {
                **_answers(_READY),
                "503": {
                    "description": "They are not.",
                    "content": {"application/json": {"schema": _READY}},
                },
            },
            key=False,
        ),
        "/openapi.json": _get("This description.", _answers({"type": "object"}), key=False),
    },
}
"""An OpenAPI 3.1 document."""
