"""Publish: gold to Postgres, all tables of the run in one transaction. `spark-submit jobs/publish.py --source S`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from jobs.bronze import bronze_table
from jobs.engine import accounts, documents, exports, postgres
from jobs.engine.context import Run
from jobs.engine.database import Database, kept_password
from jobs.engine.embedded import start as start_embedded
from jobs.engine.errors import ConfigurationError
from jobs.engine.postgres import Publication
from jobs.engine.settings import Settings
from jobs.engine.sources import SOURCES_FOLDER, Source
from jobs.gold import gold_table
from jobs.silver import quarantine_table, silver_table

ACCOUNT_COLUMNS = [
    "run_id", "source", "layer", "table_name", "source_file", "rows_read", "rows_written", "rows_quarantined",
    "rows_deduplicated", "rows_superseded", "recorded_at", "batch_id",
]  # fmt: skip
REJECTED_COLUMNS = ["source", "source_file", "reason", "run_id", "recorded_at"]
RULE_COLUMNS = [
    "run_id", "source", "table_name", "rule", "action", "rows_checked", "rows_violating", "rate", "recorded_at",
]  # fmt: skip


@dataclass
class PublishReport:
    """The release made (None if nothing had changed), its tables, and the files written beside it, in words."""

    release_id: int | None = None
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)


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
    return given_database(settings) or start_embedded(settings.database)


def reader_passwords(settings: Settings) -> dict[str, str]:
    """The passwords of the reading roles of the embedded Postgres; those of another server are not Assay's to know."""
    if settings.postgres.host is not None:
        return {}
    return {role: kept_password(settings.database / f"{role}.password") for role in postgres.ROLES}


def verify_accounts(run: Run, source: Source) -> None:
    """Raises AssayError if the rows of the source do not balance."""
    for raw in source.raw:
        if run.lake.exists(bronze_table(source, raw)):
            accounts.verify(run.lake, run.ledger, (source.name, "bronze", raw), bronze_table(source, raw), None)
    for table in source.parsed_tables:
        if run.lake.exists(silver_table(source, table)):
            target, held_back = silver_table(source, table), quarantine_table(source, table)
            accounts.verify(run.lake, run.ledger, (source.name, "silver", table), target, held_back)


def publish(run: Run, sources: Sequence[Source], target: Database) -> PublishReport:
    """Publishes what has changed since the last release; nothing, if nothing has."""
    items = [item for source in sources for item in publications(run, source)]
    with postgres.connect(target) as connection:
        postgres.prepare(connection, reader_passwords(run.settings))
        last = postgres.published(connection)
        changed = [item for item in items if is_changed(item, last)]
        unchanged = [item for item in items if item not in changed]
        # Here, and not where silver is written: a crash in between must not let anything through unverified.
        for source in sources:
            if any(item.state.table_name == gold_table(source, item.name) for item in changed):
                verify_accounts(run, source)
        for item in changed:
            postgres.create_staging(connection, item)
        # Small tables cost a round trip each, large ones keep all cores busy anyway: a few at a time.
        with ThreadPoolExecutor(max_workers=4) as pool:
            loads = [pool.submit(postgres.load_staging, run.lake.read(i.state.table_name), target, i) for i in changed]
            for load in loads:
                load.result()
        with connection.transaction():
            release_id = postgres.release(connection, run.run_id, changed, unchanged)
            postgres.copy_new(connection, "ops.row_accounts", ACCOUNT_COLUMNS, run.ledger.all_accounts())
            postgres.copy_new(connection, "ops.rejected_files", REJECTED_COLUMNS, run.ledger.rejected_files())
            postgres.copy_new(connection, "ops.rule_results", RULE_COLUMNS, run.ledger.rule_results())
        postgres.drop_staging(connection, changed)
    written = []
    for source in sources:
        _export(run, source)
        written += _write_documents(run, source)
    names = [item.full_name for item in changed], [item.full_name for item in unchanged]
    return PublishReport(release_id, *names, written)


def publications(run: Run, source: Source) -> list[Publication]:
    states = run.ledger.table_states()
    place = f"{SOURCES_FOLDER / source.name}.yaml, publish"
    return [
        postgres.publication(name, table, state, run.lake.read(state.table_name), f"{place}.{name}")
        for name, table in source.publish.items()
        if (state := states.get(gold_table(source, name)))
    ]


def is_changed(item: Publication, last: dict[str, tuple[int, int, str, str]]) -> bool:
    """Whether its rows or its definition differ from the last release; a new Delta version alone is no change."""
    if item.full_name not in last:
        return True
    _, row_count, checksum, definition = last[item.full_name]
    return (row_count, checksum, definition) != (item.state.row_count, item.state.checksum, item.definition)


def _export(run: Run, source: Source) -> None:
    folder = f"{run.settings.output.rstrip('/')}/exports"
    for name, export in source.exports.items():
        state = run.ledger.table_states().get(gold_table(source, name))
        if state and not exports.is_current(run.spark, folder, export, state.checksum):
            exports.write(run.lake.read(state.table_name), folder, export, state.checksum)


def _write_documents(run: Run, source: Source) -> list[str]:
    """Says which files were written and removed, if any were."""
    said = []
    for name, document in source.documents.items():
        if state := run.ledger.table_states().get(gold_table(source, name)):
            counts = documents.write(run.lake, state.table_name, state.delta_version, document, run.settings.output)
            if any(counts):
                said.append(f"{document.folder}/: {counts[0]:,} files brought up to date, {counts[1]:,} removed")
    return said


if __name__ == "__main__":
    from jobs.cli import run_layer

    run_layer("publish")
