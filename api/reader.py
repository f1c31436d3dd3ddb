"""Reading: the interaction endpoints over the published tables."""

import hashlib
import re
from collections.abc import Awaitable
from datetime import date
from email.utils import format_datetime
from typing import Annotated, Any, NoReturn, TypeVar

from fastapi import Depends, FastAPI, Path, Query, Request, Response
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from api.database import DatabaseUnavailable, NotPublished
from api.description import (
    API_PREFIX,
    CUSTOMER_TYPES_EXAMPLE,
    INTERACTIONS_EXAMPLE,
    TOPICS_EXAMPLE,
    VERSION,
    error_responses,
)
from api.description import example_response as example
from api.errors import TRY_AGAIN, ApiError, json_response
from api.gold import Gold, Release
from api.guard import requires

# Decision: ids beyond what the tables can hold are unknown customers (404), not malformed ones (400).
MAX_CUSTOMER_ID = 2**63 - 1
WRITE_ID = "write a whole number above 0 in decimal digits, such as 1042"
WRITE_DATE = "write YYYY-MM-DD, such as 2019-10-04"

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DIGITS = re.compile(r"[0-9]+")
Answer = TypeVar("Answer")


def _customer_id(text: str) -> int:
    """Stricter than pydantic, which takes `1.0`, `+1` and `1_0` for whole numbers."""
    digits = text.lstrip("0")
    if not _DIGITS.fullmatch(text) or not digits:
        raise PydanticCustomError("customer_id", "customer_id is not a positive integer", {"hint": WRITE_ID})
    return int(digits[:20])  # one digit more than any id in the tables has


def _day(text: str) -> date:
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise PydanticCustomError("day", "is not a date of the calendar", {"hint": WRITE_DATE})


CustomerId = Annotated[int, BeforeValidator(_customer_id), Path(ge=1, description="The customer", examples=[1])]
Day = Annotated[date, BeforeValidator(_day)]


def add_reader(app: FastAPI, gold: Gold) -> None:
    """Adds the three endpoints to the app."""

    @app.get(
        f"{API_PREFIX}/interactions/{{customer_id}}",
        summary="How often a customer was in touch, per channel",
        responses=example(INTERACTIONS_EXAMPLE) | error_responses(400, 401, 403, 404, 429, 503),
        dependencies=[Depends(requires("read"))],
        tags=["interactions"],
    )
    async def interactions(
        request: Request,
        customer_id: CustomerId,
        start_date: Annotated[Day | None, Query(description="First day to count, as YYYY-MM-DD")] = None,
        end_date: Annotated[Day | None, Query(description="Last day to count, as YYYY-MM-DD")] = None,
    ) -> Response:
        """Every channel that anybody ever used, in alphabetical order, 0 included. Either date may be left out."""
        _refuse_other_parameters(request, "start_date", "end_date")
        if start_date and end_date and start_date > end_date:
            raise ApiError(400, "start_date is after end_date", "exchange them; both days are counted")
        asked = gold.interactions(_known(customer_id), start_date, end_date)
        release, counts = await _answered(asked)
        if counts is None:
            _unknown_customer()
        data = {"customer_id": customer_id, "interactions": counts}
        return _fresh(request, release, data, f"{customer_id} {start_date} {end_date}")

    @app.get(
        f"{API_PREFIX}/interactions/{{customer_id}}/topics",
        summary="What a customer was in touch about, per channel",
        responses=example(TOPICS_EXAMPLE) | error_responses(400, 401, 403, 404, 429, 503),
        dependencies=[Depends(requires("read"))],
        tags=["interactions"],
    )
    async def topics(request: Request, customer_id: CustomerId) -> Response:
        """Per channel, the products that were being discussed in the months of the interactions.

        Every channel is there; products without an interaction are not. An interaction counts for each product of its
        month, so do not add up products. `Unknown` stands for months for which no product is known.
        """
        _refuse_other_parameters(request)
        release, found = await _answered(gold.topics(_known(customer_id)))
        if found is None:
            _unknown_customer()
        return _fresh(request, release, {"customer_id": customer_id, "topics": found}, str(customer_id))

    @app.get(
        f"{API_PREFIX}/products/customer-types",
        summary="How many interactions each product had, per customer type",
        responses=example(CUSTOMER_TYPES_EXAMPLE) | error_responses(400, 401, 403, 429, 503),
        dependencies=[Depends(requires("read"))],
        tags=["interactions"],
    )
    async def customer_types(request: Request) -> Response:
        """Every product with every customer type, 0 included. `Unknown` is the type of customers without one."""
        _refuse_other_parameters(request)
        release, products = await _answered(gold.customer_types())
        return _fresh(request, release, {"products": products}, "")


def _refuse_other_parameters(request: Request, *known: str) -> None:
    """A misspelt filter must not pass for no filter."""
    if not request.scope["query_string"]:
        return
    given = [name for name, _ in request.query_params.multi_items()]
    if set(given) - set(known):
        names = f"known here: {', '.join(known)}" if known else "none is known here"
        raise ApiError(400, "there is an unknown query parameter", names)
    if len(set(given)) < len(given):
        raise ApiError(400, "a query parameter is given twice", "give each once")


async def _answered(asked: Awaitable[Answer]) -> Answer:
    try:
        return await asked
    except NotPublished:
        error = "the interactions have not been published yet"
        raise ApiError(503, error, "they will be there after the next `assay run`", TRY_AGAIN) from None
    except DatabaseUnavailable as unavailable:
        error = f"the tables cannot be read now: {unavailable.reason}"
        raise ApiError(503, error, "try again shortly; GET /ready says when they can be read", TRY_AGAIN) from None


def _known(customer_id: int) -> int:
    if customer_id > MAX_CUSTOMER_ID:
        _unknown_customer()
    return customer_id


def _unknown_customer() -> NoReturn:
    raise ApiError(404, "there is no such customer", "look the id up in gold.customer_channel_interactions")


def _fresh(request: Request, release: Release, data: dict[str, Any], question: str) -> Response:
    """The data, or 304 if the caller has them already.

    The ETag stands for the release, the question and the form of the answer. Last-Modified is for people: its seconds
    are too coarse to tell two releases apart, so If-Modified-Since is not looked at.
    """
    asked = f"{VERSION} {release.published_at.isoformat()} {request.scope['path']} {question}"
    tag = f'"{release.number}-{hashlib.blake2b(asked.encode(), digest_size=8).hexdigest()}"'
    headers = {
        "ETag": tag,
        "Last-Modified": format_datetime(release.published_at, usegmt=True),
        "Cache-Control": "private, max-age=0, must-revalidate",
        "Vary": "Authorization, X-API-Key",
    }
    if _matches(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    return json_response({"data": data}, headers=headers)


def _matches(if_none_match: str, tag: str) -> bool:
    candidates = [candidate.strip().removeprefix("W/") for candidate in if_none_match.split(",")]
    return "*" in candidates or tag in candidates
