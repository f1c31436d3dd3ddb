"""Gold: tables computed from silver, anew when what they are computed from has changed. `spark-submit jobs/gold.py`.

The silver tables that are derived from the parsed one (counselors, transfers, ...) are kept up to date the same way.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from jobs.engine import rules as gate
from jobs.engine.context import Run
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.ledger import TableState
from jobs.engine.sources import Rule, Source, Transform, input_names
from jobs.silver import call, quarantine_table, silver_table


@dataclass
class GoldReport:
    """Which tables were computed anew, which were up to date, and how many rows each rule of the former found."""

    refreshed: list[TableState] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    rules: list[gate.RuleResult] = field(default_factory=list)


def gold_table(source: Source, table: str) -> str:
    return f"gold/{source.name}/{table}"


def refine_derived_silver(run: Run, source: Source) -> GoldReport:
    """Brings the silver tables that are derived from the parsed one up to date."""
    made = {table: silver_table(source, table) for table in source.derived_tables}
    rules = {made[table]: source.tables[table].rules for table in made}
    return _refresh(run, source, {made[t]: source.silver_transform(t) for t in made}, _silver(source), rules)


def refine(run: Run, source: Source) -> GoldReport:
    """Brings the source's gold tables up to date."""
    readable = {table: gold_table(source, table) for table in source.gold_tables} | _silver(source)
    made = {gold_table(source, table): source.gold_transform(table) for table in source.gold_tables}
    report = _refresh(run, source, made, readable)
    if report.refreshed:
        _check(run, source)
    return report


def _silver(source: Source) -> dict[str, str]:
    """What a transform may name of silver: its tables and, if one of them is parsed, its quarantine `quarantined`."""
    readable = {table: silver_table(source, table) for table in source.tables}
    quarantines = [quarantine_table(source, table) for table in source.parsed_tables]
    return {**readable, "quarantined": quarantines[0]} if len(quarantines) == 1 else readable


def _check(run: Run, source: Source) -> None:
    """Raises AssayError for the first check of the source that finds a contradiction between its tables."""
    readable = _silver(source) | {table: gold_table(source, table) for table in source.gold_tables}
    for check in source.checks:
        function = source.check_transform(check)
        tables = {name: run.lake.read(readable[name]) for name in input_names(function) if name in readable}
        found = call(function, tables, source).count()
        if found:
            raise AssayError(
                f"{source.name}, check {check.name}: {found:,} contradictions ({check.reason})",
                f"nothing was published; transforms/{source.name}.py, {check.transform}, shows them",
            )


def _refresh(
    run: Run,
    source: Source,
    made: Mapping[str, Transform],
    readable: Mapping[str, str],
    rules: Mapping[str, Sequence[Rule]] | None = None,
) -> GoldReport:
    """Computes each table of `made` whose inputs or code are not those it was computed from.

    `readable` maps what a transform's parameter may name to the Delta table behind it; `rules` are those of `made`.
    """
    report, logic = GoldReport(), source.logic()
    if not all(run.lake.exists(silver_table(source, table)) for table in source.parsed_tables):
        return report
    inputs = {
        target: {name: readable[name] for name in input_names(function) if name in readable}
        for target, function in made.items()
    }

    def refresh(target: str) -> tuple[TableState, list[gate.RuleResult]] | None:
        versions = {path: run.lake.version(path) or 0 for path in inputs[target].values()}
        state = run.ledger.table_states().get(target)
        if state and (state.inputs, state.logic, state.delta_version) == (versions, logic, run.lake.version(target)):
            return None
        frame = call(made[target], {name: run.lake.read(path) for name, path in inputs[target].items()}, source)
        return _write(run, target, frame, TableState(target, 0, versions, logic, 0, ""), (rules or {}).get(target, []))

    # Most tables are small, and Spark plans longer than it computes: the cores are better used by a few at a time.
    with ThreadPoolExecutor(max_workers=min(4, run.spark.sparkContext.defaultParallelism)) as pool:
        for wave in _waves({target: set(paths.values()) for target, paths in inputs.items()}):
            for target, made_anew in zip(wave, list(pool.map(refresh, wave)), strict=True):
                if made_anew is None:
                    report.unchanged.append(target)
                else:
                    report.refreshed.append(made_anew[0])
                    report.rules += made_anew[1]
    run.ledger.record_table_states(report.refreshed)
    return report


def _waves(inputs: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """The tables in groups, each of which needs only tables of the groups before it (and tables that are there)."""
    pending = dict(inputs)
    while pending:
        wave = [table for table, needed in pending.items() if not needed & pending.keys()]
        if not wave:
            raise ConfigurationError(f"these tables are computed from each other: {', '.join(sorted(pending))}")
        yield wave
        pending = {table: needed for table, needed in pending.items() if table not in wave}


def _write(
    run: Run, target: str, frame: DataFrame, state: TableState, rules: Sequence[Rule]
) -> tuple[TableState, list[gate.RuleResult]]:
    """Replaces the table, counting and hashing its rows on the way; `state` completed, and what the rules found.

    Raises AssayError for a rule that fails the run.
    """
    observed = Observation()
    row_hash = F.xxhash64(*frame.columns).cast("decimal(38,0)")
    metrics = [F.count(F.lit(1)).alias("rows"), F.sum(row_hash).alias("hash")]
    watched = frame.observe(observed, *metrics, *[gate.violations(rule).alias(f"rule:{rule.name}") for rule in rules])
    version = run.lake.overwrite(watched, target)
    found = observed.get
    results = [gate.RuleResult(rule, found[f"rule:{rule.name}"], found["rows"]) for rule in rules]
    gate.enforce(target.replace("/", "."), results)
    counted = replace(state, delta_version=version, row_count=found["rows"], checksum=str(found["hash"] or 0))
    return counted, results


if __name__ == "__main__":
    from jobs.cli import run_layer

    run_layer("gold")
