"""Row accounts: what was read is what was written, quarantined, deduplicated and superseded, or the run fails."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.engine.delta import Lakehouse
from jobs.engine.errors import AssayError
from jobs.engine.ledger import Ledger

_FATES = ("rows_written", "rows_quarantined", "rows_deduplicated", "rows_superseded")
_FOUND = ("found_written", "found_quarantined")
_DELIVERY = ["layer", "table_name", "batch_id", "source_file"]


@dataclass(frozen=True)
class Accounted:
    """A table that has accounts, by their `layer` and `table_name`, and the Delta tables that its rows went to."""

    layer: str
    name: str
    table: str
    quarantine: str | None = None


def verify(lake: Lakehouse, ledger: Ledger, source: str, tables: Sequence[Accounted]) -> None:
    """Holds the accounts in force of a source's tables against themselves and against the rows Delta really has.

    Raises AssayError naming table, file, batch and difference.
    """
    is_asked = F.struct("layer", "table_name").isin([F.struct(F.lit(t.layer), F.lit(t.name)) for t in tables])
    said = ledger.accounts().where((F.col("source") == source) & is_asked)
    counted = [said.withColumns({found: F.lit(0) for found in _FOUND})]
    for accounted in tables:
        for table, found in zip((accounted.table, accounted.quarantine), _FOUND, strict=True):
            if table and lake.exists(table):
                counted.append(_rows(lake, accounted, table, found))
    # A union and one aggregation: each delivery's account meets what was found of it, also if one of them is missing.
    counts = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), counted)
    sums = [F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in ("rows_read", *_FATES, *_FOUND)]
    is_wrong = f"rows_read != {' + '.join(_FATES)} OR rows_written != {_FOUND[0]} OR rows_quarantined != {_FOUND[1]}"
    wrong = counts.groupBy(*_DELIVERY).agg(*sums).where(is_wrong).orderBy(*_DELIVERY).first()
    if wrong is None:
        return
    table = next(t.table for t in tables if (t.layer, t.name) == (wrong["layer"], wrong["table_name"]))
    accounted_for = sum(wrong[name] for name in _FATES)
    place = f"{table.replace('/', '.')} does not balance (file {wrong['source_file']}, batch {wrong['batch_id']})"
    raise AssayError(
        f"{place}: {wrong['rows_read']:,} rows read, {accounted_for:,} accounted for; "
        f"{wrong['rows_written']:,} said to be written and {wrong['found_written']:,} in the table; "
        f"{wrong['rows_quarantined']:,} said to be quarantined and {wrong['found_quarantined']:,} in quarantine",
        "nothing was published; a transform loses or multiplies rows, or a table was changed from outside",
    )


def _rows(lake: Lakehouse, accounted: Accounted, table: str, name: str) -> DataFrame:
    """One row per delivery: how many rows of it the table has, as `name`."""
    labels = [F.lit(accounted.layer).alias("layer"), F.lit(accounted.name).alias("table_name")]
    delivery = [F.col("_batch_id").alias("batch_id"), F.col("_source_file").alias("source_file")]
    return lake.read(table).groupBy(*delivery).agg(F.count("*").alias(name)).select("*", *labels)
