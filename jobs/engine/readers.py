"""Reading raw files as they came. A reader returns one row per raw row; nothing is parsed, changed or left out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.engine.faults import FAILED_FILE, NO_FILE
from jobs.engine.landing import hadoop_configuration, hadoop_path
from jobs.engine.local_rows import local_rows

BRONZE_OF_LINES = (
    "_raw STRING, _source_file STRING, _row_hash STRING, _batch_id BIGINT, _ingested_at TIMESTAMP, _rescued STRING"
)
ARRIVAL = "_arrival STRUCT<modified_at: TIMESTAMP, source_file: STRING, block: BIGINT, row: BIGINT>"
_GLOB_CHARACTERS = re.compile(r"([\[\]{}*?\\])")
_SEPARATORS = re.compile(r"[\s-]+")
_OWN_DETAILS = re.compile(r"Encountered error while reading file \S+\. Details: (.+)$", re.MULTILINE)
_CAUSE = re.compile(r"^Caused by: [\w.$]+: (.*)$", re.MULTILINE)


def read_lines(
    spark: SparkSession, root: str, paths: list[str], *, whole_folders: Sequence[str] = (), arrival_order: bool = False
) -> DataFrame:
    """One row per line: `_raw`, `_source_file`, `_row_hash`, `_rescued`. Reads .gz and .bz2 by their ending.

    With `arrival_order` also `_arrival`, which orders the lines by their file's modification time, by its name, and by
    their place in it. Of `whole_folders` Spark is given the folder, and other files' lines are left out: to look up a
    hundred thousand paths one by one takes longer than to read them.

    A byte order mark and the line's end (LF or CRLF) are not part of the line. Bytes that are not UTF-8 become U+FFFD,
    and then `_rescued` holds the line's bytes in base64; otherwise it is NULL.
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
    lines = found.select(
        F.make_valid_utf8(value).alias("_raw"),
        source_file(spark, root).alias("_source_file"),
        F.when(~F.is_valid_utf8("value"), F.base64(F.col("value").cast("binary"))).alias("_rescued"),
        *[arrival.alias("_arrival")] * arrival_order,
    )
    if whole_folders:
        wanted = local_rows(spark, [{"_source_file": path} for path in paths], "_source_file STRING")
        lines = lines.join(F.broadcast(wanted), "_source_file", "left_semi")
    return lines.withColumn("_row_hash", F.substring(F.sha2("_raw", 256), 1, 32))


def parent(path: str) -> str:
    """The folder of a path below the landing root."""
    return path.rpartition("/")[0]


def spark_paths(root: str, paths: Iterable[str]) -> list[str]:
    """Spark takes paths for patterns: in a file's name, `[`, `{`, `*` and `?` stand for themselves."""
    return [_GLOB_CHARACTERS.sub(r"\\\1", f"{root.rstrip('/')}/{path}") for path in paths]


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


def rescued(names: Sequence[str]) -> Column:
    """What rows that were read before have under one of `names`, which was no column then; as `column_names` has it."""
    fields = F.map_entries(F.from_json("_rescued", "MAP<STRING, STRING>"))
    is_named = F.filter(fields, lambda field: F.regexp_replace(field["key"], _SEPARATORS.pattern, "_").isin(*names))
    return F.get(is_named, F.lit(0))["value"]


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
    base = hadoop_path(spark, root)
    address = base.getFileSystem(hadoop_configuration(spark)).makeQualified(base).toUri()
    found, folder = F.col("_metadata.file_path"), f"{str(address.getRawPath()).rstrip('/')}/"
    if folder == "/":  # below the root of the file system, it is all of the URI's path
        below = F.regexp_replace(found, "^[^/]+:(//[^/]*)?/", "")
    else:  # after the first place where the folder stands, as there may be another of its name below it
        scheme, authority = address.getScheme(), address.getRawAuthority()
        start = F.locate(folder, found, len(f"{scheme}://{authority}" if authority else f"{scheme}:") + 1)
        below = F.substr(found, start + F.lit(len(folder)))
    return F.url_decode(F.replace(below, F.lit("+"), F.lit("%2B")))
