"""Publish: gold to Postgres, all tables of the run in one transaction."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from psycopg import Connection
from pyspark.sql import Row
from pyspark.sql import functions as F

from jobs.engine import live_tables, postgres, published_to
from jobs.engine.accounts import FATES
from jobs.engine.batches import FileEvent
from jobs.engine.context import Run
from jobs.engine.database import Database
from jobs.engine.destination import reader_passwords
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.fingerprints import Fingerprint
from jobs.engine.ledger import Ledger
from jobs.engine.listing import dotted
from jobs.engine.local_rows import local_rows
from jobs.engine.lock import verify_held
from jobs.engine.postgres import ReleasedTable
from jobs.engine.publication import Addition, Publication, publication
from jobs.engine.sources import SOURCES_FOLDER, Source
from jobs.engine.versions import any_version
from jobs.layers.balance import verify_accounts
from jobs.layers.leftovers import files_left, tables_left
from jobs.layers.outputs import document_versions, newest, shown_of, write_files
from jobs.layers.tables import gold_table

ACCOUNT_COLUMNS = [
    "run_id", "source", "layer", "table_name", "source_file", "rows_read", "rows_written", "rows_quarantined",
    "rows_deduplicated", "rows_superseded", "recorded_at", "batch_id",
]  # fmt: skip
REJECTED_COLUMNS = ["source", "source_file", "reason", "run_id", "recorded_at"]
RULE_COLUMNS = [
    "run_id", "source", "table_name", "rule", "action", "rows_checked", "rows_violating", "rate", "recorded_at",
]  # fmt: skip
_ACCOUNTS, _REJECTED = "ops.row_accounts", "ops.rejected_files"
_OPS_TABLES = {
    _ACCOUNTS: (ACCOUNT_COLUMNS, Ledger.all_accounts),
    _REJECTED: (REJECTED_COLUMNS, Ledger.rejected_files),
    "ops.rule_results": (RULE_COLUMNS, Ledger.rule_results),
}
_REFUSED = "rows of this release do not fit its key or another constraint; nothing was published"
_WHY_REFUSED = (
    "two rows may share the key, or one lacks a part of it: mend the transform; or the table in Postgres has a "
    "constraint that is not declared: drop it; or a load was repeated: run again"
)


@dataclass
class PublishReport:
    """The release made (None if nothing had changed), its tables, and the files written beside it, in words.

    `held_back` are the sources that show an older release since a rollback, and go on to; `left` the tables that are
    published and that no source declares any longer, `files_left` the same of files; `of_no_release` are tables of an
    earlier release alone; `set_aside` are files that earlier runs have set aside, which no run has published yet.
    """

    release_id: int | None = None
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    held_back: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    files_left: list[str] = field(default_factory=list)
    of_no_release: list[str] = field(default_factory=list)
    set_aside: list[FileEvent] = field(default_factory=list)


def publish(
    run: Run, sources: Sequence[Source], target: Database, refined: Sequence[Source] = (), *, take_over: bool = False
) -> PublishReport:
    """Publishes what has changed since the last release; nothing, if nothing has.

    The accounts of what changes are held against the tables first, and those of what the run has `refined`.
    A source that was rolled back stays as it is until the rows of one of its tables change; then all are published.
    Raises AssayError if another lakehouse has published there, or this one when it had read more, unless it is to
    `take_over`: then all that differs is.
    """
    items, lakehouse = {source.name: publications(run, source) for source in sources}, run.ledger.identity()
    with postgres.connect(target) as connection:
        postgres.keep_others_off(connection)
        if not take_over:
            verify_owner(run, connection)
        postgres.prepare(connection, reader_passwords(run.settings))
        # What another one has published, it has from versions of its own: nothing here is the same, whatever its rows.
        is_foreign = postgres.is_of_another(connection, lakehouse)
        last = {} if is_foreign else postgres.published(connection)
        held_back = [source for source in sources if is_held_back(items[source.name], last)]
        free = [source for source in sources if source not in held_back]
        considered = [item for source in free for item in items[source.name]]
        unchanged = [item for item in considered if not is_changed(item, last)]
        changed = [
            replace(item, addition=_addition(run, connection, item, last.get(item.full_name)))
            for item in considered
            if item not in unchanged
        ]
        # Here, and not where silver is written: a crash in between must not let anything through unverified.
        changing = {item.state.table_name for item in changed}
        concerned = [s for s in sources if s in refined or changing & {gold_table(s, table) for table in s.gold_tables}]
        names_of_all = [source.name for source in sources]
        known = {table: postgres.known_runs(connection, table, names_of_all) for table in _OPS_TABLES}
        # All of this is planned more than computed, so that each alone would leave cores idle.
        with ThreadPoolExecutor(max_workers=4) as pool:
            verified = pool.map(partial(verify_accounts, run), concerned)
            news = pool.map(partial(_news, run, names_of_all), known, known.values())
            loaded = stage(run, connection, target, changed)
            for _ in verified:
                pass
        of_table: dict[str, Iterable[Row]] = dict(zip(known, news, strict=True))
        accounts = list(of_table[_ACCOUNTS])
        have_news = {row["source"] for row in accounts}  # by this run, or by an earlier one that was cut short
        for source in sources:
            if source not in concerned and source.name in have_news:
                verify_accounts(run, source)
        # Others were in force until a transform was mended, and its rows were refined anew.
        of_table[_ACCOUNTS] = [row for row in accounts if row["rows_read"] == sum(row[fate] for fate in FATES)]
        of_table[_REJECTED] = rejected = list(of_table[_REJECTED])
        _verify_loaded(loaded)
        changed = [item for item, _ in loaded]
        if changed:  # Postgres has its release on the disk when it says so, and is not to be ahead of the lakehouse
            run.lake.sync()
        commit = run.ledger.commit() if changed or take_over else None
        verify_held()
        with connection.transaction():
            with postgres.said_if_refused(_REFUSED, _WHY_REFUSED):
                release_id = postgres.release(
                    connection,
                    run.run_id,
                    lakehouse,
                    changed,
                    unchanged,
                    ledger_commit=commit,
                    take_over=take_over,
                )
            if release_id is None and commit:  # it has the same rows: it is the one that has published them
                postgres.record_ledger_commit(connection, commit)
            withheld = {name for name, table in last.items() if table.withheld_checksum}
            postgres.withhold(connection, {i.full_name: None for i in considered if i.full_name in withheld})
            if release_id is not None:
                shown = document_versions(run, free)
                postgres.record_documents(connection, release_id, shown, [source.name for source in free])
            for table, rows in of_table.items():
                postgres.copy_new(connection, table, _OPS_TABLES[table][0], rows)
        if database_id := postgres.first_run(connection):
            published_to.remember(run.lake, database_id, f"{target.host}:{target.port}, database {target.name}")
        postgres.drop_staging(connection, changed)
        released, of_none = postgres.published_documents(connection), postgres.of_no_release(connection)
    live = {
        source.name: shown_of(run, source, last, released) if source in held_back else newest(run, source)
        for source in sources
    }
    written = write_files(run, sources, live, release_id)
    unpublished = [item for source in held_back for item in items[source.name]]
    return PublishReport(
        release_id=release_id,
        changed=[item.full_name for item in changed],
        unchanged=[item.full_name for item in [*unchanged, *unpublished]],
        documents=written,
        held_back=[source.name for source in held_back],
        left=tables_left(last, sources),
        files_left=files_left(run, sources),
        of_no_release=of_none,
        set_aside=_set_aside_before(run, sources, rejected),
    )


def is_older(run: Run, connection: Connection[Any]) -> bool:
    """Whether the lakehouse had read more when the newest release was made from it: it came back from a backup."""
    commit = postgres.ledger_commit(connection)
    return commit is not None and not run.ledger.has(commit)


def verify_owner(run: Run, connection: Connection[Any]) -> None:
    """Raises AssayError if the newest release is of another lakehouse, or of this one when it had read more.

    What came since would be taken out without a word.
    """
    postgres.verify_owner(connection, run.ledger.identity())
    if is_older(run, connection):
        raise AssayError(
            f"the lakehouse {run.settings.lakehouse} is older than what was last published from it; nothing was "
            "published",
            "bring back a newer copy of it; or deliver again what was read since, and let it take the place of what is "
            "published: assay run --take-over",
        )


def _set_aside_before(run: Run, sources: Sequence[Source], news: Sequence[Row]) -> list[FileEvent]:
    """The files that earlier runs have set aside, and perhaps failed before they said so; less those mended since.

    `news`: the rows that are new to ops.rejected_files.
    """
    own = {(row["source"], row["source_file"]) for row in news if row["run_id"] == run.run_id}
    untold = {(row["source"], row["source_file"]) for row in news} - own
    return [
        event
        for source in sources
        for path, event in sorted(run.ledger.history(source.name).newest_versions().items())
        if event.status == "rejected" and (source.name, path) in untold
    ]


def is_all_released(run: Run, source: Source, last: Mapping[str, ReleasedTable]) -> bool:
    """Whether what is published of a source is what its gold tables hold now."""
    with suppress(ConfigurationError):  # they have not been computed since other columns were declared
        return not any(is_changed(item, last) for item in publications(run, source))
    return False


def stage(
    run: Run, connection: Connection[Any], target: Database, items: Sequence[Publication]
) -> list[tuple[Publication, Fingerprint]]:
    """Loads the rows of the items' versions, or of their additions, into staging tables.

    Returns the items, each with the fingerprint of its version. An addition that does not come to what was computed is
    no addition to what was published (the table may have been made anew): then all is loaded.
    """
    loaded = _load(run, connection, target, items)
    found = [(item, item.addition.before.plus(rows) if item.addition else rows) for item, rows in loaded]
    wrong = [replace(item, addition=None) for item, total in found if item.addition and total != item.state.fingerprint]
    again = {item.full_name: (item, rows) for item, rows in _load(run, connection, target, wrong)}
    return [again.get(item.full_name, (item, total)) for item, total in found]


def _load(
    run: Run, connection: Connection[Any], target: Database, items: Sequence[Publication]
) -> list[tuple[Publication, Fingerprint]]:
    """Fills the items' staging tables; returns the fingerprint of what was loaded."""
    target = postgres.without_limits(connection, target)
    for item in items:
        postgres.create_staging(connection, item)

    def load(item: Publication) -> Fingerprint:
        if item.addition:
            return postgres.load_staging(item.addition.rows, target, item)
        return postgres.load_staging(run.lake.read(item.state.table_name, item.state.delta_version), target, item)

    # Small tables cost a round trip each, large ones keep all cores busy anyway: a few at a time.
    with any_version(run.spark), ThreadPoolExecutor(max_workers=4) as pool:
        return list(zip(items, pool.map(load, items), strict=True))


