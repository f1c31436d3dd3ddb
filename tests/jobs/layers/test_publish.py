"""Which sources a release leaves as they are, and what it tells of earlier runs."""

from jobs.engine.ledger import TableState
from jobs.engine.postgres import ReleasedTable
from jobs.engine.publication import Publication
from jobs.engine.sources import PublishedTable
from jobs.layers import publish
from scripts.proof.world import entry
from tests.lab import Lab, with_gold


def test_a_rollback_is_held_although_a_table_was_added_to_the_source_since() -> None:
    def item(name: str, checksum: str) -> Publication:
        declared = PublishedTable(description="d", columns={"id": "c"}, primary_key=["id"])
        return Publication(
            name, declared, TableState(f"gold/s/{name}", 1, row_count=1, checksum=checksum), {"id": "bigint"}
        )

    last = {
        "gold.moved": ReleasedTable(0, 1, "old", "d", "new"),
        "gold.same": ReleasedTable(0, 1, "same", "d", None),
    }
    items = [item("moved", "new"), item("same", "same")]
    assert publish.is_held_back(items, last)
    assert publish.is_held_back([*items, item("added", "any")], last)
    assert not publish.is_held_back([item("moved", "newer"), *items[1:]], last)
    assert not publish.is_held_back(items[1:], last)


def test_what_a_run_set_aside_that_published_nothing_is_told_by_the_next(lab: Lab) -> None:
    members = with_gold("members", "member")
    lab.land("members/a.log", entry("a" * 16, 40))
    lab.land("members/empty.log", "")
    lab.land("members/mended.log", "")
    lab.run(members, until="gold")
    lab.land("members/mended.log", entry("b" * 16, 40))
    told = ["members/empty.log: the file is empty (by an earlier run)"]
    assert lab.run(members).set_aside == told
    assert lab.run(members).set_aside == []
