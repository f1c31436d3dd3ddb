"""Which files a batch takes, and whose rows count."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from jobs.engine.batches import FileEvent, History, plan, vanished_or_changed
from jobs.engine.landing import LandingFile, Unreadable


class Landing:
    """A landing folder in memory: path -> content; a file's size and time follow from its content and `touched`."""

    def __init__(self) -> None:
        self.contents: dict[str, str] = {}
        self.touched: dict[str, int] = {}
        self.hashed: list[str] = []

    def listing(self) -> list[LandingFile]:
        return [LandingFile(p, len(c), self.touched.get(p, 0)) for p, c in sorted(self.contents.items())]

    def hashes(self, paths: list[str]) -> Mapping[str, str | Unreadable]:
        self.hashed = paths
        return {path: _hash(self.contents[path]) for path in paths}


def _hash(content: str) -> str | Unreadable:
    if content == "refused":
        return Unreadable("the file could not be read: Permission denied", may_pass=True)
    return Unreadable("the file could not be read: broken") if content == "broken" else f"sha of {content}"


def deliver(history: History, landing: Landing) -> tuple[History, list[FileEvent]]:
    events = plan(history, landing.listing(), landing.hashes)
    return History([*history._decided.values(), *events]), events


def delivered(contents: dict[str, str]) -> tuple[Landing, History]:
    """A landing folder of which all that it holds was delivered once, and what was decided then."""
    landing = Landing()
    landing.contents = contents
    return landing, deliver(History(), landing)[0]


def statuses(events: list[FileEvent]) -> dict[str, str]:
    return {event.source_file: event.status for event in events}


def test_new_files_make_a_batch_and_are_not_planned_again() -> None:
    landing = Landing()
    landing.contents = {"a": "1", "b": "2"}
    history, events = deliver(History(), landing)
    assert statuses(events) == {"a": "loaded", "b": "loaded"}
    assert {event.batch_id for event in events} == {1}
    assert deliver(history, landing)[1] == []


def test_only_new_or_changed_files_are_hashed() -> None:
    landing, history = delivered({"a": "1"})
    landing.contents["b"] = "2"
    deliver(history, landing)
    assert landing.hashed == ["b"]


def test_the_same_content_under_another_name_is_known() -> None:
    landing, history = delivered({"a": "1"})
    landing.contents["b"] = "1"
    history, events = deliver(history, landing)
    assert statuses(events) == {"b": "known"}
    assert history.live() == {(1, "a")}


def test_two_new_files_with_one_content_are_read_once() -> None:
    landing = Landing()
    landing.contents = {"a": "1", "b": "1"}
    assert statuses(deliver(History(), landing)[1]) == {"a": "loaded", "b": "known"}


def test_the_same_file_with_another_time_is_known() -> None:
    landing, history = delivered({"a": "1"})
    landing.touched["a"] = 5
    history, events = deliver(history, landing)
    assert statuses(events) == {"a": "known"}
    assert not history.changes_what_was_read(1)


def test_a_replaced_file_supersedes_its_earlier_rows() -> None:
    landing, history = delivered({"a": "1", "b": "2"})
    landing.contents["a"] = "3!"
    history, events = deliver(history, landing)
    assert statuses(events) == {"a": "loaded"}
    assert history.live() == {(1, "b"), (2, "a")}
    assert history.dead() == {(1, "a")}
    assert history.changes_what_was_read(1)
    assert not history.changes_what_was_read(2)


def test_content_that_another_file_still_has_stays_live_when_its_first_file_is_replaced() -> None:
    landing, history = delivered({"a": "1", "b": "1"})
    landing.contents["a"] = "2!"
    history, _ = deliver(history, landing)
    assert history.live() == {(1, "a"), (2, "a")}
    assert not history.changes_what_was_read(1)


def test_content_that_returns_is_live_again_without_being_read() -> None:
    landing, history = delivered({"a": "1"})
    landing.contents["a"] = "22"
    history, _ = deliver(history, landing)
    landing.contents["a"] = "1"
    history, events = deliver(history, landing)
    assert statuses(events) == {"a": "known"}
    assert history.live() == {(1, "a")}
    assert history.changes_what_was_read(2)


def test_a_vanished_file_keeps_its_rows() -> None:
    landing, history = delivered({"a": "1"})
    landing.contents = {}
    history, events = deliver(history, landing)
    assert (events, history.live()) == ([], {(1, "a")})


