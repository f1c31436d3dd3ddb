"""Releases: which there were, and going back to one of them.

A rollback is a release of its own, made like any other: staging tables, then one transaction. It shows the rows of the
Delta versions that the earlier release recorded. What is newer is held back (`withheld_checksum` of
`ops.release_tables`) until the rows of a table of that source change; then the source is published whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from psycopg import Connection
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from jobs.engine import destination, embedded, postgres
from jobs.engine.context import Run
from jobs.engine.database import Database
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.fingerprints import Fingerprint, measured
from jobs.engine.ledger import TableState
from jobs.engine.listing import dotted, line, table
from jobs.engine.lock import verify_held
from jobs.engine.postgres import ReleasedTable
from jobs.engine.publication import Publication, publication
from jobs.engine.settings import Settings
from jobs.engine.sources import SOURCES_FOLDER, PublishedTable, Source
from jobs.engine.versions import any_version, has_all_files, is_gone
from jobs.layers import outputs, publish
from jobs.layers.tables import gold_table

_UNTOUCHED = "nothing was changed"
_WHY_REFUSED = "rolling back needs the tables to be declared as they were; or go back to a newer release"


@dataclass(frozen=True)
class Release:
    """One release: `changed` are its tables that differ from the release before, `tables` and `rows` count all."""

    release_id: int
    run_id: str
    published_at: datetime
    rolled_back_to: int | None
    changed: list[str]
    tables: int
    rows: int

    @property
    def what(self) -> str:
        return f"rollback to {self.rolled_back_to}" if self.rolled_back_to else "run"

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "published_at": self.published_at.isoformat(), "what": self.what}


@dataclass
class Rollback:
    """What a rollback did, or with `dry_run` would do. `release_id` is None if no release was made."""

    to: int
    dry_run: bool
    release_id: int | None = None
    loaded: dict[str, tuple[int, int]] = field(default_factory=dict)
    same: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_held_back: bool = False

    def as_json(self) -> dict[str, object]:
        loaded = [{"table": name, "delta_version": v, "rows": rows} for name, (v, rows) in self.loaded.items()]
        return {**asdict(self), "loaded": loaded}

    def as_text(self) -> str:
        head = "would load" if self.dry_run else "loaded"
        lines = [
            line(head if not number else "", f"{name}: {rows:,} rows, Delta version {version}")
            for number, (name, (version, rows)) in enumerate(self.loaded.items())
        ]
        lines.append(line("as it was", f"{len(self.same)} tables show the rows of release {self.to} already"))
        if self.left:
            lines.append(line("left alone", f"{', '.join(self.left)}: not in release {self.to}"))
        lines += [line("documents", text) for text in self.files]
        lines += [line("note", text) for text in self.notes]
        if self.dry_run:
            lines += [line("next", f"nothing was written; assay rollback --to {self.to}")]
        elif self.release_id is None:
            lines.append(line("release", f"none: what is live is release {self.to} already"))
        else:
            done = f"the rows of release {self.to} again, {len(self.loaded)} tables in one transaction"
            lines.append(line(f"release {self.release_id}", done))
            if self.is_held_back:
                lines.append(line("next", "runs hold newer rows of these sources back until some of them change"))
        return "\n".join(lines)


def existing_database(settings: Settings) -> Database | None:
    """The Postgres that is published to; None if it is the embedded one and was never made."""
    given = destination.given_database(settings)
    if given or not embedded.exists(settings.database):
        return given
    return embedded.start(settings.database)


def list_releases(target: Database, limit: int) -> list[Release]:
    """The newest releases, newest first."""
    with postgres.connect(target) as connection:
        if not postgres.has_tables(connection, *postgres.RELEASES):
            return []
        rows = connection.execute(
            # By way of JSON, a database that an earlier Assay made can be read before it has the newest columns.
            "SELECT r.release_id, r.run_id, r.published_at, (to_jsonb(r) ->> 'rolled_back_to')::bigint, "
            "coalesce(array_agg(t.table_name ORDER BY t.table_name) FILTER (WHERE (t.row_count, t.checksum, "
            "t.definition) IS DISTINCT FROM (p.row_count, p.checksum, p.definition)), '{}'), "
            "count(t.table_name), coalesce(sum(t.row_count), 0)::bigint "
            "FROM (SELECT *, lag(release_id) OVER (ORDER BY release_id) AS previous FROM ops.releases) AS r "
            "LEFT JOIN ops.release_tables AS t ON t.release_id = r.release_id "
            "LEFT JOIN ops.release_tables AS p ON p.release_id = r.previous AND p.table_name = t.table_name "
            "GROUP BY r.release_id, r.run_id, r.published_at, 4 ORDER BY r.release_id DESC LIMIT %s",
            [limit],
        )
        return [Release(number, run, at.astimezone(UTC), *rest) for number, run, at, *rest in rows]


def releases_text(found: Sequence[Release]) -> str:
    """A table of releases for people."""
    if not found:
        return "no release yet\nnext    assay run"
    rows = [
        [str(r.release_id), f"{r.published_at:%Y-%m-%d %H:%M:%SZ}", r.what, len(r.changed), r.tables, r.rows, r.run_id]
        for r in found
    ]
    lines = table(["release", "published", "what", "changed", "tables", "rows", "run"], rows)
    older = found[1].release_id if len(found) > 1 else None
    return "\n".join([*lines, *(["", f"next  assay rollback --to {older} --dry-run"] if older else [])])


def rollback(run: Run, sources: Sequence[Source], target: Database, to: int, *, dry_run: bool = False) -> Rollback:
    """Shows the rows of release `to` again, as a new release, in one transaction; `sources` are all there are.

    Raises AssayError before anything is changed if a table is declared differently now, if a version is no longer
    there, or if its rows are not those that the release recorded.
    """
    report = Rollback(to, dry_run)
    declared = {
        f"{published.schema_}.{name}": _Declared(source, name, published)
        for source in sources
        for name, published in source.publish.items()
    }
    with postgres.connect(target) as connection, any_version(run.spark):
        if not dry_run:
            postgres.keep_others_off(connection)
        wanted = _wanted(run, connection, to)
        if not dry_run:
            postgres.prepare(connection, destination.reader_passwords(run.settings))
        last = postgres.published(connection)
        dropped = [name for name in wanted if name not in declared and name not in last]
        report.notes += [f"{name}: no source publishes it now, and it is not there any longer" for name in dropped]
        differing = [
            name
            for name in wanted
            if name not in dropped and (name not in last or last[name].fingerprint != wanted[name].fingerprint)
        ]
        report.same = [name for name in wanted if name not in [*dropped, *differing]]
        # Decision: a table that is younger than the release stays as it is; Assay never empties what may be in use.
        report.left = sorted(last.keys() - wanted.keys())
        items = [_item(run, name, declared.get(name), wanted[name], to) for name in differing]
        report.loaded = {item.full_name: (item.state.delta_version, item.state.row_count) for item in items}
        moved = [source for source in sources if any(declared[name].source is source for name in differing)]
        documents = _documents(run, moved, postgres.published_documents(connection, to), report)
        if dry_run:
            for item in items:
                _verify(item, measured(run.lake.read(item.state.table_name, item.state.delta_version)), to)
            return report
        if items:
            for item, found in publish.stage(run, connection, target, items):
                _verify(item, found, to)
            verify_held()
            refused = f"the rows of release {to} do not fit its key as it is declared now; {_UNTOUCHED}"
            with postgres.said_if_refused(refused, _WHY_REFUSED), connection.transaction():
                lakehouse, commit = run.ledger.identity(), run.ledger.commit()
                report.release_id = postgres.release(
                    connection, run.run_id, lakehouse, items, [], to, ledger_commit=commit
                )
                assert report.release_id is not None
                postgres.withhold(connection, _withheld(run, declared, last, wanted, moved))
                moved_names = [source.name for source in moved]
                postgres.record_documents(connection, report.release_id, documents, moved_names)
        postgres.drop_staging(connection, items)
        now, shown = postgres.published(connection), postgres.published_documents(connection)
    # If the tables were right already: a rollback may have been cut short between them and the files.
    concerned = moved or [s for s in sources if any(d.source is s for n, d in declared.items() if n in wanted)]
    live = dict[str, outputs.Shown]()
    for source in concerned:
        # Documents may have changed since the last release without any table, and so without a release.
        is_newest = not moved and publish.is_all_released(run, source, now)
        live[source.name] = outputs.newest(run, source) if is_newest else outputs.shown_of(run, source, now, shown)
    report.files = outputs.write_files(run, concerned, live, report.release_id)
    report.is_held_back = any(table.withheld_checksum for table in now.values())
    return report


def _documents(
    run: Run,
    moved: Sequence[Source],
    released: Mapping[postgres.DocumentName, postgres.DocumentVersion],
    report: Rollback,
) -> dict[postgres.DocumentName, postgres.DocumentVersion]:
    """The versions of the sources' documents that the release had, where they are there; notes say which are not."""
    found = {}
    for source, name in [(each, name) for each in moved for name in each.documents]:
        had, path = released.get((source.name, name)), gold_table(source, name)
        if had is None:
            why = f"release {report.to} does not say which it had"
        elif not outputs.is_of_present_table(run, source, name, had) or _if_there(run, path, had.version) is None:
            why = f"version {had.version} of {dotted(path)}, which release {report.to} had, is gone"
        else:
            found[(source.name, name)] = had
            continue
        report.notes.append(f"the documents of {source.name} stay as they are: {why}")
    return found


