"""What `assay plan` says is what the run then does, and saying it changes nothing."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from jobs import replay
from jobs.engine import postgres
from jobs.engine.errors import AssayError
from jobs.engine.settings import PostgresSettings
from jobs.engine.sources import Source
from jobs.layers import bronze, gold, outputs, scopes, silver
from jobs.layers.run import run_sources
from jobs.layers.tables import silver_table
from jobs.planning import Plan, plan_sources
from scripts.proof.world import relaxed
from tests.lab import Lab, with_gold
from tests.test_end_to_end import BASE
from tests.test_end_to_end_interactions import COUNTS
from tests.test_end_to_end_members import ANN, BOB, CYD, entry

NO_DATE = entry(ANN, on="soon")
STATUS = {"read": "loaded", "delivered_again": "known", "set_aside": "rejected"}


@pytest.fixture
def members() -> Source:
    return with_gold("members", "member")


@pytest.fixture(autouse=True)
def _the_code_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may edit a transform while these tests run."""
    monkeypatch.setattr(Source, "logic", lambda self: "the code")


def contents_of(lab: Lab) -> tuple[dict[str, int], dict[str, Any]]:
    """All that a plan might touch: the files of lakehouse and output, and the rows of Postgres."""
    files: dict[str, int] = {}
    for root in (Path(lab.lake.root), lab.output):
        files |= {str(file): file.stat().st_mtime_ns for file in root.rglob("*")}
    with psycopg.connect(lab.database.conninfo(), autocommit=True) as connection:
        tables = connection.execute(
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)'"
        ).fetchall()
        # A row that is written, even to the same values, gets the number of the transaction that did it.
        count = "SELECT count(*), max(xmin::text::bigint) FROM {}"
        return files, {name: connection.execute(count.format(name)).fetchone() for (name,) in tables}  # type: ignore


def planned(lab: Lab, *sources: Source) -> Plan:
    """The plan; that it left everything as it was is checked."""
    before = contents_of(lab)
    plan = plan_sources(lab.start(), sources)
    assert contents_of(lab) == before
    return plan


def not_allowed(*_: Any) -> None:
    raise PermissionError


@contextmanager
def watched() -> Iterator[dict[str, list[str]]]:
    """The files that a run decides about, by status, and the Delta tables that it makes."""
    seen: dict[str, list[str]] = {"loaded": [], "known": [], "rejected": [], "refreshed": []}
    whole = bronze.refine, silver._refine, silver._make_empty, gold.refresh

    def read(run: Any, source: Source) -> Any:
        report = whole[0](run, source)
        for event in report.events:
            seen[event.status].append(event.source_file)
        return report

    def refined(run: Any, source: Source, table: str, scope: scopes.Scope) -> Any:
        seen["refreshed"].append(silver_table(source, table))
        return whole[1](run, source, table, scope)

    def made_empty(run: Any, source: Source, table: str) -> None:
        is_new = not run.lake.exists(silver_table(source, table))
        seen["refreshed"] += [silver_table(source, table)] * is_new
        whole[2](run, source, table)

    def refreshed(*arguments: Any) -> Any:
        report = whole[3](*arguments)
        seen["refreshed"] += report.refreshed
        return report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bronze, "refine", read)
        patch.setattr(silver, "_refine", refined)
        patch.setattr(silver, "_make_empty", made_empty)
        patch.setattr(gold, "refresh", refreshed)
        yield seen


def plan_then_run(lab: Lab, *sources: Source) -> Plan:
    """Plans, then runs, and holds one against the other."""
    plan = planned(lab, *sources)
    with watched() as seen:
        summary = run_sources(lab.start(), sources, "bronze", "publish")
    redone = [source.unfinished for source in plan.sources if source.unfinished]
    expected = {
        status: [file.path for s in plan.sources for file in getattr(s, kind)] for kind, status in STATUS.items()
    }
    expected["loaded"] += [file.path for batch in redone for file in batch.read]
    expected["rejected"] += [file.path for batch in redone for file in batch.set_aside]
    assert {status: sorted(seen[status]) for status in expected} == {s: sorted(paths) for s, paths in expected.items()}
    assert sorted(set(seen["refreshed"])) == sorted(item.table for s in plan.sources for item in s.refresh)
    will, may = ({item.table for item in group} for group in (plan.publish.will, plan.publish.may))
    assert will <= set(summary.tables_changed) <= will | may
    assert set(plan.publish.unchanged) <= set(summary.tables_unchanged)
    if summary.release_id:
        assert summary.release_id == plan.publish.release
    return plan


def reasons(plan: Plan) -> dict[str, str]:
    return {item.table: item.why for source in plan.sources for item in source.refresh}


def files(plan: Plan, kind: str) -> dict[str, str]:
    return {file.path: file.why for source in plan.sources for file in getattr(source, kind)}


