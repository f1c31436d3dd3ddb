"""One Spark session for the whole suite: it costs seconds, the tests in it milliseconds."""

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from jobs.engine.session import start_session

FAST_FOR_SHORT_RUNS = {
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    "spark.sql.shuffle.partitions": "2",
    "spark.driver.memory": "2g",
}


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = start_session(master="local[2]", spark_settings=FAST_FOR_SHORT_RUNS)
    yield session
    session.stop()
