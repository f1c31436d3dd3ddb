"""Gold: tables computed from silver, anew when what they are computed from has changed. `spark-submit jobs/gold.py`.

The silver tables that are derived from others (counselors, transfers, ...) are kept up to date the same way.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import groupby
from operator import or_

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.sql.types import DateType, DecimalType, IntegralType

from jobs.engine import rules as gate
from jobs.engine.context import Run
from jobs.engine.delta import LOG_RETENTION, Changes
from jobs.engine.documents import KEY
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.fingerprints import fingerprint, metrics
from jobs.engine.ledger import TableState
from jobs.engine.listing import dotted
from jobs.engine.local_rows import no_rows
from jobs.engine.sources import SOURCES_FOLDER, Computed, Source, Transform, input_names
from jobs.silver import call, quarantine_table, silver_table, verify_all_parsed
from jobs.silver import shapes as silver_shapes

_LOG_DAYS = 2 * 365  # for which a new gold table keeps its log
_NO_VERSION = -1
_TOUCHED = "_touched"
_FEW_PARTS = 400  # so many are named in the query itself: a filter on them goes before more than a join does


@dataclass
class GoldReport:
    """Which tables got other rows, which were up to date, and how many rows each rule of the former found.

    `states` is what is to be recorded of them.
    """

    refreshed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    rules: list[gate.RuleResult] = field(default_factory=list)
    states: list[TableState] = field(default_factory=list)


@dataclass(frozen=True)
class Recipe:
    """How a Delta table is computed: `inputs` maps each table that the transform's parameters name to its path."""

    table: str
    transform: Transform
    inputs: Mapping[str, str]
    declared: Computed


def gold_table(source: Source, table: str) -> str:
    return f"gold/{source.name}/{table}"


def refine_derived_silver(run: Run, source: Source) -> GoldReport:
    """Brings the silver tables that are derived from the parsed one up to date."""
    rules = {silver_table(source, table): table for table in source.derived_tables}
    report = _refresh(run, source, derived_silver(source), rules)
    run.ledger.record_table_states(report.states)
    return report


def refine(run: Run, source: Source) -> GoldReport:
    """Brings the source's gold tables up to date."""
    verify_all_parsed(run, source)
    _verify_derived(run, source)
    report = _refresh(run, source, gold(source))
    if report.states:  # also of tables that were computed to the same end: what a check found may have left them so
        _check_documents(run, source, report.refreshed)
        _check(run, source)
    # Not before the check: the next run would find the tables up to date, and publish what contradicts itself.
    run.ledger.record_table_states(report.states)
    return report


def derived_silver(source: Source) -> list[Recipe]:
    """The silver tables that are computed from other silver tables. What their rules refer to is an input as well."""
    found = []
    for table in source.derived_tables:
        declared = source.tables[table]
        recipe = _recipe(silver_table(source, table), source.silver_transform(table), declared, _silver(source))
        # No parameter is called so.
        inputs = {f"rule {name}": silver_table(source, name) for name in declared.referenced}
        found.append(replace(recipe, inputs={**recipe.inputs, **inputs}))
    return found


def gold(source: Source) -> list[Recipe]:
    """The gold tables."""
    readable = {table: gold_table(source, table) for table in source.gold_tables} | _silver(source)
    return [
        _recipe(gold_table(source, table), source.gold_transform(table), declared, readable)
        for table, declared in source.gold_tables.items()
    ]


def check(source: Source) -> None:
    """Raises ConfigurationError if a table is declared to be computed in a way that its transform does not allow."""
    for recipe in [*derived_silver(source), *gold(source)]:
        way = "row_by_row" if recipe.declared.row_by_row else "additive" if recipe.declared.sum_by else None
        if way and len(recipe.inputs) != 1:
            raise ConfigurationError(
                f"{dotted(recipe.table)} is declared {way}, and computed from {len(recipe.inputs)} tables",
                f"{SOURCES_FOLDER / source.name}.yaml: leave {way} out, for it is about one other table",
            )


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
            made[names[path]] = no_rows(run.spark, rows.schema)
    return made


def _verify_derived(run: Run, source: Source) -> None:
    """Raises AssayError if a silver table is not what code and rows make of it now: gold would contradict itself.

    So it is if a run was cut short within silver, or a rule failed it, and gold is asked for alone.
    """
    states, logic = run.ledger.table_states(), source.logic()
    for recipe in derived_silver(source):
        table, inputs = recipe.table, {path: run.lake.version(path) for path in recipe.inputs.values()}
        before = (state.delta_version, state.logic, state.inputs) if (state := states.get(table)) else None
        if None not in inputs.values() and before != (run.lake.version(table), logic, inputs):
            raise AssayError(
                f"{dotted(recipe.table)} is not computed from the newest rows, by the present code, yet",
                f"let silver come to its end first: assay run --source {source.name}",
            )


