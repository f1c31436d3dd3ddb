"""Keeps the classes that Java loads for a small run, read and checked, for every later start: `.jars/classes.jsa`.

    .venv/bin/python -m scripts.class_archive

A session then starts in two thirds of the time, and so does its first query. Java leaves out what it has not kept, and
all of it if it is another Java or other jars: it only starts slower then. So does Assay where no archive can be made,
which is said and is no error.
"""

import fcntl
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pyspark.sql import SparkSession

from jobs.engine.delta import Lakehouse
from jobs.engine.errors import AssayError
from jobs.engine.local_rows import LocalRows
from jobs.engine.session import FOR_FEW_ROWS, JAVA_FOR_FEW_ROWS, JAVA_OPTIONS, PROJECT, start_session

ARCHIVE = PROJECT / ".jars/classes.jsa"
_TIME_LIMIT = 600


def make(archive: Path) -> bool:
    """Writes the archive, or leaves none. Java writes it as it ends; it is in place once it is whole."""
    new = archive.with_name(f"{archive.name}.new")
    for old in (archive, new):
        old.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder, options = Path(name), f"{JAVA_FOR_FEW_ROWS} -XX:ArchiveClassesAtExit={shlex.quote(str(new))}"
        settings = {**FOR_FEW_ROWS, "spark.driver.memory": "1g", JAVA_OPTIONS: options}
        spark = start_session(master="local[2]", spark_settings=settings, log=folder / "log")
        java: subprocess.Popen[bytes] = spark.sparkContext._gateway.proc  # type: ignore[union-attr]
        _work(spark, folder)
        spark.stop()
        assert java.stdin is not None
        java.stdin.close()  # which ends it
        is_whole = java.wait(_TIME_LIMIT) == 0 and new.exists()
    if is_whole:
        new.replace(archive)
    new.unlink(missing_ok=True)
    return is_whole


def _work(spark: SparkSession, folder: Path) -> None:
    """A little of what each run does."""
    lake, raw = Lakehouse(spark, str(folder)), folder / "raw.csv"
    raw.write_text("number,text\n1,one\n2,two\n2,two\n", encoding="utf-8")
    rows = spark.read.csv(str(raw), header=True).selectExpr("try_cast(number AS BIGINT) AS number", "text").distinct()
    for write in (lake.append, lake.append, lake.overwrite):
        write(rows, "table")
    lake.append(LocalRows([{"number": 1, "text": "one"}], rows.schema), "ledger")
    lake.read("table").join(rows, "number", "left_semi").groupBy("text").count().orderBy("text").collect()


def _made_at(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def main() -> None:
    started, why = time.monotonic(), "is the disk full?"
    try:
        before = _made_at(ARCHIVE)
        with (PROJECT / ".setup.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time
            if _made_at(ARCHIVE) != before:  # by another one meanwhile
                return
            is_made = make(ARCHIVE)
    except AssayError as error:  # no run would work
        sys.exit(f"error: {error}")
    except Exception as error:  # whatever it is, what needs Java will say so
        is_made, why = False, type(error).__name__
    if is_made:
        print(f"setup: Java's classes, for quick starts, into {ARCHIVE.relative_to(PROJECT)} ", end="")
        print(f"({ARCHIVE.stat().st_size / 1e6:,.0f} MB, {time.monotonic() - started:.0f} s)")
    else:
        print(f"setup: Java's classes could not be kept ({why}): runs work as well, and start slower")


if __name__ == "__main__":
    main()
