"""When an export is written again: other rows, another header or another order make another file."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.engine import exports
from jobs.engine.sources import Export
from tests.transforms.rows import frame_of


def test_an_export_is_current_until_its_rows_or_what_is_declared_of_it_change(
    spark: SparkSession, tmp_path: Path
) -> None:
    output = tmp_path / "out [1] {a,b} *"  # no pattern, but what it is called
    frame, folder = frame_of(spark, [("b", 1), ("a", 2), ("\x01a\x02", 3)], "name STRING, n INT"), str(output)
    export = Export(file="things.csv", header=["NAME", "N"], order_by=["name"])
    others = [export.model_copy(update=change) for change in ({"header": ["WHO", "N"]}, {"order_by": ["n"]})]

    def lines() -> list[str]:
        return (output / "things.csv").read_text().splitlines()

    exports.write(frame, folder, export, "sum")
    assert lines() == ["NAME,N", "\x01a\x02,3", "a,2", "b,1"]
    assert exports.is_current(spark, folder, export, "sum")
    assert not exports.is_current(spark, folder, export, "other sum")
    for other, expected in zip(others, (["WHO,N", *lines()[1:]], ["NAME,N", *lines()[:0:-1]]), strict=True):
        assert not exports.is_current(spark, folder, other, "sum")
        exports.write(frame, folder, other, "sum")
        assert (lines(), exports.is_current(spark, folder, other, "sum")) == (expected, True)
        assert not exports.is_current(spark, folder, export, "sum")


def test_a_file_of_which_a_crash_left_no_mark_is_from_no_rows(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, folder = Export(file="things.csv", header=["N"], order_by=["n"]), str(tmp_path)
    exports.write(frame_of(spark, [(1,)], "n INT"), folder, export, "sum")
    with monkeypatch.context() as patch:  # killed between the file and its mark
        patch.setattr(exports, "_origin", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            exports.write(frame_of(spark, [(2,)], "n INT"), folder, export, "other sum")
    # A rollback to the rows of before is next: they are not what is there.
    assert (tmp_path / "things.csv").read_text() == "N\n2\n"
    assert not exports.is_current(spark, folder, export, "sum")


def test_days_are_written_as_postgres_writes_them(spark: SparkSession, tmp_path: Path) -> None:
    days = spark.sql("SELECT explode(array(make_date(10000, 1, 2), DATE'2024-05-01')) AS n")
    exports.write(days, str(tmp_path), Export(file="days.csv", header=["N"], order_by=["n"]), "sum")
    assert (tmp_path / "days.csv").read_text() == "N\n2024-05-01\n10000-01-02\n"


def test_an_export_whose_mark_says_nothing_of_its_declaration_is_written_once_more(
    spark: SparkSession, tmp_path: Path
) -> None:
    export = Export(file="things.csv", header=["N"], order_by=["n"])
    (tmp_path / "things.csv").write_text("N\n1\n")
    (tmp_path / ".things.csv.checksum").write_text("sum")  # as an earlier Assay wrote it
    assert not exports.is_current(spark, str(tmp_path), export, "sum")
