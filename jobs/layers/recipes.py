"""How each computed table is made: by which transform, from which tables."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jobs.engine.errors import ConfigurationError
from jobs.engine.listing import dotted
from jobs.engine.sources import SOURCES_FOLDER, Computed, Source, Transform, input_names
from jobs.layers.tables import gold_table, quarantine_table, silver_table


@dataclass(frozen=True)
class Recipe:
    """How a Delta table is computed: `inputs` maps each table that the transform's parameters name to its path."""

    table: str
    transform: Transform
    inputs: Mapping[str, str]
    declared: Computed


def silver_recipes(source: Source) -> list[Recipe]:
    """The silver tables that are computed from other silver tables. What their rules refer to is an input as well."""
    found = []
    for table in source.derived_tables:
        declared = source.tables[table]
        recipe = _recipe(silver_table(source, table), source.silver_transform(table), declared, readable_silver(source))
        # No parameter is called so.
        inputs = {f"rule {name}": silver_table(source, name) for name in declared.referenced}
        found.append(replace(recipe, inputs={**recipe.inputs, **inputs}))
    return found


def gold_recipes(source: Source) -> list[Recipe]:
    """The gold tables."""
    readable = {table: gold_table(source, table) for table in source.gold_tables} | readable_silver(source)
    return [
        _recipe(gold_table(source, table), source.gold_transform(table), declared, readable)
        for table, declared in source.gold_tables.items()
    ]


def check(source: Source) -> None:
    """Raises ConfigurationError if a table is declared to be computed in a way that its transform does not allow."""
    for recipe in [*silver_recipes(source), *gold_recipes(source)]:
        way = "row_by_row" if recipe.declared.row_by_row else "additive" if recipe.declared.sum_by else None
        if way and len(recipe.inputs) != 1:
            raise ConfigurationError(
                f"{dotted(recipe.table)} is declared {way}, and computed from {len(recipe.inputs)} tables",
                f"{SOURCES_FOLDER / source.name}.yaml: leave {way} out, for it is about one other table",
            )


def _recipe(table: str, transform: Transform, declared: Computed, readable: Mapping[str, str]) -> Recipe:
    inputs = {name: readable[name] for name in input_names(transform) if name in readable}
    return Recipe(table, transform, inputs, declared)


def readable_silver(source: Source) -> dict[str, str]:
    """What a transform may name of silver: its tables and, if one of them is parsed, its quarantine `quarantined`."""
    readable = {table: silver_table(source, table) for table in source.tables}
    quarantines = [quarantine_table(source, table) for table in source.parsed_tables]
    return {**readable, "quarantined": quarantines[0]} if len(quarantines) == 1 else readable
