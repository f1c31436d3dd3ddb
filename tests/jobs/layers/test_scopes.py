"""What a pass of silver takes."""

from dataclasses import replace
from typing import Any

from jobs.engine.batches import FileEvent, History, Request
from jobs.engine.sources import Source, load_sources
from jobs.layers import scopes
from tests.jobs.layers.examples import event


def test_a_batch_that_was_planned_and_not_read_takes_no_rows_out() -> None:
    read = [event("members/a.log", 1, "one"), event("members/b.log", 2, "two")]
    replaced = event("members/a.log", 3, "three")
    members, table = load_sources(["members"])[0], "member_entries"
    unread = scopes.next_scope(members, table, History([*read, replaced]), 1, 2)
    assert unread == scopes.Scope(1, 2, False, frozenset())
    set_aside = scopes.next_scope(members, table, History([*read, replace(replaced, status="rejected")]), 1, 3)
    assert set_aside == scopes.Scope(1, 3, False, frozenset({(3, "members/a.log")}))
    rebuilt = scopes.next_scope(members, table, History([*read, replaced]), 2, 3)
    assert rebuilt == scopes.Scope(0, 3, True, frozenset({(1, "members/a.log")}))

    # Rebuilt by a pass that a crash cut short, and then restored: quarantine has lost what the table still has.
    restored = event("members/a.log", 4, "one", "known")
    ahead = scopes.next_scope(members, table, History([*read, replaced, restored]), 2, 4, quarantined=3)
    assert ahead == scopes.Scope(0, 4, True, frozenset({(3, "members/a.log")}))
    even = scopes.next_scope(members, table, History([*read, replaced, restored]), 2, 4, quarantined=2)
    assert even == scopes.Scope(2, 4, False, frozenset({(3, "members/a.log")}))
    # The same of what a request is about, which nothing has read yet.
    asked = Request(3, "backfill", (2,))
    taken_out = [event("members/b.log", 4, "three"), event("members/b.log", 5, "two", "known")]
    anew = scopes.next_scope(members, table, History([*read, *taken_out], [asked]), 1, 5, quarantined=2)
    assert anew == scopes.Scope(0, 2, True, frozenset({(4, "members/b.log")}))

    # A replay that a crash cut short may have let rows out of quarantine whose copies elsewhere count as duplicates.
    replayed = Request(3, "replay", (1,))
    for quarantined, is_anew in ((2, False), (3, True)):
        again = scopes.next_scope(members, table, History(read, [replayed]), 2, 2, quarantined=quarantined)
        assert again == scopes.Scope(0, 3, is_anew, frozenset(), replayed)

    # One that was set aside while it was read has rows in bronze, which are to be accounted for before a request.
    changed = replace(event("members/c.log", 3, "four"), status="rejected")
    asked = Request(4, "replay", (1, 2))
    first = scopes.next_scope(members, table, History([*read, changed], [asked]), 2, 3)
    assert first == scopes.Scope(2, 3, False, frozenset({(3, "members/c.log")}))
    then = scopes.next_scope(members, table, History([*read, changed], [asked]), 3, 3)
    assert then == scopes.Scope(0, 4, False, frozenset({(3, "members/c.log")}), asked)


def test_what_was_replaced_since_a_request_is_taken_out_under_a_number_by_which_that_can_be_undone() -> None:
    members, table = load_sources(["members"])[0], "member_entries"
    asked = Request(3, "backfill", (1, 2))
    read = [event("members/a.log", 1, "one"), event("members/b.log", 2, "two")]
    decided = [*read, event("members/a.log", 4, "four")]
    for done in (0, 1, 2):  # also where rows that are taken out had failed the run, and will not any more
        first = scopes.next_scope(members, table, History(decided, [asked]), done, 4)
        assert first == scopes.Scope(0, 4, True, frozenset({(1, "members/a.log")}))
    restored = [*decided, event("members/a.log", 5, "one", "known")]
    assert scopes.next_scope(members, table, History(restored, [asked]), 4, 5) == scopes.Scope(
        0, 5, True, frozenset({(4, "members/a.log")})
    )
    # As long as it is planned alone, or is no change to what the request is about, the request comes first.
    for history in (History(decided, [asked]), History([*read, event("members/c.log", 4, "four")], [asked])):
        finished = 2 if history.newest_versions()["members/a.log"].batch_id == 4 else 4
        first = scopes.next_scope(members, table, history, 2, finished)
        assert first == scopes.Scope(0, 3, False, frozenset(), asked)


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
    anew, added = scopes.Scope(0, 2, True, frozenset()), scopes.Scope(1, 2, False, frozenset())
    for declared, history, wanted in (
        (unique, more_orders, anew),
        (unique, more_clients, None),
        (referring, more_orders, added),
        (referring, more_clients, anew),
        (referring, other_clients, anew),
    ):
        assert scopes.next_scope(declared, "orders_rows", history, 1, 2) == wanted
    assert scopes.next_scope(referring, "orders_rows", more_clients, 2, 2) is None
    # A pass that was cut short has judged by clients that were taken back since.
    there_and_back = [
        replace(of("clients", batch), content_hash=f"clients:sha {batch - 2}", status="known") for batch in (3, 4)
    ]
    history = History([*first, of("clients", 2), *there_and_back])
    for quarantined, wanted in ((2, None), (3, scopes.Scope(0, 4, True, frozenset()))):
        assert scopes.next_scope(referring, "orders_rows", history, 2, 4, quarantined) == wanted
    request = Request(3, "replay", (1,))
    answered = scopes.next_scope(referring, "orders_rows", more_clients.asked(request), 2, 2)
    assert answered == scopes.Scope(0, 3, True, frozenset(), request)


def test_with_other_settings_a_table_is_made_anew_with_what_is_new() -> None:
    """Not after that: perhaps the key has a column that the rows there do not have."""
    members = load_sources(["members"])[0]
    table = next(iter(members.parsed_tables))
    request = Request(3, "settings", (1, 2))
    decided = History([event("members/a.log", 1, "a"), event("members/b.log", 2, "b")], [request])
    scope = scopes.next_scope(members, table, decided, done=1, finished=2)
    assert scope == scopes.Scope(0, 3, True, frozenset(), request)
    assert scopes.next_scope(members, table, decided, done=3, finished=2) is None
