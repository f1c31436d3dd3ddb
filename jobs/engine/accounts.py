"""Row accounts: what was read is what was written, quarantined, deduplicated and superseded, or the run fails."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.engine.delta import Lakehouse
from jobs.engine.errors import AssayError
from jobs.engine.ledger import Ledger

DELIVERY = ["batch_id", "source_file"]
_FATES = "rows_written + rows_quarantined + rows_deduplicated + rows_superseded"


def verify(lake: Lakehouse, ledger: Ledger, account: tuple[str, str, str], table: str, quarantine: str | None) -> None:
    """Holds the accounts in force of one table against themselves and against the rows that Delta really has.

    `account` is (source, layer, table_name); `table` and `quarantine` are Delta tables (`silver/contacts/contacts`).
    Raises AssayError naming table, file, batch and difference.
    """
    is_asked = F.struct("source", "layer", "table_name") == F.struct(*map(F.lit, account))
    accounts = ledger.accounts().where(is_asked)
    found = _rows(lake, table, "found_written")
    held = _rows(lake, quarantine, "found_quarantined") if quarantine else None
    joined = accounts.join(found, DELIVERY, "full")
    joined = (
        joined.join(held, DELIVERY, "full") if held is not None else joined.withColumn("found_quarantined", F.lit(0))
    )
    joined = joined.na.fill(0)
    wrong = joined.where(
        f"rows_read != {_FATES} or rows_written != found_written or rows_quarantined != found_quarantined"
    ).orderBy(*DELIVERY)
    first = wrong.first()
    if first is None:
        return
    accounted = sum(first[name] for name in _FATES.split(" + "))
    place = f"{table.replace('/', '.')} does not balance (file {first['source_file']}, batch {first['batch_id']})"
    raise AssayError(
        f"{place}: {first['rows_read']:,} rows read, {accounted:,} accounted for; "
        f"{first['rows_written']:,} said to be written and {first['found_written']:,} in the table; "
        f"{first['rows_quarantined']:,} said to be quarantined and {first['found_quarantined']:,} in quarantine",
        "nothing was published; a transform loses or multiplies rows, or a table was changed from outside",
    )


def _rows(lake: Lakehouse, table: str, name: str) -> DataFrame:
    columns = [F.col("_batch_id").alias("batch_id"), F.col("_source_file").alias("source_file")]
    if not lake.exists(table):
        return lake.spark.createDataFrame([], f"batch_id BIGINT, source_file STRING, {name} BIGINT")
    return lake.read(table).groupBy(*columns).agg(F.count("*").alias(name))
