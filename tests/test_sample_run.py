"""All sources, sample files to Postgres by the `assay` command: what was made comes out, and answers the questions."""

import re

import psycopg
import pytest

from jobs.engine.session import PROJECT
from jobs.engine.sources import load_sources
from tests.conftest import Sample

FATES = ("rows_read", "rows_written", "rows_quarantined", "rows_deduplicated", "rows_superseded")


@pytest.mark.parametrize("source", [source.name for source in load_sources()])
def test_a_sample_comes_out_as_it_was_made(sample: Sample, source: str) -> None:
    made = sample.made[source]
    sums = ", ".join(f"sum({fate})" for fate in FATES)
    counted = sample.place.query(f"SELECT {sums} FROM ops.row_accounts WHERE source = '{source}' AND layer = 'silver'")
    read, written, quarantined, deduplicated, superseded = counted[0]
    assert (read, written, quarantined) == (made.lines, made.valid, sum(made.bad.values()))
    assert deduplicated + superseded == made.duplicates + made.superseded


def test_the_summary_for_machines_says_the_same(sample: Sample) -> None:
    assert {line["source"]: line["written"] for line in sample.summary["sources"]} == {
        name: made.valid for name, made in sample.made.items()
    }
    assert sample.summary["release_id"] == 1


def test_files_that_were_delivered_again_are_accounted_for(sample: Sample) -> None:
    again = "SELECT sum(rows_deduplicated) FROM ops.row_accounts WHERE source = 'contacts' AND layer = 'bronze'"
    assert sample.place.query(again)[0][0] > 0


def test_the_money_of_the_sample_is_in_the_balances(sample: Sample) -> None:
    balances = dict(sample.place.query("SELECT org_id, credit_balance FROM gold.org_credit_balances"))
    assert len(balances) > 1
    assert balances == {org: sample.made["credits"].totals[org] for org in balances}
    assert sample.place.query("SELECT count(*) FROM restricted.users") == [(sample.made["signups"].valid,)]


def test_analysts_do_not_read_who_signed_up(sample: Sample) -> None:
    with psycopg.connect(sample.place.database.conninfo(), autocommit=True) as connection:
        connection.execute("ALTER ROLE analyst PASSWORD 'for this test'")
        connection.execute("ALTER ROLE restricted_reader PASSWORD 'for this test'")
    analyst = sample.place.database.as_user("analyst", "for this test")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        sample.place.query("SELECT * FROM restricted.users", analyst)
    reader = sample.place.database.as_user("restricted_reader", "for this test")
    assert sample.place.query("SELECT count(*) > 0 FROM restricted.users", reader) == [(True,)]
    schemas = "SELECT DISTINCT split_part(table_name, '.', 1) FROM ops.release_tables ORDER BY 1"
    assert sample.place.query(schemas) == [("gold",), ("restricted",)]
    assert sample.place.query(schemas, analyst) == [("gold",)], "a checksum tells what a row may hold"
    assert sample.place.query(schemas, reader) == [("restricted",)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        sample.place.query("SELECT * FROM gold.daily_user_counts", reader)


def test_the_questions_of_the_readme_are_answered_with_plain_selects(sample: Sample) -> None:
    readme = (PROJECT / "README.md").read_text()
    statements = [
        statement.strip()
        for block in re.findall(r"```sql\n(.*?)```", readme, re.DOTALL)
        for statement in re.sub(r"--.*", "", block).split(";")
        if statement.strip()
    ]
    assert len(statements) >= 8
    with psycopg.connect(sample.place.database.conninfo(), autocommit=True) as connection:
        connection.execute("ALTER ROLE analyst PASSWORD 'for this test'")
    analyst = sample.place.database.as_user("analyst", "for this test")
    for statement in statements:
        assert "restricted." not in statement
        assert not re.search(r"\b(join|group by)\b", statement, re.IGNORECASE), statement
        sample.place.query(statement, analyst)


def test_the_readme_names_every_published_table(sample: Sample) -> None:
    readme = (PROJECT / "docs/sources.md").read_text()
    tables = sample.place.query("SELECT DISTINCT table_name FROM ops.release_tables")
    assert [name for (name,) in tables if f"`{name}`" not in readme] == []
