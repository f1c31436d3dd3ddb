"""Tables that are brought up to date by what has changed: always as if they were computed as a whole."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import transforms.contacts
from jobs import replay
from jobs.engine import delta, postgres
from jobs.engine.calls import call
from jobs.engine.context import Run
from jobs.engine.database import Database
from jobs.engine.delta import Changes
from jobs.engine.errors import ConfigurationError
from jobs.engine.fingerprints import checksum
from jobs.engine.ledger import Ledger, TableState
from jobs.engine.publication import Publication
from jobs.engine.sources import Source, load_sources
from jobs.layers import increments, recipes
from scripts.proof.world import relaxed
from tests.lab import Lab, forget_tables, with_gold
from tests.test_end_to_end import BASE
from tests.test_end_to_end_members import ANN, BOB, CYD, entry
from tests.transforms.rows import assert_rows

Loads = list[tuple[str, int]]
DEE = "d2d6ee1abc22511c"
DAYS = [f"2023-{month:02}-{day:02}" for month in range(1, 11) for day in range(1, 29)]
NOT_KNOWN = {"call_rating": None, "initial_risk_level": None, "client_pronouns": None}
SUMS = ["silver/contacts/case_days", "silver/contacts/pronoun_risk_levels"]
# Of each published table, so much that it shows whether Postgres has its rows.
COLUMNS = {
    "contacts": "contact_id, transfer_count, initial_counselor_name",
    "transfers": "contact_id, transfer_number, counselor_id",
    "counselor_daily_cases": "counselor_name, day, number_of_cases",
    "concurrency": "scope, max_concurrent_cases",
}


def contact(began: str, ended: str, **fields: object) -> str:
    return json.dumps({**BASE, "time_call_began": began, "time_call_ended": ended, **fields}) + "\n"


def transferred(day: str, *, to: str, until: str | None = None, **fields: object) -> str:
    times = {"counselors": f"['Yan Delacroix', '{to}']", "transfer_timestamps": f"['{day} 23:15:00']"}
    return contact(f"{day} 23:00:00", f"{until or day} 23:30:00", **times, **fields)


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """By table, the slices, or groups, that its newest computation computed anew."""
    found: dict[str, set[str]] = {}
    original = increments.touched_parts

    def watched(source: Source, recipe: recipes.Recipe, *rest: Any) -> DataFrame:
        rows = original(source, recipe, *rest)
        found[recipe.table] = {str(row[0]) for row in rows.select(F.col(rows.columns[0]).cast("string")).collect()}
        return rows

    monkeypatch.setattr(increments, "touched_parts", watched)
    return found


@pytest.fixture
def added_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """The tables to whose sums others were added; by each, whether some were taken away, too."""
    found: dict[str, bool] = {}
    original = increments.with_changes_added_up

    def watched(run: Run, source: Source, recipe: recipes.Recipe, changes: Mapping[str, Changes]) -> DataFrame:
        found[recipe.table] = any(change.removed is not None for change in changes.values())
        return original(run, source, recipe, changes)

    monkeypatch.setattr(increments, "with_changes_added_up", watched)
    return found


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    """Which rows are loaded into Postgres: table and number. Every table counts as large, every change as little."""
    monkeypatch.setattr(delta, "FEW_BYTES", 0)
    monkeypatch.setattr(delta, "_LARGEST_CHANGE", 100)
    loads: Loads = []
    load: Callable[..., tuple[int, str]] = postgres.load_staging

    def watched(frame: DataFrame, database: Database, item: Publication) -> tuple[int, str]:
        loaded = load(frame, database, item)
        loads.append((item.full_name, loaded[0]))
        return loaded

    monkeypatch.setattr(postgres, "load_staging", watched)
    return loads


def assert_as_a_whole(lab: Lab, source: Source, columns: Mapping[str, str]) -> None:
    """Every derived table has the rows that its inputs make of it, as recorded, and Postgres has them, too."""
    states = lab.start().ledger.table_states()
    for recipe in [*recipes.silver_recipes(source), *recipes.gold_recipes(source)]:
        inputs = {name: lab.table(path) for name, path in recipe.inputs.items()}
        expected, actual = (
            Counter(map(str, frame.collect()))
            for frame in (call(recipe.transform, inputs, source), lab.table(recipe.table))
        )
        assert actual == expected, recipe.table
        assert states[recipe.table].row_count == expected.total()
        assert states[recipe.table].delta_version == lab.lake.version(recipe.table)
        total = lab.table(recipe.table).agg(checksum(lab.table(recipe.table))).collect()[0][0]
        assert int(states[recipe.table].checksum) == total
    for table, names in columns.items():
        rows = [tuple(row) for row in lab.table(f"gold/{source.name}/{table}").select(*names.split(", ")).collect()]
        assert Counter(lab.query(f"SELECT {names} FROM gold.{table}")) == Counter(rows), table


def files(lab: Lab, table: str) -> set[str]:
    return set(lab.lake.read_log(table).inputFiles())


def test_what_changed_is_enough_also_for_late_rows_rows_over_midnight_and_rows_that_go(
    lab: Lab,
    loads: Loads,
    touched: dict[str, set[str]],
    added_up: dict[str, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contacts = with_gold("contacts", *COLUMNS)
    lab.land("contacts/year.jsonl", "".join(transferred(day, to=f"Counselor {day[-1]}") for day in DAYS))
    lab.run(contacts)
    tables = ("gold/contacts/contacts", "gold/contacts/transfers", "silver/contacts/assignments")
    before = {table: files(lab, table) for table in tables}

    # New days, a late contact, one that goes on into the next days, two lines that are known already, one held back.
    late = transferred("2023-05-05", to="Late Counselor", **NOT_KNOWN)
    long = transferred("2023-06-06", to="Bo", until="2023-06-09")
    known = transferred("2023-01-01", to="Counselor 1") + transferred("2023-01-02", to="Counselor 2")
    backwards = contact("2023-07-07 10:00:00", "2023-07-07 09:00:00", counselors="['Ed']", **NOT_KNOWN)
    loads.clear()
    lab.land("contacts/news.jsonl", transferred("2023-11-01", to="Bo") + late + long + known + backwards)
    assert lab.run(contacts).release_id == 2
    assert_as_a_whole(lab, contacts, COLUMNS)
    assert dict(loads)["gold.contacts"] == dict(loads)["gold.transfers"] == 3
    for table, its_files in before.items():
        assert its_files < files(lab, table), f"{table}: rows were added to those there were"
    assert lab.query("SELECT count(*) FROM gold.counselor_daily_cases WHERE counselor_name = 'Bo'") == [(2,)]
    assert added_up == dict.fromkeys(SUMS, False)
    days = {"2023-05-05", "2023-06-06", "2023-06-09", "2023-11-01"}
    assert touched == {"silver/contacts/open_case_days": days}

    # Nothing but what is known, and what is held back: no table is written.
    versions = {recipe.table: lab.lake.version(recipe.table) for recipe in recipes.gold_recipes(contacts)}
    lab.land("contacts/nothing.jsonl", known + backwards.replace("07-07", "07-08"))
    assert lab.run(contacts).release_id is None
    assert {table: lab.lake.version(table) for table in versions} == versions

    # A table in Postgres that lost a row is loaded as a whole, and so is one that an addition does not make right (as
    # if another lakehouse had published it).
    with postgres.connect(lab.database) as connection:
        connection.execute("UPDATE ops.release_tables SET checksum = '1' WHERE table_name = 'gold.contacts'")
        connection.execute("DELETE FROM gold.transfers WHERE transferred_at < '2023-02-01'")
    loads.clear()
    lab.land("contacts/more.jsonl", transferred("2023-11-02", to="Bo"))
    lab.run(contacts)
    assert_as_a_whole(lab, contacts, COLUMNS)
    assert [rows for table, rows in loads if table == "gold.contacts"] == [1, len(DAYS) + 4]
    assert [rows for table, rows in loads if table == "gold.transfers"] == [len(DAYS) + 4]

    # Rows and sums that were added before a crash, which left no record of it, are not added again.
    record = Ledger.record_table_states

    def crash(ledger: Ledger, states: Sequence[TableState]) -> None:
        if any(state.table_name in SUMS for state in states):
            raise RuntimeError("a crash")
        record(ledger, states)

    lab.land("contacts/last.jsonl", transferred("2023-11-03", to="Bo"))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record_table_states", crash)
        with pytest.raises(RuntimeError, match="a crash"):
            lab.run(contacts)
    assert lab.table("silver/contacts/transfers").count() == len(DAYS) + 5
    lab.run(contacts)
    assert_as_a_whole(lab, contacts, COLUMNS)

    # The rows of two batches are replaced, and one of each is let in.
    days_of_ed = "SELECT day::text FROM gold.counselor_daily_cases WHERE counselor_name = 'Ed' ORDER BY day"
    mended = relaxed(contacts, "ends_after_start")
    assert replay.ask_replay(lab.start(), mended, "ends_after_start", None)
    added_up.clear()
    lab.run(mended, first="silver")
    assert lab.query("SELECT count(*) FROM gold.contacts") == [(len(DAYS) + 7,)]
    assert lab.query(days_of_ed) == [("2023-07-07",), ("2023-07-08",)]
    assert_as_a_whole(lab, contacts, COLUMNS)
    assert added_up == dict.fromkeys(SUMS, True)

    # Both are held back again, that of the batch that was replayed and has duplicates, too: Ed has no case any more.
    added_up.clear()
    monkeypatch.setattr(Ledger, "ingested_between", lambda *_: [3])
    assert replay.ask_backfill(lab.start(), contacts, date.today(), date.today())
    lab.run(contacts, first="silver")
    assert lab.query("SELECT count(*) FROM gold.contacts") == [(len(DAYS) + 5,)]
    assert lab.query(days_of_ed) == []
    assert added_up == dict.fromkeys(SUMS, True)
    assert_as_a_whole(lab, contacts, COLUMNS)


@pytest.mark.usefixtures("loads")
def test_a_table_that_was_removed_and_made_anew_before_a_crash_is_not_added_to(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first version has the number of the one that is recorded, and more rows."""
    contacts = with_gold("contacts")
    lab.land("contacts/a.jsonl", "".join(transferred(day, to="Bo") for day in DAYS))
    lab.run(contacts, until="silver")
    for table in SUMS:
        shutil.rmtree(lab.lake.path(table))
    forget_tables(lab.lake.spark)
    lab.land("contacts/b.jsonl", transferred("2023-11-01", to="Bo"))
    record = Ledger.record_table_states

    def crash(ledger: Ledger, states: Sequence[TableState]) -> None:
        if any(state.delta_version >= 0 and state.table_name in SUMS for state in states):
            raise RuntimeError("a crash")
        record(ledger, states)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record_table_states", crash)
        with pytest.raises(RuntimeError, match="a crash"):
            lab.run(contacts, until="silver")
    assert [lab.lake.version(table) for table in SUMS] == [0, 0]
    lab.run(contacts, until="silver")
    days = lab.table("silver/contacts/case_days").where("counselor_name = 'Bo'")
    assert days.agg({"number_of_cases": "sum"}).collect()[0][0] == len(DAYS) + 1


