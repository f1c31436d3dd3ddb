"""What every job is given: the session, the settings, the lakehouse and the ledger of one run."""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pyspark.sql import SparkSession
from rich.console import Console

from jobs.engine.delta import Lakehouse
from jobs.engine.errors import ConfigurationError
from jobs.engine.ledger import Ledger
from jobs.engine.places import is_uri, local_path
from jobs.engine.progress import Steps
from jobs.engine.session import FEW_BYTES, JAVA_FOR_FEW_ROWS, JAVA_OPTIONS, start_session
from jobs.engine.settings import Settings

FEW_FILES = 10_000


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
        options = [JAVA_FOR_FEW_ROWS] if _has_little(settings) else []
        options += [settings.spark.get(JAVA_OPTIONS, "")] + ["-Dassay.log.level=warn"] * verbose
        spark_settings = {**settings.spark, JAVA_OPTIONS: " ".join(options)}
        log = None if verbose else settings.logs / f"spark-{started_at:%Y%m%dT%H%M%SZ}.log"
        spark = start_session(master=settings.master, spark_settings=spark_settings, log=log)
        steps.spark = spark
        _verify_places(settings, spark)
    lake = Lakehouse(spark, settings.lakehouse)
    return Run(spark, settings, run_id, started_at, lake, Ledger(lake, run_id, started_at), steps)


def _verify_places(settings: Settings, spark: SparkSession) -> None:
    """Raises ConfigurationError if Spark would look for a path of this machine in another file system."""
    default = str(spark._jsc.hadoopConfiguration().get("fs.defaultFS"))
    plain = [p for p in (settings.landing, settings.lakehouse, settings.output) if local_path(p) and not is_uri(p)]
    if plain and not default.startswith("file:"):
        raise ConfigurationError(
            f"{plain[0]} is a path of this machine, and Hadoop's settings (HADOOP_CONF_DIR) lead to {default}",
            f"write which one is meant, file:{plain[0]} or a URI of the other; or unset HADOOP_CONF_DIR",
        )


def _has_little(settings: Settings) -> bool:
    """Whether this machine has the raw files and bronze, and they are a few rows: to be known before Java starts."""
    folders = local_path(settings.landing), local_path(f"{settings.lakehouse}/bronze")
    return all(folder is not None and _holds_less(folder, FEW_BYTES, FEW_FILES) for folder in folders)


def _holds_less(folder: Path, size: int, count: int) -> bool:
    """Whether the files in and below a folder are fewer than `count`, and together have less than `size` bytes.

    Links count as what they lead to, as they are read.
    """
    for place, folders, files in os.walk(folder, followlinks=True):
        count -= len(folders) + len(files)
        if count <= 0:  # also where links go round in circles
            return False
        for name in files:
            with suppress(OSError):  # gone since it was listed
                size -= os.stat(f"{place}/{name}").st_size
            if size <= 0:
                return False
    return True
