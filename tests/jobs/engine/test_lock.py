"""One run at a time: across processes, with a clear line for the second, and free as soon as the first is gone."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from jobs.engine.database import Database
from jobs.engine.errors import AssayError
from jobs.engine.lock import exclusive, verify_held
from jobs.engine.session import PROJECT

# Holds the lock until it is killed; its child has all of its open files and outlives it.
HOLDER = """
import subprocess, sys, time
from jobs.engine.database import Database
from jobs.engine.lock import exclusive

lakehouse, host, port, name, user, password = sys.argv[1:]
with exclusive(lakehouse, "assay run", database=lambda: Database(host, int(port), name, user, password)):
    child = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(60)
"""


def no_database() -> Database:
    raise AssertionError("a local lakehouse needs no database to be locked")


@contextmanager
def held(lakehouse: str, database: Database) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock."""
    given = [lakehouse, database.host, str(database.port), database.name, database.user, database.password]
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), *given]
    holder = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        yield holder
    finally:
        holder.kill()
        holder.wait()
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


@pytest.fixture(params=["folder", "file: URI", "another file system"])
def place(request: pytest.FixtureRequest, tmp_path: Path, database: Database) -> tuple[str, Callable[[], Database]]:
    """A lakehouse, and the database to lock it by."""
    if request.param == "another file system":
        return f"s3a://bucket{tmp_path}", lambda: database
    return ("file:" if "URI" in request.param else "") + str(tmp_path / "lakehouse"), no_database


def test_the_second_says_who_holds_the_lock_and_a_killed_holder_frees_it(
    place: tuple[str, Callable[[], Database]], database: Database
) -> None:
    lakehouse, given = place
    with held(lakehouse, database) as holder:
        with pytest.raises(AssayError) as refused, exclusive(lakehouse, "assay maintain", database=given):
            pass
        who = rf"\(assay run, process {holder.pid} on \S+ since \S*\d\d:\d\d:\d\dZ\)"
        expected = (
            rf"another run works on {re.escape(lakehouse)} {who}\n       wait for it, or: assay maintain --wait 600"
        )
        assert re.fullmatch(expected, str(refused.value))
        with exclusive(f"{lakehouse}-of-others", "assay run", database=given):
            pass

        began = time.monotonic()
        with pytest.raises(AssayError), exclusive(lakehouse, "assay run", 0.5, database=given):
            pass
        assert 0.5 <= time.monotonic() - began < 5

        # Its child, which has inherited what can be inherited, lives on.
        holder.kill()
        holder.wait()
        with exclusive(lakehouse, "assay run", 20, database=given):
            pass


def test_the_lock_is_free_again_after_the_work_and_after_an_error(
    place: tuple[str, Callable[[], Database]],
) -> None:
    lakehouse, given = place
    for _ in range(2):
        with pytest.raises(KeyError), exclusive(lakehouse, "assay run", database=given):
            raise KeyError


def test_a_lock_that_was_lost_with_its_session_is_noticed_before_a_release(database: Database) -> None:
    verify_held()
    with exclusive("hdfs:/lake", "assay run", database=lambda: database):
        verify_held()
        with psycopg.connect(database.conninfo(), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        with pytest.raises(AssayError, match=r"the lock on the lakehouse was lost .*; nothing was published"):
            verify_held()
    verify_held()


def test_a_new_lakehouse_is_for_its_owner_alone_and_one_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir(mode=0o750)
    for folder, mode in ((tmp_path / "data/new", 0o700), (there, 0o750)):
        with exclusive(str(folder), "assay run", database=no_database):
            assert folder.stat().st_mode & 0o777 == mode


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    expected = f"cannot lock {tmp_path}/file: Not a directory: {tmp_path}/file/ops/.lock"
    with pytest.raises(AssayError, match=expected), exclusive(f"{tmp_path}/file", "assay run", database=no_database):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    expected = f"cannot lock {tmp_path}/lake: {os.strerror(number)}: {tmp_path}/lake/ops/.lock"
    with pytest.raises(AssayError, match=expected), exclusive(f"{tmp_path}/lake", "assay run", database=no_database):
        pass


def test_on_a_full_disk_it_can_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refuse)
    with exclusive(str(tmp_path), "assay maintain", database=no_database):
        expected = pytest.raises(AssayError, match=f"another run works on {tmp_path}\n")
        with expected, exclusive(str(tmp_path), "assay run", database=no_database):
            pass
