"""Reading and writing Delta tables by path, each write exactly once."""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession
from pyspark.sql.types import StructType

from jobs.engine import delta_log
from jobs.engine.errors import AssayError
from jobs.engine.faults import LET_IT_END, log_contradiction, log_problem
from jobs.engine.hadoop import located, read_text
from jobs.engine.listing import dotted
from jobs.engine.local_rows import LocalRows, Rows, no_rows
from jobs.engine.places import local_path
from jobs.engine.readers import spark_paths
from jobs.engine.session import FEW_BYTES

INDEXED_COLUMNS, LOG_RETENTION = "delta.dataSkippingNumIndexedCols", "delta.logRetentionDuration"
_MOST_INDEXED = 3
# Where more files came and went, or a larger part of the table, what changed is no quicker to go by than all of it.
_MANY_CHANGED, _LARGEST_CHANGE = 200, 1 / 4


@dataclass(frozen=True)
class _Files:
    """The files that hold all rows of a version of a table; None, if they are many or do not tell all."""

    identity: str
    version: int
    paths: list[str] | None


@dataclass(frozen=True)
class Changes:
    """The rows of the files that came to a table, and of those that went; None: no file did."""

    added: DataFrame | None = None
    removed: DataFrame | None = None

    @property
    def is_nothing(self) -> bool:
        """Whether no file came or went."""
        return self.added is None and self.removed is None


@dataclass(frozen=True)
class _Write:
    """How rows go to a table: by a commit, if it is there, or as Delta does it. `once`: (writer, number), or empty."""

    commit: Callable[..., delta_log.Commit | None]
    mode: str
    options: Mapping[str, str]
    once: tuple[Any, ...]