@pytest.mark.usefixtures("loads")
def test_rows_without_a_slice_are_never_lost(
    lab: Lab, touched: dict[str, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cases(contacts: DataFrame) -> DataFrame:
        day = F.to_date("started_at")
        return contacts.groupBy(F.when(F.dayofmonth("started_at") > 1, day).alias("day")).count()

    monkeypatch.setattr(transforms.contacts, "counselor_daily_cases", cases)
    content = with_gold("contacts", "counselor_daily_cases").model_dump(by_alias=True)
    content["publish"]["counselor_daily_cases"]["slice_by"] = "day"
    contacts = Source.model_validate(content)
    lab.land("contacts/year.jsonl", "".join(transferred(day, to="Bo") for day in DAYS))
    lab.run(contacts, until="gold")
    # Its days are after the last that Python knows.
    endless = contact("9999-12-31 23:00:00-05:00", "9999-12-31 23:30:00-05:00")
    a, b = endless + transferred("2023-02-02", to="Cyd"), transferred("2023-02-01", to="Cyd")
    for file, content, expected, days in (
        ("a", a, (11, 2), {"None", "2023-02-02"}),
        ("b", b, (12, 2), {"None"}),
    ):
        lab.land(f"contacts/{file}.jsonl", content)
        lab.run(contacts, until="gold")
        found = {row["day"]: row["count"] for row in lab.table("gold/contacts/counselor_daily_cases").collect()}
        assert (found[None], found[date(2023, 2, 2)]) == expected
        assert sum(found.values()) == sum(expected) + len(DAYS) - 11
        assert touched["gold/contacts/counselor_daily_cases"] == days


@pytest.mark.usefixtures("loads")
def test_members_are_computed_anew_who_have_other_entries_also_late_ones_and_ones_that_go(
    lab: Lab, touched: dict[str, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    members = load_sources(["members"])[0]
    tables = {
        "member": "id, created_at, age",
        "engagement_segments": "segment, member_count",
        "member_follow_reco_rolling": "member_id, entry_number, follow_reco, rolling_average",
    }
    grouped = ("silver/members/newest_entries", "gold/members/member_follow_reco_rolling")
    lab.land("members/a.log", entry(ANN, on="2023-06-20", follow_reco=80.25) + entry(ANN) + entry(BOB, age=30))
    lab.land("members/c.log", entry(CYD, follow_reco=90) + entry(BOB, on="2023-06-28", follow_reco=99))
    lab.run(members)
    assert touched == {}
    assert_as_a_whole(lab, members, tables)

    # An entry before all others, which alone would not make its member one who follows; the newest one of another
    # member; a line that is known; and a member who is new.
    late, newest = entry(ANN, on="2023-06-01", follow_reco=10), entry(CYD, on="2023-07-01", age=50, follow_reco=1)
    lab.land("members/news.log", late + newest + entry(ANN) + entry(DEE))
    lab.run(members)
    assert touched == {table: {ANN, CYD, DEE} for table in grouped}
    assert_as_a_whole(lab, members, tables)
    assert lab.query(
        "SELECT entry_number, rolling_average FROM gold.member_follow_reco_rolling WHERE entry_number > 1 "
        f"AND member_id = '{ANN}' ORDER BY 1"
    ) == [(2, 10.0), (3, 45.125)]

    # A file that was replaced takes entries out: one member is none any more, another is as before, and older. As many
    # as these are joined, not named.
    monkeypatch.setattr(increments, "_FEW_PARTS", 0)
    lab.land("members/c.log", entry(BOB, age=31))
    lab.land("members/news.log", late + entry(ANN))
    lab.run(members)
    assert touched == {table: {ANN, BOB, CYD, DEE} for table in grouped}
    assert_as_a_whole(lab, members, tables)
    assert lab.query("SELECT id, age FROM gold.member ORDER BY id") == [(ANN, 48), (BOB, 31)]


def test_of_files_only_those_parts_are_read_that_can_have_the_days(lab: Lab) -> None:
    """A filter on days that no bound of times is made of reads all."""
    contacts = load_sources(["contacts"])[0]
    lab.land("contacts/year.jsonl", "".join(transferred(day, to="Bo") for day in DAYS))
    lab.run(with_gold("contacts"), until="silver")
    inputs = {name: lab.table(f"silver/contacts/{name}") for name in ("contacts", "assignments")}
    rows = call(contacts.silver_transform("open_case_days"), inputs, contacts)
    days = lab.lake.spark.sql("SELECT explode(array(DATE'2023-02-01', DATE'2023-02-03', DATE'2023-02-02')) AS day")
    plan = increments.with_parts_anew(rows.where("false"), rows, days)._jdf.queryExecution().optimizedPlan().toString()
    for name in ("started_at", "ended_at"):
        bounds = rf"\({name}#\d+ >= 2023-02-01 00:00:00\) AND \({name}#\d+ < 2023-02-04 00:00:00\)"
        assert len(re.findall(bounds, plan)) == 2, "of contacts and of assignments"


def test_a_group_that_an_input_does_not_have_is_named(lab: Lab) -> None:
    content = with_gold("members", "engagement_segments").model_dump(by_alias=True)
    content["publish"]["engagement_segments"]["group_by"] = "segment"
    lab.land("members/a.log", entry(ANN))
    with pytest.raises(ConfigurationError) as error:
        lab.run(Source.model_validate(content), until="gold")
    says = "gold.members.engagement_segments is declared group_by segment, and newest_entries has no such column"
    assert str(error.value).startswith(says)


@pytest.mark.parametrize(
    ("source", "kind", "table", "way"),
    [("credits", "publish", "user_activity", "row_by_row"), ("contacts", "tables", "open_case_days", "additive")],
)
def test_a_table_that_is_computed_from_two_is_not_one_of_rows_alone(
    source: str, kind: str, table: str, way: str
) -> None:
    content = load_sources([source])[0].model_dump(by_alias=True)
    content[kind][table] |= {"slice_by": None, way: True}
    with pytest.raises(ConfigurationError, match=rf"{source}\.{table} is declared {way}, and computed from 2"):
        recipes.check(Source.model_validate(content))


def test_a_table_of_other_than_sums_is_not_additive(spark: SparkSession) -> None:
    declared = load_sources(["contacts"])[0].tables["case_days"]
    recipe = recipes.Recipe("silver/contacts/case_days", lambda: None, {}, declared)
    for wrong in (
        "counselor_name STRING, day DATE, mean DOUBLE",
        "counselor_name STRING, day DATE",
        "counselor_name STRING, n INT",
    ):
        with pytest.raises(ConfigurationError) as error:
            increments.added_up(recipe, spark.createDataFrame([], wrong))
        assert str(error.value).startswith("silver.contacts.case_days is declared additive, and its transform returns ")
        assert "counselor_name string" in str(error.value)
        assert "expected its key (counselor_name, day)" in str(error.value.hint)


def test_what_adds_up_to_nothing_has_no_row_and_a_sum_of_nothing_is_0(spark: SparkSession) -> None:
    recipe = recipes.Recipe(
        "silver/contacts/case_days", lambda: None, {}, load_sources(["contacts"])[0].tables["case_days"]
    )
    one, other = date(2023, 1, 1), date(2023, 1, 2)
    rows = [
        ("Yan", one, 2, Decimal("0.5")),
        ("Yan", one, -2, Decimal("-0.5")),
        ("Yan", other, 1, None),
        (None, None, 1, Decimal("0.5")),
        (None, None, 1, Decimal("9.5")),
    ]
    frame = spark.createDataFrame(rows, "counselor_name STRING, day DATE, n INT, total DECIMAL(3,1)")
    sums = increments.added_up(recipe, frame)
    assert_rows(sums, [("Yan", other, 1, Decimal("0.0")), (None, None, 2, Decimal("10.0"))])
    assert sums.dtypes == frame.dtypes
