"""Gold: tables computed from silver, anew when what they are computed from has changed. `spark-submit jobs/gold.py`.

The silver tables that are derived from the parsed one (counselors, transfers, ...) are kept up to date the same way.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from jobs.engine import rules as gate
from jobs.engine.context import Run
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.ledger import TableState
from jobs.engine.sources import Source, Transform, input_names
from jobs.engine.versions import checksum
from jobs.silver import call, quarantine_table, silver_table
from jobs.silver import shapes as silver_shapes


@dataclass
class GoldReport:
    """Which tables were computed anew, which were up to date, and how many rows each rule of the former found."""

    refreshed: list[TableState] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    rules: list[gate.RuleResult] = field(default_factory=list)


@dataclass(frozen=True)
class Recipe:
    """How a Delta table is computed: `inputs` maps each table that the transform's parameters name to its path."""

    table: str
    transform: Transform
    inputs: Mapping[str, str]


def gold_table(source: Source, table: str) -> str:
    return f"gold/{source.name}/{table}"


def refine_derived_silver(run: Run, source: Source) -> GoldReport:
    """Brings the silver tables that are derived from the parsed one up to date."""
    rules = {silver_table(source, table): table for table in source.derived_tables}
    return _refresh(run, source, derived_silver(source), rules)


def refine(run: Run, source: Source) -> GoldReport:
    """Brings the source's gold tables up to date."""
    report = _refresh(run, source, gold(source))
    if report.refreshed:
        _check(run, source)
    return report


def derived_silver(source: Source) -> list[Recipe]:
    """The silver tables that are computed from other silver tables."""
    made = {silver_table(source, table): source.silver_transform(table) for table in source.derived_tables}
    return _recipes(made, _silver(source))


def gold(source: Source) -> list[Recipe]:
    """The gold tables."""
    readable = {table: gold_table(source, table) for table in source.gold_tables} | _silver(source)
    made = {gold_table(source, table): source.gold_transform(table) for table in source.gold_tables}
    return _recipes(made, readable)


def is_of_present_code(run: Run, source: Source) -> bool:
    """Whether the present code and settings of the source have made all of its gold tables before."""
    states, logic = run.ledger.table_states(), source.logic()
    made = [states.get(gold_table(source, table)) for table in source.gold_tables]
    return bool(made) and all(state is not None and state.logic == logic for state in made)


def outdated(run: Run, source: Source, recipes: Sequence[Recipe], changing: Collection[str] = ()) -> dict[str, str]:
    """The tables to compute anew, each with the reason, in an order in which they can be computed.

    `changing`: Delta tables that will have changed by then.
    """
    found: dict[str, str] = {}
    by_table = {recipe.table: recipe for recipe in recipes}
    for wave in _waves({recipe.table: set(recipe.inputs.values()) for recipe in recipes}):
        reasons = {table: _reason(run, by_table[table], source.logic(), {*changing, *found}) for table in wave}
        found |= {table: reason for table, reason in reasons.items() if reason}
    return found


def shapes(run: Run, source: Source) -> dict[str, DataFrame]:
    """Every gold table without rows, as the present code makes it."""
    tables = silver_shapes(run, source)
    recipes = {recipe.table: recipe for recipe in gold(source)}
    names = {gold_table(source, table): table for table in source.gold_tables}
    made: dict[str, DataFrame] = {}
    for wave in _waves({recipe.table: set(recipe.inputs.values()) for recipe in recipes.values()}):
        for path in wave:
            rows = call(recipes[path].transform, {**made, **tables}, source)
            made[names[path]] = run.spark.createDataFrame([], rows.schema)
    return made


def _reason(run: Run, recipe: Recipe, logic: str, changing: Collection[str]) -> str | None:
    """Why a table is not what its inputs and its code make of it; None if it is."""
    state = run.ledger.table_states().get(recipe.table)
    if state is None:
        return "never computed"
    if state.delta_version != run.lake.version(recipe.table):
        return "the table is not as its last run left it"
    if state.logic != logic:
        return "code or settings changed"
    paths = sorted(set(recipe.inputs.values()))
    if changed := [path for path in paths if path in changing]:
        return f"{_named(changed)} will change"
    if changed := [path for path in paths if state.inputs.get(path) != (run.lake.version(path) or 0)]:
        return f"{_named(changed)} changed"
    return None if sorted(state.inputs) == paths else "it is computed from other tables now"


def _named(paths: Sequence[str]) -> str:
    return ", ".join(path.replace("/", ".") for path in paths)


def _recipes(made: Mapping[str, Transform], readable: Mapping[str, str]) -> list[Recipe]:
    return [
        Recipe(table, function, {name: readable[name] for name in input_names(function) if name in readable})
        for table, function in made.items()
    ]


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
    run: Run, source: Source, recipes: Sequence[Recipe], silver: Mapping[str, str] | None = None
) -> GoldReport:
    """Computes each table whose inputs or code are not those it was computed from.

    `silver` says which silver table each of them is, if they are, for these may have rules.
    """
    report, logic = GoldReport(), source.logic()
    if not all(run.lake.exists(silver_table(source, table)) for table in source.parsed_tables):
        return report
    wanted = outdated(run, source, recipes)
    report.unchanged = [recipe.table for recipe in recipes if recipe.table not in wanted]
    pending = {recipe.table: recipe for recipe in recipes if recipe.table in wanted}

    def refresh(target: str) -> tuple[TableState, list[gate.RuleResult]]:
        inputs = pending[target].inputs
        versions = {path: run.lake.version(path) or 0 for path in inputs.values()}
        frame = call(pending[target].transform, {name: run.lake.read(path) for name, path in inputs.items()}, source)
        return _write(run, source, frame, TableState(target, 0, versions, logic, 0, ""), (silver or {}).get(target))

    # Most tables are small, and Spark plans longer than it computes: the cores are better used by a few at a time.
    with ThreadPoolExecutor(max_workers=min(4, run.spark.sparkContext.defaultParallelism)) as pool:
        for wave in _waves({table: set(recipe.inputs.values()) for table, recipe in pending.items()}):
            for state, results in list(pool.map(refresh, wave)):
                report.refreshed.append(state)
                report.rules += results
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
    run: Run, source: Source, frame: DataFrame, state: TableState, silver: str | None
) -> tuple[TableState, list[gate.RuleResult]]:
    """Replaces the table, counting and hashing its rows on the way; `state` completed, and what the rules found.

    Raises AssayError for a rule that fails the run.
    """
    observed = Observation()
    rules, key = (source.tables[silver].rules, source.tables[silver].key) if silver else ([], [])
    referenced = {rule.needs[0] for rule in rules if rule.needs}
    tables = {name: run.lake.read(silver_table(source, name)) for name in referenced}
    metrics = [F.count(F.lit(1)).alias("rows"), checksum(frame.columns).alias("hash")]
    metrics += [gate.violations(rule) for rule in rules]
    watched = gate.answered(frame, rules, key, None, tables).observe(observed, *metrics).select(*frame.columns)
    version = run.lake.overwrite(watched, state.table_name)
    found = observed.get
    results = gate.results(str(silver), rules, found)
    gate.enforce(results)
    counted = replace(state, delta_version=version, row_count=found["rows"], checksum=str(found["hash"] or 0))
    return counted, results


if __name__ == "__main__":
    from jobs.cli import run_layer

    run_layer("gold")
