"""A new source is three files and nothing else: this adds one to a copy of the project and runs it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg

from jobs.engine.database import Database
from scripts.proof.world import postgres_variables

PROJECT = Path(__file__).resolve().parents[1]

TRANSFORM = '''
"""Readings: one row is one reading of a sensor, sent as `sensor,celsius` a line."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def readings(raw: DataFrame) -> DataFrame:
    """One row per line."""
    parts = F.split("_raw", ",")
    celsius = F.get(parts, F.lit(1)).try_cast("int")
    return raw.select("*", F.get(parts, F.lit(0)).alias("sensor"), celsius.alias("celsius"))


def warmest(readings: DataFrame) -> DataFrame:
    """One row per sensor: its highest reading."""
    return readings.groupBy("sensor").agg(F.max("celsius").alias("celsius"))
'''

DECLARATION = """
landing: weather/*.txt
format: lines
tables:
  readings:
    key: [sensor, celsius]
    rules:
      - {name: has_celsius, expression: celsius is not null, action: quarantine, reason: it is not a number}
publish:
  warmest:
    primary_key: [sensor]
    description: One row per sensor.
    columns: {sensor: The sensor, celsius: Its highest reading in degrees Celsius}
"""


def test_a_source_is_added_with_its_own_files_only(tmp_path: Path, database: Database) -> None:
    project = tmp_path / "project"
    for folder in ("conf", "jobs", "transforms", "scripts", "api"):
        shutil.copytree(PROJECT / folder, project / folder)
    (project / ".jars").symlink_to(PROJECT / ".jars")
    (project / "transforms/weather.py").write_text(TRANSFORM)
    (project / "conf/sources/weather.yaml").write_text(DECLARATION)
    (project / "data/landing/weather").mkdir(parents=True)
    (project / "data/landing/weather/monday.txt").write_text("roof,21\nroof,35\ncellar,12\nattic,warm\n")
    environment = os.environ | postgres_variables(database) | {"PYTHONPATH": str(project)}

    def assay(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jobs.cli", *arguments]
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)

    sampled, named = assay("sample", "--rows", "200"), assay("sample", "--source", "weather")
    assert (sampled.returncode, named.returncode) == (0, 2), sampled.stderr + named.stderr
    assert "sample weather: there is none" in sampled.stdout
    assert "weather has no sample data\n" in named.stderr
    job = assay("run", "--source", "weather")
    assert job.returncode == 0, job.stdout + job.stderr
    assert "4 read = 3 written + 1 quarantined" in job.stdout
    with psycopg.connect(database.conninfo()) as connection:
        rows = connection.execute("SELECT sensor, celsius FROM gold.warmest ORDER BY sensor").fetchall()
    assert rows == [("cellar", 12), ("roof", 35)]
