"""Around every request: its id, its line in the log, headers that every answer has, and a JSON answer to any fault."""

import asyncio
import secrets
import time
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError
from api.log import where, write_event, write_line

# A client that sends its whole body before it reads the answer would take a closed connection for a failure. So a body
# that nobody wanted is read and thrown away, up to here, before the answer goes out.
DRAIN_BYTES = 32 * 1024 * 1024
DRAIN_SECONDS = 5.0

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class Envelope:
    """ASGI: the outermost layer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception as error:
            write_event("fault", request_id=exchange.request_id, error=where(error))
            if exchange.status == 0:
                fault = ApiError(500, "the service is at fault", "try again; if it stays, tell its operator")
                await fault.response()(exchange.scope, exchange.receive, exchange.send)
        finally:
            exchange.log()


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The server leaves out the body of an answer to HEAD by itself.
        self.scope = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        self.request_id = secrets.token_hex(8)
        self.status = 0
        self._method = scope["method"]
        self._receive = receive
        self._send = send
        self._size = 0
        self._began = time.perf_counter()
        headers = {name: value for name, value in scope["headers"] if name in _OF_BODIES}
        self._is_unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        self._is_waited_for = b"expect" not in headers

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            self._is_unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), *_HEADERS, (b"x-request-id", self.request_id.encode())]
            if not any(name == _POLICY[0] for name, _ in headers):
                headers.append(_POLICY)
            if self._is_unread and not await self._drained():
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self._size += len(message.get("body", b"")) if self._method != "HEAD" else 0
        await self._send(message)

    async def _drained(self) -> bool:
        """Whether the rest of the body was read. One that the client holds back until asked is not asked for."""
        size = 0
        if self._is_waited_for:
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    while self._is_unread and size < DRAIN_BYTES:
                        size += len((await self.receive()).get("body", b""))
        return not self._is_unread

    def log(self) -> None:
        """Of the path only the route's template, for paths hold ids of people."""
        caller = self.scope.get("caller")
        route = self.scope.get("route")
        write_line(
            method=self._method if self._method in _METHODS else "-",
            route=route.path if route else "-",
            status=self.status,
            milliseconds=round((time.perf_counter() - self._began) * 1000, 1),
            bytes=self._size,
            request_id=self.request_id,
            key=caller.name if caller else "-",
        )


_OF_BODIES = {b"content-length", b"transfer-encoding", b"expect"}
