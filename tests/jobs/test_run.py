"""A run of several sources: one that fails lets the others be refined, and nothing is published."""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyspark.sql import SparkSession

from jobs import bronze, checks, gold, publish, releases, replay, silver
from jobs import run as run_job
from jobs.engine.batches import FileEvent, History, Request, Status, plan
from jobs.engine.context import Run
from jobs.engine.delta import LOG_RETENTION, Lakehouse
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.landing import LandingFile, is_there
from jobs.engine.ledger import Ledger, RowAccount, TableState
from jobs.engine.local_rows import local_rows
from jobs.engine.postgres import ReleasedTable
from jobs.engine.publication import Publication
from jobs.engine.session import FOR_FEW_ROWS, PROJECT, session_settings
from jobs.engine.sources import PublishedTable, RawTable, Source, load_sources
from jobs.planning import plan_sources
from scripts.proof.world import entry, first_delivery, relaxed
from tests.jobs.test_planning import crashed, plan_then_run
from tests.lab import Lab, forget_tables, with_gold
from tests.test_end_to_end import BASE, line, lines


def event(path: str, batch: int, content: str, status: Status = "loaded") -> FileEvent:
    return FileEvent(path, 1, batch, content, status, None, batch)


def that_fails(source: Source) -> Source:
    """The source with a rule that nothing passes."""
    return with_rule(source, "false", "fail")


def with_rule(source: Source, expression: str, action: str) -> Source:
    """The source with one more rule for its first table."""
    table, declared = next(iter(source.tables.items()))
    one_more = {"name": "one_more", "expression": expression, "action": action, "reason": "as the test has it"}
    rules = [*declared.model_dump()["rules"], one_more]
    changed = type(declared).model_validate({**declared.model_dump(), "rules": rules})
    return source.model_copy(update={"tables": {**source.tables, table: changed}})


def test_a_source_that_fails_leaves_the_others_refined_and_nothing_published(lab: Lab) -> None:
    first_delivery(lab.landing)
    members, signups = with_gold("members", "member"), with_gold("signups", "users")
    with pytest.raises(AssayError, match="rule one_more"):
        lab.run(that_fails(members), signups)
    assert lab.table("silver/signups/signups").count() == 2
    assert not lab.lake.exists("silver/members/member_entries")
    assert lab.query("SELECT to_regclass('ops.releases')") == [(None,)]

    summary = lab.run(members, signups)
    assert [line.source for line in summary.sources] == ["members", "signups"]
    assert list(summary.seconds) == [
        "spark start", "members bronze", "members silver", "members gold",
        "signups bronze", "signups silver", "signups gold", "postgres publish",
    ]  # fmt: skip
    assert summary.release_id == 1
    assert lab.account("silver") == {"members/a.log": (4, 2, 1, 1, 0), "signups/a.csv": (3, 2, 1, 0, 0)}

    # No value of a row is in a log: Delta keeps least and greatest values there, of the engine's columns alone.
    logs = [file.read_text() for file in Path(lab.lake.root).glob("*/*/*/_delta_log/*.json")]
    actions = [json.loads(text) for log in logs for text in log.splitlines()]
    stats = [json.loads(action["add"]["stats"]) for action in actions if action.get("add", {}).get("stats")]
    columns = {name for found in stats for name in found.get("minValues", {})}
    assert columns == {"_batch_id", "_source_file", "_row_hash", "_ingested_at"}
    assert [text for text in logs if "Ann" in text or "junk" in text] == []
    # Rows are staged on their way, and stay nowhere else than in tables.
    assert [file for file in Path(lab.lake.path("ops/scratch")).rglob("*") if file.is_file()] == []
    # A release's versions can be found for long, also if maintenance never comes.
    assert lab.lake.table_property("gold/members/member", LOG_RETENTION) == "interval 730 days"


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


