"""The one error that a client is told, in OpenAI's shape, so that SDKs raise their own exceptions."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An answer other than 200. Its message never holds a path or what the user wrote.

    :param status: HTTP status
    :param param: the field of the request that is wrong, as `messages[0].content`
    :param code: OpenAI's machine-readable code, as `context_length_exceeded`
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.too_long: tuple[int, int] | None = None
        """The tokens that a request has, at least, and those that there is room for."""
        self.usage: dict[str, Any] | None = None
        """Tokens that the failed request took; told beside the error, so that they can be counted."""

    def body(self) -> dict[str, Any]:
        """The JSON of the answer, or of a stream's error event."""
        kind = "invalid_request_error" if 400 <= self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error} if self.usage is None else {"error": error, "usage": self.usage}


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400: the request cannot be served as it is."""
    return ApiError(400, message, param=param, code=code)


def too_long(count: int, limit: int, param: str | None) -> ApiError:
    """The error of a request that does not fit into the context."""
    error = bad(
        f"this model's context is {limit} tokens; the request has at least {count}",
        param,
        "context_length_exceeded",
    )
    error.too_long = (count, limit)
    return error
