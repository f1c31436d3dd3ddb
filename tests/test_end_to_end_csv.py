"""Credits and signups, raw CSV to Postgres: columns that move, files that are replaced, corrected or sent again."""

import gzip
from decimal import Decimal

import psycopg
import pytest

from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.sources import Source, load_sources
from jobs.layers import arrivals, bronze
from tests.lab import Lab, with_gold

HEADER = "org_id,user_id,credit_type,action,credits,timestamp\n"
ADD = "org_1,ann,api_call,add,100.10,2024-11-24 00:00:00\n"
DEDUCT = "org_1,ann,api_call,deduct,30.00,19-12-2024\n"
BALANCES = "SELECT org_id, credit_balance FROM gold.org_credit_balances ORDER BY 1"


def test_credits_survive_moved_columns_copies_and_replaced_files(lab: Lab) -> None:
    credits = with_gold("credits", "org_credit_balances", "user_activity")
    lab.land("credits/a.csv", HEADER + ADD + DEDUCT + DEDUCT)
    lab.land(
        "credits/b.csv",
        "\ufeff Timestamp ;note;CREDITS;action;credit_type;user_id;org_id\r\n"
        "10/29/2024 12:00 AM;hello;5.5;ADD;data_export;bob;org_2\r\n"
        "junk;;1;add;data_export;bob;\r\n"
        "1734912000;;2;teleport;data_export;bob;org_2\r\n"
        "too;few\r\n",
    )
    lab.run(credits)
    balances = [("org_1", Decimal("40.10")), ("org_2", Decimal("6.50"))]
    assert lab.query(BALANCES) == balances
    assert lab.account("silver") == {"credits/a.csv": (3, 3, 0, 0, 0), "credits/b.csv": (4, 2, 2, 0, 0)}
    assert lab.query("SELECT undated_event_count, quarantined_event_count FROM gold.org_credit_balances "
                     "WHERE org_id = 'org_2'") == [(1, 1)]  # fmt: skip
    held = {
        row._raw: [reason.rule for reason in row.reasons]
        for row in lab.table("quarantine/credits/credit_events").collect()
    }
    assert set(held) == {"too;few", "1734912000;;2;teleport;data_export;bob;org_2"}
    ids = lab.query("SELECT event_id FROM gold.user_activity ORDER BY 1")

    lab.land("credits/a (copy).csv.gz", gzip.compress((HEADER + ADD + DEDUCT + DEDUCT).encode()))
    again = lab.run(credits)
    assert (again.release_id, lab.query(BALANCES)) == (None, balances)
    assert lab.account("bronze")["credits/a (copy).csv.gz"] == (3, 0, 0, 3, 0)

    lab.land("credits/b.csv", HEADER + "org_2,bob,data_export,add,9,10/29/2024 12:00 AM\n")
    lab.run(credits)
    assert lab.query(BALANCES) == [("org_1", Decimal("40.10")), ("org_2", Decimal("9.00"))]
    assert lab.account("silver")["credits/b.csv"] == (5, 1, 0, 0, 4)
    kept = lab.query("SELECT event_id FROM gold.user_activity WHERE org_id = 'org_1' ORDER BY 1")
    assert set(kept) < set(ids)

    # What a.csv was lives on in its copy; rows that both have are one event.
    lab.land("credits/a.csv", HEADER + ADD + DEDUCT.replace("30.00", "5.00"))
    lab.run(credits)
    assert lab.query(BALANCES) == [("org_1", Decimal("35.10")), ("org_2", Decimal("9.00"))]
    assert lab.account("silver")["credits/a.csv"] == (5, 4, 0, 1, 0)


