"""The landing folder: which raw files are there, and what is in them (by content hash).

Paths in here are relative to the landing root, e.g. `contacts/2026-11-21.jsonl`: they stay true when the root moves.
"""

import bz2
import codecs
import errno
import glob
import gzip
import hashlib
import os
import re
import stat
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import IllegalArgumentException
from pyspark.sql import SparkSession

from jobs.engine.errors import AssayError
from jobs.engine.hadoop import codec_of, hadoop_configuration, hadoop_path, located
from jobs.engine.places import local_path
from jobs.engine.session import java_class

# What is wrong with the name itself, and stays so until somebody mends it.
_WRONG_NAME = {errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG}
_ESCAPED = re.compile(r"\[([*?[])\]")
_DECOMPRESSORS: dict[str, Callable[[Path], Any]] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File}


@dataclass(frozen=True)
class LandingFile:
    """One raw file as it was listed. `modified_at` is in milliseconds since 1970.

    One that Spark cannot open is `unfit`, for the reason given: a name with a colon, or one that is not UTF-8, of which
    `path` shows the other bytes as `\\xe9`; or what cannot be looked at (a link to itself), of size and time -1.
    """

    path: str
    size: int
    modified_at: int
    unfit: str | None = None


@dataclass(frozen=True)
class Unreadable:
    """Why a file could not be read. It `may_pass` if it is no fault of the content: a permission, a lost network."""

    reason: str
    may_pass: bool = False


HEAD_BYTES, _PIECE_BYTES = 64 << 10, 1 << 20
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
EMPTY = Unreadable("the file is empty")
NO_TEXT = Unreadable("the file is UTF-16, or not text: it must be UTF-8 or Windows-1252")
# Some editors write a byte order mark alone for an empty file.
_NOTHING = {hashlib.sha256(content).hexdigest() for content in (b"", codecs.BOM_UTF8)}


def list_files(spark: SparkSession, root: str, patterns: Iterable[str]) -> list[LandingFile]:
    """The files below `root` that match a pattern, by path; less those being written (`.x`, `_x`, `x._COPYING_`)
    and the marks that Excel leaves beside a workbook while somebody has it open (`~$x`).

    Spark reads nothing of files being written, and does not say so.
    """
    local = local_path(root)
    if local:
        _verify_there(local)
    elif not _hadoop_file_system(spark, root).exists(hadoop_path(spark, root)):
        raise _no_landing_folder(root)
    found = {}  # of a file in two places, one is enough
    for place, wanted in _places(patterns).items():
        files = _list_local(local, place, wanted) if local else _list_hadoop(spark, root, place, wanted)
        found.update({file.path: file for file in files})
    return sorted(found.values(), key=lambda file: file.path)


def passed_over(spark: SparkSession, root: str, patterns: Sequence[str]) -> list[str]:
    """What else is in the folders of the patterns, by path: files that match none, folders (`x/`) that lead to none of
    them, links that lead nowhere.
    """
    local = local_path(root)
    found: set[str] = set()
    for place in _places(patterns):
        if _named(place):
            continue
        folder = place.rpartition("/")[0]
        entries = _entries(local, folder) if local else _hadoop_entries(spark, root, place)
        for path, is_dead in entries:
            if is_dead:
                found.add(f"{path} (a link that leads nowhere)")
            elif not is_expected(path, patterns):
                found.add(path)
    return sorted(path for path in found if not is_being_written(Path(path).name))


def is_there(spark: SparkSession, place: str) -> bool:
    """Whether there is a file, or a folder, of that name."""
    if (path := local_path(place)) is not None:
        return os.path.exists(path)
    file_system, file = located(spark, place)
    return bool(file_system.exists(file))


def is_expected(path: str, patterns: Iterable[str]) -> bool:
    """Whether a file matches one of the patterns, or a folder (`x/`) leads to what one of them matches."""
    if not path.endswith("/"):  # to fnmatch, a `*` may stand for several folders
        return any(path.count("/") == pattern.count("/") and fnmatchcase(path, pattern) for pattern in patterns)
    names = path[:-1].split("/")
    above = (pattern.split("/")[:-1][: len(names)] for pattern in patterns)
    return any(len(found) == len(names) and all(map(fnmatchcase, names, found)) for found in above)


def _entries(root: Path, folder: str) -> Iterable[tuple[str, bool]]:
    """Each path in a folder, or in those that match it, and whether it is a link that leads nowhere."""
    for place in root.glob(folder) if glob.has_magic(folder) else [root / folder]:
        with suppress(OSError), os.scandir(place) as entries:  # one that may not be listed, listing has told of
            for entry in entries:
                path, is_link = _shown(Path(entry.path).relative_to(root).as_posix())[0], entry.is_symlink()
                is_folder = os.path.isdir(entry.path) if is_link else entry.is_dir()  # of a link to itself, that raises
                yield f"{path}/" if is_folder else path, is_link and not os.path.lexists(os.path.realpath(entry.path))


