"""Reading raw files as they came. A reader returns one row per raw row; nothing is parsed, changed or left out."""

import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from urllib.parse import unquote

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.engine.faults import FAILED_FILE, NO_FILE
from jobs.engine.hadoop import located
from jobs.engine.landing import (
    HEAD_BYTES,
    NO_TEXT,
    UTF_16_MARKS,
    Unreadable,
    pieces_of,
    why_unreadable,
)
from jobs.engine.local_rows import local_rows
from jobs.engine.places import local_path

BRONZE_OF_LINES = (
    "_raw STRING, _source_file STRING, _row_hash STRING, _batch_id BIGINT, _ingested_at TIMESTAMP, _rescued STRING"
)
ARRIVAL = "_arrival STRUCT<modified_at: TIMESTAMP, source_file: STRING, block: BIGINT, row: BIGINT>"
_GLOB_CHARACTERS = re.compile(r"([\[\]{}*?\\])")
_HIGH_BYTES = bytes(range(0x80, 0xA0))  # where Windows-1252 differs from ISO-8859-1
_HIGH_CHARACTERS = _HIGH_BYTES.decode("cp1252", "replace")
# So many lines of one piece of a file that are not UTF-8, and none up to there that is and has other letters than
# ASCII, make it one in Windows-1252. Not of the whole file: in a large one, there may be as many that are damaged.
_MANY_LINES = 3
_LONGEST_LINE = 64 << 20
_SEPARATORS = re.compile(r"[\s-]+")
_NO_PATH = re.compile(r"['?*]")  # what a path into JSON cannot name
_OWN_DETAILS = re.compile(r"Encountered error while reading file \S+\. Details: (.+)$", re.MULTILINE)
_CAUSE = re.compile(r"^Caused by: [\w.$]+: (.*)$", re.MULTILINE)


def inspect_lines(spark: SparkSession, root: str, paths: Sequence[str]) -> tuple[list[str], dict[str, Unreadable]]:
    """Which files of lines are in Windows-1252; and why others cannot be read as text.

    One that is in UTF-8, but for some lines, is neither.
    """

    def judged(path: str) -> bool | Unreadable:
        pieces = pieces_of(spark, root, path)
        try:
            head = next(pieces)
            if _is_utf_16(head):
                return NO_TEXT
            if len(head) == HEAD_BYTES and local_path(root) is None:  # nothing follows, and the last line is cut
                head = head[: head.rfind(b"\n") + 1]
            return _is_windows_1252(chain([head], pieces))
        except (OSError, EOFError, zlib.error) as error:  # it was read to its end a moment ago
            return Unreadable(why_unreadable(error), may_pass=True)

    with ThreadPoolExecutor(max_workers=8) as pool:
        found = dict(zip(paths, pool.map(judged, paths), strict=True))
    unfit = {path: reason for path, reason in found.items() if isinstance(reason, Unreadable)}
    return [path for path, is_windows in found.items() if is_windows is True], unfit


def _is_utf_16(head: bytes) -> bool:
    """Whether it says so, or has as much NUL as plain text would have without a mark: every other byte."""
    return head.startswith(UTF_16_MARKS) or head.count(b"\0") > len(head) // 4


