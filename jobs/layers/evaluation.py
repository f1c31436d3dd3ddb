"""Bronze rows as parser and rules see them, and what is kept of them: staged, in silver, or in quarantine."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.engine import rules as gate
from jobs.engine.context import Run
from jobs.engine.local_rows import local_rows
from jobs.engine.sources import SilverTable, Source
from jobs.layers.bronze import bronze_rows
from jobs.layers.histories import finished_batch, history
from jobs.layers.parsing import parse
from jobs.layers.scopes import Scope
from jobs.layers.tables import LINEAGE, ROW, quarantine_table, silver_table

QUARANTINED = ("_source_file", "_row_hash", "_batch_id", "_ingested_at", "_rescued")
_HELD_FOR = "_held_for"


def evaluate(
    run: Run, source: Source, table: str, bronze: DataFrame, scope: Scope, known: DataFrame | None
) -> DataFrame:
    """The live rows, parsed, with what the rules found.

    In a replay, rows that were held back for other reasons than those asked for stay as they are, with these reasons in
    `_held_for` (NULL for all others), and so do valid ones; unless all rows of the table are judged anew.
    """
    declared = source.tables[table]
    tables = {name: run.lake.read(silver_table(source, name)) for name in declared.referenced}
    parsed = parse(run, source, table, _live(bronze, scope))
    parsed = gate.answered(parsed, declared.rules, declared.key, known, tables)
    evaluated = gate.evaluate(parsed, declared.rules).withColumn(_HELD_FOR, gate.no_reasons())
    is_replay = scope.request is not None and scope.request.kind == "replay" and not scope.rebuild
    quarantine = quarantine_table(source, table)
    if not is_replay or not run.lake.exists(quarantine):
        return evaluated
    held = run.lake.read(quarantine).where(scope.covers())
    rule = scope.request.rule if scope.request else None
    stays = ~gate.is_held_by(rule) & (F.size("reasons") > 0)
    kept = F.max(F.when(stays, F.col("reasons"))).alias(_HELD_FOR)
    held = held.groupBy(*ROW).agg(kept, F.lit(True).alias("_was_held"))
    # After a crash, quarantine would not tell whether a row was in it; but then the table is made anew (next_scope).
    is_valid_before = F.col("_was_held").isNull()
    violations = (
        F.when(is_valid_before, F.array().cast("array<string>"))
        .when(F.col(_HELD_FOR).isNotNull(), F.transform(_HELD_FOR, lambda reason: reason["rule"]))
        .otherwise(F.col(gate.VIOLATIONS))
    )
    joined = evaluated.drop(_HELD_FOR).join(held, list(ROW), "left")
    return joined.withColumn(gate.VIOLATIONS, violations).select(*evaluated.columns)


def evaluated_now(run: Run, source: Source, table: str, asked: DataFrame) -> DataFrame:
    """Bronze rows as the present parser and rules see them; nothing is written. `asked` names them by ROW."""
    raw, target = source.parsed_tables[table], silver_table(source, table)
    finished = finished_batch(run, source)
    scope = Scope(0, finished, True, frozenset(history(run, source, raw).through(finished).dead()))
    bronze = bronze_rows(run, source, raw).where(scope.covers())
    if not source.tables[table].is_always_rebuilt:  # no other rows are needed to read these
        bronze = bronze.join(F.broadcast(asked), list(ROW), "left_semi")
    known = run.lake.read(target) if run.lake.exists(target) else None
    return evaluate(run, source, table, bronze, scope, known).join(F.broadcast(asked), list(ROW), "left_semi")


def _live(bronze: DataFrame, scope: Scope) -> DataFrame:
    if not scope.dead:
        return bronze
    return bronze.join(F.broadcast(dead_deliveries(bronze, scope)), list(LINEAGE), "left_anti")


def dead_deliveries(bronze: DataFrame, scope: Scope) -> DataFrame:
    """One row per delivery, as (batch, file), whose rows the pass leaves out."""
    rows = [{"_batch_id": batch, "_source_file": file} for batch, file in sorted(scope.dead)]
    return local_rows(bronze.sparkSession, rows, "_batch_id BIGINT, _source_file STRING")


def to_stage(evaluated: DataFrame, declared: SilverTable) -> DataFrame:
    """What the steps after the rules need: of a valid row neither raw text, which is most of it, nor helper columns."""
    always = {*LINEAGE, "_row_hash", gate.VIOLATIONS, *declared.order_by}
    held_back = [
        c for c in evaluated.columns if c not in always and (c in (*QUARANTINED, _HELD_FOR) or c.startswith("_raw"))
    ]
    kept = [c for c in evaluated.columns if c in always or not c.startswith("_")]
    return evaluated.select(*kept, *[F.when(F.expr(gate.IS_BAD), F.col(c)).alias(c) for c in held_back])


def kept_columns(rows: DataFrame) -> DataFrame:
    """What a silver table keeps of parsed rows."""
    return rows.select(*LINEAGE, *[name for name in rows.columns if not name.startswith("_")])


def quarantine_rows(held_back: DataFrame, declared: SilverTable) -> DataFrame:
    """One row per row held back: as it came, with all reasons."""
    raw = [name for name in held_back.columns if name.startswith("_raw")]
    reasons = F.coalesce(_HELD_FOR, gate.reasons(declared.rules))
    return held_back.select(*QUARANTINED, *raw, reasons.alias("reasons"))


def none_quarantined(evaluated: DataFrame, declared: SilverTable) -> DataFrame:
    """The columns of quarantine; `evaluated` has no rows."""
    return quarantine_rows(evaluated.withColumn(_HELD_FOR, gate.no_reasons()), declared)
