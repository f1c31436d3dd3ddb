"""What tells rows from others: how many they are, and a checksum. Compared wherever rows go from place to place."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StructField

WAY_OF_HASHING = 2  # checksums that were recorded with another number cannot be compared


class Fingerprint(NamedTuple):
    """Of the rows of a table: how many, and the sum of their hashes, as text; `0` of none."""

    row_count: int
    checksum: str

    def plus(self, others: "Fingerprint") -> "Fingerprint":
        """That of both sets of rows together."""
        return Fingerprint(self.row_count + others.row_count, str(int(self.checksum) + int(others.checksum)))


def metrics(frame: DataFrame) -> list[Column]:
    """What makes a fingerprint, as aggregates: how many rows there are (`rows`), and their `checksum`."""
    return [F.count(F.lit(1)).alias("rows"), checksum(frame).alias("checksum")]


def fingerprint(found: Mapping[str, Any]) -> Fingerprint:
    """That of rows of which this was `found` as metrics."""
    return Fingerprint(found["rows"], str(found["checksum"] or 0))


def measured(frame: DataFrame) -> Fingerprint:
    """That of a frame, counted now."""
    row = frame.agg(*metrics(frame)).first()
    assert row is not None
    return fingerprint(row.asDict())


def checksum(frame: DataFrame) -> Column:
    """The sum of the rows' hashes, independent of their order; NULL if there are no rows.

    Whoever changes it gives WAY_OF_HASHING another number.
    """
    parts = ", ".join(part for field in frame.schema for part in _hashed(field))
    # In SQL, as each function of a Column is a call to Java of its own.
    return F.expr(f"sum(CAST(xxhash64({parts}) AS DECIMAL(38, 0)))")


def _hashed(field: StructField) -> list[str]:
    """What is hashed of a column, in SQL, in such an order that no two values run into the same.

    Spark leaves out NULLs and hashes an array as its elements, as if they were columns of their own.
    """
    value = f"`{field.name}`"
    if not isinstance(field.dataType, ArrayType):
        return [f"{value} IS NULL", value]
    return [f"{value} IS NULL", f"size({value})", f"transform({value}, element -> element IS NULL)", value]
