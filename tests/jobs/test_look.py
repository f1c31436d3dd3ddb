"""What the commands that look show: accounts and their audit, quarantine with masked examples, rules."""

import json
import unicodedata
from dataclasses import replace
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from jobs.accounting import FILES_SHOWN, Account, Accounting, accounts_of, matching_files
from jobs.commands import look
from jobs.engine.database import Database
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.ledger import ACCOUNTS
from jobs.engine.listing import size, some, table
from jobs.engine.masking import LONGEST, masked
from jobs.engine.settings import PostgresSettings
from jobs.engine.sources import Source, load_sources
from jobs.held_back import quarantine_of
from jobs.rulebook import rules_of
from scripts.proof.world import new_database
from tests.lab import Lab, with_gold
from tests.test_end_to_end_members import ANN, BOB, entry

NAMES = {"id", "name", "started_at"}
NO_DATE = entry(ANN, on="soon")
NO_ID = entry("nobody")

# -- masking --


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ('{"name": "Ann Müller-Ødegård", "id": 17}', '{"name": "xxx xxxxxx-xxxxxxx", "id": 99}'),
        ('{ "name" : "Ann", "town": "Oslo"}', '{ "name" : "xxx", "xxxx": "xxxx"}'),
        ('{"town": "name", "id": "id", "a": ["name", "id"]}', '{"xxxx": "xxxx", "id": "xx", "x": ["xxxx", "xx"]}'),
        (r'{"town": "a \"name\": b, {\"id\":"}', r'{"xxxx": "x \"xxxx\": x, {\"xx\":"}'),
        ('{"name": "O"Brien", "id": 1}', '{"name": "x"xxxxx", "xx": 9}'),
        ('{id="abc1"|name=Ann|town=id}', '{id="xxx9"|name=xxx|xxxx=xx}'),
        ('{id="|name=x|"|name=id=7}', '{id="|xxxx=x|"|name=xx=9}'),
        ('{ id = x | name = y }', '{ id = x | name = x }'),
        ("id,name\n1,Ann", "xx,xxxx?9,xxx"),
        ("name=Ann", "xxxx=xxx"),
        ('name": 1', 'xxxx": 9'),
        ("", ""),
        ("2024-10-04T09:00:00+01:00; 5 € (½)", "9999-99-99x99:99:99+99:99; 9 ? (9)"),
        ("\u4e2d\u6587 e\u0301 \u0661 \U0001f600 \x1b[31m \ufffd", "xx xx 9 ? ?[99x \ufffd"),
    ],
)  # fmt: skip
def test_values_lose_letters_and_digits_and_names_of_fields_stay(row: str, shown: str) -> None:
    assert masked(row, NAMES) == shown


def test_a_long_row_is_cut_before_it_is_masked() -> None:
    assert masked("7" * (LONGEST + 1)) == "9" * LONGEST + "..."
    assert masked("7" * LONGEST) == "9" * LONGEST
    assert masked('{"' + "a" * LONGEST + '": 1}', {"a" * (LONGEST - 2)}).strip('{"') == "x" * (LONGEST - 2) + "..."


def letters(text: str) -> set[str]:
    return {character for character in text if character.isalnum()}


@given(st.text())
def test_of_any_text_no_letter_or_digit_survives(text: str) -> None:
    shown = masked(text)
    assert letters(shown) <= {"x", "9"}
    assert not any(unicodedata.category(character).startswith("C") for character in shown.replace("\t", ""))
    assert len(shown) <= LONGEST + 3


@given(st.dictionaries(st.sampled_from(sorted(NAMES)), st.text() | st.lists(st.text(max_size=9)) | st.integers()))
def test_of_any_json_line_only_the_names_survive(fields: dict[str, Any]) -> None:
    for row in (json.dumps(fields), json.dumps(fields, ensure_ascii=False)):
        shown = masked(row, NAMES)
        without_names = shown
        for name in fields if len(row) <= LONGEST else ():
            assert f'"{name}": ' in shown
        for name in fields:
            without_names = without_names.replace(f'"{name}":', "", 1)
        assert letters(without_names) <= {"x", "9"}


