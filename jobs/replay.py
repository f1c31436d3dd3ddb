"""Rows of earlier batches sent through silver once more: quarantined ones, or all that were ingested on some days.

What is asked for is written down first, with a number in the order of batches; the run that follows, or after a crash
the next one, does it once.
"""

from dataclasses import asdict, dataclass, field
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.engine.batches import Request
from jobs.engine.context import Run
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.rules import IS_VALID, VIOLATIONS, is_held_by
from jobs.engine.sources import Source
from jobs.layers import evaluation, histories, scopes
from jobs.layers.balance import verify_bronze
from jobs.layers.tables import ROW, quarantine_table


@dataclass
class Preview:
    """What a replay would do: rows asked for, how many of them would pass now, and which rules hold back the others."""

    source: str
    rows: int = 0
    passing: int = 0
    rules: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def as_text(self) -> str:
        lines = [f"would pass    {self.passing:,} of {self.rows:,} rows; nothing was written"]
        lines += [f"would stay    {count:,} rows: {rule}" for rule, count in sorted(self.rules.items())]
        if self.passing:
            lines += ["", f"next          assay replay --source {self.source}, with the same options"]
        return "\n".join(lines)


def check_rule(run: Run, source: Source, rule: str | None) -> None:
    """Raises ConfigurationError, with the names there are, unless a rule of that name holds rows of the source back.

    One that is no longer declared, or is called otherwise, may still hold some, or have been replayed by a run that was
    cut short.
    """
    asked = {request.rule for request in run.ledger.history(source.name).requests if request.rule}
    names = asked | {r.name for table in source.tables.values() for r in table.rules if r.action == "quarantine"}
    if rule is None or rule in names:
        return
    for table in source.parsed_tables:
        if (rows := _quarantined(run, source, table, None, None)) is not None:
            found = rows.select(F.explode("reasons.rule").alias("rule")).distinct().collect()
            names |= {row["rule"] for row in found}
    if rule not in names:
        raise ConfigurationError(
            f"{source.name} has no rule {rule!r} that holds rows back", f"rules: {', '.join(sorted(names))}"
        )


def ask_replay(run: Run, source: Source, rule: str | None, batch: int | None) -> Request | None:
    """Writes down that quarantined rows are to be replayed; None if there are none of that rule and batch.

    Raises ConfigurationError for a rule that there is not.
    """
    check_rule(run, source, rule)
    _refuse_unfinished(run, source)
    found: set[int] = set()
    for table in source.parsed_tables:
        rows = _quarantined(run, source, table, rule, batch)
        if rows is not None:
            found |= {row["_batch_id"] for row in rows.select("_batch_id").distinct().collect()}
    return run.ledger.ask(source.name, "replay", sorted(found), rule) if found else None


def ask_backfill(run: Run, source: Source, first: date, last: date) -> Request | None:
    """Writes down that all rows ingested from `first` to `last` (days in UTC) are to be refined anew.

    So are batches that have duplicates of their rows, for those may be held back now: later ones, and earlier ones that
    were refined anew when these rows were there. Of a batch that silver has not read, or is still to refine anew, it is
    not known yet whether it has any. None if no rows were ingested then.
    """
    _refuse_unfinished(run, source)
    found = run.ledger.ingested_between(source.name, first, last)
    if not found:
        return None
    verify_bronze(run, source)  # what it lacks, silver would lose
    anew = {batch for request in run.ledger.history(source.name).requests for batch in request.batches}
    of_source = (F.col("source") == source.name) & (F.col("layer") == "silver") & (F.col("rows_deduplicated") > 0)
    rows = run.ledger.accounts().where(of_source).select("batch_id").distinct().collect()
    duplicates = {row["batch_id"] for row in rows if row["batch_id"] > min(found) or row["batch_id"] in anew}
    to_come: set[int] = set()
    for table, raw in source.parsed_tables.items():
        history, done = histories.history(run, source, raw), scopes.done_through(run, source, table)
        to_come |= {event.batch_id for event in history.loaded(done)}
        to_come |= {batch for request in history.requests if request.batch_id > done for batch in request.batches}
    return _ask_backfill(run, source, sorted({*found, *duplicates, *to_come}))


def _ask_backfill(run: Run, source: Source, batches: list[int]) -> Request:
    """Asks for it, unless a run that did not get that far has: it is to be done once."""
    done = min(scopes.done_through(run, source, table) for table in source.parsed_tables)
    for request in run.ledger.history(source.name).requests:
        if request.batch_id > done and request.kind == "backfill" and sorted(request.batches) == batches:
            return request
    return run.ledger.ask(source.name, "backfill", batches)


def preview(run: Run, source: Source, rule: str | None, batch: int | None) -> Preview:
    """What `ask_replay` and the run after it would do; writes nothing."""
    check_rule(run, source, rule)
    result = Preview(source.name)
    for table in source.parsed_tables:
        rows = _quarantined(run, source, table, rule, batch)
        if rows is None:
            continue
        evaluated = evaluation.evaluated_now(run, source, table, rows.select(*ROW).distinct()).persist()
        result.rows += evaluated.count()
        result.passing += evaluated.where(IS_VALID).count()
        rules = evaluated.select(F.explode(VIOLATIONS).alias("rule")).groupBy("rule").count().collect()
        result.rules |= {row["rule"]: row["count"] + result.rules.get(row["rule"], 0) for row in rules}
        evaluated.unpersist()
    return result


def _quarantined(run: Run, source: Source, table: str, rule: str | None, batch: int | None) -> DataFrame | None:
    path = quarantine_table(source, table)
    if not run.lake.exists(path):
        return None
    rows = run.lake.read(path).where(is_held_by(rule))
    return rows if batch is None else rows.where(F.col("_batch_id") == batch)


def _refuse_unfinished(run: Run, source: Source) -> None:
    planned = run.ledger.history(source.name).newest_planned
    if histories.finished_batch(run, source) < planned:
        raise AssayError(f"{source.name}: batch {planned} was planned and never finished", "finish it first: assay run")
