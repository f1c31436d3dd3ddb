"""Silver: bronze rows parsed, checked by the rules and free of duplicates. `spark-submit jobs/silver.py --source S`.

Only batches that silver has not seen are read, unless a file replaced in place took rows out that it has, or the table
is declared to be always rebuilt: then it is made anew from all live bronze rows.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Observation, Window
from pyspark.sql import functions as F

from jobs.bronze import bronze_rows, bronze_table, finished_batch, history, of_raw_table
from jobs.engine import id_secret
from jobs.engine import rules as gate
from jobs.engine.batches import History, Request
from jobs.engine.context import Run
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.faults import explained
from jobs.engine.ledger import RowAccount, TableState
from jobs.engine.listing import dotted
from jobs.engine.local_rows import LocalRows, Rows, hidden, local_rows, no_rows
from jobs.engine.readers import ARRIVAL, BRONZE_OF_LINES
from jobs.engine.sources import SOURCES_FOLDER, SilverTable, Source, Transform, input_names, mistake

LINEAGE = ("_source_file", "_batch_id")
_QUARANTINED = ("_source_file", "_row_hash", "_batch_id", "_ingested_at", "_rescued")
_HELD_FOR = "_held_for"
ROW = ("_batch_id", "_source_file", "_row_hash")


@dataclass
class SilverReport:
    """What silver did for one source: rows by fate, and how many rows each rule found."""

    rows_read: int = 0
    rows_written: int = 0
    rows_quarantined: int = 0
    rows_deduplicated: int = 0
    rows_superseded: int = 0
    rules: list[gate.RuleResult] = field(default_factory=list)
    has_new_ids: bool = False
    """Whether the secret of the source's ids was gone, so that records that had one have got another."""

    def plus(self, other: "SilverReport") -> "SilverReport":
        """Both together; of a rule that both looked at, what it found in all."""
        counts = {
            f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name.startswith("rows_")
        }
        rules: dict[tuple[str, str], gate.RuleResult] = {}
        for found in (*self.rules, *other.rules):
            before = rules.get(key := (found.table, found.rule.name))
            counted = (before.violations, before.rows) if before else (0, 0)
            rules[key] = replace(found, violations=counted[0] + found.violations, rows=counted[1] + found.rows)
        return SilverReport(**counts, rules=list(rules.values()))


@dataclass(frozen=True)
class Scope:
    """Which bronze rows one pass of silver takes: batches `after` < b <= `through`; less those of `dead` deliveries.

    With `rebuild` they take the place of all rows of the table; with a `request`, of the rows of its batches.
    """

    after: int
    through: int
    rebuild: bool
    dead: frozenset[tuple[int, str]]
    request: Request | None = None

    @property
    def where(self) -> str:
        """SQL: whether a row is of the batches that this pass takes."""
        if self.request and not self.rebuild:
            return f"_batch_id IN ({', '.join(map(str, self.request.batches))})"
        return f"_batch_id > {self.after} AND _batch_id <= {self.through}"

    def covers(self) -> Column:
        """The same as a column."""
        return F.expr(self.where)


def silver_table(source: Source, table: str) -> str:
    return f"silver/{source.name}/{table}"


def quarantine_table(source: Source, table: str) -> str:
    return f"quarantine/{source.name}/{table}"


def check(run: Run, source: Source) -> None:
    """Raises ConfigurationError if a rule cannot be evaluated, or a parsed table lacks a column; reads no data."""
    ordered = _in_order(source)
    last = max((number for number, table in enumerate(ordered) if source.tables[table].rules), default=-1)
    for table, rows, tables in islice(_shapes(run, source), max(last + 1, len(source.parsed_tables))):
        gate.check_expressions(source.name, table, rows, source.tables[table].rules, tables)


def shapes(run: Run, source: Source) -> dict[str, DataFrame]:
    """Every silver table without rows, as the present code makes it; with `quarantined`, if one table is parsed."""
    *_, (_, _, tables) = _shapes(run, source)
    return tables


def _shapes(run: Run, source: Source) -> Iterator[tuple[str, DataFrame, dict[str, DataFrame]]]:
    """Each silver table, in order: as it is made, with what its rules look at; and all so far, without rows."""
    tables: dict[str, DataFrame] = {}
    for table in _in_order(source):
        if table in source.parsed_tables:
            rows = _shape(run, source, table)
            _verify_columns(source, table, rows)
            evaluated = gate.evaluate(rows, [])
            made = {**_quarantined_shape(source, table, evaluated), table: _columns(evaluated)}
        else:
            rows = call(source.silver_transform(table), tables, source)
            made = {table: rows}
        # The columns alone: a plan that grows from table to table would take seconds to analyse.
        tables |= {name: no_rows(run.spark, frame.schema) for name, frame in made.items()}
        yield table, rows, tables


