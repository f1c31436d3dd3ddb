"""Lines of text files: order of arrival, many small files, headers matched by name."""

from pathlib import Path

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from jobs.engine.landing import Unreadable
from jobs.engine.readers import column_names, failed_file, inspect_lines, read_lines
from tests.transforms.examples import examples

COLUMNS = ["date_start", "interaction"]


def test_lines_know_the_order_in_which_they_arrived(tmp_path: Path, spark: SparkSession) -> None:
    import os

    contents = {"b.log": ("b1\nb2\n", 100), "a.log": ("a2\na1\na3\n", 200), "c {1}.log": ("c1\n", 100)}
    for name, (text, at) in contents.items():
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (at, at))
    rows = read_lines(spark, str(tmp_path), list(contents), arrival_order=True)
    assert [row["_raw"] for row in rows.orderBy("_arrival").collect()] == ["b1", "b2", "c1", "a2", "a1", "a3"]


def test_a_file_that_is_split_keeps_its_order(tmp_path: Path, spark: SparkSession) -> None:
    lines = [f"line {number:05d}" for number in range(5000)]
    (tmp_path / "a.log").write_text("\n".join(lines))
    spark.conf.set("spark.sql.files.maxPartitionBytes", 10_000)
    try:
        rows = read_lines(spark, str(tmp_path), ["a.log"], arrival_order=True)
        assert rows.select("_arrival.block").distinct().count() > 3
        assert [row["_raw"] for row in rows.orderBy("_arrival").collect()] == lines
    finally:
        spark.conf.unset("spark.sql.files.maxPartitionBytes")


def test_a_file_in_windows_1252_is_read_as_such_and_one_in_utf_16_is_set_aside(
    tmp_path: Path, spark: SparkSession
) -> None:
    accents, plain = ["José", "Zoë", "“Renée”"], ["Ann"] * 40
    damaged = "\n".join(plain).encode() + b"\nJos\xe9\n"
    late = b"Ann\n" * 20_000 + "späte Ö".encode()  # below the head
    files = {
        "utf-8.log": "\n".join([*accents, *plain]).encode(),
        "mark.log": "\n".join([*accents, *plain]).encode("utf-8-sig"),
        "damaged.log": damaged,
        "mixed.log": damaged * 3 + "Zoë\n".encode(),
        "windows.log": "\r\n".join([*plain, *accents]).encode("cp1252") + b"\r\nnone\x81\n" + late,
        "marked.log": b"\xef\xbb\xbf" + "\n".join([*accents, *plain]).encode("cp1252"),
        "cut.log": ("x" * 1000 + "\n").encode() * 65 + b"x" * 535 + "é\n".encode() * 9,  # within a character
        "nul.log": b"Ann\0\n" + b"Bo\n" * 9,
        # Below the head; the first line spans the pieces that the file is looked at in, the last one has no end.
        "late.log": b"Ann\n" * 20_000 + b"x" * (2 << 20) + b"\xe9\n" + b"Zo\xeb\nJos\xe9",
        # Damage far apart.
        "far.log": b"\n".join([b"Ann\n" * 300_000 + b"Jos\xe9"] * 4),
        "later.log": b"Ann\n" * 20_000 + b"Jos\xe9\n" * 2,
        "latest.log": b"Ann\n" * 20_000 + b"Jos\xe9\n" + "Zoë\n".encode() + b"Jos\xe9\n" * 2,
        **{f"{name}.log": "\n".join([*plain, *accents]).encode(name) for name in ("utf-16", "utf-16-le", "utf-32")},
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    windows, unfit = inspect_lines(spark, str(tmp_path), [*files, "gone.log"])
    reason = "the file is UTF-16, or not text: it must be UTF-8 or Windows-1252"
    assert windows == ["windows.log", "marked.log", "late.log"]
    assert unfit.pop("gone.log").may_pass
    assert unfit == {f"{name}.log": Unreadable(reason) for name in ("utf-16", "utf-16-le", "utf-32")}
    read = read_lines(spark, str(tmp_path), ["windows.log", "marked.log", "damaged.log"], in_windows_1252=windows)
    found = {(row["_source_file"], row["_raw"]): row["_rescued"] for row in read.collect()}
    assert {text for file, text in found if file == "windows.log"} == {*plain, *accents, "none\ufffd", "späte Ö"}
    assert {text for file, text in found if file == "marked.log"} == {*plain, *accents}
    assert {text for (_, text), rescued in found.items() if rescued} == {"none\ufffd", "Jos\ufffd"}


def test_of_a_folder_read_whole_only_the_wanted_files_count(tmp_path: Path, spark: SparkSession) -> None:
    for name in ("in/a.log", "in/b.log", "in/unplanned.log", "in/day=1/deep.log", "out/c.log", "out/d.log"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    wanted = ["in/a.log", "in/b.log", "out/c.log"]
    rows = read_lines(spark, str(tmp_path), wanted, whole_folders=["in"], arrival_order=True).collect()
    assert sorted((row["_raw"], row["_source_file"]) for row in rows) == [(name, name) for name in wanted]


def test_files_are_named_by_their_path_below_any_root(tmp_path: Path, spark: SparkSession) -> None:
    root = tmp_path / "1+1 % é"
    file = root / "in/a+b %20é.log"
    file.parent.mkdir(parents=True)
    file.write_text("line\n")
    for base in (str(root), f"file://{root}", "/", "file:///"):
        path = "in/a+b %20é.log" if base.endswith("é") else str(file).removeprefix("/")
        assert [row["_source_file"] for row in read_lines(spark, base, [path]).collect()] == [path]


def test_below_the_root_there_may_be_a_folder_that_is_called_like_it(tmp_path: Path, spark: SparkSession) -> None:
    path = f"{str(tmp_path).removeprefix('/')}/a.log"
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text("line\n")
    for base in (str(tmp_path), f"file://{tmp_path}/"):
        assert [row["_source_file"] for row in read_lines(spark, base, [path]).collect()] == [path]


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (["Date Start", "Interaction"], ["date_start", "interaction"]),
        ([" date-start\t", "EVENT"], ["date_start", "interaction"]),
        (["Dáte Start", "other thing", ""], ["dáte start", "other thing", "_column_3"]),
    ],
)
def test_a_header_names_columns_in_any_spelling(header: list[str], names: list[str]) -> None:
    assert column_names(header, COLUMNS, {"event": "interaction"}) == names


def test_any_header_has_a_name_for_each_field() -> None:
    from hypothesis import strategies as st

    for header in examples(st.lists(st.text(max_size=20), max_size=5)):
        names = column_names(header, COLUMNS, {})
        assert len(names) == len(header)
        assert all(names)


@pytest.mark.parametrize("gone", ["gone.log", "gone [1] {a}.log"])
def test_a_file_that_is_gone_by_the_time_that_spark_looks_for_it_is_named(
    tmp_path: Path, spark: SparkSession, gone: str
) -> None:
    (tmp_path / "there.log").write_text("line\n")
    with pytest.raises(AnalysisException) as error:
        read_lines(spark, str(tmp_path), ["there.log", gone])
    assert failed_file(error.value, ["there.log", gone]) == (gone, "it is not there any longer")
    assert failed_file(error.value, ["there.log"]) is None
