"""The service put together."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from api.config import ServiceConfig
from api.database import PUBLISH_FIRST, Database, DatabaseUnavailable, NotPublished
from api.description import HEALTH_EXAMPLE, READY_EXAMPLE, describe, error_responses, example_response
from api.envelope import Envelope
from api.errors import TRY_AGAIN, ApiError, json_response
from api.gold import Gold
from api.guard import Guard, parse_rate
from api.landing import Landing
from api.page import POLICY, render
from api.reader import add_reader
from api.receiver import add_receiver

READY_FOR_SECONDS = 1.0
SEE_DESCRIPTION = "the description is at /docs, for programs at /openapi.json"


def create_app(config: ServiceConfig) -> ASGIApp:
    """The ASGI application. It starts whatever state the database is in."""
    landing = Landing(config.landing, config.roll_bytes, config.roll_seconds)
    database = Database(config.find_database, config.role)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await landing.start()
        try:
            yield
        finally:
            await landing.stop()
            await database.close()

    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            RequestValidationError: _parameter_error,
            Exception: _fault,
        },
        openapi_tags=[
            {"name": "members", "description": "Entries of members, for the next run"},
            {"name": "interactions", "description": "How customers were in touch, from the last release"},
            {"name": "service", "description": "How the service is; no key needed"},
        ],
    )
    gold = Gold(database)
    add_receiver(app, landing)
    add_reader(app, gold)
    _add_state(app, gold)
    _add_description(app, is_key_needed=bool(config.keys))
    return Envelope(Guard(app, config.keys, parse_rate(config.rate_limit)))


def _add_state(app: FastAPI, gold: Gold) -> None:
    last: tuple[float, ApiError | Response] | None = None
    one_at_a_time = asyncio.Lock()

    @app.get(
        "/health", summary="Whether the process answers", responses=example_response(HEALTH_EXAMPLE), tags=["service"]
    )
    async def health() -> Response:
        return json_response({"data": {"status": "ok"}}, headers={"Cache-Control": "no-store"})

    @app.get(
        "/ready",
        summary="Whether the tables can be read, and of which release they are",
        responses=example_response(READY_EXAMPLE) | error_responses(503),
        tags=["service"],
    )
    async def ready() -> Response:
        """Entries are received also while this says 503."""
        nonlocal last
        # Anybody may ask, without a key or a limit, so the database is not asked each time.
        async with one_at_a_time:
            if last is None or time.monotonic() > last[0] + READY_FOR_SECONDS:
                found = await _readiness(gold)
                last = time.monotonic(), found
        if isinstance(last[1], ApiError):
            raise last[1]
        return last[1]


async def _readiness(gold: Gold) -> ApiError | Response:
    try:
        release = await gold.release()
    except NotPublished as missing:
        return ApiError(503, f"nothing can be read yet: {missing}", PUBLISH_FIRST, TRY_AGAIN)
    except DatabaseUnavailable as unavailable:
        return ApiError(503, unavailable.reason, unavailable.way_out, TRY_AGAIN)
    published_at = release.published_at.isoformat().replace("+00:00", "Z")
    data = {"status": "ok", "release": {"release_id": release.number, "published_at": published_at}}
    return json_response({"data": data}, headers={"Cache-Control": "no-store"})


def _add_description(app: FastAPI, *, is_key_needed: bool) -> None:
    described = describe(app, is_key_needed=is_key_needed)
    page = render(described)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return json_response(described)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": POLICY})


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_error(_request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    reasons = {404: "there is nothing at this path", 405: "this path does not take this method"}
    reason = reasons.get(error.status_code, error.detail)
    return ApiError(error.status_code, reason, SEE_DESCRIPTION, error.headers).response()


async def _parameter_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    finding = error.errors()[0]
    name = finding["loc"][-1]
    message = finding["msg"] if finding["msg"].startswith(str(name)) else f"{name} {finding['msg']}"
    return ApiError(400, message, finding.get("ctx", {}).get("hint", SEE_DESCRIPTION)).response()


async def _fault(_request: Request, _error: Exception) -> Response:
    return ApiError(500, "the service is at fault", "try again; if it stays, tell its operator").response()
