"""Raw contacts to Postgres, with real Delta and real Postgres: what a schedule of runs must get right."""

import bz2
import gzip
import json
import os
import stat
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.engine.database import Database
from jobs.engine.delta import Lakehouse
from jobs.engine.errors import AssayError
from jobs.engine.progress import Steps
from jobs.engine.summary import Summary
from jobs.layers.run import run_sources
from jobs.replay import ask_backfill
from scripts.proof.world import new_database
from tests.lab import Lab, with_gold

BASE = {
    "time_call_began": "2023-01-01 09:35:00",
    "time_call_ended": "2023-01-01 11:09:00",
    "counselors": "['Yan Delacroix']",
    "transfer_timestamps": "[]",
    "issues_discussed": "['Family']",
    "call_rating": 2,
    "initial_risk_level": 3,
    "client_pronouns": "['She/Her', 'They/Them']",
    "client_name": "Invented Person",
    "client_location": "Austin",
}
NOT_UTF8 = '{"client_name": "José"}\n'.encode("cp1252")
TABLES = ["concurrency", "contacts", "counselor_daily_cases", "counselors", "pronoun_risk", "transfers"]


def line(**fields: object) -> str:
    return json.dumps({**BASE, **fields}, ensure_ascii=False) + "\n"


def lines(*minutes: int) -> str:
    """One contact per minute of the hour at which it began: different minutes make different contacts."""
    return "".join(line(time_call_began=f"2023-01-01 09:{minute:02}:00") for minute in minutes)


def contacts_in(lab: Lab) -> int:
    return int(lab.query("SELECT count(*) FROM gold.contacts")[0][0])


BAD = line(time_call_ended="2023-01-01 09:00:00", counselors="[]")


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession, postgres: Database) -> tuple[Lab, Summary]:
    """A lab in which two contacts are published, and two rows held back; what the run said of itself."""
    lab = Lab(tmp_path_factory.mktemp("published"), spark, new_database(postgres, "published"))
    lab.land("contacts/a.jsonl", lines(1, 2, 2) + BAD + "not json\n")
    return lab, lab.run("contacts")


@pytest.fixture
def published(first_run: tuple[Lab, Summary]) -> Lab:
    """That lab, for tests that only look."""
    return first_run[0]


def test_a_run_takes_raw_files_to_postgres_and_the_next_one_changes_nothing(first_run: tuple[Lab, Summary]) -> None:
    lab, summary = first_run
    assert summary.release_id == 1
    assert sorted(summary.tables_changed) == [f"gold.{table}" for table in TABLES]
    line_ = summary.sources[0]
    assert (line_.rows_in, line_.written, line_.quarantined, line_.dedup, line_.superseded) == (5, 2, 2, 1, 0)
    assert lab.account("bronze") == {"contacts/a.jsonl": (5, 5, 0, 0, 0)}
    assert lab.account("silver") == {"contacts/a.jsonl": (5, 2, 2, 1, 0)}
    assert lab.query(
        "SELECT layer, rows_read, rows_written, rows_quarantined, rows_deduplicated, rows_superseded "
        "FROM ops.row_accounts ORDER BY layer"
    ) == [("bronze", 5, 5, 0, 0, 0), ("silver", 5, 2, 2, 1, 0)]
    assert contacts_in(lab) == 2
    assert lab.query("SELECT counselor_name FROM gold.counselors") == [("Yan Delacroix",)]
    csv = (lab.output / "exports/counselor_daily_cases.csv").read_text().splitlines()
    assert csv == [
        "COUNSELOR NAME,DAY,NUMBER OF CASES,AVERAGE RISK LEVEL,AVERAGE RATING",
        "Yan Delacroix,2023-01-01,2,3.00,2.00",
    ]

    csv_file = lab.output / "exports/counselor_daily_cases.csv"
    csv_file.unlink()
    before = {table: lab.lake.version(f"gold/contacts/{table}") for table in TABLES}
    with psycopg.connect(lab.database.conninfo()) as connection:
        old = "INSERT INTO ops.release_tables VALUES (1, 'gold.old', 0, 0, '0', '')"
        connection.execute(f"CREATE TABLE gold.old (id int); {old}")
    again = lab.run("contacts")
    assert (again.release_id, again.sources[0].files, again.sources[0].rows_in) == (None, "nothing new", 0)
    (warning,) = [text for text in again.warnings if text.startswith("gold.")]
    assert warning.startswith("gold.old: no source publishes it now, and it stays as it was")
    with psycopg.connect(lab.database.conninfo()) as connection:
        connection.execute("DROP TABLE gold.old; DELETE FROM ops.release_tables WHERE table_name = 'gold.old'")
    assert {table: lab.lake.version(f"gold/contacts/{table}") for table in TABLES} == before
    assert lab.query("SELECT count(*) FROM ops.releases") == [(1,)]
    assert csv_file.read_text().splitlines() == csv, "a missing export is written again"