QUOTED = st.text(st.characters(exclude_characters='"', exclude_categories=["Cs"])).map(lambda text: f'"{text}"')
BARE = st.text(st.characters(exclude_characters='"=|{}', exclude_categories=["Cs"]))


@given(st.dictionaries(st.sampled_from(sorted(NAMES)), QUOTED | BARE, min_size=1))
def test_of_any_line_of_pairs_only_the_names_survive(fields: dict[str, str]) -> None:
    row = "{" + "|".join(f"{name}={value}" for name, value in fields.items()) + "}"
    shown = masked(row, NAMES)
    for name in fields:
        shown = shown.replace(f"{name}=", "", 1) if f"{name}=" in shown else shown
    assert letters(shown) <= {"x", "9"}


@given(st.text(st.sampled_from('{}"\\|=:,[] idname1é\n')))
def test_of_a_broken_line_nothing_but_names_of_fields_survives(text: str) -> None:
    shown = masked(text, NAMES)
    for name in NAMES:
        shown = shown.replace(name, "")
    assert letters(shown) <= {"x", "9"}


# -- listing --


def test_sizes_and_lists_are_short() -> None:
    assert [size(count) for count in (0, 999, 1_000, 52_300, 999_499, 999_500, 18_240_000, 3_000_000_000)] == [
        "0 bytes", "999 bytes", "1.0 kB", "52.3 kB", "999 kB", "1.0 MB", "18.2 MB", "3.0 GB",
    ]  # fmt: skip
    assert (some(["a", "b"], 2), some(["a", "b", "c"], 2)) == ("a, b", "a, b and 1 more")
    assert table(["file", "rows"], [["a", 1_000], ["bcdef", 1]]) == ["file    rows", "a      1,000", "bcdef      1"]


def test_a_batch_of_many_files_is_one_line_unless_files_were_asked_for() -> None:
    files = [Account("s", "bronze", "t", 1, f"s/{n}", 2, 1, 1, 0, 0) for n in range(FILES_SHOWN + 1)]
    assert "21 files    42       21" in Accounting(files).as_text()
    assert "s/20" not in Accounting(files).as_text()
    assert "s/20" in Accounting(files, is_of_files=True).as_text()


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("s/a.csv", ["s/a.csv"]),
        ("a.csv", ["s/a.csv", "s/old/a.csv", "s/ba.csv"]),
        ("/a.csv", ["s/a.csv", "s/old/a.csv"]),
        ("s/?a.csv", ["s/ba.csv"]),
        ("s/[x].csv", ["s/[x].csv"]),
        ("q", []),
    ],
)
def test_a_file_is_named_by_its_path_a_glob_or_its_end(asked: str, found: list[str]) -> None:
    assert matching_files(asked, ["s/a.csv", "s/old/a.csv", "s/ba.csv", "s/[x].csv"]) == found


# -- what a lakehouse shows --


@pytest.fixture
def members() -> Source:
    return load_sources(["members"])[0]


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession, postgres: Database) -> Lab:
    """A lab with two batches of members, the first of them published; for tests that only look."""
    lab = Lab(tmp_path_factory.mktemp("looked"), spark, new_database(postgres, "looked"))
    lab.land("members/a.log", entry(BOB) + NO_DATE + NO_ID, at=1_700_000_000)
    lab.land("members/copy.log", entry(BOB) + NO_DATE + NO_ID, at=1_700_000_001)
    lab.land("members/empty.log", "", at=1_700_000_002)
    members = with_gold("members", "member")
    lab.run(members)
    lab.land("members/b.log", entry(BOB) + entry(BOB, age=49) + "nonsense of Ann 17\n")
    lab.run(members, until="gold")
    return lab


def test_where_nothing_was_read_there_is_nothing_to_show(lab: Lab, members: Source) -> None:
    before = accounts_of(lab.start(), [members], None)
    assert (before.accounts, before.problems) == ([], [])
    assert "no rows were read yet" in before.as_text()
    assert "no rows are held back" in quarantine_of(lab.start(), [members], None, 3).as_text()


