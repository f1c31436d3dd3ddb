"""Publish: gold to Postgres, all tables of the run in one transaction. `spark-submit jobs/publish.py --source S`."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from psycopg import Connection
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Row
from pyspark.sql import functions as F

from jobs.balance import verify_accounts
from jobs.engine import documents, exports, live_tables, postgres, published_to
from jobs.engine.accounts import FATES
from jobs.engine.batches import FileEvent
from jobs.engine.context import Run
from jobs.engine.database import Database, kept_password
from jobs.engine.embedded import running as running_embedded
from jobs.engine.embedded import start as start_embedded
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.faults import explained
from jobs.engine.fingerprints import Fingerprint, measured
from jobs.engine.ledger import Ledger
from jobs.engine.listing import dotted
from jobs.engine.local_rows import local_rows
from jobs.engine.lock import verify_held
from jobs.engine.places import local_path
from jobs.engine.postgres import DocumentName, DocumentVersion, ReleasedTable
from jobs.engine.publication import Addition, Publication, publication
from jobs.engine.settings import Settings
from jobs.engine.sources import SOURCES_FOLDER, Source, load_sources
from jobs.engine.versions import any_version, is_forgotten, is_gone
from jobs.gold import gold_table

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


_SYSTEM_SAYS = re.compile(
    r"\[Errno (\d+)\]|Permission denied|Parent path is not a directory|Mkdirs failed to create|Read-only file system"
)
_ROLL_BACK = (
    "assay rollback to the newest release, or to another one whose versions are there (assay releases lists them)"
)
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


class ShownVersion(NamedTuple):
    """Which version of a published gold table is shown, and the checksum of its rows."""

    version: int
    checksum: str


@dataclass(frozen=True)
class Shown:
    """Which versions of its gold tables a source shows: of published tables, and of documents."""

    tables: Mapping[str, ShownVersion]
    documents: Mapping[str, int]


def given_database(settings: Settings) -> Database | None:
    """The Postgres of POSTGRES_HOST, if that is set. Raises ConfigurationError if its password is missing."""
    given = settings.postgres
    if given.host is None:
        return None
    if given.password is None:
        raise ConfigurationError("POSTGRES_HOST is set and POSTGRES_PASSWORD is not", "set POSTGRES_PASSWORD as well")
    return Database(given.host, given.port, given.db, given.user, given.password.get_secret_value())


def database(settings: Settings) -> Database:
    """The Postgres to publish to: the one of POSTGRES_HOST, else the embedded one, started if it is not running."""
    check_database(settings)
    return given_database(settings) or start_embedded(settings.database)


def check_database(settings: Settings) -> None:
    """Raises ConfigurationError if nothing can be published to the Postgres that the settings name."""
    host = settings.postgres.host
    if host and host.startswith(("/", "@")):
        raise ConfigurationError(
            f"POSTGRES_HOST: Spark publishes over TCP, and {host} is a socket", "for this machine: 127.0.0.1"
        )
    given_database(settings)


def check_lock(settings: Settings) -> None:
    """Raises ConfigurationError if the lakehouse's lock would be one of this machine alone, and others can reach it."""
    if local_path(settings.lakehouse) is None and settings.postgres.host is None:
        raise ConfigurationError(
            f"a lakehouse that is not on this machine ({settings.lakehouse}) is locked through Postgres, and that of "
            "POSTGRES_HOST is the one that all others take",
            "set POSTGRES_HOST, and POSTGRES_DB if it is not assay, the same for all that use the lakehouse",
        )


def running_database(settings: Settings) -> Database | None:
    """The same Postgres, for commands that only look: None if it is the embedded one and that is not running."""
    return given_database(settings) or running_embedded(settings.database)


def reader_passwords(settings: Settings) -> dict[str, str]:
    """The passwords of the reading roles of the embedded Postgres; those of another server are not Assay's to know."""
    if settings.postgres.host is not None:
        return {}
    return {role: kept_password(settings.database / f"{role}.password") for role in postgres.ROLES}


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
        left=_left(last, sources),
        files_left=_files_left(run, sources),
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


def _left(last: Mapping[str, ReleasedTable], sources: Sequence[Source]) -> list[str]:
    """The published tables that no source declares, be it one of this run or another one."""
    left = last.keys() - _declared(sources)
    # A mistake in what another source declares is no reason for this run to fail.
    with suppress(ConfigurationError):
        return sorted(left - _declared(load_sources())) if left else []
    return []


