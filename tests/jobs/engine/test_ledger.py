"""What the ledger takes for true of what was recorded more than once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.engine.batches import FileEvent
from jobs.engine.delta import Lakehouse
from jobs.engine.errors import AssayError
from jobs.engine.ledger import Ledger, RowAccount, TableState
from tests.lab import Lab

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ACCOUNT = RowAccount("members", "silver", "entries", "members/a.log", 3, 3, 0, 0, 0, 1)
STATE = TableState("gold/members/member", 5, {"silver/members/entries": 5}, "logic", 3, "7")


def test_what_was_recorded_last_counts_within_a_run_and_after_a_clock_was_set_back(
    spark: SparkSession, tmp_path: Path
) -> None:
    lake = Lakehouse(spark, str(tmp_path))
    steps = [(2, NOW), (1, NOW), (0, NOW - timedelta(hours=1))]
    ledger = Ledger(lake, "run", NOW)
    for written, began in steps:
        # Two passes of one run, then a run on a machine whose clock is behind.
        ledger = ledger if began == NOW else Ledger(lake, "next", began)
        account = replace(ACCOUNT, rows_written=written, rows_quarantined=3 - written)
        ledger.record_accounts([account])
        ledger.record_table_states([replace(STATE, delta_version=written)])
        seen = Ledger(lake, "reader", NOW)
        assert seen.accounts_of("members", "silver", "entries") == {account}
        assert seen.table_states()[STATE.table_name].delta_version == written
    stamps = [row[0] for row in ledger.all_accounts().select("recorded_at").collect()]
    assert len(set(stamps)) == len(steps)


def test_a_batch_was_ingested_when_it_was_planned_and_when_it_was_read(spark: SparkSession, tmp_path: Path) -> None:
    lake, day = Lakehouse(spark, str(tmp_path)), timedelta(days=1)
    file = FileEvent("members/a.log", 1, 1, "a", "loaded", None, 1)
    Ledger(lake, "killed", NOW).record_plan("members", [file])
    ledger = Ledger(lake, "next", NOW + day)
    ledger.record_accounts([replace(ACCOUNT, layer="bronze"), replace(ACCOUNT, batch_id=2)])
    days = [(NOW + number * day).date() for number in range(-1, 3)]
    assert [ledger.ingested_between("members", day, day) for day in days] == [[], [1], [1], []]


def test_a_batch_is_planned_by_one_run_alone(spark: SparkSession, tmp_path: Path) -> None:
    lake = Lakehouse(spark, str(tmp_path))
    one, other = Ledger(lake, "one", NOW), Ledger(lake, "other", NOW)
    files = [FileEvent(f"members/{name}.log", 1, 1, name, "loaded", None, 1) for name in "ab"]
    assert other.history("members").newest_batch == 0
    one.record_plan("members", files[:1])
    one.record_plan("signups", files[:1])
    with pytest.raises(AssayError, match="members: another run has planned batch 1 meanwhile"):
        other.record_plan("members", files)
    assert Ledger(lake, "reader", NOW).history("members").batch(1) == files[:1]


def test_a_request_is_made_by_one_run_alone(spark: SparkSession, tmp_path: Path) -> None:
    lake = Lakehouse(spark, str(tmp_path))
    one, other = Ledger(lake, "one", NOW), Ledger(lake, "other", NOW)
    assert other.history("members").newest_batch == 0
    asked = one.ask("members", "backfill", [1])
    with pytest.raises(AssayError, match="members: another run has made request 1 meanwhile"):
        other.ask("members", "replay", [2])
    for ledger in (other, Ledger(lake, "reader", NOW)):
        assert ledger.history("members").requests == ((asked,) if ledger is not other else ())


def test_accounts_that_are_recorded_twice_count_once(lab: Lab) -> None:
    account = RowAccount("members", "bronze", "member_entries", "members/a.log", 3, 3, 0, 0, 0, 1)
    for _ in range(2):
        lab.start().ledger.record_accounts([account])
    ledger = lab.start().ledger
    assert ledger.all_accounts().count() == 2
    assert ledger.accounts_of("members", "bronze", "member_entries") == {account}
    assert ledger.is_accounted("members", "bronze", "member_entries", 1)
    assert not ledger.is_accounted("members", "bronze", "member_entries", 2)