def test_accounts_and_quarantine_of_a_source(looked: Lab, members: Source) -> None:
    run = looked.start()

    # All files.
    whole = accounts_of(run, [members], None)
    assert [(a.layer, a.batch, a.file, a.read, a.written, a.quarantined, a.deduplicated) for a in whole.accounts] == [
        ("bronze", 1, "members/a.log", 3, 3, 0, 0),
        ("bronze", 1, "members/copy.log", 3, 0, 0, 3),
        ("bronze", 2, "members/b.log", 3, 3, 0, 0),
        ("silver", 1, "members/a.log", 3, 1, 2, 0),
        ("silver", 2, "members/b.log", 3, 1, 1, 1),
    ]
    assert {(f.file, f.why) for f in whole.findings} == {
        ("members/copy.log", "a copy of members/a.log"),
        ("members/empty.log", "the file is empty"),
    }
    assert whole.problems == []
    assert "balanced, and they agree" in whole.as_text()
    assert "next             assay quarantine --source members" in whole.as_text()
    assert whole.as_json()["totals"][1] == {  # type: ignore[index]
        "source": "members", "layer": "silver", "table": "member_entries", "files": 2,
        "read": 6, "written": 2, "quarantined": 3, "deduplicated": 1, "superseded": 0,
    }  # fmt: skip

    # One file; one that was set aside, and one that is not there.
    assert {a.file for a in accounts_of(run, [members], "b.log").accounts} == {"members/b.log"}
    aside = accounts_of(run, [members], "empty.log")
    assert (aside.accounts, [f.why for f in aside.findings]) == ([], ["the file is empty"])
    assert "set aside        members/empty.log (batch 1): the file is empty" in aside.as_text()
    with pytest.raises(ConfigurationError, match=r"'members/bb.log'\n.*did you mean members/b.log") as unknown:
        accounts_of(run, [members], "members/bb.log")
    assert unknown.value.exit_code == 2
    with pytest.raises(ConfigurationError, match=r"did you mean members/a\.log"):
        accounts_of(run, [members], "elsewhere/aa.log")

    # Quarantine: counts by rule; examples without values.
    found = quarantine_of(run, [members], None, 2)
    assert {(held.rule, held.rows, held.files) for held in found.rules} == {
        ("created_at_readable", 1, 1),
        ("id_valid", 1, 1),
        ("line_well_formed", 1, 1),
    }
    assert found.rows == 3
    dated = next(held for held in found.rules if held.rule == "created_at_readable")
    assert [(e.file, e.batch) for e in dated.examples] == [("members/a.log", 1)]
    assert dated.examples[0].row.startswith(
        '{id="xxx9xx9xxx99999x"|created_at="xxxx"|sex=9|age=99|default_language_en='
    )
    garbled = next(held for held in found.rules if held.rule == "line_well_formed")
    assert [e.row for e in garbled.examples] == ["xxxxxxxx xx xxx 99"]
    assert "Ann" not in found.as_text() + json.dumps(found.as_json())
    assert found.as_text().splitlines()[-1].startswith("next             assay replay --source members --rule ")
    one = quarantine_of(run, [members], "id_valid", 0)
    assert ([held.rule for held in one.rules], one.rules[0].examples, one.rows) == (["id_valid"], [], 1)
    with pytest.raises(ConfigurationError, match=r"no rule that holds rows back is called 'age_readable'\n.*id_valid"):
        quarantine_of(run, [members], "age_readable", 3)

    # The rates of the newest run that was published: two of three rows.
    rates = {rule.name: rule.rate for rule in rules_of(looked.settings, [members]).rules}
    assert (rates["id_valid"], rates["sex_readable"]) == (pytest.approx(1 / 3), 0.0)


