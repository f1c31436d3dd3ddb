"""Settings that rows are parsed with, and what happens when they change."""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.engine.batches import FileEvent, History, Request
from jobs.engine.ledger import TableState
from jobs.engine.sources import Source, load_sources
from jobs.layers import parsing
from jobs.layers.tables import silver_table
from tests.lab import Lab


def test_which_rows_stay_is_a_setting_that_rows_are_parsed_with_and_a_rule_is_none(lab: Lab) -> None:
    declared = load_sources(["credits"])[0].model_dump(by_alias=True)

    def fingerprint(table: Mapping[str, Any], raw: Mapping[str, Any] | None = None) -> str:
        other = deepcopy(declared)
        (name, parsed), (first, source_of_rows) = next(iter(other["tables"].items())), next(iter(other["raw"].items()))
        other["tables"][name], other["raw"][first] = {**parsed, **table}, {**source_of_rows, **(raw or {})}
        return parsing._settings_of(lab.start(), Source.model_validate(other), name)

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
    table = silver_table(credits, next(iter(credits.parsed_tables)))
    named = parsing._named_settings(run, credits, next(iter(credits.parsed_tables)))
    for recorded, is_otherwise in (
        (hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16] if named else "", False),
        ("of another time zone", True),
    ):
        run.ledger.record_table_states([TableState(table, logic=recorded)])
        assert [state.table_name for state in parsing._parsed_otherwise(run, credits)] == [table]
        assert (not parsing._is_as_once_recorded(run, credits, next(iter(credits.parsed_tables)))) == is_otherwise
    run.ledger.record_table_states(parsing._parsed_otherwise(run, credits))
    assert parsing._parsed_otherwise(run, credits) == []


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
    monkeypatch.setattr(parsing, "_parsed_otherwise", lambda *_: [])
    monkeypatch.setattr(parsing, "_all_anew", lambda *_: Request(2, "settings", (1,)))
    parsing.see_to_settings(cast("Any", SimpleNamespace(ledger=ledger)), load_sources(["credits"])[0])
    assert done == ["ask", "record"]


def test_a_parsed_table_that_is_declared_since_has_no_rows_parsed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    source = load_sources(["interactions"])[0]
    table = next(iter(source.parsed_tables))
    state = TableState(silver_table(source, table), logic="other")
    monkeypatch.setattr(parsing, "_parsed_otherwise", lambda *_: [state])
    monkeypatch.setattr(parsing, "_is_as_once_recorded", lambda *_: False)
    history, run = History([FileEvent("interactions/a.csv", 1, 1, "customers:sha", "loaded", None, 1)]), Any
    for done, expected in ((0, None), (1, Request(2, "settings", (1,)))):
        monkeypatch.setattr(parsing, "done_through", lambda _, __, name, done=done: done if name == table else 9)
        assert parsing.settings_request(run, source, history) == expected  # type: ignore[arg-type]
