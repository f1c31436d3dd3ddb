"""The proofs in scripts/proof, in short: some kills, some damaged files. The long forms are run by hand."""

from pathlib import Path

import psycopg
import pytest
from pyspark.sql import SparkSession

from jobs.engine.database import Database
from jobs.engine.sources import load_sources
from scripts.proof.crash import Bench
from scripts.proof.dirt import feed
from scripts.proof.world import World, differences


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession, postgres: Database) -> Bench:
    from dataclasses import replace

    with psycopg.connect(postgres.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE proof")
    folder = tmp_path_factory.mktemp("proof")
    return Bench(folder, spark, World(folder / "base", replace(postgres, name="proof")))


@pytest.mark.parametrize("step", ["before save silver/signups/signups", "after release, in the transaction"])
def test_a_killed_run_is_finished_by_the_next_as_if_nothing_had_been(bench: Bench, step: str) -> None:
    outcome = bench.kill_at(step)
    assert outcome.was_killed
    assert outcome.differences == []


def test_a_difference_would_be_seen() -> None:
    assert differences({"a": "1 rows", "b": "2 rows"}, {"a": "1 rows", "c": "3 rows"}) == [
        "b: 2 rows expected, missing found",
        "c: missing expected, 3 rows found",
    ]


@pytest.mark.parametrize("source", ["members", "interactions"])
def test_damaged_files_stop_no_run_and_each_is_accounted_for(tmp_path: Path, database: Database, source: str) -> None:
    found = feed(load_sources([source])[0], 14, 11, tmp_path, database)
    assert found.wrong == []
    assert found.rows_read > 0
    assert found.rows_quarantined + found.set_aside > 0