def _is_windows_1252(pieces: Iterable[bytes]) -> bool:
    """Decided by the first pieces with other letters than ASCII: most files are in ASCII, which is told quickly."""
    for lines in _lines_with_letters(pieces):
        if any(map(_is_utf_8, lines)):
            return False
        if len(lines) >= _MANY_LINES:
            return True
    return False


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _lines_with_letters(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Of each piece, the lines that end in it and are not in ASCII alone, less a byte order mark before the first."""
    rest, found = b"", list[bytes]()
    for number, piece in enumerate(pieces):
        lines, _, rest = (rest + (piece if number else piece.removeprefix(BOM_UTF8))).rpartition(b"\n")
        if len(rest) > _LONGEST_LINE:  # no text that people write; and to join its pieces again and again takes long
            return
        found = [] if lines.isascii() else [line for line in lines.split(b"\n") if not line.isascii()]
        yield found
    yield found if rest.isascii() else [*found, rest]


def windows_1252(content: Column) -> Column:
    """Binary as text; U+FFFD for the five bytes that mean nothing there."""
    return F.translate(F.decode(content, "ISO-8859-1"), _HIGH_BYTES.decode("iso-8859-1"), _HIGH_CHARACTERS)


def read_lines(
    spark: SparkSession,
    root: str,
    paths: list[str],
    *,
    whole_folders: Sequence[str] = (),
    in_windows_1252: Sequence[str] = (),
    arrival_order: bool = False,
) -> DataFrame:
    """One row per line: `_raw`, `_source_file`, `_row_hash`, `_rescued`. Reads .gz and .bz2 by their ending.

    With `arrival_order` also `_arrival`, which orders the lines by their file's modification time, by its name, and by
    their place in it. Of `whole_folders` Spark is given the folder, and other files' lines are left out: to look up a
    hundred thousand paths one by one takes longer than to read them.

    A byte order mark and the line's end (LF or CRLF) are not part of the line. Bytes that are not UTF-8 become U+FFFD,
    and then `_rescued` holds the line's bytes in base64; otherwise it is NULL. In files `in_windows_1252`, lines that
    are not UTF-8 are read as that.
    """
    value = F.regexp_replace("value", "^\ufeff", "")
    arrival = F.struct(
        F.col("_metadata.file_modification_time").alias("modified_at"),
        source_file(spark, root).alias("source_file"),
        F.col("_metadata.file_block_start").alias("block"),
        # Rows of one block come in order and in one task.
        F.monotonically_increasing_id().alias("row"),
    )
    alone = [path for path in paths if parent(path) not in whole_folders]
    # Without partition columns, which Spark would make of folders called `a=b`.
    found = spark.read.text(spark_paths(root, [*whole_folders, *alone]), recursiveFileLookup=True)
    content, path, text = F.col("value").cast("binary"), source_file(spark, root), F.make_valid_utf8(value)
    is_damaged = ~F.is_valid_utf8("value")
    if in_windows_1252:
        decoded = F.regexp_replace(windows_1252(content), f"^{BOM_UTF8.decode('cp1252')}", "")
        named = local_rows(spark, [{"_windows": name} for name in in_windows_1252], "_windows STRING")
        found = found.join(F.broadcast(named), path == F.col("_windows"), "left")
        is_windows = is_damaged & F.col("_windows").isNotNull()
        text = F.when(is_windows, decoded).otherwise(text)
        is_damaged &= ~is_windows | F.contains(decoded, F.lit("\ufffd"))
    lines = found.select(
        text.alias("_raw"),
        path.alias("_source_file"),
        F.when(is_damaged, F.base64(content)).alias("_rescued"),
        *[arrival.alias("_arrival")] * arrival_order,
    )
    if whole_folders:
        wanted = local_rows(spark, [{"_source_file": path} for path in paths], "_source_file STRING")
        lines = lines.join(F.broadcast(wanted), "_source_file", "left_semi")
    return lines.withColumn("_row_hash", F.substring(F.sha2("_raw", 256), 1, 32))


def parent(path: str) -> str:
    """The folder of a path below the landing root."""
    return path.rpartition("/")[0]


def literal(path: str) -> str:
    """A path as a pattern of Hadoop: in a name, `[`, `{`, `*` and `?` stand for themselves."""
    return _GLOB_CHARACTERS.sub(r"\\\1", path)


def spark_paths(root: str, paths: Iterable[str]) -> list[str]:
    """Spark takes paths for patterns."""
    return [literal(f"{root.rstrip('/')}/{path}") for path in paths]


def column_names(header: Iterable[str], columns: Iterable[str], aliases: Mapping[str, str]) -> list[str]:
    """What the fields of a header are called: the column that it means, if it is one of `columns`, else its own name.

    Case and white space around do not matter, and white space and `-` within are like `_` (`Date Start` is
    `date_start`). `aliases` maps further names to columns. A field without a name is `_column_<number>`.
    """
    known = {column.lower() for column in columns}
    names = []
    for number, field in enumerate(header, 1):
        own = field.strip().lower()
        name = _SEPARATORS.sub("_", own)
        name = aliases.get(name, name).lower()
        names.append(name if name in known else own or f"_column_{number}")
    return names


def rescued(names: Iterable[str]) -> list[Column]:
    """What rows that were read before may have under `names` that were no columns then, as headers usually have them.

    One look at a text for each, and no function of arrays, with which Spark would not compile what else is computed.
    """
    spellings = {name.replace("_", between): None for name in names for between in "_ -" if not _NO_PATH.search(name)}
    return [F.get_json_object("_rescued", f"$['{spelling}']") for spelling in spellings]


def failed_file(error: Exception, paths: Iterable[str]) -> tuple[str, str] | None:
    """Which of `paths` Spark could not read and why, if `error` says so."""
    text = str(error)
    if found := NO_FILE.search(text):
        named, why = re.sub(r"\\(.)", r"\1", found.group(1)), "it is not there any longer"
    elif found := FAILED_FILE.search(text):
        # Our own readers say what is wrong; of Spark's, the innermost cause does.
        named, causes = unquote(found.group(1)), _OWN_DETAILS.findall(text) or _CAUSE.findall(text)
        why = causes[-1] if causes else "unknown cause"
    else:
        return None
    return next(((path, why) for path in paths if named.endswith("/" + path)), None)


def source_file(spark: SparkSession, root: str) -> Column:
    """The path of a row's file below the landing root. Spark reports it as a URI, with characters escaped."""
    file_system, base = located(spark, root)
    address = file_system.makeQualified(base).toUri()
    found, folder = F.col("_metadata.file_path"), f"{str(address.getRawPath()).rstrip('/')}/"
    if folder == "/":  # below the root of the file system, it is all of the URI's path
        below = F.regexp_replace(found, "^[^/]+:(//[^/]*)?/", "")
    else:  # after the first place where the folder stands, as there may be another of its name below it
        scheme, authority = address.getScheme(), address.getRawAuthority()
        start = F.locate(folder, found, len(f"{scheme}://{authority}" if authority else f"{scheme}:") + 1)
        below = F.substr(found, start + F.lit(len(folder)))
    return F.url_decode(F.replace(below, F.lit("+"), F.lit("%2B")))
