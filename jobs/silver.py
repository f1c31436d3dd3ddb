"""Silver: bronze rows parsed, checked by the rules and free of duplicates. `spark-submit jobs/silver.py --source S`.

Only batches that silver has not seen are read, unless a file replaced in place took rows out that it has: then the
source's silver is built anew from all live bronze rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.bronze import bronze_table
from jobs.engine import rules as gate
from jobs.engine.batches import History
from jobs.engine.context import Run
from jobs.engine.readers import BRONZE_OF_LINES
from jobs.engine.sources import Source, Transform, input_names

LINEAGE = ("_source_file", "_batch_id")
_QUARANTINED = ("_source_file", "_row_hash", "_batch_id", "_ingested_at", "_raw", "_rescued")


@dataclass
class SilverReport:
    """What silver did for one source: rows by fate, and how many rows each rule found."""

    rows_read: int = 0
    rows_written: int = 0
    rows_quarantined: int = 0
    rows_deduplicated: int = 0
    rows_superseded: int = 0
    rules: list[gate.RuleResult] = field(default_factory=list)


@dataclass(frozen=True)
class _Scope:
    """Which bronze rows one pass of silver takes: batches `after` < b <= `through`; less those of `dead` deliveries."""

    after: int
    through: int
    rebuild: bool
    dead: frozenset[tuple[int, str]]


def silver_table(source: Source, table: str) -> str:
    return f"silver/{source.name}/{table}"


def quarantine_table(source: Source) -> str:
    return f"quarantine/{source.name}/{source.parsed_table}"


def check(run: Run, source: Source) -> None:
    """Raises ConfigurationError if a rule cannot be evaluated; reads no data."""
    no_rows = run.spark.createDataFrame([], BRONZE_OF_LINES)
    table = source.parsed_table
    gate.check_expressions(source.name, table, _parsed(source, no_rows), source.tables[table].rules)


def refine(run: Run, source: Source) -> SilverReport | None:
    """Brings the parsed silver table and its quarantine up to date with bronze; None if they are."""
    scope = _scope(run, source, run.ledger.history(source.name))
    if scope is None:
        return None
    table, declared = source.parsed_table, source.tables[source.parsed_table]
    target, writer = silver_table(source, table), f"silver:{source.name}"
    bronze = run.lake.read(bronze_table(source)).where(F.col("_batch_id") > scope.after)
    bronze = bronze.where(F.col("_batch_id") <= scope.through)
    evaluated = gate.evaluate(_parsed(source, _live(bronze, scope)), declared.rules).persist(
        StorageLevel.MEMORY_AND_DISK
    )
    try:
        results = gate.count_violations(evaluated, declared.rules)
        gate.enforce(target.replace("/", "."), results)
        is_valid = F.size(gate.VIOLATIONS) == 0
        valid, held_back = evaluated.where(is_valid), evaluated.where(~is_valid)
        known = None if scope.rebuild or not run.lake.exists(target) else run.lake.read(target)
        duplicates = _duplicates(valid, declared.key, known).persist(StorageLevel.MEMORY_AND_DISK)
        accounts = _accounts(source, bronze, evaluated, duplicates, scope).persist(StorageLevel.MEMORY_AND_DISK)

        # The silver write comes last: it marks the batches as done. After a crash before it, all of this is repeated
        # to the same effect.
        write = run.lake.overwrite_once if scope.rebuild else run.lake.append_once
        quarantine, already = quarantine_table(source), run.lake.written_through(quarantine_table(source), writer)
        fresh = held_back if scope.rebuild else held_back.where(F.col("_batch_id") > already)
        reasons = gate.reasons(declared.rules).alias("reasons")
        write(
            fresh.select(*_QUARANTINED, reasons, F.lit(run.run_id).alias("_run_id")), quarantine, writer, scope.through
        )

        accounted = 0 if scope.rebuild else run.ledger.accounted_through(writer)
        run.ledger.record_accounts(accounts.where(F.col("batch_id") > accounted), writer, scope.through)

        write(_without_duplicates(valid, duplicates, declared.key), target, writer, scope.through)
        return _report(accounts, results)
    finally:
        evaluated.unpersist()


def _scope(run: Run, source: Source, history: History) -> _Scope | None:
    """What silver has to read; None if nothing."""
    if not run.lake.exists(bronze_table(source)):
        return None
    done = run.lake.written_through(silver_table(source, source.parsed_table), f"silver:{source.name}")
    rebuild = history.changes_what_was_read(done)
    after = 0 if rebuild else done
    if not rebuild and not history.loaded(after):
        return None
    return _Scope(after, history.newest_batch, rebuild, frozenset(history.dead(after)))


def _parsed(source: Source, bronze: DataFrame) -> DataFrame:
    return call(source.silver_transform(source.parsed_table), {"raw": bronze}, source)


def call(function: Transform, tables: Mapping[str, DataFrame], source: Source) -> DataFrame:
    """Calls a transform with what its parameters name: tables, and settings of the source."""
    available = {**source.settings(), **tables}
    return function(*[available[name] for name in input_names(function)])


def _live(bronze: DataFrame, scope: _Scope) -> DataFrame:
    return bronze.join(F.broadcast(_dead(bronze, scope)), list(LINEAGE), "left_anti") if scope.dead else bronze


def _dead(bronze: DataFrame, scope: _Scope) -> DataFrame:
    return bronze.sparkSession.createDataFrame(sorted(scope.dead), "_batch_id BIGINT, _source_file STRING")


def _duplicates(valid: DataFrame, key: list[str], known: DataFrame | None) -> DataFrame:
    """One row per key that occurs more than once or is in `known` already, with `_is_known`.

    Few rows are duplicates: finding their keys and treating those apart is far cheaper than shuffling whole rows.
    """
    repeated = valid.groupBy(*key).count().where("count > 1").select(*key, F.lit(False).alias("_is_known"))
    if known is None:
        return repeated
    there = known.join(valid.select(*key), key, "left_semi").select(*key, F.lit(True).alias("_is_known"))
    return repeated.unionByName(there).groupBy(*key).agg(F.max("_is_known").alias("_is_known"))


def _ranked(valid: DataFrame, duplicates: DataFrame, key: list[str]) -> DataFrame:
    """The rows whose key is among `duplicates`, with `_keep`: of a new key, the earliest delivery's row stays."""
    order = Window.partitionBy(*key).orderBy(
        *[F.col(name).asc_nulls_last() for name in (*reversed(LINEAGE), "_row_hash")]
    )
    keep = (F.row_number().over(order) == 1) & ~F.col("_is_known")
    return valid.join(duplicates, key, "inner").withColumn("_keep", keep)


