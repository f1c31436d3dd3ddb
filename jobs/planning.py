"""What the next run would do, and why, found without writing anything.

The decisions are made by the functions that the run itself calls: which files are a batch, what silver has to do next,
which derived tables are out of date, and whether a table differs from the last release. Here they are only given what
the steps before them will have done by then. What only the rows can tell is not foreseen: a file may still be set aside
when it is read, a rule may fail the run, and a table that is computed anew may come out as it was.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace

from py4j.protocol import Py4JJavaError

from jobs.engine import destination, embedded, postgres
from jobs.engine.batches import FileEvent, History, Request
from jobs.engine.context import Run
from jobs.engine.errors import AssayError
from jobs.engine.landing import LandingFile
from jobs.engine.ledger import TableState
from jobs.engine.listing import SHOWN, dotted, line, size, some
from jobs.engine.postgres import ReleasedTable
from jobs.engine.publication import Publication, publication
from jobs.engine.sources import SOURCES_FOLDER, Source
from jobs.layers import arrivals, bronze, histories, outputs, parsing, publish, recipes, refresh, scopes, shapes
from jobs.layers.checks import check
from jobs.layers.tables import bronze_table, gold_table, quarantine_table, silver_table


@dataclass(frozen=True)
class PlannedFile:
    """A file below the landing folder, its size in bytes, and what makes it one to read, to leave or to set aside."""

    path: str
    size: int
    why: str


@dataclass(frozen=True)
class UnfinishedBatch:
    """A batch that was planned (when, as ISO time in UTC) and that a crash left, with its files to read.

    `set_aside` are those that are no longer as they were planned.
    """

    batch_id: int
    planned_at: str
    read: list[PlannedFile]
    set_aside: list[PlannedFile]


@dataclass(frozen=True)
class PlannedTable:
    """A table, and why it would be refreshed or published."""

    table: str
    why: str


@dataclass
class SourcePlan:
    """What the next run would do with one source. `refresh` names Delta tables in the order in which they are made.

    `ignored` is what else is in its landing folders, under names that no source declares.
    """

    source: str
    read: list[PlannedFile] = field(default_factory=list)
    delivered_again: list[PlannedFile] = field(default_factory=list)
    set_aside: list[PlannedFile] = field(default_factory=list)
    vanished: list[PlannedFile] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    unfinished: UnfinishedBatch | None = None
    requests: list[str] = field(default_factory=list)
    refresh: list[PlannedTable] = field(default_factory=list)


@dataclass
class PublishPlan:
    """Tables that the next run would publish, and those that it may: if their rows turn out to differ.

    `files` are the exports and folders of documents that are not what Postgres shows; those of tables that are to be
    computed anew are not known yet, and none if `files_unknown` says why they cannot be looked at. `release` is the
    number that the next release gets; None if `unknown` says why the last one cannot be seen. Nothing would be
    published if the last one `is_foreign`, from another lakehouse, or this one `is_older` than that.
    """

    release: int | None = None
    unknown: str | None = None
    will: list[PlannedTable] = field(default_factory=list)
    may: list[PlannedTable] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    files_unknown: str | None = None
    is_foreign: bool = False
    is_older: bool = False

    @property
    def is_refused(self) -> bool:
        """Whether nothing would be published, whatever came out."""
        return self.is_foreign or self.is_older


@dataclass
class Plan:
    """What the next run of some sources would do."""

    sources: list[SourcePlan]
    publish: PublishPlan

    @property
    def is_empty(self) -> bool:
        """Whether the run would change nothing."""
        found = self.sources
        has_work = any(
            s.read or s.delivered_again or s.set_aside or s.unfinished or s.requests or s.refresh for s in found
        )
        publish = self.publish
        has_files = publish.files or publish.files_unknown
        return not (has_work or publish.will or publish.may or has_files or publish.is_refused)

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def as_text(self) -> str:
        lines = [text for source in self.sources for text in _source_lines(source)]
        if self.is_empty:
            lines.append(line("nothing new", "a run would change nothing"))
        lines += _publish_lines(self.publish)
        lines += [line("", "nothing was written"), "", line("next", self._next())]
        return "\n".join(lines)

    def _next(self) -> str:
        """What a person may do about it."""
        if self.publish.is_foreign:
            return "mend POSTGRES_HOST, POSTGRES_DB or ASSAY_LAKEHOUSE; or, to take over, assay run --take-over"
        if self.publish.is_older:
            return "bring back a newer copy of the lakehouse; or, to publish what it has, assay run --take-over"
        named = " ".join(f"--source {source.source}" for source in self.sources)
        if self.is_empty:
            return f"assay accounts {named}      where the rows of each file went"
        return f"assay run {named}      does this"


@dataclass(frozen=True)
class _LastRelease:
    """What Postgres holds, by table; `unknown` says why that cannot be seen. `number` is the next release's.

    `documents` are the versions that go with it.
    """

    tables: dict[str, ReleasedTable]
    number: int | None = None
    unknown: str | None = None
    is_foreign: bool = False
    is_older: bool = False
    documents: dict[postgres.DocumentName, postgres.DocumentVersion] = field(default_factory=dict)


def plan_sources(run: Run, sources: Sequence[Source]) -> Plan:
    """What the next run of the sources would do. Writes nothing, and starts no Postgres.

    Raises ConfigurationError where the run would, before it reads anything.
    """
    for source in sources:
        check(run, source)
    last = _last_release(run)
    publishing = PublishPlan(last.number, last.unknown, is_foreign=last.is_foreign, is_older=last.is_older)
    plans = []
    for source in sources:
        plans.append(_plan_source(run, source))
        if not publishing.is_refused:
            _plan_publishing(run, source, {item.table: item.why for item in plans[-1].refresh}, last, publishing)
    return Plan(plans, publishing)


def _plan_source(run: Run, source: Source) -> SourcePlan:
    planned, listed = SourcePlan(source.name, ignored=arrivals.ignored(run, source)), arrivals.listing(run, source)
    before = histories.decisions(run, source)
    planned.unfinished, decided = _unfinished(run, source, before, listed)
    events = arrivals.next_batch(run, source, decided, listed)
    _sort_files(planned, events, decided)
    after = decided.followed_by(events)
    planned.vanished = [
        PlannedFile(e.source_file, e.size, "its rows stay") for e in arrivals.vanished(source, after, listed)
    ]
    changing = _plan_silver(run, source, after, planned)
    if all(table in changing or run.lake.exists(table) for table in _parsed(source)):
        for computed in (recipes.silver_recipes(source), recipes.gold_recipes(source)):
            wanted = refresh.outdated(run, source, computed, changing)
            planned.refresh += [PlannedTable(table, why) for table, why in wanted.items()]
            changing |= wanted.keys()
    return planned


def _unfinished(
    run: Run, source: Source, before: History, listed: Sequence[LandingFile]
) -> tuple[UnfinishedBatch | None, History]:
    """The batch that a crash left, if one did, and what is decided once it is finished."""
    batch_id = before.newest_planned
    if histories.finished_batch(run, source) >= batch_id:
        return None, before
    files = [event for event in before.batch(batch_id) if event.status == "loaded"]
    unread = bronze.unread_tables(run, source, files, batch_id)
    why = arrivals.CHANGED if unread else arrivals.CHANGED_MEANWHILE
    changed = arrivals.no_longer_as_planned(source, files, unread, listed, why)
    gone = {event.source_file for event in changed}
    left = [PlannedFile(e.source_file, e.size, "planned") for e in files if unread and e.source_file not in gone]
    set_aside = [PlannedFile(e.source_file, e.size, why) for e in files if e.source_file in gone]
    planned_at = run.ledger.planned_at(source.name, batch_id)
    return UnfinishedBatch(batch_id, planned_at, left, set_aside), before.followed_by(changed)


def _sort_files(planned: SourcePlan, events: Sequence[FileEvent], decided: History) -> None:
    earlier = decided.newest_versions()
    origin = {
        event.content_hash: event.source_file for event in [*events, *decided.loaded()] if event.status == "loaded"
    }
    for event in events:
        if event.status == "rejected":
            planned.set_aside.append(PlannedFile(event.source_file, max(event.size, 0), event.reason or ""))
        elif event.status == "known":
            why = event.why_known(origin[event.content_hash])
            planned.delivered_again.append(PlannedFile(event.source_file, event.size, why))
        else:
            known = earlier.get(event.source_file)
            why = f"changed since batch {known.batch_id}" if known else "new"
            if known and (event.size, event.modified_at) == (known.size, known.modified_at):
                why = f"for other raw tables than in batch {known.batch_id}"
            planned.read.append(PlannedFile(event.source_file, event.size, why))


def _parsed(source: Source) -> list[str]:
    return [silver_table(source, table) for table in source.parsed_tables]


def _plan_silver(run: Run, source: Source, after: History, planned: SourcePlan) -> set[str]:
    """Adds what silver would do once bronze is done; returns the Delta tables that it would change."""
    changing: set[str] = set()
    if request := parsing.settings_request(run, source, after):
        after = after.asked(request)
    loaded = after.loaded()
    has_bronze = {
        raw: run.lake.exists(bronze_table(source, raw))
        or any(raw in histories.tables_in(source, event) for event in loaded)
        for raw in source.raw
    }
    if not any(has_bronze.values()):
        return changing
    for table, raw in source.parsed_tables.items():
        target, reasons = silver_table(source, table), []
        done, quarantined = (of(run, source, table) for of in (scopes.done_through, scopes.quarantined_through))
        while has_bronze[raw] and (
            scope := scopes.next_scope(source, table, after, done, after.newest_planned, quarantined)
        ):
            reasons.append(_why(source, table, scope, done))
            if scope.request and (asked := _request(scope.request)) not in planned.requests:
                planned.requests.append(asked)
            done = scope.through
        if reasons:
            changing.add(quarantine_table(source, table))
        elif not run.lake.exists(target):
            reasons.append("no file yet: made without rows")
        if reasons:
            changing.add(target)
            planned.refresh.append(PlannedTable(target, "; ".join(reasons)))
    return changing


def _why(source: Source, table: str, scope: scopes.Scope, done: int) -> str:
    if scope.request:
        return _request(scope.request)
    always = source.tables[table].is_always_rebuilt
    if scope.rebuild and not always:
        return "rows that it has no longer count, or count again: made anew"
    batches = f"batch {scope.through} is" if scope.through == done + 1 else f"batches {done + 1} to {scope.through} are"
    return f"{batches} new{', and it is always made anew' if always else ''}"


def _request(request: Request) -> str:
    batches = some([str(batch) for batch in request.batches])
    rule = f", rule {request.rule}" if request.rule else ""
    if request.kind == "settings":
        return f"the settings that rows are parsed with have changed (batches {batches})"
    return f"{request.kind} {request.batch_id} was asked for (batches {batches}{rule})"


def _last_release(run: Run) -> _LastRelease:
    """What the newest release holds. Never starts the embedded Postgres; one that was never made holds nothing."""
    try:
        database = destination.running_database(run.settings)
        if database is None:
            if not embedded.exists(run.settings.database):
                return _LastRelease({}, 1)
            return _LastRelease({}, None, "the embedded Postgres is not running (assay db start)")
        with postgres.connect(database, read_only=True) as connection:
            if not postgres.has_tables(connection, *postgres.RELEASES):
                return _LastRelease({}, 1)
            number = connection.execute(
                "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('ops.releases', 'release_id')), 0) + 1"
            ).fetchone()
            is_foreign = postgres.is_of_another(connection, run.ledger.identity())
            is_older = not is_foreign and publish.is_older(run, connection)
            return _LastRelease(
                postgres.published(connection),
                number[0] if number else None,
                is_foreign=is_foreign,
                is_older=is_older,
                documents=postgres.published_documents(connection),
            )
    except AssayError as error:
        return _LastRelease({}, None, error.message)


def _plan_publishing(
    run: Run, source: Source, refreshed: dict[str, str], last: _LastRelease, planned: PublishPlan
) -> None:
    """Adds the source's published tables to the plan."""
    items = _publications(run, source, refreshed)
    # A source that was rolled back stays as it is, unless other rows come out.
    is_held_back = publish.is_held_back([_as_it_was(item, refreshed, last) for item in items], last.tables)
    is_certain = not any(item.state.table_name in refreshed for item in items)
    for item in items:
        why, name = refreshed.get(item.state.table_name), item.full_name
        is_changed = publish.is_changed(item, last.tables)
        if last.unknown:
            planned.may.append(PlannedTable(name, why or "the last release is not known"))
        elif is_held_back and (is_certain or not (why or is_changed)):
            planned.unchanged.append(name)
        elif is_held_back:
            planned.may.append(PlannedTable(name, "if rows come out other than those that were rolled back"))
        elif name not in last.tables:
            planned.will.append(PlannedTable(name, "never published"))
        elif item.definition != last.tables[name].definition:
            planned.will.append(PlannedTable(name, "its definition changed"))
        elif why:
            planned.may.append(PlannedTable(name, "if its rows come out different"))
        elif is_changed:
            planned.will.append(PlannedTable(name, "its rows are not those of the last release"))
        else:
            planned.unchanged.append(name)
    if not last.unknown:
        shown = outputs.newest(run, source)
        if is_held_back and is_certain:
            shown = outputs.shown_of(run, source, last.tables, last.documents)
        try:
            behind = outputs.files_behind(run, source, shown)
        except (OSError, Py4JJavaError) as error:
            behind, planned.files_unknown = {}, type(error).__name__
        planned.files += [file for name, file in behind.items() if gold_table(source, name) not in refreshed]