def _files_left(run: Run, sources: Sequence[Source]) -> list[str]:
    """The exports and documents below the output folder that no source declares, be it one of this run or another one.

    They are found by the hidden files that Assay keeps beside them; of an output that is elsewhere, none are.
    """
    output = local_path(run.settings.output)
    if output is None:
        return []
    exports_there, documents_there = output.glob(f"exports/.*{exports.MARK}"), output.glob(f"*/.*{documents.MARK}")
    marked = {f"exports/{mark.name[1:].removesuffix(exports.MARK)}" for mark in exports_there}
    marked |= {f"{mark.parent.name}/{mark.name[1:].removesuffix(documents.MARK)}*" for mark in documents_there}
    if not marked - _written(sources):
        return []
    # A mistake in what another source declares is no reason for this run to fail.
    with suppress(ConfigurationError):
        names = {source.name for source in sources}
        written = _written([*sources, *[source for source in load_sources() if source.name not in names]])
        return sorted(left for pattern in marked - written if (left := _left_of(output, pattern, written)))
    return []


def _left_of(output: Path, pattern: str, written: Collection[str]) -> str:
    """The files that match a pattern and none of those that are written, in words; empty if there are none."""
    others = sorted(other for other in written if other != pattern and fnmatchcase(other, pattern))
    files = [f"{file.parent.name}/{file.name}" for file in output.glob(pattern) if not file.name.startswith(".")]
    if all(any(fnmatchcase(file, other) for other in others) for file in files):
        return ""
    return f"{pattern} (but for {', '.join(others)})" if others else pattern


def _written(sources: Sequence[Source]) -> set[str]:
    """The files below the output folder that sources write, documents as a pattern."""
    return {
        *(f"exports/{export.file}" for source in sources for export in source.exports.values()),
        *(f"{each.folder}/{each.prefix}*" for source in sources for each in source.documents.values()),
    }


def is_all_released(run: Run, source: Source, last: Mapping[str, ReleasedTable]) -> bool:
    """Whether what is published of a source is what its gold tables hold now."""
    with suppress(ConfigurationError):  # they have not been computed since other columns were declared
        return not any(is_changed(item, last) for item in publications(run, source))
    return False


def _declared(sources: Sequence[Source]) -> set[str]:
    """The published tables of some sources, with their schemas."""
    return {f"{table.schema_}.{name}" for source in sources for name, table in source.publish.items()}


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


def document_versions(run: Run, sources: Sequence[Source]) -> dict[DocumentName, DocumentVersion]:
    """The newest version of each table of documents."""
    return {
        (source.name, name): DocumentVersion(version, run.lake.identity(gold_table(source, name)))
        for source in sources
        for name, version in newest(run, source).documents.items()
    }


def is_of_present_table(run: Run, source: Source, name: str, shown: DocumentVersion) -> bool:
    """Whether a version is of the table of documents that is there, not of one that was there before."""
    return shown.table in (None, run.lake.identity(gold_table(source, name)))


def newest(run: Run, source: Source) -> Shown:
    """The newest versions of the source's gold tables."""
    states = {
        name: state for name in source.gold_tables if (state := run.ledger.table_states().get(gold_table(source, name)))
    }
    tables = {name: ShownVersion(state.delta_version, state.checksum) for name, state in states.items()}
    return Shown(tables, {name: state.delta_version for name, state in states.items() if name in source.documents})


def shown_of(
    run: Run,
    source: Source,
    released: Mapping[str, ReleasedTable],
    documents_of: Mapping[DocumentName, DocumentVersion],
) -> Shown:
    """The versions of the source's gold tables that a release shows; without documents whose table was made anew."""
    names = {name: f"{table.schema_}.{name}" for name, table in source.publish.items()}
    found = {name: released[full] for name, full in names.items() if full in released}
    tables = {name: ShownVersion(table.delta_version, table.checksum) for name, table in found.items()}
    versions = {name: had for name in source.documents if (had := documents_of.get((source.name, name)))}
    present = {name: had.version for name, had in versions.items() if is_of_present_table(run, source, name, had)}
    return Shown(tables, present)


def write_files(run: Run, sources: Sequence[Source], shown: Mapping[str, Shown], release_id: int | None) -> list[str]:
    """Brings exports and documents up to date with what each source shows; says which documents were written, or went.

    Raises AssayError that tells of the release, if one was made: it is published by now. What could be written is.
    """
    said, failed = list[str](), list[AssayError]()
    for source in sources:
        try:
            said += _write_files(run, source, shown[source.name], release_id)
        except AssayError as error:
            failed.append(error)
    if failed:
        hints = dict.fromkeys(error.hint for error in failed if error.hint)
        raise AssayError("\n".join(error.message for error in failed), "; ".join(hints)) from failed[0]
    return said