def test_a_column_is_found_in_rows_of_when_it_was_called_otherwise_or_was_none(lab: Lab) -> None:
    def as_now(source: Source) -> list[tuple[str | None, ...]]:
        rows = bronze.bronze_rows(lab.start(), source, "signups")
        return sorted(tuple(row) for row in rows.select("id", "first_name", "visited_on", "post_code").collect())

    before = load_sources(["signups"])[0]
    lab.land(
        "signups/a.csv", "id,first_name,visit_date,Post Code,PLZ\n1 0001,Cy,2024-05-09,N1,\n2 0002,,2024-05-10,,8000\n"
    )
    bronze.refine(lab.start(), before)
    columns = ["id", "first_name", "last_name", "age", "gender", "visited_on", "post_code"]
    declared = before.raw["signups"].model_copy(update={"columns": columns, "required_columns": ["id", "visited_on"]})
    unnamed = before.model_copy(update={"raw": {"signups": declared}})
    refused = r"signups\.yaml, raw table signups: .* do not have 'visited_on', which is required, and have 'visit_date'"
    with pytest.raises(ConfigurationError, match=refused) as error:
        bronze.check_columns(lab.start(), unnamed)
    assert "keep it in aliases ({visit_date: visited_on})" in str(error.value.hint)

    aliases = {"visit_date": "visited_on", "plz": "post_code"}
    now = before.model_copy(update={"raw": {"signups": declared.model_copy(update={"aliases": aliases})}})
    bronze.check_columns(lab.start(), now)
    # What is required now, and was no column then, may be in what the rows have beside.
    fewer = [name for name in columns if name != "gender"]
    fields = {"columns": fewer, "aliases": aliases, "required_columns": ["post_code"]}
    found = before.model_copy(update={"raw": {"signups": declared.model_copy(update=fields)}})
    bronze.check_columns(lab.start(), found)
    old = [("1 0001", "Cy", "2024-05-09", "N1"), ("2 0002", None, "2024-05-10", "8000")]
    assert as_now(now) == old  # though no file has the columns by these names yet
    lab.land("signups/b.csv", "id,visited_on,plz\n3 0003,2024-05-11,9000\n")
    bronze.refine(lab.start(), now)
    assert as_now(now) == [*old, ("3 0003", None, "2024-05-11", "9000")]
    bronze.check_columns(lab.start(), now)