def _publications(run: Run, source: Source, refreshed: dict[str, str]) -> list[Publication]:
    """The tables that the run would consider; those that it computes anew with the columns that they will have."""
    # Also where nothing was published yet: a declaration that does not fit its transform fails the run.
    made = shapes.gold_shapes(run, source) if refreshed else {}
    states, items = run.ledger.table_states(), []
    for name, table in source.publish.items():
        path, place = gold_table(source, name), f"{SOURCES_FOLDER / source.name}.yaml, publish.{name}"
        state = states.get(path) or TableState(path)
        if path in refreshed or path in states:
            frame = made[name] if path in refreshed else run.lake.read(path)
            items.append(publication(name, table, state, frame, place))
    return items


def _as_it_was(item: Publication, refreshed: dict[str, str], last: _LastRelease) -> Publication:
    """A table that is computed anew, as if its rows came out as the last release or the rollback has them."""
    if item.state.table_name not in refreshed or item.full_name not in last.tables:
        return item
    released = last.tables[item.full_name]
    return replace(item, state=replace(item.state, checksum=released.withheld_checksum or released.checksum))


# What a person sees


def _source_lines(plan: SourcePlan) -> list[str]:
    groups = {
        "would read": plan.read,
        "would skip": plan.delivered_again,
        "would set aside": plan.set_aside,
        "vanished": plan.vanished,
    }
    lines = [line(head, _files(files)) for head, files in groups.items() if files]
    if plan.ignored:
        lines.append(line("would not read", f"{some(plan.ignored)}: not called as files of a source are"))
    if batch := plan.unfinished:
        rest = f": {_files(batch.read)}" if batch.read else ""
        found = f"batch {batch.batch_id} of {plan.source}, planned at {batch.planned_at}, never finished{rest}"
        lines.append(line("would redo", found))
        if batch.set_aside:
            lines.append(line("would set aside", _files(batch.set_aside)))
    lines += [line("would answer", f"{plan.source}: {asked}") for asked in plan.requests]
    return lines + _grouped("would refresh", [PlannedTable(dotted(t.table), t.why) for t in plan.refresh])


