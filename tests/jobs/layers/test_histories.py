"""What was decided about files, as the present declaration sees it."""

from dataclasses import replace

import pytest

from jobs.engine.batches import FileEvent, History
from jobs.engine.sources import Source, load_sources
from jobs.layers import arrivals, histories
from scripts.proof.world import entry
from tests.lab import Lab


def test_batches_that_bronze_did_not_account_for_are_not_finished(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    source = load_sources(["members"])[0]
    lab.land("members/a.log", entry("a" * 16, 40))
    lab.run(source, until="bronze")
    lab.land("members/b.log", entry("b" * 16, 41))
    with monkeypatch.context() as patch:
        patch.setattr("jobs.engine.ledger.Ledger.record_accounts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lab.run(source, until="bronze")
    run = lab.start()
    assert (run.ledger.history("members").newest_planned, histories.finished_batch(run, source)) == (2, 1)

    # A batch of files that were all set aside has no accounts, and is finished.
    lab.run(source, until="bronze")
    lab.land("members/c.log", "")
    lab.run(source, until="bronze")
    run = lab.start()
    assert (run.ledger.history("members").newest_planned, histories.finished_batch(run, source)) == (3, 3)
    assert lab.account("bronze") == {"members/a.log": (1, 1, 0, 0, 0), "members/b.log": (1, 1, 0, 0, 0)}


def test_a_file_is_of_the_raw_tables_that_it_was_read_for_whatever_is_declared_since() -> None:
    interactions = load_sources(["interactions"])[0]
    declared = interactions.model_dump(by_alias=True)
    declared["raw"]["customers"]["landing"] = "interactions/clients*.csv"
    changed = Source.model_validate(declared)

    def event(path: str, batch: int) -> FileEvent:
        return FileEvent(path, 1, batch, f"customers:sha {batch}", "loaded", None, batch)

    old, new = event("interactions/customers.csv", 1), event("interactions/clients.csv", 2)
    customers = histories.of_raw_table(History([old, new]), changed, "customers")
    assert (customers.live(), customers.dead()) == ({(2, new.source_file)}, {(1, old.source_file)})
    rejected = replace(old, content_hash=None, status="rejected")
    empty_workbook = replace(rejected, source_file="interactions/x.xlsx")
    assert all(arrivals._is_as_it_was_read(interactions, event) for event in (rejected, empty_workbook))
    assert [
        raw for raw in interactions.raw if histories.of_raw_table(History([rejected]), interactions, raw).batch(1)
    ] == ["customers"]
