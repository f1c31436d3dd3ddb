"""Files of received lines: hidden while they are written, visible to the job once they are complete.

A file is `.received-<UTC time>-<random>.part` at first: the job does not see names that begin with a dot. It is locked
by the process that writes it. To be sealed is to be renamed to `received-<UTC time>-<random>.log`. When a process dies,
its lock goes; whoever comes next (`recover`) cuts off an unfinished line, which was not acknowledged, and seals it.
"""

import errno
import fcntl
import os
import secrets
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

PREFIX, _HIDDEN_SUFFIX, SUFFIX = "received-", ".part", ".log"
_OWNER_ONLY = 0o600  # the entries are personal
_CHUNK = 64 * 1024
_ATTEMPTS = 10


@dataclass
class Part:
    """One open file. `size` is how much of it is known to be on disk."""

    path: Path
    descriptor: int
    size: int = 0
    is_sound: bool = True

    @classmethod
    def create(cls, folder: Path) -> "Part":
        """A new file, with its name on disk. Raises OSError, and leaves nothing behind then."""
        make_folder(folder)
        for _ in range(_ATTEMPTS):
            # Microseconds, so that names sort as the files began.
            time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            path = folder / f".{PREFIX}{time}-{secrets.token_hex(4)}{_HIDDEN_SUFFIX}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
            descriptor = os.open(path, flags, _OWNER_ONLY)
            try:
                # A process that recovers may have taken the file, or even removed it as empty, before it was locked.
                if _is_locked_by_us(descriptor, path):
                    _sync_folder(folder)
                    return cls(path, descriptor)
            except BaseException:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                os.close(descriptor)
                raise
            os.close(descriptor)
        raise BlockingIOError(f"{folder}: other processes keep taking new files away")

    def append(self, lines: bytes) -> None:
        """Returns when the lines are on disk. Whatever it raises, it takes back what was written of them before.

        If it cannot be told what is on disk (`is_sound` is false), the file must be abandoned: after a failed fsync,
        Linux reports success for pages that it has dropped.
        """
        try:
            _write(self.descriptor, lines)
        except BaseException:
            self.is_sound = False
            os.ftruncate(self.descriptor, self.size)
            self.is_sound = True
            raise
        try:
            _sync(self.descriptor)
            if os.fstat(self.descriptor).st_nlink == 0:  # the folder was emptied under our feet
                raise FileNotFoundError(errno.ENOENT, "the file is gone")
        except BaseException:
            self.is_sound = False
            with suppress(OSError):
                os.ftruncate(self.descriptor, self.size)
            raise
        self.size += len(lines)

    def seal(self) -> None:
        """Make the file visible to the job; remove it if it is empty. What it holds is on disk already."""
        try:
            if self.size:
                self.path.rename(_visible(self.path))
            else:
                self.path.unlink(missing_ok=True)
            _sync_folder(self.path.parent)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file and leave it, hidden, to `recover`."""
        with suppress(OSError):  # it is closed all the same, and what was acknowledged is on disk already
            os.close(self.descriptor)


def make_folder(folder: Path) -> None:
    """The folder and those above it, with their names on disk. Raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
    _sync_folder(folder.parent)


def recover(folder: Path) -> int:
    """Seal what dead processes left behind; returns how many files. Files of living ones stay as they are.

    Raises OSError of the first that could not be sealed, after the others.
    """
    sealed, failure = 0, None
    for path in _hidden(folder):
        try:
            sealed += _recover_one(path)
        except FileNotFoundError:  # sealed in the meantime
            continue
        except OSError as error:
            failure = failure or error
    if failure:
        raise failure
    return sealed


def left_behind(folder: Path) -> int:
    """How many hidden files there are that no living process writes: `recover` has not come by since one died."""
    with suppress(OSError):  # there is no such folder, or it may not be listed
        return sum(_is_left(path) for path in _hidden(folder))
    return 0


def _is_left(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return os.fstat(file.fileno()).st_size > 0
    except OSError:  # it is locked, or sealed in the meantime
        return False


def _hidden(folder: Path) -> list[Path]:
    with os.scandir(folder) as listing:
        left = [Path(e.path) for e in listing if e.name.startswith(f".{PREFIX}") and e.name.endswith(_HIDDEN_SUFFIX)]
    return sorted(left)


def _recover_one(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR)
    try:
        if not _is_locked_by_us(descriptor, path):
            return False
        status = os.fstat(descriptor)
        size = _end_of_last_line(descriptor, status.st_size)
        if size == 0:
            path.unlink()
            return False
        os.ftruncate(descriptor, size)
        # The job orders entries by the time of their file.
        os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
        _sync(descriptor)
        path.rename(_visible(path))
        _sync_folder(path.parent)
        return True
    finally:
        os.close(descriptor)


def _end_of_last_line(descriptor: int, size: int) -> int:
    """How many bytes there are up to and with the last line feed."""
    end = size
    while end > 0:
        start = max(0, end - _CHUNK)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _is_locked_by_us(descriptor: int, path: Path) -> bool:
    """Lock the file; False if another process has it, or has renamed or removed it meanwhile."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _visible(path: Path) -> Path:
    return path.with_name(path.name.removeprefix(".").removesuffix(_HIDDEN_SUFFIX) + SUFFIX)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # its fsync leaves the data in the drive's cache
    else:
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