def test_a_file_that_was_moved_and_is_replaced_then_takes_its_earlier_rows_out() -> None:
    landing, history = delivered({"a": "1", "other": "2"})
    landing.contents = {"b": "1", "other": "2"}
    history, events = deliver(history, landing)
    assert [(e.source_file, e.status, e.moved_from) for e in events] == [("b", "known", ["a"])]
    assert events[0].why_known("a") == "moved from a"
    assert history.live() == {(1, "a"), (1, "other")}
    assert deliver(history, landing)[1] == []
    landing.contents["b"] = "another"
    history, events = deliver(history, landing)
    assert statuses(events) == {"b": "loaded"}
    assert history.live() == {(1, "other"), (3, "b")}
    assert history.dead() == {(1, "a")}
    assert history.paths() == {"a", "b", "other"}
    # What is back where it was is no longer moved; nothing but its content brings rows back.
    landing.contents["a"] = "broken"
    history, events = deliver(history, landing)
    assert (statuses(events), history.dead()) == ({"a": "rejected"}, {(1, "a"), (4, "a")})
    assert deliver(history, landing)[1] == []
    landing.contents["a"] = "1"
    history, events = deliver(history, landing)
    assert statuses(events) == {"a": "known"}
    assert history.live() == {(1, "a"), (1, "other"), (3, "b")}


def test_what_is_copied_sent_again_or_only_not_looked_for_was_not_moved() -> None:
    landing, history = delivered({"a": "1", "of another content": "2"})
    landing.contents["b"] = "1"
    (copy,) = deliver(history, landing)[1]
    del landing.contents["a"], landing.contents["of another content"]
    asked = list[str]()

    def is_looked_for(path: str) -> bool:
        asked.append(path)
        return path != "a"

    (elsewhere,) = plan(history, landing.listing(), landing.hashes, is_looked_for=is_looked_for)
    assert asked == ["a"], "to look for a path may cost something"
    landing.touched["b"] = 5_000  # by who sends what was archived once more, in its time
    (again,) = deliver(history, landing)[1]
    assert [(e.status, e.moved_from) for e in (copy, elsewhere, again)] == [("known", [])] * 3


def test_a_file_is_moved_also_by_what_keeps_its_time_to_the_second() -> None:
    landing = Landing()
    landing.contents, landing.touched["a"] = {"a": "1"}, 7_952
    history, _ = deliver(History(), landing)
    landing.contents, landing.touched["a.bz2"] = {"a.bz2": "1"}, 7_000
    history, events = deliver(history, landing)
    assert [(e.source_file, e.status, e.moved_from) for e in events] == [("a.bz2", "known", ["a"])]
    landing.contents["a.bz2"] = "corrected"
    assert deliver(history, landing)[0].live() == {(3, "a.bz2")}


def test_of_files_with_one_content_that_are_moved_together_one_tells_of_all() -> None:
    landing, history = delivered(dict.fromkeys(("a1", "a2", "a3"), "1"))
    landing.contents = dict.fromkeys(("b1", "b2", "b3"), "1")
    history, events = deliver(history, landing)
    assert [event.moved_from for event in events] == [["a1", "a2", "a3"], [], []]
    landing.contents = {"b1": "of b1", "b2": "1"}
    history, _ = deliver(history, landing)
    assert history.live() == {(1, "a1"), (3, "b1")}
    landing.contents = {"b2": "of b2"}
    history, _ = deliver(history, landing)
    assert history.live() == {(1, "a1"), (3, "b1"), (4, "b2")}, "b3 is gone, and was not moved"


def test_what_was_set_aside_where_a_file_was_moved_from_is_still_told() -> None:
    landing, history = delivered({"a": "1"})
    landing.contents["a"] = "broken"
    history, _ = deliver(history, landing)
    landing.contents = {"b": "1"}
    history, _ = deliver(history, landing)
    assert history.newest_versions()["a"].status == "rejected"
    assert history.newest_versions(accepted=True).keys() == {"b"}


def test_empty_and_unreadable_files_are_set_aside_with_the_reason_and_not_tried_again() -> None:
    landing = Landing()
    landing.contents = {"a": "", "b": "broken"}
    history, events = deliver(History(), landing)
    assert {event.source_file: event.reason for event in events} == {
        "a": "the file is empty",
        "b": "the file could not be read: broken",
    }
    assert deliver(history, landing)[1] == []


