"""Reading raw files as they came. A reader returns one row per raw row; nothing is parsed, changed or left out."""

import re
from collections.abc import Iterable
from urllib.parse import unquote

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.engine.landing import hadoop_configuration, hadoop_path

BRONZE_OF_LINES = (
    "_raw STRING, _source_file STRING, _row_hash STRING, _batch_id BIGINT, _ingested_at TIMESTAMP, _rescued STRING"
)
_FAILED_FILE = re.compile(r"Encountered error while reading file (\S+)\.\s")
_CAUSE = re.compile(r"^Caused by: [\w.$]+: (.*)$", re.MULTILINE)


def read_lines(spark: SparkSession, root: str, paths: list[str]) -> DataFrame:
    """One row per line: `_raw`, `_source_file`, `_row_hash`, `_rescued`. Reads .gz and .bz2 by their ending.

    A byte order mark and the line's end (LF or CRLF) are not part of the line. Bytes that are not UTF-8 become U+FFFD,
    and then `_rescued` holds the line's bytes in base64; otherwise it is NULL.
    """
    value = F.regexp_replace("value", "^\ufeff", "")
    lines = spark.read.text([f"{root.rstrip('/')}/{path}" for path in paths]).select(
        F.make_valid_utf8(value).alias("_raw"),
        source_file(spark, root).alias("_source_file"),
        F.when(~F.is_valid_utf8("value"), F.base64(F.col("value").cast("binary"))).alias("_rescued"),
    )
    return lines.withColumn("_row_hash", F.substring(F.sha2("_raw", 256), 1, 32))


def failed_file(error: Exception, paths: Iterable[str]) -> tuple[str, str] | None:
    """Which of `paths` Spark could not read and why, if `error` says so."""
    found = _FAILED_FILE.search(str(error))
    if found is None:
        return None
    named = unquote(found.group(1))
    causes = _CAUSE.findall(str(error))
    return next(
        ((path, causes[-1] if causes else "unknown cause") for path in paths if named.endswith("/" + path)), None
    )


def source_file(spark: SparkSession, root: str) -> Column:
    """The path of a row's file below the landing root. Spark reports it as a URI, with characters escaped."""
    base = hadoop_path(spark, root)
    prefix = str(base.getFileSystem(hadoop_configuration(spark)).makeQualified(base).toUri().getRawPath())
    escaped = F.replace(F.col("_metadata.file_path"), F.lit("+"), F.lit("%2B"))
    return F.url_decode(F.substring_index(escaped, prefix.rstrip("/") + "/", -1))