def publications(run: Run, source: Source) -> list[Publication]:
    states = run.ledger.table_states()
    place = f"{SOURCES_FOLDER / source.name}.yaml, publish"
    return [
        publication(name, table, state, run.lake.read(state.table_name), f"{place}.{name}")
        for name, table in source.publish.items()
        if (state := states.get(gold_table(source, name)))
    ]


def is_changed(item: Publication, last: Mapping[str, ReleasedTable]) -> bool:
    """Whether its rows or its definition differ from the last release; a new Delta version alone is no change."""
    released = last.get(item.full_name)
    return released is None or (released.fingerprint, released.definition) != (item.state.fingerprint, item.definition)


def is_held_back(items: Sequence[Publication], last: Mapping[str, ReleasedTable]) -> bool:
    """Whether the tables of a source are to stay as a rollback left them: none has got other rows since.

    Decision: only rows count, so a comment or an index that is declared anew waits for them.
    """
    released = [last.get(item.full_name) for item in items]
    if not any(table and table.withheld_checksum for table in released):
        return False
    # A table that was added since waits with the others.
    return all(
        (table.withheld_checksum or table.checksum) == item.state.checksum
        for item, table in zip(items, released, strict=True)
        if table
    )


def _news(run: Run, sources: Sequence[str], table: str, known: Sequence[tuple[str, str]]) -> Iterator[Row]:
    """The rows of the ledger that are to go to an ops table: planned by now, read when they are taken.

    `known`: the sources and runs of which it has rows; those of one source and run come together or not at all.
    """
    columns, of_ledger = _OPS_TABLES[table]
    there = [{"source": source, "run_id": run_id} for source, run_id in known]
    is_there = F.broadcast(local_rows(run.spark, there, "source STRING, run_id STRING"))
    rows = of_ledger(run.ledger).where(F.col("source").isin(*sources))
    news: Iterator[Row] = rows.join(is_there, ["source", "run_id"], "left_anti").select(*columns).toLocalIterator()
    return news