def test_the_summary_for_machines_is_json(lab: Lab) -> None:
    lab.landing.mkdir(parents=True)
    code, out, error = lab.assay("run", "--source", "contacts", "--until", "silver", "--json")
    assert code == 0, error
    assert json.loads(out)["sources"][0]["files"] == "nothing new"


def test_files_delivered_again_add_nothing_and_a_replaced_one_takes_its_earlier_rows_out_everywhere(lab: Lab) -> None:
    contacts = with_gold("contacts", "contacts")
    lab.land("contacts/a.jsonl", lines(1, 2) + "not json\n", at=1_000_000_000)
    lab.land("contacts/b.jsonl", lines(2, 5))
    lab.run(contacts)
    assert contacts_in(lab) == 3

    lab.land("contacts/a.jsonl", lines(1, 2) + "not json\n", at=1_100_000_000)
    lab.land("contacts/copy of b.jsonl", lines(2, 5))
    summary = lab.run(contacts)
    assert (summary.release_id, summary.sources[0].files) == (None, "2 delivered again")
    assert lab.account("bronze") == {
        "contacts/a.jsonl": (6, 3, 0, 3, 0),
        "contacts/b.jsonl": (2, 2, 0, 0, 0),
        "contacts/copy of b.jsonl": (2, 0, 0, 2, 0),
    }
    assert (contacts_in(lab), lab.query("SELECT count(*) FROM ops.releases")) == (3, [(1,)])

    lab.land("contacts/a.jsonl", lines(1, 3, 4))
    summary = lab.run(contacts)
    assert lab.query("SELECT extract(minute FROM started_at)::int FROM gold.contacts ORDER BY 1") == [
        (1,), (2,), (3,), (4,), (5,),
    ]  # fmt: skip
    assert lab.account("silver") == {"contacts/a.jsonl": (6, 3, 0, 0, 3), "contacts/b.jsonl": (2, 2, 0, 0, 0)}
    assert lab.table("quarantine/contacts/contacts").count() == 0
    assert summary.sources[0].superseded == 3


def test_broken_files_are_set_aside_with_their_reason_and_the_others_go_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.land("contacts/good.jsonl.gz", gzip.compress(lines(1, 2).encode()))
    lab.land("contacts/good.jsonl.bz2", bz2.compress(lines(3).encode()))
    lab.land("contacts/cut.jsonl.gz", gzip.compress(lines(*range(60)).encode())[:-20])
    lab.land("contacts/not bzip.jsonl.bz2", b"garbage" * 20)
    lab.land("contacts/empty.jsonl", "")
    lab.land("contacts/empty.jsonl.gz", gzip.compress(b""))
    lab.land("contacts/empty.jsonl.bz2", bz2.compress(b""))
    misnamed = lab.landing / os.fsdecode(b"contacts/caf\xe9.jsonl")
    misnamed.write_text(lines(7))
    os.utime(misnamed, (1_600_000_000, 1_600_000_000))  # the oldest, for a plan names no more than the first few
    lab.land("contacts/.hidden.jsonl", lines(4))
    half = lab.land("contacts/_half.jsonl", lines(8))
    lab.land("contacts/mixed.jsonl", b"\xef\xbb\xbf" + lines(5, 6).replace("\n", "\r\n").encode() + NOT_UTF8)
    code, planned, error = lab.assay("plan", "--source", "contacts")
    assert (code, "contacts/caf\\xe9.jsonl" in planned) == (0, True), planned + error
    summary = lab.run("contacts", until="silver")
    rejected = {row["source_file"]: row["reason"] for row in lab.start().ledger.rejected_files().collect()}
    empty = ["contacts/empty.jsonl", "contacts/empty.jsonl.bz2", "contacts/empty.jsonl.gz"]
    foreign = "contacts/caf\\xe9.jsonl"
    assert sorted(rejected) == [foreign, "contacts/cut.jsonl.gz", *empty, "contacts/not bzip.jsonl.bz2"]
    assert {rejected[path] for path in empty} == {"the file is empty"}
    assert rejected[foreign] == "its name is not UTF-8: rename it"
    assert "could not be read" in rejected["contacts/cut.jsonl.gz"]
    assert len(summary.set_aside) == 6
    again = lab.run("contacts", until="bronze")
    assert (again.set_aside, again.sources[0].files) == ([], "nothing new")
    # Spark would pass it over without a word, and its content would count as read.
    with monkeypatch.context() as patch:
        patch.setattr("jobs.engine.landing.is_being_written", lambda name: name.startswith("."))
        passed_over = ["contacts/_half.jsonl: Spark reads nothing of it: rename it"]
        for _ in range(2):
            assert lab.run("contacts", until="bronze").set_aside == passed_over
    half.rename(lab.landing / "contacts/half.jsonl")
    assert lab.run("contacts", until="silver").sources[0].written == 1

    # CRLF and a byte order mark are no part of a line; bytes that are not UTF-8 hold it back.
    assert lab.table("silver/contacts/contacts").count() == 6
    row = lab.table("quarantine/contacts/contacts").collect()[0]
    assert row._rescued is not None
    assert "�" in row._raw