def test_rows_that_are_in_no_table_fail_a_run_that_changes_no_gold_table_too(lab: Lab) -> None:
    members = with_gold("members", "member")
    lab.land("members/a.log", entry("a" * 16, 40) + "junk\n")
    lab.run(members)
    shutil.rmtree(lab.lake.path("quarantine/members/member_entries"))
    forget_tables(lab.lake.spark)
    for _ in range(2):
        with pytest.raises(AssayError, match=r"quarantine.members.member_entries is not there any longer, and 1 "):
            lab.run(members)
    lab.land("members/b.log", entry("b" * 16, 41) + "more junk\n")
    with pytest.raises(AssayError, match=r"member_entries does not balance .*1 said to be quarantined and 0 in "):
        lab.run(members)  # there is a quarantine again, with the new row alone
    run = lab.start()
    assert replay.ask_backfill(run, members, run.started_at.date(), run.started_at.date())
    assert run_job.run_sources(run, [members], "bronze", "publish").release_id == 2
    assert lab.table("quarantine/members/member_entries").count() == 2

    # Nor can bronze be refined anew that lacks rows: silver would lose them, too.
    lab.table("bronze/members/members").limit(0).write.format("delta").mode("overwrite").save(
        lab.lake.path("bronze/members/members")
    )
    run = lab.start()
    with pytest.raises(AssayError, match=r"bronze.members.members does not balance") as refused:
        replay.ask_backfill(run, members, run.started_at.date(), run.started_at.date())
    assert "restore it; or refine what is in the landing folder into another lakehouse" in str(refused.value)


def test_files_of_one_source_that_cannot_be_written_keep_none_of_another_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write(_: object, source: Source, shown: str, release_id: int) -> list[str]:
        if source.name != "members":
            raise AssayError(f"release {release_id}: {source.name} {shown}", "mend the folder")
        return [f"{source.name} {shown}"]

    monkeypatch.setattr(publish, "_write_files", write)
    sources, shown = load_sources(["contacts", "credits", "members"]), {"contacts": "1", "credits": "2", "members": "3"}
    assert publish.write_files(cast("Any", None), sources[2:], cast("Any", shown), 7) == ["members 3"]
    with pytest.raises(AssayError) as unwritten:
        publish.write_files(cast("Any", None), sources, cast("Any", shown), 7)
    assert (unwritten.value.message, unwritten.value.hint) == (
        "release 7: contacts 1\nrelease 7: credits 2",
        "mend the folder",
    )


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


