"""Bronze: each raw file's rows as they came, exactly once."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.engine import workbooks
from jobs.engine.batches import FileEvent
from jobs.engine.context import Run
from jobs.engine.csv_files import inspect, read_csv
from jobs.engine.errors import ConfigurationError
from jobs.engine.landing import LandingFile, Unreadable
from jobs.engine.ledger import RowAccount
from jobs.engine.readers import failed_file, inspect_lines, parent, read_lines, rescued
from jobs.engine.sources import SOURCES_FOLDER, RawTable, Source
from jobs.layers.arrivals import CHANGED, CHANGED_MEANWHILE, landing_of, listing, next_batch, no_longer_as_planned
from jobs.layers.histories import decisions, history, is_accounted, tables_in
from jobs.layers.tables import bronze_table, bronze_writer

# From here on, to look up each path costs more than to read some files in vain.
MANY_FILES = 500


@dataclass
class BronzeReport:
    """What bronze did for one source: the file events of this run, and rows by fate.

    A row of a file that was delivered again counts as read and as deduplicated.
    """

    events: list[FileEvent] = field(default_factory=list)
    rows_read: int = 0
    rows_deduplicated: int = 0

    @property
    def rejected(self) -> list[FileEvent]:
        return [event for event in self.events if event.status == "rejected"]


def check(run: Run, source: Source) -> None:
    """Raises ConfigurationError if bronze has rows that are of no raw table of the source, or of another, by now.

    Those of a raw table that is no longer declared would stand in bronze and its accounts, and silver would be without
    them. An event that names no raw tables is of a time when there was one, whose pattern is to match its file still.
    """
    place, accounted = SOURCES_FOLDER / f"{source.name}.yaml", run.ledger.accounted_batches(source.name, "bronze")
    or_else = "or go on in another lakehouse (ASSAY_LAKEHOUSE), which reads the landing folder from the beginning"
    if gone := sorted(accounted.keys() - source.raw.keys()):
        raise ConfigurationError(
            f"{place}: the raw table {gone[0]!r} is not declared any more, and bronze has rows of it",
            f"call it {gone[0]!r} again (there are {', '.join(source.raw)}); {or_else}",
        )
    if len(source.raw) == 1:
        return
    for event in run.ledger.history(source.name).loaded():
        if event.raw_tables:
            continue
        present = source.raw_tables_of(event.source_file)
        for raw, batches in accounted.items():
            if event.batch_id in batches and raw not in present:
                raise ConfigurationError(
                    f"{place}, raw.{raw}.landing: {event.source_file} was read for {raw!r}, when that was the only raw "
                    f"table, and is a file of {' and '.join(present) or 'none'} by the present patterns",
                    f"let the pattern of {raw!r} match it; {or_else}",
                )


def check_columns(run: Run, source: Source) -> None:
    """Raises ConfigurationError if a required column is in bronze under no name, and one of bronze is of no name now.

    It may be called otherwise since, and of the rows that are there it would be missing.
    """
    for raw, declared in source.raw.items():
        if declared.format != "csv" or not run.lake.exists(bronze_table(source, raw)):
            continue
        there = [name for name in run.lake.read(bronze_table(source, raw)).columns if not name.startswith("_")]
        meant = {name: declared.aliases.get(name, name) for name in there}
        left = [name for name, column in meant.items() if column not in declared.columns]
        lacking = [name for name in declared.required_columns if name not in meant.values()]
        if left and lacking and bronze_rows(run, source, raw).where(F.col(lacking[0]).isNotNull()).isEmpty():
            raise ConfigurationError(
                f"{SOURCES_FOLDER / source.name}.yaml, raw table {raw}: the rows that were read before do not have "
                f"{lacking[0]!r}, which is required, and have {left[0]!r}, which is no column any more",
                f"if that is its former name, keep it in aliases ({{{left[0]}: {lacking[0]}}}); if it is a new column, "
                "leave it out of required_columns; or go on in another lakehouse (ASSAY_LAKEHOUSE)",
            )


def bronze_rows(run: Run, source: Source, raw: str) -> DataFrame:
    """What bronze has of a raw table, with its columns as they are declared now.

    A column that was declared, or got another name, since rows were read is found under its former name, or among
    what these rows have beside the columns of then.
    """
    there, declared = run.lake.read(bronze_table(source, raw)), source.raw[raw]
    if declared.format != "csv":
        return there

    def found(column: str) -> Column:
        names = [column, *[alias for alias, meant in declared.aliases.items() if meant == column]]
        former = [F.col(name) for name in names if name in there.columns and (name == column or name not in own)]
        return F.coalesce(*former, *rescued(names)).alias(column)

    own = {name.lower() for name in declared.columns}
    engines = [name for name in there.columns if name.startswith("_")]
    return there.select(*engines, *[found(name) for name in declared.columns])


def unread_tables(run: Run, source: Source, files: Sequence[FileEvent], batch_id: int) -> list[str]:
    """The raw tables that the files have rows of and that do not have the rows of this batch yet."""
    return [
        raw
        for raw in source.raw
        if any(raw in tables_in(source, file) for file in files)
        and run.lake.written_through(bronze_table(source, raw), bronze_writer(source)) < batch_id
    ]


def refine(run: Run, source: Source) -> BronzeReport:
    """Finishes the batch that a crash left, then plans and reads the next one."""
    report = BronzeReport()
    newest = run.ledger.history(source.name).newest_planned
    if newest:
        _load(run, source, newest, report)
    events = next_batch(run, source, decisions(run, source), listing(run, source))
    if events:
        run.ledger.record_plan(source.name, events)
        report.events += [event for event in events if event.status != "loaded"]
        _load(run, source, events[0].batch_id, report)
    return report


def _load(run: Run, source: Source, batch_id: int, report: BronzeReport) -> None:
    """Appends a planned batch to bronze and accounts for it, unless both were done before."""
    if is_accounted(run, source, batch_id):  # of a raw table that is declared since, the batch has nothing
        return
    files = [event for event in run.ledger.history(source.name).batch(batch_id) if event.status == "loaded"]
    if unread := unread_tables(run, source, files, batch_id):
        files = _append(run, source, batch_id, unread, files, report)
        report.events += files
    else:
        # A crash came before the second look at them.
        report.events += _without_changed(run, source, files, [], CHANGED_MEANWHILE, report)
    accounts = _without_unseen(run, source, files, _accounts(run, source, batch_id), report)
    run.ledger.record_accounts(accounts)
    report.rows_read += sum(account.rows_read for account in accounts)
    report.rows_deduplicated += sum(account.rows_deduplicated for account in accounts)


def _append(
    run: Run, source: Source, batch_id: int, raw_tables: list[str], files: list[FileEvent], report: BronzeReport
) -> list[FileEvent]:
    """Appends the files' rows to the raw tables; sets aside those that cannot be read, and returns the others."""
    root, _ = landing_of(run, source)
    files = _without_changed(run, source, files, raw_tables, CHANGED, report)
    while books := [file.source_file for file in files if source.is_workbook(file.source_file)]:
        try:
            found = workbooks.inspect(run.spark, root, books, [_sheet(raw) for raw in source.raw.values()])
            unfit = {path: Unreadable(reason) for path, reason in found.items()}
            files = _without(run, source, files, unfit, report)
            break
        except (PySparkException, Py4JJavaError) as error:
            broken = _broken(error, books)
            if not broken:
                raise
            files = _without(run, source, files, broken, report)
    for raw in raw_tables:
        files = _append_to(run, source, raw, batch_id, files, report)
    # What was taken away by now was read to its end before.
    return _without_changed(run, source, files, [], CHANGED_MEANWHILE, report)


