"""Which files are read, and which are new."""

import fcntl
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.engine.batches import FileEvent, History, plan
from jobs.engine.errors import ConfigurationError
from jobs.engine.landing import LandingFile, is_there
from jobs.engine.sources import RawTable, Source, load_sources
from jobs.layers import arrivals, histories
from jobs.planning import plan_sources
from scripts.proof.world import entry
from tests.lab import Lab


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
        history = histories._named_as_now(read(before), declared)
        found = moved(history, now)
        assert (found.status, found.moved_from, found.content_hash) == ("known", ["orders/a.csv"], now)
        orders = histories.of_raw_table(read(before).followed_by([found]), declared, "orders")
        assert orders.live() == {(1, "orders/a.csv")}
        mended = replace(found, batch_id=3, status="loaded", content_hash=f"{now} 2", reason=None)
        assert histories.of_raw_table(read(before).followed_by([found, mended]), declared, "orders").live() == {
            (3, "orders/b.csv")
        }
        listed = [LandingFile("orders/b.csv", 1, 1)]
        assert arrivals.vanished(declared, history.followed_by([found]), listed) == []
        ledger = SimpleNamespace(history={"shop": read(before)}.get)
        decided = histories.decisions(cast("Any", SimpleNamespace(ledger=ledger)), declared)
        assert decided.loaded()[0].content_hash == now
    assert histories._named_as_now(plain := read("sha"), source("orders")) is plain


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
    monkeypatch.setattr(arrivals, "load_sources", lambda: [members, other])
    assert arrivals.ignored(lab.start(), members) == ["members/2024/"]

    def wrong() -> None:
        raise ConfigurationError("other.yaml: not valid YAML")

    monkeypatch.setattr(arrivals, "load_sources", wrong)
    assert arrivals.ignored(lab.start(), members) == []


def test_a_file_is_looked_for_also_by_patterns_of_before_where_it_is_not_there(lab: Lab) -> None:
    """Else one that is moved with its folder, as a source's pattern is changed, counts twice once it is corrected."""
    run, signups = lab.start(), load_sources(["signups"])[0]
    lab.land("old/there.csv", "")
    named_alone = lab.land("elsewhere/alone.csv", "").relative_to("/")
    found = {
        path: arrivals._is_looked_for(run, signups, ["signups/*.csv"], path)
        for path in ("signups/a.csv", "old/there.csv", "old/gone.csv", str(named_alone))
    }
    assert list(found.values()) == [True, False, True, False]
    assert is_there(run.spark, f"file:{lab.landing}/old/there.csv")