def test_rules_are_checked_before_any_data_is_read_unless_the_same_ones_have_made_the_tables(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    monkeypatch.setattr(run_job.silver, "check", lambda _, source: checked.append(source.name))
    lab.land("members/a.log", entry("a" * 16, 40))
    members = with_gold("members", "member")
    lab.run(members, until="silver")
    lab.run(members, until="gold")
    assert checked == ["members", "members"]
    lab.run(members, until="gold")
    assert checked == ["members", "members"]
    monkeypatch.setattr(Source, "logic", lambda _: "other code")
    lab.run(members, until="bronze")
    assert checked == ["members"] * 3


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
    assert (run.ledger.history("members").newest_planned, run_job.bronze.finished_batch(run, source)) == (2, 1)

    # A batch of files that were all set aside has no accounts, and is finished.
    lab.run(source, until="bronze")
    lab.land("members/c.log", "")
    lab.run(source, until="bronze")
    run = lab.start()
    assert (run.ledger.history("members").newest_planned, run_job.bronze.finished_batch(run, source)) == (3, 3)
    assert lab.account("bronze") == {"members/a.log": (1, 1, 0, 0, 0), "members/b.log": (1, 1, 0, 0, 0)}


def test_a_batch_that_was_planned_and_not_read_takes_no_rows_out() -> None:
    read = [event("members/a.log", 1, "one"), event("members/b.log", 2, "two")]
    replaced = event("members/a.log", 3, "three")
    members, table = load_sources(["members"])[0], "member_entries"
    unread = silver.next_scope(members, table, History([*read, replaced]), 1, 2)
    assert unread == silver.Scope(1, 2, False, frozenset())
    set_aside = silver.next_scope(members, table, History([*read, replace(replaced, status="rejected")]), 1, 3)
    assert set_aside == silver.Scope(1, 3, False, frozenset({(3, "members/a.log")}))
    rebuilt = silver.next_scope(members, table, History([*read, replaced]), 2, 3)
    assert rebuilt == silver.Scope(0, 3, True, frozenset({(1, "members/a.log")}))

    # Rebuilt by a pass that a crash cut short, and then restored: quarantine has lost what the table still has.
    restored = event("members/a.log", 4, "one", "known")
    ahead = silver.next_scope(members, table, History([*read, replaced, restored]), 2, 4, quarantined=3)
    assert ahead == silver.Scope(0, 4, True, frozenset({(3, "members/a.log")}))
    even = silver.next_scope(members, table, History([*read, replaced, restored]), 2, 4, quarantined=2)
    assert even == silver.Scope(2, 4, False, frozenset({(3, "members/a.log")}))
    # The same of what a request is about, which nothing has read yet.
    asked = Request(3, "backfill", (2,))
    taken_out = [event("members/b.log", 4, "three"), event("members/b.log", 5, "two", "known")]
    anew = silver.next_scope(members, table, History([*read, *taken_out], [asked]), 1, 5, quarantined=2)
    assert anew == silver.Scope(0, 2, True, frozenset({(4, "members/b.log")}))

    # A replay that a crash cut short may have let rows out of quarantine whose copies elsewhere count as duplicates.
    replayed = Request(3, "replay", (1,))
    for quarantined, is_anew in ((2, False), (3, True)):
        again = silver.next_scope(members, table, History(read, [replayed]), 2, 2, quarantined=quarantined)
        assert again == silver.Scope(0, 3, is_anew, frozenset(), replayed)

    # One that was set aside while it was read has rows in bronze, which are to be accounted for before a request.
    changed = replace(event("members/c.log", 3, "four"), status="rejected")
    asked = Request(4, "replay", (1, 2))
    first = silver.next_scope(members, table, History([*read, changed], [asked]), 2, 3)
    assert first == silver.Scope(2, 3, False, frozenset({(3, "members/c.log")}))
    then = silver.next_scope(members, table, History([*read, changed], [asked]), 3, 3)
    assert then == silver.Scope(0, 4, False, frozenset({(3, "members/c.log")}), asked)


def test_what_was_replaced_since_a_request_is_taken_out_under_a_number_by_which_that_can_be_undone() -> None:
    members, table = load_sources(["members"])[0], "member_entries"
    asked = Request(3, "backfill", (1, 2))
    read = [event("members/a.log", 1, "one"), event("members/b.log", 2, "two")]
    decided = [*read, event("members/a.log", 4, "four")]
    for done in (0, 1, 2):  # also where rows that are taken out had failed the run, and will not any more
        first = silver.next_scope(members, table, History(decided, [asked]), done, 4)
        assert first == silver.Scope(0, 4, True, frozenset({(1, "members/a.log")}))
    restored = [*decided, event("members/a.log", 5, "one", "known")]
    assert silver.next_scope(members, table, History(restored, [asked]), 4, 5) == silver.Scope(
        0, 5, True, frozenset({(4, "members/a.log")})
    )
    # As long as it is planned alone, or is no change to what the request is about, the request comes first.
    for history in (History(decided, [asked]), History([*read, event("members/c.log", 4, "four")], [asked])):
        finished = 2 if history.newest_versions()["members/a.log"].batch_id == 4 else 4
        first = silver.next_scope(members, table, history, 2, finished)
        assert first == silver.Scope(0, 3, False, frozenset(), asked)


def test_a_file_is_of_the_raw_tables_that_it_was_read_for_whatever_is_declared_since() -> None:
    interactions = load_sources(["interactions"])[0]
    declared = interactions.model_dump(by_alias=True)
    declared["raw"]["customers"]["landing"] = "interactions/clients*.csv"
    changed = Source.model_validate(declared)

    def event(path: str, batch: int) -> FileEvent:
        return FileEvent(path, 1, batch, f"customers:sha {batch}", "loaded", None, batch)

    old, new = event("interactions/customers.csv", 1), event("interactions/clients.csv", 2)
    customers = bronze.of_raw_table(History([old, new]), changed, "customers")
    assert (customers.live(), customers.dead()) == ({(2, new.source_file)}, {(1, old.source_file)})
    rejected = replace(old, content_hash=None, status="rejected")
    empty_workbook = replace(rejected, source_file="interactions/x.xlsx")
    assert all(bronze._is_as_it_was_read(interactions, event) for event in (rejected, empty_workbook))
    assert [
        raw for raw in interactions.raw if bronze.of_raw_table(History([rejected]), interactions, raw).batch(1)
    ] == ["customers"]


def test_a_content_is_the_same_before_and_after_another_raw_table_is_declared() -> None:
    """Else a file that was moved since would be read once more, and its former rows count beside corrected ones."""

    def source(*raw: str) -> Source:
        tables = {f"{name}_rows": {"raw": name, "key": ["id"]} for name in raw}
        declared = {name: {"landing": f"{name}/*.csv", "format": "lines"} for name in raw}
        return Source.model_validate({"name": "shop", "raw": declared, "tables": tables})

    def read(content_hash: str) -> History:
        return History([FileEvent("orders/a.csv", 1, 1, content_hash, "loaded", None, 1)])

    def moved(history: History, content_hash: str) -> FileEvent:
        listed = [LandingFile("orders/b.csv", 1, 1)]
        (found,) = plan(history, listed, lambda paths: dict.fromkeys(paths, content_hash))
        return found

    for before, now, raw in (("sha", "orders:sha", ("orders", "clients")), ("orders:sha", "sha", ("orders",))):
        declared = source(*raw)
        history = bronze._named_as_now(read(before), declared)
        found = moved(history, now)
        assert (found.status, found.moved_from, found.content_hash) == ("known", ["orders/a.csv"], now)
        orders = bronze.of_raw_table(read(before).followed_by([found]), declared, "orders")
        assert orders.live() == {(1, "orders/a.csv")}
        mended = replace(found, batch_id=3, status="loaded", content_hash=f"{now} 2", reason=None)
        assert bronze.of_raw_table(read(before).followed_by([found, mended]), declared, "orders").live() == {
            (3, "orders/b.csv")
        }
        listed = [LandingFile("orders/b.csv", 1, 1)]
        assert bronze.vanished(declared, history.followed_by([found]), listed) == []
        ledger = SimpleNamespace(history={"shop": read(before)}.get)
        decided = bronze.decisions(cast("Any", SimpleNamespace(ledger=ledger)), declared)
        assert decided.loaded()[0].content_hash == now
    assert bronze._named_as_now(plain := read("sha"), source("orders")) is plain


def test_rows_that_a_rule_holds_against_others_are_judged_anew_when_those_come_or_go() -> None:
    def source(rule: dict[str, Any]) -> Source:
        judged = {"name": "judged", "action": "quarantine", "reason": "against others", **rule}
        raw = {name: {"landing": f"{name}/*.csv", "format": "lines"} for name in ("clients", "orders")}
        tables = {f"{name}_rows": {"raw": name, "key": ["id"]} for name in raw}
        tables["orders_rows"]["rules"] = [judged]
        return Source.model_validate({"name": "shop", "raw": raw, "tables": tables})

    def of(table: str, batch: int, path: str = "1.csv") -> FileEvent:
        return event(f"{table}/{path}", batch, f"{table}:sha {batch}")

    first = [of("clients", 1), of("orders", 1)]
    referring, unique = source({"references": "clients_rows(id)"}), source({"unique": ["email"]})
    more_orders, more_clients = (
        History([*first, of("orders", 2, "2.csv")]),
        History([*first, of("clients", 2, "2.csv")]),
    )
    other_clients = History([*first, of("clients", 2)])
    anew, added = silver.Scope(0, 2, True, frozenset()), silver.Scope(1, 2, False, frozenset())
    for declared, history, wanted in (
        (unique, more_orders, anew),
        (unique, more_clients, None),
        (referring, more_orders, added),
        (referring, more_clients, anew),
        (referring, other_clients, anew),
    ):
        assert silver.next_scope(declared, "orders_rows", history, 1, 2) == wanted
    assert silver.next_scope(referring, "orders_rows", more_clients, 2, 2) is None
    # A pass that was cut short has judged by clients that were taken back since.
    there_and_back = [
        replace(of("clients", batch), content_hash=f"clients:sha {batch - 2}", status="known") for batch in (3, 4)
    ]
    history = History([*first, of("clients", 2), *there_and_back])
    for quarantined, wanted in ((2, None), (3, silver.Scope(0, 4, True, frozenset()))):
        assert silver.next_scope(referring, "orders_rows", history, 2, 4, quarantined) == wanted
    request = Request(3, "replay", (1,))
    answered = silver.next_scope(referring, "orders_rows", more_clients.asked(request), 2, 2)
    assert answered == silver.Scope(0, 3, True, frozenset(), request)


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
        assert bronze._is_as_it_was_read(several, alone) != is_read_anew

    # An event that names its raw table keeps it; by a pattern that was mended, the file is read anew for another one.
    named = event("orders/clients_1.csv", 2, "orders:sha")
    narrowed = source(orders="orders/orders_*.csv", clients="orders/clients_*.csv")
    check(narrowed, named)
    assert not bronze._is_as_it_was_read(narrowed, named)
    assert bronze._is_as_it_was_read(source(orders="orders/*.csv", clients="clients/*.csv"), named)
    assert bronze._is_as_it_was_read(source(orders="else/*.csv", clients="clients/*.csv"), named)
    assert bronze._is_as_it_was_read(source(orders="orders/*.csv"), alone)
    history = History([named, event("orders/clients_1.csv", 3, "clients:sha")])
    assert silver.next_scope(narrowed, "orders_rows", history, 2, 3) == silver.Scope(
        0, 3, True, frozenset({(2, "orders/clients_1.csv")})
    )


def test_what_is_not_called_as_declared_is_not_read_and_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.land("members/a.log", entry("a" * 16, 40))
    lab.land("members/a.log.bak", entry("a" * 16, 41))
    lab.land("members/2024/b.log", entry("b" * 16, 42))
    for name in (".received-1.part", ".received-2.part"):
        lab.land(f"members/{name}", entry("c" * 16, 43))
    members = load_sources(["members"])[0]
    (plan,) = (found := plan_sources(lab.start(), [members])).sources
    assert ([file.path for file in plan.read], plan.ignored) == (
        ["members/a.log"],
        ["members/2024/", "members/a.log.bak"],
    )
    assert "would not read   members/2024/, members/a.log.bak: not called as files of a source are" in found.as_text()
    says = "members: not read, as only members/*.log (also .gz, .bz2) are: members/2024/, members/a.log.bak"
    with (lab.landing / "members/.received-2.part").open() as written:  # by a service that is there
        fcntl.flock(written, fcntl.LOCK_EX)
        hidden, warned = lab.run(members, until="bronze").warnings[::-1]
    assert warned == says
    assert hidden.startswith(
        "members: files of received entries are hidden (1), and the service that wrote them has ended"
    )

    # One that was read under an earlier pattern counts on.
    wider = members.raw["members"].model_copy(update={"landing": "members/*"})
    earlier = members.model_copy(update={"raw": {"members": wider}})
    lab.run(earlier, until="bronze")
    says = "members: not read any longer, as only members/*.log (also .gz, .bz2) are, but their rows still count: "
    assert f"{says}members/a.log.bak" in lab.run(members, until="bronze").warnings

    # One that is another source's is none of those; whose they are cannot be told where a declaration is wrong.
    other = members.model_copy(update={"name": "other", "raw": {"other": RawTable(landing="*/*.bak", format="lines")}})
    monkeypatch.setattr(bronze, "load_sources", lambda: [members, other])
    assert bronze.ignored(lab.start(), members) == ["members/2024/"]

    def wrong() -> None:
        raise ConfigurationError("other.yaml: not valid YAML")

    monkeypatch.setattr(bronze, "load_sources", wrong)
    assert bronze.ignored(lab.start(), members) == []


def test_files_that_no_source_writes_any_longer_are_named(tmp_path: Path) -> None:
    """As tables are: of documents, people may ask that they are gone."""
    run: Any = SimpleNamespace(settings=SimpleNamespace(output=str(tmp_path)))
    assert publish._files_left(run, []) == []
    every = load_sources()
    (source,) = [source for source in every if source.documents]
    (document,) = source.documents.values()
    (export,) = next(source for source in every if source.exports).exports.values()
    for path in (
        f"exports/{export.file}", f"exports/.{export.file}.checksum", "exports/old.csv", "exports/.old.csv.checksum",
        "exports/.removed.csv.checksum", f"{document.folder}/{document.prefix}a.json",
        f"{document.folder}/.{document.prefix}documents", f"{document.folder}/old-a.json",
        f"{document.folder}/.old-documents", "others/x.json", "others/.documents",
    ):  # fmt: skip
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("")
    left = ["exports/old.csv", "others/*", f"{document.folder}/old-*"]
    assert publish._files_left(run, every) == publish._files_left(run, every[:1]) == left
    without = source.model_copy(update={"documents": {}})
    assert publish._files_left(run, [without]) == sorted([*left, f"{document.folder}/{document.prefix}*"])
    # Where the files that are written now begin as the others did, those are not meant.
    longer = document.model_copy(update={"prefix": f"{document.prefix}of-"})
    found = publish._files_left(run, [source.model_copy(update={"documents": {"d": longer}})])
    assert f"{document.folder}/{document.prefix}* (but for {document.folder}/{longer.prefix}*)" in found
    (tmp_path / f"{document.folder}/{document.prefix}a.json").rename(
        tmp_path / f"{document.folder}/{longer.prefix}a.json"
    )
    assert publish._files_left(run, [source.model_copy(update={"documents": {"d": longer}})]) == left
    run.settings.output = "s3a://bucket/out"
    assert publish._files_left(run, every) == []


def test_which_rows_stay_is_a_setting_that_rows_are_parsed_with_and_a_rule_is_none(lab: Lab) -> None:
    declared = load_sources(["credits"])[0].model_dump(by_alias=True)

    def fingerprint(table: Mapping[str, Any], raw: Mapping[str, Any] | None = None) -> str:
        other = deepcopy(declared)
        (name, parsed), (first, source_of_rows) = next(iter(other["tables"].items())), next(iter(other["raw"].items()))
        other["tables"][name], other["raw"][first] = {**parsed, **table}, {**source_of_rows, **(raw or {})}
        return silver._settings_of(lab.start(), Source.model_validate(other), name)

    now = fingerprint({})
    others = [
        {"key": ["event_id", "org_id"]},
        {"keep": "newest"},
        {"order_by": ["org_id"]},
        {"rebuild": "when_replaced"},
    ]
    found = [*map(fingerprint, others), fingerprint({}, {"full_extract": True})]
    assert len({now, *found}) == 6
    assert fingerprint({"rules": []}) == now


def test_what_an_earlier_assay_has_parsed_is_not_parsed_anew(lab: Lab) -> None:
    """It did not record which rows stay: an upgrade is no reason to judge all rows by today's code and rules."""
    credits, run = load_sources(["credits"])[0], lab.start()
    table = silver.silver_table(credits, next(iter(credits.parsed_tables)))
    named = silver._named_settings(run, credits, next(iter(credits.parsed_tables)))
    for recorded, is_otherwise in (
        (hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16] if named else "", False),
        ("of another time zone", True),
    ):
        run.ledger.record_table_states([TableState(table, logic=recorded)])
        assert [state.table_name for state in silver._parsed_otherwise(run, credits)] == [table]
        assert (not silver._is_as_once_recorded(run, credits, next(iter(credits.parsed_tables)))) == is_otherwise
    run.ledger.record_table_states(silver._parsed_otherwise(run, credits))
    assert silver._parsed_otherwise(run, credits) == []