def _in_order(source: Source) -> list[str]:
    """The silver tables: first those that are parsed, then each after those that it is computed from or refers to."""
    derived = source.derived_tables
    named = {t: {*input_names(source.silver_transform(t)), *source.tables[t].referenced} for t in derived}
    inputs = {table: [name for name in derived if name in names] for table, names in named.items()}
    try:
        return [*source.parsed_tables, *TopologicalSorter(inputs).static_order()]
    except CycleError as error:
        tables = ", ".join(sorted(set(error.args[1])))
        place = f"{SOURCES_FOLDER / source.name}.yaml, tables"
        raise ConfigurationError(f"{place}: these are computed from each other: {tables}") from None


def _quarantined_shape(source: Source, table: str, evaluated: DataFrame) -> dict[str, DataFrame]:
    """`quarantined`, if this is the only parsed table; `evaluated` has no rows."""
    is_alone = len(source.parsed_tables) == 1
    return {"quarantined": _none_quarantined(evaluated, source.tables[table])} if is_alone else {}


def _verify_columns(source: Source, table: str, rows: DataFrame) -> None:
    """Raises ConfigurationError if parsed rows lack a column that the engine needs, or that their declaration names."""
    declared = source.tables[table]
    code = f"transforms/{source.name}.py, {declared.transform or table}"
    if lacking := [name for name in (*_QUARANTINED, "_raw") if name not in rows.columns]:
        raise ConfigurationError(
            f"{code}: returns no column {lacking[0]!r}",
            "a function that parses raw rows keeps all columns of `raw` that begin with _",
        )
    for key, names in {"key": declared.key, "order_by": declared.order_by}.items():
        if unknown := [name for name in names if name not in rows.columns]:
            own = ", ".join(name for name in rows.columns if not name.startswith("_"))
            place = f"{SOURCES_FOLDER / source.name}.yaml, tables.{table}.{key}"
            raise ConfigurationError(f"{place}: {unknown[0]!r} is not among the columns of {code} ({own})")


def refine(run: Run, source: Source) -> SilverReport | None:
    """Brings the parsed silver tables and their quarantines up to date with bronze; None if they are."""
    if not any(run.lake.exists(bronze_table(source, raw)) for raw in source.raw):
        return None
    has_new_ids = _see_to_settings(run, source)
    reports: list[SilverReport] = []
    for table, raw in source.parsed_tables.items():
        if run.lake.exists(bronze_table(source, raw)):
            passes: list[SilverReport] = []
            while scope := _scope(run, source, table):
                if scope.rebuild:  # it takes the place of what an earlier pass has made
                    passes.clear()
                passes.append(_refine(run, source, table, scope))
            reports += passes
        # Also where all files that bronze has rows of were set aside while they were read.
        _make_empty(run, source, table)
    return replace(reduce(SilverReport.plus, reports), has_new_ids=has_new_ids) if reports else None


def _see_to_settings(run: Run, source: Source) -> bool:
    """Has all rows parsed anew if they were with other settings than the present ones; makes a secret where none is.

    Otherwise old rows would be in one time zone and new ones in another, or have two ids, and count twice. What is to
    be done is written down before what has been seen, for a crash in between. Returns whether it is another secret than
    rows have ids of.
    """
    with_ids = [table for table in source.parsed_tables if _needs_secret(source, table)]
    is_new = bool(with_ids) and id_secret.find(run.lake, source.name) is None
    has_new_ids = is_new and any(done_through(run, source, table) for table in with_ids)
    if has_new_ids:  # at once, for a run that fails later
        run.steps.warn(f"{source.name}: the secret of its ids is gone: all records get new ones")
    if is_new:
        id_secret.make(run.lake, source.name)
        run.lake.sync()
    otherwise = _parsed_otherwise(run, source)
    if request := _all_anew(run, source, otherwise, run.ledger.history(source.name)):
        run.ledger.ask(source.name, request.kind, request.batches)
    run.ledger.record_table_states(otherwise)
    return has_new_ids


