"""Who may come in, and how often."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from limits import parse
from limits.strategies import FixedWindowRateLimiter
from starlette.types import Receive, Scope, Send

from api import guard as guard_module
from api.errors import WrongConfigurationError
from api.guard import Guard, Windows, is_loopback, parse_rate
from tests.api.conftest import BOTH, KEYS, READ, WRITE
from tests.api.service import Service

READER = "/api/v1/interactions/1"


@pytest.mark.parametrize(
    ("key", "reads", "writes"),
    [(READ, 200, 403), (WRITE, 403, 202), (BOTH, 200, 202), (None, 401, 401), ("x" * 20, 401, 401)],
)
@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_a_key_may_do_what_it_has_the_right_to(
    service_with_keys: Service, header: str, key: str | None, reads: int, writes: int
) -> None:
    value = f"Bearer {key}" if header == "Authorization" else key
    headers = {header: value} if key and value else {}
    get = service_with_keys.client.get(READER, headers=headers)
    post = service_with_keys.client.post("/member", content="{a=1}", headers=headers)
    assert (get.status_code, post.status_code) == (reads, writes)
    for answer in (get, post):
        if answer.status_code in (401, 403):
            assert answer.json()["error"]
            assert answer.json()["hint"]
        assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)


def test_a_key_is_asked_for_before_anything_is_said_about_the_request(service_with_keys: Service) -> None:
    assert service_with_keys.get("/api/v1/interactions/x").status_code == 401
    assert service_with_keys.post("junk").status_code == 401
    assert service_with_keys.post("x" * 9 * 1024 * 1024).status_code == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.json", "/docs"])
def test_state_and_description_need_no_key(service_with_keys: Service, path: str) -> None:
    assert service_with_keys.get(path).status_code == 200


def test_with_keys_any_host_and_web_page_may_ask(service_with_keys: Service) -> None:
    answer = service_with_keys.get(READER, X_API_Key=READ, Host="assay.example", Origin="https://assay.example")
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "LOCALHOST:5000"}, 200),
        ({"Host": "127.0.0.1:5000"}, 200),
        ({"Host": "127.8.8.8"}, 200),
        ({"Host": "[::1]:5000"}, 200),
        ({"Host": "attacker.example"}, 421),
        ({"Host": "127.0.0.1.attacker.example"}, 421),
        ({"Host": "localhost.attacker.example:5000"}, 421),
        ({"Host": "10.0.0.1"}, 421),
        ({"Host": "localhost@attacker.example"}, 421),
        ({"Host": "[::1"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "http://127.0.0.1"}, 200),
        ({"Origin": "https://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        # As a reverse proxy of this machine asks for somebody else.
        ({"Host": "127.0.0.1:5000", "X-Forwarded-For": "203.0.113.7"}, 421),
        ({"Forwarded": "for=203.0.113.7"}, 421),
        ({"Via": "1.1 proxy"}, 421),
    ],
)
def test_without_keys_only_programs_of_this_machine_are_served(
    service: Service, headers: dict[str, str], status: int
) -> None:
    answers = [service.get(READER, **headers), service.get("/health", **headers), service.post("{a=1}", **headers)]
    expected = [200, 200, 202] if status == 200 else [status] * 3
    assert [answer.status_code for answer in answers] == expected
    assert all(answer.json().keys() == ({"data"} if status == 200 else {"error", "hint"}) for answer in answers)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("localhost.", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("assay.example", False), ("", False),
    ],
)  # fmt: skip
def test_loopback_is_what_only_this_machine_can_reach(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_who_asks_too_often_is_told_when_to_come_back_and_others_are_not_bothered(tmp_path: Path) -> None:
    with Service(tmp_path, "--rate-limit", "3/minute", ASSAY_API_KEYS=KEYS) as service:
        statuses = [service.post("{a=1}", X_API_Key=WRITE).status_code for _ in range(5)]
        assert statuses == [202, 202, 202, 429, 429]
        answer = service.post("{a=1}", X_API_Key=WRITE)
        assert answer.json()["error"] == "too many requests: the limit is 3 per 1 minute"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert service.post("{a=1}", X_API_Key=BOTH).status_code == 202
        assert [service.post("{a=1}").status_code for _ in range(4)] == [401, 401, 401, 429]
        assert [service.get("/health").status_code for _ in range(5)] == [200] * 5
        assert len(service.await_landed(4)) == 1
        assert service.landed().total() == 4


@pytest.mark.parametrize("text", ["", "many", "5", "5/fortnight", "-1/second", "0/second", "9/second;99/minute"])
def test_a_rate_that_is_none_is_a_configuration_error(text: str) -> None:
    with pytest.raises(WrongConfigurationError, match="is not a rate"):
        parse_rate(text)


def test_a_window_ends_and_the_count_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = FixedWindowRateLimiter(Windows(10))
    rate = parse("2/second")
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: -now[0])  # a clock that is set back keeps nobody out
    assert [limiter.hit(rate, "a") for _ in range(3)] == [True, True, False]
    assert limiter.get_window_stats(rate, "a").reset_time == 101
    now[0] = 100.99
    assert not limiter.hit(rate, "a")
    now[0] = 101.0
    assert limiter.hit(rate, "a")


def test_callers_without_number_take_no_memory_without_bound() -> None:
    windows = Windows(100)
    for number in range(10_000):
        windows.incr(str(number), 60)
    assert (windows.reset(), windows.get("9999")) == (100, 0)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("192.0.2.1", "192.0.2.2", False),
        # As a socket for both kinds names them.
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1", True),
    ],
)
def test_all_addresses_of_a_network_of_ipv6_are_one_caller(one: str, other: str, is_same: bool) -> None:
    networks = [guard_module._network({"client": (address, 1)}) for address in (one, other)]
    assert (networks[0] == networks[1]) is is_same


def test_more_requests_at_once_than_can_be_held_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "MAX_IN_FLIGHT", 2)
    sent: list[dict[str, Any]] = []

    async def all_of_it() -> None:
        is_over = asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await is_over.wait()

        async def keep(message: Any) -> None:
            sent.append(message)

        guard = Guard(slow, (), parse("100/second"))
        scope = {"type": "http", "path": "/", "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1)}
        waiting = [asyncio.create_task(guard(dict(scope), None, keep)) for _ in range(2)]  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await guard(dict(scope), None, keep)  # type: ignore[arg-type]
        is_over.set()
        await asyncio.gather(*waiting)
        await guard(dict(scope), None, keep)  # type: ignore[arg-type]

    asyncio.run(all_of_it())
    assert [message["status"] for message in sent if "status" in message] == [503]