@dataclass(frozen=True)
class _Declared:
    """A published table as conf/sources declares it now."""

    source: Source
    name: str
    published: PublishedTable

    @property
    def place(self) -> str:
        return f"{SOURCES_FOLDER / self.source.name}.yaml, publish.{self.name}"


def _wanted(run: Run, connection: Connection[Any], to: int) -> dict[str, ReleasedTable]:
    """What the release holds. Raises AssayError if there is no such one, or if it is not from this lakehouse."""
    lakehouse = run.ledger.identity()
    publish.verify_owner(run, connection)  # else its commit would be the newest, and runs go on from there
    if postgres.is_of_another(connection, lakehouse, to):
        raise AssayError(
            f"release {to} was published from another lakehouse than {run.settings.lakehouse}; {_UNTOUCHED}",
            "its rows are there only; go back to a release that was made since this lakehouse took over",
        )
    wanted = postgres.released(connection, to) if postgres.has_tables(connection, *postgres.RELEASES) else {}
    if not wanted:
        raise AssayError(f"there is no release {to}; {_UNTOUCHED}", "assay releases lists those there are")
    return wanted


def _item(run: Run, full_name: str, declared: _Declared | None, wanted: ReleasedTable, to: int) -> Publication:
    """The table as the release had it. Raises AssayError if it is declared differently now, or no longer there."""
    if declared is None:
        raise AssayError(f"{full_name} is in release {to}, and no source publishes it now; {_UNTOUCHED}", _WHY_REFUSED)
    path, version = gold_table(declared.source, declared.name), wanted.delta_version
    frame = _version(run, path, version, to)
    state = TableState(path, version, row_count=wanted.row_count, checksum=wanted.checksum)
    try:
        item = publication(declared.name, declared.published, state, frame, declared.place)
    except ConfigurationError:
        was, now = ", ".join(frame.columns), ", ".join(declared.published.columns)
        raise AssayError(
            f"{full_name} has other columns now ({now}) than in release {to} ({was}); {_UNTOUCHED}", _WHY_REFUSED
        ) from None
    types_now = {column.name: column.dataType.simpleString() for column in run.lake.read_log(path).schema}
    for column in frame.schema:
        if types_now.get(column.name, was := column.dataType.simpleString()) != was:
            raise AssayError(
                f"{full_name}.{column.name} is {types_now[column.name]} now and was {was} in release {to}; "
                f"{_UNTOUCHED}",
                _WHY_REFUSED,
            )
    return item


