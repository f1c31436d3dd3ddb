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
from functools import cache
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from jobs.engine.errors import AssayError
from jobs.engine.faults import LET_IT_END, log_contradiction
from jobs.engine.hadoop import hadoop_configuration
from jobs.engine.local_rows import LocalRows, Rows, java_columns
from jobs.engine.session import java_class

# The newest reader version at which files alone tell all: above it, some of their rows may be deleted, for instance.
_FILES_TELL_ALL = 1
# The newest writer version at which a row need not be looked at before it is written, but for columns without NULL.
_TAKES_ANY_ROW = 2
FEW_FILES = 32  # to name each takes a few calls to Java, and Spark looks up so many without a job of its own


@dataclass(frozen=True)
class Commit:
    """The version of a table after a write, and the paths of the files that it added, as the log has them.

    None, if they are many, or do not tell all. Where there was nothing to write, the version is the one before.
    """

    identity: str
    version: int
    paths: list[str] | None


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
    spark: SparkSession, rows: Rows, log: Any, properties: Mapping[str, str], writer: str | None = None, number: int = 0
) -> Commit | None:
    """Makes a table of `rows`, with these properties.

    The commit says that `writer` has written `number`, if given. None, and nothing is done, if there is a table, or if
    a column's type is not known (NULL alone), of which Delta is to say what it does; or if Delta's writer must write
    rows of the driver.
    """
    transaction, columns = log.startTransaction(), _columns(spark, rows)
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
    transaction.updateMetadata(_action(spark, "metaData", metadata), False)  # with what the session sets for new tables
    if not _takes(spark, transaction, rows):
        return None
    return _commit(spark, rows, transaction, "Append", [], writer, number)


def overwrite(
    spark: SparkSession, rows: Rows, log: Any, version: int, writer: str | None = None, number: int = 0
) -> Commit | None:
    """Replaces all rows of a table that is at `version` by `rows`.

    The commit says that `writer` has written `number`, if given. None, and nothing is done, if the table is not at
    `version`, has other columns, or if its files are many or not known; or if Delta's writer must write rows of the
    driver.
    """
    transaction = log.startTransaction()
    there = files(spark, transaction.snapshot()) if _is_as_expected(spark, transaction, rows, version) else None
    if there is None:
        return None
    return _commit(spark, rows, transaction, "Overwrite", [_removed(spark, file) for file in there], writer, number)


def append(
    spark: SparkSession, rows: Rows, log: Any, version: int, writer: str | None = None, number: int = 0
) -> Commit | None:
    """Adds `rows` to a table that is at `version`.

    The commit says that `writer` has written `number`, if given. That it has not before is for the caller to know:
    Delta would compute the whole state of the log to find out. None, and nothing is done, if the table is not at
    `version` or has other columns; or if Delta's writer must write rows of the driver.
    """
    transaction = log.startTransaction()
    if not _is_as_expected(spark, transaction, rows, version):
        return None
    return _commit(spark, rows, transaction, "Append", [], writer, number)


def files(spark: SparkSession, snapshot: Any) -> list[File] | None:
    """The files that have all rows of a version, as Kernel finds them in the log; None if many, or not all of it.

    Raises AssayError if they are not as many, of as many bytes, as the checksum file says, if that is there and they
    are to be few: to Delta, a commit of which nothing is left has changed nothing, and the files of the one before it
    come back.
    """
    checksum = value(snapshot.checksumOpt())
    if not do_files_tell_all(snapshot) or (checksum and checksum.numFiles() > FEW_FILES):
        return None
    path, version = snapshot.path().getParent().toString(), int(snapshot.version())
    try:
        found = _files(spark, path, version)
    except (Py4JJavaError, PySparkException):  # what is wrong with a log, Delta is to say
        return None
    if checksum and (len(found), sum(file.size for file in found)) != (checksum.numFiles(), checksum.tableSizeBytes()):
        raise log_contradiction(path, version)
    return found if len(found) <= FEW_FILES and all(is_inside(file.path) for file in found) else None


def do_files_tell_all(state: Any) -> bool:
    """Whether a table's rows, at a snapshot or in a transaction, are all that its files have, under the same names.

    Of a table in partitions, some columns are in the names of its folders alone.
    """
    is_plain = state.protocol().minReaderVersion() <= _FILES_TELL_ALL
    return bool(is_plain and state.metadata().partitionColumns().isEmpty())


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
    return _none(java_class(spark, "scala.Option"))


@cache
def _none(option: Any) -> Any:
    return option.empty()


def value(option: Any) -> Any:
    """What a Scala Option holds; None if nothing."""
    return option.get() if option.isDefined() else None


def _columns(spark: SparkSession, rows: Rows) -> Any:
    """The columns of rows, as Delta keeps them."""
    columns = java_columns(spark, rows.schema) if isinstance(rows, LocalRows) else rows._jdf.schema()
    return columns.asNullable()


def _is_as_expected(spark: SparkSession, transaction: Any, rows: Rows, version: int) -> bool:
    """Whether a transaction began at `version` of a table, and that takes rows like these."""
    before = transaction.snapshot()
    if before.version() != version or not before.schema().equals(_columns(spark, rows)):
        return False
    return _takes(spark, transaction, rows)


def _takes(spark: SparkSession, transaction: Any, rows: Rows) -> bool:
    """Whether a table takes such rows; rows of the driver, only if it takes files as Kernel writes them.

    It does not if rows are to be checked, numbered, parted or called otherwise as they are written, or encrypted:
    Delta's writer, and Spark's, does all of it.
    """
    if not isinstance(rows, LocalRows):
        return True
    if transaction.protocol().minWriterVersion() > _TAKES_ANY_ROW or not do_files_tell_all(transaction):
        return False
    return hadoop_configuration(spark).get("parquet.crypto.factory.class") is None