def _hadoop_entries(spark: SparkSession, root: str, place: str) -> Iterable[tuple[str, bool]]:
    for path, status in _statuses(spark, root, place):
        yield (f"{path}/" if status.isDirectory() else path), False


def is_being_written(name: str) -> bool:
    """Whether a file is to be passed over, by its name: it is not whole yet, or a mark of Excel's."""
    return name.startswith((".", "_", "~$")) or name.endswith("._COPYING_")


def content_hashes(spark: SparkSession, root: str, paths: Iterable[str]) -> dict[str, str | Unreadable]:
    """SHA-256 of each file's content, or why it is not to be read. Files are streamed: their size does not matter.

    Of a compressed file it is that of what was compressed: `gzip` makes no other content of it, and of a broken .bz2
    Spark would silently read the blocks it finds.
    """
    local = local_path(root)
    hash_one = partial(_hash_local, local) if local else partial(_hash_hadoop, spark, root)
    paths = list(paths)
    with ThreadPoolExecutor(max_workers=8) as pool:
        found = zip(paths, pool.map(hash_one, paths), strict=True)
        return {path: EMPTY if content in _NOTHING else content for path, content in found}


def _places(patterns: Iterable[str]) -> dict[str, list[str]]:
    """What to list, with the patterns that are looked for there: each folder once, and a file that is named alone."""
    places: dict[str, list[str]] = {}
    for pattern in patterns:
        folder = pattern.rpartition("/")[0]
        place = pattern if _named(pattern) else f"{folder}/*" if folder else "*"
        places.setdefault(place, []).append(pattern)
    return places


def _is_wanted(path: str, patterns: Iterable[str]) -> bool:
    return is_expected(path, patterns) and not is_being_written(Path(path).name)


def _list_local(root: Path, place: str, patterns: list[str]) -> Iterable[LandingFile]:
    """Raises AssayError if a folder may not be listed, in which Python would find nothing, or a file not looked at."""
    for path in _there(root, place):
        name = path.relative_to(root).as_posix()
        if not _is_wanted(name, patterns):
            continue
        shown, unfit = _shown(name)
        try:
            status = path.stat()
        except FileNotFoundError:  # taken away since the listing: it was never there
            continue
        except OSError as error:
            if error.errno not in _WRONG_NAME:
                raise _refused(f"{path} cannot be looked at", error) from None
            # It is new to the plan as soon as it can be looked at.
            yield LandingFile(shown, -1, -1, f"it cannot be looked at: {error.strerror}")
            continue
        if path.is_file():
            yield LandingFile(shown, status.st_size, status.st_mtime_ns // 1_000_000, unfit)


def _verify_there(root: Path) -> None:
    """Raises AssayError if there is no landing folder: to find no news in it would hide that files wait elsewhere."""
    try:
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_folder = False
    except OSError as error:
        raise _refused(f"the folder {root} cannot be listed", error) from None
    if not is_folder:
        raise _no_landing_folder(root)


def _no_landing_folder(root: Path | str) -> AssayError:
    return AssayError(
        f"there is no landing folder {root}",
        "mend ASSAY_LANDING, or mount what is to be there; a new one: mkdir, or `assay sample` with sample files",
    )


def _there(root: Path, place: str) -> Iterable[Path]:
    """The paths of a place; a file that is named without a pattern is looked up, for its folder may be closed."""
    if named := _named(place):
        return [root / named]
    _verify_listable(root, place.split("/")[:-1])
    return root.glob(place)


def _verify_listable(folder: Path, below: Sequence[str]) -> None:
    """Raises AssayError if a folder, or one of those `below` it that match a pattern each, cannot be listed.

    Of such a one, Python finds nothing, and does not say so. One that need not be listed to find what is below may be
    closed.
    """
    if below and not glob.has_magic(below[0]):
        _verify_listable(folder / below[0], below[1:])
        return
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if below and fnmatchcase(entry.name, below[0])]
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno in _WRONG_NAME:
            return
        raise _refused(f"the folder {folder} cannot be listed", error) from None
    for each in found:
        _verify_listable(each, below[1:])


def _named(pattern: str) -> str | None:
    """The file that a pattern names, if it can match no other."""
    named = _ESCAPED.sub(r"\1", pattern)
    return named if glob.escape(named) == pattern else None


def _refused(what: str, error: OSError) -> AssayError:
    way_out = "let the user of this run read it, or run as the user who may: files may be waiting"
    return AssayError(f"{what}: {str(error.strerror).lower()}", way_out)


def _shown(path: str) -> tuple[str, str | None]:
    """A path as text that can be printed, and what is wrong with the file's name, if anything is."""
    shown = os.fsencode(path).decode("utf-8", "backslashreplace")
    if shown != path:
        return shown, "its name is not UTF-8: rename it"
    # Hadoop takes what is before it for the name of a file system. In that of a folder it does no harm.
    return shown, "its name has a colon: rename it" if ":" in Path(path).name else None


