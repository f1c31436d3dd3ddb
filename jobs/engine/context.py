"""What every job is given: the session, the settings, the lakehouse and the ledger of one run."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from pyspark.sql import SparkSession
from rich.console import Console

from jobs.engine.delta import Lakehouse
from jobs.engine.ledger import Ledger
from jobs.engine.progress import Steps
from jobs.engine.session import start_session
from jobs.engine.settings import Settings


@dataclass(frozen=True)
class Run:
    """One run of Assay. `run_id` is unique; `started_at` is the only clock that a job reads."""

    spark: SparkSession
    settings: Settings
    run_id: str
    started_at: datetime
    lake: Lakehouse
    ledger: Ledger
    steps: Steps


def start_run(settings: Settings, console: Console, *, quiet: bool = False, verbose: bool = False) -> Run:
    """Starts the Spark session (or joins the one of spark-submit) and opens the lakehouse."""
    started_at = datetime.now(UTC)
    run_id = f"{started_at:%Y-%m-%dT%H:%M:%SZ}-{secrets.token_hex(2)}"
    steps = Steps(console, quiet=quiet)
    with steps.step("spark", "start"):
        spark_settings = dict(settings.spark)
        if verbose:
            options = spark_settings.get("spark.driver.extraJavaOptions", "")
            spark_settings["spark.driver.extraJavaOptions"] = f"{options} -Dassay.log.level=warn".strip()
        log = None if verbose else settings.logs / f"spark-{started_at:%Y%m%dT%H%M%SZ}.log"
        spark = start_session(master=settings.master, spark_settings=spark_settings, log=log)
        steps.spark = spark
    lake = Lakehouse(spark, settings.lakehouse)
    return Run(spark, settings, run_id, started_at, lake, Ledger(lake, run_id, started_at), steps)
