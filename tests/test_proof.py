"""The proofs in scripts/proof, in short: a few kills, outages and damaged files. The long forms are run by hand."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pyspark.sql import SparkSession

from jobs.engine import delta, embedded
from jobs.engine.database import Database
from jobs.engine.sources import load_sources
from scripts.proof.crash import Bench, finish, roll_back
from scripts.proof.dirt import feed
from scripts.proof.outages import KB, fill_disk, may_mount, stop_postgres_at
from scripts.proof.polls import Polls, look, polling
from scripts.proof.sequences import try_sequence
from scripts.proof.world import AS_IF_LARGE, World, differences


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Postgres of its own, for it is killed."""
    folder = tmp_path_factory.mktemp("server")
    embedded.start(folder)
    yield folder
    embedded.stop(folder)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession, server: Path) -> Bench:
    folder = tmp_path_factory.mktemp("proof")
    return Bench(folder, spark, World(folder / "base", embedded.start(server), ("members",)))


def test_a_run_killed_between_bronze_and_silver_is_finished_by_the_next(bench: Bench) -> None:
    outcome = bench.kill_at("before append silver/members/member_entries")
    assert outcome.disturbances == 1
    assert outcome.differences == []


def test_postgres_that_dies_in_the_transaction_shows_nothing_of_the_release(bench: Bench, server: Path) -> None:
    outcome = stop_postgres_at(bench, server, "after release, in the transaction")
    assert outcome.disturbances == 1
    assert outcome.differences == []


@pytest.mark.skipif(not may_mount(), reason="only an administrator can mount a small disk")
def test_a_full_disk_fails_the_run_and_the_next_goes_on(bench: Bench) -> None:
    outcome = fill_disk(bench, 64 * KB)
    assert outcome.disturbances == 1
    assert outcome.differences == []


def test_a_reader_sees_one_release_or_the_other(bench: Bench) -> None:
    with bench.world() as world:
        finish(world)
        with polling(world.database) as polls:
            for to in (1, 2, 1, 2):
                assert roll_back(world, to).release_id
        assert polls.wrong == []
        assert len(polls.content) >= 4
        assert polls.count > 4

        # What it would see of a release that is not whole.
        with psycopg.connect(world.database.conninfo()) as connection:
            connection.execute("DELETE FROM gold.member WHERE id = (SELECT min(id) FROM gold.member)")
            torn = Polls(content=dict(polls.content))
            look(connection, torn)
        assert len(torn.wrong) == 2


def test_a_difference_would_be_seen() -> None:
    assert differences({"a": "1 rows", "b": "2 rows"}, {"a": "1 rows", "c": "3 rows"}) == [
        "b: 2 rows expected, missing found",
        "c: missing expected, 3 rows found",
    ]


def test_random_deliveries_end_as_in_a_new_lakehouse(
    tmp_path: Path, spark: SparkSession, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in AS_IF_LARGE.items():
        monkeypatch.setattr(delta, name, value)
    found = try_sequence(load_sources(["signups"])[0], 2, 4, tmp_path, embedded.start(server))
    assert found.differences == []
    assert found.rows > 50
    assert [step for step in found.done if "without" in step]
    assert [step for step in found.done if step.startswith("a run: release")]


@pytest.mark.parametrize("source", ["members", "interactions"])
def test_damaged_files_stop_no_run_and_each_is_accounted_for(
    tmp_path: Path, spark: SparkSession, database: Database, source: str
) -> None:
    found = feed(load_sources([source])[0], 14, 11, tmp_path, database)
    assert found.wrong == []
    assert found.rows_read > 0
    assert found.rows_quarantined + found.set_aside > 0
