"""A gold table as files: written once, touched only where a row changed, whole at any moment."""

import json
import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.engine.delta import Lakehouse
from jobs.engine.documents import is_current, write
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.fingerprints import measured
from jobs.engine.sources import Document
from jobs.layers import gold
from jobs.layers.tables import gold_table
from tests.lab import Lab, forget_tables, with_gold

MEMBERS = Document(folder="processed", prefix="member-", suffix=".json", key="member_id")
TABLE = "gold/members/member_documents"


class Desk:
    def __init__(self, folder: Path, spark: SparkSession) -> None:
        self.output, self.lake = folder / "out", Lakehouse(spark, str(folder / "lake"))
        self.folder = self.output / "processed"

    def publish(self, declared: Document = MEMBERS, /, **documents: str) -> tuple[int, int]:
        rows = self.lake.spark.createDataFrame(list(documents.items()), "member_id STRING, document STRING")
        return self.write(self.lake.overwrite(rows, TABLE), measured(rows)[1], declared)

    def write(self, version: int, checksum: str | None = None, declared: Document = MEMBERS) -> tuple[int, int]:
        return write(self.lake, TABLE, version, declared, str(self.output), checksum)

    def restore(self, backup: Path) -> None:
        """The lakehouse as it was, for another process."""
        root, spark = self.lake.root, self.lake.spark
        shutil.rmtree(root)
        shutil.copytree(backup, root)
        forget_tables(spark)
        self.lake = Lakehouse(spark, root)

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
    mark = desk.folder / ".member-documents"
    before = equal.stat().st_ino
    differing.write_text(json.dumps("old"))
    strange.write_text("not Assay's")
    mark.unlink()
    assert desk.write(0) == (2, 0)
    assert desk.files() == {"member-a.json": "1", "member-b.json": "2", "member-z.json": "not Assay's"}
    assert equal.stat().st_ino == before
    # One of an earlier Assay does not say which rows it means, but that the files are Assay's.
    mark.write_text(" ".join(mark.read_text().split()[:2]))
    assert desk.write(0) == (2, 1)
    assert desk.files() == {"member-a.json": "1", "member-b.json": "2"}
    assert equal.stat().st_ino == before


def test_when_the_old_version_is_gone_all_is_written_and_other_keys_are_removed(desk: Desk) -> None:
    desk.publish(a="1", c="1")
    for file in Path(desk.lake.path(TABLE)).glob("*.parquet"):
        file.unlink()
    # Of other documents in the folder, and of none.
    others = {".member-old-documents": "x 0 1", "member-old-a.json": "1", "member-a.txt": "1", "other-a.json": "1"}
    for name, text in others.items():
        (desk.folder / name).write_text(text)
    assert desk.publish(a="2", b="1") == (2, 1)
    del others[".member-old-documents"]
    assert desk.files() == {"member-a.json": "2", "member-b.json": "1", **others}


def test_a_version_of_a_restored_lakehouse_is_not_taken_for_the_one_of_that_number_before(
    desk: Desk, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    desk.publish(a="1", b="1")
    shutil.copytree(desk.lake.root, backup)
    desk.publish(a="2", c="1")
    assert desk.files() == {"member-a.json": "2", "member-c.json": "1"}
    # The next version is another one, with the same number.
    desk.restore(backup)
    assert desk.publish(a="3", b="1") == (2, 1)
    assert desk.files() == {"member-a.json": "3", "member-b.json": "1"}
    # Nor is the version before taken for what the files were written from.
    desk.restore(backup)
    desk.lake.overwrite(desk.lake.read(TABLE).where("member_id = 'a'"), TABLE)
    assert desk.publish(a="1") == (1, 1)
    assert desk.files() == {"member-a.json": "1"}


def test_files_that_were_left_half_written_are_from_no_version(desk: Desk) -> None:
    for documents in ({"a": "1", "b": "1"}, {"a": "2", "c": "2"}):
        with pytest.raises(Exception, match="cannot be part of a file's name"):
            desk.publish(**documents, **{"../../evil": "1"})
        assert not list(desk.output.parent.glob("evil*"))
        # As if its tasks had been the quicker ones: also of the first run of all, of which no version is known.
        for key, text in documents.items():
            (desk.folder / f"member-{key}.json").write_text(text)
        assert desk.publish(a="1", d="1")[1] == 1
        assert desk.files() == {"member-a.json": "1", "member-d.json": "1"}


def test_files_that_are_not_utf8_are_written_again(desk: Desk) -> None:
    desk.publish(a="1", b="1")
    damaged, gone, mark = (desk.folder / name for name in ("member-a.json", "member-b.json", ".member-documents"))
    identity, _, checksum, *_ = mark.read_bytes().split()
    for text, content in {"2": b"\xff\xfe", "3": b" ".join([identity, b"\xff", checksum])}.items():
        damaged.write_bytes(b"\xff")
        gone.write_text("1")
        mark.write_bytes(content)
        assert desk.publish(a=text) == (1, 1)
        assert desk.files() == {"member-a.json": text}


def test_files_that_are_to_be_called_otherwise_take_the_place_of_those_that_there_are(desk: Desk) -> None:
    desk.publish(a="1", b="1")
    # A mark that does not say how they are called is of an earlier Assay, and they are called as ever.
    mark = desk.folder / ".member-documents"
    mark.write_text(" ".join(mark.read_text().split()[:3]))
    assert desk.publish(a="1", b="1") == (0, 0)
    plain = MEMBERS.model_copy(update={"suffix": ".txt"})
    with pytest.raises(Exception, match="cannot be part of a file's name"):
        desk.publish(plain, a="1", **{"../evil": "1"})
    assert {"member-a.json", "member-b.json"} <= desk.files().keys()
    assert desk.publish(plain, a="1", c="1") == (2, 2)
    assert desk.files() == {"member-a.txt": "1", "member-c.txt": "1"}
    assert is_current(desk.lake, TABLE, 3, plain, str(desk.output), None)
    assert not is_current(desk.lake, TABLE, 3, MEMBERS, str(desk.output), None)
    # The same rows under the old name again.
    assert desk.publish(MEMBERS, a="1", c="1") == (2, 2)
    assert desk.files() == {"member-a.json": "1", "member-c.json": "1"}


def test_keys_that_do_not_each_name_a_file_are_found_before_anything_is_published(lab: Lab) -> None:
    members = with_gold("members", "member_documents")
    (name, document), run = next(iter(members.documents.items())), lab.start()
    path = gold_table(members, name)

    def check(*keys: str | None) -> None:
        rows = run.spark.createDataFrame([(key, "text") for key in keys], f"{document.key} STRING, document STRING")
        run.lake.overwrite(rows, path)
        gold._check_documents(run, members, [path])

    check("a", "b" * 200)
    for wrong, found, of_those in ((("a", None), 1, 1), (("a", "a", "b"), 1, 0), (("../x", "a b", "c" * 201), 3, 3)):
        with pytest.raises(AssayError, match=rf"{found} values of {document.key} .* a file: {of_those} are missing"):
            check(*wrong)
    gold._check_documents(run, members, [])


def test_an_output_that_is_no_folder_is_a_configuration_error(desk: Desk) -> None:
    with pytest.raises(ConfigurationError, match="not to s3a://bucket/out"):
        write(desk.lake, TABLE, 0, MEMBERS, "s3a://bucket/out", None)
