"""Errors: those that a caller gets as JSON, and those that keep the service from starting."""

import json
from collections.abc import Mapping

from starlette.responses import Response

TRY_AGAIN = {"Retry-After": "5"}


class ApiError(Exception):
    """Answered with `status` as {"error": what was wrong, "hint": what to do}. Never quotes what the caller sent."""

    def __init__(self, status: int, error: str, hint: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.hint = hint
        self.headers = dict(headers or {})

    def response(self) -> Response:
        content = {"error": self.error, "hint": self.hint}
        return json_response(content, self.status, {"Cache-Control": "no-store", **self.headers})


class CannotStartError(Exception):
    """The service cannot start: what was wrong, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class WrongConfigurationError(CannotStartError):
    """It was told something that cannot be right."""


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, headers, media_type="application/json")