def test_a_file_that_the_system_refused_is_tried_again_as_it_is() -> None:
    landing = Landing()
    landing.contents, landing.touched = {"a": "refused", "b": "broken"}, {"a": 7, "b": 7}
    history, events = deliver(History(), landing)
    assert statuses(events) == {"a": "rejected", "b": "rejected"}
    history, events = deliver(history, landing)
    assert statuses(events) == {"a": "rejected"}
    landing.contents["a"] = "goodbye"  # of the same size and time
    history, events = deliver(history, landing)
    assert statuses(events) == {"a": "loaded"}
    assert deliver(history, landing)[1] == []


def test_a_broken_replacement_leaves_the_earlier_rows_in_force() -> None:
    landing, history = delivered({"a": "1"})
    landing.contents["a"] = "broken"
    history, events = deliver(history, landing)
    assert statuses(events) == {"a": "rejected"}
    assert history.live() == {(1, "a")}


def test_a_broken_replacement_that_a_copy_of_it_came_before_leaves_the_earlier_rows_in_force() -> None:
    landing = Landing()
    landing.contents, landing.touched = {"a": "1"}, {"a": 1}
    history, _ = deliver(History(), landing)
    # Its content can be hashed, and not be read: of two files with it, the older one is read, and is set aside.
    landing.contents, landing.touched = {"a": "header", "copy": "header"}, {"a": 3, "copy": 2}
    history, events = deliver(history, landing)
    assert statuses(events) == {"copy": "loaded", "a": "known"}
    history = history.followed_by([replace(events[0], status="rejected", reason="no rows")])
    assert history.live() == {(1, "a")}
    assert history.of(lambda _: True, is_full_extract=True).live() == {(1, "a")}
    history, events = deliver(history, landing)
    assert statuses(events) == {"a": "loaded"}
    assert history.followed_by([replace(events[0], status="rejected", reason="no rows")]).live() == {(1, "a")}


def test_a_file_set_aside_after_it_was_planned_does_not_count() -> None:
    landing = Landing()
    landing.contents = {"a": "1", "b": "2"}
    history, events = deliver(History(), landing)
    rejection = replace(events[0], status="rejected", reason="changed while it was read")
    history = History([*events, rejection])
    assert history.live() == {(1, "b")}
    assert history.dead() == {(1, "a")}


def test_a_copy_of_a_file_that_was_set_aside_later_is_read() -> None:
    landing = Landing()
    landing.contents = {"a": "1"}
    _, events = deliver(History(), landing)
    history = History([*events, replace(events[0], status="rejected", reason="changed while it was read")])
    landing.contents["b"] = "1"
    assert statuses(deliver(history, landing)[1]) == {"b": "loaded"}


def test_a_known_copy_is_read_when_the_file_it_copies_was_set_aside_later() -> None:
    landing = Landing()
    landing.contents = {"a": "1", "b": "1"}
    _, events = deliver(History(), landing)
    history = History([*events, replace(events[0], status="rejected", reason="changed while it was read")])
    assert statuses(deliver(history, landing)[1]) == {"b": "loaded"}


def test_a_file_that_was_gone_when_it_was_to_be_read_is_new_when_it_is_back() -> None:
    landing = Landing()
    landing.contents = {"a": "1"}
    _, events = deliver(History(), landing)
    history = History([*events, replace(events[0], size=-1, status="rejected", reason="taken away")])
    assert statuses(deliver(history, landing)[1]) == {"a": "loaded"}


def test_files_that_are_not_as_planned_are_found() -> None:
    landing = Landing()
    landing.contents = {"a": "1", "b": "2", "c": "3"}
    _, events = deliver(History(), landing)
    landing.contents = {"a": "1", "b": "2 and more"}
    assert [event.source_file for event in vanished_or_changed(events, landing.listing())] == ["b", "c"]


def event(
    path: str, batch: int, at: int, status: Literal["loaded", "known", "rejected"] = "loaded", content: str = ""
) -> FileEvent:
    return FileEvent(path, 1, at, content or f"sha of {path} {batch}", status, None, batch)


def full_extract(*events: FileEvent) -> History:
    return History(events).of(lambda _: True, is_full_extract=True)