def test_with_other_settings_a_table_is_made_anew_with_what_is_new() -> None:
    """Not after that: perhaps the key has a column that the rows there do not have."""
    members = load_sources(["members"])[0]
    table = next(iter(members.parsed_tables))
    request = Request(3, "settings", (1, 2))
    decided = History([event("members/a.log", 1, "a"), event("members/b.log", 2, "b")], [request])
    scope = silver.next_scope(members, table, decided, done=1, finished=2)
    assert scope == silver.Scope(0, 3, True, frozenset(), request)
    assert silver.next_scope(members, table, decided, done=3, finished=2) is None


def test_a_file_is_looked_for_also_by_patterns_of_before_where_it_is_not_there(lab: Lab) -> None:
    """Else one that is moved with its folder, as a source's pattern is changed, counts twice once it is corrected."""
    run, signups = lab.start(), load_sources(["signups"])[0]
    lab.land("old/there.csv", "")
    named_alone = lab.land("elsewhere/alone.csv", "").relative_to("/")
    found = {
        path: bronze._is_looked_for(run, signups, ["signups/*.csv"], path)
        for path in ("signups/a.csv", "old/there.csv", "old/gone.csv", str(named_alone))
    }
    assert list(found.values()) == [True, False, True, False]
    assert is_there(run.spark, f"file:{lab.landing}/old/there.csv")


