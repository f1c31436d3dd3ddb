"""One Spark context for the whole suite, also in several processes: it costs seconds, the tests in it milliseconds."""

import importlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from jobs.engine import embedded
from jobs.engine.context import Run
from jobs.engine.database import Database
from jobs.engine.session import FOR_FEW_ROWS, JAVA_FOR_FEW_ROWS, JAVA_OPTIONS, start_session
from jobs.engine.sources import Source, load_sources
from jobs.layers import shapes
from scripts.proof.world import new_database
from scripts.samples import SampleCounts
from tests.lab import Lab, Place, forget_tables

# A test's data is a few rows: planning and compiling would take longer than the work, so both are kept small. What the
# command line and spark-submit run in other tests has the settings of conf/spark-defaults.conf.
FAST_FOR_FEW_ROWS = {
    **FOR_FEW_ROWS,
    # The quick compiler alone: in 20 minutes of small runs, the better one does not earn the time that it takes.
    JAVA_OPTIONS: JAVA_FOR_FEW_ROWS,
    # With 2g, a session that lives through the whole suite spends most of its time collecting garbage in the end.
    "spark.driver.memory": "5g",
    "spark.sql.ui.retainedExecutions": "5",
    "spark.ui.retainedJobs": "20",
    "spark.ui.retainedStages": "20",
    "spark.ui.retainedTasks": "200",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
}

# Two processes and what they start share the cores: how long an example takes says nothing of the code.
hypothesis.settings.register_profile("assay", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("assay")

_SHARED = "TEST_SPARK_GATEWAY"  # port and secret of the JVM that the processes of a test run share


def pytest_configure(config: pytest.Config) -> None:
    """With several processes (`pytest -n 2`), this one starts the JVM whose context they share.

    Most of the time the session plans, which takes one core.
    """
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        with _silenced():  # what Java prints meanwhile belongs to none of the tests
            gateway: Any = _start().sparkContext._gateway
        os.environ[_SHARED] = f"{gateway.java_parameters.port}:{gateway.java_parameters.auth_token}"


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and os.environ.pop(_SHARED, None):
        _start().stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests together that share what one of several processes has made."""
    for item in items:
        definitions = item._fixtureinfo.name2fixturedefs.values()
        if any(definition[-1].argname == "sample" for definition in definitions):
            item.add_marker(pytest.mark.xdist_group("sample"))
        elif any(definition[-1].scope == "module" for definition in definitions):
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@contextmanager
def _silenced() -> Iterator[None]:
    """What processes print that are started meanwhile goes nowhere, as long as they live."""
    kept = [(number, os.dup(number)) for number in (1, 2)]
    with open(os.devnull, "w") as nowhere:
        for number, _ in kept:
            os.dup2(nowhere.fileno(), number)
    try:
        yield
    finally:
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)


def _start() -> SparkSession:
    return start_session(master="local[2]", spark_settings=FAST_FOR_FEW_ROWS)


def _join(port: str, secret: str) -> SparkSession:
    """A session of its own in the context of the JVM that another process has started."""
    with pytest.MonkeyPatch.context() as patch:  # what tests start is to start a JVM of its own
        patch.setenv("PYSPARK_GATEWAY_PORT", port)
        patch.setenv("PYSPARK_GATEWAY_SECRET", secret)
        gateway: Any = launch_gateway()
    java = gateway.jvm
    shared = getattr(java, "org.apache.spark.SparkContext").getOrCreate()
    context = SparkContext(
        conf=SparkConf(_jconf=shared.getConf()), gateway=gateway, jsc=java.JavaSparkContext.fromSparkContext(shared)
    )
    session = getattr(java, "org.apache.spark.sql.classic.SparkSession").getDefaultSession().get().newSession()
    return SparkSession(context, session)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    if shared := os.environ.get(_SHARED):
        yield _join(*shared.split(":"))
        return
    session = _start()
    yield session
    session.stop()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The embedded Postgres, as users get it, in a folder of its own."""
    folder = tmp_path_factory.mktemp("postgres")
    yield embedded.start(folder)
    embedded.stop(folder)


@pytest.fixture
def database(postgres: Database) -> Iterator[Database]:
    """A fresh database on that server."""
    new = new_database(postgres, f"test_{uuid.uuid4().hex[:8]}")
    yield new
    with psycopg.connect(postgres.conninfo(), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{new.name}" WITH (FORCE)')


def _check_once(run: Run, source: Source) -> None:
    """Rules that are right in one lakehouse are so in all others: it costs the first run of each half a second."""
    if (declared := (source.model_dump_json(), source.logic())) not in _CHECKED:
        _CHECK(run, source)
        _CHECKED.add(declared)


_CHECK, _CHECKED = shapes.check, set[tuple[str, str]]()


@pytest.fixture
def lab(tmp_path: Path, spark: SparkSession, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """Landing, lakehouse, output and database of one test."""
    monkeypatch.setattr(shapes, "check", _check_once)
    yield Lab(tmp_path, spark, database)
    forget_tables(spark)  # these are not seen again


@dataclass(frozen=True)
class Sample:
    """All sources on small samples, published; for tests that only look.

    `made` is what each sample holds, `summary` what the run says of itself.
    """

    place: Place
    made: Mapping[str, SampleCounts]
    summary: dict[str, Any]


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory, postgres: Database) -> Sample:
    """Made by the `assay` command, as users would, and so in tests that do without the session."""
    place = Place(tmp_path_factory.mktemp("sample"), new_database(postgres, "sample"))
    made = {
        source.name: importlib.import_module(f"scripts.samples.{source.name}").write(
            place.landing / source.name, rows=1_000
        )
        for source in load_sources()
    }
    run = place.process("run", "--json")
    assert run.returncode == 3, run.stdout + run.stderr  # the samples have empty files
    return Sample(place, made, json.loads(run.stdout))
