"""One CSV file from one table, in place at once: a reader sees the old file or the new one, never a part."""

import hashlib
import json
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DateType

from jobs.engine.errors import AssayError
from jobs.engine.hadoop import hadoop_path, located, read_text
from jobs.engine.publication import as_postgres_writes_it
from jobs.engine.session import java_class
from jobs.engine.sources import Export

MARK = ".checksum"  # how the name of the hidden file ends
_WRITTEN_AS = 2  # another number has all files written anew


def is_current(spark: SparkSession, folder: str, export: Export, checksum: str) -> bool:
    """Whether the file in `folder` was written from the rows with this checksum, and as the export is declared."""
    (file_system, file), mark = located(spark, f"{folder}/{export.file}"), _mark(spark, folder, export)
    if not (file_system.exists(file) and file_system.exists(mark)):
        return False
    return read_text(spark, file_system, mark) == _origin(export, checksum)


def write(frame: DataFrame, folder: str, export: Export, checksum: str) -> None:
    """Writes `frame`, ordered, under the export's header; in one partition, for an export is small enough to open.

    Beside it, a hidden file keeps what it was made from: a crash before that makes the next run write again.
    """
    spark = frame.sparkSession
    hidden = f"{folder}/.{export.file}.new"
    ordered = frame.coalesce(1).sortWithinPartitions(*export.order_by)
    # A value is exactly what the table has: by itself, Spark cuts off control characters around it, too.
    as_is = {"ignoreLeadingWhiteSpace": "false", "ignoreTrailingWhiteSpace": "false", "emptyValue": "", "escape": '"'}
    named = ordered.select(*_texts(ordered)).toDF(*export.header)
    named.write.mode("overwrite").options(header=True, **as_is).csv(hidden)
    file_system, target = located(spark, f"{folder}/{export.file}")
    # Listed, not looked for by a pattern: the folder's own name may have [ or * in it.
    written = [status.getPath() for status in file_system.listStatus(hadoop_path(spark, hidden))]
    part = next((path for path in written if path.getName().startswith("part-")), None)
    if part is None:
        raise AssayError(
            f"{export.file} was written where only a worker sees it",
            "ASSAY_OUTPUT is to be a folder that all workers share",
        )
    gateway: Any = spark.sparkContext._gateway
    rename = java_class(spark, "org.apache.hadoop.fs.Options$Rename")
    options = gateway.new_array(rename, 1)
    options[0] = rename.OVERWRITE
    # From here until all is done it is not known what the file is from: a rollback may come before the next run.
    file_system.delete(_mark(spark, folder, export), False)
    context = java_class(spark, "org.apache.hadoop.fs.FileContext").getFileContext(target.toUri())
    context.rename(part, target, options)
    stream = file_system.create(_mark(spark, folder, export), True)
    try:
        stream.writeBytes(_origin(export, checksum))
    finally:
        stream.close()
    file_system.delete(hadoop_path(spark, hidden), True)


def _texts(frame: DataFrame) -> list[Column]:
    """The columns; days as Postgres writes them."""
    days = {field.name for field in frame.schema if isinstance(field.dataType, DateType)}
    return [as_postgres_writes_it(c) if c in days else F.col(c) for c in frame.columns]


def _origin(export: Export, checksum: str) -> str:
    """What a file was made from: the checksum of the rows, and a fingerprint of header, order and how it is written."""
    declared = json.dumps([export.header, export.order_by, _WRITTEN_AS])
    return f"{checksum} {hashlib.sha256(declared.encode()).hexdigest()[:16]}"


def _mark(spark: SparkSession, folder: str, export: Export) -> Any:
    return hadoop_path(spark, f"{folder}/.{export.file}{MARK}")
