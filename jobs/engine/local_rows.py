"""A few rows that the driver has, as a DataFrame."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

# A literal of the plan is quick to make and to run; one of megabytes would be slow to plan.
_FEW = 500


def local_rows(spark: SparkSession, rows: Sequence[Mapping[str, Any]], schema: str) -> DataFrame:
    """One row per mapping, in one partition; `schema` in DDL names all of its keys. Times must know their zone.

    `createDataFrame` would send them through Python workers, which takes longer than the write they are made for.
    """
    if len(rows) > _FEW:
        return spark.createDataFrame([dict(row) for row in rows], schema).coalesce(1)
    text = json.dumps(rows, default=lambda time: time.isoformat())
    parsed = F.from_json(F.lit(text), f"ARRAY<STRUCT<{schema}>>", {"mode": "FAILFAST"})
    return spark.sql("SELECT 1").select(F.inline(parsed))
