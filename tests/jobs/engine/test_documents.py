"""A gold table as files: written once, touched only where a row changed, whole at any moment."""

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.engine.delta import Lakehouse
from jobs.engine.documents import write
from jobs.engine.errors import ConfigurationError
from jobs.engine.sources import Document

MEMBERS = Document(folder="processed", prefix="member-", suffix=".json", key="member_id")
TABLE = "gold/members/member_documents"


class Desk:
    def __init__(self, folder: Path, spark: SparkSession) -> None:
        self.output, self.lake = folder / "out", Lakehouse(spark, str(folder / "lake"))
        self.folder = self.output / "processed"

    def publish(self, **documents: str) -> tuple[int, int]:
        rows = self.lake.spark.createDataFrame(list(documents.items()), "member_id STRING, document STRING")
        return self.write(self.lake.overwrite(rows, TABLE))

    def write(self, version: int) -> tuple[int, int]:
        return write(self.lake, TABLE, version, MEMBERS, str(self.output))

    def files(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in self.folder.glob("[!.]*")}


@pytest.fixture
def desk(tmp_path: Path, spark: SparkSession) -> Desk:
    return Desk(tmp_path, spark)


def test_only_members_that_changed_are_written_and_those_gone_are_removed(desk: Desk) -> None:
    assert desk.publish(a="1", b="2", c="é") == (3, 0)
    assert desk.files() == {"member-a.json": "1", "member-b.json": "2", "member-c.json": "é"}
    assert desk.folder.stat().st_mode & 0o77 == 0
    (desk.folder / "member-a.json").write_text("touched by hand")
    assert desk.publish(a="1", b="3", d="4") == (2, 1)
    assert desk.files() == {"member-a.json": "touched by hand", "member-b.json": "3", "member-d.json": "4"}
    assert not [file for file in desk.folder.glob(".*") if file.name != ".member-documents"]


def test_the_same_version_again_touches_nothing(desk: Desk) -> None:
    desk.publish(a="1")
    (desk.folder / "member-a.json").unlink()
    assert desk.write(0) == (0, 0)
    assert desk.files() == {}


def test_without_its_mark_all_is_written_but_equal_files_are_left_alone(desk: Desk) -> None:
    desk.publish(a="1", b="2")
    equal, differing, strange = (desk.folder / f"member-{key}.json" for key in "abz")
    before = equal.stat().st_ino
    differing.write_text(json.dumps("old"))
    strange.write_text("not Assay's")
    (desk.folder / ".member-documents").unlink()
    assert desk.write(0) == (2, 0)
    assert desk.files() == {"member-a.json": "1", "member-b.json": "2", "member-z.json": "not Assay's"}
    assert equal.stat().st_ino == before


def test_when_the_old_version_is_gone_all_is_written(desk: Desk) -> None:
    desk.publish(a="1")
    for file in Path(desk.lake.path(TABLE)).glob("*.parquet"):
        file.unlink()
    assert desk.publish(a="2", b="1") == (2, 0)
    assert desk.files() == {"member-a.json": "2", "member-b.json": "1"}


def test_a_key_that_is_no_file_name_writes_nothing_outside(desk: Desk) -> None:
    with pytest.raises(Exception, match="cannot be part of a file's name"):
        desk.publish(**{"../../evil": "1"})
    assert not list(desk.output.parent.glob("evil*"))


def test_an_output_that_is_no_folder_is_a_configuration_error(desk: Desk) -> None:
    with pytest.raises(ConfigurationError, match="not to s3a://bucket/out"):
        write(desk.lake, TABLE, 0, MEMBERS, "s3a://bucket/out")
