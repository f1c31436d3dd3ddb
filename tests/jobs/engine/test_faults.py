"""A damaged lakehouse says which file it is and why, and never what is in it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from jobs.engine.delta import Lakehouse
from jobs.engine.errors import AssayError
from jobs.engine.faults import explained
from jobs.maintain import maintain
from tests.lab import Lab, forget_tables, with_gold
from tests.test_end_to_end_members import ANN, BOB, entry

Damage = Callable[[Path], Path]
Read = Callable[[Lakehouse, str], DataFrame]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Path:
    """A lakehouse with a table `silver/s/t` of three commits; for tests that copy it."""
    lake = Lakehouse(spark, str(tmp_path_factory.mktemp("whole")))
    for number in (1, 2, 3):
        lake.append_once(spark.sql(f"SELECT 'secret {number}' AS name"), "silver/s/t", "writer", number)
    return Path(lake.root)


@pytest.fixture
def lake(tmp_path: Path, spark: SparkSession, whole: Path) -> Lakehouse:
    """The same again, to be damaged."""
    return Lakehouse(spark, str(shutil.copytree(whole, tmp_path / "lakehouse")))


def data_file(table: Path) -> Path:
    return sorted(table.glob("*.parquet"))[0]


def log_file(table: Path) -> Path:
    return table / "_delta_log/00000000000000000001.json"


def changed(file: Path, content: bytes, *, with_checksum: bool = True) -> Path:
    """Hadoop keeps a checksum beside each file; object stores and copies do not have it."""
    file.write_bytes(content)
    if not with_checksum:
        file.with_name(f".{file.name}.crc").unlink()
    return file


def gone(file: Path) -> Path:
    file.unlink()
    return file


DAMAGED_DATA = [
    (lambda t: changed(data_file(t), b"x" * 99), "it is not as it was written (its checksum differs)"),
    (lambda t: changed(data_file(t), b"x" * 99, with_checksum=False), "it is not a Parquet file"),
    (lambda t: gone(data_file(t)), "it is gone"),
]
DAMAGED_LOGS = [
    (lambda t: changed(log_file(t), b"x" * 99), "it is not as it was written (its checksum differs)"),
    (
        lambda t: changed(log_file(t), log_file(t).read_bytes()[:-20], with_checksum=False),
        "it is not whole lines of JSON",
    ),
]


@pytest.mark.parametrize(
    ("read", "damage", "said"),
    [
        *[(Lakehouse.read, *damaged) for damaged in DAMAGED_DATA],
        *[(read, *damaged) for read in (Lakehouse.read, Lakehouse.read_log) for damaged in DAMAGED_DATA + DAMAGED_LOGS],
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(lake: Lakehouse, read: Read, damage: Damage, said: str) -> None:
    file = damage(Path(lake.path("silver/s/t")))
    forget_tables(lake.spark)
    with pytest.raises((Py4JJavaError, PySparkException)) as raised:
        read(lake, "silver/s/t").collect()
    error = explained(raised.value)
    assert error is not None
    assert error.message.startswith("cannot read file:/")
    assert error.message.endswith(f"{file}: {said}")
    assert "secret" not in str(error)


def test_a_log_with_a_gap_names_its_table(lake: Lakehouse) -> None:
    gone(log_file(Path(lake.path("silver/s/t"))))
    forget_tables(lake.spark)
    with pytest.raises(AssayError, match=r"files of silver/s/t/_delta_log are gone \(DELTA_VERSIONS_NOT_CONTIGUOUS\)"):
        lake.version("silver/s/t")


def test_what_is_not_known_is_not_explained() -> None:
    assert explained(ValueError("a value of a row")) is None
    unresolved = (
        "[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column, variable, or function parameter with name `age` cannot be"
    )
    lacking = explained(ValueError(unresolved))
    assert lacking is not None
    assert "names the column `age`, which a table that it reads does not have" in lacking.message
    full = explained(OSError(28, "No space left on device"))
    assert full is not None
    assert full.message.startswith("no space is left on the device")


def test_what_a_damaged_gold_table_lost_is_missed_and_nothing_is_published_until_it_is_made_anew(lab: Lab) -> None:
    members = with_gold("members", "member")
    for name, member in (("a", ANN), ("b", BOB)):
        lab.land(f"members/{name}.log", entry(member))
        lab.run(members, until="gold")
    table = Path(lab.lake.path("gold/members/member"))

    # To Delta, a log file without lines is a commit that changed nothing: the rows of the one before come back. How
    # many files there should be is known from Delta's own checksum file, as long as it is there.
    log = changed(log_file(table), b"", with_checksum=False)
    forget_tables(lab.lake.spark)
    for use in (lambda: lab.run(members), lambda: maintain(lab.start(), [members])):
        with pytest.raises(AssayError, match=r"^the Delta log of file:/.*/gold/members/member is damaged: it does not"):
            use()
    gone(log.with_suffix(".crc"))
    forget_tables(lab.lake.spark)
    assert Lakehouse(lab.lake.spark, lab.lake.root).read("gold/members/member").count() == 1
    with pytest.raises(AssayError, match=r"^gold.members.member: version 1 has 1 rows with checksum "):
        lab.run(members)
    assert lab.query("SELECT count(*) FROM ops.releases") == [(0,)]

    changed_again = changed(data_file(table), b"x")
    log.write_text("not what Delta wrote\n")
    forget_tables(lab.lake.spark)
    code, _, error = lab.assay("run", "--source", "members")
    assert (code, error.startswith("error: cannot read file:/")) == (1, True)
    assert str(log) in error or str(changed_again) in error

    shutil.rmtree(table)
    forget_tables(lab.lake.spark)
    lab.run(members)
    assert lab.query("SELECT count(*) FROM gold.member") == [(2,)]