def test_of_full_extracts_only_the_newest_counts_however_late_the_older_comes() -> None:
    first, newest, late = event("a", 1, at=10), event("b", 2, at=30), event("c", 3, at=20)
    assert full_extract(first).live() == {(1, "a")}
    assert full_extract(first, newest).live() == {(2, "b")}
    assert full_extract(first, newest, late).live() == {(2, "b")}
    assert full_extract(first, newest, late).dead() == {(1, "a"), (3, "c")}
    assert full_extract(first, newest).changes_what_was_read(1)
    assert not full_extract(first, newest, late).changes_what_was_read(2)


def test_a_full_extract_delivered_again_is_the_newest_again() -> None:
    first, second = event("a", 1, at=10), event("b", 2, at=20)
    again = event("a again", 3, at=30, status="known", content=first.content_hash or "")
    assert full_extract(first, second, again).live() == {(1, "a")}


def test_a_full_extract_that_was_moved_keeps_its_time() -> None:
    first, second = event("a", 1, at=30), event("b", 2, at=20)
    moved = replace(event("c", 3, at=10, status="known", content=first.content_hash or ""), reason='["a"]')
    assert full_extract(first, second, moved).live() == {(1, "a")}


def test_a_full_extract_that_was_set_aside_replaces_nothing() -> None:
    first, broken = event("a", 1, at=10), event("b", 2, at=20, status="rejected")
    copy_of_broken = event("c", 3, at=30, status="known", content=broken.content_hash or "")
    assert full_extract(first, broken, copy_of_broken).live() == {(1, "a")}


def test_a_history_can_be_that_of_some_files() -> None:
    history = History([event("customers", 1, at=10), event("products", 2, at=20)])
    customers = history.of(lambda event: event.source_file == "customers", is_full_extract=True)
    assert (customers.newest_batch, customers.live()) == (1, {(1, "customers")})


def of_raw_table(name: str, *events: FileEvent, is_full_extract: bool = False) -> History:
    """The history of one raw table; contents begin with its name."""
    is_wanted = lambda event: (event.content_hash or "").startswith(name)  # noqa: E731
    return History(events).of(is_wanted, is_full_extract=is_full_extract)


def test_a_path_that_is_read_for_another_raw_table_no_longer_counts_for_the_former_one() -> None:
    first, moved = event("a", 1, at=10, content="customers:1"), event("a", 2, at=10, content="contracts:1")
    for is_full_extract in (False, True):
        customers = of_raw_table("customers", first, moved, is_full_extract=is_full_extract)
        assert (customers.live(), customers.dead(), customers.newest_planned) == (set(), {(1, "a")}, 2)
        assert customers.changes_what_was_read(1)
        assert customers.through(1).live() == {(1, "a")}
        assert customers.loaded() == [first]
    assert of_raw_table("contracts", first, moved).live() == {(2, "a")}
    # Also if its content there was read under another path.
    known = event("a", 2, at=10, content="contracts:2", status="known")
    contracts = event("b", 1, at=10, content="contracts:2")
    assert of_raw_table("customers", first, contracts, known).live() == set()

    # If the other table could not read it, nothing has changed; and it may come back.
    refused = replace(moved, status="rejected", reason="no header")
    assert of_raw_table("customers", first, refused).live() == {(1, "a")}
    back = event("a", 3, at=30, status="known", content="customers:1")
    assert of_raw_table("customers", first, moved, back).live() == {(1, "a")}
    assert of_raw_table("contracts", first, moved, back).live() == set()


def test_a_file_that_would_be_read_otherwise_now_is_planned_again() -> None:
    landing, history = delivered({"a": "1", "b": "2"})
    hashes = lambda paths: {path: f"other:{path}" for path in paths}  # noqa: E731
    events = plan(history, landing.listing(), hashes, lambda event: event.source_file == "a")
    assert [(e.source_file, e.content_hash, e.status) for e in events] == [("b", "other:b", "loaded")]


def test_a_content_is_as_old_as_its_oldest_file() -> None:
    january, february = event("jan", 1, at=10, content="1"), event("feb", 2, at=20, content="2")
    copy, touched = (
        event("jan again", 3, at=30, status="known", content="1"),
        event("jan", 4, at=40, status="known", content="1"),
    )
    delivered = {(1, "jan"): (10, 1), (2, "feb"): (20, 2)}
    assert History([january, february]).first_delivered() == delivered
    assert History([january, february, copy, touched]).first_delivered() == delivered
    # One that came with a time to come gets its true one by being touched.
    from_the_future = replace(january, modified_at=99)
    assert History([from_the_future, february, touched]).first_delivered()[(1, "jan")] == (40, 4)