def test_quarantine_keeps_the_raw_text_all_reasons_the_rules_text_file_and_batch(published: Lab) -> None:
    rows = published.table("quarantine/contacts/contacts").collect()
    assert {(row._raw + "\n", row._source_file, row._batch_id) for row in rows} == {
        (BAD, "contacts/a.jsonl", 1),
        ("not json\n", "contacts/a.jsonl", 1),
    }
    row = next(row for row in rows if row._raw + "\n" == BAD)
    assert {reason.rule for reason in row.reasons} == {"ends_after_start", "has_counselor"}
    assert all(reason.reason and reason.expression for reason in row.reasons)


def test_analysts_read_gold_and_ops_and_nothing_else(published: Lab) -> None:
    with psycopg.connect(published.database.conninfo(), autocommit=True) as connection:
        connection.execute("ALTER ROLE analyst PASSWORD 'for this test'")
    analyst = published.database.as_user("analyst", "for this test")
    assert published.query("SELECT count(*) FROM gold.contacts", analyst) == [(2,)]
    assert published.query("SELECT count(*) FROM ops.row_accounts", analyst) == [(2,)]
    for statement in ("SELECT * FROM assay_staging.x", "CREATE TABLE gold.x (y int)", "DELETE FROM gold.contacts"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            published.query(statement, analyst)


def test_every_published_table_and_column_has_a_comment_and_no_client_is_named(published: Lab) -> None:
    columns = published.query(
        "SELECT c.relname, a.attname, col_description(c.oid, a.attnum), obj_description(c.oid) FROM pg_class c "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 "
        "WHERE c.relnamespace IN ('gold'::regnamespace, 'ops'::regnamespace) AND c.relkind = 'r'"
    )
    assert {column[0] for column in columns} >= set(TABLES)
    assert [column[:2] for column in columns if not (column[2] and column[3])] == []
    assert [column for column in columns if column[1] in ("client_name", "client_location")] == []


def test_a_new_file_makes_a_new_release_readers_see_one_and_what_they_own_stays(published: Lab) -> None:
    with psycopg.connect(published.database.conninfo(), autocommit=True) as owner:
        owner.execute("CREATE VIEW gold.mine AS SELECT count(*) AS n FROM gold.contacts")
    with psycopg.connect(published.database.conninfo()) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert reader.execute("SELECT n FROM gold.mine").fetchone() == (2,)
        published.land("contacts/b.jsonl", lines(1, 3))
        assert published.run(with_gold("contacts", "contacts")).release_id == 2
        assert reader.execute("SELECT n FROM gold.mine").fetchone() == (2,)
        assert reader.execute("SELECT max(release_id) FROM ops.releases").fetchone() == (1,)
    assert published.query("SELECT n FROM gold.mine") == [(3,)]
    assert published.account("silver")["contacts/b.jsonl"] == (2, 1, 0, 1, 0)


def test_without_the_secret_of_its_ids_a_lakehouse_makes_them_all_anew(lab: Lab) -> None:
    contacts, ids = with_gold("contacts", "contacts"), "SELECT contact_id FROM gold.contacts ORDER BY started_at"
    secret = Path(lab.settings.lakehouse, "ops/id_secrets/contacts")
    lab.land("contacts/a.jsonl", lines(1, 2))
    lab.run(contacts)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    first, known = lab.query(ids), secret.read_text()
    assert [file.name for file in secret.parent.iterdir()] == ["contacts"]

    lab.land("contacts/b.jsonl", lines(2, 3))
    secret.write_text(known[:-1])
    with pytest.raises(AssayError, match=r"ops/id_secrets/contacts .*64 hexadecimal digits") as error:
        lab.run(contacts)
    assert "once the file is removed" in str(error.value)
    secret.unlink()
    said = list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, "warn", lambda _, text: said.append(text))
        anew = lab.run(contacts)
    assert (anew.release_id, said) == (2, ["contacts: the secret of its ids is gone: all records get new ones"])
    assert "contacts: the secret of its ids was gone, so all records have new ones" in anew.warnings[0]
    assert secret.read_text() != known
    second = lab.query(ids)
    assert (len(second), set(second) & set(first)) == (3, set()), "the same record is still the same contact"
    accounts = lab.account("silver")
    assert (accounts["contacts/a.jsonl"][:2], accounts["contacts/b.jsonl"][:2]) in [((2, 2), (2, 1)), ((2, 1), (2, 2))]
    assert (lab.run(contacts).release_id, lab.query(ids)) == (None, second)


