"""One Spark session for the whole suite: it costs seconds, the tests in it milliseconds."""

import importlib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pyspark.sql import SparkSession

from jobs.engine import embedded
from jobs.engine.database import Database
from jobs.engine.session import FOR_FEW_ROWS, start_session
from jobs.engine.sources import load_sources
from scripts.proof.world import new_database
from scripts.samples import SampleCounts
from tests.lab import Lab, Place, forget_tables

# A test's data is a few rows: planning and compiling would take longer than the work, so both are kept small. What the
# command line and spark-submit run in other tests has the settings of conf/spark-defaults.conf.
FAST_FOR_FEW_ROWS = {
    **FOR_FEW_ROWS,
    # With 2g, a session that lives through the whole suite spends most of its time collecting garbage in the end.
    "spark.driver.memory": "5g",
    "spark.sql.ui.retainedExecutions": "5",
    "spark.ui.retainedJobs": "20",
    "spark.ui.retainedStages": "20",
    "spark.ui.retainedTasks": "200",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that need the session, which scripts/test.sh gives a process of their own."""
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker("spark")


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = start_session(master="local[2]", spark_settings=FAST_FOR_FEW_ROWS)
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


@pytest.fixture
def lab(tmp_path: Path, spark: SparkSession, database: Database) -> Iterator[Lab]:
    """Landing, lakehouse, output and database of one test."""
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
