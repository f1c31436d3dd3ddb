"""Computed tables, of silver and of gold, made anew where their inputs or their code have changed."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from pyspark.sql import DataFrame, Observation

from jobs.engine import rules as gate
from jobs.engine.calls import call
from jobs.engine.context import Run
from jobs.engine.delta import LOG_RETENTION, Changes
from jobs.engine.errors import ConfigurationError
from jobs.engine.fingerprints import fingerprint, metrics
from jobs.engine.ledger import TableState
from jobs.engine.listing import dotted
from jobs.engine.sources import Source
from jobs.layers import increments
from jobs.layers.recipes import Recipe
from jobs.layers.tables import silver_table

_LOG_DAYS = 2 * 365  # for which a new gold table keeps its log
_NO_VERSION = -1


@dataclass
class RefreshReport:
    """Which tables got other rows, which were up to date, and how many rows each rule of the former found.

    `states` is what is to be recorded of them.
    """

    refreshed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    rules: list[gate.RuleResult] = field(default_factory=list)
    states: list[TableState] = field(default_factory=list)


def outdated(run: Run, source: Source, recipes: Sequence[Recipe], changing: Collection[str] = ()) -> dict[str, str]:
    """The tables to compute anew, each with the reason, in an order in which they can be computed.

    `changing`: Delta tables that will have changed by then.
    """
    found: dict[str, str] = {}
    by_table = {recipe.table: recipe for recipe in recipes}
    for wave in waves({recipe.table: set(recipe.inputs.values()) for recipe in recipes}):
        reasons = {table: _reason(run, by_table[table], source.logic(), {*changing, *found}) for table in wave}
        found |= {table: reason for table, reason in reasons.items() if reason}
    return found


def refresh(
    run: Run, source: Source, recipes: Sequence[Recipe], silver: Mapping[str, str] | None = None
) -> RefreshReport:
    """Computes each table whose inputs or code are not those it was computed from.

    `silver` says which silver table each of them is, if they are, for these may have rules.
    """
    report, logic = RefreshReport(), source.logic()
    if not all(run.lake.exists(silver_table(source, table)) for table in source.parsed_tables):
        return report
    wanted = outdated(run, source, recipes)
    report.unchanged = [recipe.table for recipe in recipes if recipe.table not in wanted]
    pending = {recipe.table: recipe for recipe in recipes if recipe.table in wanted}
    before = {table: run.lake.version(table) for table in pending}
    _forget_those_gone(run, [table for table, version in before.items() if version is None])

    def bring(target: str) -> tuple[TableState, list[gate.RuleResult]]:
        return _bring_up_to_date(run, source, pending[target], logic, (silver or {}).get(target))

    # Most tables are small, and Spark plans longer than it computes: the cores are better used by a few at a time.
    with ThreadPoolExecutor(max_workers=min(4, run.spark.sparkContext.defaultParallelism)) as pool:
        for wave in waves({table: set(recipe.inputs.values()) for table, recipe in pending.items()}):
            for state, results in list(pool.map(bring, wave)):
                is_as_it_was = before.get(state.table_name) == state.delta_version
                (report.unchanged if is_as_it_was else report.refreshed).append(state.table_name)
                report.states.append(state)
                report.rules += results
    return report


def waves(inputs: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """The tables in groups, each of which needs only tables of the groups before it (and tables that are there)."""
    pending = dict(inputs)
    while pending:
        wave = [table for table, needed in pending.items() if not needed & pending.keys()]
        if not wave:
            raise ConfigurationError(f"these tables are computed from each other: {', '.join(sorted(pending))}")
        yield wave
        pending = {table: needed for table, needed in pending.items() if table not in wave}


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
        return increments.with_changes_added_up(run, source, recipe, changes)
    inputs = {name: run.lake.read(path) for name, path in recipe.inputs.items()}
    rows = call(recipe.transform, inputs, source)
    increments.check_groups(recipe, {**inputs, "what its transform returns": rows})
    if recipe.declared.sum_by:
        return increments.added_up(recipe, rows)
    if changes is not None and recipe.declared.parts_by:
        touched = increments.touched_parts(source, recipe, inputs, changes)
        return increments.with_parts_anew(run.lake.read(recipe.table), rows, touched)
    return rows


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