def _without_changed(
    run: Run, source: Source, files: list[FileEvent], unread: list[str], reason: str, report: BronzeReport
) -> list[FileEvent]:
    """`files` less those that were changed or taken away; the ledger records these with the reason."""
    gone = no_longer_as_planned(source, files, unread, listing(run, source), reason)
    changed = {event.source_file: event for event in gone}
    files = [changed.get(file.source_file, file) for file in files]
    return _without(run, source, files, dict.fromkeys(changed, Unreadable(reason)), report)


def _without_unseen(
    run: Run, source: Source, files: list[FileEvent], accounts: list[RowAccount], report: BronzeReport
) -> list[RowAccount]:
    """The accounts less those of files of lines that Spark read nothing of, which the ledger records as set aside.

    No file that is read is empty, so Spark has passed it over; its content would count as read for good.
    """
    loaded = {file.source_file for file in files}
    paths = [
        account.source_file
        for account in accounts
        if not account.rows_read and account.source_file in loaded and source.raw[account.table_name].format == "lines"
    ]
    there = {file.path for file in listing(run, source)} if paths else set()
    unseen = {
        path: Unreadable("Spark reads nothing of it: rename it" if path in there else CHANGED, may_pass=True)
        for path in paths
    }
    _without(run, source, files, unseen, report)
    return [account for account in accounts if account.source_file not in unseen]