def test_a_plan_is_what_the_run_does_from_the_first_file_to_the_last(lab: Lab, members: Source) -> None:
    # Nothing has arrived.
    lab.landing.mkdir(parents=True)
    empty = plan_then_run(lab, members)
    assert empty.is_empty
    assert "a run would change nothing" in empty.as_text()

    # The first run.
    lab.land("members/a.log", entry(ANN) + NO_DATE, at=1_700_000_000)
    lab.land("members/empty.log", "", at=1_700_000_001)
    lab.land("members/cut.log.gz", b"\x1f\x8b\x08broken", at=1_700_000_002)
    lab.land("members/copy.log", entry(ANN) + NO_DATE, at=1_700_000_003)
    first = plan_then_run(lab, members)
    assert files(first, "read") == {"members/a.log": "new"}
    assert files(first, "delivered_again") == {"members/copy.log": "a copy of members/a.log"}
    assert files(first, "set_aside")["members/empty.log"] == "the file is empty"
    assert set(files(first, "set_aside")) == {"members/empty.log", "members/cut.log.gz"}
    assert reasons(first)["silver/members/member_entries"] == "batch 1 is new"
    assert reasons(first)["gold/members/member"] == "never computed"
    assert {item.why for item in first.publish.will} == {"never published"}
    assert first.publish.release == 1

    # Nothing new.
    again = plan_then_run(lab, members)
    assert again.is_empty
    assert len(again.publish.unchanged) == len(members.publish)

    # A new file, a copy under another name, and a file that is taken away.
    lab.land("members/b.log", entry(BOB), at=1_700_000_004)
    lab.land("members/c.log", entry(BOB), at=1_700_000_005)
    (lab.landing / "members/copy.log").unlink()
    second = plan_then_run(lab, members)
    assert files(second, "read") == {"members/b.log": "new"}
    assert files(second, "delivered_again") == {"members/c.log": "a copy of members/b.log"}
    assert files(second, "vanished") == {"members/copy.log": "its rows stay"}
    assert reasons(second)["silver/members/newest_entries"] == "silver.members.member_entries will change"
    assert reasons(second)["gold/members/member"] == "silver.members.newest_entries will change"
    assert not second.publish.will
    assert {item.table for item in second.publish.may} >= {"gold.member"}

    # A copy alone: no row is new, no table changes.
    lab.land("members/d.log", entry(BOB), at=1_700_000_006)
    third = planned(lab, members)
    assert files(third, "delivered_again") == {"members/d.log": "a copy of members/b.log"}
    assert (reasons(third), third.publish.will + third.publish.may) == ({}, [])

    # A content that no file has any more takes its rows out: silver is made anew.
    for at, path in enumerate(("members/b.log", "members/c.log", "members/d.log")):
        lab.land(path, entry(BOB, age=50), at=1_700_000_010 + at)
    fourth = plan_then_run(lab, members)
    assert files(fourth, "read") == {"members/b.log": "changed since batch 2"}
    assert "made anew" in reasons(fourth)["silver/members/member_entries"]

    # Other code, and another definition of a published table.
    described = members.model_dump(by_alias=True)
    described["publish"]["member"]["description"] = "Other words."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Source, "logic", lambda self: "other code")
        fifth = plan_then_run(lab, Source.model_validate(described))
    assert set(reasons(fifth).values()) == {"code or settings changed"}
    assert [(item.table, item.why) for item in fifth.publish.will] == [("gold.member", "its definition changed")]