def test_a_transform_that_loses_rows_is_caught_and_nothing_is_published(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transforms.contacts as module

    whole, contacts = module.contacts, with_gold("contacts", "contacts")
    lab.land("contacts/a.jsonl", lines(1))
    assert lab.run(contacts).release_id == 1
    lab.land("contacts/b.jsonl", lines(1, 2))
    says = r"silver.contacts.contacts does not balance \(file contacts/b.jsonl, batch 2\)"
    with monkeypatch.context() as patch:
        # What is left is known already, so that no gold table changes.
        patch.setattr(
            module,
            "contacts",
            lambda raw, timezone, id_secret: whole(raw.where("_raw not like '%09:02:%'"), timezone, id_secret),
        )
        with pytest.raises(AssayError, match=says):
            lab.run(contacts)
    with pytest.raises(AssayError, match=says) as error:
        lab.run(contacts)
    assert "assay run --source contacts --from" in str(error.value)
    assert contacts_in(lab) == 1

    run = lab.start()
    assert ask_backfill(run, contacts, run.started_at.date(), run.started_at.date())
    assert run_sources(run, [contacts], "bronze", "publish").release_id == 2
    assert contacts_in(lab) == 2
    accounts = "SELECT rows_read, rows_written, rows_deduplicated FROM ops.row_accounts WHERE layer = 'silver' AND "
    assert lab.query(accounts + "source_file = 'contacts/b.jsonl'") == [(2, 1, 1)]


def test_a_file_that_changes_between_plan_and_read_is_read_in_its_new_form(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.layers import bronze

    whole = bronze.read_lines

    def slow(*arguments: Any, **options: Any) -> Any:
        lab.land("contacts/a.jsonl", lines(1, 2, 3), at=2_000_000_000)
        return whole(*arguments, **options)

    lab.land("contacts/a.jsonl", lines(1))
    monkeypatch.setattr(bronze, "read_lines", slow)
    changed = ["contacts/a.jsonl: the file was changed while it was read"]
    assert lab.run("contacts", until="silver").set_aside == changed
    monkeypatch.undo()
    lab.run("contacts", until="silver")
    assert lab.table("silver/contacts/contacts").count() == 3
    assert lab.account("silver")["contacts/a.jsonl"] == (6, 3, 0, 0, 3)

    # Also if a crash came before the second look at it.
    append = Lakehouse.append_once

    def killed(lake: Lakehouse, frame: DataFrame, table: str, *number: Any) -> bool:
        is_written = append(lake, frame, table, *number)
        if table.startswith("bronze/"):
            raise KeyboardInterrupt
        return is_written

    lab.land("contacts/a.jsonl", lines(1, 2), at=2_000_000_100)
    with monkeypatch.context() as patch:
        patch.setattr(bronze, "read_lines", slow)
        patch.setattr(Lakehouse, "append_once", killed)
        with pytest.raises(KeyboardInterrupt):
            lab.run("contacts", until="bronze")
    assert lab.run("contacts", until="silver").set_aside == changed
    assert lab.account("bronze")["contacts/a.jsonl"] == (12, 9, 0, 3, 0)
    assert lab.account("silver")["contacts/a.jsonl"] == (6, 3, 0, 0, 3)

    # One that is taken away while Spark reads is tried again, as it is.
    def gone(*arguments: Any, **options: Any) -> Any:
        frame = whole(*arguments, **options)
        (lab.landing / "contacts/b.jsonl").rename(lab.landing / "b")
        return frame

    lab.land("contacts/b.jsonl", lines(4))
    with monkeypatch.context() as patch:
        patch.setattr(bronze, "read_lines", gone)
        (says,) = lab.run("contacts", until="bronze").set_aside
    assert says.startswith("contacts/b.jsonl: the file could not be read")
    (lab.landing / "b").rename(lab.landing / "contacts/b.jsonl")
    assert lab.run("contacts", until="silver").sources[0].written == 1