def settings_request(run: Run, source: Source, history: History) -> Request | None:
    """What is to be asked for if rows were parsed with other settings than the present ones; None if none were."""
    return _all_anew(run, source, _parsed_otherwise(run, source), history)


def _all_anew(run: Run, source: Source, otherwise: list[TableState], history: History) -> Request | None:
    """That all batches are parsed anew; None if no table that was parsed `otherwise` has done any.

    One that has done none, such as one that is declared since, is no reason; nor is an upgrade by itself.
    """
    names = {state.table_name for state in otherwise}
    is_due = any(
        silver_table(source, table) in names
        and done_through(run, source, table)
        and not _is_as_once_recorded(run, source, table)
        for table in source.parsed_tables
    )
    batches = {event.batch_id for event in history.loaded()}
    return Request(history.newest_batch + 1, "settings", tuple(sorted(batches))) if is_due and batches else None


def verify_all_parsed(run: Run, source: Source) -> None:
    """Raises AssayError if silver is half made: rows of a table, or tables of the source, are parsed anew, others not.

    So it is if a run was cut short, or failed, and gold is asked for alone.
    """
    # Those of no file yet have nothing to read, not even for a request.
    tables = [table for table, raw in source.parsed_tables.items() if run.lake.exists(bronze_table(source, raw))]
    done = {table: done_through(run, source, table) for table in tables}
    requests, way_out = run.ledger.history(source.name).requests, f"assay run --source {source.name}"
    newest = max((request.batch_id for request in requests if request.kind == "settings"), default=0)
    for table in tables:
        if done[table] < newest:
            raise AssayError(
                f"silver.{source.name}.{table}: rows are to be parsed anew, as settings were changed, and are not yet",
                f"let silver come to its end first: {way_out}",
            )
    # All may be behind bronze, as far as each other: what the one that is ahead has read, the others have to have read.
    most = max(done.values(), default=0)
    known = run.ledger.history(source.name).until(most)
    quarantined = {table: quarantined_through(run, source, table) for table in tables if done[table] < most}
    behind = [
        name
        for name, ahead in quarantined.items()
        # What has been taken back since is nothing to do, and leaves both right.
        if next_scope(source, name, known, done[name], most, ahead) and _scope(run, source, name)
    ]
    if behind:
        raise AssayError(
            f"silver.{source.name}.{behind[0]} has not read what other tables of the source have",
            f"let silver come to its end first: {way_out}",
        )


def _parsed_otherwise(run: Run, source: Source) -> list[TableState]:
    """The states of those parsed tables of which another one is recorded: of settings and secret, by fingerprint."""
    now = {table: _settings_of(run, source, table) for table in source.parsed_tables}
    return [
        TableState(silver_table(source, table), logic=fingerprint)
        for table, fingerprint in now.items()
        if fingerprint != _recorded_settings(run, source, table)
    ]


def _is_as_once_recorded(run: Run, source: Source, table: str) -> bool:
    """Whether an earlier Assay has recorded the present settings of a table: it did not record which rows stay."""
    return _recorded_settings(run, source, table) == _fingerprint(_named_settings(run, source, table))


def _recorded_settings(run: Run, source: Source, table: str) -> str:
    """Empty if none are."""
    state = run.ledger.table_states().get(silver_table(source, table))
    return state.logic if state else ""


def _settings_of(run: Run, source: Source, table: str) -> str:
    """A fingerprint of what a table is parsed with, beside bronze and code, and of which of its rows stay."""
    declared = source.tables[table]
    which_stay = {name: getattr(declared, name) for name in ("key", "keep", "order_by", "rebuild")}
    which_stay["full_extract"] = source.raw[source.parsed_tables[table]].full_extract
    return _fingerprint([_named_settings(run, source, table), which_stay])


def _named_settings(run: Run, source: Source, table: str) -> dict[str, Any]:
    """What a table's transform names beside tables, and is given."""
    named, settings = input_names(source.silver_transform(table)), source.settings()
    found = {name: settings[name] for name in named if name in settings}
    if _needs_secret(source, table) and (secret := id_secret.find(run.lake, source.name)):
        found[id_secret.PARAMETER] = secret
    return found


def _fingerprint(settings: object) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16] if settings else ""