def _write_files(run: Run, source: Source, shown: Shown, release_id: int | None) -> list[str]:
    try:
        with any_version(run.spark):
            return [*_export(run, source, shown), *_write_documents(run, source, shown)]
    except (AssayError, OSError, PySparkException, Py4JJavaError) as error:
        done = f"release {release_id} is published" if release_id else "what is published stays as it was"
        known = error if isinstance(error, AssayError) else explained(error)
        why, way_out = (known.message, known.hint) if known else (_why_unwritten(error), None)
        if isinstance(error, (PySparkException, Py4JJavaError)) and _is_version_gone(run, source, shown, error):
            why, way_out = f"the version of gold that {source.name} shows is gone", _ROLL_BACK
        raise AssayError(
            f"{done}; files below {run.settings.output} could not be written: {why}",
            way_out or "mend the folder (ASSAY_OUTPUT), then run again: the next run writes them",
        ) from error


def _is_version_gone(run: Run, source: Source, shown: Shown, error: PySparkException | Py4JJavaError) -> bool:
    """Whether an error is about a version that a rollback has left to be shown, and not about the output folder."""
    is_of_gold = is_forgotten(error) or (is_gone(error) and f"/{gold_table(source, '')}" in str(error))
    return is_of_gold and shown != newest(run, source)


def _why_unwritten(error: Exception) -> str:
    """What the system says; no more of the error, whose text may quote rows."""
    found = _SYSTEM_SAYS.search(str(error))
    said = type(error).__name__ if found is None else os.strerror(int(found[1])) if found[1] else found[0]
    return f"{said} ({error.filename})" if isinstance(error, OSError) and error.filename else said


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


def files_behind(run: Run, source: Source, shown: Shown) -> dict[str, str]:
    """The exports and folders of documents, below the output folder, that `write_files` would write: by gold table."""
    exported = _exports_behind(run, source, shown)
    behind = {name: f"exports/{source.exports[name].file}" for name, is_there in exported.items() if is_there}
    for name, version in shown.documents.items():
        document, table, checksum = source.documents[name], gold_table(source, name), _checksum(shown, name)
        if not documents.is_current(run.lake, table, version, document, run.settings.output, checksum):
            behind[name] = f"{document.folder}/"
    return behind


def _exports_behind(run: Run, source: Source, shown: Shown) -> dict[str, bool]:
    """The exports that are not of what is shown; with whether its rows are there, or the table was made anew since."""
    behind, present = dict[str, bool](), newest(run, source).tables
    for name, export in source.exports.items():
        if name not in shown.tables:
            continue
        version, checksum = shown.tables[name]
        if not exports.is_current(run.spark, _exports_folder(run), export, checksum):
            is_present = shown.tables[name] == present.get(name)
            behind[name] = is_present or _has_rows(run, gold_table(source, name), version, checksum)
    return behind


def _has_rows(run: Run, path: str, version: int, checksum: str) -> bool:
    """Whether the version is there, and has the rows with this checksum."""
    try:
        with any_version(run.spark):
            return measured(run.lake.read(path, version)).checksum == checksum
    except (PySparkException, Py4JJavaError) as error:
        if is_gone(error):
            return False
        raise


def _exports_folder(run: Run) -> str:
    return f"{run.settings.output.rstrip('/')}/exports"


def _export(run: Run, source: Source, shown: Shown) -> list[str]:
    """Writes the exports that are behind; says which cannot be, as their table was made anew since the release."""
    said = []
    for name, is_there in _exports_behind(run, source, shown).items():
        (version, checksum), export = shown.tables[name], source.exports[name]
        if is_there:
            exports.write(run.lake.read(gold_table(source, name), version), _exports_folder(run), export, checksum)
        else:
            said.append(f"exports/{export.file}: stays as it is, for the rows that are published are gone")
    return said


def _checksum(shown: Shown, document: str) -> str | None:
    """That of the rows that documents are made from; a release records it of published tables only."""
    return shown.tables[document].checksum if document in shown.tables else None


def _write_documents(run: Run, source: Source, shown: Shown) -> list[str]:
    said, output = [], run.settings.output
    for name, version in shown.documents.items():
        document = source.documents[name]
        table, checksum = gold_table(source, name), _checksum(shown, name)
        counts = documents.write(run.lake, table, version, document, output, checksum)
        if any(counts):
            said.append(f"{document.folder}/: {counts[0]:,} files brought up to date, {counts[1]:,} removed")
    return said


if __name__ == "__main__":
    from jobs.cli import run_layer

    run_layer("publish")