def test_a_source_under_another_name_does_not_take_the_place_of_its_former_rows(lab: Lab) -> None:
    signups = with_gold("signups", "users")
    run, renamed = lab.start(), Source.model_validate({**signups.model_dump(by_alias=True), "name": "registrations"})
    run.ledger.record_table_states([TableState("gold/signups/users"), TableState("gold/signups/daily_user_counts")])
    check_name = partial(checks._verify_name, run)
    check_name(renamed)  # nothing is there
    lab.lake.append(local_rows(run.spark, [], "n INT"), "gold/signups/users")
    check_name(renamed)  # the source of that name is declared
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "source_names", lambda: {"registrations"})
        check_name(signups)
        with pytest.raises(ConfigurationError, match="users was published from the source 'signups'") as error:
            check_name(renamed)
        assert "remove the folder gold/signups/users" in str(error.value.hint)
        run.ledger.record_table_states([TableState("gold/registrations/users")])
        with pytest.raises(ConfigurationError, match="users was published from"):  # it was, and is gone since
            check_name(renamed)
        lab.lake.append(local_rows(run.spark, [], "n INT"), "gold/registrations/users")
        check_name(renamed)


def test_what_is_parsed_with_other_settings_is_asked_for_before_the_settings_are_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A crash in between must not leave rows of two time zones, of which nobody knows."""
    done = list[str]()
    ledger = SimpleNamespace(
        history=lambda _: History(),
        ask=lambda *_: done.append("ask"),
        record_table_states=lambda _: done.append("record"),
    )
    monkeypatch.setattr(silver, "_parsed_otherwise", lambda *_: [])
    monkeypatch.setattr(silver, "_all_anew", lambda *_: Request(2, "settings", (1,)))
    silver._see_to_settings(cast("Any", SimpleNamespace(ledger=ledger)), load_sources(["credits"])[0])
    assert done == ["ask", "record"]


def test_a_parsed_table_that_is_declared_since_has_no_rows_parsed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    source = load_sources(["interactions"])[0]
    table = next(iter(source.parsed_tables))
    state = TableState(silver.silver_table(source, table), logic="other")
    monkeypatch.setattr(silver, "_parsed_otherwise", lambda *_: [state])
    monkeypatch.setattr(silver, "_is_as_once_recorded", lambda *_: False)
    history, run = History([FileEvent("interactions/a.csv", 1, 1, "customers:sha", "loaded", None, 1)]), Any
    for done, expected in ((0, None), (1, Request(2, "settings", (1,)))):
        monkeypatch.setattr(silver, "done_through", lambda _run, _source, name, done=done: done if name == table else 9)
        assert silver.settings_request(run, source, history) == expected  # type: ignore[arg-type]


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
        assert lab.run("credits").set_aside == [f"credits/a.csv: {bronze.CHANGED_MEANWHILE}"]
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
    assert (report, bronze.finished_batch(run, renamed)) == (bronze.BronzeReport(), 1)


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


def test_a_table_that_a_rule_refers_to_is_an_input_of_the_derived_table_that_has_the_rule() -> None:
    declared = load_sources(["interactions"])[0].model_dump(by_alias=True)
    listed = {"name": "listed", "references": "customers(customer_id)", "action": "fail", "reason": "not listed"}
    declared["tables"]["interactions"]["rules"] = [listed]
    recipes = {recipe.table: recipe.inputs for recipe in gold.derived_silver(Source.model_validate(declared))}
    interactions, customers = "silver/interactions/interactions", "silver/interactions/customers"
    assert customers in recipes[interactions].values()
    waves = list(gold._waves({table: set(inputs.values()) for table, inputs in recipes.items()}))
    assert [number for number, wave in enumerate(waves) if customers in wave] < [
        number for number, wave in enumerate(waves) if interactions in wave
    ]


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


def test_a_second_interrupt_ends_the_threads_that_the_first_one_waits_for(tmp_path: Path) -> None:
    script = f"""