def _make_empty(run: Run, source: Source, table: str) -> None:
    """To other tables of the source, which are computed from it too, it is there, and its quarantine, without rows.

    Raises AssayError if quarantine had rows: somebody has removed them.
    """
    target, quarantine = silver_table(source, table), quarantine_table(source, table)
    if run.lake.exists(target) and run.lake.exists(quarantine):
        return
    held = sum(account.rows_quarantined for account in run.ledger.accounts_of(source.name, "silver", table))
    if held and not run.lake.exists(quarantine):
        raise AssayError(
            f"{dotted(quarantine)} is not there any longer, and {held:,} rows were held back in it",
            "restore its folder; or have all rows refined anew: assay run --source "
            f"{source.name} --from <the day the first of them was read>",
        )
    evaluated = gate.evaluate(_shape(run, source, table), [])
    for path, rows in (quarantine, _none_quarantined(evaluated, source.tables[table])), (target, _columns(evaluated)):
        if not run.lake.exists(path):
            run.lake.overwrite(LocalRows([], rows.schema), path)


def _refine(run: Run, source: Source, table: str, scope: Scope) -> SilverReport:
    """One pass: reads, checks and writes the rows of the scope."""
    declared, target = source.tables[table], silver_table(source, table)
    bronze = bronze_rows(run, source, source.parsed_tables[table]).where(scope.covers())
    known = None if scope.rebuild or not run.lake.exists(target) else _known(run, target, declared)
    if known is not None and scope.request:
        known = known.where(~scope.covers())
    observed = Observation()
    checked = _to_stage(_evaluated(run, source, table, bronze, scope, known), declared)
    counted = checked.observe(observed, *gate.metrics(declared.rules))
    with run.lake.staged(counted, f"{source.name}.{table}") as evaluated:
        results = gate.results(table, declared.rules, observed.get)
        gate.enforce(results)
        if known is None or not scope.request or not _comes_before(evaluated.where(gate.IS_VALID), known, declared.key):
            return _write_checked(run, source, table, scope, bronze, evaluated, known, results)
    # Of one key, the row of the earliest delivery stays, also if it passes only now.
    return _refine(run, source, table, replace(scope, after=0, rebuild=True))


def _write_checked(
    run: Run,
    source: Source,
    table: str,
    scope: Scope,
    bronze: DataFrame,
    evaluated: DataFrame,
    known: DataFrame | None,
    results: list[gate.RuleResult],
) -> SilverReport:
    """Writes rows that were checked, and what became of them. `known`: the rows that stay beside them."""
    declared, raw = source.tables[table], source.parsed_tables[table]
    target, quarantine = silver_table(source, table), quarantine_table(source, table)
    writer = silver_writer(source, table)
    valid, held_back = evaluated.where(gate.IS_VALID), evaluated.where(gate.IS_BAD)
    duplicates = _duplicates(valid, declared.key, known).persist()
    deliveries = _deliveries(run, source, raw, scope) if declared.keep == "newest" else None
    ranked = _ranked(valid, duplicates, declared, deliveries).persist()
    accounts = _accounts(source, table, bronze, evaluated, ranked, scope)

    # The silver write comes last: it marks the batches as done. After a crash before it, all of this is repeated
    # to the same effect; and what is in quarantine already, perhaps by other rules, is replaced.
    report, quarantined = _report(accounts, results), _quarantined(held_back, declared)
    to_quarantine: Rows = quarantined if report.rows_quarantined else LocalRows([], quarantined.schema)
    if not _is_quarantine_ahead(run, source, table):
        _write(run, to_quarantine, quarantine, writer, scope)
    elif scope.rebuild:
        run.lake.overwrite(to_quarantine, quarantine)
    else:
        run.lake.replace(to_quarantine, quarantine, scope.where)
    run.ledger.record_accounts(_news(run, source, table, accounts))
    _write(run, _kept(report, valid, duplicates, ranked, declared.key), target, writer, scope)
    for frame in (ranked, duplicates):
        frame.unpersist()
    return report


def _known(run: Run, target: str, declared: SilverTable) -> DataFrame:
    """The rows of a table so far. Raises AssayError if it lacks a column of its key, so that none of them has one."""
    rows = run.lake.read(target)
    if lacking := [name for name in declared.key if name not in rows.columns]:
        raise AssayError(
            f"{dotted(target)} does not have the column {lacking[0]!r}, which is in its key now",
            f"remove the folder {target} of the lakehouse, and the next run makes it anew from bronze",
        )
    return rows


def _is_quarantine_ahead(run: Run, source: Source, table: str) -> bool:
    """Whether a crash came between the two writes of a pass."""
    return quarantined_through(run, source, table) > done_through(run, source, table)


