"""What arrives before it is a request (no HTTP, too much, too slowly), and `assay serve` as an operator meets it."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NoReturn

import pytest
import uvicorn

from api import server as server_module
from api.app import create_app
from api.config import RATE_LIMIT, ROLL_SECONDS, ServiceConfig
from api.database import DatabaseUnavailable
from api.keys import parse_keys
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.settings import load_settings
from jobs.serve import serve
from tests.api.conftest import BOTH
from tests.api.service import ASSAY, Service

CHUNKED = b"POST /member HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def ask(service: Service, data: bytes) -> bytes:
    """All that the service says to raw bytes until it closes the connection, be it before it has read them all."""
    answer = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection, suppress(ConnectionError):
        connection.sendall(data)
        while more := connection.recv(10_000):
            answer += more
    return answer


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        (b"hello\r\n\r\n", 400, b"this is not HTTP/1.1 that can be understood"),
        (b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n", 400, b"this is not HTTP/1.1"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n", 400, b"this is not HTTP/1.1"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400, b"this is not HTTP/1.1"),
        (b"GET /" + b"x" * 300_000, 431, b"the head of the request is over 64 KiB"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"x" * 300_000, 431, b"the head of the request is over"),
        (b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 100_000, 431, b"the head of the request is over 64 KiB"),
        (CHUNKED + b"0\r\n" + b"X-A: b\r\n" * 100_000, 431, b"trailers or chunk extensions are over 64 KiB"),
        (CHUNKED + b"5\r\n{a=1}\r\n0\r\nX-A: " + b"x" * 800_000, 431, b"trailers or chunk extensions are over"),
        (CHUNKED + b"5;a=" + b"x" * 800_000, 431, b"trailers or chunk extensions are over 64 KiB"),
    ],
)
def test_what_is_no_request_is_refused_in_json_and_the_connection_closed(
    service: Service, data: bytes, status: int, error: bytes
) -> None:
    answer = ask(service, data)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/json" in answer
    assert b'{"error": "' + error in answer


def test_some_trailers_and_any_number_of_chunks_are_taken(service: Service) -> None:
    chunks = [b"1;number=%d\r\n%c\r\n" % (number, byte) for number, byte in enumerate(b"{a=" + b"x" * 20_000 + b"}")]
    trailers = b"X-Trailer: b\r\nExpect: 100-continue\r\nX-API-Key: " + b"x" * 1_000
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(CHUNKED)
        for piece in (*chunks[:10], b"".join(chunks[10:]), b"0\r\n", *trailers.splitlines(keepends=True), b"\r\n\r\n"):
            connection.sendall(piece)
            time.sleep(0.01)
        assert connection.recv(1000).startswith(b"HTTP/1.1 202 ")


def test_requests_may_be_sent_one_after_the_other_without_waiting(service: Service) -> None:
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert ask(service, one + one + last).count(b'{"data":{"status":"ok"}}') == 3


def test_no_more_than_some_requests_wait_for_the_answers_to_earlier_ones(service: Service) -> None:
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = b'{"data":{"status":"ok"}}'
    assert ask(service, one * server_module.MAX_WAITING + last).count(answer) == server_module.MAX_WAITING + 1
    assert ask(service, one * 1_000).count(answer) < 100
    # The head that begins behind other requests is counted from there.
    begun = one + b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"x" * 45_000
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(one * 20 + begun)
        time.sleep(0.2)
        connection.sendall(b"y" * 20_000 + b"\r\nConnection: close\r\n\r\n")
        assert connection.makefile("rb").read().count(answer) == 22


def test_what_a_client_sends_ahead_of_slow_answers_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await asyncio.sleep(0.2)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    waiting, received = list[int](), server_module._Protocol.data_received

    def watched(protocol: server_module._Protocol, data: bytes) -> None:
        waiting.append(len(protocol.pipeline))
        received(protocol, data)

    monkeypatch.setattr(server_module._Protocol, "data_received", watched)
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(sys.modules[__name__], "create_app", lambda _: slow)
    one = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with (
        running(tmp_path / "members", lifespan="off") as port,
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
    ):
        connection.sendall(one * 8 + one[:20])  # the last head has to wait for seven answers: over a second
        for _ in range(5):
            time.sleep(0.05)
            connection.sendall(one[20:] + one * 3 + one[:20])
        connection.sendall(one[20:-2] + b"Connection: close\r\n\r\n")
        assert connection.makefile("rb").read().count(b"HTTP/1.1 204") == 8 + 5 * 4 + 1
    assert len(waiting) > 1
    assert max(waiting) == 0


@pytest.mark.parametrize("closing", [b"", b", close"])
@pytest.mark.parametrize("pause", [0.0, 0.1], ids=["body in the same segment", "in a later one"])
def test_a_request_that_asks_for_another_protocol_is_answered_as_if_it_did_not(
    service: Service, pause: float, closing: bytes
) -> None:
    head = (
        b"POST /member HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings%s\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n" % closing
    )
    plain, chunked = b"Content-Length: 5\r\n\r\n|{a=1}", b"Transfer-Encoding: chunked\r\n\r\n|5\r\n{a=1}\r\n0\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    requests = [head + plain] if closing else [head + plain, head + chunked, last]
    pieces = b"".join(requests).split(b"|") if pause else [b"".join(requests).replace(b"|", b"")]
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        answer = connection.makefile("rb").read()
    assert answer.count(b"HTTP/1.1 202 ") == answer.count(b'{"data":{"accepted":1}}') == (1 if closing else 2)
    assert answer.count(b"HTTP/1.1 ") == len(requests)


@contextmanager
def running(folder: Path, keys: str = "", lifespan: Literal["auto", "off"] = "auto") -> Iterator[int]:
    """The server in a thread of this process, so that a test may shorten its patience; gives its port."""

    def no_database() -> str:
        raise DatabaseUnavailable("there is none")

    config = ServiceConfig(folder, no_database, port=0, keys=parse_keys(keys))
    folder.mkdir()
    listener = server_module.listen(config)
    settings = uvicorn.Config(
        create_app(config),
        http=server_module._Protocol,
        log_config=None,
        timeout_keep_alive=1,
        proxy_headers=False,
        lifespan=lifespan,
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    ("beginning", "patience"),
    [(b"", 1.0), (b"GET /hea", 0.5), (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", 0.5)],
)
def test_a_connection_that_says_nothing_or_says_it_too_slowly_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beginning: bytes, patience: float
) -> None:
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.5)
    with running(tmp_path / "members") as port, socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        began = time.monotonic()
        connection.sendall(beginning)
        for _ in range(100):  # a byte now and then changes nothing
            try:
                if beginning:
                    connection.sendall(b"x")
                connection.settimeout(0.1)
                if connection.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert patience - 0.1 < time.monotonic() - began < 4


GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("before", [b"", GET_HEALTH], ids=["first", "after a request"])
def test_a_connection_that_says_nothing_but_line_breaks_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.5)
    with running(tmp_path / "members") as port, socket.create_connection(("127.0.0.1", port), timeout=4) as connection:
        if before:
            connection.sendall(before)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"\r\n")
        time.sleep(0.2)
        connection.sendall(b"\r\n")
        assert connection.recv(1) == b""


def test_line_breaks_before_a_request_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.5)
    with running(tmp_path / "members") as port, socket.create_connection(("127.0.0.1", port), timeout=4) as connection:
        for pause in (0.2, 0.7, 0.7):
            connection.sendall(b"\r\n")
            connection.sendall(GET_HEALTH)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
            time.sleep(pause)


def test_connections_beyond_what_the_process_can_have_are_closed_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server_module._Protocol, "most_connections", 2)
    with running(tmp_path / "members") as port, ExitStack() as connections:
        first, second, third, fourth = (
            connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5)) for _ in range(4)
        )
        for one in (third, fourth):
            with suppress(ConnectionError):
                assert one.recv(1) == b""
        for one in (first, second):
            one.sendall(GET_HEALTH)
            assert one.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert capsys.readouterr().err.count("too many connections") == 1


def test_as_many_connections_as_there_are_file_descriptors_for_less_some_for_files() -> None:
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (50, {}))\n"
        "from api.server import _most_connections\n"
        "print(_most_connections(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    for hard, said in ((300, "200 300 300"), (60, "1 60 60")):
        command = [sys.executable, "-c", script.format(hard)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == said


@pytest.mark.parametrize(("requests", "is_paused"), [(2, False), (500, True)], ids=["some", "as many as it can"])
def test_a_client_that_does_not_read_its_answers_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: int, is_paused: bool
) -> None:
    monkeypatch.setattr(server_module, "WRITE_SECONDS", 0.5)
    lost, paused = threading.Event(), threading.Event()
    made, connection_lost, pause = (
        getattr(server_module._Protocol, name) for name in ("connection_made", "connection_lost", "pause_writing")
    )

    def with_small_buffer(protocol: server_module._Protocol, transport: asyncio.Transport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(protocol, transport)

    def watched(event: threading.Event, call: Any) -> Any:
        return lambda *given: (call(*given), event.set())

    monkeypatch.setattr(server_module._Protocol, "connection_made", with_small_buffer)
    monkeypatch.setattr(server_module._Protocol, "connection_lost", watched(lost, connection_lost))
    monkeypatch.setattr(server_module._Protocol, "pause_writing", watched(paused, pause))
    with running(tmp_path / "members") as port, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.2)
        connection.connect(("127.0.0.1", port))
        for _ in range(requests):
            try:
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            except TimeoutError:
                continue
            except ConnectionError:
                break
            if lost.wait(0.02):
                break
        assert lost.wait(5)
        assert paused.is_set() is is_paused


def test_what_bodies_take_in_memory_is_bounded_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.receiver.MAX_HELD_BYTES", 20)
    with running(tmp_path / "members") as port:

        def status(entry: str) -> bytes:
            head = (
                f"POST /member HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(entry)}\r\n\r\n"
            )
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall((head + entry).encode())
                return connection.makefile("rb").read()[:12]

        taken = "{a=123456789}"
        assert [status(entry) for entry in (*[taken] * 3, f"{{a={'x' * 20}}}", taken)] == [
            *[b"HTTP/1.1 202"] * 3, b"HTTP/1.1 503", b"HTTP/1.1 202",
        ]  # fmt: skip


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.receiver.BODY_SECONDS", 0.3)
    monkeypatch.setattr("api.envelope.DRAIN_SECONDS", 0.1)
    with running(tmp_path / "members") as port, socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"POST /member HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{a=")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer


@pytest.mark.parametrize("request_line", ["POST /member", "GET /docs", "GET /health", "GET /nothing"])
def test_strangers_who_hold_their_bodies_back_keep_out_no_caller_with_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_line: str
) -> None:
    monkeypatch.setattr("api.guard.MAX_IN_FLIGHT", 3)

    def answer(connection: socket.socket, request: str) -> bytes:
        connection.sendall(request.encode())
        return connection.makefile("rb").read()

    body = "Content-Length: 9\r\n\r\n"
    with running(tmp_path / "members", BOTH) as port, ExitStack() as connections:

        def connect() -> socket.socket:
            return connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))

        strangers = [connect() for _ in range(6)]
        for stranger in strangers:
            stranger.sendall(f"{request_line} HTTP/1.1\r\nHost: assay.example\r\n{body}".encode())
        time.sleep(0.3)
        head = f"Host: assay.example\r\nX-API-Key: {BOTH}\r\nConnection: close\r\n"
        posted = answer(connect(), f"POST /member HTTP/1.1\r\n{head}{body}{{a=1}}\r\n\r\n")
        watched = answer(connect(), "GET /health HTTP/1.1\r\nHost: assay.example\r\nConnection: close\r\n\r\n")
        for stranger in strangers:
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.recv(1)
        # Whoever sends the body first gets the answer all the same.
        strangers[0].setblocking(True)
        strangers[0].sendall(b"x" * 9)
        refused = strangers[0].recv(10_000)
    assert posted.startswith(b"HTTP/1.1 202 "), posted
    assert watched.startswith(b"HTTP/1.1 200 ")
    expected = {"POST /member": 401, "GET /docs": 200, "GET /health": 200, "GET /nothing": 404}
    assert refused.startswith(b"HTTP/1.1 %d " % expected[request_line])


def assay(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ASSAY_", "POSTGRES_"))}
    command = [str(ASSAY), "serve", *arguments]
    return subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=60, check=False)


def test_help_has_an_example_for_every_option_and_the_defaults_of_the_service() -> None:
    shown = " ".join(assay("--help").stdout.split())
    for option in ("--host", "--port", "--rate-limit", "--roll-seconds"):
        assert f"Example: {option} " in shown
    for default in ("127.0.0.1", "5000", RATE_LIMIT, str(ROLL_SECONDS)):
        assert f"[default: {default}" in shown


def test_what_no_run_would_read_is_not_received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = SimpleNamespace(patterns=["crm/*.log"])
    monkeypatch.setenv("ASSAY_LANDING", str(tmp_path))

    def refusal() -> str:
        with pytest.raises(ConfigurationError) as refused:  # the host is none, if nothing else is refused before
            serve(load_settings(), "no.such.host.invalid", 0, None, RATE_LIMIT, ROLL_SECONDS)
        return str(refused.value)

    def mistaken(_names: list[str]) -> NoReturn:
        raise ConfigurationError("a mistake")

    assert "no such host" in refusal()
    monkeypatch.setattr("jobs.serve.load_sources", lambda _: [elsewhere])
    assert "members/received-1.log, and only crm/*.log would be read" in refusal()
    monkeypatch.setattr("jobs.serve.load_sources", mistaken)
    assert "no such host" in refusal(), "runs say it, and what is received stays"
    monkeypatch.setattr("jobs.serve.source_names", lambda: {"signups"})
    assert "there is no conf/sources/members.yaml" in refusal()


@pytest.mark.parametrize(
    ("options", "variables", "says"),
    [
        ({"host": "0.0.0.0"}, {}, "--host 0.0.0.0 can be reached from other machines, and ASSAY_API_KEYS is not set"),
        ({"host": "::", "keys": ""}, {}, "set ASSAY_API_KEYS"),
        ({"host": "192.0.2.1", "keys": BOTH}, {}, "--host 192.0.2.1 is no address of this machine"),
        ({"host": "no.such.host.invalid"}, {}, "--host no.such.host.invalid: no such host"),
        ({"keys": "tooshort"}, {}, "ASSAY_API_KEYS: key 1 has 8 characters; it needs at least 16"),
        ({"rate_limit": "often"}, {}, "'often' is not a rate"),
        ({}, {"ASSAY_LANDING": "s3a://bucket/raw"}, "entries can only be received into a local landing folder"),
        ({}, {"POSTGRES_HOST": "db.example"}, "POSTGRES_HOST is set and POSTGRES_PASSWORD is not"),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], variables: dict[str, str], says: str
) -> None:
    for name in [name for name in os.environ if name.startswith(("ASSAY_", "POSTGRES_"))]:
        monkeypatch.delenv(name)
    for name, value in {"ASSAY_LANDING": str(tmp_path / "landing"), **variables}.items():
        monkeypatch.setenv(name, value)
    given = {"host": "127.0.0.1", "rate_limit": RATE_LIMIT, "keys": None, **options}
    with pytest.raises(ConfigurationError) as refused:
        serve(load_settings(), port=0, roll_seconds=ROLL_SECONDS, **given)
    assert says in str(refused.value)
    assert refused.value.hint


def test_wrong_usage_or_configuration_ends_with_2_and_says_what_to_do(tmp_path: Path) -> None:
    for arguments, says in [
        (["--host", "0.0.0.0"], "set ASSAY_API_KEYS (read:<key>, write:<key> or <key> for both, separated by commas)"),
        (["--port", "70000"], "--port"),
    ]:
        ended = assay(*arguments, ASSAY_LANDING=str(tmp_path))
        assert (ended.returncode, ended.stdout) == (2, "")
        assert says in " ".join(ended.stderr.split())
        assert "Traceback" not in ended.stderr


def test_a_port_in_use_ends_with_1_and_says_so(service: Service, tmp_path: Path) -> None:
    ended = assay("--port", str(service.port), ASSAY_LANDING=str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: port {service.port} on 127.0.0.1 is in use\n")


def test_a_landing_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASSAY_LANDING", str(tmp_path / "file"))
    with pytest.raises(AssayError, match="cannot make the landing folder") as refused:
        serve(load_settings(), "127.0.0.1", 0, None, RATE_LIMIT, ROLL_SECONDS)
    assert refused.value.exit_code == 1


def test_at_its_start_it_says_where_it_listens_where_entries_land_and_what_to_try(
    service: Service, service_with_keys: Service
) -> None:
    assert service.announced.startswith(f"assay  serve  http://127.0.0.1:{service.port}  ")
    assert f"landing       {service.folder}, for the run after at most 5 s\n" in service.announced
    assert "keys          not required" in service.announced
    assert "keys          required (3 in ASSAY_API_KEYS)" in service_with_keys.announced
    assert BOTH not in service_with_keys.announced


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_curl_lines_that_it_shows_work(service: Service, service_with_keys: Service) -> None:
    for started in (service, service_with_keys):
        environment = {**os.environ, "KEY": BOTH}
        lines = [line for line in started.announced.splitlines() if "curl" in line]
        said = [
            subprocess.run(["bash", "-c", line[line.index("curl") :]], env=environment, capture_output=True, check=True)
            for line in lines
        ]
        assert [one.stdout for one in said] == [
            b'{"data":{"accepted":1}}',
            b'{"data":{"customer_id":1,"interactions":{"Bird":0,"Call":0,"Email":1}}}',
        ]


def test_the_health_check_of_the_container_tells_up_from_down(service: Service) -> None:
    script = Path(__file__).parents[2] / "scripts/api_health.py"

    def check(*addresses: str) -> tuple[int, str]:
        command = [sys.executable, script, *addresses]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return ended.returncode, ended.stdout + ended.stderr

    assert check(f"{service.url}/health") == (0, '{"data":{"status":"ok"}}\n')
    assert check(f"{service.url}/api/v1/interactions/4")[0] == 1
    assert check("http://127.0.0.1:1/health")[0] == 1
    assert check()[0] == 2
