"""A run of several sources: one that fails lets the others be refined, and nothing is published."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyspark.sql import SparkSession

from jobs.engine.batches import FileEvent, History, Status
from jobs.engine.delta import LOG_RETENTION
from jobs.engine.errors import AssayError
from jobs.engine.session import FOR_FEW_ROWS, PROJECT, session_settings
from jobs.engine.sources import Source, load_sources
from jobs.layers import run as run_job
from scripts.proof.world import entry, first_delivery, with_rule
from tests.lab import Lab, with_gold


def that_fails(source: Source) -> Source:
    """The source with a rule that nothing passes."""
    return with_rule(source, "false", "fail")


def test_a_source_that_fails_leaves_the_others_refined_and_nothing_published(lab: Lab) -> None:
    first_delivery(lab.landing)
    members, signups = with_gold("members", "member"), with_gold("signups", "users")
    with pytest.raises(AssayError, match="rule one_more"):
        lab.run(that_fails(members), signups)
    assert lab.table("silver/signups/signups").count() == 2
    assert not lab.lake.exists("silver/members/member_entries")
    assert lab.query("SELECT to_regclass('ops.releases')") == [(None,)]

    summary = lab.run(members, signups)
    assert [line.source for line in summary.sources] == ["members", "signups"]
    assert list(summary.seconds) == [
        "spark start", "members bronze", "members silver", "members gold",
        "signups bronze", "signups silver", "signups gold", "postgres publish",
    ]  # fmt: skip
    assert summary.release_id == 1
    assert lab.account("silver") == {"members/a.log": (4, 2, 1, 1, 0), "signups/a.csv": (3, 2, 1, 0, 0)}

    # No value of a row is in a log: Delta keeps least and greatest values there, of the engine's columns alone.
    logs = [file.read_text() for file in Path(lab.lake.root).glob("*/*/*/_delta_log/*.json")]
    actions = [json.loads(text) for log in logs for text in log.splitlines()]
    stats = [json.loads(action["add"]["stats"]) for action in actions if action.get("add", {}).get("stats")]
    columns = {name for found in stats for name in found.get("minValues", {})}
    assert columns == {"_batch_id", "_source_file", "_row_hash", "_ingested_at"}
    assert [text for text in logs if "Ann" in text or "junk" in text] == []
    # Rows are staged on their way, and stay nowhere else than in tables.
    assert [file for file in Path(lab.lake.path("ops/scratch")).rglob("*") if file.is_file()] == []
    # A release's versions can be found for long, also if maintenance never comes.
    assert lab.lake.table_property("gold/members/member", LOG_RETENTION) == "interval 730 days"


def test_a_second_interrupt_ends_the_threads_that_the_first_one_waits_for(tmp_path: Path) -> None:
    script = f"""
import os, signal, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from jobs.layers.run import ended_by_a_second_interrupt
def work():
    time.sleep(0.5); os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5); os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5); Path({str(tmp_path / "went on")!r}).touch()
with ended_by_a_second_interrupt(), ThreadPoolExecutor() as pool:
    pool.submit(work).result()
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, timeout=60)
    assert ended.returncode == 130
    assert not (tmp_path / "went on").exists()


def test_a_file_from_the_future_is_warned_about_as_long_as_it_counts_where_the_newest_file_does() -> None:
    now = datetime.now(UTC)
    times = {"now": now, "soon": now + timedelta(hours=20), "far": datetime(2999, 1, 1, tzinfo=UTC)}
    milliseconds = {name: int(at.timestamp() * 1000) for name, at in times.items()}

    def warned(source: Source) -> list[str]:
        table = "customers" if source.name == "interactions" else source.name
        label = f"{table}:" if source.name == "interactions" else ""

        def of(name: str, at: int, batch: int, content: str, status: Status) -> FileEvent:
            return FileEvent(f"{source.name}/{table}_{name}.csv", 1, at, f"{label}{content}", status, None, batch)

        events = [of(name, at, 1, name, "loaded") for name, at in milliseconds.items()]
        events += [
            of("mended", milliseconds["far"], 1, "m", "loaded"),
            of("mended", milliseconds["now"], 2, "m", "known"),
        ]
        ledger = SimpleNamespace(history=lambda _: History(events))
        return run_job._from_the_future(cast("Any", SimpleNamespace(started_at=now, ledger=ledger)), source)

    found = {source.name: warned(source) for source in load_sources()}  # whichever run read them
    assert {name for name, warnings in found.items() if warnings} == {"interactions", "signups"}
    says = "signups: of a modification time to come, until which they count as newer than any other: "
    assert found["signups"][0].startswith(f"{says}signups/signups_far.csv: give")


def test_little_is_interpreted_and_the_sessions_settings_come_back(lab: Lab, spark: SparkSession) -> None:
    compiled = dict.fromkeys(FOR_FEW_ROWS, "true") | {
        "spark.sql.files.minPartitionNum": "2",
        "spark.sql.files.maxPartitionBytes": "64m",
        "spark.sql.shuffle.partitions": "4",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.codegen.factoryMode": "FALLBACK",
    }
    seen = []

    def looking(*_: object) -> None:
        seen.append({key: spark.conf.get(key) for key in FOR_FEW_ROWS})

    lab.land("members/a.log", entry("a" * 16, 40))
    with session_settings(spark, compiled), pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_job, "check", looking)
        lab.run("members", until="bronze")
        patch.setattr(run_job, "FEW_BYTES", 10)
        lab.run("members", until="bronze")
        assert {key: spark.conf.get(key) for key in FOR_FEW_ROWS} == compiled
    assert seen == [FOR_FEW_ROWS, compiled]
