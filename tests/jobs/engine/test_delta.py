"""Each write once: what was written is not written again, and a write that Delta drops is noticed."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DateType, StructField, StructType

from jobs.engine import delta, delta_log
from jobs.engine.delta import Lakehouse, _verify_types
from jobs.engine.errors import AssayError
from jobs.engine.faults import explained
from jobs.engine.ledger import TableState
from jobs.engine.local_rows import LocalRows
from jobs.engine.session import session_settings
from jobs.maintain import _is_founded
from tests.lab import forget_tables


def test_a_number_is_written_once_and_one_that_delta_drops_is_an_error(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, rows = Lakehouse(spark, str(tmp_path)), spark.sql("SELECT 1L AS _batch_id, 'Ann' AS name")
    assert lake.append_once(rows, "t", "writer", 2)
    assert not lake.append_once(rows, "t", "writer", 2)
    assert lake.append_once(rows, "t", "other writer", 1)
    assert lake.replace_once(rows.where("false"), "t", "_batch_id IN (7)", "writer", 3)
    assert (lake.read("t").count(), lake.written_through("t", "writer")) == (2, 3)

    # Not a merge that Delta refuses in its own words, or makes.
    says = "t.name is string in the table, and date by the present code; nothing was published"
    with pytest.raises(AssayError, match=says):
        lake.append_once(spark.sql("SELECT 8L AS _batch_id, DATE'2024-01-01' AS name"), "t", "writer", 8)
    assert (lake.read("t").count(), lake.written_through("t", "writer")) == (2, 3)

    other_type = StructType([StructField("name", DateType())])
    for table, way_out in {
        "silver/a/b": "remove the folder silver/a/b of the lakehouse",
        "quarantine/a/b": "remove the folders quarantine/a/b and silver/a/b of the lakehouse",
        "bronze/a/b": "go on in another lakehouse",
    }.items():
        with pytest.raises(AssayError, match=r"a\.b\.name is string in the table") as error:
            _verify_types(table, rows.schema, other_type)
        assert way_out in str(error.value.hint)

    # Another process makes the same write after this one has looked: it is not made twice, nor taken for one's own.
    def looks_too_early(snapshot: object) -> dict[str, int]:
        found = numbers(snapshot)
        monkeypatch.undo()
        assert Lakehouse(spark, lake.root).append_once(rows, "t", "writer", 4)
        return found

    numbers = delta_log.numbers
    monkeypatch.setattr(delta_log, "numbers", looks_too_early)
    with pytest.raises(AssayError, match="t: another process has written to it since this one looked"):
        lake.append_once(rows, "t", "writer", 4)
    assert lake.read("t").count() == 3

    # As where Delta takes it for made between that look and the write: it says nothing and writes nothing.
    wider = rows.withColumn("city", F.lit("Bonn"))
    monkeypatch.setattr(delta_log, "numbers", lambda _: {})
    with pytest.raises(AssayError, match="t: Delta dropped write 4 of writer, as if it had been made before"):
        lake.append_once(wider, "t", "writer", 4)
    assert lake.read("t").count() == 3


def test_a_new_table_is_made_by_the_commit_that_delta_makes_which_does_it_where_a_column_has_no_type(
    tmp_path: Path, spark: SparkSession
) -> None:
    lake = Lakehouse(spark, str(tmp_path / "odd [name] & ü"))
    rows = spark.sql("SELECT 1L AS _batch_id, 'Ann' AS name, array(named_struct('n', date'2024-01-01')) AS list")

    def first_commit(table: str) -> dict[str, Any]:
        log = Path(lake.path(table), "_delta_log/00000000000000000000.json")
        actions = {kind: said for line in log.read_text().splitlines() for kind, said in json.loads(line).items()}
        for kind, own in {"metaData": ("id", "createdTime"), "txn": ("lastUpdated",)}.items():
            for name in own:
                actions[kind].pop(name, None)
        stats = json.loads(actions["add"]["stats"])
        return {**{kind: actions[kind] for kind in ("protocol", "metaData", "txn")}, "stats": stats}

    assert lake.append_once(rows, "own", "writer", 1)
    deltas = rows.write.format("delta").options(txnAppId="writer", txnVersion="1")
    deltas.option("delta.dataSkippingNumIndexedCols", "1").save(lake.path("delta"))
    assert first_commit("own") == first_commit("delta")
    assert (lake.written_through("own", "writer"), lake.file_count("own")) == (1, 1)
    assert lake.read("own").collect() == lake.read_log("own").collect() == rows.collect()

    assert delta_log.create(spark, rows, lake._log("own"), {}) is None, "there is one"
    with pytest.raises(AnalysisException, match="PATH_NOT_FOUND"):
        lake.read("none").collect()
    assert lake.overwrite(rows.where("false"), "empty", {"delta.logRetentionDuration": "interval 9 days"}) == 0
    empty = lake.read("empty")
    assert (empty.dtypes, empty.count(), lake.file_count("empty")) == (rows.dtypes, 0, 0)
    assert lake.table_property("empty", "delta.logRetentionDuration") == "interval 9 days"
    unknown = rows.withColumn("nothing", F.lit(None))
    assert delta_log.create(spark, unknown, lake._log("unknown"), {}) is None
    assert lake.overwrite(unknown, "unknown", {"delta.logRetentionDuration": "interval 9 days"}) == 0
    assert lake.read_log("unknown").select(*rows.columns).collect() == rows.collect()
    assert lake.table_property("unknown", "delta.logRetentionDuration") == "interval 9 days"
    with pytest.raises(AnalysisException, match="DELTA_INVALID_CHARACTERS_IN_COLUMN_NAME"):
        lake.overwrite(rows.withColumnRenamed("name", "a name"), "blank")


def test_a_table_that_another_process_makes_meanwhile_is_not_made_twice(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, other = Lakehouse(spark, str(tmp_path)), Lakehouse(spark, str(tmp_path))

    def writes_too_early(*args: Any) -> int:
        monkeypatch.undo()
        other.append_once(spark.sql("SELECT 1 AS id"), "t", "writer", 1)
        return commit(*args)

    commit = delta_log._commit
    monkeypatch.setattr(delta_log, "_commit", writes_too_early)
    with pytest.raises(Exception, match="DELTA_") as raised:
        lake.append_once(spark.sql("SELECT 1 AS id"), "t", "writer", 1)
    error = explained(raised.value)
    assert error is not None
    assert error.message == "another process wrote to a table of the lakehouse while this one did"
    assert ids(lake.read_log("t")) == [1]


def test_rows_are_added_in_a_commit_of_their_own_and_as_delta_does_it_where_columns_differ(
    tmp_path: Path, spark: SparkSession
) -> None:
    lake = Lakehouse(spark, str(tmp_path))
    lake.append_once(spark.sql("SELECT 1 AS id, 'Ann' AS name"), "t", "writer", 1)

    def added(rows: str, number: int) -> int | None:
        done = delta_log.append(spark, spark.sql(rows), lake._log("t"), lake.version("t") or 0, "writer", number)
        return done and done.version

    assert added("SELECT 2 AS id, 'Bob' AS name", 2) == 1
    assert added("SELECT 2 AS id, 'Bob' AS name WHERE false", 3) == 2, "what is written is a number, too"
    assert lake.written_through("t", "writer") == 3
    assert delta_log.append(spark, spark.sql("SELECT 3 AS id, 'Cyd' AS name"), lake._log("t"), 1, "writer", 4) is None
    # In another order, or of other types: Delta finds each column by its name, and makes those that are missing.
    assert added("SELECT 'Cyd' AS name, 3 AS id", 4) is None
    assert added("SELECT 3 AS id", 4) is None
    assert lake.append_once(spark.sql("SELECT 'Cyd' AS name, 3 AS id, 'Bonn' AS city"), "t", "writer", 4)
    everything = {(1, "Ann", None), (2, "Bob", None), (3, "Cyd", "Bonn")}
    for read in (lake.read, lake.read_log):
        assert {tuple(row) for row in read("t").collect()} == everything
    forget_tables(spark)
    assert not Lakehouse(spark, lake.root).append_once(spark.sql("SELECT 3 AS id"), "t", "writer", 4)


def test_a_small_table_is_overwritten_by_the_names_of_its_files_and_others_as_delta_does_it(
    tmp_path: Path, spark: SparkSession
) -> None:
    lake = Lakehouse(spark, str(tmp_path / "odd [name] & ü"))

    def person(number: int) -> DataFrame:
        return spark.sql(f"SELECT {number} AS id, array('Ann') AS names")

    def write(frame: DataFrame, writer: str | None = None, number: int = 0) -> int | None:
        done = delta_log.overwrite(spark, frame, lake._log("t"), lake.version("t") or 0, writer, number)
        return done and done.version

    lake.overwrite(person(1), "t")
    assert write(person(2)) == 1
    assert lake.read("t").collect() == lake.read_log("t").collect() == [Row(id=2, names=["Ann"])]
    assert lake.read("t", 0).collect() == [Row(id=1, names=["Ann"])]
    for number, rows in ((1, person(3)), (2, person(4).where("false")), (3, person(5))):
        assert lake.overwrite_once(rows, "t", "writer", number)
        assert not lake.overwrite_once(person(9), "t", "writer", number)
        assert lake.read_log("t").collect() == lake.read("t").collect() == rows.collect()
    forget_tables(spark)
    assert (lake.version("t"), lake.written_through("t", "writer"), lake.file_count("t")) == (4, 3, 1)
    assert write(person(7)) == 5, "still the quick way: the checksum file names the files"
    with session_settings(spark, {"spark.databricks.delta.retentionDurationCheck.enabled": "false"}):
        DeltaTable.forPath(spark, lake.path("t")).vacuum(0)
    assert len(list(Path(lake.path("t")).glob("*.parquet"))) == 1, "Delta knows which files went"
    lake.overwrite(person(8).where("false"), "t")
    version = lake.version("t") or 0
    assert write(person(8).where("false")) == lake.version("t") == version, "no rows for none are no change"

    # What it does not do: other columns, another version, many files, rows that may be deleted in their file.
    assert write(person(6).withColumn("city", F.lit("Bonn"))) is None
    assert delta_log.overwrite(spark, person(6), lake._log("t"), version - 1) is None
    lake.overwrite(person(6).withColumn("city", F.lit("Bonn")), "t")
    assert lake.read_log("t").collect() == [Row(id=6, names=["Ann"], city="Bonn")]
    lake.overwrite(spark.range(50).repartition(50), "t")
    assert write(spark.range(1)) is None
    lake.overwrite(spark.range(1).coalesce(1), "t")
    vectors = "'delta.enableDeletionVectors' = 'true'"
    spark.sql(f"ALTER TABLE delta.`{lake.path('t')}` SET TBLPROPERTIES ({vectors})")
    assert write(spark.range(2)) is None
    lake.overwrite(spark.range(2), "t")
    assert lake.read_log("t").count() == 2


def test_rows_of_the_driver_are_written_without_a_task_and_by_delta_where_there_is_more_to_do(
    tmp_path: Path, spark: SparkSession
) -> None:
    lake, schema = Lakehouse(spark, str(tmp_path / "odd [name] & ü")), "text STRING, n BIGINT, list ARRAY<BIGINT>"
    schema += ", part DOUBLE, at TIMESTAMP, is_so BOOLEAN"
    at = datetime(2026, 11, 25, 5, 18, 5, 46401, tzinfo=UTC)

    def row(n: int) -> dict[str, Any]:
        text = f'{n} it\'s "quoted" \\ \n \r\u2028 é 😀 {{}}'
        return {"text": text, "n": 2**62 + n, "list": [n, None], "part": 1 / 3, "at": at, "is_so": True}

    def found(table: str) -> list[dict[str, Any]]:
        rows = lake.read(table).orderBy("n").collect()
        assert rows == lake.read_log(table).orderBy("n").collect()
        return [{**r.asDict(), "at": r["at"] and r["at"].astimezone(UTC)} for r in rows]

    def files_of_tasks(table: str) -> int:
        return len(list(Path(lake.path(table)).glob("part-*")))

    assert lake.append(LocalRows([row(1), row(2)], schema), "t") == 0
    assert lake.read("t").schema == spark.createDataFrame([], schema).schema
    assert lake.append_once(LocalRows([row(3)], schema), "t", "writer", 1)
    assert not lake.append_once(LocalRows([row(4)], schema), "t", "writer", 1)
    assert (found("t"), lake.file_count("t")) == ([row(1), row(2), row(3)], 2)
    nothing = dict.fromkeys(row(0))
    assert lake.overwrite(LocalRows([nothing], schema), "t") == 2
    assert found("t") == [nothing]
    # None: what is written is a number; nothing at all is no version.
    assert lake.append_once(LocalRows([], lake.read("t").schema), "t", "writer", 2)
    assert (lake.append(LocalRows([], schema), "t"), lake.written_through("t", "writer")) == (3, 2)
    assert lake.overwrite(LocalRows([], schema), "t") == 4
    assert (found("t"), files_of_tasks("t")) == ([], 0)
    assert lake.overwrite(LocalRows([], "a STRING"), "empty") == 0
    assert (lake.read("empty").dtypes, lake.read("empty").count()) == ([("a", "string")], 0)

    # A new column, of which Delta makes one; a table that is to be asked whether it takes a row, or where it goes.
    assert lake.append_once(LocalRows([{**row(4), "more": 1}], f"{schema}, more INT"), "t", "writer", 3)
    assert (found("t"), files_of_tasks("t")) == ([{**row(4), "more": 1}], 1)
    lake.append(LocalRows([row(1)], schema), "checked")
    lake.append(LocalRows([], schema), "named")
    spark.sql("SELECT 0 AS id, 'Ann' AS name").write.format("delta").partitionBy("name").save(lake.path("parts"))
    spark.sql(f"ALTER TABLE delta.`{lake.path('checked')}` ADD CONSTRAINT few CHECK (n < {2**62 + 3})")
    names = "'delta.columnMapping.mode' = 'name', 'delta.minReaderVersion' = '2', 'delta.minWriterVersion' = '5'"
    spark.sql(f"ALTER TABLE delta.`{lake.path('named')}` SET TBLPROPERTIES ({names})")
    with pytest.raises(Exception, match="CHECK constraint few"):
        lake.append(LocalRows([row(3)], schema), "checked")
    lake.append(LocalRows([row(2)], schema), "checked")
    lake.append(LocalRows([row(2)], schema), "named")
    lake.append(LocalRows([{"id": 7, "name": "Bob B"}], "id INT, name STRING"), "parts")
    assert (found("checked"), found("named")) == ([row(1), row(2)], [row(2)])
    assert sorted(map(tuple, lake.read("parts").collect())) == [(0, "Ann"), (7, "Bob B")]

    # New tables that are to be otherwise in this session; rows that are to be encrypted; more than go into one file.
    for setting, value in {"columnMapping.mode": "name", "enableRowTracking": "true"}.items():
        with session_settings(spark, {f"spark.databricks.delta.properties.defaults.{setting}": value}):
            lake.append(LocalRows([row(1)], schema), setting)
            lake.append(spark.createDataFrame([row(2)], schema), setting)
            lake.append(LocalRows([row(3)], schema), setting)
        assert found(setting) == [row(1), row(2), row(3)]
    columns = spark.createDataFrame([], schema).schema
    with session_settings(spark, {"parquet.crypto.factory.class": "org.example.Keys"}):
        assert delta_log.create(spark, LocalRows([row(1)], columns), lake._log("secret"), {}) is None
    with session_settings(spark, {"delta.kernel.default.parquet.writer.targetMaxFileSize": "1000"}):
        lake.append(LocalRows([row(n) for n in range(500)], columns), "large")
    assert found("large") == [row(n) for n in range(500)]
    assert lake.file_count("large") > 1
    for codec in ("none", "zstd"):
        with session_settings(spark, {"spark.sql.parquet.compression.codec": codec}):
            lake.append(LocalRows([row(n) for n in range(500)], columns), codec)
    assert found("none") == found("zstd")
    assert lake.size("zstd") < lake.size("none") / 2

    with pytest.raises(Py4JJavaError, match="seven"):
        lake.append(LocalRows([{"a": "Ann", "n": "seven"}], "a STRING, n BIGINT"), "wrong")
    with pytest.raises(ValueError, match="not JSON compliant"):
        lake.append(LocalRows([{"part": float("nan")}], "part DOUBLE"), "wrong")
    assert lake.version("wrong") is None


def test_the_log_is_not_asked_for_files_that_this_process_has_written_itself(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, other = Lakehouse(spark, str(tmp_path)), Lakehouse(spark, str(tmp_path))
    asked: list[int] = []
    files = delta_log.files

    def watched(session: SparkSession, snapshot: Any) -> Any:
        asked.append(int(snapshot.version()))
        return files(session, snapshot)

    monkeypatch.setattr(delta_log, "files", watched)

    def found() -> list[int] | None:
        assert ids(lake.read("t")) == ids(lake.read_log("t"))
        return ids(lake.read("t"))

    lake.append_once(spark.sql("SELECT 1L AS id"), "t", "writer", 1)
    lake.append(LocalRows([{"id": 2}], "id BIGINT"), "t")
    assert (found(), asked) == ([1, 2], [])
    other.append(spark.sql("SELECT 3L AS id"), "t")
    assert (found(), asked) == ([1, 2, 3], [2])
    other.append(spark.sql("SELECT 4L AS id"), "t")
    lake.append(spark.sql("SELECT 5L AS id"), "t")
    assert (found(), asked) == ([1, 2, 3, 4, 5], [2, 4])
    asked.clear()
    lake.overwrite(spark.sql("SELECT 6L AS id"), "t")
    assert (found(), asked) == ([6], [4]), "to know what goes"

    # Made anew by another process, with versions of the same numbers.
    shutil.rmtree(lake.path("t"))
    for number in range(5):
        forget_tables(spark)
        lake._logs.clear()
        Lakehouse(spark, lake.root).append(LocalRows([{"id": number}], "id BIGINT"), "t")
    asked.clear()
    assert (lake._files["t"].version, lake.version("t")) == (5, 4)
    lake.append(LocalRows([{"id": 5}], "id BIGINT"), "t")
    assert (found(), asked) == ([0, 1, 2, 3, 4, 5], [5])

    monkeypatch.setattr(delta_log, "FEW_FILES", 8)
    for number in range(6, 14):
        lake.append(LocalRows([{"id": number}], "id BIGINT"), "t")
    assert (found(), asked) == (list(range(14)), [5, 13])


def test_what_the_log_lost_is_missed_also_where_this_process_has_written_it(
    tmp_path: Path, spark: SparkSession
) -> None:
    lake = Lakehouse(spark, str(tmp_path))
    lake.overwrite(spark.sql("SELECT 1 AS id"), "t")
    lake.overwrite(spark.sql("SELECT 2 AS id"), "t")
    lake.verify_log("t")
    lake.overwrite(spark.sql("SELECT 3 AS id"), "t")
    Path(lake.path("t"), "_delta_log/00000000000000000002.json").write_text("")
    with pytest.raises(AssayError, match="damaged"):
        lake.verify_log("t")


@pytest.mark.parametrize("write", [delta_log.overwrite, delta_log.append])
def test_what_another_process_commits_meanwhile_is_not_lost_and_not_written_twice(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, write: Callable[..., object]
) -> None:
    lake, other = Lakehouse(spark, str(tmp_path)), Lakehouse(spark, str(tmp_path))
    for id in (1, 2):
        lake.overwrite(spark.sql(f"SELECT {id} AS id"), "t")

    def looks_too_early(*args: Any) -> bool:
        found = is_as_expected(*args)
        monkeypatch.undo()
        other.append_once(spark.sql("SELECT 3 AS id"), "t", "writer", 1)
        return found

    is_as_expected = delta_log._is_as_expected
    monkeypatch.setattr(delta_log, "_is_as_expected", looks_too_early)
    with pytest.raises(Exception, match="DELTA_CONCURRENT_APPEND") as raised:
        write(spark, spark.sql("SELECT 3 AS id"), lake._log("t"), 1, "writer", 1)
    error = explained(raised.value)
    assert error is not None
    assert error.message == "another process wrote to a table of the lakehouse while this one did"
    assert ids(lake.read_log("t")) == [2, 3]


def test_a_small_table_is_read_by_the_names_of_its_files_and_others_as_the_log_says(
    tmp_path: Path, spark: SparkSession
) -> None:
    lake = Lakehouse(spark, str(tmp_path / "odd [name] & ü"))
    first, second = (lake.overwrite(spark.sql(f"SELECT {n} AS id, 'Ann' AS name"), "gold/s/t") for n in (1, 2))

    def asks_the_log(version: int | None = None, table: str = "gold/s/t") -> bool:
        relation = lake.read(table, version)._jdf.queryExecution().analyzed().collectLeaves().head().relation()
        return "Delta" in relation.fileFormat().getClass().getSimpleName()

    newest = lake.read("gold/s/t")
    assert newest.collect() == lake.read_log("gold/s/t").collect() == [Row(id=2, name="Ann")]
    assert lake.read("gold/s/t", first).collect() == [Row(id=1, name="Ann")]
    assert lake.read("gold/s/t", second).collect() == newest.collect()
    assert [asks_the_log(version) for version in (first, second, None)] == [True, False, False]

    # Somebody else's write, and one more; other columns; a table without rows.
    Lakehouse(spark, lake.root).overwrite(spark.sql("SELECT 3 AS id, 'Bob' AS name"), "gold/s/t")
    assert (lake.read("gold/s/t").collect(), asks_the_log()) == ([Row(id=3, name="Bob")], False)
    assert lake.read("gold/s/t", second).collect() == newest.collect()
    lake.append_once(spark.sql("SELECT 4 AS id, 'Cyd' AS name"), "gold/s/t", "writer", 1)
    assert sorted(lake.read("gold/s/t").collect()) == [Row(id=3, name="Bob"), Row(id=4, name="Cyd")]
    assert not asks_the_log()
    lake.overwrite(spark.sql("SELECT 5 AS id, date '2024-05-01' AS day"), "gold/s/t")
    assert (lake.read("gold/s/t").collect(), asks_the_log()) == ([Row(id=5, day=date(2024, 5, 1))], False)
    lake.overwrite(spark.sql("SELECT 6 AS id WHERE false"), "gold/s/t")
    assert (lake.read("gold/s/t").collect(), lake.read("gold/s/t").columns) == ([], ["id"])

    # Many files; columns that have other names there; rows that may be deleted in their file; no checksum file.
    lake.overwrite(spark.range(50).repartition(50), "gold/s/t")
    assert (lake.read("gold/s/t").count(), asks_the_log()) == (50, True)
    for _ in range(2):
        lake.overwrite(spark.range(50).coalesce(1), "gold/s/t")
    assert not asks_the_log()
    path = lake.path("gold/s/t")
    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.columnMapping.mode' = 'name')")
    spark.sql(f"ALTER TABLE delta.`{path}` RENAME COLUMN id TO other")
    assert (lake.read("gold/s/t").where("other < 7").count(), asks_the_log()) == (7, True)
    lake.overwrite(spark.range(2).coalesce(1), "gold/s/v")
    assert not asks_the_log(table="gold/s/v")
    vectors = "'delta.enableDeletionVectors' = 'true'"
    spark.sql(f"ALTER TABLE delta.`{lake.path('gold/s/v')}` SET TBLPROPERTIES ({vectors})")
    assert (lake.read("gold/s/v").count(), asks_the_log(table="gold/s/v")) == (2, True)
    lake.overwrite(spark.range(3).coalesce(1), "gold/s/u")
    (tmp_path / "odd [name] & ü/gold/s/u/_delta_log/00000000000000000000.crc").unlink()
    forget_tables(spark)
    lake = Lakehouse(spark, lake.root)
    assert (lake.read("gold/s/u").count(), asks_the_log(table="gold/s/u")) == (3, False)


def test_what_the_log_says_is_found_with_and_without_checkpoints_and_held_against_the_checksum_file(
    tmp_path: Path, spark: SparkSession
) -> None:
    lake = Lakehouse(spark, str(tmp_path / "odd [name] & ü"))

    def asks_delta() -> bool:
        leaves = lake.read("t")._jdf.queryExecution().analyzed().collectLeaves().head()
        return "LogicalRelation" in leaves.nodeName() and "Delta" in leaves.relation().fileFormat().getClass().getName()

    with session_settings(spark, {"spark.databricks.delta.properties.defaults.checkpointInterval": "4"}):
        lake.append_once(spark.sql("SELECT 0 AS id"), "t", "writer", 1)
    for number in range(1, 6):
        lake.append_once(spark.sql(f"SELECT {number} AS id"), "t", "writer", number + 1)
    logs = Path(lake.path("t"), "_delta_log")
    assert list(logs.glob("*4.checkpoint*")), "what follows is to start from one"
    everything = list(range(6))
    assert (ids(lake.read("t")), asks_delta()) == (everything, False)
    lake.replace_once(spark.sql("SELECT 20 AS id"), "t", "id = 20", "writer", 7)
    spark.sql(f"DELETE FROM delta.`{lake.path('t')}` WHERE id IN (0, 5)")
    everything = [*range(1, 5), 20]
    assert (ids(lake.read("t")), asks_delta()) == (everything, False)

    # A log that has lost a file, or has another one in its place, does not agree with the checksum file: nothing is
    # read, and nothing overwritten, for later checksum files would carry that on. What was before is there.
    newest = logs / f"{lake.version('t') or 0:020}.crc"
    text = newest.read_text()
    newest.with_name(f".{newest.name}.crc").unlink(missing_ok=True)
    damage = r"the Delta log of file:/.*/t is damaged: it does not have the files that 0"
    for name in ("numFiles", "tableSizeBytes"):
        checksum = json.loads(text)
        newest.write_text(json.dumps({**checksum, name: checksum[name] + 1}))
        forget_tables(spark)
        damaged = Lakehouse(spark, lake.root)
        for use in (lambda: damaged.read("t"), lambda: damaged.overwrite(spark.sql("SELECT 1 AS id"), "t")):  # noqa: B023
            with pytest.raises(AssayError, match=damage):
                use()
        assert ids(damaged.read_log("t")) == everything
        assert ids(damaged.read("t", 0)) == [0]
    newest.write_text(text)
    forget_tables(spark)
    lake = Lakehouse(spark, lake.root)

    # A table without rows; many files; rows that may be deleted in their file.
    lake.overwrite(spark.range(1).where("false"), "t")
    assert (lake.read("t").collect(), lake.read("t").columns) == ([], ["id"])
    lake.overwrite(spark.range(50).repartition(50), "t")
    assert (ids(lake.read("t")), asks_delta()) == (list(range(50)), True)
    lake.overwrite(spark.range(50).coalesce(1), "t")
    assert not asks_delta()
    commit = logs / f"{lake.version('t') or 0:020}.json"
    text = commit.read_text()
    commit.with_name(f".{commit.name}.crc").unlink(missing_ok=True)
    commit.write_text("")
    forget_tables(spark)
    with pytest.raises(AssayError, match=damage):
        Lakehouse(spark, lake.root).read("t")
    commit.write_text(text)
    forget_tables(spark)
    lake = Lakehouse(spark, lake.root)
    vectors = "'delta.enableDeletionVectors' = 'true'"
    spark.sql(f"ALTER TABLE delta.`{lake.path('t')}` SET TBLPROPERTIES ({vectors})")
    spark.sql(f"DELETE FROM delta.`{lake.path('t')}` WHERE id > 6")
    assert (ids(lake.read("t")), asks_delta()) == (list(range(7)), True)


def test_who_has_written_what_is_known_with_and_without_the_checksum_file(tmp_path: Path, spark: SparkSession) -> None:
    Lakehouse(spark, str(tmp_path)).append_once(spark.range(1), "t", "writer", 7)
    for file in (None, tmp_path / "t/_delta_log/00000000000000000000.crc"):
        if file:
            file.unlink()
        forget_tables(spark)
        lake = Lakehouse(spark, str(tmp_path))
        assert (lake.written_through("t", "writer"), lake.written_through("t", "other")) == (7, 0)
        assert not lake.append_once(spark.range(1), "t", "writer", 7)


@pytest.fixture
def large(tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Lakehouse:
    """With a table `t` of 5,000 rows of batch 1, ids from 0, and three of batch 2, which counts as a large one."""
    monkeypatch.setattr(delta, "FEW_BYTES", 0)
    lake = Lakehouse(spark, str(tmp_path))
    lake.append_once(batch(spark, 1, range(5_000)), "t", "writer", 1)
    lake.append_once(batch(spark, 2, [7_001, 7_002, 7_003]), "t", "writer", 2)
    return lake


def batch(spark: SparkSession, number: int, ids: Iterable[int]) -> DataFrame:
    return spark.createDataFrame([(number, i) for i in ids], "_batch_id BIGINT, id BIGINT").coalesce(1)


def ids(frame: DataFrame | None) -> list[int] | None:
    return None if frame is None else sorted(row["id"] for row in frame.collect())


def changed(lake: Lakehouse, since: int) -> tuple[list[int] | None, list[int] | None] | None:
    found = lake.changes("t", since)
    return None if found is None else (ids(found.added), ids(found.removed))


def test_what_changed_are_the_rows_of_files_that_came_and_of_those_that_went(
    large: Lakehouse, spark: SparkSession
) -> None:
    before = large.version("t") or 0
    assert (changed(large, before), changed(large, before - 1)) == ((None, None), ([7_001, 7_002, 7_003], None))
    large.replace_once(batch(spark, 2, [7_001, 8_002]), "t", "_batch_id IN (2)", "writer", 3)
    assert changed(large, before) == ([7_001, 8_002], [7_001, 7_002, 7_003])
    assert changed(large, before - 1) == ([7_001, 8_002], None), "what came and went in between is in neither"
    large.append(batch(spark, 3, [9_000]), "t")
    assert changed(large, before + 1) == ([9_000], None)


def test_a_table_that_was_made_anew_is_not_the_one_that_was_there(tmp_path: Path, spark: SparkSession) -> None:
    lake = Lakehouse(spark, str(tmp_path))
    lake.overwrite(spark.range(1), "input")
    lake.overwrite(spark.range(1), "made")
    lake.append(spark.range(1), "input")
    assert lake.was_made_before("input", "made")
    shutil.rmtree(lake.path("input"))
    forget_tables(spark)
    lake.overwrite(spark.range(1), "input")
    lake.append(spark.range(1), "input")
    assert not lake.was_made_before("input", "made")
    # Maintenance looks before it makes a version of each table, which would be younger than any input.
    run, state = SimpleNamespace(lake=lake), TableState("made", inputs={"input": 1}, row_count=1)
    assert not _is_founded(run, state)  # type: ignore[arg-type]
    lake.append(spark.range(1), "made")
    assert _is_founded(run, state)  # type: ignore[arg-type]


def test_what_changed_is_not_told_where_the_files_do_not_tell_or_are_no_quicker_to_go_by(
    large: Lakehouse, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = large.version("t") or 0
    large.append(batch(spark, 3, [9_000]), "t")
    assert changed(large, before) == ([9_000], None)
    assert changed(large, before + 2) is None, "a version that is not there: the table was made anew"
    with monkeypatch.context() as patch:
        patch.setattr(delta, "FEW_BYTES", 1 << 30)
        assert changed(large, before) is None, "a small table"
        patch.setattr(delta, "FEW_BYTES", 0)
        patch.setattr(delta, "_MANY_CHANGED", 0)
        assert changed(large, before) is None, "many files"
    large.append(batch(spark, 4, range(10_000, 13_000)), "t")
    assert changed(large, before) is None, "a large part of the table"

    # Rows that went are not to be had once their files are removed.
    before = large.version("t") or 0
    large.replace_once(batch(spark, 3, [9_001]), "t", "_batch_id IN (3)", "writer", 4)
    found = large.changes("t", before)
    assert found
    assert found.removed
    Path(found.removed.inputFiles()[0].removeprefix("file://")).unlink()
    assert changed(large, before) is None

    # Files that were packed anew; other columns; commits that were cleaned up.
    before = large.version("t") or 0
    DeltaTable.forPath(spark, large.path("t")).optimize().executeCompaction()
    assert (large.version("t"), changed(large, before)) == (before + 1, None)
    large.append_once(batch(spark, 5, [9_002]).withColumn("name", F.lit("Ann")), "t", "writer", 5)
    assert changed(large, before + 1) is None
    large.append(batch(spark, 6, [9_003]).withColumn("name", F.lit("Bob")), "t")
    assert changed(large, before + 2) == ([9_003], None)
    large.append(batch(spark, 7, [9_004]).withColumn("name", F.lit("Cyd")), "t")
    large._log("t").checkpoint()
    (Path(large.path("t")) / f"_delta_log/{before + 3:020}.json").unlink()
    assert changed(large, before + 2) is None


def test_a_lakehouse_may_be_in_a_folder_whose_name_is_a_pattern(tmp_path: Path, spark: SparkSession) -> None:
    lake = Lakehouse(spark, str(tmp_path / "odd [name] {a,b} * & ü"))
    with lake.staged(spark.range(3).toDF("n"), "x") as staged:
        assert sorted(row.n for row in staged.collect()) == [0, 1, 2]


def test_what_is_on_this_machine_is_waited_for_until_it_is_on_the_disk(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[str]()
    monkeypatch.setattr(os, "sync", lambda: done.append("sync"))
    for root in (str(tmp_path), tmp_path.as_uri(), "s3a://bucket/lake"):
        Lakehouse(spark, root).sync()
    assert done == ["sync", "sync"]