def _commit(
    spark: SparkSession, rows: Rows, transaction: Any, mode: str, gone: list[Any], writer: str | None, number: int
) -> Commit:
    """Writes the rows, and commits them with what removes other files."""
    transaction.readWholeTable()  # so that whatever another process commits meanwhile is in the way
    numbered = java_class(spark, "org.apache.spark.sql.delta.actions.SetTransaction")
    actions = [*gone, *([numbered(writer, number, none(spark))] if writer else [])]
    if isinstance(rows, LocalRows):
        added = _sequence(spark, _write(spark, rows, transaction.deltaLog().dataPath().toString()))
    else:
        added = transaction.writeFiles(rows._jdf)
    save_mode = java_class(spark, "org.apache.spark.sql.SaveMode").valueOf(mode)
    write = java_class(spark, "org.apache.spark.sql.delta.DeltaOperations$Write")
    operation = write(save_mode, *[none(spark)] * 8)
    identity, version = str(transaction.metadata().id()), int(transaction.snapshot().version())
    if not added.isEmpty() or actions or version < 0:
        version = int(transaction.commit(added.concat(_sequence(spark, actions)), operation))
    is_known = added.size() <= FEW_FILES and do_files_tell_all(transaction)
    return Commit(identity, version, [str(file.path()) for file in each(added)] if is_known else None)


def _write(spark: SparkSession, rows: LocalRows, folder: str) -> list[Any]:
    """Writes rows to files in a table's folder, by Kernel, for Spark would take a job; the actions that add them.

    Raises AssayError if not all were written.
    """
    if not rows.rows:
        return []
    types = java_class(spark, "io.delta.kernel.internal.types.DataTypeJsonSerDe")
    columns = types.deserializeStructType(java_columns(spark, rows.schema).json())
    text = java_class(spark, "io.delta.kernel.types.StringType").STRING
    nothing = java_class(spark, "java.util.Optional").empty()
    lines = java_class(spark, "org.apache.hadoop.util.StringUtils").getStringCollection(rows.as_json_lines(), "\n")
    vector = java_class(spark, "io.delta.kernel.internal.data.GenericColumnVector")(lines, text)
    engine = _engine(spark, packed=True)
    batch = engine.getJsonHandler().parseJson(vector, columns, nothing)
    every_row = java_class(spark, "io.delta.kernel.data.FilteredColumnarBatch")(batch, nothing)
    batches = java_class(spark, "io.delta.kernel.internal.util.Utils").singletonCloseableIterator(every_row)
    writing = engine.getParquetHandler().writeParquetFiles(folder, batches, [])
    added, count = [], 0
    try:
        while writing.hasNext():  # as many files as it takes, each of 128 MB at the most
            file = writing.next()
            name, written = file.getPath().rpartition("/")[2], int(file.getStatistics().get().getNumRecords())
            added.append(_added(spark, File(name, file.getSize(), file.getModificationTime()), written))
            count += written
    finally:
        writing.close()
    if count != len(rows.rows):
        raise AssayError(
            f"{folder}: {count:,} of {len(rows.rows):,} rows were written; nothing was committed", LET_IT_END
        )
    return added


def _sequence(spark: SparkSession, elements: list[Any]) -> Any:
    """A Scala sequence."""
    return java_class(spark, "scala.jdk.javaapi.CollectionConverters").asScala(elements).toSeq()


def _engine(spark: SparkSession, *, packed: bool = False) -> Any:
    """What Kernel reads and writes files with; `packed`, so that it packs them as Spark does."""
    settings = hadoop_configuration(spark)
    if packed:
        codec = spark.conf.get("spark.sql.parquet.compression.codec") or "none"
        settings.set("parquet.compression", "uncompressed" if codec.lower() == "none" else codec)
    return java_class(spark, "io.delta.kernel.defaults.engine.DefaultEngine").create(settings)


def _files(spark: SparkSession, path: str, version: int) -> list[File]:
    """The files of a version of the table at `path`; a few, if there are many."""
    engine = _engine(spark)
    table = java_class(spark, "io.delta.kernel.Table").forPath(engine, path)
    as_json = java_class(spark, "io.delta.kernel.defaults.internal.json.JsonUtils").rowToJson
    batches = table.getSnapshotAsOfVersion(engine, version).getScanBuilder().build().getScanFiles(engine)
    found: list[File] = []
    try:
        while len(found) <= FEW_FILES and batches.hasNext():
            rows = batches.next().getRows()
            while len(found) <= FEW_FILES and rows.hasNext():
                added = json.loads(as_json(rows.next()))["add"]
                found.append(File(added["path"], added["size"], added["modificationTime"]))
    finally:
        batches.close()
    return found


def _added(spark: SparkSession, file: File, rows: int | None = None) -> Any:
    """The action that adds a file to a table; of how many rows, if that is known."""
    added = {"path": file.path, "partitionValues": {}, "size": file.size, "modificationTime": file.modified_at}
    stats = {} if rows is None else {"stats": json.dumps({"numRecords": rows})}
    return _action(spark, "add", {**added, "dataChange": True, **stats})


def _removed(spark: SparkSession, file: File) -> Any:
    """The action that takes a file out of a table."""
    return _added(spark, file).remove()


def _action(spark: SparkSession, kind: str, content: Mapping[str, Any]) -> Any:
    """An action of a commit, as Delta writes it."""
    return java_class(spark, "org.apache.spark.sql.delta.actions.Action").fromJson(json.dumps({kind: content}))
