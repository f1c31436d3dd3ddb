"""Bronze: each raw file's rows as they came, exactly once. `spark-submit jobs/bronze.py --source S`."""

import glob
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from itertools import product
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.engine import workbooks
from jobs.engine.batches import FileEvent, History, labelled, plan, vanished_or_changed
from jobs.engine.context import Run
from jobs.engine.csv_files import inspect, read_csv
from jobs.engine.errors import ConfigurationError
from jobs.engine.landing import (
    LandingFile,
    Unreadable,
    content_hashes,
    is_being_written,
    is_expected,
    is_there,
    list_files,
    passed_over,
)
from jobs.engine.ledger import RowAccount
from jobs.engine.places import local_path
from jobs.engine.readers import failed_file, inspect_lines, parent, read_lines, rescued
from jobs.engine.sources import SOURCES_FOLDER, RawTable, Source, load_sources

# From here on, to look up each path costs more than to read some files in vain.
MANY_FILES = 500
CHANGED = "the file was changed or taken away before it was read"
CHANGED_MEANWHILE = "the file was changed while it was read"


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


def bronze_table(source: Source, raw: str) -> str:
    return f"bronze/{source.name}/{raw}"


def bronze_writer(source: Source) -> str:
    return f"bronze:{source.name}"


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


def finished_batch(run: Run, source: Source) -> int:
    """The newest batch of files that bronze has read to its end; a crash may have left a later one unfinished."""
    decided = run.ledger.history(source.name)
    newest = decided.newest_planned
    has_rows = any(event.status != "rejected" for event in decided.batch(newest))
    return decided.planned_before(newest) if has_rows and not _is_accounted(run, source, newest) else newest


def decisions(run: Run, source: Source) -> History:
    """What was decided about the files of a source, with contents named as they would be if they came now."""
    return _named_as_now(run.ledger.history(source.name), source)


def history(run: Run, source: Source, raw: str) -> History:
    """What was decided about the files of one raw table."""
    return of_raw_table(run.ledger.history(source.name), source, raw)


def of_raw_table(decided: History, source: Source, raw: str) -> History:
    """The part of a source's history that is about the files of one raw table."""
    decided = _named_as_now(decided, source)
    return decided.of(lambda event: raw in tables_in(source, event), is_full_extract=source.raw[raw].full_extract)


def _named_as_now(decided: History, source: Source) -> History:
    """A history whose contents are labelled as they would be if they came now, so that they can be told to be the same.

    Where the source had one raw table, they are not, and where it has one again, they need not be.
    """
    is_labelled = len(source.raw) > 1

    def now(event: FileEvent) -> str | None:
        if event.content_hash is None or not is_labelled:
            return event.content_hash and event.content_hash.rpartition(":")[2]
        tables = [] if event.raw_tables else source.raw_tables_of(event.source_file)
        return labelled(event.content_hash, tables) if len(tables) == 1 else event.content_hash

    is_as_now = all(bool(event.raw_tables) is is_labelled for event in decided.accepted())
    return decided if is_as_now else decided.named(now)


def tables_in(source: Source, event: FileEvent) -> list[str]:
    """The raw tables that a file was read for; those that the present patterns name, if the event does not say."""
    return event.raw_tables or source.raw_tables_of(event.source_file)


def listing(run: Run, source: Source) -> list[LandingFile]:
    """The source's files in the landing folder."""
    root, patterns = _landing(run, source)
    return list_files(run.spark, root, patterns)


def ignored(run: Run, source: Source) -> list[str]:
    """What else is in the source's landing folders, of no source, and so is not read: files, folders, dead links."""
    if named_file(source):
        return []
    found = passed_over(run.spark, run.settings.landing, source.patterns)
    try:
        others = [other for other in load_sources() if other.name != source.name] if found else []
    except ConfigurationError:  # whose the files are cannot be told; that is no reason for this run to fail
        return []
    patterns = [pattern for other in others for pattern in other.patterns]
    return [path for path in found if not is_expected(path, patterns)]


def next_batch(run: Run, source: Source, decided: History, listed: Sequence[LandingFile]) -> list[FileEvent]:
    """What to take from the landing folder after all that was decided before; empty if nothing is new."""
    is_looked_for = partial(_is_looked_for, run, source, _landing(run, source)[1])
    return plan(decided, listed, partial(_contents, run, source), partial(_is_as_it_was_read, source), is_looked_for)


def _is_looked_for(run: Run, source: Source, patterns: list[str], path: str) -> bool:
    """Whether a file would be listed if it were there: also one that is not there, whatever the patterns once were."""
    if is_expected(path, patterns):
        return True
    places = [f"{run.settings.landing}/{path}", *([f"/{path}"] if source.one_file else [])]
    return not any(is_there(run.spark, place) for place in places)


def _is_as_it_was_read(source: Source, event: FileEvent) -> bool:
    """Whether a file was read for the raw tables that the present patterns name; or was set aside unread."""
    if event.content_hash is None:
        return True
    named, present = event.raw_tables, source.raw_tables_of(event.source_file)
    if not named:  # it was read for one, which is among these
        return len(present) <= 1
    return len(source.raw) == 1 or not present or set(named) == set(present)


def unread_tables(run: Run, source: Source, files: Sequence[FileEvent], batch_id: int) -> list[str]:
    """The raw tables that the files have rows of and that do not have the rows of this batch yet."""
    return [
        raw
        for raw in source.raw
        if any(raw in tables_in(source, file) for file in files)
        and run.lake.written_through(bronze_table(source, raw), bronze_writer(source)) < batch_id
    ]


