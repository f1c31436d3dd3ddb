"""Maintenance: fewer, larger files in the Delta tables, and nothing on the disk that no kept release needs.

It holds the lock of the lakehouse, so no run is at work. It changes no row: where a table gets a new Delta version, the
ledger's states are carried over to it, so that the next run has nothing to do.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from delta.tables import DeltaTable
from psycopg import Connection
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import releases
from jobs.engine import documents, postgres, published_to
from jobs.engine.context import Run
from jobs.engine.database import Database
from jobs.engine.delta import LOG_RETENTION
from jobs.engine.errors import AssayError
from jobs.engine.hadoop import hadoop_path, located
from jobs.engine.ledger import ACCOUNTS, RULES, TableState
from jobs.engine.listing import dotted, line, size, some, table
from jobs.engine.readers import literal
from jobs.engine.session import logs_before, session_settings
from jobs.engine.sources import Source
from jobs.engine.versions import any_version, data_files, is_forgotten, modified_at
from jobs.layers import outputs, publish

MB = 1 << 20
# Decision: compacting pays from so many small files on; a table's larger files are left as they are.
SMALL, MANY, COMPACTED = 32 * MB, 4, 256 * MB
# Clocks of this machine and of the file system may differ.
_CLOCKS = timedelta(hours=1)
_TABLES_AT_ONCE = 4
_YEAR = 365
_ACCOUNT = ["source", "layer", "table_name", "batch_id", "source_file"]


@dataclass
class TableWork:
    """What was done to one Delta table: data files that its newest version has, and files removed from the disk."""

    table: str
    files_before: int
    files_after: int
    files_removed: int = 0
    bytes_freed: int = 0

    @property
    def is_worth_saying(self) -> bool:
        return self.files_before != self.files_after or bool(self.files_removed)


@dataclass
class Maintenance:
    """What maintenance did, or with `dry_run` would do; `cleaned` and `notes` are lines for people."""

    dry_run: bool
    tables: list[TableWork] = field(default_factory=list)
    cleaned: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def as_text(self) -> str:
        rows = [
            [
                dotted(work.table),
                work.files_before,
                work.files_after,
                work.files_removed,
                size(work.bytes_freed),
            ]
            for work in self.tables
            if work.is_worth_saying
        ]
        lines = table(["table", "files before", "after", "removed", "freed"], rows) if rows else []
        same = len(self.tables) - len(rows)
        lines += [line("left alone", f"{same} tables need nothing")] if same else []
        lines += [line("would clean" if self.dry_run else "cleaned", text) for text in self.cleaned]
        lines += [line("note", text) for text in self.notes]
        freed = size(sum(work.bytes_freed for work in self.tables))
        lines.append(line("next", "nothing was written; assay maintain") if self.dry_run else line("freed", freed))
        return "\n".join(lines)


@dataclass(frozen=True)
class Kept:
    """What the releases that are kept need: versions of gold tables, by `<name>` or `<source>/<name>` (documents)."""

    versions: Mapping[str, frozenset[int]]
    oldest: datetime


def maintain(run: Run, sources: Sequence[Source], *, dry_run: bool = False) -> Maintenance:
    """Compacts, removes what is no longer needed, trims the ops tables and takes away what crashes have left.

    Raises AssayError, and does nothing, if a table's log has lost files: they would be removed for good.
    """
    report, tables = Maintenance(dry_run), _tables(run, sources)
    for path in tables:
        run.lake.verify_log(path)
    target, kept = _releases(run, report)
    _trim(run, target, report)
    moved: dict[str, tuple[int, int]] = {}
    founded = [state for state in run.ledger.table_states().values() if _is_founded(run, state)]

    def compact(path: str) -> TableWork:
        before = run.lake.version(path)
        work = _compact(run, path, dry_run=dry_run)
        if not dry_run and kept and path.startswith("gold/"):
            _keep_log(run, path, kept)
        after = run.lake.version(path)
        if before is not None and after is not None and before != after:
            moved[path] = (before, after)
        return work

    # Most tables are small, and Spark plans longer than it works: a few at a time.
    with ThreadPoolExecutor(max_workers=_TABLES_AT_ONCE) as pool:
        with session_settings(run.spark, _OPTIMIZE):
            report.tables += pool.map(compact, tables)
        _carry_over(run, founded, moved)
        if target and not dry_run:
            _bring_documents(run, sources, target, moved)
        with any_version(run.spark), session_settings(run.spark, _VACUUM):
            concerned = [work for work in report.tables if kept or not work.table.startswith("gold/")]
            for _ in pool.map(partial(_vacuum, run, kept=kept, report=report), concerned):
                pass
    _clean(run, sources, report)
    if target:
        _clean_staging(target, report)
    return report


_OPTIMIZE = {
    "spark.databricks.delta.optimize.minFileSize": str(SMALL),
    "spark.databricks.delta.optimize.maxFileSize": str(COMPACTED),
}
_VACUUM = {
    # Delta takes the table's own property instead, unless told otherwise.
    "spark.databricks.delta.vacuum.retentionWindowIgnore.enabled": "false",
    # What it did would be a version of the table.
    "spark.databricks.delta.vacuum.logging.enabled": "false",
    # Against less than a week by mistake: keep_days says that it is meant.
    "spark.databricks.delta.retentionDurationCheck.enabled": "false",
}


def _releases(run: Run, report: Maintenance) -> tuple[Database | None, Kept | None]:
    """The database, if it can be reached, and what its releases need.

    Decision: while the releases are not known, or there are none, nothing of gold is removed: it may be that only the
    settings name another database than the one that gold was published to.
    """
    gold_stays = "no file of a gold table is removed"
    try:
        target = releases.existing_database(run.settings)
        if target is None:
            report.notes.append(f"nothing was published from here yet, so {gold_stays}")
            return None, None
        with postgres.connect(target) as connection:
            if postgres.is_of_another(connection, run.ledger.identity()):
                report.notes.append(f"the newest release in Postgres is from another lakehouse, so {gold_stays}")
                return None, None
            kept = _kept(run, connection)
            at_hand = postgres.first_run(connection) if kept else None
        others = [address for id, address in published_to.databases(run.lake).items() if id != at_hand]
        if others:
            report.notes.append(
                f"gold was also published to {' and '.join(sorted(others))}, and what releases there need is unknown, "
                f"so {gold_stays}; if nobody reads them any longer, remove that file in "
                f"{run.lake.path(published_to.FOLDER)}"
            )
            return target, None
    except AssayError as error:
        report.notes.append(f"{error.message}; which releases to keep is not known, so {gold_stays}")
        return None, None
    if kept is None:
        report.notes.append(f"there is no release in Postgres at {target.host}:{target.port} yet, so {gold_stays}")
    return target, kept


def _kept(run: Run, connection: Connection[Any]) -> Kept | None:
    """What the newest releases of this lakehouse need."""
    if not postgres.has_tables(connection, *postgres.RELEASES):
        return None
    newest = connection.execute(
        "SELECT release_id, published_at FROM ops.releases AS r "
        "WHERE coalesce(to_jsonb(r) ->> 'lakehouse' = %s, true) ORDER BY release_id DESC LIMIT %s",
        [run.ledger.identity(), run.settings.keep_releases],
    ).fetchall()
    versions: dict[str, set[int]] = {}
    for release_id, _ in newest:
        for name, released in postgres.released(connection, release_id).items():
            versions.setdefault(name.partition(".")[2], set()).add(released.delta_version)
        for (source, name), shown in postgres.published_documents(connection, release_id).items():
            versions.setdefault(f"{source}/{name}", set()).add(shown.version)
    return Kept({name: frozenset(v) for name, v in versions.items()}, newest[-1][1]) if newest else None


def _tables(run: Run, sources: Sequence[Source]) -> list[str]:
    """The Delta tables of the lakehouse, e.g. `ops/files`, `silver/contacts/contacts`; also of sources long gone.

    Not those that somebody else may have below the same root.
    """
    names = "|".join(map(re.escape, {source.name for source in sources} | run.ledger.sources()))
    own = re.compile(rf"ops/(?!scratch)[^/]+|(bronze|silver|quarantine|gold)/({names})/[^/]+")
    file_system, root = located(run.spark, run.lake.root)
    prefix = str(file_system.makeQualified(root).toString()).rstrip("/") + "/"
    logs = [
        str(status.getPath().getParent().toString()).removeprefix(prefix)
        for pattern in ("*/*/_delta_log", "*/*/*/_delta_log")
        for status in file_system.globStatus(hadoop_path(run.spark, f"{literal(run.lake.root)}/{pattern}")) or []
    ]
    return sorted(path for path in logs if own.fullmatch(path))


def _compact(run: Run, path: str, *, dry_run: bool) -> TableWork:
    count = run.lake.file_count(path)
    if count < MANY:
        return TableWork(path, count, count)
    small = data_files(run.spark, run.lake.path(path)).where(F.col("size") < SMALL).count()
    if small < MANY:
        return TableWork(path, count, count)
    if dry_run:
        return TableWork(path, count, count - small + 1)
    run.spark.sql(f"OPTIMIZE {_delta(run, path)}")
    return TableWork(path, count, run.lake.file_count(path))


def _keep_log(run: Run, path: str, kept: Kept) -> None:
    """Delta removes its log after 30 days, and with it the way to older versions: let it stay a year longer than kept.

    It changes once a year at most, for each change is a version of its own.
    """
    years = (run.started_at - kept.oldest).days // _YEAR + 2
    wanted = f"interval {years * _YEAR} days"
    if run.lake.table_property(path, LOG_RETENTION) != wanted:
        run.spark.sql(f"ALTER TABLE {_delta(run, path)} SET TBLPROPERTIES ('{LOG_RETENTION}' = '{wanted}')")


def _is_founded(run: Run, state: TableState) -> bool:
    """Whether a table is younger than all that it was computed from; after it was compacted, any table would be."""
    if not run.lake.exists(state.table_name):
        return True
    return all(run.lake.was_made_before(path, state.table_name) for path in state.inputs if run.lake.exists(path))


def _carry_over(run: Run, states: Iterable[TableState], moved: Mapping[str, tuple[int, int]]) -> None:
    """Records that these states of the ledger hold for the new versions of the tables, too: their rows are the same.

    A crash before this costs a computation, no more: the next run makes the tables anew and finds the same rows.
    """

    def newer(path: str, version: int) -> int:
        before, after = moved.get(path, (None, version))
        return after if version == before else version

    carried = []
    for state in states:
        inputs = {path: newer(path, version) for path, version in state.inputs.items()}
        new = replace(state, delta_version=newer(state.table_name, state.delta_version), inputs=inputs)
        if new != state:
            carried.append(new)
    run.ledger.record_table_states(carried)


def _bring_documents(
    run: Run, sources: Sequence[Source], target: Database, moved: Mapping[str, tuple[int, int]]
) -> None:
    """Lets documents know the new versions of their tables, while the old ones are there to be compared with."""
    with postgres.connect(target) as connection:
        last = postgres.published(connection) if postgres.has_tables(connection, *postgres.RELEASES) else {}
    for source in sources:
        shown = outputs.newest(run, source)
        names = [name for name in shown.documents if f"gold/{source.name}/{name}" in moved]
        if names and publish.is_all_released(run, source, last):  # what is not is for the next run to write
            with any_version(run.spark):
                for name in names:
                    path, document = f"gold/{source.name}/{name}", source.documents[name]
                    version, checksum = shown.tables[name]
                    documents.write(run.lake, path, version, document, run.settings.output, checksum)


def _vacuum(run: Run, work: TableWork, *, kept: Kept | None, report: Maintenance) -> None:
    """Removes the files that are neither of the newest version, nor younger than they may be removed."""
    path = run.lake.path(work.table)
    files, length = _on_disk(run, path)
    if files <= (work.files_before if report.dry_run else work.files_after):
        return
    retention = timedelta(days=run.settings.keep_days)
    if kept and work.table.startswith("gold/"):
        retention = max(retention, _needed(run, work.table, kept, report))
    statement = f"VACUUM {_delta(run, work.table)} RETAIN {retention.total_seconds() / 3600:.4f} HOURS"
    if report.dry_run:
        work.files_removed = run.spark.sql(f"{statement} DRY RUN").count()
        return
    run.spark.sql(statement)
    files_after, length_after = _on_disk(run, path)
    work.files_removed, work.bytes_freed = files - files_after, length - length_after


def _needed(run: Run, path: str, kept: Kept, report: Maintenance) -> timedelta:
    """How far back the files reach that only kept releases need.

    By the age of the files themselves: VACUUM never removes a file that is younger than it is told, whereas it may have
    forgotten when a file was taken out of the table.
    """
    _, source, name = path.split("/")
    current = set(run.lake.read_log(path).inputFiles())
    needed: set[str] = set()
    for version in sorted(kept.versions.get(name, frozenset()) | kept.versions.get(f"{source}/{name}", frozenset())):
        try:
            needed |= set(run.lake.read_log(path, version).inputFiles())
        except (PySparkException, Py4JJavaError) as error:
            if not is_forgotten(error):
                raise AssayError(
                    f"{dotted(path)}: which files version {version} of a release needs could not be read; no "
                    "file of it was removed",
                    "run again; --verbose shows what the system says",
                ) from error
            report.notes.append(f"{dotted(path)}: version {version} of a release is no longer there")
    written = [at for at in modified_at(run.spark, needed - current) if at is not None]
    return timedelta(seconds=max(0.0, time.time() - min(written))) + _CLOCKS if written else timedelta()


def _trim(run: Run, target: Database | None, report: Maintenance) -> None:
    """Removes accounts that were replaced, and results of rules, once they are old; files that were read, never."""
    before = run.started_at - timedelta(days=run.settings.keep_ops_days)
    # Delta first: what is missing in Postgres only would be copied there again.
    old = _replaced_accounts(run.ledger.all_accounts(), before)
    old_results = run.ledger.rule_results().where(F.col("recorded_at") < F.lit(before))
    counts = old.count(), old_results.count()
    for count, what in zip(counts, ("row accounts that were replaced", "results of rules"), strict=True):
        if count:
            report.cleaned.append(f"{count:,} {what}, older than {run.settings.keep_ops_days} days")
    if report.dry_run:
        return
    if counts[0]:
        same = " AND ".join(f"t.{name} = s.{name}" for name in [*_ACCOUNT, "recorded_at"])
        accounts = DeltaTable.forPath(run.spark, run.lake.path(ACCOUNTS)).alias("t")
        accounts.merge(old.alias("s"), same).whenMatchedDelete().execute()
    if counts[1]:
        DeltaTable.forPath(run.spark, run.lake.path(RULES)).delete(F.col("recorded_at") < F.lit(before))
    if target:
        try:
            _trim_postgres(target, before)
        except AssayError as error:  # files can be removed all the same
            report.notes.append(f"{error.message}; nothing that is old was removed from Postgres")


def _replaced_accounts(accounts: DataFrame, before: datetime) -> DataFrame:
    newest = accounts.groupBy(*_ACCOUNT).agg(F.max("recorded_at").alias("newest"))
    is_old = (F.col("recorded_at") < F.col("newest")) & (F.col("recorded_at") < F.lit(before))
    return accounts.join(newest, _ACCOUNT, "inner").where(is_old).select(*_ACCOUNT, "recorded_at").distinct()


def _trim_postgres(target: Database, before: datetime) -> None:
    with postgres.connect(target) as connection, connection.transaction():
        postgres.set_limits(connection)
        row = connection.execute("SELECT to_regclass('ops.row_accounts'), to_regclass('ops.rule_results')").fetchone()
        if row and row[0]:
            same = " AND ".join(f"b.{name} = a.{name}" for name in _ACCOUNT)
            connection.execute(
                "DELETE FROM ops.row_accounts AS a WHERE recorded_at < %s AND EXISTS "
                f"(SELECT FROM ops.row_accounts AS b WHERE {same} AND b.recorded_at > a.recorded_at)",
                [before],
            )
        if row and row[1]:
            connection.execute("DELETE FROM ops.rule_results WHERE recorded_at < %s", [before])


def _clean(run: Run, sources: Sequence[Source], report: Maintenance) -> None:
    """Removes what crashed runs have left (scratch folders, unfinished exports and documents), and old logs."""
    left = [run.lake.path("ops/scratch")]
    exported = f"{run.settings.output.rstrip('/')}/exports"
    left += [f"{exported}/.{export.file}.new" for source in sources for export in source.exports.values()]
    for path in left:
        file_system, folder = located(run.spark, path)
        if file_system.exists(folder) and len(file_system.listStatus(folder)):
            report.cleaned.append(f"{path}: left by a run that was cut short")
            if not report.dry_run:
                file_system.delete(folder, True)
    logs = logs_before(run.settings.logs, run.started_at - timedelta(days=run.settings.keep_days))
    if logs:
        report.cleaned.append(f"{run.settings.logs}: {len(logs):,} logs, older than {run.settings.keep_days} days")
    for log in logs if not report.dry_run else []:
        log.unlink(missing_ok=True)
    for source in sources:
        for document in source.documents.values():
            folder = documents.folder_of(run.settings.output, document)
            name = re.compile(rf"\.{re.escape(document.prefix)}.*{re.escape(document.suffix)}\.[0-9a-f]{{8}}")
            unfinished = [f for f in folder.iterdir() if name.fullmatch(f.name)] if folder.is_dir() else []
            if unfinished:
                report.cleaned.append(f"{folder}: {len(unfinished):,} unfinished files")
            for file in unfinished if not report.dry_run else []:
                file.unlink(missing_ok=True)


def _clean_staging(target: Database, report: Maintenance) -> None:
    """Drops staging tables of runs that were cut short, unless somebody else may be filling them now."""
    with postgres.connect(target) as connection:
        postgres.set_limits(connection)
        tables = postgres.staging_tables(connection)
        if tables and postgres.other_publishers(connection):
            report.notes.append(f"{len(tables)} staging tables stay: another Assay is connected to this database")
        elif tables:
            if not report.dry_run:
                postgres.drop_staging_tables(connection, tables)
            stay = [] if report.dry_run else postgres.staging_tables(connection)
            if stay:
                report.notes.append(f"staging tables in Postgres that another session holds stay: {some(stay)}")
            if cleaned := [name for name in tables if name not in stay]:
                report.cleaned.append(f"staging tables in Postgres: {some(cleaned)}")


def _on_disk(run: Run, path: str) -> tuple[int, int]:
    """How many files a table's folder has beside its log, and their bytes in all."""
    (file_system, folder), log = located(run.spark, path), hadoop_path(run.spark, f"{path}/_delta_log")
    everything, own = file_system.getContentSummary(folder), file_system.getContentSummary(log)
    return everything.getFileCount() - own.getFileCount(), everything.getLength() - own.getLength()


def _delta(run: Run, path: str) -> str:
    quoted = run.lake.path(path).replace("`", "``")
    return f"delta.`{quoted}`"