def _without_duplicates(valid: DataFrame, duplicates: DataFrame, key: list[str]) -> DataFrame:
    """One row per key, with the silver table's columns and the lineage."""
    single = valid.join(duplicates, key, "left_anti")
    kept = _ranked(valid, duplicates, key).where("_keep").select(*single.columns)
    return single.unionByName(kept).select(*LINEAGE, *[name for name in single.columns if not name.startswith("_")])


def _accounts(
    source: Source, bronze: DataFrame, evaluated: DataFrame, duplicates: DataFrame, scope: _Scope
) -> DataFrame:
    """One row per batch and file: what became of each bronze row.

    Read, checked and dropped rows are counted apart: a transform that loses or multiplies rows does not balance.
    """
    key = source.tables[source.parsed_table].key
    is_valid = F.size(gate.VIOLATIONS) == 0
    dropped = _ranked(evaluated.where(is_valid), duplicates, key).where(~F.col("_keep"))
    dead = _dead(bronze, scope).select(*LINEAGE, F.lit(True).alias("is_dead"))
    counted = (
        _counts(bronze.join(F.broadcast(dead), list(LINEAGE), "left"), read="true", superseded="is_dead")
        .unionByName(_counts(evaluated, valid="size(_violations) = 0", quarantined="size(_violations) > 0"), True)
        .unionByName(_counts(dropped, deduplicated="true"), True)
        .groupBy(*LINEAGE)
        .agg(*[F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in _FATES])
    )
    return counted.select(
        F.lit(source.name).alias("source"),
        F.lit("silver").alias("layer"),
        F.lit(source.parsed_table).alias("table_name"),
        F.col("_source_file").alias("source_file"),
        F.col("read").alias("rows_read"),
        F.expr("valid - deduplicated").alias("rows_written"),
        F.col("quarantined").alias("rows_quarantined"),
        F.col("deduplicated").alias("rows_deduplicated"),
        F.col("superseded").alias("rows_superseded"),
        F.col("_batch_id").alias("batch_id"),
    )


_FATES = ("read", "superseded", "valid", "quarantined", "deduplicated")


def _counts(rows: DataFrame, **conditions: str) -> DataFrame:
    """One row per delivery: how many of its rows meet each condition (Spark SQL)."""
    counts = [F.count_if(F.expr(condition)).alias(name) for name, condition in conditions.items()]
    return rows.groupBy(*LINEAGE).agg(*counts)


def _report(accounts: DataFrame, results: list[gate.RuleResult]) -> SilverReport:
    names = ["rows_read", "rows_written", "rows_quarantined", "rows_deduplicated", "rows_superseded"]
    totals = accounts.agg(*[F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in names]).first()
    assert totals is not None
    return SilverReport(**totals.asDict(), rules=results)


if __name__ == "__main__":
    from jobs.cli import run_layer

    run_layer("silver")
