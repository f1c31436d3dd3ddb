"""What Java is started with, and Spark's log: for its owner alone, and without the rows that Postgres refuses."""

import locale
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pyspark.sql import SparkSession

from jobs.engine import session
from jobs.engine.database import Database
from jobs.engine.errors import ConfigurationError
from jobs.engine.session import (
    JAVA_OPTIONS,
    PROJECT,
    RESULTS_DEPEND_ON,
    _default,
    _opened,
    java_class,
    session_settings,
    start_session,
)
from tests.lab import Place

_OTHERWISE = {"UTC": "Asia/Tokyo", "true": "false", "false": "true"}
LOG, EARLIER = "spark-20240102T030405Z.log", "spark-20240101T030405Z.log"
MEMBER = "ada6ee1abc22511c"
# What the staging tables of a run cannot hold: ids as whole numbers, which the text of the refusal itself would quote,
# and any row at all, which its details would. A release has not got that far by then.
NARROW_STAGING = """
CREATE FUNCTION narrow() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
  IF to_regclass('assay_staging.gold__member') IS NOT NULL THEN
    ALTER TABLE assay_staging.gold__member ALTER COLUMN id TYPE integer USING NULL;
  END IF;
  IF to_regclass('assay_staging.gold__member_follow_reco_rolling') IS NOT NULL THEN
    ALTER TABLE assay_staging.gold__member_follow_reco_rolling ADD CHECK (false);
  END IF;
END $$;
CREATE EVENT TRIGGER narrow ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION narrow();
"""


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The usual one, which lets everybody read."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(*paths: Path) -> list[int]:
    return [path.stat().st_mode & 0o777 for path in paths]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells which files a process has mapped")
def test_a_session_has_the_classes_that_make_setup_kept(spark: SparkSession) -> None:
    maps = Path(f"/proc/{java_class(spark, 'java.lang.ProcessHandle').current().pid()}/maps")
    assert f"{PROJECT}/.jars/classes.jsa" in maps.read_text()


def test_java_starts_without_a_word_where_no_classes_are_kept_or_those_of_another(tmp_path: Path) -> None:
    options = _default(PROJECT / "conf/spark-defaults.conf", JAVA_OPTIONS).replace(".jars/", f"{tmp_path}/").split()
    archive = tmp_path / "classes.jsa"
    for content in (None, b"", b"of another Java" * 1_000):
        if content is not None:
            archive.write_bytes(content)
        java = Path(os.environ["JAVA_HOME"]) / "bin/java" if "JAVA_HOME" in os.environ else "java"
        started = subprocess.run([java, *options, "--version"], capture_output=True, text=True, timeout=60)
        assert (started.returncode, started.stderr) == (0, "")
        assert "cds" not in started.stdout


def test_a_session_in_which_rows_would_be_read_otherwise_is_refused(spark: SparkSession) -> None:
    for key in RESULTS_DEPEND_ON:
        otherwise = session_settings(spark, {key: _OTHERWISE[RESULTS_DEPEND_ON[key]]})
        refused = pytest.raises(ConfigurationError, match=f"{key} is .*, and rows are only read as they should be")
        with otherwise, refused:
            start_session()
    # As in the file; and one that is not set counts as what Spark has for it then.
    lines = (PROJECT / "conf/spark-defaults.conf").read_text().splitlines()
    assert {(key, value) for key, value in RESULTS_DEPEND_ON.items()} <= {tuple(text.split()) for text in lines}
    spark.conf.unset("spark.sql.files.ignoreCorruptFiles")
    assert start_session() == spark