def test_the_commands_print_and_end_as_they_should(
    looked: Lab, members: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    look.register(app)
    monkeypatch.setattr(look, "load_settings", lambda: looked.settings)
    looked.land("members/c.log", entry(BOB) + NO_ID)
    call = CliRunner().invoke
    planned = call(app, ["plan", "--source", "members"])
    assert (planned.exit_code, "members/c.log" in planned.stdout) == (0, True)
    assert planned.stdout.splitlines()[-1] == "next             assay run --source members      does this"
    assert json.loads(call(app, ["plan", "-s", "members", "--json"]).stdout)["sources"][0]["source"] == "members"
    for command in ("accounts", "quarantine", "rules"):
        shown, machine = call(app, [command, "-s", "members"]), call(app, [command, "-s", "members", "--json"])
        assert (shown.exit_code, machine.exit_code) == (0, 0)
        assert shown.stdout.splitlines()[-1].startswith("next ")
        assert isinstance(json.loads(machine.stdout), dict)

    # The audit: a row that is taken out of quarantine, or of the table, behind Assay's back is missed.
    quarantine = looked.table("quarantine/members/member_entries")
    held, place = quarantine.collect(), looked.lake.path("quarantine/members/member_entries")
    quarantine.where("_batch_id > 1").write.format("delta").mode("overwrite").save(place)
    (problem,) = accounts_of(looked.start(), [members], "b.log").problems
    assert (
        "batch 1): 3 rows read, 3 accounted for; 1 said to be written and 1 in the table; 2 said to be qua" in problem
    )
    assert "quarantined and 0 in quarantine" in problem
    rows = looked.lake.spark.createDataFrame(held, quarantine.schema)
    rows.write.format("delta").mode("overwrite").save(place)
    silver = "silver/members/member_entries"
    looked.table(silver).where("age = 49").write.format("delta").mode("overwrite").save(looked.lake.path(silver))
    for until in ("silver", "publish"):  # the new file is refined by the one, and published by neither
        with pytest.raises(AssayError, match=r"silver.members.member_entries does not balance \(file members/a.log, "):
            looked.run(members, until=until)
    assert looked.query("SELECT max(release_id) FROM ops.releases") == [(1,)]
    audited = accounts_of(looked.start(), [members], "b.log")
    assert len(audited.problems) == 1
    assert "silver.members.member_entries does not balance (file members/a.log, batch 1)" in audited.problems[0]
    assert "do not balance, see below" in audited.as_text()

    # Also if the account says so: bronze has it.
    ledger = looked.start().ledger
    accounts = ledger.accounts_of("members", "silver", "member_entries")
    (said,) = [account for account in accounts if account.source_file == "members/a.log"]
    ledger.record_accounts([replace(said, rows_read=said.rows_read - 1, rows_written=said.rows_written - 1)])
    (problem,) = accounts_of(looked.start(), [members], "b.log").problems
    assert f"batch 1): {said.rows_read - 1} rows read of {said.rows_read} that are in bronze" in problem

    # So are the accounts themselves.
    looked.table(ACCOUNTS).limit(0).write.format("delta").mode("overwrite").save(looked.lake.path(ACCOUNTS))
    unbalanced = call(app, ["accounts", "-s", "members"])
    assert isinstance(unbalanced.exception, AssayError)
    assert unbalanced.exception.exit_code == 1
    assert "does not balance" in str(unbalanced.exception)


def test_rules_are_listed_without_spark_and_without_a_database(lab: Lab) -> None:
    settings = lab.settings.model_copy(update={"postgres": PostgresSettings(host=None)})
    sources = load_sources(["credits", "members"])
    found = rules_of(settings, sources)
    assert len(found.rules) == sum(len(t.rules) for source in sources for t in source.tables.values())
    assert {rule.rate for rule in found.rules} == {None}
    assert not settings.database.exists()
    text = found.as_text()
    assert "rates are not known: the embedded Postgres is not running (assay db start)" in text
    assert "  undated" in text
    assert "(at most 60.00%)" in text
    assert "the action is missing or neither add nor deduct, so the sign is unknown" in text
