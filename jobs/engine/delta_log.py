"""What a table's Delta log says, and commits of rows that need not ask it: by classes of Delta and of Delta Kernel.

Delta's Python API has nothing of it. What the checksum file beside the newest commit says of a version, Delta itself
would compute with queries, which for a small table take longer than to read or write it. Kernel, the Delta project's
library for other engines, goes through the log without any, and finds the files there.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from jobs.engine.faults import log_contradiction
from jobs.engine.landing import hadoop_configuration
from jobs.engine.session import java_class

# The newest reader version at which files alone tell all: above it, some of their rows may be deleted, for instance.
_FILES_TELL_ALL = 1
_FEW_FILES = 32  # to name each takes a few calls to Java, and Spark looks up so many without a job of its own


@dataclass(frozen=True)
class File:
    """A file of a table: its path within the table's folder, as the log has it; its size; when it was written (ms)."""

    path: str
    size: int
    modified_at: int


def of_table(spark: SparkSession, path: str) -> Any:
    """The log of the table at `path`, as Delta knows it."""
    return java_class(spark, "org.apache.spark.sql.delta.DeltaLog").forTable(spark._jsparkSession, path)


def newest(spark: SparkSession, log: Any) -> Any:
    """The newest state of a log, of which Delta reads what it does not know yet."""
    return log.update(False, none(spark), none(spark))


def create(
    frame: DataFrame, log: Any, properties: Mapping[str, str], writer: str | None = None, number: int = 0
) -> int | None:
    """Makes a table of the rows of `frame`, with these properties; returns its version.

    The commit says that `writer` has written `number`, if given. None, and nothing is done, if there is a table, or if
    a column's type is not known (NULL alone), of which Delta is to say what it does.
    """
    transaction, columns = log.startTransaction(), frame._jdf.schema().asNullable()  # as Delta keeps them
    if transaction.snapshot().version() >= 0 or '"void"' in columns.json():
        return None
    metadata = {
        "id": str(uuid.uuid4()),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": columns.json(),
        "partitionColumns": [],
        "configuration": dict(properties),
        "createdTime": int(time.time() * 1000),
    }
    transaction.updateMetadata(_action(frame.sparkSession, "metaData", metadata), False)
    return _commit(frame, transaction, "Append", [], writer, number)


def overwrite(frame: DataFrame, log: Any, version: int, writer: str | None = None, number: int = 0) -> int | None:
    """Replaces all rows of a table that is at `version` by `frame`; returns the version that it has then.

    The commit says that `writer` has written `number`, if given. None, and nothing is done, if the table is not at
    `version`, has other columns, or if its files are many or not known.
    """
    transaction, spark = log.startTransaction(), frame.sparkSession
    there = files(spark, transaction.snapshot()) if _is_as_expected(transaction, frame, version) else None
    if there is None:
        return None
    return _commit(frame, transaction, "Overwrite", [_removed(spark, file) for file in there], writer, number)


def append(frame: DataFrame, log: Any, version: int, writer: str | None = None, number: int = 0) -> int | None:
    """Adds the rows of `frame` to a table that is at `version`; returns the version that it has then.

    The commit says that `writer` has written `number`, if given. That it has not before is for the caller to know:
    Delta would compute the whole state of the log to find out. None, and nothing is done, if the table is not at
    `version` or has other columns.
    """
    transaction = log.startTransaction()
    if not _is_as_expected(transaction, frame, version):
        return None
    return _commit(frame, transaction, "Append", [], writer, number)


def files(spark: SparkSession, snapshot: Any) -> list[File] | None:
    """The files that have all rows of a version, as Kernel finds them in the log; None if many, or not all of it.

    Raises AssayError if they are not as many, of as many bytes, as the checksum file says, if that is there and they
    are to be few: to Delta, a commit of which nothing is left has changed nothing, and the files of the one before it
    come back.
    """
    checksum = value(snapshot.checksumOpt())
    if not do_files_tell_all(snapshot) or (checksum and checksum.numFiles() > _FEW_FILES):
        return None
    path, version = snapshot.path().getParent().toString(), int(snapshot.version())
    try:
        found = _files(spark, path, version)
    except (Py4JJavaError, PySparkException):  # what is wrong with a log, Delta is to say
        return None
    if checksum and (len(found), sum(file.size for file in found)) != (checksum.numFiles(), checksum.tableSizeBytes()):
        raise log_contradiction(path, version)
    return found if len(found) <= _FEW_FILES and all(is_inside(file.path) for file in found) else None


