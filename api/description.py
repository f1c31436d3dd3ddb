"""The OpenAPI description: what the code cannot say by itself (examples, errors, bodies, keys)."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.entries import BODY_SECONDS, MAX_BODY_BYTES, MAX_ENTRIES, MAX_ENTRY_BYTES
from api.keys import SHORTEST, VARIABLE

API_PREFIX = "/api/v1"
VERSION = "1.0.0"
ABOUT = f"""Receives the entries of members and serves the published tables of interactions.

Every answer is JSON: `data`, or `error` (what was wrong) with `hint` (what to do). Where API keys are set ({VARIABLE}),
send one as `Authorization: Bearer <key>` or `X-API-Key: <key>`: 401 without a known one, 403 if it lacks the right to
read or to write. Without them only this machine is served, and neither web pages of others (403) nor whoever asks for
another name, or through a proxy (421). Every answer to a request has an `X-Request-ID`, by which it is found in the
log. HEAD is answered wherever GET is.

Answers from tables have an `ETag`, which changes with each release: send it back as `If-None-Match`, and get 304
without a body as long as nothing has changed."""

ENTRY = '{id="ada6ee1abc22511c"|created_at="2023-06-27"|sex=1|age=48|follow_reco=63.64|follow_reco_above_50p=true}'
OTHER_ENTRY = '{id="0b1dc1ee7a5e11ad"|created_at="2023-06-28"|sex=2|age=31}'
INTERACTIONS_EXAMPLE = {"data": {"customer_id": 1, "interactions": {"Bird": 0, "Call": 0, "Email": 1}}}
TOPICS_EXAMPLE = {"data": {"customer_id": 1, "topics": {"Bird": {}, "Call": {}, "Email": {"Loans": 1, "Savings": 1}}}}
CUSTOMER_TYPES_EXAMPLE = {
    "data": {"products": {"Loans": {"Business": 3, "Private": 0, "Unknown": 1}, "Savings": {"Business": 0}}}
}
ACCEPTED_EXAMPLE = {"data": {"accepted": 1}}
HEALTH_EXAMPLE = {"data": {"status": "ok"}}
READY_EXAMPLE = {"data": {"status": "ok", "release": {"release_id": 7, "published_at": "2026-11-21T08:12:03Z"}}}

_ERRORS = {
    400: ("Something in the request is wrong; nothing was kept", "customer_id is not a positive integer"),
    401: ("No known API key was sent", "this needs an API key, and none that is known was sent"),
    403: ("The key lacks the right; or, without keys, a web page from elsewhere asks", "this key may not write"),
    404: ("There is no such customer", "there is no such customer"),
    408: ("The body took too long to come", f"the body did not come within {BODY_SECONDS:.0f} s"),
    413: (
        "The body, or an entry in it, is too large; nothing was kept",
        f"the entry is over {MAX_ENTRY_BYTES:,} bytes",
    ),
    415: ("The body is compressed", "compressed bodies are not taken"),
    429: ("Too many requests; see Retry-After", "too many requests: the limit is 10000 per 1 second"),
    503: ("Not now; see Retry-After", "the tables cannot be read now: the database cannot be reached"),
    507: ("The disk is full; nothing was kept", "there is no room left for entries"),
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error", "hint"],
    "properties": {
        "error": {"type": "string", "description": "What was wrong"},
        "hint": {"type": "string", "description": "What to do"},
    },
}
_COUNTS = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "interactions": _COUNTS,
    "topics": {"type": "object", "additionalProperties": _COUNTS},
    "products": {"type": "object", "additionalProperties": _COUNTS},
    "customer_id": {"type": "integer", "minimum": 1},
    "accepted": {"type": "integer", "minimum": 1},
    "status": {"type": "string", "enum": ["ok"]},
    "release": {
        "type": "object",
        "required": ["release_id", "published_at"],
        "properties": {"release_id": {"type": "integer"}, "published_at": {"type": "string", "format": "date-time"}},
    },
}

# No control characters, no line separators: with those left out, what `api/entries.py` takes.
_NOT = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
_FIELD = rf' *[^ ="|{{}}{_NOT}]+ *= *("[^"{_NOT}]*" *|[^"=|{{}}{_NOT}]*)'
_LINE = rf"\{{{_FIELD}(\|{_FIELD})*\}}"
_ENTRY = {
    "type": "string",
    "description": f"One line: fields `key=value`, separated by `|`, in braces; at most {MAX_ENTRY_BYTES:,} bytes",
    "pattern": f"^{_LINE}$",
    "examples": [ENTRY],
}
_ENTRIES = {"type": "array", "items": _ENTRY, "minItems": 1}
_MEMBER = {
    "type": "object",
    "required": ["member"],
    "additionalProperties": False,
    "properties": {"member": {"anyOf": [_ENTRY, _ENTRIES]}},
}
_MEMBERS = {"type": "array", "items": {"anyOf": [_MEMBER, _ENTRY]}, "minItems": 1}
ENTRIES_BODY = {
    "required": True,
    "description": (
        "The form is told by how the body begins, whatever its Content-Type says. "
        f"UTF-8, up to {MAX_BODY_BYTES >> 20} MiB and {MAX_ENTRIES:,} entries, "
        f"each of up to {MAX_ENTRY_BYTES >> 10} KiB."
    ),
    "content": {
        "application/json": {
            "schema": {"anyOf": [_MEMBER, _ENTRY, _MEMBERS]},
            "examples": {
                "one": {"summary": "One entry", "value": {"member": ENTRY}},
                "several": {"summary": "Several", "value": {"member": [ENTRY, OTHER_ENTRY]}},
                "list": {"summary": "A list", "value": [{"member": ENTRY}, {"member": OTHER_ENTRY}]},
            },
        },
        "text/plain": {
            "schema": {"type": "string", "pattern": rf"^{_LINE}(\r?\n{_LINE})*(\r?\n)?$"},
            "examples": {
                "one": {"summary": "One entry", "value": ENTRY},
                "several": {"summary": "An entry a line", "value": f"{ENTRY}\n{OTHER_ENTRY}\n"},
            },
        },
    },
}
KEYS = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": f"A key of {VARIABLE}, of at least {SHORTEST} characters",
    },
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same, in a header of its own"},
}


def example_response(example: dict[str, Any], status: int = 200, description: str = "Done") -> dict[int | str, Any]:
    """A successful answer: the schema of its `data` follows from the names in the example."""
    fields = example["data"]
    data = {"type": "object", "required": list(fields), "properties": {name: _SCHEMAS[name] for name in fields}}
    schema = {"type": "object", "required": ["data"], "properties": {"data": data}, "additionalProperties": False}
    content = {"application/json": {"schema": schema, "example": example}}
    return {status: {"description": description, "content": content}}


def error_responses(*statuses: int) -> dict[int | str, Any]:
    """What may go wrong, each with an example."""
    return {
        status: {
            "description": _ERRORS[status][0],
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Error"},
                    "example": {"error": _ERRORS[status][1], "hint": "..."},
                }
            },
        }
        for status in statuses
    }


def describe(app: FastAPI, *, is_key_needed: bool) -> dict[str, Any]:
    """The whole description. FastAPI adds 422 to whatever has parameters; here those errors are 400."""
    described = get_openapi(title="Assay", version=VERSION, description=ABOUT, routes=app.routes, tags=app.openapi_tags)
    components = described.setdefault("components", {})
    components["schemas"] = {"Error": _ERROR_SCHEMA}
    if is_key_needed:
        components["securitySchemes"] = KEYS
    for operations in described["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if is_key_needed and "401" in operation["responses"]:
                operation["security"] = [{name: []} for name in KEYS]
    return described