def _hash_local(root: Path, path: str) -> str | Unreadable:
    try:
        with _opened_local(root / path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        # Only what the system refuses has a number: of a broken archive, Python gives none.
        return Unreadable(why_unreadable(error), getattr(error, "errno", None) is not None)


def _opened_local(file: Path) -> Any:
    """What a file holds, decompressed, as a binary stream."""
    return _DECOMPRESSORS.get(file.suffix, partial(open, mode="rb"))(file)


def why_unreadable(error: Exception) -> str:
    """What Python says of a file that it cannot read, without bytes of it."""
    said = getattr(error, "strerror", None) or error
    if isinstance(error, gzip.BadGzipFile):  # it quotes the first two
        said = "it is damaged, or not compressed with gzip"
    return f"the file could not be read: {said}"


def _list_hadoop(spark: SparkSession, root: str, place: str, patterns: list[str]) -> Iterable[LandingFile]:
    for path, status in _statuses(spark, root, place):
        if _is_wanted(path, patterns) and status.isFile():
            yield LandingFile(path, status.getLen(), status.getModificationTime())


def _statuses(spark: SparkSession, root: str, place: str) -> Iterable[tuple[str, Any]]:
    """Each path of a place, and what Hadoop knows of it."""
    file_system = _hadoop_file_system(spark, root)
    prefix = str(file_system.makeQualified(hadoop_path(spark, root)).toString()).rstrip("/") + "/"
    try:
        found = file_system.globStatus(hadoop_path(spark, f"{root.rstrip('/')}/{place}")) or []
    except IllegalArgumentException as error:
        if "URISyntaxException" not in str(error):
            raise
        folder = f"{root.rstrip('/')}/{place.rpartition('/')[0]}"
        raise AssayError(
            f"a file in {folder} has a colon in its name: Hadoop cannot list it",
            "rename it: what is before a colon is the name of a file system",
        ) from None
    for status in found:
        yield str(status.getPath().toString()).removeprefix(prefix), status


def _hadoop_file_system(spark: SparkSession, root: str) -> Any:
    return located(spark, root)[0]


def _hash_hadoop(spark: SparkSession, root: str, path: str) -> str | Unreadable:
    file = hadoop_path(spark, f"{root.rstrip('/')}/{path}")
    try:
        with _opened_hadoop(spark, file) as content:
            return str(java_class(spark, "org.apache.commons.codec.digest.DigestUtils").sha256Hex(content))
    except Py4JJavaError as error:
        is_broken = codec_of(spark, hadoop_configuration(spark), file) is not None and _has_all_bytes(spark, file)
        return Unreadable(f"the file could not be read: {error.java_exception.getMessage()}", not is_broken)


@contextmanager
def _opened_hadoop(spark: SparkSession, file: Any, *, as_it_is: bool = False) -> Iterator[Any]:
    """What a file holds, decompressed unless it is to be read `as_it_is`, as a stream of Java's."""
    configuration = hadoop_configuration(spark)
    with closing(file.getFileSystem(configuration).open(file)) as stream:
        codec = None if as_it_is else codec_of(spark, configuration, file)
        yield stream if codec is None else codec.createInputStream(stream)


def _has_all_bytes(spark: SparkSession, file: Any) -> bool:
    """Whether a file can be read to its end, as it is."""
    try:
        with _opened_hadoop(spark, file, as_it_is=True) as stream:
            java_class(spark, "org.apache.commons.io.IOUtils").consume(stream)
    except Py4JJavaError:
        return False
    return True


def head_of(spark: SparkSession, root: str, path: str) -> bytes | Unreadable:
    """The first 64 KiB of a file's content, decompressed. It was read to its end a moment ago: a fault may pass."""
    try:
        with closing(pieces_of(spark, root, path)) as pieces:
            return next(pieces)
    except (OSError, EOFError, zlib.error) as error:
        return Unreadable(why_unreadable(error), may_pass=True)


def pieces_of(spark: SparkSession, root: str, path: str) -> Generator[bytes]:
    """A file's content, decompressed: its head, and then, of a local file, the rest, in pieces of 1 MiB.

    Of other file systems only the head: what Python is given of these comes through Java, too slowly for all of it.
    Raises OSError, EOFError or zlib.error.
    """
    local = local_path(root)
    if local is None:
        yield _head_hadoop(spark, f"{root.rstrip('/')}/{path}")
        return
    with _opened_local(local / path) as stream:
        yield bytes(stream.read(HEAD_BYTES))
        while piece := stream.read(_PIECE_BYTES):
            yield bytes(piece)


def _head_hadoop(spark: SparkSession, file: str) -> bytes:
    try:
        with _opened_hadoop(spark, hadoop_path(spark, file)) as content:
            return bytes(content.readNBytes(HEAD_BYTES))
    except Py4JJavaError as error:
        raise OSError(error.java_exception.getMessage()) from error