import os, signal, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from jobs.run import ended_by_a_second_interrupt
def work():
    time.sleep(0.5); os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5); os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5); Path({str(tmp_path / "went on")!r}).touch()
with ended_by_a_second_interrupt(), ThreadPoolExecutor() as pool:
    pool.submit(work).result()
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, timeout=60)
    assert ended.returncode == 130
    assert not (tmp_path / "went on").exists()


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

    def scope(_: object, __: object, table: str) -> silver.Scope | None:
        return silver.next_scope(interactions, table, decided, done[table], decided.newest_planned)

    monkeypatch.setattr(silver, "_scope", scope)

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


def test_a_mistake_in_another_sources_file_is_no_reason_to_fail_after_a_release(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signups = load_sources(["signups"])
    last = {name: ReleasedTable(0, 0, "0", "d", None) for name in ("restricted.users", "gold.member", "gold.old")}
    assert publish._left(last, signups) == ["gold.old"]

    def broken() -> list[Source]:
        raise ConfigurationError("conf/sources/credits.yaml, nonsense: no such setting")

    monkeypatch.setattr(publish, "load_sources", broken)
    assert publish._left(last, signups) == []


def test_a_file_from_the_future_is_warned_about_as_long_as_it_counts_where_the_newest_file_does() -> None:
    now = datetime.now(UTC)
    times = {"now": now, "soon": now + timedelta(hours=20), "far": datetime(2999, 1, 1, tzinfo=UTC)}
    milliseconds = {name: int(at.timestamp() * 1000) for name, at in times.items()}

    def warned(source: Source) -> list[str]:
        table = "customers" if source.name == "interactions" else source.name
        label = f"{table}:" if source.name == "interactions" else ""

        def of(name: str, at: int, batch: int, content: str, status: Status) -> FileEvent:
            return FileEvent(f"{source.name}/{table}_{name}.csv", 1, at, f"{label}{content}", status, None, batch)

        events = [of(name, at, 1, name, "loaded") for name, at in milliseconds.items()]
        events += [
            of("mended", milliseconds["far"], 1, "m", "loaded"),
            of("mended", milliseconds["now"], 2, "m", "known"),
        ]
        ledger = SimpleNamespace(history=lambda _: History(events))
        return run_job._from_the_future(cast("Any", SimpleNamespace(started_at=now, ledger=ledger)), source)

    found = {source.name: warned(source) for source in load_sources()}  # whichever run read them
    assert {name for name, warnings in found.items() if warnings} == {"interactions", "signups"}
    says = "signups: of a modification time to come, until which they count as newer than any other: "
    assert found["signups"][0].startswith(f"{says}signups/signups_far.csv: give")


def test_accounts_that_are_recorded_twice_count_once(lab: Lab) -> None:
    account = RowAccount("members", "bronze", "member_entries", "members/a.log", 3, 3, 0, 0, 0, 1)
    for _ in range(2):
        lab.start().ledger.record_accounts([account])
    ledger = lab.start().ledger
    assert ledger.all_accounts().count() == 2
    assert ledger.accounts_of("members", "bronze", "member_entries") == {account}
    assert ledger.is_accounted("members", "bronze", "member_entries", 1)
    assert not ledger.is_accounted("members", "bronze", "member_entries", 2)


def test_little_is_interpreted_and_the_sessions_settings_come_back(lab: Lab, spark: SparkSession) -> None:
    compiled = dict.fromkeys(FOR_FEW_ROWS, "true") | {
        "spark.sql.files.minPartitionNum": "2",
        "spark.sql.files.maxPartitionBytes": "64m",
        "spark.sql.shuffle.partitions": "4",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.codegen.factoryMode": "FALLBACK",
    }
    seen = []

    def looking(*_: object) -> None:
        seen.append({key: spark.conf.get(key) for key in FOR_FEW_ROWS})

    lab.land("members/a.log", entry("a" * 16, 40))
    with session_settings(spark, compiled), pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_job, "check", looking)
        lab.run("members", until="bronze")
        patch.setattr(run_job, "FEW_BYTES", 10)
        lab.run("members", until="bronze")
        assert {key: spark.conf.get(key) for key in FOR_FEW_ROWS} == compiled
    assert seen == [FOR_FEW_ROWS, compiled]


CUSTOMERS = "Customer_Id,Occupation,Type\n1,Teacher,Retail\n"
EVENTS = "Customers,Interaction,Date Start\n1,Email,04/10/2019 09:00\n"


def test_a_table_of_which_all_files_were_set_aside_while_they_were_read_has_no_rows(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    interactions = with_gold("interactions", "customer_channel_interactions")
    still_written = lab.land("interactions/customers.csv", CUSTOMERS)
    lab.land("interactions/interactions.csv", EVENTS)
    append = bronze._append_to

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
    interactions = with_gold("interactions", "customer_channel_interactions")
    customers = lab.land("interactions/customers.csv", CUSTOMERS)
    lab.land("interactions/interactions.csv", EVENTS)
    append = bronze._append_to

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
