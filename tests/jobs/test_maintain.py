"""Maintenance: kept releases can be rolled back to, all else goes, and the next run has nothing to do."""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame

from jobs import maintain, releases
from jobs.engine import postgres, published_to
from jobs.engine.database import Database
from jobs.engine.delta import LOG_RETENTION, Lakehouse
from jobs.engine.errors import AssayError
from jobs.engine.ledger import ACCOUNT_SCHEMA, RULE_SCHEMA
from jobs.engine.local_rows import local_rows
from jobs.engine.sources import load_sources
from jobs.maintain import Kept, Maintenance
from tests.lab import Lab, forget_tables, with_gold
from tests.test_end_to_end_members import ANN, documents, entry


def let_days_pass(lab: Lab, days: int) -> None:
    """Everything in the gold tables was done `days` days earlier: what files and what Delta's log say of times.

    The silver tables that they are computed from were made earlier, too.
    """
    gold = Path(lab.lake.path("gold"))
    times = {gold: "deletionTimestamp|modificationTime|timestamp", Path(lab.lake.path("silver")): "createdTime"}
    for layer, named in times.items():
        for log in layer.rglob("_delta_log/[0-9]*"):
            earlier = rf'"({named})":(\d{{13}})'
            text = re.sub(earlier, lambda m: f'"{m[1]}":{int(m[2]) - days * 86_400_000}', log.read_text())
            log.write_text(text)
            log.with_name(f".{log.name}.crc").unlink(missing_ok=True)
    for file in gold.rglob("*.*"):
        at = file.stat().st_mtime - days * 86_400
        os.utime(file, (at, at))
    forget_tables(lab.lake.spark)


def on_disk(lab: Lab) -> set[str]:
    return {str(file) for file in Path(lab.lake.root).rglob("*.parquet")}


def test_kept_releases_stay_the_rest_goes_and_a_run_has_nothing_to_do(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintain, "MANY", 2)
    members = with_gold("members", "member", "engagement_segments", "member_documents")
    lab.settings = lab.settings.model_copy(update={"keep_releases": 2})
    for age in (40, 41, 42):
        lab.land(f"members/{age}.log", entry(ANN, age=age))
        lab.run(members)
        let_days_pass(lab, 20)
    address = f"127.0.0.1:{lab.database.port}, database {lab.database.name}"
    assert list(published_to.databases(lab.lake).values()) == [address]
    before = on_disk(lab)
    code, said, _ = lab.assay("maintain", "--dry-run")
    assert (code, "bronze.members.members" in said) == (0, True)
    assert on_disk(lab) == before

    done = maintain.maintain(lab.start(), [members])
    work = {table.table: table for table in done.tables}
    assert (work["bronze/members/members"].files_before, work["bronze/members/members"].files_after) == (3, 1)
    assert work["gold/members/member"].files_removed == 1
    assert work["gold/members/member"].bytes_freed > 0
    assert done.notes == []
    assert "gold.members.member " in done.as_text()

    # Nothing to compute, to publish or to write; and twice is once.
    versions = {table: lab.lake.version(table) for table in work if not table.startswith("ops/")}
    inode = documents(lab)[f"member-{ANN}.json"].stat().st_ino
    idle = lab.run(members)
    assert (idle.release_id, idle.documents) == (None, [])
    assert {table: lab.lake.version(table) for table in versions} == versions
    assert documents(lab)[f"member-{ANN}.json"].stat().st_ino == inode
    # Release 1 is gone; release 2, which is older than Delta keeps versions by itself, is not.
    with pytest.raises(AssayError, match="version 0, which release 1 shows, is no longer there"):
        releases.rollback(lab.start(), [members], lab.database, 1)
    releases.rollback(lab.start(), [members], lab.database, 2)
    assert lab.query("SELECT age FROM gold.member") == [(41,)]
    again = maintain.maintain(lab.start(), [members])
    # The other table is the same in both, so that its older version is no longer needed.
    removed = {table.table: table.files_removed for table in again.tables if table.is_worth_saying}
    assert {table: files for table, files in removed.items() if not table.startswith("ops/")} == {
        "gold/members/engagement_segments": 1
    }
    assert lab.run(members).release_id is None
    assert '"age":41' in documents(lab)[f"member-{ANN}.json"].read_text().replace(" ", "")


