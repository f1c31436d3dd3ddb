"""Rows of the driver: they come out as they went in, few or many, and none."""

from datetime import UTC, datetime
from typing import Any

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.engine.local_rows import _FEW, hidden, local_rows

SCHEMA = "`a b` STRING, n BIGINT, part DOUBLE, list ARRAY<BIGINT>, at TIMESTAMP"
AT = datetime(2026, 11, 25, 5, 18, 5, 46401, tzinfo=UTC)


def row(n: int | None, text: str | None = 'it\'s "quoted" \\ \n é 😀 {}') -> dict[str, Any]:
    return {"a b": text, "n": n, "part": 1 / 3, "list": [2**62, n], "at": AT}


@pytest.mark.parametrize("count", [0, 1, 3, _FEW + 1])
def test_rows_come_out_as_they_went_in(spark: SparkSession, count: int) -> None:
    rows = [row(n) for n in range(count)]
    frame = local_rows(spark, rows, SCHEMA)
    assert frame.schema == spark.createDataFrame([], SCHEMA).schema
    # A time comes out without its zone, in that of this machine.
    found = [{**r.asDict(), "at": r["at"].astimezone(UTC)} for r in frame.orderBy("n").collect()]
    assert found == rows


def test_no_plan_shows_a_hidden_text(spark: SparkSession) -> None:
    frame = spark.range(2).select(F.concat(hidden(spark, "of nobody's business"), F.lit(" "), "id").alias("text"))
    assert sorted(frame.collect()) == [("of nobody's business 0",), ("of nobody's business 1",)]
    query = frame._jdf.queryExecution()
    shown = [query.toString(), query.executedPlan().treeString(), query.optimizedPlan().treeString()]
    assert all("id#" in text and "business" not in text for text in shown)


def test_nothing_is_nothing(spark: SparkSession) -> None:
    assert local_rows(spark, [dict.fromkeys(("a", "b"))], "a STRING, b BIGINT").collect() == [(None, None)]


def test_what_is_not_of_its_type_is_an_error(spark: SparkSession) -> None:
    with pytest.raises((PySparkException, Py4JJavaError), match="MALFORMED_RECORD"):
        local_rows(spark, [{"n": "seven"}], "n BIGINT").collect()
