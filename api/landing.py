"""The landing folder: lines of many requests are written together, with one fsync for all of them (group commit)."""

import asyncio
import errno
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from api.log import where, write_event
from api.parts import Part, recover

RECOVER_EVERY = 60.0
# EFBIG: the process may write no larger files (ulimit -f).
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Landing:
    """The only writer of this process. A file is sealed when it is large or old enough, or the service stops."""

    def __init__(self, folder: Path, roll_bytes: int, roll_seconds: float) -> None:
        self._folder = folder
        self._roll_bytes = roll_bytes
        self._roll_seconds = roll_seconds
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._is_failing = False
        self._part: Part | None = None  # changed by the writing thread only
        self._seal_at: float | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="landing")
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await asyncio.to_thread(self._recover)
        self._tasks = [asyncio.create_task(self._write_forever()), asyncio.create_task(self._recover_forever())]

    async def stop(self) -> None:
        """Write what waits, and make it visible to the job."""
        self._is_stopping = True
        self._wake.set()
        writer, recoverer = self._tasks
        await writer
        recoverer.cancel()
        await asyncio.to_thread(self._recover)  # what had to be abandoned, and holds acknowledged lines
        self._thread.shutdown()

    async def append(self, lines: bytes) -> None:
        """Returns when the lines are on disk. Raises OSError if they may not be; sending them again does no harm."""
        if self._is_stopping:
            raise OSError(errno.ESHUTDOWN, "the service is stopping")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((lines, written))
        self._wake.set()
        await written

    async def _write_forever(self) -> None:
        while True:
            await self._work_or_time()
            group, self._waiting = self._waiting, []
            if group:
                failure = await self._in_thread(self._commit, [lines for lines, _ in group])
                _answer(group, failure)
                self._report(failure)
            is_last = self._is_stopping and not self._waiting
            if (is_last or self._is_due()) and (failure := await self._in_thread(self._seal)):
                write_event("file not sealed: it stays hidden until the next attempt", error=_name(failure))
            if is_last:
                return

    async def _in_thread(self, work: Callable[..., None], *given: object) -> Exception | None:
        """What is raised is returned: if the writing task ended, every request from then on would wait for ever."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)
        except Exception as error:
            return error
        return None

    async def _work_or_time(self) -> None:
        """Until something waits to be written, or a file waits to be sealed."""
        self._wake.clear()
        if self._waiting or self._is_stopping:
            return
        remaining = None if self._seal_at is None else max(0.0, self._seal_at - time.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(remaining):
                await self._wake.wait()

    def _is_due(self) -> bool:
        if self._part is None or self._seal_at is None:
            return False
        return self._part.size >= self._roll_bytes or time.monotonic() >= self._seal_at

    def _commit(self, group: list[bytes]) -> None:
        lines = b"".join(group)
        if self._part is None:
            self._part = Part.create(self._folder)
        try:
            self._part.append(lines)
        finally:
            if not self._part.is_sound:
                part, self._part, self._seal_at = self._part, None, None
                part.abandon()
        if self._seal_at is None:
            self._seal_at = time.monotonic() + self._roll_seconds

    def _seal(self) -> None:
        part, self._part, self._seal_at = self._part, None, None
        if part is not None:
            part.seal()

    def _recover(self) -> None:
        try:
            if count := recover(self._folder):
                write_event("files of a process that had died were sealed", files=count)
        except Exception as error:  # whatever it was, the next attempt must come
            write_event("files of a process that had died could not be sealed", error=_name(error))

    async def _recover_forever(self) -> None:
        """Another process on the same folder may die and not come back; and so may a file that had to be abandoned."""
        while not self._is_stopping:
            await asyncio.sleep(RECOVER_EVERY)
            await asyncio.to_thread(self._recover)

    def _report(self, failure: Exception | None) -> None:
        """Says once that writing fails, and once that it works again."""
        if (failure is not None) != self._is_failing:
            self._is_failing = failure is not None
            write_event("entries cannot be written" if failure else "entries are written again", error=_name(failure))


def _answer(group: list[tuple[bytes, asyncio.Future[None]]], failure: Exception | None) -> None:
    for _, written in group:
        if written.done():  # the request was cancelled
            continue
        if failure is None:
            written.set_result(None)
        elif isinstance(failure, OSError):
            written.set_exception(OSError(failure.errno, failure.strerror))
        else:
            written.set_exception(OSError(errno.EIO, "the entries may not be on disk"))


def _name(error: Exception | None) -> str:
    if isinstance(error, OSError):
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    return "-" if error is None else where(error)