def _addition(
    run: Run, connection: Connection[Any], item: Publication, released: ReleasedTable | None
) -> Addition | None:
    """The rows that came since the last release, if none went; None: all rows are to be loaded.

    Decision: a live table that lost rows or a column, or got some from elsewhere, is made right by loading it whole.
    """
    path = item.state.table_name
    if released is None or released.definition != item.definition or run.lake.version(path) != item.state.delta_version:
        return None
    changes = run.lake.changes(path, released.delta_version)
    if changes is None or changes.added is None or changes.removed is not None:
        return None
    is_as_published = (
        live_tables.row_count(connection, item) == released.row_count
        and live_tables.column_types(connection, item.full_name).keys() == item.columns.keys()
    )
    return Addition(changes.added, released.fingerprint) if is_as_published else None


def _verify_loaded(loaded: Sequence[tuple[Publication, Fingerprint]]) -> None:
    """Raises AssayError if what Delta gave is not what was computed."""
    for item, found in loaded:
        if found != item.state.fingerprint:
            table, version = dotted(item.state.table_name), item.state.delta_version
            raise AssayError(
                f"{table}: version {version} has {found.row_count:,} rows with checksum {found.checksum}; "
                f"{item.state.row_count:,} with {item.state.checksum} were computed; nothing was published",
                "the table was changed from outside; remove its folder, and the next run makes it anew",
            )
