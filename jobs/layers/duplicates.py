"""Which of the rows with one key stays."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.engine.sources import SilverTable
from jobs.layers.tables import LINEAGE


def repeated_keys(valid: DataFrame, key: list[str], known: DataFrame | None) -> DataFrame:
    """One row per key that occurs more than once or is in `known` already, with `_is_known`.

    Few rows are duplicates: finding their keys and treating those apart is far cheaper than shuffling whole rows.
    """
    repeated = valid.groupBy(*key).count().where("count > 1").select(*key, F.lit(False).alias("_is_known"))
    if known is None:
        return repeated
    there = known.join(valid.select(*key), key, "left_semi").select(*key, F.lit(True).alias("_is_known"))
    return repeated.unionByName(there).groupBy(*key).agg(F.max("_is_known").alias("_is_known"))


def comes_before(valid: DataFrame, known: DataFrame, key: list[str]) -> bool:
    """Whether a row came in an earlier batch than the one that is `known` by its key."""
    there = known.select(*key, F.col("_batch_id").alias("_known_in"))
    return not valid.select(*key, "_batch_id").join(there, key).where("_batch_id < _known_in").isEmpty()


def rank(valid: DataFrame, duplicates: DataFrame, declared: SilverTable, deliveries: DataFrame | None) -> DataFrame:
    """The rows whose key is among `duplicates`, with `_keep`: whether the row stays.

    None does whose key is known already. Of a new key it is the earliest delivery's; with `deliveries`, that of the
    newest file.
    """
    rows = valid.join(duplicates, declared.key, "inner")
    if deliveries is not None:
        rows = rows.join(F.broadcast(deliveries), list(LINEAGE), "left")
        best_first = [
            F.col(name).desc_nulls_last() for name in ("_time", "_delivery", "_source_file", *declared.order_by)
        ]
    else:
        best_first = [F.col(name).asc_nulls_last() for name in ("_batch_id", *declared.order_by, "_source_file")]
    order = Window.partitionBy(*declared.key).orderBy(*best_first, F.col("_row_hash").asc_nulls_last())
    return rows.withColumn("_keep", (F.row_number().over(order) == 1) & ~F.col("_is_known"))
