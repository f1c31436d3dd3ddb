"""A few rows that the driver has: as a DataFrame, or to be written without one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StructType

from jobs.engine.session import java_class

# A literal of the plan is quick to make and to run; one of megabytes would be slow to plan.
_FEW = 500


@dataclass(frozen=True)
class LocalRows:
    """Rows that need no task to be written: one per mapping; `schema`, in DDL or not, names all of their keys.

    Times must know their zone, and numbers be finite.
    """

    rows: Sequence[Mapping[str, Any]]
    schema: StructType | str

    def frame(self, spark: SparkSession) -> DataFrame:
        """The same as a DataFrame."""
        return local_rows(spark, self.rows, self.schema)

    def columns(self) -> StructType:
        """The schema, not in DDL."""
        return cast(StructType, StructType.fromDDL(self.schema)) if isinstance(self.schema, str) else self.schema

    def as_json_lines(self) -> str:
        """One line per row. Raises ValueError for a number that is not finite."""
        return "\n".join(json.dumps(row, default=_isoformat, allow_nan=False) for row in self.rows)


# What a table can be made of.
Rows = DataFrame | LocalRows


def local_rows(spark: SparkSession, rows: Sequence[Mapping[str, Any]], schema: StructType | str) -> DataFrame:
    """One row per mapping, in one partition; `schema` in DDL names all of its keys. Times must know their zone.

    `createDataFrame` would send them through Python workers, which takes longer than the write they are made for.
    """
    if not rows:
        return no_rows(spark, schema)
    text = json.dumps(rows, default=_isoformat)
    kind = ArrayType(schema) if isinstance(schema, StructType) else f"ARRAY<STRUCT<{schema}>>"
    is_much = len(rows) > _FEW
    source, found = (_only(spark, text), F.col("value")) if is_much else (spark.sql("SELECT 1"), F.lit(text))
    return source.select(F.inline(F.from_json(found, kind, {"mode": "FAILFAST"})))


def hidden(spark: SparkSession, text: str) -> Column:
    """A text that no plan shows, as literals are shown in event logs, on Spark's web page and in errors."""
    return _only(spark, text).scalar()


def _only(spark: SparkSession, text: str) -> DataFrame:
    """One row, `value`: this text, which is no part of the plan."""
    rows, texts = (
        java_class(spark, "java.util.ArrayList")(),
        java_class(spark, "org.apache.spark.sql.Encoders").STRING(),
    )
    rows.add(text)
    return DataFrame(spark._jsparkSession.createDataset(rows, texts).toDF(), spark)


def no_rows(spark: SparkSession, schema: StructType | str) -> DataFrame:
    """A DataFrame of these columns (or DDL) without rows, as its plan shows: no task has to look for any."""
    none = java_class(spark, "java.util.ArrayList")()
    return DataFrame(spark._jsparkSession.createDataFrame(none, java_columns(spark, schema)), spark)


def java_columns(spark: SparkSession, schema: StructType | str) -> Any:
    """Columns, in DDL or not, as Spark's Java classes have them."""
    if isinstance(schema, str):
        return java_class(spark, "org.apache.spark.sql.types.StructType").fromDDL(schema)
    return spark._jsparkSession.parseDataType(schema.json())


def _isoformat(time: Any) -> str:
    return str(time.isoformat())