def evaluated_now(run: Run, source: Source, table: str, asked: DataFrame) -> DataFrame:
    """Bronze rows as the present parser and rules see them; nothing is written. `asked` names them by ROW."""
    raw, target = source.parsed_tables[table], silver_table(source, table)
    finished = finished_batch(run, source)
    scope = Scope(0, finished, True, frozenset(history(run, source, raw).through(finished).dead()))
    bronze = bronze_rows(run, source, raw).where(scope.covers())
    if not source.tables[table].is_always_rebuilt:  # no other rows are needed to read these
        bronze = bronze.join(F.broadcast(asked), list(ROW), "left_semi")
    known = run.lake.read(target) if run.lake.exists(target) else None
    return _evaluated(run, source, table, bronze, scope, known).join(F.broadcast(asked), list(ROW), "left_semi")


def silver_writer(source: Source, table: str) -> str:
    return f"silver:{source.name}/{table}"


def _write(run: Run, rows: Rows, table: str, writer: str, scope: Scope) -> None:
    if scope.request and not scope.rebuild:
        run.lake.replace_once(rows, table, scope.where, writer, scope.through)
    elif scope.rebuild:
        run.lake.overwrite_once(rows, table, writer, scope.through)
    else:
        run.lake.append_once(rows, table, writer, scope.through)


def _evaluated(
    run: Run, source: Source, table: str, bronze: DataFrame, scope: Scope, known: DataFrame | None
) -> DataFrame:
    """The live rows, parsed, with what the rules found.

    In a replay, rows that were held back for other reasons than those asked for stay as they are, with these reasons in
    `_held_for` (NULL for all others), and so do valid ones; unless all rows of the table are judged anew.
    """
    declared = source.tables[table]
    tables = {name: run.lake.read(silver_table(source, name)) for name in declared.referenced}
    parsed = _parsed(run, source, table, _live(bronze, scope))
    parsed = gate.answered(parsed, declared.rules, declared.key, known, tables)
    evaluated = gate.evaluate(parsed, declared.rules).withColumn(_HELD_FOR, gate.no_reasons())
    is_replay = scope.request is not None and scope.request.kind == "replay" and not scope.rebuild
    quarantine = quarantine_table(source, table)
    if not is_replay or not run.lake.exists(quarantine):
        return evaluated
    held = run.lake.read(quarantine).where(scope.covers())
    rule = scope.request.rule if scope.request else None
    stays = ~gate.is_held_by(rule) & (F.size("reasons") > 0)
    kept = F.max(F.when(stays, F.col("reasons"))).alias(_HELD_FOR)
    held = held.groupBy(*ROW).agg(kept, F.lit(True).alias("_was_held"))
    # After a crash, quarantine would not tell whether a row was in it; but then the table is made anew (next_scope).
    is_valid_before = F.col("_was_held").isNull()
    violations = (
        F.when(is_valid_before, F.array().cast("array<string>"))
        .when(F.col(_HELD_FOR).isNotNull(), F.transform(_HELD_FOR, lambda reason: reason["rule"]))
        .otherwise(F.col(gate.VIOLATIONS))
    )
    joined = evaluated.drop(_HELD_FOR).join(held, list(ROW), "left")
    return joined.withColumn(gate.VIOLATIONS, violations).select(*evaluated.columns)


def _to_stage(evaluated: DataFrame, declared: SilverTable) -> DataFrame:
    """What the steps after the rules need: of a valid row neither raw text, which is most of it, nor helper columns."""
    always = {*LINEAGE, "_row_hash", gate.VIOLATIONS, *declared.order_by}
    held_back = [
        c for c in evaluated.columns if c not in always and (c in (*_QUARANTINED, _HELD_FOR) or c.startswith("_raw"))
    ]
    kept = [c for c in evaluated.columns if c in always or not c.startswith("_")]
    return evaluated.select(*kept, *[F.when(F.expr(gate.IS_BAD), F.col(c)).alias(c) for c in held_back])


def _scope(run: Run, source: Source, table: str) -> Scope | None:
    """What silver has to do next for a table; None if nothing."""
    history, done = run.ledger.history(source.name), done_through(run, source, table)
    # Where nothing came, quarantine is not looked at: most runs find no news.
    quarantined = quarantined_through(run, source, table) if history.newest_batch > done else done
    return next_scope(source, table, history, done, finished_batch(run, source), quarantined)


