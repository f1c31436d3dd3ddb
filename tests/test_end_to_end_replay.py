"""Quarantine and back: rows that pass the present rules move, the others stay, and the accounts balance throughout."""

import json
from datetime import date
from typing import Any

import pytest

from jobs import cli, replay
from jobs.engine.batches import FileEvent
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.ledger import RowAccount
from jobs.engine.sources import Source
from jobs.layers import scopes, silver
from scripts.proof.world import relaxed
from tests.lab import Lab, with_gold
from tests.test_end_to_end_members import ANN, BOB, entry

MEMBERS = "silver/members/member_entries"
HELD = "quarantine/members/member_entries"
NO_DATE = entry(ANN, on="soon")
NO_ID = entry("nobody")
NEITHER = entry("nobody", on="soon")


def renamed(source: Source, name: str) -> Source:
    """The source with a rule that is called otherwise."""
    content = source.model_dump(by_alias=True)
    for table in content["tables"].values():
        for rule in table["rules"]:
            rule["name"] = f"{name}_now" if rule["name"] == name else rule["name"]
    return Source.model_validate(content)


@pytest.fixture
def members() -> Source:
    return with_gold("members", "member")


def held(lab: Lab) -> dict[str, list[str]]:
    return {row["_raw"].strip(): [reason["rule"] for reason in row["reasons"]] for row in lab.table(HELD).collect()}


def ask(lab: Lab, source: Source, rule: str | None = None, batch: int | None = None) -> Any:
    return replay.ask_replay(lab.start(), source, rule, batch)