def crashed(lab: Lab, module: Any, function: str, *sources: Source) -> None:
    """A run that is killed where it calls `function`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, function, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_sources(lab.start(), sources, "bronze", "publish")


def test_a_plan_names_what_a_crash_left(lab: Lab, members: Source) -> None:
    # Planned, and not read; then one of its files is changed, so that it is a new one.
    lab.land("members/a.log", entry(ANN))
    lab.land("members/b.log", entry(BOB))
    crashed(lab, bronze, "_append", members)
    lab.land("members/b.log", entry(BOB, age=50))
    first = plan_then_run(lab, members)
    batch = first.sources[0].unfinished
    assert batch is not None
    assert (batch.batch_id, [f.path for f in batch.read]) == (1, ["members/a.log"])
    assert [f.path for f in batch.set_aside] == ["members/b.log"]
    assert files(first, "read") == {"members/b.log": "changed since batch 1"}
    assert "would redo       batch 1 of members, planned at 20" in first.as_text()

    # In bronze, and not in silver, but in quarantine already.
    lab.land("members/c.log", entry(CYD) + NO_DATE)
    crashed(lab, silver, "_kept", members)
    second = plan_then_run(lab, members)
    assert not files(second, "read")
    assert reasons(second)["silver/members/member_entries"] == "batch 3 is new"

    # In gold, and not in Postgres.
    lab.land("members/d.log", entry(CYD, age=60))
    crashed(lab, postgres, "release", members)
    third = planned(lab, members)
    assert not reasons(third)
    assert ("gold.member", "its rows are not those of the last release") in [
        (item.table, item.why) for item in third.publish.will
    ]

    # A replay that was asked for, and is not done.
    mended = relaxed(members, "created_at_readable")
    replay.ask_replay(lab.start(), mended, "created_at_readable", None)
    fourth = plan_then_run(lab, mended)
    assert fourth.sources[0].requests == ["replay 5 was asked for (batches 3, rule created_at_readable)"]
    assert reasons(fourth)["silver/members/member_entries"] == fourth.sources[0].requests[0]


@pytest.mark.parametrize(
    ("source", "table", "content", "files"),
    [
        ("members", "member_documents", entry(ANN), "processed/"),
        ("contacts", "counselor_daily_cases", json.dumps(BASE) + "\n", "exports/counselor_daily_cases.csv"),
    ],
)
def test_a_plan_names_files_that_the_run_would_write_again(
    lab: Lab, source: str, table: str, content: str, files: str
) -> None:
    declared = with_gold(source, table)
    lab.land(f"{source}/a.{'log' if source == 'members' else 'jsonl'}", content)
    assert plan_then_run(lab, declared).publish.files == []

    shutil.rmtree(lab.output / files.split("/")[0])
    plan = plan_then_run(lab, declared)
    assert plan.publish.files == [files]
    assert f"would write      below the output folder: {files}" in plan.as_text()
    assert (lab.output / files).exists()
    assert planned(lab, declared).is_empty

    # Somebody else may plan, who may not look there.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "files_behind", not_allowed)
        blind = planned(lab, declared)
    assert "which cannot be looked at (PermissionError)" in blind.as_text()
    assert not blind.is_empty


def test_a_plan_knows_tables_without_files_and_those_that_are_computed_from_each_other(lab: Lab) -> None:
    interactions = with_gold("interactions", "customer_channel_interactions", "product_customer_types")
    by_type = "SELECT * FROM gold.product_customer_types"
    lab.land("interactions/interactions.csv", "Customers,Interaction,Date Start\n5,Email,04/10/2019 09:00\n")
    first = plan_then_run(lab, interactions)
    assert "no file yet: made without rows" in reasons(first).values()
    assert reasons(first)["silver/interactions/interaction_records"] == "batch 1 is new, and it is always made anew"
    assert lab.query(COUNTS) == [(5, "Email", 1)]
    assert lab.query(by_type) == [("Unknown", "Unknown", 1)]

    # Where there is no file yet, there is nothing to refine anew either.
    run = lab.start()
    assert replay.ask_backfill(run, interactions, run.started_at.date(), run.started_at.date())
    again = plan_then_run(lab, interactions)
    assert again.sources[0].requests == ["backfill 2 was asked for (batches 1)"]
    assert "silver/interactions/products" not in reasons(again)
    assert planned(lab, interactions).is_empty

    # Of a table that is there, without rows so far, the first ones.
    lab.land("interactions/products.csv", "Date,Product\n10-2019,Alpha\n")
    plan_then_run(lab, interactions)
    assert lab.query(by_type) == [("Alpha", "Unknown", 1)]
    lab.land("interactions/customers.csv", "Customer_Id,Occupation,Type\n1,Teacher,Retail\n", at=1_700_000_000)
    why = reasons(plan_then_run(lab, interactions))["silver/interactions/customer_records"]
    assert why == "backfill 2 was asked for (batches 1); batches 3 to 4 are new, and it is always made anew"

    # Rows that were parsed in another time zone are parsed anew, though no file is new.
    elsewhere = interactions.model_copy(update={"timezone": "America/New_York"})
    crashed(lab, silver, "_kept", elsewhere)  # before the first table is written
    with pytest.raises(AssayError, match="rows are to be parsed anew, as settings were changed, and are not yet"):
        lab.run(elsewhere, first="gold")
    plan = plan_then_run(lab, elsewhere)
    assert plan.sources[0].requests == ["the settings that rows are parsed with have changed (batches 1, 3, 4)"]
    read = lab.table("silver/interactions/interaction_records").selectExpr("string(started_at)").collect()
    assert read == [("2019-10-04 13:00:00",)]
    assert not planned(lab, elsewhere).sources[0].refresh


def test_without_a_running_postgres_a_plan_says_so_and_starts_none(lab: Lab, members: Source, tmp_path: Path) -> None:
    lab.land("members/a.log", entry(ANN))
    lab.settings = lab.settings.model_copy(update={"postgres": PostgresSettings(host=None)})
    assert {item.why for item in planned(lab, members).publish.will} == {"never published"}
    (lab.settings.database / "data").mkdir(parents=True)
    plan = planned(lab, members)
    assert (plan.publish.release, plan.publish.will) == (None, [])
    assert "the embedded Postgres is not running (assay db start)" in plan.as_text()
    assert [file.name for file in lab.settings.database.iterdir()] == ["data"]
    assert not Path(lab.lake.root).exists()
