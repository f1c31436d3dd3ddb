"""What tells the rows of a table from others, whatever their order."""

from itertools import combinations

from pyspark.sql import SparkSession

from jobs.engine.fingerprints import fingerprint, metrics

SCHEMA = "a STRING, b STRING, c ARRAY<STRING>, d ARRAY<STRING>"
DIFFERENT = [
    ("x", None, ["p"], ["q"]),
    (None, "x", ["p"], ["q"]),  # a value that moves to another column
    ("x", "", ["p"], ["q"]),  # nothing, and an empty text
    ("x", None, ["p", "q"], []),  # an element that moves to another array
    ("x", None, ["p", "q"], None),  # none, and not known
    ("x", None, None, ["p", "q"]),
    ("x", None, ["p", None], ["q"]),
    ("x", None, [None, "p"], ["q"]),
    ("x", None, ["p"], [None, "q"]),
]


def told(spark: SparkSession, *rows: tuple[object, ...]) -> tuple[int, str]:
    frame = spark.createDataFrame(rows, SCHEMA)
    found = frame.agg(*metrics(frame)).first()
    assert found is not None
    return fingerprint(found.asDict())


def test_rows_that_differ_are_told_from_each_other(spark: SparkSession) -> None:
    sums = [told(spark, row) for row in DIFFERENT]
    assert [pair for pair in combinations(range(len(sums)), 2) if sums[pair[0]] == sums[pair[1]]] == []


def test_the_order_of_rows_does_not_count_and_their_number_does(spark: SparkSession) -> None:
    first, second = DIFFERENT[:2]
    assert told(spark, first, second) == told(spark, second, first)
    assert told(spark, first, first) != told(spark, first)
    assert told(spark) == (0, "0")
