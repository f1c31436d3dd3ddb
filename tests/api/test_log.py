"""The log is for operators: it tells what happened, and nothing of anybody."""

import io
import json
import os
import re
import sys
from typing import Any

import pytest

from api.log import where, write_event
from tests.api.conftest import BOTH, READ, WRITE
from tests.api.service import Service

FIELDS = ["time", "method", "route", "status", "milliseconds", "bytes", "request_id", "key"]
SECRET = "5ec2e7"


@pytest.fixture(scope="module")
def seen(service_with_keys: Service) -> list[dict[str, Any]]:
    """The lines of requests with secrets in every place."""
    service, key = service_with_keys, {"X_API_Key": BOTH}
    answers = [
        service.post(f"{{id={SECRET}}}", **key),
        service.post(f"junk {SECRET}", **key),
        service.post(f'{{"member": "{SECRET}"', **key),
        service.get("/api/v1/interactions/52757", **key),
        service.get("/api/v1/interactions/1", **key),
        service.get(f"/api/v1/interactions/{SECRET}", **key),
        service.get(f"/api/v1/interactions/1/topics?x={SECRET}", **key),
        service.get(f"/api/v1/interactions/1?start_date={SECRET}", **key),
        service.get(f"/{SECRET}/{SECRET}?{SECRET}", User_Agent=SECRET, X_Request_ID=SECRET, Cookie=SECRET, Host=SECRET),
        service.client.request("PROPFIND", f"/{SECRET}"),
        service.get("/health", Authorization=f"Bearer {READ}"),
        service.get("/health", Authorization=f"Bearer {SECRET}-wrong"),
        service.client.head("/docs"),
    ]
    service.client.request(SECRET, f"/{SECRET}")  # that is no HTTP
    return [line for answer in answers for line in service.await_log(answer.headers["x-request-id"])]


def test_each_request_is_one_line_with_the_route_instead_of_the_path(seen: list[dict[str, Any]]) -> None:
    assert all(list(line) == FIELDS for line in seen)
    assert [(line["method"], line["route"], line["status"], line["key"]) for line in seen] == [
        ("POST", "/member", 202, "key-3"),
        ("POST", "/member", 400, "key-3"),
        ("POST", "/member", 400, "key-3"),
        ("GET", "/api/v1/interactions/{customer_id}", 404, "key-3"),
        ("GET", "/api/v1/interactions/{customer_id}", 200, "key-3"),
        ("GET", "/api/v1/interactions/{customer_id}", 400, "key-3"),
        ("GET", "/api/v1/interactions/{customer_id}/topics", 400, "key-3"),
        ("GET", "/api/v1/interactions/{customer_id}", 400, "key-3"),
        ("GET", "-", 404, "-"),
        ("-", "-", 404, "-"),
        ("GET", "/health", 200, "key-1"),
        ("GET", "/health", 200, "-"),
        ("HEAD", "/docs", 200, "-"),
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in seen)
    assert all(line["milliseconds"] > 0 for line in seen)
    assert [line["bytes"] > 0 for line in seen] == [True] * (len(seen) - 1) + [False]
    assert len({line["request_id"] for line in seen}) == len(seen)


@pytest.mark.usefixtures("seen")
def test_no_body_no_id_no_key_no_address_and_no_header_is_in_the_log(service_with_keys: Service) -> None:
    for secret in (SECRET, "52757", READ, WRITE, BOTH, "127.0.0.1", "python-httpx"):
        assert secret not in service_with_keys.stderr, secret


def test_an_answer_carries_the_id_of_its_line(service: Service) -> None:
    answer = service.get("/health", X_Request_ID="mine")
    assert answer.headers["x-request-id"] != "mine"
    (line,) = service.await_log(answer.headers["x-request-id"])
    assert (line["route"], line["status"]) == ("/health", 200)


def test_of_an_error_type_and_place_are_logged_and_its_text_is_not() -> None:
    with pytest.raises(ValueError, match=SECRET) as raised:
        int(SECRET)
    assert re.fullmatch(r"ValueError at test_log\.py:\d+", where(raised.value))


def test_a_log_that_nobody_reads_stops_nothing_and_says_later_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    out, into = os.pipe()
    with os.fdopen(out, "rb", buffering=0) as reader, os.fdopen(into, "w") as writer:
        monkeypatch.setattr(sys, "stderr", writer)
        for _ in range(10_000):  # more than a pipe holds
            write_event("something", text="x" * 100)
        unread = reader.read(1 << 20)
        write_event("read again")
        line = json.loads(reader.read(1 << 20))
    assert (line["event"], line["dropped_before"] + unread.count(b"\n")) == ("read again", 10_000)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    write_event("no file of the system")
    assert "dropped_before" not in sys.stderr.getvalue()  # type: ignore[attr-defined]