def _reason(run: Run, recipe: Recipe, logic: str, changing: Collection[str]) -> str | None:
    """Why a table is not what its inputs and its code make of it; None if it is."""
    if reason := _why_unfounded(run, recipe, logic):
        return reason
    state, paths = run.ledger.table_states()[recipe.table], sorted(set(recipe.inputs.values()))
    if changed := [path for path in paths if path in changing]:
        return f"{_named(changed)} will change"
    if changed := [path for path in paths if state.inputs[path] != (run.lake.version(path) or 0)]:
        return f"{_named(changed)} changed"
    return None


def _why_unfounded(run: Run, recipe: Recipe, logic: str) -> str | None:
    """Why a table is not even what its code made of its inputs when it was last computed; None if it is."""
    state = run.ledger.table_states().get(recipe.table)
    if state is None:
        return "never computed"
    if state.delta_version != run.lake.version(recipe.table):
        return "the table is not as its last run left it"
    if state.logic != logic:
        return "code or settings changed"
    if anew := sorted(p for p in set(recipe.inputs.values()) if not run.lake.was_made_before(p, recipe.table)):
        return f"{_named(anew)} was made anew"
    return None if state.inputs.keys() == set(recipe.inputs.values()) else "it is computed from other tables now"


def _named(paths: Sequence[str]) -> str:
    return ", ".join(dotted(path) for path in paths)


def _recipe(table: str, transform: Transform, declared: Computed, readable: Mapping[str, str]) -> Recipe:
    inputs = {name: readable[name] for name in input_names(transform) if name in readable}
    return Recipe(table, transform, inputs, declared)


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