def _version(run: Run, path: str, version: int, to: int) -> DataFrame:
    """The rows of a version. Raises AssayError if it is no longer there."""
    if (frame := _if_there(run, path, version)) is None:
        raise AssayError(
            f"{dotted(path)}: version {version}, which release {to} shows, is no longer there; {_UNTOUCHED}",
            f"assay maintain keeps the newest {run.settings.keep_releases} releases (keep_releases in "
            "conf/assay.yaml; assay releases lists them), but for those before a table's folder was removed",
        )
    return frame


def _if_there(run: Run, path: str, version: int) -> DataFrame | None:
    """The rows of a version, all files of which are there; None otherwise."""
    try:
        frame = run.lake.read(path, version)
        return frame if has_all_files(frame) else None
    except (PySparkException, Py4JJavaError) as error:
        if is_gone(error):
            return None
        raise


def _verify(item: Publication, found: Fingerprint, to: int) -> None:
    state = item.state
    if found != state.fingerprint:
        raise AssayError(
            f"{item.full_name}: version {state.delta_version} has {found.row_count:,} rows with checksum "
            f"{found.checksum}; release {to} recorded {state.row_count:,} with {state.checksum}; {_UNTOUCHED}",
            "the table was made anew since, or changed from outside; or the release is of an older Assay, which hashed "
            "rows otherwise",
        )


def _withheld(
    run: Run,
    declared: Mapping[str, _Declared],
    last: Mapping[str, ReleasedTable],
    wanted: Mapping[str, ReleasedTable],
    moved: Sequence[Source],
) -> dict[str, str | None]:
    """By table: the checksum of the newest rows in gold, where those are not the ones that are live.

    Of sources that the rollback leaves as they were, no rows are held back that were not before: newer ones may only
    wait for a run to publish them.
    """
    live = {**last, **wanted}
    concerned = [name for name, table in declared.items() if table.source in moved]
    states = run.ledger.table_states()
    return {
        name: state.checksum if state.fingerprint != live[name].fingerprint else None
        for name in concerned
        if name in live and (state := states.get(gold_table(declared[name].source, declared[name].name)))
    }