def test_balances_that_do_not_add_up_are_not_published(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    import transforms.credits as module

    whole = module.org_credit_balances
    monkeypatch.setattr(
        module,
        "org_credit_balances",
        lambda credit_events, quarantined: whole(credit_events, quarantined).where("org_id <> 'org_2'"),
    )
    lab.land("credits/a.csv", HEADER + ADD + ADD.replace("org_1,ann", "org_2,bob"))
    for _ in range(2):  # also when nothing is new
        with pytest.raises(AssayError, match="credits, check balances_add_up"):
            lab.run(with_gold("credits", "org_credit_balances"))
    with pytest.raises(psycopg.errors.UndefinedTable):
        lab.query(BALANCES)


def test_a_correction_of_a_signup_wins_however_late_the_older_file_comes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    signups = with_gold("signups", "users", "daily_user_counts")
    header = "id,first_name,last_name,age,gender,visit_date\n"
    ann, bob = "1043 0276,Ann,Lee,34,F,2024-05-01\n", "1043 0277,Bob,Ray,41,M,05/01/2024\n"
    same_day = "1043 0277,Bob,Roy,41,M,2024-05-01\n"  # the smaller hash: no other field tells which is newer
    corrected = "1043 0276,Ann,Leigh,35,F,2024-05-03\n"
    lab.land("signups/new.csv", header + corrected + "no id,X,Y,1,F,2024-05-01\n", at=1_700_000_000)
    lab.run(signups)
    lab.land("signups/old.csv", header + ann + bob + same_day, at=1_600_000_000)
    lab.run(signups)
    assert lab.query("SELECT last_four, last_name, visit_date::text FROM restricted.users ORDER BY 1") == [
        ("0276", "Leigh", "2024-05-03"),
        ("0277", "Roy", "2024-05-01"),
    ]
    assert lab.account("silver") == {"signups/new.csv": (2, 1, 1, 0, 0), "signups/old.csv": (3, 1, 0, 0, 2)}
    assert lab.query("SELECT day, observed, count FROM gold.daily_user_counts ORDER BY day") == [
        (1, True, Decimal("1.00")), (3, True, Decimal("1.00")), (4, False, Decimal("1.00")),
    ]  # fmt: skip


def test_a_source_can_be_read_from_files_that_are_named_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    header = "id,first_name,last_name,age,gender,visit_date\n"
    lab.land("signups/unread.csv", header + "8 0001,Di,Fox,20,F,2024-05-10\n")
    names = ["elsewhere/1+1 [a]%20/one.csv", "elsewhere/2/one.csv"]
    first, second = (lab.land(path, header + f"{n} 0001,Cy,Orr,20,M,2024-05-09\n") for n, path in enumerate(names))
    for file in (first, second, first):
        monkeypatch.setenv("CSV_FILE", str(file))
        summary = lab.run("signups", until="bronze")
    assert summary.sources[0].files == "nothing new"
    lab.run("signups", first="silver", until="silver")
    users = {row.user_id: row._source_file for row in lab.table("silver/signups/signups").collect()}
    # Of one name in two folders, none takes the place of the other.
    assert users == {n: str(file).removeprefix("/") for n, file in enumerate((first, second))}

    lab.land(names[0], header + "7 0001,Cy,Orr,20,M,2024-05-09\n")
    lab.run("signups", until="silver")
    assert {row.user_id for row in lab.table("silver/signups/signups").collect()} == {1, 7}

    # A file of the landing folder is the one that runs without the name find there, links or not.
    lab.landing.with_name("link").symlink_to(lab.landing)
    monkeypatch.setenv("CSV_FILE", f"{lab.landing.with_name('link')}/signups/unread.csv")
    lab.run("signups", until="bronze")
    monkeypatch.delenv("CSV_FILE")
    assert lab.run("signups", until="bronze").sources[0].files == "nothing new"
    lab.land("signups/unread.csv", header + "9 0001,Di,Fox,20,F,2024-05-10\n")
    lab.run("signups", until="silver")
    assert {row.user_id for row in lab.table("silver/signups/signups").collect()} == {1, 7, 9}

    # So is one of a folder that a link in the landing folder leads to.
    shared = lab.land("elsewhere/3/linked.csv", header + "3 0001,Flo,Elm,20,F,2024-05-10\n").parent
    lab.landing.joinpath("signups").rename(shared / "signups")
    lab.landing.joinpath("signups").symlink_to(shared / "signups")
    (shared / "linked.csv").rename(shared / "signups/linked.csv")
    with monkeypatch.context() as patch:
        patch.setenv("CSV_FILE", f"{shared}/signups/linked.csv")
        lab.run("signups", until="bronze")
    assert lab.run("signups", until="silver").sources[0].files == "nothing new"
    assert 3 in {row.user_id for row in lab.table("silver/signups/signups").collect()}

    # One that an earlier Assay has called by its path from the root keeps that name.
    old = lab.land("signups/old.csv", header + "5 0001,Ed,Ash,20,M,2024-05-09\n")
    with monkeypatch.context() as patch:
        patch.setattr(arrivals, "_below_landing", lambda *_: None)
        patch.setenv("CSV_FILE", str(old))
        lab.run("signups", until="bronze")
    monkeypatch.setenv("CSV_FILE", str(old))
    lab.land("signups/old.csv", header + "6 0001,Ed,Ash,20,M,2024-05-09\n")
    lab.run("signups", until="silver")
    assert {row.user_id for row in lab.table("silver/signups/signups").collect()} == {1, 3, 6, 7, 9}

    # One that would be called as a file of the landing folder is: it would take its place.
    monkeypatch.setattr(arrivals, "is_expected", lambda path, _: f"/{path}" == str(second))
    monkeypatch.setenv("CSV_FILE", str(second))
    with pytest.raises(ConfigurationError, match=r"would be taken for .*/elsewhere/2/one\.csv of the landing folder"):
        lab.run("signups", until="bronze")

    monkeypatch.setenv("CSV_FILE", str(lab.land("elsewhere/_one.csv", header)))
    with pytest.raises(ConfigurationError, match=r"CSV_FILE: _one\.csv counts as still being written"):
        lab.run("signups", until="silver")
