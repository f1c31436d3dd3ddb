"""What is declared is looked at before any data is read."""

from functools import partial

import pytest

from jobs.engine.errors import ConfigurationError
from jobs.engine.ledger import TableState
from jobs.engine.local_rows import local_rows
from jobs.engine.sources import Source
from jobs.layers import checks, shapes
from scripts.proof.world import entry
from tests.lab import Lab, with_gold


def test_rules_are_checked_before_any_data_is_read_unless_the_same_ones_have_made_the_tables(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    monkeypatch.setattr(shapes, "check", lambda _, source: checked.append(source.name))
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