def done_through(run: Run, source: Source, table: str) -> int:
    """The newest batch or request that a table has."""
    return run.lake.written_through(silver_table(source, table), silver_writer(source, table))


def quarantined_through(run: Run, source: Source, table: str) -> int:
    """The newest batch or request that a table's quarantine has; after a crash, one that the table lacks."""
    return run.lake.written_through(quarantine_table(source, table), silver_writer(source, table))


def next_scope(
    source: Source, table: str, history: History, done: int, finished: int, quarantined: int = 0
) -> Scope | None:
    """What is next for a table that has all up to batch `done`, when bronze has all up to batch `finished`.

    Its quarantine has all up to `quarantined`.
    """
    declared = source.tables[table]
    # What is planned and not read yet, or is set aside in the end, takes no rows out.
    decided = of_raw_table(history, source, source.parsed_tables[table]).through(finished)
    request = decided.next_request(done)
    if request and finished < min(request.batch_id - 1, history.newest_planned):
        request = None  # a batch before it is not in bronze yet
    # A row may come before the one that it refers to, or lose it.
    referred = [of_raw_table(history, source, source.parsed_tables[t]).through(finished) for t in declared.referenced]
    through = request.batch_id - 1 if request else max(each.newest_planned for each in (decided, *referred))
    if request and decided.changes_what_was_read(request.batch_id):
        # Of its rows, some were taken out or brought back since. One pass for all of it, under the newest number: one
        # under an older number that foresaw this would leave nothing by which to notice that it was undone again.
        return Scope(0, decided.newest_planned, True, frozenset(decided.dead()))
    is_outdated = decided.changes_what_was_read(done)
    is_outdated |= any(other.loaded(done) or other.changes_what_was_read(done) for other in referred)
    if quarantined > done:
        # A pass that a crash cut short may have made quarantine anew for what has been taken back since: that of what
        # was done, or of what a request is about.
        earlier = [decided.through(batch) for batch in range(done + 1, decided.newest_planned)]
        numbers = [done, *[asked.batch_id for asked in decided.requests if asked.batch_id > done]]
        is_outdated |= any(before.changes_what_was_read(number) for before in earlier for number in numbers)
        # One for a request may have made it anew as a row came before its copy, or have let rows out of it whose copies
        # in other batches count as duplicates; one that goes by another table, have judged by what that had then.
        is_outdated |= any(done < asked.batch_id <= quarantined for asked in decided.requests) or bool(referred)
    # Where the newest file wins, one that is delivered again may turn out to be older than it seemed.
    news = {e.batch_id for e in (decided.accepted(done) if declared.keep == "newest" else decided.loaded(done))}
    if request:  # after it, nothing would account for the rows of a file that was set aside while it was read
        news |= {batch for batch, _ in decided.dead(done)}
    if request and request.kind == "settings":  # with what is new: perhaps by a key that the table does not have yet
        return Scope(0, request.batch_id, True, frozenset(decided.dead()), request)
    if through > done and (is_outdated or any(batch <= through for batch in news)):
        rebuild = declared.is_always_rebuilt or is_outdated
        after = 0 if rebuild else done
        return Scope(after, through, rebuild, frozenset(decided.dead(after)))
    if request:
        # Rows that depend on each other are all checked anew, as they are whenever a file arrives.
        rebuild = declared.is_always_rebuilt or is_outdated or bool(referred)
        return Scope(0, request.batch_id, rebuild, frozenset(decided.dead()), request)
    return None


def _empty_bronze(run: Run, source: Source, table: str) -> DataFrame:
    """A bronze table without rows."""
    raw = source.raw[source.parsed_tables[table]]
    own = ["_is_malformed BOOLEAN", *[f"`{name}` STRING" for name in raw.columns]] if raw.format == "csv" else []
    own += [ARRIVAL] if raw.arrival_order else []
    return no_rows(run.spark, ", ".join([BRONZE_OF_LINES, *own]))


def _quarantined(held_back: DataFrame, declared: SilverTable) -> DataFrame:
    """One row per row held back: as it came, with all reasons."""
    raw = [name for name in held_back.columns if name.startswith("_raw")]
    reasons = F.coalesce(_HELD_FOR, gate.reasons(declared.rules))
    return held_back.select(*_QUARANTINED, *raw, reasons.alias("reasons"))


def _none_quarantined(evaluated: DataFrame, declared: SilverTable) -> DataFrame:
    """The columns of quarantine; `evaluated` has no rows."""
    return _quarantined(evaluated.withColumn(_HELD_FOR, gate.no_reasons()), declared)


