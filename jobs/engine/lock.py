"""One run at a time on a lakehouse. The lock goes with the process that holds it, however that ends (kill -9, too).

A lakehouse on this machine, or mounted, is locked by `flock` on `<lakehouse>/ops/.lock`. Any other is locked by an
advisory lock of a Postgres session. Who only reads takes no lock.
"""

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg.conninfo import make_conninfo

from jobs.engine.database import Database, first_line
from jobs.engine.errors import AssayError
from jobs.engine.places import local_path

_POLL_SECONDS = 0.2
# A host that vanishes without a word frees the lock after a minute or so, on either side of the connection.
_KEEPALIVES = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_SESSION = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 -c idle_session_timeout=0"


@dataclass(frozen=True)
class Holder:
    """Who works on a lakehouse: the command (`assay run`), its process, its machine, since when (ISO 8601, UTC)."""

    what: str
    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        since = datetime.fromisoformat(self.since)
        is_today = since.date() == datetime.now(UTC).date()
        time_of_day = f"{since:%H:%M:%SZ}" if is_today else f"{since:%Y-%m-%dT%H:%M:%SZ}"
        return f"{self.what}, process {self.pid} on {self.host} since {time_of_day}"


@contextmanager
def exclusive(
    lakehouse: str, what: str, wait_seconds: float = 0.0, *, database: Callable[[], Database]
) -> Iterator[None]:
    """Keeps all other runs off the lakehouse; `what` is the command as typed, e.g. `assay run`.

    `database` is asked for only if the lakehouse is not on a local path. Raises AssayError that says who holds the lock
    if that is not over within `wait_seconds`.
    """
    folder = local_path(lakehouse)
    holder = Holder(what, os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))
    if folder is not None:
        with _locked_file(folder / "ops/.lock", lakehouse, holder, wait_seconds):
            yield
    else:
        with _locked_session(database(), lakehouse, holder, wait_seconds):
            yield


@contextmanager
def _locked_file(file: Path, lakehouse: str, holder: Holder, wait_seconds: float) -> Iterator[None]:
    try:
        # For its owner alone, as it has what raw files say of people. One that is there may be meant for others, too.
        if not file.parents[1].exists():
            file.parents[1].mkdir(mode=0o700, parents=True, exist_ok=True)
        file.parent.mkdir(exist_ok=True)
        # Python closes it on exec: Spark's JVM and the embedded Postgres outlive this process and must not keep it.
        lock = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")
    except OSError as error:
        raise AssayError(f"cannot lock {lakehouse}: {error.strerror}: {file}", "make it writable") from None
    with lock:
        try:
            _take(lambda: _try_file(lock), lambda: _read_holder(lock), lakehouse, holder, wait_seconds)
        except OSError as error:
            raise AssayError(
                f"cannot lock {lakehouse}: {error.strerror}: {file}",
                "the file system has to be one with locks (flock); for NFS, let its lock service run",
            ) from None
        try:
            _write(lock, json.dumps(asdict(holder)))
            yield
        finally:
            # The file stays: who removed it could remove one that somebody else has locked since.
            _write(lock, "")


@contextmanager
def _locked_session(database: Database, lakehouse: str, holder: Holder, wait_seconds: float) -> Iterator[None]:
    key = lock_key(lakehouse)
    # Postgres cuts application_name at 63 bytes.
    name = f"{holder.what}, process {holder.pid} on {holder.host}"[:63]
    conninfo = make_conninfo(database.conninfo(), application_name=name, options=_SESSION, **_KEEPALIVES)
    try:
        connection = psycopg.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as error:
        raise AssayError(
            f"cannot lock {lakehouse}: no connection to Postgres at {database.host}:{database.port}: "
            f"{first_line(error)}",
            "a lakehouse that is not on a local path is locked through Postgres, whatever the run does",
        ) from None
    with connection:
        _take(lambda: _try_session(connection, key), lambda: _session(connection, key), lakehouse, holder, wait_seconds)
        _held.append(connection)
        try:
            yield
        finally:
            _held.remove(connection)


_held: list[psycopg.Connection[Any]] = []  # sessions by which this process keeps others off


def verify_held() -> None:
    """Raises AssayError if a lock that is a session of Postgres was lost: another run may have been at work since."""
    for connection in _held:
        try:
            connection.execute("SELECT")
        except psycopg.Error as error:
            raise AssayError(
                f"the lock on the lakehouse was lost ({type(error).__name__}); nothing was published",
                "Postgres was stopped, or the connection cut, while this run was at work: run again",
            ) from None


def lock_key(lakehouse: str) -> int:
    """The number that stands for a lakehouse among Postgres's advisory locks."""
    return int.from_bytes(hashlib.sha256(lakehouse.rstrip("/").encode()).digest()[:8], signed=True)


def _take(
    try_once: Callable[[], bool],
    who: Callable[[], str],
    lakehouse: str,
    holder: Holder,
    wait_seconds: float,
) -> None:
    give_up_at = time.monotonic() + wait_seconds
    while not try_once():
        if time.monotonic() >= give_up_at:
            raise AssayError(f"another run works on {lakehouse}{who()}", f"wait for it, or: {holder.what} --wait 600")
        time.sleep(min(_POLL_SECONDS, max(0.0, give_up_at - time.monotonic())))


def _try_file(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(lock: IO[str]) -> str:
    """Nothing, while the holder has not written yet."""
    lock.seek(0)
    try:
        return f" ({Holder(**json.loads(lock.read()))})"
    except (ValueError, TypeError):
        return ""


def _write(lock: IO[str], text: str) -> None:
    """On a full disk nothing: who holds it is not told then, but maintenance, which makes room, can begin."""
    with suppress(OSError):
        os.ftruncate(lock.fileno(), 0)
        os.pwrite(lock.fileno(), text.encode(), 0)


def _try_session(connection: psycopg.Connection[Any], key: int) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone()
    return row is not None and bool(row[0])


def _session(connection: psycopg.Connection[Any], key: int) -> str:
    row = connection.execute(
        "SELECT application_name, backend_start FROM pg_locks JOIN pg_stat_activity USING (pid) "
        "WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pg_locks.database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND (classid::bigint << 32) | objid::bigint = %s",
        [key],
    ).fetchone()
    return f" ({row[0]} since {row[1].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ})" if row else ""