def _append_to(
    run: Run, source: Source, raw: str, batch_id: int, files: list[FileEvent], report: BronzeReport
) -> list[FileEvent]:
    """Appends to one raw table what the files have of it; returns the files less those that cannot be read."""
    may_read_folders = source.raw[raw].format == "lines"
    while paths := [file.source_file for file in files if raw in tables_in(source, file)]:
        folders = _whole_folders(paths, listing(run, source)) if may_read_folders else []
        try:
            rows, unfit = _read(run, source, raw, paths, folders)
            files = _without(run, source, files, unfit, report)
            if rows is not None:
                run.lake.append_once(
                    _stamped(run, rows, batch_id), bronze_table(source, raw), bronze_writer(source), batch_id
                )
            break
        except (PySparkException, Py4JJavaError) as error:
            broken = _broken(error, paths)
            if not broken and folders:
                # Perhaps a file that the folder has beside those of the batch: one that was set aside, say.
                may_read_folders = False
                continue
            if not broken:
                raise
            files = _without(run, source, files, broken, report)
    return files


def _broken(error: Exception, paths: Sequence[str]) -> dict[str, Unreadable]:
    """The one of `paths` that Spark could not read, with the reason; empty if `error` names none of them.

    It could be read when its content was hashed, a moment ago: the fault may pass.
    """
    found = failed_file(error, paths)
    return {found[0]: Unreadable(f"the file could not be read: {found[1]}", may_pass=True)} if found else {}


def _read(
    run: Run, source: Source, raw: str, paths: list[str], folders: list[str]
) -> tuple[DataFrame | None, dict[str, Unreadable]]:
    """The rows of a raw table in the files, if there are any, and why some of the files do not suit.

    Lines are read from `folders` as a whole.
    """
    root, _ = landing_of(run, source)
    declared = source.raw[raw]
    if declared.format == "lines":
        windows, no_text = inspect_lines(run.spark, root, paths)
        fit = [path for path in paths if path not in no_text]
        if not fit:
            return None, no_text
        how = partial(read_lines, arrival_order=declared.arrival_order)
        return how(run.spark, root, fit, whole_folders=folders, in_windows_1252=windows), no_text
    frames: list[DataFrame] = []
    unfit: dict[str, Unreadable] = {}
    if books := [path for path in paths if source.is_workbook(path)]:
        frames.append(workbooks.read_workbooks(run.spark, root, books, _sheet(declared)))
    if files := [path for path in paths if not source.is_workbook(path)]:
        wanted = declared.columns, declared.required_columns, declared.aliases
        forms, unfit = inspect(run.spark, root, files, *wanted, needs_rows=declared.full_extract)
        if forms:
            frames.append(read_csv(run.spark, root, forms, declared.columns))
    return (reduce(DataFrame.unionByName, frames) if frames else None), unfit