def _files(files: Sequence[PlannedFile]) -> str:
    shown = [f"{file.path} ({size(file.size)}, {file.why})" for file in files]
    total = f", {size(sum(file.size for file in files))} in all"
    return some(shown) + (total if len(files) > SHOWN else "")


def _grouped(head: str, tables: Collection[PlannedTable]) -> list[str]:
    """One line per reason, with all tables that have it."""
    by_reason: dict[str, list[str]] = {}
    for table in tables:
        by_reason.setdefault(table.why, []).append(table.table)
    texts = [f"{', '.join(names)}: {why}" for why, names in by_reason.items()]
    return [line(head if not number else "", text) for number, text in enumerate(texts)]


def _publish_lines(plan: PublishPlan) -> list[str]:
    if plan.is_foreign:
        return [line("would refuse", "to publish: what is published in Postgres is from another lakehouse")]
    if plan.is_older:
        return [line("would refuse", "to publish: the lakehouse is older than what was last published from it")]
    lines = []
    release = f"as release {plan.release}" if plan.release else "as the next release"
    if plan.will:
        lines.append(line("would publish", f"{len(plan.will)} tables {release}"))
        lines += _grouped("", plan.will)
    if plan.may:
        if plan.unknown:
            lines.append(line("may publish", f"{len(plan.may)} tables; {plan.unknown}"))
        else:
            lines.append(line("may publish", f"{len(plan.may)} tables {release}"))
        lines += _grouped("", plan.may)
    if plan.files:
        lines.append(line("would write", f"below the output folder: {some(plan.files)}"))
    if plan.files_unknown:
        lines.append(line("may write", f"exports and documents, which cannot be looked at ({plan.files_unknown})"))
    return lines