def _news(run: Run, source: Source, table: str, accounts: list[RowAccount]) -> list[RowAccount]:
    """The accounts that are not recorded yet, or have changed by a rebuild."""
    batches = {account.batch_id for account in accounts}
    if not any(run.ledger.is_accounted(source.name, "silver", table, batch) for batch in batches):
        return accounts
    recorded = run.ledger.accounts_of(source.name, "silver", table)
    return [account for account in accounts if account not in recorded]


def _deliveries(run: Run, source: Source, raw: str, scope: Scope) -> DataFrame:
    """One row per delivery of the scope's time: when its content was first delivered, as (modification time, batch)."""
    decided = history(run, source, raw).through(scope.through)
    rows = [
        {"_batch_id": batch, "_source_file": file, "_time": time, "_delivery": delivery}
        for (batch, file), (time, delivery) in decided.first_delivered().items()
    ]
    return local_rows(run.spark, rows, "_batch_id BIGINT, _source_file STRING, _time BIGINT, _delivery BIGINT")


def _parsed(run: Run, source: Source, table: str, bronze: DataFrame) -> DataFrame:
    needs_secret = _needs_secret(source, table)
    secret = hidden(run.spark, id_secret.read(run.lake, source.name)) if needs_secret else F.lit("")
    return _parse(source, table, bronze, secret)


def _shape(run: Run, source: Source, table: str) -> DataFrame:
    """What parsing bronze makes, without rows."""
    return _parse(source, table, _empty_bronze(run, source, table), F.lit(""))


def _parse(source: Source, table: str, bronze: DataFrame, secret: Column) -> DataFrame:
    return call(source.silver_transform(table), {"raw": bronze}, source, {id_secret.PARAMETER: secret})


def _needs_secret(source: Source, table: str) -> bool:
    return id_secret.PARAMETER in input_names(source.silver_transform(table))


def call(
    function: Transform, tables: Mapping[str, DataFrame], source: Source, others: Mapping[str, object] | None = None
) -> DataFrame:
    """Calls a transform with what its parameters name: tables, settings of the source, or `others`.

    Raises ConfigurationError for a name that is neither, for a setting that the transform refuses (a ValueError), and
    for a mistake in its code.
    """
    available = {**source.settings(), **(others or {}), **tables}
    settings = f"{SOURCES_FOLDER / source.name}.yaml, parameters"
    names, code = input_names(function), f"transforms/{source.name}.py, {getattr(function, '__name__', function)}"
    if unknown := [name for name in names if name not in available]:
        where = f"{code}: no table or parameter is called {unknown[0]!r}"
        raise ConfigurationError(where, f"there are: {', '.join(sorted(available))}; parameters are set in {settings}")
    try:
        rows = function(*[available[name] for name in names])
    except (OSError, Py4JError):  # of Java, not of the code
        raise
    except Exception as error:
        if isinstance(error, ValueError) and not isinstance(error, PySparkException):
            raise ConfigurationError(f"{settings}: {error}") from None
        if explained(error):
            raise
        raise ConfigurationError(mistake(error, code)) from error
    if not isinstance(rows, DataFrame):
        raise ConfigurationError(f"{code}: returns {type(rows).__name__}, and a DataFrame is expected")
    return rows


def _live(bronze: DataFrame, scope: Scope) -> DataFrame:
    return bronze.join(F.broadcast(_dead(bronze, scope)), list(LINEAGE), "left_anti") if scope.dead else bronze


def _dead(bronze: DataFrame, scope: Scope) -> DataFrame:
    rows = [{"_batch_id": batch, "_source_file": file} for batch, file in sorted(scope.dead)]
    return local_rows(bronze.sparkSession, rows, "_batch_id BIGINT, _source_file STRING")


def _duplicates(valid: DataFrame, key: list[str], known: DataFrame | None) -> DataFrame:
    """One row per key that occurs more than once or is in `known` already, with `_is_known`.

    Few rows are duplicates: finding their keys and treating those apart is far cheaper than shuffling whole rows.
    """
    repeated = valid.groupBy(*key).count().where("count > 1").select(*key, F.lit(False).alias("_is_known"))
    if known is None:
        return repeated
    there = known.join(valid.select(*key), key, "left_semi").select(*key, F.lit(True).alias("_is_known"))
    return repeated.unionByName(there).groupBy(*key).agg(F.max("_is_known").alias("_is_known"))


