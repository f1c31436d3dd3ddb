"""Silver: bronze rows parsed, checked by the rules and free of duplicates.

Only batches that silver has not seen are read, unless a file replaced in place took rows out that it has, or the table
is declared to be always rebuilt: then it is made anew from all live bronze rows.
"""

from dataclasses import dataclass, field, fields, replace
from functools import reduce

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F

from jobs.engine import rules as gate
from jobs.engine.context import Run
from jobs.engine.errors import AssayError
from jobs.engine.ledger import RowAccount
from jobs.engine.listing import dotted
from jobs.engine.local_rows import LocalRows, Rows, local_rows
from jobs.engine.sources import SilverTable, Source
from jobs.layers.bronze import bronze_rows
from jobs.layers.duplicates import comes_before, rank, repeated_keys
from jobs.layers.evaluation import dead_deliveries, evaluate, kept_columns, none_quarantined, quarantine_rows, to_stage
from jobs.layers.histories import history
from jobs.layers.parsing import see_to_settings, shape
from jobs.layers.scopes import Scope, done_through, is_quarantine_ahead, next_scope, quarantined_through, scope_of
from jobs.layers.tables import LINEAGE, bronze_table, quarantine_table, silver_table, silver_writer

_COUNTED = ("read", "dead", "valid", "quarantined", "dropped")


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


def refine(run: Run, source: Source) -> SilverReport | None:
    """Brings the parsed silver tables and their quarantines up to date with bronze; None if they are."""
    if not any(run.lake.exists(bronze_table(source, raw)) for raw in source.raw):
        return None
    has_new_ids = see_to_settings(run, source)
    reports: list[SilverReport] = []
    for table, raw in source.parsed_tables.items():
        if run.lake.exists(bronze_table(source, raw)):
            passes: list[SilverReport] = []
            while scope := scope_of(run, source, table):
                if scope.rebuild:  # it takes the place of what an earlier pass has made
                    passes.clear()
                passes.append(_refine(run, source, table, scope))
            reports += passes
        # Also where all files that bronze has rows of were set aside while they were read.
        _make_empty(run, source, table)
    return replace(reduce(SilverReport.plus, reports), has_new_ids=has_new_ids) if reports else None


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
        if next_scope(source, name, known, done[name], most, ahead) and scope_of(run, source, name)
    ]
    if behind:
        raise AssayError(
            f"silver.{source.name}.{behind[0]} has not read what other tables of the source have",
            f"let silver come to its end first: {way_out}",
        )


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
    evaluated = gate.evaluate(shape(run, source, table), [])
    for path, rows in (
        (quarantine, none_quarantined(evaluated, source.tables[table])),
        (target, kept_columns(evaluated)),
    ):
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
    checked = to_stage(evaluate(run, source, table, bronze, scope, known), declared)
    counted = checked.observe(observed, *gate.metrics(declared.rules))
    with run.lake.staged(counted, f"{source.name}.{table}") as evaluated:
        results = gate.results(table, declared.rules, observed.get)
        gate.enforce(results)
        if known is None or not scope.request or not comes_before(evaluated.where(gate.IS_VALID), known, declared.key):
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
    duplicates = repeated_keys(valid, declared.key, known).persist()
    ranked = None
    # Counted first: joined with keys of which Spark does not know how few they are, all rows would be shuffled.
    if duplicates.count():
        deliveries = _deliveries(run, source, raw, scope) if declared.keep == "newest" else None
        ranked = rank(valid, duplicates, declared, deliveries).persist()
    accounts = _accounts(source, table, bronze, evaluated, ranked, scope)

    # The silver write comes last: it marks the batches as done. After a crash before it, all of this is repeated
    # to the same effect; and what is in quarantine already, perhaps by other rules, is replaced.
    report, quarantined = _report(accounts, results), quarantine_rows(held_back, declared)
    to_quarantine: Rows = quarantined if report.rows_quarantined else LocalRows([], quarantined.schema)
    if not is_quarantine_ahead(run, source, table):
        _write(run, to_quarantine, quarantine, writer, scope)
    elif scope.rebuild:
        run.lake.overwrite(to_quarantine, quarantine)
    else:
        run.lake.replace(to_quarantine, quarantine, scope.where)
    run.ledger.record_accounts(_news(run, source, table, accounts))
    _write(run, _kept(valid, duplicates, ranked, declared.key), target, writer, scope)
    for frame in (ranked, duplicates):
        if frame is not None:
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


def _write(run: Run, rows: Rows, table: str, writer: str, scope: Scope) -> None:
    if scope.request and not scope.rebuild:
        run.lake.replace_once(rows, table, scope.where, writer, scope.through)
    elif scope.rebuild:
        run.lake.overwrite_once(rows, table, writer, scope.through)
    else:
        run.lake.append_once(rows, table, writer, scope.through)


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


def _kept(valid: DataFrame, duplicates: DataFrame, ranked: DataFrame | None, key: list[str]) -> DataFrame:
    """One row per key, with the silver table's columns and the lineage. `ranked`: those of `duplicates`, if any are."""
    if ranked is None:
        return kept_columns(valid)
    single = valid.join(duplicates, key, "left_anti")
    kept = ranked.where("_keep").select(*single.columns)
    return kept_columns(single.unionByName(kept))


def _accounts(
    source: Source, table: str, bronze: DataFrame, evaluated: DataFrame, ranked: DataFrame | None, scope: Scope
) -> list[RowAccount]:
    """One per batch and file: what became of each bronze row.

    Read, checked and dropped rows are counted apart: a transform that loses or multiplies rows does not balance.
    """
    read = bronze.select(*LINEAGE, F.lit(1).alias("read"))
    if scope.dead:
        read = read.join(
            F.broadcast(dead_deliveries(bronze, scope).withColumn("dead", F.lit(1))), list(LINEAGE), "left"
        )
    is_valid, is_bad = _one_if(gate.IS_VALID), _one_if(gate.IS_BAD)
    checked = evaluated.select(*LINEAGE, is_valid.alias("valid"), is_bad.alias("quarantined"))
    # One aggregation over a union, not one over each: every shuffle costs a small run as much as its rows do.
    counted = read.unionByName(checked, True)
    if ranked is not None:
        counted = counted.unionByName(ranked.select(*LINEAGE, _one_if("not _keep").alias("dropped")), True)
    numbers = [F.sum(name) if name in counted.columns else F.lit(0) for name in _COUNTED]
    sums = counted.groupBy(*LINEAGE).agg(*[F.coalesce(number, F.lit(0)) for number in numbers])
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


def _one_if(condition: str) -> Column:
    return F.expr(condition).cast("int")


def _report(accounts: list[RowAccount], results: list[gate.RuleResult]) -> SilverReport:
    names = ("rows_read", "rows_written", "rows_quarantined", "rows_deduplicated", "rows_superseded")
    return SilverReport(**{name: sum(getattr(account, name) for account in accounts) for name in names}, rules=results)