class Lakehouse:
    """The Delta tables under one root: `<root>/<layer>/<source>/<table>`, and the ledger under `<root>/ops`."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        self.spark = spark
        self.root = root.rstrip("/")
        self._files: dict[str, _Files] = {}
        self._logs: dict[str, Any] = {}

    def path(self, table: str) -> str:
        """Where a table lies, e.g. `silver/contacts/transfers`."""
        return f"{self.root}/{table}"

    def read(self, table: str, version: int | None = None) -> DataFrame:
        """The rows of a table, as of `version` or now.

        Of the newest version of a table of few files, Kernel finds them in the log, if this process has not written it.
        To find them, Delta would run two queries, which for such a table take longer than reading it.
        """
        snapshot = self._snapshot(table)
        paths = self._newest_files(table, snapshot) if version in (None, int(snapshot.version())) else None
        if paths is None:
            return self.read_log(table, version)
        columns = delta_log.schema(snapshot)
        return self.spark.read.schema(columns).parquet(*paths) if paths else no_rows(self.spark, columns)

    def verify_log(self, table: str) -> None:
        """Raises AssayError if the log of a table of few files has lost some of them.

        Also of a table that this process has written to: what is read of it later is what the log says.
        """
        snapshot = self._snapshot(table)
        known = self._files.pop(table, None)
        found = self._newest_files(table, snapshot)
        is_same = known and (known.identity, known.version) == (snapshot.metadata().id(), snapshot.version())
        if known and is_same and None not in (known.paths, found) and set(known.paths or []) != set(found or []):
            raise log_contradiction(self.path(table), known.version)

    def read_log(self, table: str, version: int | None = None) -> DataFrame:
        """The rows of a table, as of `version` or now, as Delta finds them in the log itself."""
        reader = self.spark.read.format("delta")
        return (reader if version is None else reader.option("versionAsOf", version)).load(self.path(table))

    def identity(self, table: str) -> str:
        """What tells a table from all others, even one at the same place later."""
        return str(self._snapshot(table).metadata().id())

    def exists(self, table: str) -> bool:
        return self.version(table) is not None

    def version(self, table: str) -> int | None:
        """The newest version of a table; None if there is none yet."""
        version = int(self._snapshot(table).version())
        return None if version < 0 else version

    def commit_id(self, table: str, version: int) -> str | None:
        """What Delta calls the commit that made a version; None if the log no longer has it, or never said."""
        file_system, file = located(self.spark, f"{self.path(table)}/_delta_log/{version:020}.json")
        if not file_system.exists(file):
            return None
        actions = map(json.loads, read_text(self.spark, file_system, file).splitlines())
        found: str | None = next((a["commitInfo"].get("txnId") for a in actions if "commitInfo" in a), None)
        return found

    def sync(self) -> None:
        """Waits until a lakehouse on this machine is on its disks: Delta itself does not."""
        if local_path(self.root) is not None:
            os.sync()

    def size(self, table: str) -> int:
        """How many bytes the files of a table's newest version have; 0 if there is no table yet."""
        snapshot = self._snapshot(table)
        checksum = delta_log.value(snapshot.checksumOpt())
        return int(checksum.tableSizeBytes() if checksum else snapshot.sizeInBytes())

    def file_count(self, table: str) -> int:
        """How many files a table's newest version has."""
        snapshot = self._snapshot(table)
        checksum = delta_log.value(snapshot.checksumOpt())
        return int(checksum.numFiles() if checksum else snapshot.numOfFiles())

    def table_property(self, table: str, name: str) -> str | None:
        """A property of a table, if it is set."""
        found: str | None = delta_log.value(self._snapshot(table).metadata().configuration().get(name))
        return found

    def changes(self, table: str, since: int) -> Changes | None:
        """The rows that came to a table, and those that went, since version `since`.

        A row that was only moved to another file is among both. None if the files do not tell, and if they are so many,
        or the table is so small, that to go by all of its rows is as well.
        """
        snapshot = self._snapshot(table)
        if since == snapshot.version():
            return Changes()
        size = self.size(table)
        if not delta_log.do_files_tell_all(snapshot) or since > snapshot.version() or size < FEW_BYTES:
            return None
        files = self._files_since(table, since, int(snapshot.version()))
        if files is None:
            return None
        came, went = files
        is_little = sum(came.values()) + sum(went.values()) <= size * _LARGEST_CHANGE
        if not is_little or not all(self._is_there(table, path) for path in went):
            return None
        return Changes(self._rows_of(table, snapshot, came), self._rows_of(table, snapshot, went))

    def was_made_before(self, table: str, other: str) -> bool:
        """Whether the table is the one that was there when `other` got its newest version, not one made anew since.

        The numbers of versions do not tell: in a table that was removed and made anew they start again.
        """
        made = delta_log.value(self._snapshot(table).metadata().createdTime())
        return made is None or int(made) <= int(self._snapshot(other).timestamp())

    def written_through(self, table: str, writer: str) -> int:
        """The newest number that `writer` has written into the table; 0 if it has not written yet."""
        return delta_log.numbers(self._snapshot(table)).get(writer, 0)

    def append_once(self, rows: Rows, table: str, writer: str, number: int) -> bool:
        """Appends `rows` unless `writer` has written this `number` (or a later one) before; True if it was written.

        Delta drops a repeated write without a word, so this looks before and verifies after.
        """
        return self._write_once(rows, table, writer, number, mode="append")

    def overwrite_once(self, rows: Rows, table: str, writer: str, number: int) -> bool:
        """Replaces the table's rows by `rows`, under the same terms as `append_once`."""
        return self._write_once(rows, table, writer, number, mode="overwrite")

    def replace_once(self, rows: Rows, table: str, where: str, writer: str, number: int) -> bool:
        """Replaces the rows `where` (SQL) by `rows`, under the same terms as `append_once`; other files stay."""
        return self._write_once(rows, table, writer, number, mode="overwrite", where=where)

    def overwrite(self, rows: Rows, table: str, properties: Mapping[str, str] | None = None) -> int:
        """Replaces the table's rows (and its columns) by `rows`; returns the new version.

        A table that is not there yet gets the properties.
        """
        # Such a table is read whole: no values of its rows in the log.
        return self._replace_all(rows, table, self._snapshot(table), {INDEXED_COLUMNS: "0", **(properties or {})})

    def replace(self, rows: Rows, table: str, where: str) -> int:
        """Replaces the rows `where` (SQL) by `rows`, which has no others; returns the new version."""
        self._save(_replacing_rows(self._frame(rows).write, where), table)
        return self._newest(table)

    def append(self, rows: Rows, table: str) -> int:
        """Adds rows to a table, or makes it of them; returns the new version."""
        return self._add(rows, table, self._snapshot(table), {})

    @contextmanager
    def staged(self, frame: DataFrame, name: str) -> Iterator[DataFrame]:
        """`frame` computed once and read back from a scratch folder, which is removed in the end.

        For a frame that is used several times. Unlike cached rows these need no memory, and a later step reads only the
        columns it names and need not plan the whole computation again.
        """
        relative = f"ops/scratch/{name}"
        path = self.path(relative)
        # Read once or twice: what makes files smaller, but writing slower, does not pay.
        fast = {"compression": "lz4", "parquet.enable.dictionary": "false"}
        frame.write.mode("overwrite").options(**fast).parquet(path)
        try:
            yield self.spark.read.schema(frame.schema).parquet(*spark_paths(self.root, [relative]))
        finally:
            file_system, scratch = located(self.spark, path)
            file_system.delete(scratch, True)

    def _save(self, write: DataFrameWriter, table: str) -> None:
        write.format("delta").save(self.path(table))

    def _frame(self, rows: Rows) -> DataFrame:
        return rows.frame(self.spark) if isinstance(rows, LocalRows) else rows

    def _add(self, rows: Rows, table: str, before: Any, properties: Mapping[str, str], *once: Any) -> int:
        """Adds rows to a table that is at snapshot `before`, or makes it of them; as Delta does it, if it must.

        Returns the new version. A new table gets the properties. `once`: (writer, number), if the write is to have one.
        """
        # Rows with a number are a source's; those of the ledger have the columns that there are.
        merge = {"mergeSchema": "true"} if once else {}
        write = _Write(delta_log.append, "append", merge, once)
        return self._commit_or_save(write, rows, table, before, properties)

    def _replace_all(self, rows: Rows, table: str, before: Any, properties: Mapping[str, str], *once: Any) -> int:
        """The same for rows that take the place of all others, and of a table's columns."""
        write = _Write(delta_log.overwrite, "overwrite", {"overwriteSchema": "true"}, once)
        return self._commit_or_save(write, rows, table, before, properties)

    def _commit_or_save(self, write: _Write, rows: Rows, table: str, before: Any, properties: Mapping[str, str]) -> int:
        """Commits the rows to a table that is at snapshot `before`; has Delta write them if that cannot be done.

        Returns the new version. Raises AssayError if it cannot because the table is at another version by now: the
        same may have been written.
        """
        log, is_new = self._log(table), before.version() < 0
        if is_new:
            done = delta_log.create(self.spark, rows, log, properties, *write.once)
        else:
            done = write.commit(self.spark, rows, log, before.version(), *write.once)
        if done is not None:
            self._remember(table, before, done, added=write.mode == "append" and not is_new)
            return done.version
        if self._snapshot(table).version() != before.version():
            raise AssayError(f"{table}: another process has written to it since this one looked", LET_IT_END)
        by_delta = self._frame(rows).write.mode(write.mode).options(**write.options, **(properties if is_new else {}))
        self._save(_once(by_delta, *write.once), table)
        return self._newest(table)

    def _newest(self, table: str) -> int:
        version = self.version(table)
        assert version is not None
        return version

    def _write_once(
        self,
        rows: Rows,
        table: str,
        writer: str,
        number: int,
        *,
        mode: str,
        where: str | None = None,
    ) -> bool:
        before = self._snapshot(table)
        if delta_log.numbers(before).get(writer, 0) >= number:
            return False
        is_there = before.version() >= 0
        columns = rows.columns() if isinstance(rows, LocalRows) else rows.schema
        properties = {INDEXED_COLUMNS: str(min(_MOST_INDEXED, _own_columns(columns)))}
        if is_there and (mode == "append" or where is not None):
            _verify_types(table, delta_log.schema(before), columns)
        if mode == "append":
            self._add(rows, table, before, properties, writer, number)
        elif where is not None and is_there:
            self._save(_once(_replacing_rows(self._frame(rows).write, where), writer, number), table)
        else:
            self._replace_all(rows, table, before, properties, writer, number)
        if not self._has_commit(table, before.version() + 1, writer, number):
            raise AssayError(
                f"{table}: Delta dropped write {number} of {writer}, as if it had been made before",
                LET_IT_END,
            )
        return True

    def _has_commit(self, table: str, first: int, writer: str, number: int) -> bool:
        """Whether a write is among the commits from version `first` on, read from the log itself: a few short files.

        The new snapshot would tell, too, but to compute it takes Spark longer than the write.
        """
        for actions in self._commits(table, first):
            for action in actions:
                if delta_log.kind(action) == "SetTransaction" and action.appId() == writer:
                    return bool(action.version() == number)
        return False

    def _newest_files(self, table: str, snapshot: Any) -> list[str] | None:
        """The files that hold all rows of a table at its newest snapshot, as Spark reads them.

        None, if there is no table, if they are many, or do not tell all. Raises AssayError if the log has lost some.
        """
        identity, version = str(snapshot.metadata().id()), int(snapshot.version())
        if version < 0:
            return None
        known = self._files.get(table)
        if known is None or (known.identity, known.version) != (identity, version):
            found = delta_log.files(self.spark, snapshot)
            paths = None if found is None else spark_paths(self.path(table), [file.path for file in found])
            known = self._files[table] = _Files(identity, version, paths)
        return known.paths

    def _remember(self, table: str, before: Any, made: delta_log.Commit, *, added: bool) -> None:
        """Keeps in mind which files a table has by a commit of this process, so that the log need not be asked.

        `added`: they came to those that there were at snapshot `before`.
        """
        if made.paths is None or made.version != int(before.version()) + 1:
            return
        paths = spark_paths(self.path(table), made.paths)
        if added:
            known = self._files.get(table)
            if known is None or (known.identity, known.version + 1) != (made.identity, made.version):
                return
            if known.paths is None:
                return
            paths = [*known.paths, *paths]
        if len(paths) <= delta_log.FEW_FILES:
            self._files[table] = _Files(made.identity, made.version, paths)

    def _files_since(self, table: str, since: int, newest: int) -> tuple[dict[str, int], dict[str, int]] | None:
        """The files that came to a table from version `since` to `newest`, and those that went, with their sizes.

        None if they are many, or if they are not all that changed. One that came and went in between is in neither.
        """
        sizes: dict[str, dict[str, int]] = {"AddFile": {}, "RemoveFile": {}}
        commits = 0
        for actions in self._commits(table, since + 1):
            commits += 1
            for action in actions:
                kind = delta_log.kind(action)
                # Other columns; or files that were only packed anew, of which one may be among those that came.
                if kind == "Metadata" or (kind in sizes and not action.dataChange()):
                    return None
                if kind in sizes:
                    found = action.size() if kind == "AddFile" else delta_log.value(action.size())
                    sizes[kind][str(action.path())] = int(found or 0)
            if sum(map(len, sizes.values())) > _MANY_CHANGED:
                return None
        if commits != newest - since:  # older commits may have been cleaned up
            return None
        passing = sizes["AddFile"].keys() & sizes["RemoveFile"].keys()
        came, went = [{path: files[path] for path in files.keys() - passing} for files in sizes.values()]
        return (came, went) if all(map(delta_log.is_inside, [*came, *went])) else None

    def _rows_of(self, table: str, snapshot: Any, paths: Collection[str]) -> DataFrame | None:
        """The rows of some files of a table."""
        files = spark_paths(self.path(table), sorted(paths))
        return self.spark.read.schema(delta_log.schema(snapshot)).parquet(*files) if files else None

    def _is_there(self, table: str, path: str) -> bool:
        file_system, file = located(self.spark, f"{self.path(table)}/{path}")
        return bool(file_system.exists(file))

    def _commits(self, table: str, first: int) -> Iterator[Iterator[Any]]:
        """What each commit from version `first` on says, action by action."""
        commits = self._log(table).getChanges(first, delta_log.none(self.spark), False)
        while commits.hasNext():
            yield delta_log.each(commits.next()._2())

    def _snapshot(self, table: str) -> Any:
        """The state of the table's log. Only the log tells which writes were made; Delta's Python API does not."""
        try:
            return delta_log.newest(self.spark, self._log(table))
        except Py4JJavaError as error:
            # Of a gap in a log, Delta does not say in which.
            raise log_problem(table, error) or error from None

    def _log(self, table: str) -> Any:
        if table not in self._logs:
            self._logs[table] = delta_log.of_table(self.spark, self.path(table))
        return self._logs[table]


