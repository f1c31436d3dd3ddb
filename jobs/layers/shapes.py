"""Tables without rows, as the present code makes them: for checks before any data is read, and for plans."""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import islice

from pyspark.sql import DataFrame

from jobs.engine import rules as gate
from jobs.engine.calls import call
from jobs.engine.context import Run
from jobs.engine.errors import ConfigurationError
from jobs.engine.local_rows import no_rows
from jobs.engine.sources import SOURCES_FOLDER, Source, input_names
from jobs.layers.evaluation import QUARANTINED, kept_columns, none_quarantined
from jobs.layers.parsing import shape
from jobs.layers.recipes import gold_recipes
from jobs.layers.refresh import waves
from jobs.layers.tables import gold_table


def check(run: Run, source: Source) -> None:
    """Raises ConfigurationError if a rule cannot be evaluated, or a parsed table lacks a column; reads no data."""
    ordered = _in_order(source)
    last = max((number for number, table in enumerate(ordered) if source.tables[table].rules), default=-1)
    for table, rows, tables in islice(_shapes(run, source), max(last + 1, len(source.parsed_tables))):
        gate.check_expressions(source.name, table, rows, source.tables[table].rules, tables)


def silver_shapes(run: Run, source: Source) -> dict[str, DataFrame]:
    """Every silver table without rows, as the present code makes it; with `quarantined`, if one table is parsed."""
    *_, (_, _, tables) = _shapes(run, source)
    return tables


def gold_shapes(run: Run, source: Source) -> dict[str, DataFrame]:
    """Every gold table without rows, as the present code makes it."""
    tables = silver_shapes(run, source)
    recipes = {recipe.table: recipe for recipe in gold_recipes(source)}
    names = {gold_table(source, table): table for table in source.gold_tables}
    made: dict[str, DataFrame] = {}
    for wave in waves({recipe.table: set(recipe.inputs.values()) for recipe in recipes.values()}):
        for path in wave:
            rows = call(recipes[path].transform, {**made, **tables}, source)
            made[names[path]] = no_rows(run.spark, rows.schema)
    return made


def _shapes(run: Run, source: Source) -> Iterator[tuple[str, DataFrame, dict[str, DataFrame]]]:
    """Each silver table, in order: as it is made, with what its rules look at; and all so far, without rows."""
    tables: dict[str, DataFrame] = {}
    for table in _in_order(source):
        if table in source.parsed_tables:
            rows = shape(run, source, table)
            _verify_columns(source, table, rows)
            evaluated = gate.evaluate(rows, [])
            made = {**_quarantined_shape(source, table, evaluated), table: kept_columns(evaluated)}
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
    return {"quarantined": none_quarantined(evaluated, source.tables[table])} if is_alone else {}


def _verify_columns(source: Source, table: str, rows: DataFrame) -> None:
    """Raises ConfigurationError if parsed rows lack a column that the engine needs, or that their declaration names."""
    declared = source.tables[table]
    code = f"transforms/{source.name}.py, {declared.transform or table}"
    if lacking := [name for name in (*QUARANTINED, "_raw") if name not in rows.columns]:
        raise ConfigurationError(
            f"{code}: returns no column {lacking[0]!r}",
            "a function that parses raw rows keeps all columns of `raw` that begin with _",
        )
    for key, names in {"key": declared.key, "order_by": declared.order_by}.items():
        if unknown := [name for name in names if name not in rows.columns]:
            own = ", ".join(name for name in rows.columns if not name.startswith("_"))
            place = f"{SOURCES_FOLDER / source.name}.yaml, tables.{table}.{key}"
            raise ConfigurationError(f"{place}: {unknown[0]!r} is not among the columns of {code} ({own})")