def _check_documents(run: Run, source: Source, refreshed: Collection[str]) -> None:
    """Raises AssayError if rows of a table that was refreshed could not each become a file of its own."""
    for name, document in source.documents.items():
        path, key = gold_table(source, name), F.col(document.key).cast("string")
        if path not in refreshed:
            continue
        keys = run.lake.read(path).groupBy(key.alias("key")).count()
        fits = F.coalesce(F.col("key").rlike(rf"\A{KEY.pattern}\z"), F.lit(False))
        found = keys.where(~fits | (F.col("count") > 1)).agg(F.count("*"), F.count_if(~fits)).first()
        if found is not None and found[0]:
            raise AssayError(
                f"{dotted(path)}: {found[0]:,} values of {document.key} cannot each name a file: {found[1]:,} are "
                "missing, or have other characters than letters, digits, _ and - or over 200 of them, and the others "
                "come more than once",
                f"nothing was published; mend the transform (transforms/{source.name}.py), or hold such rows back",
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
    before = {table: run.lake.version(table) for table in pending}
    _forget_those_gone(run, [table for table, version in before.items() if version is None])

    def refresh(target: str) -> tuple[TableState, list[gate.RuleResult]]:
        return _bring_up_to_date(run, source, pending[target], logic, (silver or {}).get(target))

    # Most tables are small, and Spark plans longer than it computes: the cores are better used by a few at a time.
    with ThreadPoolExecutor(max_workers=min(4, run.spark.sparkContext.defaultParallelism)) as pool:
        for wave in _waves({table: set(recipe.inputs.values()) for table, recipe in pending.items()}):
            for state, results in list(pool.map(refresh, wave)):
                is_as_it_was = before.get(state.table_name) == state.delta_version
                (report.unchanged if is_as_it_was else report.refreshed).append(state.table_name)
                report.states.append(state)
                report.rules += results
    return report


def _forget_those_gone(run: Run, tables: Sequence[str]) -> None:
    """Records of tables that were removed that no version of them is what their state says.

    Made anew, they will count their versions from 0 again. If the run is cut short before it records the new state, the
    next one must not take version 0 for that of the state, and add to it what has come since then.
    """
    states = run.ledger.table_states()
    run.ledger.record_table_states([replace(states[t], delta_version=_NO_VERSION) for t in tables if t in states])


def _bring_up_to_date(
    run: Run, source: Source, recipe: Recipe, logic: str, silver: str | None
) -> tuple[TableState, list[gate.RuleResult]]:
    """Makes a table what its inputs are now: by what changed in them, if that is little and known to be enough.

    Returns its state, and what its rules found.
    """
    versions = {path: run.lake.version(path) or 0 for path in recipe.inputs.values()}
    state, changes = TableState(recipe.table, inputs=versions, logic=logic), _changes(run, recipe, logic)
    if changes is not None:
        if all(change.is_nothing for change in changes.values()):
            return replace(run.ledger.table_states()[recipe.table], inputs=versions), []
        added = {name: change.added for name, change in changes.items() if change.added is not None}
        has_only_grown = all(change.removed is None for change in changes.values())
        if recipe.declared.row_by_row and has_only_grown:
            return _add(run, call(recipe.transform, added, source), state), []
    return _write(run, source, _rows(run, source, recipe, changes), state, silver)


def _rows(run: Run, source: Source, recipe: Recipe, changes: Mapping[str, Changes] | None) -> DataFrame:
    """What the inputs make of the table now; by `changes`, computed from as few of their rows as it declares."""
    if changes is not None and recipe.declared.sum_by:
        return _with_changes_added_up(run, source, recipe, changes)
    inputs = {name: run.lake.read(path) for name, path in recipe.inputs.items()}
    rows = call(recipe.transform, inputs, source)
    _check_groups(recipe, {**inputs, "what its transform returns": rows})
    if recipe.declared.sum_by:
        return _added_up(recipe, rows)
    if changes is not None and recipe.declared.parts_by:
        return _with_parts_anew(run.lake.read(recipe.table), rows, _touched(source, recipe, inputs, changes))
    return rows


def _with_changes_added_up(run: Run, source: Source, recipe: Recipe, changes: Mapping[str, Changes]) -> DataFrame:
    """The table's sums, with those over rows that came to its input added, and those over rows that went taken away."""
    ((name, change),) = changes.items()
    sums = run.lake.read(recipe.table)
    if change.added is not None:
        sums = sums.unionByName(call(recipe.transform, {name: change.added}, source))
    if change.removed is not None:
        gone = call(recipe.transform, {name: change.removed}, source)
        less = {name: -F.col(name) for name in gone.columns if name not in recipe.declared.sum_by}
        sums = sums.unionByName(gone.withColumns(less))
    return _added_up(recipe, sums)


def _added_up(recipe: Recipe, rows: DataFrame) -> DataFrame:
    """One row per key: the sums of its rows; none for a key whose sums are all 0.

    Raises ConfigurationError if the table has other columns than its key and whole numbers or decimals, for the sum of
    others depends on the order in which they are added.
    """
    by, kinds = recipe.declared.sum_by, {field.name: field.dataType for field in rows.schema}
    measures = [name for name in kinds if name not in by]
    wrong = [name for name in measures if not isinstance(kinds[name], (IntegralType, DecimalType))]
    if wrong or not measures or not kinds.keys() >= set(by):
        found = ", ".join(f"{name} {kind.simpleString()}" for name, kind in kinds.items())
        raise ConfigurationError(
            f"{dotted(recipe.table)} is declared additive, and its transform returns {found}",
            f"expected its key ({', '.join(by)}), and sums of whole numbers or decimals; or leave additive out",
        )
    sums = [F.coalesce(F.sum(name), F.lit(0)).cast(kinds[name]).alias(name) for name in measures]
    is_something = reduce(or_, [F.col(name) != 0 for name in measures])
    return rows.groupBy(*by).agg(*sums).where(is_something).select(*rows.columns)


def _changes(run: Run, recipe: Recipe, logic: str) -> dict[str, Changes] | None:
    """What came to each input and what went since the table was computed from it.

    None if that is not known or not little, if the table cannot be built on, or is declared to be computed as a whole.
    """
    declared = recipe.declared
    if not (declared.row_by_row or declared.parts_by or declared.sum_by) or _why_unfounded(run, recipe, logic):
        return None
    before, found = run.ledger.table_states()[recipe.table].inputs, dict[str, Changes]()
    for name, path in recipe.inputs.items():
        changes = run.lake.changes(path, before[path])
        if changes is None:
            return None
        found[name] = changes
    return found


def _touched(
    source: Source, recipe: Recipe, inputs: Mapping[str, DataFrame], changes: Mapping[str, Changes]
) -> DataFrame:
    """One row per slice, or group, that has other rows since the changed rows of the inputs came and went."""
    if by := recipe.declared.group_by:
        changed = [rows for change in changes.values() for rows in (change.added, change.removed) if rows is not None]
        touched = [rows.select(by) for rows in changed]
    else:
        by, none = str(recipe.declared.slice_by), {name: frame.where("false") for name, frame in inputs.items()}
        came = {name: change.added for name, change in changes.items() if change.added is not None}
        went = {name: change.removed for name, change in changes.items() if change.removed is not None}
        # Apart: rows that came and rows that went may cancel each other out.
        touched = [call(recipe.transform, none | rows, source).select(by) for rows in (came, went)]
    return reduce(DataFrame.union, touched).distinct()


def _with_parts_anew(before: DataFrame, rows: DataFrame, touched: DataFrame) -> DataFrame:
    """The table as it was `before`, with its slices, or groups, that are `touched` computed anew, as in `rows`.

    Spark computes of `rows` what is asked for: a filter on slices, or a join by groups, goes before what makes them.
    """
    by, kind = touched.columns[0], rows.schema[touched.columns[0]].dataType
    # Days as numbers, and others as text, for Python knows no date after the year 9999.
    value = F.unix_date(by) if isinstance(kind, DateType) else F.col(by).cast("string")
    few = [row[0] for row in touched.select(value).limit(_FEW_PARTS + 1).collect()]
    if len(few) <= _FEW_PARTS:
        known = sorted(value for value in few if value is not None)
        if isinstance(kind, DateType):
            is_touched = reduce(or_, [F.col(by).between(*span) for span in _spans(known)], F.lit(False))
        else:
            is_touched = F.col(by).isin(*[F.lit(value).cast(kind) for value in known])
        if None in few:
            is_touched |= F.col(by).isNull()
        # Where it is NULL, it is not touched; said of `rows`, that would keep Spark from skipping files' parts by it.
        return before.where(~F.coalesce(is_touched, F.lit(False))).unionByName(rows.where(is_touched))
    touched = touched.withColumnRenamed(by, _TOUCHED)
    is_same = F.col(by).eqNullSafe(F.col(_TOUCHED))
    return before.join(touched, is_same, "left_anti").unionByName(rows.join(touched, is_same, "left_semi"))


def _spans(days: Iterable[int]) -> Iterator[tuple[Column, Column]]:
    """The first and the last of each run of days, which are numbered and ascending.

    Of spans, unlike of a list, Spark makes bounds of the times that the days are of: it passes over parts of files that
    have other times only.
    """
    for _, run in groupby(enumerate(days), key=lambda numbered: numbered[1] - numbered[0]):
        found = [day for _, day in run]
        yield F.date_from_unix_date(F.lit(found[0])), F.date_from_unix_date(F.lit(found[-1]))


def _check_groups(recipe: Recipe, tables: Mapping[str, DataFrame]) -> None:
    """Raises ConfigurationError if a table that is computed group by group, or an input of it, lacks their column."""
    by = recipe.declared.group_by
    if by and (lacking := [name for name, rows in tables.items() if by not in rows.columns]):
        raise ConfigurationError(
            f"{dotted(recipe.table)} is declared group_by {by}, and {lacking[0]} has no such column",
            "expected a column of the table and of all that it is computed from; or leave group_by out",
        )


def _waves(inputs: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """The tables in groups, each of which needs only tables of the groups before it (and tables that are there)."""
    pending = dict(inputs)
    while pending:
        wave = [table for table, needed in pending.items() if not needed & pending.keys()]
        if not wave:
            raise ConfigurationError(f"these tables are computed from each other: {', '.join(sorted(pending))}")
        yield wave
        pending = {table: needed for table, needed in pending.items() if table not in wave}


def _add(run: Run, rows: DataFrame, state: TableState) -> TableState:
    """Adds rows to the table, counting and hashing them on the way; returns `state` completed."""
    observed, before = Observation(), run.ledger.table_states()[state.table_name]
    version = run.lake.append(rows.observe(observed, *metrics(rows)), state.table_name)
    found = before.fingerprint.plus(fingerprint(observed.get))
    return replace(state, delta_version=version, **found._asdict())


def _write(
    run: Run, source: Source, frame: DataFrame, state: TableState, silver: str | None
) -> tuple[TableState, list[gate.RuleResult]]:
    """Replaces the table, counting and hashing its rows on the way; `state` completed, and what the rules found.

    Raises AssayError for a rule that fails the run.
    """
    observed = Observation()
    rules, key = (source.tables[silver].rules, source.tables[silver].key) if silver else ([], [])
    referenced = source.tables[silver].referenced if silver else set()
    tables = {name: run.lake.read(silver_table(source, name)) for name in referenced}
    measures = [*metrics(frame), *[gate.violations(rule) for rule in rules]]
    watched = gate.answered(frame, rules, key, None, tables).observe(observed, *measures).select(*frame.columns)
    # Older releases are read by their versions: as long as `assay maintain` sees to it at the least.
    properties = {} if silver else {LOG_RETENTION: f"interval {_LOG_DAYS} days"}
    version = run.lake.overwrite(watched, state.table_name, properties)
    found = observed.get
    results = gate.results(str(silver), rules, found)
    gate.enforce(results)
    return replace(state, delta_version=version, **fingerprint(found)._asdict()), results


if __name__ == "__main__":
    from jobs.cli import run_layer

    run_layer("gold")