def test_what_passes_moves_what_fails_stays_twice_is_once_and_a_backfill_refines_batches_anew(
    lab: Lab, members: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transforms.members as module

    lab.land("members/a.log", entry(BOB) + NO_DATE + NO_ID + NEITHER)
    lab.run("members", until="silver")
    lab.land("members/b.log", entry(BOB, age=49) + NO_DATE.replace("sex=1", "sex=0"))
    lab.run("members", until="silver")
    assert lab.account("silver") == {"members/a.log": (4, 1, 3, 0, 0), "members/b.log": (2, 1, 1, 0, 0)}
    mended = relaxed(members, "created_at_readable")

    # The preview writes nothing.
    monkeypatch.setattr(cli, "load_sources", lambda _: [mended])
    shown = ("--rule", "created_at_readable", "--dry-run", "--json")
    code, asked, _ = lab.assay("replay", "--source", "members", *shown)
    assert (code, json.loads(asked)) == (0, {"source": "members", "rows": 3, "passing": 2, "rules": {"id_valid": 1}})
    assert lab.account("silver")["members/a.log"] == (4, 1, 3, 0, 0)

    # Of one batch only; then all of the rule. The row that breaks another rule, too, stays.
    assert ask(lab, mended, "created_at_readable", 2)
    lab.run(mended, first="silver", until="silver")
    assert lab.account("silver") == {"members/a.log": (4, 1, 3, 0, 0), "members/b.log": (2, 2, 0, 0, 0)}
    assert ask(lab, mended, "created_at_readable")
    assert lab.run(mended, first="silver").release_id == 1
    assert lab.account("silver") == {"members/a.log": (4, 2, 2, 0, 0), "members/b.log": (2, 2, 0, 0, 0)}
    assert held(lab) == {
        NO_ID.strip(): ["id_valid"],
        NEITHER.strip(): ["id_valid"],
    }
    assert lab.table(MEMBERS).count() == 4

    assert ask(lab, mended, "created_at_readable") is None
    assert ask(lab, mended)
    again = lab.run(mended, first="silver")
    assert again.release_id is None
    assert lab.account("silver") == {"members/a.log": (4, 2, 2, 0, 0), "members/b.log": (2, 2, 0, 0, 0)}

    # New files go on as ever.
    lab.land("members/c.log", entry(BOB, age=50))
    lab.run(mended)
    assert lab.query(f"SELECT age FROM gold.member WHERE id = '{BOB}'") == [(50,)]

    # All batches of some days with another parser: what was held back and what had moved stays where it is.
    parse = module.member_entries
    monkeypatch.setattr(module, "member_entries", lambda raw: parse(raw).withColumns({"age": _doubled()}))
    today = lab.start().started_at.date()
    assert replay.ask_backfill(lab.start(), mended, date(2020, 1, 1), date(2020, 12, 31)) is None
    assert lab.assay("run", "--source", "members", "--from", "2020-01-01", "--to", str(today))[0] == 0
    assert sorted(row["age"] for row in lab.table(MEMBERS).collect()) == [96, 96, 96, 98, 100]
    assert lab.query(f"SELECT age FROM gold.member WHERE id = '{BOB}'") == [(100,)]
    assert lab.account("silver") == {
        "members/a.log": (4, 2, 2, 0, 0),
        "members/b.log": (2, 2, 0, 0, 0),
        "members/c.log": (1, 1, 0, 0, 0),
    }


def test_a_replay_of_one_rule_moves_no_row_of_another_and_one_that_is_cut_short_is_finished_by_the_next_run(
    lab: Lab, members: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.land("members/a.log", entry(BOB) + NO_DATE + NO_ID)
    lab.run("members", until="silver")
    before = held(lab)
    # Rows of a rule that is called otherwise since are held for what they were, however often another is asked for.
    for _ in range(2):
        ask(lab, members, "created_at_readable")
        lab.run(renamed(members, "id_valid"), first="silver", until="silver")
        replay.check_rule(lab.start(), renamed(members, "id_valid"), "id_valid")
        with pytest.raises(ConfigurationError, match=r"no rule 'id' that holds .*\n *rules: .*id_valid, id_valid_now"):
            replay.check_rule(lab.start(), renamed(members, "id_valid"), "id")
        assert held(lab) == before == {NO_DATE.strip(): ["created_at_readable"], NO_ID.strip(): ["id_valid"]}
    mended = relaxed(members, "created_at_readable", "id_valid")
    # What is mended is taken back: rows that the replay had let out of quarantine are judged like all others. So are
    # those of other rules, as nothing tells what the replay that was cut short made of quarantine.
    for then, written in ((members, 1), (mended, 3)):
        ask(lab, mended, "created_at_readable")
        with monkeypatch.context() as patch:
            # Quarantine and accounts are written, the table is not.
            patch.setattr(silver, "_kept", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                lab.run(mended, first="silver", until="silver")
        assert list(held(lab).values()) == [["id_valid"]]
        lab.run(then, until="silver")
        assert lab.account("silver") == {"members/a.log": (3, written, 3 - written, 0, 0)}
        assert (lab.table(MEMBERS).count(), len(held(lab))) == (written, 3 - written)


def test_a_backfill_takes_the_batches_whose_duplicates_may_be_of_its_rows(
    lab: Lab, members: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = (run := lab.start()).ledger
    for batch in range(1, 6):
        path = f"members/{batch}.log"
        ledger.record_plan("members", [FileEvent(path, 1, batch, f"sha {batch}", "loaded", None, batch)])
        duplicates = int(batch != 5)
        ledger.record_accounts(
            [
                RowAccount("members", layer, table, path, 1, 1 - dropped, 0, dropped, 0, batch)
                for layer, table, dropped in (("bronze", "members", 0), ("silver", "member_entries", duplicates))
            ]
        )
    # Rows of batch 1 were judged anew when all others were there, so they may be duplicates of later ones.
    ledger.ask("members", "replay", [1])
    monkeypatch.setattr(type(ledger), "ingested_between", lambda *_: [3])
    # Of what silver has not read, nobody knows yet.
    for done, batches in ((6, (1, 3, 4)), (5, (1, 3, 4)), (4, (1, 3, 4, 5))):
        monkeypatch.setattr(scopes, "done_through", lambda *_, done=done: done)
        asked = replay.ask_backfill(run, members, date.today(), date.today())
        assert asked is not None
        assert asked.batches == batches
        if asked.batch_id > done:  # once more, as after a run that failed before it got there
            assert replay.ask_backfill(run, members, date.today(), date.today()) == asked


def test_a_row_that_passes_late_comes_before_its_later_copies(lab: Lab, members: Source) -> None:
    mended = relaxed(members, "created_at_readable")
    lab.land("members/a.log", entry(BOB) + NO_DATE)
    lab.run(members, until="silver")
    lab.land("members/b.log", NO_DATE + entry(BOB, age=49))
    lab.run(mended, until="silver")
    assert lab.account("silver") == {"members/a.log": (2, 1, 1, 0, 0), "members/b.log": (2, 2, 0, 0, 0)}
    ask(lab, mended)
    lab.run(mended, until="silver")
    assert lab.account("silver") == {"members/a.log": (2, 2, 0, 0, 0), "members/b.log": (2, 1, 0, 1, 0)}
    assert lab.table("silver/members/member_entries").where("created_at is null").first()["_batch_id"] == 1
    assert held(lab) == {}


def test_quarantine_of_passes_that_were_cut_short_one_after_the_other_is_made_anew(
    lab: Lab, members: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.land("members/a.log", entry(BOB) + NO_ID)
    lab.run("members", until="silver")
    ask(lab, members)
    for content in (None, entry(ANN) + NO_DATE):  # the replay; then that of the file that takes the place of the first
        if content:
            lab.land("members/a.log", content)
        with monkeypatch.context() as patch:
            patch.setattr(silver, "_kept", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                lab.run("members", until="silver")
    # What was replaced comes again under another name: no row that was read before the passes is out of date.
    lab.land("members/b.log", entry(BOB) + NO_ID)
    lab.run("members", until="silver")
    assert held(lab) == {NO_ID.strip(): ["id_valid"], NO_DATE.strip(): ["created_at_readable"]}
    assert (lab.table(MEMBERS).count(), lab.table(HELD).count()) == (2, 2)


def test_a_batch_that_was_never_finished_comes_first(
    lab: Lab, members: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.layers import bronze

    lab.land("members/a.log", entry(BOB) + NO_DATE)
    with monkeypatch.context() as patch:
        patch.setattr(bronze, "_append", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lab.run("members", until="silver")
    with pytest.raises(AssayError, match="batch 1 was planned and never finished"):
        ask(lab, members)
    assert lab.run("members", first="silver", until="silver").sources[0].written == 0
    lab.run("members", until="silver")
    assert lab.account("silver") == {"members/a.log": (2, 1, 1, 0, 0)}


def _doubled() -> Any:
    from pyspark.sql import functions as F

    return F.col("age") * 2
