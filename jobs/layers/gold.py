"""Gold: tables computed from silver, anew when what they are computed from has changed.

The silver tables that are derived from others (counselors, transfers, ...) are kept up to date the same way.
"""

from collections.abc import Collection

from pyspark.sql import functions as F

from jobs.engine.calls import call
from jobs.engine.context import Run
from jobs.engine.documents import KEY
from jobs.engine.errors import AssayError
from jobs.engine.listing import dotted
from jobs.engine.sources import Source, input_names
from jobs.layers.recipes import gold_recipes, readable_silver, silver_recipes
from jobs.layers.refresh import RefreshReport, refresh
from jobs.layers.silver import verify_all_parsed
from jobs.layers.tables import gold_table, silver_table


def refine_derived_silver(run: Run, source: Source) -> RefreshReport:
    """Brings the silver tables that are derived from the parsed one up to date."""
    rules = {silver_table(source, table): table for table in source.derived_tables}
    report = refresh(run, source, silver_recipes(source), rules)
    run.ledger.record_table_states(report.states)
    return report


def refine(run: Run, source: Source) -> RefreshReport:
    """Brings the source's gold tables up to date."""
    verify_all_parsed(run, source)
    _verify_derived(run, source)
    report = refresh(run, source, gold_recipes(source))
    if report.states:  # also of tables that were computed to the same end: what a check found may have left them so
        _check_documents(run, source, report.refreshed)
        _check(run, source)
    # Not before the check: the next run would find the tables up to date, and publish what contradicts itself.
    run.ledger.record_table_states(report.states)
    return report


def is_of_present_code(run: Run, source: Source) -> bool:
    """Whether the present code and settings of the source have made all of its gold tables before."""
    states, logic = run.ledger.table_states(), source.logic()
    made = [states.get(gold_table(source, table)) for table in source.gold_tables]
    return bool(made) and all(state is not None and state.logic == logic for state in made)


def _verify_derived(run: Run, source: Source) -> None:
    """Raises AssayError if a silver table is not what code and rows make of it now: gold would contradict itself.

    So it is if a run was cut short within silver, or a rule failed it, and gold is asked for alone.
    """
    states, logic = run.ledger.table_states(), source.logic()
    for recipe in silver_recipes(source):
        table, inputs = recipe.table, {path: run.lake.version(path) for path in recipe.inputs.values()}
        before = (state.delta_version, state.logic, state.inputs) if (state := states.get(table)) else None
        if None not in inputs.values() and before != (run.lake.version(table), logic, inputs):
            raise AssayError(
                f"{dotted(recipe.table)} is not computed from the newest rows, by the present code, yet",
                f"let silver come to its end first: assay run --source {source.name}",
            )


def _check(run: Run, source: Source) -> None:
    """Raises AssayError for the first check of the source that finds a contradiction between its tables."""
    readable = readable_silver(source) | {table: gold_table(source, table) for table in source.gold_tables}
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
