"""Publishing 2,000,000 rows to Postgres: a first load, and again with 1 % of the rows changed.

    .venv/bin/python -m scripts.bench.publish

Against what moves the same rows without a release: a plain JDBC append into a table with the same key, and COPY from a
file on the server. Each into the same embedded Postgres, one after the other.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.engine import embedded, postgres
from jobs.engine.database import Database
from jobs.engine.fingerprints import checksum
from jobs.engine.ledger import TableState
from jobs.engine.publication import Publication, publication
from jobs.engine.session import start_session
from jobs.engine.sources import PublishedTable

_COLUMNS = {
    "contact_id": "Identifies the contact",
    "started_at": "When it began",
    "counselor_name": "Who answered",
    "transfer_count": "How many transfers",
    "call_rating": "1 to 5",
}
_TABLE = PublishedTable(
    primary_key=["contact_id"], indexes=[["started_at"]], description="One row per contact.", columns=_COLUMNS
)


def rows(base: DataFrame, rating: int) -> DataFrame:
    """Contacts like those of the sample; of every hundredth, the rating is `rating`."""
    number = F.col("id")
    return base.select(
        F.substring(F.sha2(number.cast("string"), 256), 1, 32).alias("contact_id"),
        F.timestamp_seconds(1_700_000_000 + number).alias("started_at"),
        F.concat(F.lit("Counselor Number "), number % 60).alias("counselor_name"),
        (number % 3).cast("int").alias("transfer_count"),
        F.when(number % 100 == 0, rating).otherwise(number % 5 + 1).cast("int").alias("call_rating"),
    )


def publish(frame: DataFrame, database: Database, run_id: str) -> None:
    """What a run does with one changed table, from its Delta rows to the release."""
    counted = frame.agg(F.count("*"), checksum(frame)).first()
    assert counted is not None
    state = TableState("gold/bench/contacts", row_count=counted[0], checksum=str(counted[1]))
    item: Publication = publication("contacts", _TABLE, state, frame, "bench")
    began = time.monotonic()
    with postgres.connect(database) as connection:
        postgres.prepare(connection, {})
        postgres.create_staging(connection, item)
        postgres.load_staging(frame, database, item)
        loaded = time.monotonic()
        with connection.transaction():
            postgres.release(connection, run_id, "bench", [item], [])
        postgres.drop_staging(connection, [item])
    print(f"        staging {loaded - began:.1f} s, transaction {time.monotonic() - loaded:.1f} s", flush=True)


def append(frame: DataFrame, database: Database) -> None:
    frame.write.format("jdbc").mode("append").options(
        url=database.jdbc_url,
        driver="org.postgresql.Driver",
        user=database.user,
        password=database.password,
        dbtable="plain",
        reWriteBatchedInserts="true",
        batchsize="10000",
    ).save()


def timed(what: str, deed: Callable[[], object], peer: float | None = None) -> float:
    began = time.monotonic()
    deed()
    seconds = time.monotonic() - began
    print(f"{what:<44} {seconds:6.1f} s{f'  {seconds / peer:5.2f} x plain append' if peer else ''}", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows (2000000)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spark = start_session(master="local[2]", log=folder / "log")
        database = embedded.start(folder / "postgres")
        try:
            for number, rating in enumerate((1, 2)):
                rows(spark.range(given.rows), rating).write.parquet(str(folder / f"rows-{number}"))
            first, second = (spark.read.parquet(str(folder / f"rows-{number}")) for number in range(2))
            with psycopg.connect(database.conninfo(), autocommit=True) as connection:
                connection.execute(
                    "CREATE TABLE plain (contact_id text PRIMARY KEY, started_at timestamptz, counselor_name text, "
                    "transfer_count int, call_rating int)"
                )
                connection.execute("CREATE TABLE copied (LIKE plain INCLUDING ALL)")
                append(first.limit(1_000), database)  # the driver and its classes are loaded once
                connection.execute("TRUNCATE plain")
                plain = timed("plain JDBC append, with primary key", lambda: append(first, database))
                file = connection.execute("SELECT current_setting('data_directory') || '/plain.copy'").fetchone()
                assert file is not None
                connection.execute(f"COPY plain TO '{file[0]}'")
                timed(
                    "COPY from a file on the server", lambda: connection.execute(f"COPY copied FROM '{file[0]}'"), plain
                )
            timed("publish, first load", lambda: publish(first, database, "first"), plain)
            timed("publish again, 1 % of the rows changed", lambda: publish(second, database, "second"), plain)
        finally:
            embedded.stop(folder / "postgres")
            spark.stop()


if __name__ == "__main__":
    main()
