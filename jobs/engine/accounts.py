"""Row accounts: what was read is what was written, quarantined, deduplicated and superseded, or the run fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.engine.delta import Lakehouse
from jobs.engine.errors import AssayError
from jobs.engine.ledger import Ledger
from jobs.engine.listing import dotted
from jobs.engine.session import FEW_BYTES

FATES = ("rows_written", "rows_quarantined", "rows_deduplicated", "rows_superseded")
_FOUND = ("found_written", "found_quarantined", "found_to_read")
_TO_READ = _FOUND[-1]
_DELIVERY = ["table", "batch_id", "source_file"]
_REFINE_ANEW = (
    "a transform loses or multiplies rows, or a table was changed from outside: mend that, then have the file's rows "
    "refined anew: assay run --source {source} --from <the day it was first read>"
)
_BRONZE_IS_WRONG = (
    "finish a run that was cut short: assay run. Else bronze was changed from outside, or is of an older backup than "
    "the rest: restore it; or refine what is in the landing folder into another lakehouse (ASSAY_LAKEHOUSE), and "
    "publish that: assay run --take-over"
)


@dataclass(frozen=True)
class Accounted:
    """A table that has accounts, by `source`, `layer` and `table_name`, and the Delta tables that its rows went to.

    `read_from` has the rows that it must have read: all those of batches up to `through`.
    """

    source: str
    layer: str
    name: str
    table: str
    quarantine: str | None = None
    read_from: str | None = None
    through: int = 0


def verify(lake: Lakehouse, ledger: Ledger, tables: Sequence[Accounted]) -> None:
    """Holds the accounts in force of some tables against themselves and against the rows that Delta really has.

    Raises AssayError naming table, file, batch and difference.
    """
    if not tables:
        return
    numbers = {(t.source, t.layer, t.name): number for number, t in enumerate(tables)}
    said = ledger.accounts().select(
        _number(numbers).alias("table"),
        "batch_id",
        "source_file",
        "rows_read",
        *FATES,
        *[F.lit(0).cast("bigint").alias(found) for found in _FOUND],
    )
    counts: dict[str, DataFrame] = {}
    parts = [said.where(F.col("table").isNotNull())]
    for number, accounted in enumerate(tables):
        for table, found in zip((accounted.table, accounted.quarantine, accounted.read_from), _FOUND, strict=True):
            if table and lake.exists(table):
                if table not in counts:
                    counts[table] = _counted(lake, table)
                # Not by a filter: of one and the same plan, Spark counts bronze once, for it and for silver.
                is_meant = F.col("batch_id") <= accounted.through if found == _TO_READ else F.lit(True)
                rows = F.when(is_meant, F.col("rows")).alias(found)
                parts.append(counts[table].select(F.lit(number).alias("table"), "batch_id", "source_file", rows))
    # A union and one aggregation: each delivery's account meets what was found of it, also if one of them is missing.
    union = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), parts)
    sums = [F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in ("rows_read", *FATES, *_FOUND)]
    has_read_from = F.col("table").isin(*[number for number, t in enumerate(tables) if t.read_from])
    is_wrong = F.expr(
        f"rows_read != {' + '.join(FATES)} OR rows_written != found_written OR rows_quarantined != found_quarantined"
    ) | (has_read_from & (F.col("rows_read") != F.col(_TO_READ)))
    wrong = union.groupBy(*_DELIVERY).agg(*sums).where(is_wrong).orderBy(*_DELIVERY).first()
    if wrong is None:
        return
    source, table = tables[wrong["table"]].source, tables[wrong["table"]].table
    accounted_for = sum(wrong[name] for name in FATES)
    has_to_read, wanted = tables[wrong["table"]].read_from is not None, wrong[_TO_READ]
    to_read = f" of {wanted:,} that are in bronze" if has_to_read and wanted != wrong["rows_read"] else ""
    place = f"{dotted(table)} does not balance (file {wrong['source_file']}, batch {wrong['batch_id']})"
    is_bronze = tables[wrong["table"]].layer == "bronze"
    raise AssayError(
        f"{place}: {wrong['rows_read']:,} rows read{to_read}, {accounted_for:,} accounted for; "
        f"{wrong['rows_written']:,} said to be written and {wrong['found_written']:,} in the table; "
        f"{wrong['rows_quarantined']:,} said to be quarantined and {wrong['found_quarantined']:,} in quarantine",
        "nothing was published; " + (_BRONZE_IS_WRONG if is_bronze else _REFINE_ANEW.format(source=source)),
    )


def _number(numbers: Mapping[tuple[str, str, str], int]) -> Column:
    """Which of the tables an account is about; NULL if none."""
    labels = ("source", "layer", "table_name")
    known = [
        F.when(reduce(and_, [F.col(label) == value for label, value in zip(labels, name, strict=True)]), number)
        for name, number in numbers.items()
    ]
    return F.coalesce(*known)


def _counted(lake: Lakehouse, table: str) -> DataFrame:
    """How many `rows` a table has of each delivery; of a small one, each row counts one."""
    lake.verify_log(table)
    rows = lake.read(table).select(F.col("_batch_id").alias("batch_id"), F.col("_source_file").alias("source_file"))
    if lake.size(table) < FEW_BYTES:  # another shuffle would take as long as the rows
        return rows.withColumn("rows", F.lit(1).cast("bigint"))
    return rows.groupBy("batch_id", "source_file").agg(F.count("*").alias("rows"))
