"""Raw tables: what is declared otherwise since, files that go or change while they are read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.engine.batches import FileEvent, History
from jobs.engine.context import Run
from jobs.engine.delta import Lakehouse
from jobs.engine.errors import ConfigurationError
from jobs.engine.ledger import RowAccount
from jobs.engine.sources import Source, load_sources
from jobs.layers import arrivals, bronze, histories, scopes
from scripts.proof.world import entry
from tests.jobs.layers.examples import event
from tests.jobs.test_planning import plan_then_run
from tests.lab import Lab, with_gold

CUSTOMERS = "Customer_Id,Occupation,Type\n1,Teacher,Retail\n"
EVENTS = "Customers,Interaction,Date Start\n1,Email,04/10/2019 09:00\n"


def test_rows_of_raw_tables_that_are_declared_otherwise_now_are_not_lost() -> None:
    def source(**raw: str) -> Source:
        tables = {f"{name}_rows": {"raw": name, "key": ["id"]} for name in raw}
        declared = {name: {"landing": landing, "format": "lines"} for name, landing in raw.items()}
        return Source.model_validate({"name": "orders", "raw": declared, "tables": tables})

    def check(declared: Source, *events: FileEvent) -> None:
        ledger = SimpleNamespace(
            history=lambda _: History(events), accounted_batches=lambda *_: {"orders": {e.batch_id for e in events}}
        )
        run: Any = SimpleNamespace(ledger=ledger)
        bronze.check(run, declared)

    alone = event("orders/1.csv", 1, "sha")  # of when there was one raw table
    for renamed in (source(order_lines="orders/*.csv"), source(order_lines="orders/*.csv", clients="clients/*.csv")):
        with pytest.raises(
            ConfigurationError, match="raw table 'orders' is not declared any more, and bronze has rows"
        ):
            check(renamed, alone)
    for clients, names in (("clients/*.csv", "none"), ("orders/?.csv", "clients")):
        moved = source(orders="orders/orders_*.csv", clients=clients)
        with pytest.raises(ConfigurationError, match=f"read for 'orders', .* is a file of {names} by the present"):
            check(moved, alone)
    check(source(orders="any/*.csv"), alone)
    for clients, is_read_anew in (("clients/*.csv", False), ("orders/?.csv", True)):
        several = source(orders="orders/*.csv", clients=clients)
        check(several, alone)
        assert arrivals._is_as_it_was_read(several, alone) != is_read_anew

    # An event that names its raw table keeps it; by a pattern that was mended, the file is read anew for another one.
    named = event("orders/clients_1.csv", 2, "orders:sha")
    narrowed = source(orders="orders/orders_*.csv", clients="orders/clients_*.csv")
    check(narrowed, named)
    assert not arrivals._is_as_it_was_read(narrowed, named)
    assert arrivals._is_as_it_was_read(source(orders="orders/*.csv", clients="clients/*.csv"), named)
    assert arrivals._is_as_it_was_read(source(orders="else/*.csv", clients="clients/*.csv"), named)
    assert arrivals._is_as_it_was_read(source(orders="orders/*.csv"), alone)
    history = History([named, event("orders/clients_1.csv", 3, "clients:sha")])
    assert scopes.next_scope(narrowed, "orders_rows", history, 2, 3) == scopes.Scope(
        0, 3, True, frozenset({(2, "orders/clients_1.csv")})
    )


def test_a_source_whose_first_file_is_set_aside_while_it_is_read_has_empty_tables(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also an empty quarantine, which the balances of credits are computed from, too."""
    file = lab.land("credits/a.csv", "org_id,user_id,credit_type,action,credits,timestamp\no,u,api_call,add,1,\n")
    append = bronze._append_to

    def change(*arguments: Any) -> Any:
        files = append(*arguments)
        lab.land("credits/a.csv", file.read_text() + "o,u,api_call,add,2,\n")
        return files

    with monkeypatch.context() as patch:
        patch.setattr(bronze, "_append_to", change)
        assert lab.run("credits").set_aside == [f"credits/a.csv: {arrivals.CHANGED_MEANWHILE}"]
    assert lab.query("SELECT count(*) FROM gold.org_credit_balances") == [(0,)]
    lab.run("credits")
    assert lab.query("SELECT credit_balance FROM gold.org_credit_balances") == [(3,)]


