"""The landing folder: what is in its files, here and on other file systems."""

import bz2
import errno
import glob
import gzip
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.engine import landing
from jobs.engine.errors import AssayError
from jobs.engine.landing import EMPTY, Unreadable, content_hashes, list_files, passed_over
from jobs.engine.places import local_path


def remote_hashes(spark: SparkSession, root: Path, names: Iterable[str]) -> dict[str, str | Unreadable]:
    """The same by Hadoop's file systems."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landing, "local_path", lambda _: None)
        return content_hashes(spark, f"file://{root}", names)


def test_a_compressed_file_has_the_content_that_was_compressed(tmp_path: Path, spark: SparkSession) -> None:
    nothing = {"a.gz": gzip.compress(b""), "a.bz2": bz2.compress(b""), "mark.gz": gzip.compress(b"\xef\xbb\xbf")}
    of_b = {
        "b": b"b",
        "b.gz": gzip.compress(b"b", 1),
        "b again.gz": gzip.compress(b"b", 9),
        "b.bz2": bz2.compress(b"b"),
    }
    files = nothing | of_b
    (tmp_path / "mark.jsonl").write_bytes(b"\xef\xbb\xbf")
    assert content_hashes(spark, str(tmp_path), ["mark.jsonl"]) == {"mark.jsonl": EMPTY}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    expected = dict.fromkeys(nothing, EMPTY) | dict.fromkeys(of_b, hashlib.sha256(b"b").hexdigest())
    assert content_hashes(spark, str(tmp_path), files) == expected
    assert remote_hashes(spark, tmp_path, files) == expected


def test_a_file_that_spark_cannot_open_is_shown_printable_and_unfit(tmp_path: Path, spark: SparkSession) -> None:
    passed_over = (b".a.log", b"_a.log", b"~$a.log")
    for name in (b"caf\xe9.log", "café.log".encode(), b"caf\xe8.log", b"a:b.log", *passed_over):
        (tmp_path / os.fsdecode(name)).write_text("line\n")
    for name, target in {"loop.log": "loop.log", "below a file.log": "café.log/x", "dangling.log": "nothing"}.items():
        (tmp_path / name).symlink_to(target)
    found = {file.path: file.unfit for file in list_files(spark, str(tmp_path), ["*.log"])}
    foreign, colon = "its name is not UTF-8: rename it", "its name has a colon: rename it"
    loop, no_folder = (f"it cannot be looked at: {os.strerror(number)}" for number in (errno.ELOOP, errno.ENOTDIR))
    assert found == {
        "a:b.log": colon,
        "below a file.log": no_folder,
        "café.log": None,
        "caf\\xe8.log": foreign,
        "caf\\xe9.log": foreign,
        "loop.log": loop,
    }


def test_only_files_of_the_expected_names_are_read_and_the_others_are_told_of(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not `q4.csv.bak`, whose rows are those that were corrected, nor `q4.csv.part`, which is a part of them."""
    (tmp_path / "credits").mkdir()
    others = ("a.csv.bak", "a.csv~", "b.csv.part", "b.csv.sha256", "C.CSV", "notes.txt", "a.csv.gz.part")
    for name in ("a.csv", "a.csv.gz", "b.csv.bz2", ".c.csv", "_d.csv", "~$e.csv", *others):
        (tmp_path / "credits" / name).write_text("x")
    for folder in ("2024", "_done"):
        (tmp_path / "credits" / folder).mkdir()
        (tmp_path / "credits" / folder / "c.csv").write_text("x")
    patterns = ["credits/*.csv", "credits/*.csv.gz", "credits/*.csv.bz2"]
    for is_local in (True, False):
        with monkeypatch.context() as patch:
            if not is_local:
                patch.setattr(landing, "local_path", lambda _: None)
            found = [file.path for file in list_files(spark, f"file://{tmp_path}", patterns)]
            assert found == ["credits/a.csv", "credits/a.csv.gz", "credits/b.csv.bz2"]
            left = passed_over(spark, f"file://{tmp_path}", patterns)
            assert left == sorted(f"credits/{name}" for name in ("2024/", *others))
    (tmp_path / "credits/away.csv").symlink_to(tmp_path / "mount/away.csv")
    (tmp_path / "credits/loop.csv").symlink_to(tmp_path / "credits/loop.csv")  # which is set aside
    dead = "credits/away.csv (a link that leads nowhere)"
    assert dead in passed_over(spark, str(tmp_path), patterns)
    assert passed_over(spark, str(tmp_path), ["nowhere/*.csv"]) == []
    # A file in two places is one, and a folder that a pattern leads to is expected.
    overlapping = ["credits/a.csv", "credits/*.csv", "*/*.csv", "credits/2024/*.csv"]
    found = [file.path for file in list_files(spark, str(tmp_path), overlapping)]
    assert found == ["credits/2024/c.csv", "credits/a.csv", "credits/loop.csv"]
    left = [dead, *(f"credits/{name}" for name in (*others, "a.csv.gz", "b.csv.bz2"))]
    assert passed_over(spark, str(tmp_path), overlapping) == sorted(left)


