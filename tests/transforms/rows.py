"""Rows into a transform and out of it, with no Spark job but the transform's own: a job for what is expected, sorted as
Spark sorts, would take as long once more."""

from collections.abc import Iterable
from decimal import Decimal
from functools import cache
from typing import Any

from chispa.rows_comparer import assert_basic_rows_equality
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType, _make_type_verifier

from jobs.engine.local_rows import local_rows


def frame_of(spark: SparkSession, rows: Iterable[tuple[Any, ...]], schema: str) -> DataFrame:
    """These rows, of the columns that `schema` names in DDL; a value that is a struct is a mapping."""
    named = [dict(zip(_names(schema), map(_as_text, row), strict=True)) for row in rows]
    return local_rows(spark, named, schema)


def assert_rows(actual: DataFrame, rows: Iterable[tuple[Any, ...]]) -> None:
    """`actual` has exactly these rows, in any order, and each value is of its column's type."""
    schema, expected = actual.schema, list(rows)
    verify = _make_type_verifier(schema)
    for row in expected:
        verify(row)
    # As they would come back from Spark, e.g. times without their zone.
    returned = [schema.fromInternal(schema.toInternal(row)) for row in expected]
    assert_basic_rows_equality(sorted(actual.collect(), key=_order), sorted(returned, key=_order))


@cache
def _names(schema: str) -> list[str]:
    return StructType.fromDDL(schema).names


def _as_text(value: Any) -> Any:
    """JSON, in which they go to Spark, knows no decimals."""
    return str(value) if isinstance(value, Decimal) else value


def _order(row: tuple[Any, ...]) -> list[str]:
    return [str(value.normalize()) if isinstance(value, Decimal) else str(value) for value in row]
