"""The process: a socket, uvicorn on it, and limits on what may arrive before a request is one."""

import asyncio
import errno
import gc
import json
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import ClassVar

import httptools
import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api.app import create_app
from api.config import ServiceConfig
from api.errors import CannotStartError, WrongConfigurationError
from api.guard import is_loopback
from api.keys import VARIABLE
from api.log import LibraryHandler, write_event
from api.parts import make_folder

MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 30
STOP_SECONDS = 10
# For the rest of an answer, to a client that does not read on.
WRITE_SECONDS = 30.0
# Decision: more connections than this are closed as they come, so that there are file descriptors left for received
# entries and for Postgres, whoever opens connections and says nothing. One without a byte is closed after 30 seconds.
MAX_CONNECTIONS, _OTHER_FILES = 10_000, 100
# Requests of one connection that wait for the answers to earlier ones. Limits see a request when its turn comes.
MAX_WAITING = 32


def serve(config: ServiceConfig, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `announce` gets the address once requests are answered.

    Raises WrongConfigurationError, or CannotStartError if the surroundings are at fault.
    """
    listener = listen(config)
    _prepare(config.landing)
    _Protocol.most_connections = _most_connections()
    logging.basicConfig(handlers=[LibraryHandler()], level=logging.WARNING)
    settings = uvicorn.Config(
        create_app(config),
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # what they say of the client could be anything
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = _Server(settings, lambda: announce(address(listener)))
    # Also before uvicorn has set its own handlers, and after: the exit code is 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    # What comes when a terminal is closed; under nohup it is ignored.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, server.handle_exit)
    server.run(sockets=[listener])


def listen(config: ServiceConfig) -> socket.socket:
    """A socket bound to host and port; only to loopback if there are no keys."""
    host, port = config.host, config.port
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError:
        raise WrongConfigurationError(f"--host {host}: no such host", "use 127.0.0.1, or 0.0.0.0 for all") from None
    if not config.keys and not is_loopback(str(place[0])):
        raise WrongConfigurationError(
            f"--host {host} can be reached from other machines, and {VARIABLE} is not set",
            f"set {VARIABLE} (read:<key>, write:<key> or <key> for both, separated by commas), or use --host 127.0.0.1",
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise _cannot_bind(error, host, port) from None
    return listener


def _prepare(landing: Path) -> None:
    hint = "mend its permissions, or set ASSAY_LANDING to another folder"
    try:
        make_folder(landing)
    except OSError as error:
        raise CannotStartError(f"cannot make the landing folder {landing}: {error.strerror}", hint) from None
    if not os.access(landing, os.R_OK | os.W_OK | os.X_OK):
        raise CannotStartError(f"may not write to the landing folder {landing}", hint)


def _most_connections() -> int:
    """How many connections this process has file descriptors for; it may have as many as the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS names a limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, soft - _OTHER_FILES))


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _cannot_bind(error: OSError, host: str, port: int) -> CannotStartError:
    if error.errno == errno.EADDRINUSE:
        return CannotStartError(f"port {port} on {host} is in use", "end what uses it, or give another with --port")
    if error.errno == errno.EACCES:
        return CannotStartError(f"port {port} needs the rights of an administrator", "give one above 1023 with --port")
    if error.errno == errno.EADDRNOTAVAIL:
        return WrongConfigurationError(
            f"--host {host} is no address of this machine", "use 127.0.0.1, or 0.0.0.0 for all"
        )
    return CannotStartError(f"cannot listen on {host}, port {port}: {error.strerror}", "try another --host or --port")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is loaded by now stays: searching it for garbage again and again would hold up requests.
        gc.collect()
        gc.freeze()
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stops it, once: for uvicorn a second SIGINT is a reason to leave received files hidden."""
        del sig, frame
        self.should_exit = True


class _Parser(httptools.HttpRequestParser):
    """httptools', but it keeps what comes after a head that asks for another protocol, instead of raising.

    It takes the body for the beginning of that protocol: `rest`, and None if no head asked. CONNECT raises as before.
    """

    rest: bytes | None = None

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def asks_for_upgrade(self) -> bool:
        return self.should_upgrade() and self.get_method() != b"CONNECT"

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self.asks_for_upgrade():
                raise
            self.rest = data[upgrade.args[0] :]


class _TooManyWaitError(Exception):
    """Ends the parsing of what has come."""


class _Protocol(HttpToolsProtocol):
    """uvicorn's, plus: what is no HTTP is told so in JSON, and what comes beside bodies may be neither large nor slow.

    Nor may many requests be sent ahead of their answers: from `MAX_WAITING` on, the connection is closed. So is one
    whose client does not read what it is answered, and any that is one too many.

    A request that asks for another protocol (`Upgrade: h2c`) is answered as if it did not, as RFC 9110 (7.8) allows:
    Java's client asks so of every server without TLS.

    What comes beside bodies is the head of a request, and what a body may have around its chunks: extensions and
    trailers, which nobody looks at.
    """

    most_connections: ClassVar[int] = MAX_CONNECTIONS
    _quiet_until: ClassVar[float] = 0.0
    parser: _Parser
    _write_timer: asyncio.TimerHandle | None = None
    _answered = 0
    _answering: RequestResponseCycle
    _head_bytes: int | None = None  # None: not in the middle of a head
    _head_timer: asyncio.TimerHandle | None = None
    _framing_bytes: int | None = None  # around chunks, since there was last some body; None: not in the middle of one
    _is_all_framing = False  # whether what has just come is that alone
    _is_all_head = False  # whether no message ended in what has just come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()
            self._tell_of_too_many()
        self.parser = _Parser(self)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self._end_write()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        self._end_write()
        self._expect_reading()
        super().resume_writing()

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_bytes is not None:  # else it is a trailer, and uvicorn would keep them all
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.asks_for_upgrade():
            return
        self._end_head()
        self._framing_bytes = 0
        if len(self.pipeline) >= MAX_WAITING:
            self._leave()  # an answer would be taken for that to an earlier request
            raise _TooManyWaitError
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        self._is_all_framing = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.asks_for_upgrade():
            return
        self._framing_bytes = None
        self._is_all_head = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._answered += 1
        self._expect_reading()
        if self.pipeline:  # uvicorn would read on after each answer, and queue what it reads
            self.flow.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._is_all_framing, self._is_all_head = self._framing_bytes is not None, True
        super().data_received(data)
        while self.parser.rest is not None:
            again = self._head_without_upgrade() + self.parser.rest
            self.parser = _Parser(self)
            super().data_received(again)
        if self.transport.is_closing():
            return
        if self._head_bytes is not None:
            self._head_bytes += len(data) if self._is_all_head else 0
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"the head of the request is over {MAX_HEAD_BYTES // 1024} KiB", "send fewer headers")
                return
        elif self._framing_bytes is not None and self._is_all_framing:
            self._framing_bytes += len(data)
            if self._framing_bytes > MAX_HEAD_BYTES:
                limit = f"{MAX_HEAD_BYTES // 1024} KiB"
                self._refuse(431, f"trailers or chunk extensions are over {limit}", "send none: nobody looks at them")
                return
        # A line break between requests begins none, and has made uvicorn stop its timer.
        is_idle = self.cycle is None or self.cycle.response_complete
        if self._head_timer is None and (self._head_bytes is not None or is_idle):
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._on_late_head)

    def send_400_response(self, msg: str) -> None:
        del msg
        if self.transport.is_closing():
            return
        self._refuse(400, "this is not HTTP/1.1 that can be understood", "send it with an HTTP library, or with curl")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _on_late_head(self) -> None:
        if self.flow.read_paused:  # it may have come, and waits for answers to earlier requests
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._on_late_head)
        else:
            self.timeout_keep_alive_handler()

    def _leave(self) -> None:
        """Closes the connection, as if the client had: nobody waits for what is being answered."""
        self._answering.disconnected = True
        self._answering.message_event.set()
        self.transport.close()
        self._expect_reading()

    def _refuse(self, status: int, error: str, hint: str) -> None:
        body = json.dumps({"error": error, "hint": hint}).encode()
        head = [
            STATUS_LINE[status],
            b"content-type: application/json\r\nx-content-type-options: nosniff\r\nconnection: close\r\n",
            b"content-length: %d\r\n\r\n" % len(body),
        ]
        self.transport.write(b"".join([*head, body]))
        self.transport.close()
        self._expect_reading()

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    @classmethod
    def _tell_of_too_many(cls) -> None:
        if time.monotonic() >= cls._quiet_until:
            cls._quiet_until = time.monotonic() + 60
            write_event("too many connections: new ones are closed", limit=cls.most_connections)

    def _expect_reading(self) -> None:
        """Sees to it that a client is left that does not read on, also one whose connection is to be closed."""
        if self._write_timer is None and self.transport.get_write_buffer_size():
            self._write_timer = self.loop.call_later(WRITE_SECONDS, self._leave_unread, self._answered)

    def _leave_unread(self, answered: int) -> None:
        self._write_timer = None
        if self._answered == answered and self.transport.get_write_buffer_size():
            self.transport.abort()
        else:  # it is being answered on, so it reads: else writing would be paused
            self._expect_reading()

    def _end_write(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _end_head(self) -> None:
        self._head_bytes = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