def test_what_the_system_refuses_may_pass_and_what_is_broken_does_not(tmp_path: Path, spark: SparkSession) -> None:
    (tmp_path / "broken.gz").write_bytes(gzip.compress(b"line\n" * 99)[:-9])
    (tmp_path / "not bzip.bz2").write_bytes(b"junk")
    (tmp_path / "not gzip.gz").write_bytes(b"Ann,40")
    (tmp_path / "folder.log").mkdir()  # which no more than a file without permission can be opened, also by root
    names = ["broken.gz", "not bzip.bz2", "not gzip.gz", "folder.log"]
    for found in (content_hashes(spark, str(tmp_path), names), remote_hashes(spark, tmp_path, names)):
        said = {name: content.may_pass for name, content in found.items() if isinstance(content, Unreadable)}
        assert said == {"broken.gz": False, "not bzip.bz2": False, "not gzip.gz": False, "folder.log": True}
        assert not any("b'" in str(content) for content in found.values())


def test_a_landing_folder_that_is_not_there_is_not_taken_for_an_empty_one(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for place in ("nowhere", "file", "file/below"):
        with pytest.raises(AssayError, match=f"there is no landing folder {tmp_path}/{place}\n") as error:
            list_files(spark, f"{tmp_path}/{place}", ["members/*.log"])
        assert "ASSAY_LANDING" in str(error.value.hint)

    def stale(_path: Path, **_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "stat", stale)
    with pytest.raises(AssayError, match=f"the folder {tmp_path} cannot be listed: stale file handle"):
        list_files(spark, str(tmp_path), ["members/*.log"])


def test_a_landing_folder_elsewhere_is_to_be_there_too_and_a_name_that_hadoop_cannot_list_is_told_of(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "local_path", lambda _: None)
    with pytest.raises(AssayError, match=f"there is no landing folder {tmp_path}/nowhere\n"):
        list_files(spark, f"{tmp_path}/nowhere", ["members/*.log"])
    (tmp_path / "members").mkdir()
    (tmp_path / "members/a.log").touch()
    assert [file.path for file in list_files(spark, str(tmp_path), ["members/*.log"])] == ["members/a.log"]
    (tmp_path / "members/2026-11-21T08:00.log").touch()
    with pytest.raises(AssayError, match=f"a file in {tmp_path}/members has a colon in its name"):
        list_files(spark, str(tmp_path), ["members/*.log"])


def test_a_pattern_stands_for_names_in_one_folder() -> None:
    patterns = ["signups/*.csv", "*/deep/*.csv"]
    found = {path: landing.is_expected(path, patterns) for path in ("signups/a.csv", "signups/b/a.csv", "b/deep/a.csv")}
    assert found == {"signups/a.csv": True, "signups/b/a.csv": False, "b/deep/a.csv": True}


@pytest.mark.parametrize(
    ("place", "folder"),
    [
        ("data/landing", "data/landing"),
        ("/raw/a:b", "/raw/a:b"),
        ("file:/raw", "/raw"),
        ("file:///raw", "/raw"),
        ("s3a://bucket/raw", None),
        ("hdfs:/lake", None),
        ("dbfs:/mnt/lake", None),
    ],
)
def test_a_place_of_this_machine_is_told_from_others(place: str, folder: str | None) -> None:
    assert local_path(place) == (folder and Path(folder))


def test_a_folder_that_may_not_be_listed_is_not_taken_for_an_empty_one(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list_files(spark, str(tmp_path), ["members/*.log"]) == []
    alone = ["elsewhere/[1] a?*.log", "[2].log"]
    (tmp_path / "elsewhere").mkdir()
    for name in alone:
        (tmp_path / name).write_text("line\n")

    def refusing(number: int) -> Callable[..., None]:
        def refuse(_path: Path, **_: object) -> None:
            raise OSError(number, os.strerror(number))

        return refuse

    scandir = os.scandir
    # Also where a network's folder has gone away.
    for number, says in ((errno.EACCES, "permission denied"), (errno.ESTALE, "stale file handle")):
        monkeypatch.setattr(os, "scandir", refusing(number))
        with pytest.raises(AssayError, match=f"the folder {tmp_path}/members cannot be listed: {says}"):
            list_files(spark, str(tmp_path), ["members/*.log"])
    # Nor one further down, of which Python's own way would find nothing.
    monkeypatch.setattr(os, "scandir", scandir)
    (tmp_path / "members/2024").mkdir(parents=True)

    def refuse_below(folder: Path) -> object:
        return scandir(folder) if Path(folder).name != "2024" else refusing(errno.EACCES)(folder)

    monkeypatch.setattr(os, "scandir", refuse_below)
    for pattern in ("members/2024/*.log", "members/*/*.log", "*/20*/*.log"):
        with pytest.raises(AssayError, match=f"the folder {tmp_path}/members/2024 cannot be listed: permission denied"):
            list_files(spark, str(tmp_path), [pattern])
    assert list_files(spark, str(tmp_path), ["members/*.log", "none/*/*.log"]) == []
    monkeypatch.setattr(os, "scandir", refusing(errno.EACCES))
    # Of a file that is named alone, no folder need be listed.
    found = list_files(spark, str(tmp_path), [glob.escape(name) for name in [*alone, "elsewhere/none.log"]])
    assert [file.path for file in found] == sorted(alone)
    monkeypatch.setattr(landing, "_verify_there", lambda root: None)
    for number, says in ((errno.EACCES, "permission denied"), (errno.EIO, "input/output error")):
        monkeypatch.setattr(Path, "stat", refusing(number))
        with pytest.raises(AssayError, match=f"{tmp_path}/a.log cannot be looked at: {says}"):
            list_files(spark, str(tmp_path), ["a.log"])
