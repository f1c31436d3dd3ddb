"""Before Java starts: whether there is so little to do that a lighter JVM does it sooner."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from jobs.engine import context, session
from jobs.engine.errors import ConfigurationError
from jobs.engine.session import JAVA_FOR_FEW_ROWS, PROJECT, _java_options
from jobs.engine.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    own = {"spark.driver.extraJavaOptions": "-Xss4m"}
    return Settings(landing=str(tmp_path / "landing"), lakehouse=f"file:{tmp_path}/lakehouse", logs=tmp_path, spark=own)


def java_options(settings: Settings, monkeypatch: pytest.MonkeyPatch, **how: bool) -> str:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(context, "start_session", lambda **given: seen.update(given))
    monkeypatch.setattr(context, "_verify_places", lambda *_: None)
    context.start_run(settings, Console(quiet=True), quiet=True, **how)
    return str(seen["spark_settings"]["spark.driver.extraJavaOptions"])


def put(folder: Path, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{size}.jsonl").open("wb") as file:
        file.truncate(size)


@pytest.mark.parametrize("folder", ["landing/contacts", "lakehouse/bronze/contacts/contacts"])
def test_java_compiles_well_where_there_is_much(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    assert java_options(settings, monkeypatch) == f"{JAVA_FOR_FEW_ROWS} -Xss4m"
    put(tmp_path / folder, 5_000_000)
    put(tmp_path / "lakehouse/silver", 9_000_000)
    assert java_options(settings, monkeypatch, verbose=True) == f"{JAVA_FOR_FEW_ROWS} -Xss4m -Dassay.log.level=warn"
    put(tmp_path / folder, 3_000_000)
    assert java_options(settings, monkeypatch) == "-Xss4m"


def test_links_count_as_what_they_lead_to(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "elsewhere", 9_000_000)
    (tmp_path / "landing").mkdir()
    (tmp_path / "landing/round").symlink_to(tmp_path / "landing")
    (tmp_path / "landing/broken").symlink_to(tmp_path / "nothing")
    assert JAVA_FOR_FEW_ROWS in java_options(settings, monkeypatch)
    (tmp_path / "landing/contacts").symlink_to(tmp_path / "elsewhere")
    assert JAVA_FOR_FEW_ROWS not in java_options(settings, monkeypatch)


def test_very_many_files_are_much_and_what_lies_elsewhere_may_be(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        put(tmp_path / f"landing/{number}", 1)
    monkeypatch.setattr(context, "FEW_FILES", 7)  # folders count, too
    assert JAVA_FOR_FEW_ROWS in java_options(settings, monkeypatch)
    put(tmp_path / "landing/4", 1)
    assert JAVA_FOR_FEW_ROWS not in java_options(settings, monkeypatch)
    elsewhere = settings.model_copy(update={"landing": "s3a://raw", "spark": {}})
    assert java_options(elsewhere, monkeypatch) == ""


def test_a_path_that_spark_would_look_for_elsewhere_is_refused(settings: Settings, tmp_path: Path) -> None:
    """Raw files would be listed here and read there, and the lakehouse be another one."""

    def verify(default: str, **places: str) -> None:
        hadoop = SimpleNamespace(hadoopConfiguration=lambda: {"fs.defaultFS": default})
        named = {"landing": "file:/landing", "output": "file:/output", **places}
        context._verify_places(settings.model_copy(update=named), cast("Any", SimpleNamespace(_jsc=hadoop)))

    verify("file:///", landing=str(tmp_path))
    verify("hdfs://cluster:8020")
    verify("hdfs://cluster:8020", landing="hdfs:/landing")
    for place in ("landing", "lakehouse", "output"):
        with pytest.raises(ConfigurationError, match=r"^/x is a path of this machine, and Hadoop's settings") as error:
            verify("hdfs://cluster:8020", **{place: "/x"})
        assert "file:/x" in str(error.value.hint)


def test_java_compiles_the_large_methods_that_spark_makes_of_plans_on_executors_too() -> None:
    asked = "-XX:-DontCompileHugeMethods"
    assert asked in shlex.split(_java_options(""))
    defaults = PROJECT / "conf/spark-defaults.conf"
    assert asked in shlex.split(session._default(defaults, "spark.executor.extraJavaOptions"))


def test_a_collector_that_all_java_programs_are_to_have_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "-Xmx1g -XX:+UseG1GC")
            assert "UseParallelGC" not in _java_options("")
    assert "UseParallelGC" in _java_options("")


@pytest.mark.parametrize(
    ("own", "collector"),
    [("", "-XX:+UseParallelGC"), ("-Xss4m -XX:+UseZGC", "-XX:+UseZGC"), ("-Xss4m", "-XX:+UseParallelGC")],
)
def test_own_options_come_last_and_an_own_collector_is_the_only_one(own: str, collector: str) -> None:
    options = _java_options(own)
    assert re.findall(r"-XX:\S+GC", options) == [collector]
    assert f"-Dlog4j2.configurationFile={PROJECT.as_uri()}/conf/log4j2.properties" in options
    assert options.endswith(own)


def test_java_reads_no_classes_where_it_is_to_write_some() -> None:
    options = _java_options("-XX:ArchiveClassesAtExit='/my  own/new.jsa'")
    assert "SharedArchiveFile" not in options
    assert shlex.split(options)[-1] == "-XX:ArchiveClassesAtExit=/my  own/new.jsa"


def test_the_project_may_be_in_a_folder_with_a_blank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my assay").symlink_to(PROJECT)
    monkeypatch.setattr(session, "PROJECT", tmp_path / "my assay")
    options = _java_options("")
    words = shlex.split(options)
    assert all(word.startswith("-") for word in words)
    assert f"-XX:SharedArchiveFile={tmp_path}/my assay/.jars/classes.jsa" in words
    assert f"-Dlog4j2.configurationFile={tmp_path.as_uri()}/my%20assay/conf/log4j2.properties" in options