def _comes_before(valid: DataFrame, known: DataFrame, key: list[str]) -> bool:
    """Whether a row came in an earlier batch than the one that is `known` by its key."""
    there = known.select(*key, F.col("_batch_id").alias("_known_in"))
    return not valid.select(*key, "_batch_id").join(there, key).where("_batch_id < _known_in").isEmpty()


def _ranked(valid: DataFrame, duplicates: DataFrame, declared: SilverTable, deliveries: DataFrame | None) -> DataFrame:
    """The rows whose key is among `duplicates`, with `_keep`: whether the row stays.

    None does whose key is known already. Of a new key it is the earliest delivery's; with `deliveries`, that of the
    newest file.
    """
    rows = valid.join(duplicates, declared.key, "inner")
    if deliveries is not None:
        rows = rows.join(F.broadcast(deliveries), list(LINEAGE), "left")
        best_first = [
            F.col(name).desc_nulls_last() for name in ("_time", "_delivery", "_source_file", *declared.order_by)
        ]
    else:
        best_first = [F.col(name).asc_nulls_last() for name in ("_batch_id", *declared.order_by, "_source_file")]
    order = Window.partitionBy(*declared.key).orderBy(*best_first, F.col("_row_hash").asc_nulls_last())
    return rows.withColumn("_keep", (F.row_number().over(order) == 1) & ~F.col("_is_known"))


def _kept(
    report: SilverReport, valid: DataFrame, duplicates: DataFrame, ranked: DataFrame, key: list[str]
) -> DataFrame:
    """One row per key, with the silver table's columns and the lineage."""
    if not report.rows_deduplicated + report.rows_superseded:
        return _columns(valid)
    single = valid.join(duplicates, key, "left_anti")
    kept = ranked.where("_keep").select(*single.columns)
    return _columns(single.unionByName(kept))


def _columns(rows: DataFrame) -> DataFrame:
    """What a silver table keeps of parsed rows."""
    return rows.select(*LINEAGE, *[name for name in rows.columns if not name.startswith("_")])


def _accounts(
    source: Source, table: str, bronze: DataFrame, evaluated: DataFrame, ranked: DataFrame, scope: Scope
) -> list[RowAccount]:
    """One per batch and file: what became of each bronze row.

    Read, checked and dropped rows are counted apart: a transform that loses or multiplies rows does not balance.
    """
    read = bronze.select(*LINEAGE, F.lit(1).alias("read"))
    if scope.dead:
        read = read.join(F.broadcast(_dead(bronze, scope).withColumn("dead", F.lit(1))), list(LINEAGE), "left")
    is_valid, is_bad = _one_if(gate.IS_VALID), _one_if(gate.IS_BAD)
    checked = evaluated.select(*LINEAGE, is_valid.alias("valid"), is_bad.alias("quarantined"))
    ranks = ranked.select(*LINEAGE, _one_if("not _keep").alias("dropped"), F.lit(None).cast("int").alias("dead"))
    # One aggregation over a union, not one over each: every shuffle costs a small run as much as its rows do.
    counted = read.unionByName(checked, True).unionByName(ranks, True).groupBy(*LINEAGE)
    sums = counted.agg(*[F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in _COUNTED])
    is_superseding = source.tables[table].keep == "newest"
    accounts = []
    for file, batch, rows, not_live, valid, quarantined, dropped in sums.collect():
        deduplicated, superseded = (0, not_live + dropped) if is_superseding else (dropped, not_live)
        accounts.append(
            RowAccount(
                source=source.name,
                layer="silver",
                table_name=table,
                source_file=file,
                rows_read=rows,
                rows_written=valid - dropped,
                rows_quarantined=quarantined,
                rows_deduplicated=deduplicated,
                rows_superseded=superseded,
                batch_id=batch,
            )
        )
    return accounts


_COUNTED = ("read", "dead", "valid", "quarantined", "dropped")


def _one_if(condition: str) -> Column:
    return F.expr(condition).cast("int")


def _report(accounts: list[RowAccount], results: list[gate.RuleResult]) -> SilverReport:
    names = ("rows_read", "rows_written", "rows_quarantined", "rows_deduplicated", "rows_superseded")
    return SilverReport(**{name: sum(getattr(account, name) for account in accounts) for name in names}, rules=results)


if __name__ == "__main__":
    from jobs.cli import run_layer

    run_layer("silver")
