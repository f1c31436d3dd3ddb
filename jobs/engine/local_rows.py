"""A few rows that the driver has, as a DataFrame."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from jobs.engine.session import java_class

# A literal of the plan is quick to make and to run; one of megabytes would be slow to plan.
_FEW = 500


def local_rows(spark: SparkSession, rows: Sequence[Mapping[str, Any]], schema: str) -> DataFrame:
    """One row per mapping, in one partition; `schema` in DDL names all of its keys. Times must know their zone.

    `createDataFrame` would send them through Python workers, which takes longer than the write they are made for.
    """
    if not rows:
        return no_rows(spark, schema)
    if len(rows) > _FEW:
        return spark.createDataFrame([dict(row) for row in rows], schema).coalesce(1)
    text = json.dumps(rows, default=lambda time: time.isoformat())
    parsed = F.from_json(F.lit(text), f"ARRAY<STRUCT<{schema}>>", {"mode": "FAILFAST"})
    return spark.sql("SELECT 1").select(F.inline(parsed))


def no_rows(spark: SparkSession, schema: StructType | str) -> DataFrame:
    """A DataFrame of these columns (or DDL) without rows, as its plan shows: no task has to look for any."""
    if isinstance(schema, str):
        columns = java_class(spark, "org.apache.spark.sql.types.StructType").fromDDL(schema)
    else:
        columns = spark._jsparkSession.parseDataType(schema.json())
    return DataFrame(spark._jsparkSession.createDataFrame(java_class(spark, "java.util.ArrayList")(), columns), spark)