def test_a_batch_that_is_accounted_for_is_not_read_again(lab: Lab) -> None:
    """Not for a raw table that is called otherwise since, or was added, whose rows a file of the batch may have."""
    interactions = load_sources(["interactions"])[0]
    renamed = Source.model_construct(**{**vars(interactions), "raw": {"clients": interactions.raw["customers"]}})
    run, event = lab.start(), FileEvent("interactions/customers.csv", 1, 1, "customers:sha", "loaded", None, 1)
    run.ledger.record_plan("interactions", [event])
    assert bronze.unread_tables(run, renamed, [event], 1) == []
    run.ledger.record_accounts([RowAccount("interactions", "bronze", "customers", event.source_file, 3, 3, 0, 0, 0, 1)])
    report = bronze.BronzeReport()
    bronze._load(run, renamed, 1, report)
    assert (report, histories.finished_batch(run, renamed)) == (bronze.BronzeReport(), 1)


def test_a_file_that_is_archived_once_it_is_in_bronze_counts_as_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    members, append = with_gold("members", "member"), Lakehouse.append_once

    def archiving(lake: Lakehouse, frame: Any, table: str, *number: Any) -> bool:
        is_written = append(lake, frame, table, *number)
        if table.startswith("bronze/"):
            (lab.landing / "members/a.log").unlink()
        return is_written

    lab.land("members/a.log", entry("a" * 16, 40))
    with monkeypatch.context() as patch:
        patch.setattr(Lakehouse, "append_once", archiving)
        summary = lab.run(members, until="silver")
    assert (summary.set_aside, summary.sources[0].written) == ([], 1)
    assert lab.account("silver") == {"members/a.log": (1, 1, 0, 0, 0)}


def two_raw_tables(lab: Lab) -> tuple[Source, Path]:
    """A source of two raw tables with a file for each; and the one that is read first."""
    customers = lab.land("interactions/customers.csv", CUSTOMERS)
    lab.land("interactions/interactions.csv", EVENTS)
    return with_gold("interactions", "customer_channel_interactions"), customers


def test_a_table_of_which_all_files_were_set_aside_while_they_were_read_has_no_rows(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    (interactions, still_written), append = two_raw_tables(lab), bronze._append_to

    def written_on(run: Run, source: Source, raw: str, *rest: Any) -> list[FileEvent]:
        files = append(run, source, raw, *rest)
        if raw == "customers":
            still_written.write_text(CUSTOMERS + "2,Nurse,Retail\n")
        return files

    with monkeypatch.context() as patch:
        patch.setattr(bronze, "_append_to", written_on)
        first = lab.run(interactions)
    assert [text.partition(":")[0] for text in first.set_aside] == ["interactions/customers.csv"]
    assert first.release_id == 1
    assert lab.table("silver/interactions/customer_records").count() == 0
    assert lab.table("silver/interactions/interaction_records").count() == 1
    lab.run(interactions)
    assert lab.table("silver/interactions/customer_records").count() == 2


def test_a_file_that_is_taken_away_once_it_was_read_counts_though_others_of_its_batch_are_to_be_read(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    (interactions, customers), append = two_raw_tables(lab), bronze._append_to

    def crash(run: Run, source: Source, raw: str, *rest: Any) -> list[FileEvent]:
        if raw == "interactions":
            raise KeyboardInterrupt
        return append(run, source, raw, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(bronze, "_append_to", crash)
        with pytest.raises(KeyboardInterrupt):
            lab.run(interactions, until="bronze")
    customers.unlink()
    plan = plan_then_run(lab, interactions)
    assert plan.sources[0].unfinished is not None
    assert not plan.sources[0].unfinished.set_aside
    assert lab.account("silver") == {
        "interactions/customers.csv": (1, 1, 0, 0, 0),
        "interactions/interactions.csv": (1, 1, 0, 0, 0),
    }