def test_another_spark_is_refused_and_java_that_does_not_start_is_named(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(session, "version", lambda _: "9.9.9")
        with pytest.raises(ConfigurationError, match=rf"this is Spark {spark.version}, and Assay is made for 9\.9\.9"):
            start_session()
    with monkeypatch.context() as patch:
        patch.setattr(session.pyspark, "__file__", "/opt/spark/python/pyspark/__init__.py")
        with pytest.raises(ConfigurationError, match="PYTHONPATH leads to another PySpark: /opt/spark/python/pyspark"):
            session._own_spark()
    place = {
        "JAVA_HOME": str(tmp_path),
        "ASSAY_LOGS": str(tmp_path / "logs"),
        "ASSAY_LAKEHOUSE": str(tmp_path / "lake"),
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYSPARK_GATEWAY")} | place
    command = [sys.executable, "-m", "jobs.cli", "plan"]
    ended = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)
    (log,) = (tmp_path / "logs").iterdir()
    assert ended.returncode == 2
    assert ended.stderr.startswith(
        f"error: Java did not start; what it said is in {log}\n       Assay needs Java 17 or"
    )


def test_hadoop_has_the_defaults_of_yarn_only_where_spark_runs_on_it(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = spark.sparkContext._jsc.hadoopConfiguration()
    default, own = "yarn.resourcemanager.max-completed-applications", "yarn.resourcemanager.hostname"
    settings.set(default, "1000")
    settings.set(own, "manager.example")
    session._forget_services.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(spark.sparkContext, "master", "yarn")
        start_session()
    assert (settings.get(default), settings.get(own)) == ("1000", "manager.example")
    start_session()
    assert (settings.get(default), settings.get(own)) == (None, "manager.example")
    assert settings.size() < 500, "there are over 1,000"
    assert settings.get("fs.defaultFS"), "all else is there"
    assert settings.get("mapreduce.fileoutputcommitter.algorithm.version"), "all else is there"
    settings.unset(own)


def test_settings_reach_java_by_a_file_of_their_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be secrets, and what a process is started with is for everybody to read."""
    own = {"spark.hadoop.fs.s3a.secret.key": r"a=b c\n:#!é", "spark.sql.shuffle.partitions": "7"}
    seen: dict[str, Any] = {}

    class Builder:
        def appName(self, _: str) -> "Builder":  # noqa: N802
            return self

        def getOrCreate(self) -> None:  # noqa: N802
            words = shlex.split(os.environ["PYSPARK_SUBMIT_ARGS"])
            file = Path(words[words.index("--properties-file") + 1])
            seen.update(words=words, mode=modes(file), text=file.read_text(), file=file)
            seen["folder"] = Path(os.environ["SPARK_LOCAL_DIRS"])
            raise RuntimeError("Java starts")

    for name in ("SPARK_LOCAL_DIRS", "PYSPARK_GATEWAY_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPARK_HOME", "/opt/spark-3.5")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYSPARK_PYTHON", "/opt/another/python")
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "")
    monkeypatch.setattr(session, "_jvm_is_running", lambda: False)
    monkeypatch.setattr(session.SparkSession, "builder", Builder())
    with pytest.raises(RuntimeError, match="Java starts"):
        start_session(spark_settings=own)
    assert os.environ["LC_ALL"] == "C.UTF-8", "else Java finds no files whose names have other letters"
    assert Path(os.environ["SPARK_HOME"], "bin/spark-submit").exists(), "not another Spark that is on this machine"
    assert os.environ["PYSPARK_PYTHON"] == sys.executable, "nor another Python"
    assert not any("a=b" in word for word in seen["words"])
    assert seen["mode"] == [0o600]
    assert not seen["file"].exists()
    assert "SPARK_LOCAL_DIRS" not in os.environ
    assert modes(seen["folder"]) == [0o700]
    seen["folder"].rmdir()
    assert session._sets("spark.local.dir", {"spark.local.dir": "/fast"})
    assert session._sets("spark.sql.session.timeZone", {})
    assert not session._sets("spark.local.dir", {})


def test_java_reads_the_settings_as_they_were_given(spark: SparkSession, tmp_path: Path) -> None:
    own = {"spark.hadoop.secret": r"a=b c\n:#!é", "spark.b c": "1\n2"}
    with session._settings_file(own) as file:
        text = file.read_text()
    read = java_class(spark, "java.util.Properties")()
    read.load(java_class(spark, "java.io.StringReader")(text))
    assert {key: read.getProperty(key) for key in own} == own
    # All else is as in conf/spark-defaults.conf, but for Java's options.
    assert read.getProperty("spark.sql.session.timeZone") == "UTC"
    assert f"{PROJECT}/.jars/classes.jsa" in read.getProperty(JAVA_OPTIONS)


def test_settings_that_come_too_late_are_refused_and_others_are_taken(spark: SparkSession) -> None:
    before = spark.conf.get("spark.sql.shuffle.partitions")
    with session_settings(spark, {"spark.sql.shuffle.partitions": before}):
        start_session(spark_settings={"spark.sql.shuffle.partitions": "3"})
        assert spark.conf.get("spark.sql.shuffle.partitions") == "3"
        # Delta's are not known to Spark before Delta is asked for something.
        start_session(spark_settings={"spark.databricks.delta.snapshotPartitions": "1"})
    for key in ("spark.hadoop.fs.s3a.secret.key", "spark.executor.memory"):
        with pytest.raises(ConfigurationError, match=rf"{key} .* comes too late for a session that runs") as error:
            start_session(spark_settings={key: "hidden"})
        assert "hidden" not in f"{error.value} {error.value.hint}"


def test_a_new_folder_of_logs_and_its_files_are_for_their_owner(tmp_path: Path) -> None:
    log = tmp_path / "data/logs" / LOG
    with _opened(log) as file:
        file.write(b"a")
    with _opened(log) as file:
        file.write(b"b")
    assert log.read_bytes() == b"ab"
    assert modes(log, log.parent, log.parent.parent) == [0o600, 0o700, 0o755]


def test_logs_of_earlier_versions_and_their_folder_are_closed_too(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    earlier = [folder / EARLIER, folder / "spark-worker-1.log"]
    for log in earlier:
        log.write_text("of an earlier Assay")
    _opened(folder / LOG).close()
    assert modes(folder, folder / LOG, *earlier) == [0o700, 0o600, 0o600, 0o600]


def test_a_folder_that_holds_other_things_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("somebody's")
    for name in ("empty", "shared"):
        (tmp_path / name).mkdir()
    (tmp_path / "shared" / EARLIER).write_text("of an earlier Assay")
    (tmp_path / "shared/syslog").write_text("another's")
    (tmp_path / "shared" / LOG.replace("2024", "2023")).symlink_to(tmp_path / "elsewhere")
    for name in ("empty", "shared"):
        _opened(tmp_path / name / LOG).close()
        assert modes(tmp_path / name, tmp_path / name / LOG) == [0o755, 0o600]
    assert modes(tmp_path / "shared" / EARLIER, tmp_path / "shared/syslog") == [0o600, 0o644]
    assert modes(tmp_path / "elsewhere") == [0o644]


def test_rows_that_postgres_refuses_are_in_neither_output_nor_log(tmp_path: Path, database: Database) -> None:
    place = Place(tmp_path, database)
    place.land("members/a.log", f'{{id="{MEMBER}"|created_at="2023-06-27"|follow_reco=80.5}}\n')
    with psycopg.connect(database.conninfo(), autocommit=True) as connection:
        connection.execute(NARROW_STAGING)
    run = place.process("run", "--source", "members")
    told = run.stdout + run.stderr
    assert run.returncode == 1, told
    says = r"gold\.member\w*: Postgres refused rows that were loaded \((invalid input syntax|new row for relation)"
    assert re.search(says, told), told
    [log] = place.settings.logs.iterdir()
    logged = log.read_text()
    assert "PSQLException: ERROR: invalid input syntax for type integer: ..." in logged
    assert "PSQLException: ERROR: new row for relation ..." in logged
    assert MEMBER not in told + logged
    assert modes(log, log.parent) == [0o600, 0o700]


def test_a_locale_that_is_named_and_not_there_has_no_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    before = locale.setlocale(locale.LC_CTYPE)
    for name, expected in {"C.UTF-8": "UTF-8", "xx_XX.UTF-8": ""}.items():
        monkeypatch.setenv("LC_ALL", name)
        assert session._character_set() == expected
    assert locale.setlocale(locale.LC_CTYPE) == before


def test_a_log_that_maintenance_removes_meanwhile_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = session._is_own_file
    names = [tmp_path / f"logs/spark-2024010{day}T000000Z.log" for day in (1, 2, 3)]
    names[0].parent.mkdir()

    def removed_after_a_look(path: Path) -> bool:
        found = own(path)
        if path == names[1]:
            path.unlink()
        return found

    for log in names[:2]:
        log.touch()
    monkeypatch.setattr(session, "_is_own_file", removed_after_a_look)
    with _opened(names[2]) as opened:
        opened.write(b"new")
    names[1].touch()
    assert session.logs_before(names[0].parent, datetime.max.replace(tzinfo=UTC, year=2100)) == [names[0], names[2]]
    assert not own(names[1])
