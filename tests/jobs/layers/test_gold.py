"""Gold over silver that was made anew, or is half made."""

import shutil

import pytest

from jobs.engine.errors import AssayError
from jobs.engine.sources import Source
from jobs.layers import run as run_job
from scripts.proof.world import entry
from tests.lab import Lab, forget_tables, with_gold
from tests.test_end_to_end import lines


def test_gold_is_computed_anew_where_a_table_that_it_comes_from_was_though_its_version_has_the_same_number(
    lab: Lab,
) -> None:
    members = with_gold("members", "member")
    for name, member in (("a", "a" * 16), ("b", "b" * 16)):
        lab.land(f"members/{name}.log", entry(member, 40))
        lab.run(members, until="gold")
        assert lab.lake.version("silver/members/member_entries") == 0
        shutil.rmtree(lab.lake.path("silver/members/member_entries"))  # as where it is damaged
        forget_tables(lab.lake.spark)
    assert lab.table("gold/members/member").count() == 2


def test_gold_is_not_computed_from_silver_that_is_half_made(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    contacts = with_gold("contacts", "contacts")
    lab.land("contacts/a.jsonl", lines(1))
    lab.run(contacts, until="silver")
    lab.land("contacts/b.jsonl", lines(2))
    with monkeypatch.context() as patch:  # killed between the table that is parsed and those derived from it
        patch.setattr(run_job.gold, "refine_derived_silver", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lab.run(contacts, until="silver")
    refused = r"silver.contacts.\w+ is not computed from the newest rows, by the present code, yet"
    with pytest.raises(AssayError, match=refused):
        lab.run(contacts, first="gold", until="gold")
    lab.run(contacts, until="gold")
    assert lab.table("gold/contacts/contacts").count() == 2
    with monkeypatch.context() as patch:  # new code, whose derived tables silver has not made yet
        patch.setattr(Source, "logic", lambda _: "other code")
        with pytest.raises(AssayError, match=refused):
            lab.run(contacts, first="gold", until="gold")
