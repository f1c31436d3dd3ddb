"""Each write once: what was written is not written again, and a write that Delta drops is noticed."""

from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import Row, SparkSession

from jobs.engine import delta
from jobs.engine.delta import Lakehouse
from jobs.engine.errors import AssayError


def test_a_number_is_written_once_and_one_that_delta_drops_is_an_error(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, rows = Lakehouse(spark, str(tmp_path)), spark.sql("SELECT 1L AS _batch_id, 'Ann' AS name")
    assert lake.append_once(rows, "t", "writer", 2)
    assert not lake.append_once(rows, "t", "writer", 2)
    assert lake.append_once(rows, "t", "other writer", 1)
    assert lake.replace_once(rows.where("false"), "t", [7], "writer", 3)
    assert (lake.read("t").count(), lake.written_through("t", "writer")) == (2, 3)

    # As when another process makes the same write after this one has looked: Delta says nothing and writes nothing.
    monkeypatch.setattr(delta, "_numbers", lambda _: {})
    blind = Lakehouse(spark, str(tmp_path))
    for write in (blind.append_once, blind.overwrite_once):
        with pytest.raises(AssayError, match="t: Delta dropped write 3 of writer, as if it had been made before"):
            write(rows, "t", "writer", 3)
    assert lake.read("t").count() == 2


def test_what_was_overwritten_is_read_from_its_files_as_long_as_it_is_the_newest(
    tmp_path: Path, spark: SparkSession
) -> None:
    lake = Lakehouse(spark, str(tmp_path / "odd [name] & ü"))
    first = lake.overwrite(spark.sql("SELECT 1 AS id, 'Ann' AS name"), "gold/s/t")
    second = lake.overwrite(spark.sql("SELECT 2 AS id, date '2024-05-01' AS day"), "gold/s/t")

    def asks_the_log(version: int | None) -> bool:
        relation = lake.read("gold/s/t", version)._jdf.queryExecution().analyzed().collectLeaves().head().relation()
        return "Delta" in relation.fileFormat().getClass().getSimpleName()

    newest = lake.read("gold/s/t")
    assert (
        newest.collect() == Lakehouse(spark, lake.root).read("gold/s/t").collect() == [Row(id=2, day=date(2024, 5, 1))]
    )
    assert lake.read("gold/s/t", first).collect() == [Row(id=1, name="Ann")]
    assert lake.read("gold/s/t", second).collect() == newest.collect()
    assert [asks_the_log(version) for version in (first, second, None)] == [True, False, False]

    # Somebody else's write, and a table without rows.
    Lakehouse(spark, lake.root).overwrite(spark.sql("SELECT 3 AS id"), "gold/s/t")
    assert lake.read("gold/s/t").collect() == [Row(id=3)]
    assert lake.read("gold/s/t", second).collect() == newest.collect()
    assert asks_the_log(None)
    lake.overwrite(spark.sql("SELECT 4 AS id WHERE false"), "gold/s/t")
    assert (lake.read("gold/s/t").collect(), lake.read("gold/s/t").columns) == ([], ["id"])

    # Of a table of many files only the first part of the commit is looked at, and Delta is asked.
    lake.overwrite(spark.range(50).repartition(50), "gold/s/t")
    assert asks_the_log(None)
    assert lake.read("gold/s/t").count() == 50
