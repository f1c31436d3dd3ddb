"""A whole Assay in a temporary folder, for tests that go from raw files to Postgres."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pyspark.sql import DataFrame, SparkSession
from rich.console import Console

from jobs import cli
from jobs.engine.context import Run, start_run
from jobs.engine.database import Database
from jobs.engine.delta import Lakehouse
from jobs.engine.session import PROJECT, java_class
from jobs.engine.settings import Settings
from jobs.engine.sources import Source, load_sources
from jobs.engine.summary import Layer, Summary
from jobs.layers.run import run_sources
from scripts.proof.world import postgres_settings, postgres_variables


class Place:
    """Landing, lakehouse, output and database of one Assay, for `assay` processes to work on."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.landing, self.output = folder / "landing", folder / "output"
        self.database = database
        self.settings = Settings(
            landing=str(self.landing),
            lakehouse=str(folder / "lakehouse"),
            output=str(self.output),
            database=folder / "postgres",
            logs=folder / "logs",
            postgres=postgres_settings(database),
        )

    def land(self, path: str, content: str | bytes, at: int | None = None) -> Path:
        """Puts a raw file into the landing folder; `at` is its modification time in seconds."""
        file = self.landing / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        if at is not None:
            os.utime(file, (at, at))
        return file

    def query(self, statement: str, user: Database | None = None) -> list[tuple[Any, ...]]:
        """What Postgres answers."""
        with psycopg.connect((user or self.database).conninfo(), autocommit=True) as connection:
            return connection.execute(statement).fetchall()  # type: ignore[arg-type]

    def process(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """The `assay` command in a process of its own."""
        command = [sys.executable, "-m", "jobs.cli", *arguments]
        environment = self.environment() | variables
        return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=900)

    def environment(self) -> dict[str, str]:
        """What makes a new `assay` process work here."""
        return {
            **os.environ,
            "ASSAY_LANDING": self.settings.landing,
            "ASSAY_LAKEHOUSE": self.settings.lakehouse,
            "ASSAY_OUTPUT": self.settings.output,
            "ASSAY_LOGS": str(self.settings.logs),
            **postgres_variables(self.database),
        }


class Lab(Place):
    """Writes raw files, runs Assay on them in this process, whose session is warm, and reads what came out."""

    def __init__(self, folder: Path, spark: SparkSession, database: Database) -> None:
        super().__init__(folder, database)
        self.lake = Lakehouse(spark, self.settings.lakehouse)

    def start(self) -> Run:
        """A run that has done nothing yet."""
        return start_run(self.settings, Console(quiet=True), quiet=True)

    def run(self, *sources: str | Source, first: Layer = "bronze", until: Layer = "publish") -> Summary:
        """Runs some sources (all, if none is named), as they are declared or as they are given."""
        names = [source for source in sources if isinstance(source, str)]
        given = [source for source in sources if isinstance(source, Source)]
        loaded = load_sources(names) if names or not given else []
        return run_sources(self.start(), [*loaded, *given], first, until)

    def table(self, path: str) -> DataFrame:
        """A Delta table, e.g. `silver/contacts/contacts`."""
        return self.lake.read(path)

    def account(self, layer: str) -> dict[str, tuple[int, ...]]:
        """Each file's accounts in force, summed: read, written, quarantined, deduplicated, superseded."""
        names = ("rows_read", "rows_written", "rows_quarantined", "rows_deduplicated", "rows_superseded")
        accounts = self.start().ledger.accounts().where(f"layer = '{layer}'")
        rows = accounts.groupBy("source_file").sum(*names).collect()
        return {row[0]: tuple(row[1:]) for row in rows}

    def assay(self, *arguments: str) -> tuple[int, str, str]:
        """The `assay` command in this process, whose session is warm: its exit code, and what it prints."""
        out, error = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(error),
        ):
            for name, value in self.environment().items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["assay"])
            try:
                cli.main(list(arguments))
            except SystemExit as ended:
                return int(ended.code or 0), out.getvalue(), error.getvalue()


def forget_tables(spark: SparkSession) -> None:
    """Delta keeps in memory what it knows of every table that it has seen; another process would not."""
    java_class(spark, "org.apache.spark.sql.delta.DeltaLog").clearCache()


def with_gold(name: str, *tables: str) -> Source:
    """A declared source with these of its gold tables alone: each of the others costs a run half a second."""
    content = load_sources([name])[0].model_dump(by_alias=True)
    for kind in ("publish", "exports", "documents"):
        content[kind] = {table: declared for table, declared in content[kind].items() if table in tables}
    return Source.model_validate(content)