def test_no_file_is_removed_that_a_release_needs_whose_log_cannot_be_opened_just_now(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        lab.lake.overwrite(local_rows(lab.lake.spark, [{"a": 1}], "a INT"), "gold/x/t")
    run, report, read = lab.start(), Maintenance(dry_run=False), Lakehouse.read_log
    kept = Kept({"t": frozenset({0})}, run.started_at)
    assert maintain._needed(run, "gold/x/t", kept, report) > timedelta()

    def needed_if(said: str) -> timedelta:
        def refuse(lake: Lakehouse, path: str, version: int | None = None) -> DataFrame:
            if version is None:
                return read(lake, path)
            raise AnalysisException(said)

        monkeypatch.setattr(Lakehouse, "read_log", refuse)
        return maintain._needed(run, "gold/x/t", kept, report)

    with pytest.raises(AssayError, match=r"gold.x.t: which files version 0 of a release needs could not be read; no"):
        needed_if("java.io.FileNotFoundException: /lake/gold/x/t/_delta_log/0.json (Too many open files)")
    assert needed_if("[DELTA_VERSION_NOT_FOUND] Cannot time travel Delta table to version 0") == timedelta()
    assert report.notes == ["gold.x.t: version 0 of a release is no longer there"]


def test_in_postgres_what_was_replaced_and_old_results_go_and_what_is_in_force_stays(database: Database) -> None:
    now = datetime.now(UTC)
    old, older = now - timedelta(days=400), now - timedelta(days=500)
    with postgres.connect(database) as connection:
        postgres.prepare(connection, {})
        account = "INSERT INTO ops.row_accounts VALUES ('r', 'members', 'silver', 't', %s, 1, 1, 0, 0, 0, %s, 1)"
        result = "INSERT INTO ops.rule_results VALUES ('r', 'members', 't', 'rule', 'warn', 1, 0, 0, %s)"
        for file, at in (("a", older), ("a", old), ("b", older), ("c", old), ("c", now)):
            connection.execute(account, [file, at])
        for at in (old, now):
            connection.execute(result, [at])
    maintain._trim_postgres(database, now - timedelta(days=365))
    with postgres.connect(database) as connection:
        kept = connection.execute("SELECT source_file, recorded_at FROM ops.row_accounts ORDER BY 1").fetchall()
        assert kept == [("a", old), ("b", older), ("c", now)]
        assert connection.execute("SELECT recorded_at FROM ops.rule_results").fetchall() == [(now,)]


@pytest.mark.parametrize(
    ("days", "now", "told"),
    [(10, 730, []), (364, 730, []), (366, 730, [1095]), (800, 730, [1460]), (800, 1460, []), (10, 1460, [730])],
)
def test_the_log_of_a_gold_table_stays_a_year_longer_than_the_oldest_release_that_is_kept(
    days: int, now: int, told: list[int]
) -> None:
    said = list[str]()
    lake: Any = SimpleNamespace(table_property=lambda *_: f"interval {now} days", path=lambda path: f"/lake/{path}")
    run: Any = SimpleNamespace(started_at=datetime.now(UTC), lake=lake, spark=SimpleNamespace(sql=said.append))
    maintain._keep_log(run, "gold/x/t", Kept({}, run.started_at - timedelta(days=days)))
    assert said == [
        f"ALTER TABLE delta.`/lake/gold/x/t` SET TBLPROPERTIES ('{LOG_RETENTION}' = 'interval {years} days')"
        for years in told
    ]


def test_what_crashes_left_and_what_is_old_goes_but_nothing_of_gold_while_releases_are_unknown(lab: Lab) -> None:
    sources, members = load_sources(["contacts", "members"]), with_gold("members", "member")
    for age in (40, 41):
        lab.land("members/a.log", entry(ANN, age=age))
        lab.run(members, until="gold")
        let_days_pass(lab, 20)
    gold = {file for file in on_disk(lab) if "/gold/" in file}
    export = next(export.file for source in sources for export in source.exports.values())
    left = [
        Path(lab.lake.path("ops/scratch/x/part-0.parquet")),
        lab.output / f"exports/.{export}.new/part-0.csv",
        lab.output / "processed/.member-1.json.0123abcd",
    ]
    stays = lab.output / "processed/.mine"
    for file in [*left, stays]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    run = lab.start()
    old, older = run.started_at - timedelta(days=400), run.started_at - timedelta(days=500)
    account = ("r", "members", "silver", "gone", "members/old.log", 1, 1, 0, 0, 0)
    accounts = lab.lake.spark.createDataFrame([(*account, older, 1), (*account, old, 1)], ACCOUNT_SCHEMA)
    accounts.write.format("delta").mode("append").save(lab.lake.path("ops/row_accounts"))
    rules = lab.lake.spark.createDataFrame([("r", "members", "t", "rule", "warn", 1, 0, 0.0, old)], RULE_SCHEMA)
    rules.write.format("delta").mode("append").save(lab.lake.path("ops/rule_results"))
    with psycopg.connect(lab.database.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA assay_staging")
        connection.execute("CREATE TABLE assay_staging.gold__member ()")

    log = lab.settings.logs / "spark-20200101T000000Z.log"
    log.parent.mkdir()
    for file in (log, theirs_log := log.with_name("spark-master.log")):
        file.touch()
        os.utime(file, (0, 0))
    counts = {name: lab.table(f"ops/{name}").count() for name in ("row_accounts", "rule_results", "files")}
    with postgres.connect(lab.database):  # as another one that publishes
        dry = maintain.maintain(run, sources, dry_run=True)
    assert len(dry.cleaned) == 6
    assert dry.notes[0].startswith("there is no release in Postgres at 127.")
    assert dry.notes[1:] == ["1 staging tables stay: another Assay is connected to this database"]
    assert all(file.exists() for file in (*left, log))
    assert {name: lab.table(f"ops/{name}").count() for name in counts} == counts
    assert lab.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'assay_staging'") == [(1,)]

    mark = Path(lab.lake.path(published_to.FOLDER), "2026-01-01T00%3A00%3A00Z-0000")
    mark.parent.mkdir()
    mark.write_text("db.prod:5432, database assay")
    theirs = ["bronze/crm/customers", "gold/orders", "lake/gone/t"]
    for path in theirs:
        lab.lake.append(local_rows(lab.lake.spark, [{"a": 1}], "a INT"), path)
    done = maintain.maintain(run, sources)
    assert not {work.table for work in done.tables} & set(theirs), "tables of others"
    assert {"ops/files", "bronze/members/members", "gold/members/member"} < {work.table for work in done.tables}
    assert len(done.notes) == 1
    assert done.notes[0].startswith("gold was also published to db.prod:5432, database assay, and what releases")
    mark.unlink()
    assert len(done.cleaned) == 7
    assert not any(file.exists() for file in (*left, log))
    assert stays.exists()
    assert theirs_log.exists()
    assert lab.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'assay_staging'") == [(0,)]
    # What replaced an old account is in force, however old it is.
    assert {name: counts[name] - lab.table(f"ops/{name}").count() for name in counts} == {
        "row_accounts": 1,
        "rule_results": 1,
        "files": 0,
    }
    assert lab.table("ops/row_accounts").where("run_id = 'r'").first()["recorded_at"] == old.replace(tzinfo=None)

    lab.settings = lab.settings.model_copy(update={"postgres": lab.settings.postgres.model_copy(update={"port": 1})})
    unreachable = maintain.maintain(lab.start(), sources)
    assert "cannot connect to Postgres at 127.0.0.1:1" in unreachable.notes[0]
    assert unreachable.notes[0].endswith("so no file of a gold table is removed")
    assert {file for file in on_disk(lab) if "/gold/" in file} >= gold
