"""Receiving: entries of members, acknowledged once they are on disk."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from fastapi import Depends, FastAPI, Request, Response

from api.description import ACCEPTED_EXAMPLE, ENTRIES_BODY, error_responses
from api.description import example_response as example
from api.entries import BODY_SECONDS, MAX_BODY_BYTES, Batch, read_batch
from api.errors import TRY_AGAIN, ApiError, json_response
from api.guard import requires
from api.landing import FULL, Landing

MAX_HELD_BYTES = 256 * 1024 * 1024  # of all requests together
# Larger bodies are taken apart in a thread, so that others need not wait; in one, so that memory stays bounded.
LARGE_BYTES = 64 * 1024


def add_receiver(app: FastAPI, landing: Landing) -> None:
    """Adds `POST /member` and `POST /` to the app."""
    receiver = _Receiver(landing)

    async def receive(request: Request) -> Response:
        """Entries are answered with 202 once they are on disk (fsync); a batch lands as a whole or not at all. (Only of
        one that was being written when the service was killed, and was not acknowledged, the first lines may land.)

        An entry is one line, `{key=value|key=value...}`, of up to 64 KiB; blank space around it is cut off. Junk is
        refused. Whether an entry's id and date make sense is found out by the next run, which quarantines it if not.
        Send again what was not acknowledged: identical lines are one entry.
        """
        return await receiver.receive(request)

    for path, name in (("/member", "receive_entries"), ("/", "receive_entries_at_root")):
        app.add_api_route(
            path,
            receive,
            methods=["POST"],
            summary="Receive entries" if path == "/member" else "The same as /member",
            operation_id=name,
            status_code=202,
            responses=example(ACCEPTED_EXAMPLE, 202, "The entries are on disk")
            | error_responses(400, 401, 403, 408, 413, 415, 429, 503, 507),
            openapi_extra={"requestBody": ENTRIES_BODY},
            dependencies=[Depends(requires("write"))],
            tags=["members"],
        )


class _Receiver:
    def __init__(self, landing: Landing) -> None:
        self._landing = landing
        self._held_bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="entries")

    async def receive(self, request: Request) -> Response:
        held = _Held(self)
        try:
            batch = await self._batch(await self._body(request, held))
            await self._land(batch)
        finally:
            held.release()
        return json_response({"data": {"accepted": batch.count}}, 202, {"Cache-Control": "no-store"})

    async def _body(self, request: Request, held: "_Held") -> bytes:
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "compressed bodies are not taken", "send the body as it is, without Content-Encoding")
        if int(request.headers.get("content-length", "0")) > MAX_BODY_BYTES:
            raise _too_large()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await _read(request, held)
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {BODY_SECONDS:.0f} s", "send it again") from None

    async def _batch(self, body: bytes) -> Batch:
        if len(body) <= LARGE_BYTES:
            return read_batch(body)
        return await asyncio.get_running_loop().run_in_executor(self._thread, read_batch, body)

    async def _land(self, batch: Batch) -> None:
        try:
            await self._landing.append(batch.lines)
        except OSError as error:
            if error.errno in FULL:
                hint = "make room on the disk of the landing folder, and send them again; nothing was kept"
                raise ApiError(507, "there is no room left for entries", hint, TRY_AGAIN) from None
            raise ApiError(503, "the entries cannot be written now", "send them again shortly", TRY_AGAIN) from None

    def hold(self, size: int) -> None:
        if self._held_bytes + size > MAX_HELD_BYTES:
            raise ApiError(503, "too many entries are under way", "send them again shortly", {"Retry-After": "1"})
        self._held_bytes += size

    def release(self, size: int) -> None:
        self._held_bytes -= size


class _Held:
    """What one request holds in memory."""

    def __init__(self, receiver: _Receiver) -> None:
        self._receiver = receiver
        self.size = 0

    def add(self, size: int) -> None:
        self._receiver.hold(size)
        self.size += size

    def release(self) -> None:
        self._receiver.release(self.size)


async def _read(request: Request, held: _Held) -> bytes:
    chunks = []
    is_more = True
    while is_more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ApiError(400, "the connection was closed before the body was complete", "send it again")
        chunk = message.get("body", b"")
        held.add(len(chunk))
        if held.size > MAX_BODY_BYTES:
            raise _too_large()
        chunks.append(chunk)
        is_more = message.get("more_body", False)
    return b"".join(chunks)


def _too_large() -> ApiError:
    limit = f"{MAX_BODY_BYTES // 2**20} MiB"
    return ApiError(
        413, f"the body is over {limit}", f"send the entries in requests of up to {limit}; nothing was kept"
    )
