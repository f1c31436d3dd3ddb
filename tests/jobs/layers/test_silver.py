"""Passes of silver: those that a crash cut short, tables that are half made, keys that changed, backfills."""

import json
import shutil
from dataclasses import replace
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import DataFrame

from jobs import replay
from jobs.engine.batches import FileEvent, History, Request
from jobs.engine.errors import AssayError
from jobs.engine.ledger import Ledger
from jobs.engine.sources import load_sources
from jobs.layers import scopes, silver
from scripts.proof.world import entry, relaxed, with_rule
from tests.jobs.layers.examples import event
from tests.jobs.test_planning import crashed
from tests.lab import Lab, forget_tables, with_gold
from tests.test_end_to_end import BASE, line, lines


def test_what_a_crash_left_in_quarantine_is_judged_by_the_rules_that_there_are_now(lab: Lab) -> None:
    strict = with_gold("contacts", "contacts")
    lax = relaxed(strict, "has_counselor")
    for name, minute, before, now in (("a", 1, strict, lax), ("b", 2, lax, strict)):
        lab.land(f"contacts/{name}.jsonl", lines(minute) + line(counselors="[]", call_rating=minute))
        crashed(lab, silver, "_news", before)  # quarantine is written by then, and neither accounts nor silver are
        lab.run(now)
    assert lab.account("silver") == {"contacts/a.jsonl": (2, 2, 0, 0, 0), "contacts/b.jsonl": (2, 1, 1, 0, 0)}
    assert lab.table("silver/contacts/contacts").count() == 3

    # A table that is removed, as for a column of another type, is made anew, and quarantine with it.
    shutil.rmtree(lab.lake.path("silver/contacts/contacts"))
    forget_tables(lab.lake.spark)
    lab.run(strict)
    assert lab.account("silver") == {"contacts/a.jsonl": (2, 1, 1, 0, 0), "contacts/b.jsonl": (2, 1, 1, 0, 0)}
    assert lab.table("quarantine/contacts/contacts").count() == 2
    assert lab.query("SELECT count(*) FROM gold.contacts") == [(2,)]


def test_of_rows_with_a_key_that_comes_up_again_nothing_is_shuffled_but_their_own(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, rank = list[int](), silver.rank

    def watched(valid: DataFrame, duplicates: DataFrame, *others: Any) -> DataFrame:
        # As Spark sees it when it decides what is sent to what: without a number, it would shuffle many rows.
        known.append(duplicates._jdf.queryExecution().withCachedData().stats().rowCount().get())
        return rank(valid, duplicates, *others)

    monkeypatch.setattr(silver, "rank", watched)
    once, again = entry("a" * 16, 40), entry("b" * 16, 41)
    lab.land("members/a.log", once + again + again)
    lab.run("members", until="silver")
    assert lab.account("silver") == {"members/a.log": (3, 2, 0, 1, 0)}
    assert known == [1]

    lab.land("members/b.log", entry("c" * 16, 42))
    lab.run("members", until="silver")
    assert (known, lab.account("silver")["members/b.log"]) == ([1], (1, 1, 0, 0, 0))


def test_a_key_with_a_column_that_the_rows_there_do_not_have_stops_the_run_and_says_what_to_do(lab: Lab) -> None:
    members = load_sources(["members"])[0]
    lab.land("members/a.log", entry("a" * 16, 40))
    lab.run(members, until="silver")
    table = members.tables["member_entries"]
    keyed = table.model_copy(update={"key": [*table.key, "new"]})
    refused = r"silver.members.member_entries does not have the column 'new', which is in its key now"
    with pytest.raises(AssayError, match=refused):
        silver._known(lab.start(), "silver/members/member_entries", keyed)
    assert silver._known(lab.start(), "silver/members/member_entries", table).count() == 1


def test_silver_is_half_made_where_a_table_has_read_or_answered_what_another_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interactions = load_sources(["interactions"])[0]
    decided = History([], [Request(3, "backfill", (1,))])
    run: Any = SimpleNamespace(
        lake=SimpleNamespace(exists=lambda _: True), ledger=SimpleNamespace(history=lambda _: decided)
    )
    done = dict(zip(interactions.parsed_tables, (2, 2, 1), strict=True))
    for asked in ("done_through", "quarantined_through"):
        monkeypatch.setattr(silver, asked, lambda _, __, table: done[table])

    def scope(_: object, __: object, table: str) -> scopes.Scope | None:
        return scopes.next_scope(interactions, table, decided, done[table], decided.newest_planned)

    monkeypatch.setattr(silver, "scope_of", scope)

    def is_half_made() -> bool:
        try:
            silver.verify_all_parsed(run, interactions)
        except AssayError as error:
            return "has not read what other tables of the source have" in error.message
        return False

    assert not is_half_made(), "no table has answered the request"
    first, second, third = done
    done[first] = 3
    assert is_half_made()

    # All are behind bronze, and not as far as each other.
    def came(table: str, batch: int) -> FileEvent:
        return event(f"interactions/{table}_{batch}.csv", batch, f"{table}:sha {batch}")

    raw = {table: interactions.parsed_tables[table] for table in done}
    decided = History([came(raw[table], batch) for table in (first, second) for batch in (7, 8)])
    for states, wanted in (
        ((7, 6, 0), True),
        ((7, 7, 0), False),
        ((6, 6, 0), False),
        ((8, 7, 0), True),
        ((8, 8, 0), False),
    ):
        done |= dict(zip((first, second, third), states, strict=True))
        assert is_half_made() is wanted, states

    # What was replaced, and put back before the table had read it, is nothing to do for it, and no reason to wait.
    def again(batch: int, of: int) -> FileEvent:
        return replace(came(raw[second], batch), source_file="interactions/a.csv", content_hash=f"{raw[second]}:{of}")

    there_and_back = [replace(again(batch, of), status="known") for batch, of in ((3, 1), (4, 2))]
    decided = History([came(raw[first], 3), again(1, 1), again(2, 2), *there_and_back])
    done |= dict(zip((first, second, third), (3, 2, 0), strict=True))
    assert not is_half_made()


def test_what_was_a_duplicate_of_a_row_that_a_backfill_holds_back_is_refined_anew_with_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = with_gold("contacts", "contacts")
    contacts = with_rule(before, "not contains(_raw, 'note')", "quarantine")
    lab.land("contacts/a.jsonl", json.dumps({**BASE, "note": "\udce9"}) + "\n")  # damaged where nothing is read
    lab.run(before, until="gold")
    lab.land("contacts/b.jsonl", json.dumps(BASE) + "\n")
    lab.run(before, until="gold")
    assert lab.account("silver")["contacts/b.jsonl"] == (1, 0, 0, 1, 0)
    monkeypatch.setattr(Ledger, "ingested_between", lambda *_: [1])
    asked = replay.ask_backfill(lab.start(), contacts, date.today(), date.today())
    assert asked is not None
    assert asked.batches == (1, 2)
    lab.run(contacts, until="gold")
    assert lab.account("silver") == {"contacts/a.jsonl": (1, 0, 1, 0, 0), "contacts/b.jsonl": (1, 1, 0, 0, 0)}