def do_files_tell_all(snapshot: Any) -> bool:
    """Whether a table's rows are those that are in its files, under the names that its columns have there."""
    return bool(snapshot.protocol().minReaderVersion() <= _FILES_TELL_ALL)


def is_inside(path: str) -> bool:
    """Whether a file lies in the table's folder: another table's files, of a shallow copy, have absolute paths."""
    return path[0] != "/" and ":" not in path


def numbers(snapshot: Any) -> dict[str, int]:
    """The newest number of each writer, from the checksum file if that has them."""
    checksum, found = value(snapshot.checksumOpt()), dict[str, int]()
    known = value(checksum.setTransactions()) if checksum else None
    for entry in each(snapshot.setTransactions() if known is None else known):
        found[str(entry.appId())] = int(entry.version())
    return found


def schema(snapshot: Any) -> StructType:
    """A version's columns."""
    return StructType.fromJson(json.loads(snapshot.metadata().schemaString()))


def kind(action: Any) -> str:
    """What an action of a commit is: AddFile, RemoveFile, Metadata, SetTransaction, ..."""
    return str(action.getClass().getSimpleName())


def each(sequence: Any) -> Iterator[Any]:
    """The elements of a Scala sequence."""
    elements = sequence.iterator()
    while elements.hasNext():
        yield elements.next()


def none(spark: SparkSession) -> Any:
    """A Scala Option that holds nothing."""
    return java_class(spark, "scala.Option").empty()


def value(option: Any) -> Any:
    """What a Scala Option holds; None if nothing."""
    return option.get() if option.isDefined() else None


def _is_as_expected(transaction: Any, frame: DataFrame, version: int) -> bool:
    """Whether a transaction began at `version` of a table, and that has the columns of `frame`."""
    columns = frame._jdf.schema().asNullable()  # as Delta keeps them
    before = transaction.snapshot()
    return bool(before.version() == version and before.schema().equals(columns))


def _commit(frame: DataFrame, transaction: Any, mode: str, gone: list[Any], writer: str | None, number: int) -> int:
    """Writes the rows of `frame`, and commits them with what removes other files; returns the version then."""
    transaction.readWholeTable()  # so that whatever another process commits meanwhile is in the way
    spark = frame.sparkSession
    numbered = java_class(spark, "org.apache.spark.sql.delta.actions.SetTransaction")
    actions = [*gone, *([numbered(writer, number, none(spark))] if writer else [])]
    others = java_class(spark, "scala.jdk.javaapi.CollectionConverters").asScala(actions).toSeq()
    save_mode = java_class(spark, "org.apache.spark.sql.SaveMode").valueOf(mode)
    write = java_class(spark, "org.apache.spark.sql.delta.DeltaOperations$Write")
    operation, added = write(save_mode, *[none(spark)] * 8), transaction.writeFiles(frame._jdf)
    before = int(transaction.snapshot().version())
    if added.isEmpty() and not actions and before >= 0:
        return before
    return int(transaction.commit(added.concat(others), operation))


def _files(spark: SparkSession, path: str, version: int) -> list[File]:
    """The files of a version of the table at `path`; a few, if there are many."""
    engine = java_class(spark, "io.delta.kernel.defaults.engine.DefaultEngine").create(hadoop_configuration(spark))
    table = java_class(spark, "io.delta.kernel.Table").forPath(engine, path)
    batches = table.getSnapshotAsOfVersion(engine, version).getScanBuilder().build().getScanFiles(engine)
    found: list[File] = []
    try:
        while len(found) <= _FEW_FILES and batches.hasNext():
            rows = batches.next().getRows()
            while len(found) <= _FEW_FILES and rows.hasNext():
                added = _field(rows.next(), "add", "Struct")
                sizes = [_field(added, name, "Long") for name in ("size", "modificationTime")]
                found.append(File(_field(added, "path", "String"), *sizes))
    finally:
        batches.close()
    return found


def _field(row: Any, name: str, kind: str) -> Any:
    """A field of a row of Kernel's."""
    return getattr(row, f"get{kind}")(row.getSchema().indexOf(name))


def _removed(spark: SparkSession, file: File) -> Any:
    """The action that takes a file out of a table."""
    added = {"path": file.path, "partitionValues": {}, "size": file.size, "modificationTime": file.modified_at}
    return _action(spark, "add", {**added, "dataChange": True}).remove()


def _action(spark: SparkSession, kind: str, content: Mapping[str, Any]) -> Any:
    """An action of a commit, as Delta writes it."""
    return java_class(spark, "org.apache.spark.sql.delta.actions.Action").fromJson(json.dumps({kind: content}))