def _whole_folders(paths: list[str], listed: Sequence[LandingFile]) -> list[str]:
    """The folders of which so many files are to be read that reading all of them is quicker."""
    wanted, there = Counter(map(parent, paths)), Counter(parent(file.path) for file in listed)
    return [folder for folder, count in wanted.items() if folder and 2 * count > there[folder] and count > MANY_FILES]


def _sheet(raw: RawTable) -> workbooks.Sheet:
    columns, required = tuple(raw.columns), tuple(raw.required_columns)
    return workbooks.Sheet(tuple(raw.sheets), columns, required, raw.aliases, needs_rows=raw.full_extract)


def _without(
    run: Run,
    source: Source,
    files: list[FileEvent],
    reasons: Mapping[str, Unreadable],
    report: BronzeReport,
) -> list[FileEvent]:
    """`files` less those that `reasons` names; the ledger records these with the reason.

    If it may pass, without their size: so the next plan takes them for new ones.
    """
    events = [
        replace(event, status="rejected", reason=why.reason, size=-1 if why.may_pass else event.size)
        for event in files
        if (why := reasons.get(event.source_file))
    ]
    run.ledger.record_rejections(source.name, events)
    report.events += events
    return [file for file in files if file.source_file not in reasons]


def _stamped(run: Run, rows: DataFrame, batch_id: int) -> DataFrame:
    """Engine columns first: Delta keeps statistics on the first columns alone, and later reads filter by these."""
    return rows.select(
        F.lit(batch_id).cast("bigint").alias("_batch_id"),
        "_source_file",
        F.lit(run.started_at).alias("_ingested_at"),
        "_row_hash",
        "_rescued",
        *[column for column in rows.columns if column not in ("_source_file", "_row_hash", "_rescued")],
    )


def _accounts(run: Run, source: Source, batch_id: int) -> list[RowAccount]:
    """One per raw table and file of the batch. A content that was read before counts as deduplicated, row by row.

    A file that was set aside has one only if its rows were written before that.
    """
    delivered = []
    for raw in source.raw:
        decided = history(run, source, raw)
        origin = {event.content_hash: event for event in decided.loaded()}
        for event in decided.batch(batch_id):
            read_as = origin.get(event.content_hash, event) if event.status == "known" else event
            delivered.append((raw, event, (raw, read_as.batch_id, read_as.source_file)))
    counts = _counts(run, source, {batch for _, _, (_, batch, _) in delivered})
    accounts = []
    for raw, event, content in delivered:
        rows = counts.get(content, 0)
        if rows or event.status != "rejected":
            written, known = (0, rows) if event.status == "known" else (rows, 0)
            accounts.append(
                RowAccount(
                    source=source.name,
                    layer="bronze",
                    table_name=raw,
                    source_file=event.source_file,
                    rows_read=rows,
                    rows_written=written,
                    rows_quarantined=0,
                    rows_deduplicated=known,
                    rows_superseded=0,
                    batch_id=batch_id,
                )
            )
    return accounts


def _counts(run: Run, source: Source, batches: Collection[int]) -> dict[tuple[str, int, str], int]:
    """How many rows each raw table has of each delivery of some batches, as (table, batch, file)."""
    parts = [
        run.lake.read(bronze_table(source, raw))
        .where(F.col("_batch_id").isin(*batches))
        .select(F.lit(raw).alias("raw"), "_batch_id", "_source_file")
        for raw in source.raw
        if batches and run.lake.exists(bronze_table(source, raw))
    ]
    if not parts:
        return {}
    found = reduce(DataFrame.unionByName, parts).groupBy("raw", "_batch_id", "_source_file").count().collect()
    return {(raw, batch, file): rows for raw, batch, file, rows in found}
