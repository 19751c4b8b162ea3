"""Errors in OpenAI's shape, so that its SDKs raise their own exceptions for what the proxy says."""

from __future__ import annotations

import json
from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]


class ApiError(Exception):
    """An answer other than success.

    :param status: HTTP status; 499 (the client left) is logged but never sent
    :param kind: `error.type` of the body
    :param state: what the ledger says of a request that ended so
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        state: str = "error",
        headers: Headers = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.state = state
        self.headers = headers
        self._error = {"message": message, "type": kind, "param": param, "code": code}

    def body(self) -> bytes:
        """The JSON body of the answer, in OpenAI's shape; other dialects word it themselves."""
        return json.dumps({"error": self._error}).encode()


# RFC 9110 asks for it in every 401
_CHALLENGE: Headers = [(b"www-authenticate", b"Bearer")]


def unauthorized(message: str) -> ApiError:
    """401: no key, or one that is not valid."""
    return ApiError(
        401,
        message,
        code="invalid_api_key",
        state="rejected_key",
        headers=_CHALLENGE,
    )


def too_many_waiting(message: str) -> ApiError:
    """429: the participant has as many requests in a queue as it may have."""
    return ApiError(
        429,
        message,
        kind="requests",
        code="too_many_waiting",
        state="rejected_queue",
        headers=[(b"retry-after", b"1")],
    )


def unavailable(message: str, code: str, *, state: str = "error", retry_after: int = 5) -> ApiError:
    """503 with Retry-After in seconds: it works again later."""
    return ApiError(
        503,
        message,
        kind="server_error",
        code=code,
        state=state,
        headers=[(b"retry-after", b"%d" % retry_after)],
    )


def bad_request(message: str, *, param: str | None = None, status: int = 400, code: str = "") -> ApiError:
    """A request that can never work."""
    return ApiError(status, message, param=param, code=code or None, state="rejected_request")


def model_not_found(wanted: str, loaded: str) -> ApiError:
    """404: the request names another model than the loaded one."""
    return ApiError(
        404,
        f"The model {wanted[:120]!r} is not loaded; loaded is {loaded!r}. "
        "'current' always means the loaded model.",
        code="model_not_found",
        param="model",
        state="rejected_model",
    )


def switched_away(wanted: str, loaded: str) -> ApiError:
    """404: the model that the request names was loaded when it came, and is no longer."""
    return ApiError(
        404,
        f"{wanted} was switched away for {loaded} while this request waited; send it again for {loaded!r}, "
        "or for 'current', which always means the loaded model.",
        code="model_not_found",
        param="model",
        state="rejected_model",
    )


def model_not_allowed(model: str) -> ApiError:
    """403: the user may not use the model that is loaded, or that the request names."""
    return ApiError(
        403,
        f"You may not use the model {model!r}.",
        code="model_not_allowed",
        param="model",
        state="rejected_model",
    )


def crashes_model() -> ApiError:
    """400: this request crashed the model more than once."""
    return ApiError(
        400,
        "This request crashed the model twice in a row; change it. The same one is refused for an hour.",
        code="request_crashes_model",
        state="rejected_poison",
    )


def model_failed(model: str, reason: str, retry_after: int) -> ApiError:
    """503: the request would have to switch to a model that does not start."""
    return unavailable(
        f"{model} did not start: {reason} (not tried again for {retry_after} s)",
        "model_failed",
        retry_after=retry_after,
    )


def upstream_lost() -> ApiError:
    """502: the backend went away in the middle of an answer."""
    return ApiError(
        502, "The model stopped before the answer was complete.", kind="server_error", code="upstream_lost"
    )


CLIENT_GONE = ApiError(499, "client closed the connection", state="client_gone")
CANCELLED = ApiError(403, "The request was cancelled.", code="request_cancelled", state="cancelled")
KEY_REVOKED = ApiError(
    401,
    "This API key is no longer valid.",
    code="invalid_api_key",
    state="cancelled",
    headers=_CHALLENGE,
)
STOPPING = unavailable("The proxy restarts; send the request again.", "restarting", retry_after=1)
BODY_TIMEOUT = bad_request("The request body did not arrive in time.", status=408, code="body_timeout")
