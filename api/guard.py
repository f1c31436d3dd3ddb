"""At the door: who may come in, and how often."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from math import ceil
from urllib.parse import urlsplit

from fastapi import Request
from limits import RateLimitItem, parse_many
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import ApiError, WrongConfigurationError
from api.keys import ANYBODY, VARIABLE, Caller, Key, Right, identify

# Neither keys nor limits: whoever watches over the service asks these.
WATCHED = {"/health", "/ready"}
# What a proxy says of the client that it asks for.
_FORWARDED = {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
MAX_CALLERS = 10_000
MAX_IN_FLIGHT = 1_000


def parse_rate(text: str) -> RateLimitItem:
    """Raises WrongConfigurationError that says how a rate is written."""
    with suppress(ValueError):
        rates = parse_many(text)
        if len(rates) == 1 and rates[0].amount > 0:
            return rates[0]
    raise WrongConfigurationError(f"{text!r} is not a rate", "write one, e.g. 100/second or 5000/minute")


def requires(right: Right) -> Callable[[Request], Awaitable[None]]:
    """A FastAPI dependency: 401 without a known key, 403 if the key lacks the right."""

    async def check(request: Request) -> None:
        caller: Caller | None = request.scope["caller"]
        if caller is None:
            raise ApiError(
                401,
                "this needs an API key, and none that is known was sent",
                "send the header `Authorization: Bearer <key>` or `X-API-Key: <key>`",
                {"WWW-Authenticate": 'Bearer realm="assay"'},
            )
        if right not in caller.rights:
            raise ApiError(403, f"this key may not {right}", f"use a key of {VARIABLE} that has the right to {right}")

    return check


class Guard:
    """ASGI: lets a request in with its caller (`scope["caller"]`), or refuses it before its body is read."""

    def __init__(self, app: ASGIApp, keys: Sequence[Key], rate: RateLimitItem) -> None:
        self._app = app
        self._keys = keys
        self._rate = rate
        self._limiter = FixedWindowRateLimiter(Windows(MAX_CALLERS))
        # By whether the caller is known: strangers, who cost nothing but their connection, take no place of a caller.
        self._in_flight = {True: 0, False: 0}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._admit(scope)
        except ApiError as refusal:
            await refusal.response()(scope, receive, send)
            return
        is_known = scope["caller"] is not None
        self._in_flight[is_known] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight[is_known] -= 1

    def _admit(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if not self._keys:
            _require_local(headers)
        caller = scope["caller"] = identify(self._keys, headers) if self._keys else ANYBODY
        if scope["path"] in WATCHED:
            return
        if self._in_flight[caller is not None] >= MAX_IN_FLIGHT:
            raise ApiError(503, "too many requests are under way", "try again shortly", {"Retry-After": "1"})
        name = caller.name if caller and caller is not ANYBODY else _network(scope)
        if not self._limiter.hit(self._rate, name):
            until = self._limiter.get_window_stats(self._rate, name).reset_time
            seconds = max(1, ceil(until - time.monotonic()))
            raise ApiError(
                429,
                f"too many requests: the limit is {self._rate}",
                f"try again in {seconds} s, or send several entries in one request",
                {"Retry-After": str(seconds)},
            )


class Windows(Storage):
    """The counters of the rate limit, of at most so many callers; the limits package's own has no bound.

    When there are more, the one whose window began first is forgotten. Times are monotonic: a clock that is set back
    would keep windows open.
    """

    STORAGE_SCHEME = None

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()  # (ends at, count)

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        now = time.monotonic()
        ends_at, count = self._windows.get(key, (0.0, 0))
        if ends_at <= now:
            self._windows.pop(key, None)
            ends_at, count = now + expiry, 0
        self._windows[key] = ends_at, count + amount
        if len(self._windows) > self._size:
            self._windows.popitem(last=False)
        return count + amount

    def get(self, key: str) -> int:
        ends_at, count = self._windows.get(key, (0.0, 0))
        return count if ends_at > time.monotonic() else 0

    def get_expiry(self, key: str) -> float:
        return self._windows.get(key, (time.monotonic(), 0))[0]

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        count = len(self._windows)
        self._windows.clear()
        return count

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _require_local(headers: Mapping[bytes, bytes]) -> None:
    """Without keys, only programs of this machine are served. A web page that its browser shows is not one of them.

    A page can make a name of its own point to 127.0.0.1 (DNS rebinding): then the Host is that name. It can also post
    here from its own address without asking first: then the Origin is that address. Nor are those whom a reverse proxy
    of this machine passes on, if it says that it does.
    """
    keys = f"or set {VARIABLE}, which lets others in"
    if not _is_local(b"//" + headers.get(b"host", b"")):
        raise ApiError(421, "without API keys, only this machine is served", f"ask for 127.0.0.1 or localhost, {keys}")
    if not _FORWARDED.isdisjoint(headers):
        raise ApiError(421, "without API keys, nobody is served through a proxy", f"ask without one, {keys}")
    if b"origin" in headers and not _is_local(headers[b"origin"]):
        raise ApiError(403, "without API keys, no web pages from elsewhere are served", f"use no browser, {keys}")


@lru_cache(maxsize=256)
def _is_local(url: bytes) -> bool:
    try:
        return is_loopback(urlsplit(url.decode("latin-1")).hostname or "")
    except ValueError:
        return False


def _network(scope: Scope) -> str:
    """The address of the client; of IPv6 its network, as one client has all addresses of one."""
    host = str(scope["client"][0]) if scope.get("client") else "-"
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    # A socket that serves both kinds has one network for all of IPv4.
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
