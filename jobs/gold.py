"""Gold: tables computed from silver, anew when what they are computed from has changed. `spark-submit jobs/gold.py`.

The silver tables that are derived from the parsed one (counselors, transfers, ...) are kept up to date the same way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from jobs.engine.context import Run
from jobs.engine.errors import AssayError
from jobs.engine.ledger import TableState
from jobs.engine.sources import Source, Transform, input_names
from jobs.silver import call, quarantine_table, silver_table


@dataclass
class GoldReport:
    """Which tables were computed anew, and which were up to date."""

    refreshed: list[TableState] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)


def gold_table(source: Source, table: str) -> str:
    return f"gold/{source.name}/{table}"


def refine_derived_silver(run: Run, source: Source) -> GoldReport:
    """Brings the silver tables that are derived from the parsed one up to date."""
    made = {table: silver_table(source, table) for table in source.derived_tables}
    return _refresh(run, source, {made[t]: source.silver_transform(t) for t in made}, _silver(source))


def refine(run: Run, source: Source) -> GoldReport:
    """Brings the source's gold tables up to date."""
    readable = {table: gold_table(source, table) for table in source.publish} | _silver(source)
    made = {gold_table(source, table): source.gold_transform(table) for table in source.publish}
    report = _refresh(run, source, made, readable)
    if report.refreshed:
        _check(run, source)
    return report


def _silver(source: Source) -> dict[str, str]:
    """What a transform may name of silver: its tables, and `quarantined`, the rows held back."""
    return {table: silver_table(source, table) for table in source.tables} | {"quarantined": quarantine_table(source)}


def _check(run: Run, source: Source) -> None:
    """Raises AssayError for the first check of the source that finds a contradiction between its tables."""
    readable = _silver(source) | {table: gold_table(source, table) for table in source.publish}
    for check in source.checks:
        function = source.check_transform(check)
        tables = {name: run.lake.read(readable[name]) for name in input_names(function) if name in readable}
        found = call(function, tables, source).count()
        if found:
            raise AssayError(
                f"{source.name}, check {check.name}: {found:,} contradictions ({check.reason})",
                f"nothing was published; transforms/{source.name}.py, {check.transform}, shows them",
            )


def _refresh(run: Run, source: Source, made: Mapping[str, Transform], readable: Mapping[str, str]) -> GoldReport:
    """Computes each table of `made` whose inputs or code are not those it was computed from.

    `readable` maps what a transform's parameter may name to the Delta table behind it.
    """
    report, states, logic = GoldReport(), run.ledger.table_states(), source.logic()
    if not run.lake.exists(silver_table(source, source.parsed_table)):
        return report
    for target, function in made.items():
        tables = {name: readable[name] for name in input_names(function) if name in readable}
        versions = {path: run.lake.version(path) or 0 for path in tables.values()}
        state = states.get(target)
        if state and (state.inputs, state.logic, state.delta_version) == (versions, logic, run.lake.version(target)):
            report.unchanged.append(target)
            continue
        frame = call(function, {name: run.lake.read(path) for name, path in tables.items()}, source)
        report.refreshed.append(_write(run, target, frame, versions, logic))
    run.ledger.record_table_states(report.refreshed)
    return report


def _write(run: Run, target: str, frame: DataFrame, inputs: Mapping[str, int], logic: str) -> TableState:
    """Replaces the table, counting and hashing its rows on the way."""
    observed = Observation()
    row_hash = F.xxhash64(*frame.columns).cast("decimal(38,0)")
    watched = frame.observe(observed, F.count(F.lit(1)).alias("rows"), F.sum(row_hash).alias("hash"))
    version = run.lake.overwrite(watched, target)
    counts = observed.get
    return TableState(target, version, inputs, logic, counts["rows"], str(counts["hash"] or 0))


if __name__ == "__main__":
    from jobs.cli import run_layer

    run_layer("gold")
