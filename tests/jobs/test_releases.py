"""Rolling back: all tables at once, exports and documents with them, and what the runs after it do."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from pyspark.sql import SparkSession

from jobs import cli, releases
from jobs.engine import postgres
from jobs.engine.errors import AssayError
from jobs.engine.ledger import TableState
from jobs.engine.lock import exclusive
from jobs.engine.postgres import ReleasedTable
from jobs.engine.sources import load_sources
from jobs.maintain import _bring_documents, maintain
from jobs.releases import Rollback
from tests.lab import Lab, forget_tables, with_gold
from tests.test_end_to_end import lines
from tests.test_end_to_end_members import ANN, BOB, CYD, documents, entry

HEADER = "id,first_name,last_name,age,gender,visit_date\n"


def rollback(lab: Lab, to: int, *, dry_run: bool = False) -> Rollback:
    return releases.rollback(lab.start(), load_sources(), lab.database, to, dry_run=dry_run)


def ages(lab: Lab) -> list[tuple[str, int]]:
    return [(id, age) for id, age in lab.query("SELECT id, age FROM gold.member ORDER BY id")]


def shown(lab: Lab) -> dict[str, int]:
    """What documents and tables say of the ages: they must agree."""
    read = {name: json.loads(file.read_text())["age"] for name, file in documents(lab).items()}
    assert read == {f"member-{id}.json": age for id, age in ages(lab)}
    return dict(ages(lab))


def test_a_lakehouse_takes_the_place_of_another_one_only_if_told_to(
    lab: Lab, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.land("signups/a.csv", HEADER + "1 1111,Ann,Ash,40,f,2024-01-01\n")
    lab.run("signups")
    other = Lab(tmp_path / "other", spark, lab.database)
    other.land("signups/a.csv", HEADER + "2 2222,Bob,Bay,50,m,2024-01-01\n")

    def names() -> list[str]:
        return [name for (name,) in lab.query("SELECT first_name FROM restricted.users")]

    # Staging tables are the same for all: rows of whoever came between loading and release would be released.
    monkeypatch.setattr(postgres, "_SECONDS_TO_WAIT", 1)
    with postgres.connect(lab.database) as connection:
        postgres.keep_others_off(connection)
        for publishing in (lambda: other.run("signups", first="publish"), lambda: rollback(lab, 1)):
            with pytest.raises(AssayError, match="another Assay publishes to Postgres at"):
                publishing()

    refusal = "is from another lakehouse"
    assert re.search(rf"would refuse +to publish: .* {refusal}", other.assay("plan", "-s", "signups")[1])
    code, _, says = other.assay("run", "--source", "signups")
    assert (code, refusal in says, "assay run --take-over" in says) == (1, True, True)
    assert "another lakehouse, so no file of a gold table" in maintain(other.start(), load_sources()).notes[0]
    # Not some of the tables: a release is of one lakehouse.
    assert other.assay("run", "--source", "signups", "--take-over")[0] == 2
    assert (names(), lab.query("SELECT max(release_id) FROM ops.releases")) == (["Ann"], [(1,)])

    monkeypatch.setattr(cli, "load_sources", lambda _: load_sources(["signups"]))  # all there are
    with psycopg.connect(lab.database.conninfo()) as connection:
        of_lab = "INSERT INTO ops.release_tables VALUES (1, 'gold.member', 0, 5, '0', 'd')"
        connection.execute(f"CREATE TABLE gold.member (id int); {of_lab}")
    assert other.assay("run", "--take-over")[0] == 0
    assert names() == ["Bob"]
    idle = other.run("signups")
    (_,) = [text for text in idle.warnings if text.startswith("gold.member: is of no release now, and shows the rows")]
    assert idle.release_id is None
    with pytest.raises(AssayError, match=refusal):
        lab.run("signups")
    with pytest.raises(AssayError, match=refusal):
        rollback(lab, 1)
    with pytest.raises(AssayError, match="release 1 was published from another lakehouse"):
        rollback(other, 1)
    # Where no row differs, the place is taken, too.
    lab.land("signups/b.csv", HEADER + "2 2222,Bob,Bay,50,m,2024-01-01\n")
    (lab.landing / "signups/a.csv").write_text(HEADER)
    assert lab.assay("run", "--take-over")[0] == 0
    assert (names(), lab.run("signups").release_id) == (["Bob"], None)


def test_a_lakehouse_that_was_brought_back_from_a_backup_takes_out_nothing_unless_told_to(
    lab: Lab, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, backup = with_gold("signups", "users"), tmp_path / "backup"

    def land(name: str, number: int) -> Path:
        return lab.land(f"signups/{name}.csv", HEADER + f"{number} {number}111,Ann,Ash,40,f,2024-01-01\n")

    land("a", 1)
    lab.run(users)
    shutil.copytree(lab.lake.root, backup)
    archived = land("b", 2)
    lab.run(users)
    shutil.rmtree(lab.lake.root)
    shutil.copytree(backup, lab.lake.root)
    forget_tables(spark)
    archived.rename(tmp_path / "b.csv")

    plan = lab.assay("plan", "--source", "signups")[1]
    assert re.search(r"would refuse +to publish: the lakehouse is older than what was last published", plan)
    for name, number in (("", 0), ("c", 3), ("d", 4)):  # it reads on, and has as many commits in the end
        if name:
            land(name, number)
        with pytest.raises(
            AssayError, match=r"the lakehouse .* is older than what was last published from it"
        ) as error:
            lab.run(users)
    assert "assay run --take-over" in str(error.value.hint)
    with pytest.raises(AssayError, match=r"the lakehouse .* is older than"):  # else its commit would be the newest
        rollback(lab, 1)
    assert lab.query("SELECT count(*) FROM restricted.users") == [(2,)]
    # All is delivered again, and what came meanwhile is taken back: no row differs.
    shutil.copy2(tmp_path / "b.csv", archived)
    for name in ("c", "d"):
        (lab.landing / f"signups/{name}.csv").write_text(HEADER)
    monkeypatch.setattr(cli, "load_sources", lambda _: [users])  # all there are
    assert lab.assay("run", "--take-over")[0] == 0
    assert lab.query("SELECT max(release_id) FROM ops.releases") == [(2,)]
    assert lab.run(users).release_id is None, "it is not older any more"


def test_a_rollback_is_left_by_runs_until_something_changes_and_one_that_cannot_be_done_changes_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = with_gold("members", "member", "engagement_segments", "member_documents")
    lab.land("members/a.log", entry(ANN, age=40))
    lab.run(members)
    lab.land("members/b.log", entry(ANN, on="2024-01-01", age=41) + entry(BOB, age=50, follow_reco=90.0))
    lab.run(members)
    assert shown(lab) == {ANN: 41, BOB: 50}

    with psycopg.connect(lab.database.conninfo()) as connection:
        connection.execute("INSERT INTO ops.release_tables VALUES (1, 'gold.dropped', 0, 5, '0', 'd')")
    code, said, _ = lab.assay("rollback", "--to", "1", "--dry-run", "--json")
    preview = json.loads(said)
    assert (code, preview["release_id"]) == (0, None)
    assert preview["notes"] == ["gold.dropped: no source publishes it now, and it is not there any longer"]
    assert sorted(item["table"] for item in preview["loaded"]) == ["gold.engagement_segments", "gold.member"]
    assert shown(lab) == {ANN: 41, BOB: 50}

    # One transaction; a reader that looks in between sees one release or the other.
    done = rollback(lab, 1)
    assert done.release_id == 3
    assert done.files == ["processed/: 1 files brought up to date, 1 removed"]
    assert shown(lab) == {ANN: 40}
    assert lab.query("SELECT member_count FROM gold.engagement_segments ORDER BY segment DESC LIMIT 1") == [(1,)]
    assert rollback(lab, 1).release_id is None

    # Nothing new: the next run publishes nothing and leaves files alone.
    idle = lab.run(members)
    assert (idle.release_id, idle.documents) == (None, [])
    assert shown(lab) == {ANN: 40}

    # Forth, and back to the rollback itself: still nothing for a run to do.
    assert rollback(lab, 2).release_id == 4
    assert shown(lab) == {ANN: 41, BOB: 50}
    assert lab.query("SELECT count(*) FROM ops.release_tables WHERE release_id = 4 AND withheld_checksum > ''") == [
        (0,)
    ]
    code, said, _ = lab.assay("rollback", "--to", "3")
    assert (code, "release 5        the rows of release 3 again, 2 tables in one transaction" in said) == (0, True)
    assert lab.run(members).release_id is None
    assert shown(lab) == {ANN: 40}

    # A change in one table brings all of the source.
    lab.land("members/c.log", entry(CYD, on="2022-01-01", age=60))
    assert lab.run(members).release_id == 6
    assert shown(lab) == {ANN: 41, BOB: 50, CYD: 60}
    listed = releases.list_releases(lab.database, 4)
    assert [(r.release_id, r.what, len(r.changed)) for r in listed] == [
        (6, "run", 2), (5, "rollback to 3", 2), (4, "rollback to 2", 2), (3, "rollback to 1", 2),
    ]  # fmt: skip
    assert [r.rows for r in listed] == [6, 4, 5, 4]

    # What cannot be done changes nothing: a release that there is not, a crash in the transaction.
    with pytest.raises(AssayError, match="there is no release 9; nothing was changed"):
        rollback(lab, 9)
    with monkeypatch.context() as patch:
        patch.setattr(postgres, "withhold", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rollback(lab, 1)
    assert shown(lab) == {ANN: 41, BOB: 50, CYD: 60}
    assert lab.query("SELECT max(release_id) FROM ops.releases") == [(6,)]

    # Rows that are not those of the release.
    with psycopg.connect(lab.database.conninfo()) as connection:
        connection.execute("UPDATE ops.release_tables SET checksum = '1' WHERE release_id = 1")
    with pytest.raises(AssayError, match=r"gold.engagement_segments: version 0 has 3 rows .* nothing was changed"):
        rollback(lab, 1)

    # Columns that are declared anew.
    sources = load_sources(["members"])
    declared = sources[0].model_dump(by_alias=True)
    declared["publish"]["member"]["columns"]["more"] = "A column that there was not"
    changed = type(sources[0]).model_validate(declared)
    with pytest.raises(AssayError, match=r"gold.member has other columns now \(.*more\) than in release 1 \(id.*\)"):
        releases.rollback(lab.start(), [changed], lab.database, 1)

    # A version that is no longer there.
    table = Path(lab.lake.path("gold/members/member"))
    kept = {Path(file).name for file in lab.table("gold/members/member").inputFiles()}
    for file in table.glob("part-*.parquet"):
        if file.name not in kept:
            file.unlink()
    for remove in (lambda: None, lambda: shutil.rmtree(table)):
        remove()
        with pytest.raises(AssayError, match=r"gold.members.member: version 0, which release 1 shows, is no longer th"):
            rollback(lab, 1)
    assert shown(lab) == {ANN: 41, BOB: 50, CYD: 60}
    assert lab.query("SELECT max(release_id) FROM ops.releases") == [(6,)]


def test_documents_whose_version_is_gone_stay_as_they_are_and_a_rollback_says_so(lab: Lab) -> None:
    members = with_gold("members", "member", "member_documents")
    for age in (40, 41):
        lab.land(f"members/{age}.log", entry(ANN, on=f"2023-06-0{age - 39}", age=age))
        lab.run(members)
    shutil.rmtree(f"{lab.lake.root}/gold/members/member_documents")  # as the README advises where it is damaged
    for age in (42, 43):  # so that there is a version 1 again
        lab.land(f"members/{age}.log", entry(ANN, on=f"2023-06-0{age - 37}", age=age))
        lab.run(members)
    said = releases.rollback(lab.start(), [members], lab.database, 2)
    gone = "version 1 of gold.members.member_documents, which release 2 had, is gone"
    assert said.notes == [f"the documents of members stay as they are: {gone}"]
    summary = lab.run(members)
    assert summary.release_id is None
    (document,) = documents(lab).values()
    assert (ages(lab), json.loads(document.read_text())["age"]) == ([(ANN, 41)], 43)


def test_sources_are_rolled_back_together_and_come_forth_each_on_its_own(lab: Lab) -> None:
    contacts = with_gold("contacts", "counselor_daily_cases")
    cases = "SELECT sum(number_of_cases) FROM gold.counselor_daily_cases"
    members = with_gold("members", "member", "member_documents")

    def export() -> str:
        return (lab.output / "exports/counselor_daily_cases.csv").read_text().splitlines()[-1]

    # The files come after the release; if they cannot be written, that is said of both, and the next run writes them.
    unwritten = rf"release %s is published; files below {lab.output} could not be written: %s"
    lab.output.touch()
    lab.land("members/a.log", entry(ANN, age=40))
    lab.land("contacts/a.jsonl", lines(1))
    with pytest.raises(AssayError, match=unwritten % (1, "Parent path is not a directory")):
        lab.run(contacts, members)
    lab.output.unlink()
    lab.land("members/b.log", entry(ANN, age=41))
    lab.land("contacts/b.jsonl", lines(2, 3))
    lab.run(contacts, members)
    assert export() == "Yan Delacroix,2023-01-01,3,3.00,2.00"

    folder = lab.output / "processed"
    folder.rename(lab.output / "aside")
    folder.touch()
    with pytest.raises(AssayError, match=unwritten % (3, rf"File exists \({folder}\)")):
        rollback(lab, 1)
    folder.unlink()
    (lab.output / "aside").rename(folder)
    rollback(lab, 1)
    assert (shown(lab), export()) == ({ANN: 40}, "Yan Delacroix,2023-01-01,1,3.00,2.00")
    lab.land("members/c.log", entry(ANN, age=42))
    assert lab.run(contacts, members).tables_changed == ["gold.member"]
    assert (shown(lab), export()) == ({ANN: 42}, "Yan Delacroix,2023-01-01,1,3.00,2.00")
    assert lab.query(cases) == [(1,)]
    assert lab.run(contacts, members).release_id is None

    # Mended: the file that was wrong is as it was before. What is live is right, and held back no more.
    lab.land("contacts/b.jsonl", lines(1))
    assert lab.run(contacts, members).release_id is None
    lab.land("contacts/c.jsonl", lines(2, 3))
    lab.run(contacts)
    assert lab.query(cases) == [(3,)]
    assert export() == "Yan Delacroix,2023-01-01,3,3.00,2.00"

    # Documents that changed without any table, and so without a release, are as new after a rollback of others.
    lab.land("members/c.log", entry(ANN, age=42, waiting_list_time="13.3001"))
    assert lab.run(members).release_id is None
    (document,) = documents(lab).values()
    text = document.read_text()
    assert "13.3001" in text
    newest = int(lab.query("SELECT max(release_id) FROM ops.releases")[0][0])
    for _ in range(2):  # once more, as after one that was cut short
        rollback(lab, newest - 1)
        assert (document.read_text(), lab.query(cases)) == (text, [(1,)])
    rollback(lab, newest)

    # Rows of a source that the rollback does not touch are not held back: they only wait to be published.
    lab.land("members/d.log", entry(ANN, age=43))
    lab.run(members, until="gold")
    # Nor does maintenance show them before they are released, in documents, when it has made a version of their table.
    table = "gold/members/member_documents"
    version = lab.lake.version(table) or 0
    _bring_documents(lab.start(), [members], lab.database, {table: (version, version)})
    assert shown(lab) == {ANN: 42}
    rollback(lab, newest - 1)
    assert (shown(lab), lab.query(cases)) == ({ANN: 42}, [(1,)])
    assert lab.run(contacts, members).tables_changed == ["gold.member"]
    assert (shown(lab), lab.query(cases)) == ({ANN: 43}, [(1,)])

    # Its table is made anew: what is shown is in none of its versions, though one has the number.
    shutil.rmtree(f"{lab.lake.root}/gold/contacts/counselor_daily_cases")
    (lab.output / "exports/counselor_daily_cases.csv").unlink()
    idle = lab.run(contacts)
    assert lab.lake.version("gold/contacts/counselor_daily_cases") == 0
    says = "exports/counselor_daily_cases.csv: stays as it is, for the rows that are published are gone"
    assert (idle.release_id, idle.documents, lab.query(cases)) == (None, [says], [(1,)])


def test_the_commands_list_releases_and_keep_off_a_lakehouse_at_work(lab: Lab) -> None:
    assert lab.assay("releases") == (0, "no release yet\nnext    assay run\n", "")
    with postgres.connect(lab.database) as connection:
        postgres.prepare(connection, {})
        for release in range(2):
            connection.execute("INSERT INTO ops.releases (run_id) VALUES ('r')")
            tables = "INSERT INTO ops.release_tables VALUES (%s, %s, 0, 5, %s, 'd')"
            connection.execute(tables, [release + 1, "gold.same", "0"])
            connection.execute(tables, [release + 1, "gold.other", str(release)])
    code, out, _ = lab.assay("releases", "--json", "--limit", "1")
    listed = json.loads(out)[0]
    assert (code, listed["release_id"], listed["what"], listed["changed"], listed["tables"], listed["rows"]) == (
        0, 2, "run", ["gold.other"], 2, 10,
    )  # fmt: skip
    code, out, _ = lab.assay("releases")
    assert out.endswith("next  assay rollback --to 1 --dry-run\n")

    with exclusive(lab.settings.lakehouse, "assay run", database=lambda: lab.database):
        for arguments in (["rollback", "--to", "1"], ["maintain"], ["run"], ["replay", "--source", "members"]):
            code, out, error = lab.assay(*arguments)
            assert (code, out) == (1, "")
            assert error.startswith(f"error: another run works on {lab.settings.lakehouse} (assay run, process ")
            assert error.endswith(f"       wait for it, or: assay {arguments[0]} --wait 600\n")


def test_a_rollback_of_one_source_holds_back_no_rows_of_another() -> None:
    def source(name: str) -> Any:
        return SimpleNamespace(name=name)

    moved, other = source("moved"), source("other")
    declared: Any = {f"gold.{s.name}": SimpleNamespace(source=s, name=s.name) for s in (moved, other)}
    # The other one was rolled back before, and has got newer rows since, which wait for a run to publish them.
    last = {
        "gold.moved": ReleasedTable(2, 1, "2", "d", None),
        "gold.other": ReleasedTable(1, 1, "1", "d", "2"),
    }
    wanted = {"gold.moved": ReleasedTable(1, 1, "1", "d", None), "gold.other": last["gold.other"]}
    states = {f"gold/{s.name}/{s.name}": TableState("", 2, row_count=1, checksum="3") for s in (moved, other)}
    run: Any = SimpleNamespace(ledger=SimpleNamespace(table_states=lambda: states))
    assert releases._withheld(run, declared, last, wanted, [moved]) == {"gold.moved": "3"}