def no_longer_as_planned(
    source: Source,
    files: Sequence[FileEvent],
    unread: Sequence[str],
    listed: Sequence[LandingFile],
    reason: str = CHANGED,
) -> list[FileEvent]:
    """Those files of a planned batch that were changed, or taken away, as set aside for `reason`.

    What was taken away with no rows in the `unread` raw tables was read to its end.
    """
    there = {file.path for file in listed}
    files = [e for e in files if e.source_file in there or any(raw in unread for raw in tables_in(source, e))]
    # Without its size the file is new to the next plan, even if it is back as it was by then.
    return [replace(e, size=-1, status="rejected", reason=reason) for e in vanished_or_changed(files, listed)]


def vanished(source: Source, decided: History, listed: Sequence[LandingFile]) -> list[FileEvent]:
    """The files that were taken in and are no longer in the landing folder, as they were last; their rows stay."""
    if named_file(source):
        return []
    there = {file.path for file in listed}
    return [e for path, e in sorted(decided.newest_versions(accepted=True).items()) if path not in there]


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


def _contents(run: Run, source: Source, paths: list[str]) -> dict[str, str | Unreadable]:
    """What is in each file: its hash; of a source with several raw tables, with those that the file has rows of."""
    hashes = content_hashes(run.spark, _landing(run, source)[0], paths)
    if len(source.raw) == 1:
        return hashes
    return {
        path: found if isinstance(found, Unreadable) else labelled(found, source.raw_tables_of(path))
        for path, found in hashes.items()
    }


def _load(run: Run, source: Source, batch_id: int, report: BronzeReport) -> None:
    """Appends a planned batch to bronze and accounts for it, unless both were done before."""
    if _is_accounted(run, source, batch_id):  # of a raw table that is declared since, the batch has nothing
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


def _is_accounted(run: Run, source: Source, batch_id: int) -> bool:
    events = run.ledger.history(source.name).batch(batch_id)
    tables = {*source.raw, *(raw for event in events for raw in tables_in(source, event))}
    return any(run.ledger.is_accounted(source.name, "bronze", raw, batch_id) for raw in tables)


def _append(
    run: Run, source: Source, batch_id: int, raw_tables: list[str], files: list[FileEvent], report: BronzeReport
) -> list[FileEvent]:
    """Appends the files' rows to the raw tables; sets aside those that cannot be read, and returns the others."""
    root, _ = _landing(run, source)
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


def _landing(run: Run, source: Source) -> tuple[str, list[str]]:
    """Where the source's files lie, and which they are; one file of its own if its variable names one."""
    named = named_file(source)
    if not named:
        return run.settings.landing, source.patterns
    file = Path(os.path.realpath(named))
    if not os.path.isfile(file):  # of a link to itself, or a closed folder, Path's own would raise
        raise ConfigurationError(f"environment variable {source.one_file}: there is no file {named} to be looked at")
    if is_being_written(file.name):
        raise ConfigurationError(
            f"environment variable {source.one_file}: {file.name} counts as still being written",
            "rename it once it is whole: names that begin with ., _ or ~$, or end in ._COPYING_, are passed over",
        )
    # From the root on: files of one name in two folders are two files.
    path = file.relative_to(file.anchor).as_posix()
    # What an earlier Assay has called so keeps the name: under another, its earlier rows would stay for ever.
    is_known = path in run.ledger.history(source.name).paths()
    if not is_known and (below := _below_landing(run, source, named)) is not None:
        return run.settings.landing, [glob.escape(below)]
    if is_expected(path, source.patterns):
        raise ConfigurationError(
            f"environment variable {source.one_file}: {named} would be taken for {path} of the landing folder",
            f"put it into another folder than /{parent(path)}",
        )
    return file.anchor, [glob.escape(path)]


def _below_landing(run: Run, source: Source, named: str) -> str | None:
    """The path below the landing folder of a file that is named alone, if runs without its name find it there, too."""
    landing = local_path(run.settings.landing)
    if landing is None:
        return None
    # Each folder may be a link to where the files really lie.
    folders = {folder for pattern in source.patterns if parent(pattern) for folder in landing.glob(parent(pattern))}
    places = [(folder, Path(at)) for folder in (landing, *sorted(folders)) for at in _names_of(folder)]
    for file, (folder, place) in product(map(Path, _names_of(named)), places):
        if file.is_relative_to(place):
            path = (folder.relative_to(landing) / file.relative_to(place)).as_posix()
            if is_expected(path, source.patterns):
                return path
    return None


def _names_of(place: str | Path) -> tuple[str, str]:
    """The whole path of a place, and the one that no link is left in."""
    return os.path.abspath(place), os.path.realpath(place)


def named_file(source: Source) -> str | None:
    """The one file that the source's variable names, if it has one and it is set."""
    return os.environ.get(source.one_file) or None if source.one_file else None


def _read(
    run: Run, source: Source, raw: str, paths: list[str], folders: list[str]
) -> tuple[DataFrame | None, dict[str, Unreadable]]:
    """The rows of a raw table in the files, if there are any, and why some of the files do not suit.

    Lines are read from `folders` as a whole.
    """
    root, _ = _landing(run, source)
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


def _whole_folders(paths: list[str], listing: Sequence[LandingFile]) -> list[str]:
    """The folders of which so many files are to be read that reading all of them is quicker."""
    wanted, there = Counter(map(parent, paths)), Counter(parent(file.path) for file in listing)
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


if __name__ == "__main__":
    from jobs.cli import run_layer

    run_layer("bronze")