def _once(write: DataFrameWriter, writer: str | None = None, number: int = 0) -> DataFrameWriter:
    """The writer with a number, if it is to have one, for Delta to write down."""
    return write.options(txnAppId=writer, txnVersion=str(number)) if writer else write


def _replacing_rows(writer: DataFrameWriter, where: str) -> DataFrameWriter:
    """The writer of rows that take the place of those `where` (SQL), and are no others."""
    return writer.mode("overwrite").options(mergeSchema="true", replaceWhere=where)


def _own_columns(columns: StructType) -> int:
    """How many columns come before the first that holds what a sender sent."""
    return next((at for at, name in enumerate(columns.names) if not name.startswith("_")), len(columns))


def _verify_types(table: str, there: StructType, new: StructType) -> None:
    """Raises AssayError if a column has another type in a table than in the rows that are to join it."""
    types = {field.name: field.dataType.simpleString() for field in there}
    for field in new:
        kind = field.dataType.simpleString()
        if types.get(field.name, kind) != kind:
            column, (layer, _, name) = f"{dotted(table)}.{field.name}", table.partition("/")
            # Quarantine and its table are made together; and what of bronze is gone counts as read.
            remade = {"silver": f"folder {table}", "quarantine": f"folders {table} and silver/{name}"}.get(layer)
            raise AssayError(
                f"{column} is {types[field.name]} in the table, and {kind} by the present code; nothing was published",
                f"undo that; or remove the {remade} of the lakehouse, and the next run makes it anew from bronze"
                if remade
                else "undo that; or go on in another lakehouse, which reads the landing folder from the beginning",
            )
