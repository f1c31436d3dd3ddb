"""Which raw files to read next: decided from what the ledger knows and what the landing folder shows.

Content counts, not names: a *content* is a file's SHA-256. It is read once, ever. It is **live** while some path's
newest version has it, and its rows are **superseded** as soon as none does. So a file delivered again under another
name adds nothing, a file replaced in place takes its earlier rows out, and a content that returns is live again unread.
A path that is gone has its content until a file of the same time brings that under another one: it was moved there.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jobs.engine.landing import EMPTY, LandingFile, Unreadable

Status = Literal["loaded", "known", "rejected"]
Kind = Literal["replay", "backfill", "settings"]
Delivery = tuple[int, str]
"""A batch id and a path: where the rows of one content stand in bronze."""


@dataclass(frozen=True)
class FileEvent:
    """What was decided about one version of one file.

    `loaded`: its rows are read in batch `batch_id`. `known`: its content was read before; if it was moved, `reason`
    lists the paths that had it and were gone, as JSON. `rejected`: set aside whole, for `reason`; a later `rejected` of
    the same batch and path replaces the earlier decision.

    `content_hash` is the SHA-256 of the content; of a source with several raw tables it is `labelled` with those that
    the file is read for.
    """

    source_file: str
    size: int
    modified_at: int
    content_hash: str | None
    status: Status
    reason: str | None
    batch_id: int

    @property
    def raw_tables(self) -> list[str]:
        """The raw tables that the file is read for; none, if the source had one raw table then."""
        tables, is_labelled, _ = (self.content_hash or "").partition(":")
        return tables.split("+") if is_labelled else []

    @property
    def moved_from(self) -> list[str]:
        """The paths that had this content, known by now, and were gone when it came."""
        return list(json.loads(self.reason)) if self.status == "known" and self.reason else []

    def why_known(self, first: str | None) -> str:
        """Why a file adds no rows whose content was first read under the path `first`, if that is known."""
        if self.moved_from:
            return f"moved from {', '.join(self.moved_from)}"
        return "its content was read before" if first in (None, self.source_file) else f"a copy of {first}"


def labelled(content_hash: str, raw_tables: Iterable[str]) -> str:
    """The hash of a content with the raw tables that it is read for: in others, it is another content."""
    return f"{'+'.join(sorted(raw_tables))}:{content_hash}"


@dataclass(frozen=True)
class Request:
    """Rows of earlier batches to go through silver once more, in its turn: it has a number of its own like a batch.

    A `replay` is about quarantined rows, all or those that violate `rule`; a `backfill` about all rows of its batches.
    So is `settings`, which nobody asked for: they were parsed with other settings than are set now.
    """

    batch_id: int
    kind: Kind
    batches: tuple[int, ...]
    rule: str | None = None


class History:
    """All file events of one source, or of one of its raw tables.

    With `is_full_extract`, only the newest file counts: by modification time, then by batch. `elsewhere` are the events
    about other raw tables: where patterns were changed, the newest version of one of its paths may be among them.
    """

    def __init__(
        self,
        events: Iterable[FileEvent] = (),
        requests: Iterable[Request] = (),
        *,
        is_full_extract: bool = False,
        elsewhere: Iterable[FileEvent] = (),
    ) -> None:
        self._is_full_extract = is_full_extract
        self.requests = tuple(sorted(requests, key=lambda request: request.batch_id))
        self._decided: dict[Delivery, FileEvent] = {}
        for event in sorted(events, key=lambda e: (e.batch_id, e.status == "rejected")):
            self._decided[(event.batch_id, event.source_file)] = event
        self._elsewhere = list(elsewhere)

    def followed_by(self, events: Iterable[FileEvent]) -> "History":
        """This history and what was decided since."""
        return self._with([*self._decided.values(), *events], self.requests, self._elsewhere)

    def asked(self, request: Request) -> "History":
        """This history and a request made since."""
        return self._with(self._decided.values(), [*self.requests, request], self._elsewhere)

    def of(self, is_wanted: Callable[[FileEvent], bool], *, is_full_extract: bool) -> "History":
        """The part of this history that is about wanted files."""
        wanted, others = list[FileEvent](), list[FileEvent]()
        for event in self._decided.values():
            (wanted if is_wanted(event) else others).append(event)
        return History(wanted, self.requests, is_full_extract=is_full_extract, elsewhere=others)

    def through(self, batch_id: int) -> "History":
        """This history as of batch `batch_id`, with all requests."""
        return self._as_of(batch_id, self.requests)

    def _with(
        self, events: Iterable[FileEvent], requests: Iterable[Request], elsewhere: Iterable[FileEvent]
    ) -> "History":
        return History(events, requests, is_full_extract=self._is_full_extract, elsewhere=elsewhere)

    def until(self, number: int) -> "History":
        """This history as of batch or request `number`."""
        return self._as_of(number, [request for request in self.requests if request.batch_id <= number])

    def _as_of(self, batch_id: int, requests: Iterable[Request]) -> "History":
        read, elsewhere = (
            [event for event in events if event.batch_id <= batch_id]
            for events in (self._decided.values(), self._elsewhere)
        )
        return self._with(read, requests, elsewhere)

    def named(self, content_hash: Callable[[FileEvent], str | None]) -> "History":
        """This history with contents named otherwise."""
        events = [replace(event, content_hash=content_hash(event)) for event in self._decided.values()]
        return self._with(events, self.requests, self._elsewhere)

    @property
    def newest_batch(self) -> int:
        """The newest batch planned, or request made; 0 before the first."""
        return max([self.newest_planned, *(request.batch_id for request in self.requests)])

    @property
    def newest_planned(self) -> int:
        """The newest batch of files; 0 before the first."""
        return max((event.batch_id for event in self._of_its_paths()), default=0)

    def planned_before(self, batch_id: int) -> int:
        """The newest batch of files before `batch_id`; 0 if there is none."""
        return max((batch for batch, _ in self._decided if batch < batch_id), default=0)

    def next_request(self, after: int) -> Request | None:
        """The earliest request after batch `after`."""
        return next((request for request in self.requests if request.batch_id > after), None)

    def batch(self, batch_id: int) -> list[FileEvent]:
        return [event for event in self._decided.values() if event.batch_id == batch_id]

    def loaded(self, after: int = 0, through: int | None = None) -> list[FileEvent]:
        """The contents read in batches `after` < b <= `through`, live or not."""
        last = self.newest_batch if through is None else through
        return [e for e in self._decided.values() if e.status == "loaded" and after < e.batch_id <= last]

    def accepted(self, after: int = 0) -> list[FileEvent]:
        """The files delivered in batches after `after`, read or known, that were not set aside."""
        return [e for e in self._decided.values() if e.status != "rejected" and e.batch_id > after]

    def first_delivered(self) -> dict[Delivery, tuple[int, int]]:
        """For each live delivery: (modification time, batch) of the oldest file that ever had its content.

        A copy, or the file with another time, adds nothing: no precedence either over what came in between.
        """
        oldest: dict[str | None, tuple[int, int]] = {}
        for event in self._decided.values():
            if event.status != "rejected":
                delivered = (event.modified_at, event.batch_id)
                oldest[event.content_hash] = min(delivered, oldest.get(event.content_hash, delivered))
        return {delivery: oldest[self._decided[delivery].content_hash] for delivery in self.live()}

    def paths(self) -> set[str]:
        """All paths that were ever delivered."""
        return {event.source_file for event in self._of_its_paths()}

    def newest_versions(self, through: int | None = None, *, accepted: bool = False) -> dict[str, FileEvent]:
        """The newest event of each path that was not moved since; with `accepted`, the newest whose content was read.

        That of a file that was set aside was not, nor that of its copies, which were planned as known. Of full extracts
        one path alone counts, by its time: to move it changes nothing.
        """
        last = self.newest_batch if through is None else through
        events = [event for event in self._of_its_paths() if event.batch_id <= last]
        read = {event.content_hash for event in [*events, *self._elsewhere] if event.status == "loaded"}
        newest: dict[str, FileEvent] = {}
        for event in events:
            is_read = event.status != "rejected" and event.content_hash in read
            if is_read or not accepted:
                newest[event.source_file] = event
            for path in event.moved_from if not self._is_full_extract else ():
                if path in newest and newest[path].content_hash == event.content_hash:
                    del newest[path]
        return newest

    def live(self, through: int | None = None) -> set[Delivery]:
        """The deliveries whose rows count, as of batch `through`."""
        loaded = {(e.batch_id, e.source_file): e.content_hash for e in self.loaded(0, through)}
        counting = list(self.newest_versions(through, accepted=True).values())
        counting = [event for event in counting if (event.batch_id, event.source_file) in self._decided]
        if self._is_full_extract and counting:
            counting = [max(counting, key=lambda event: (event.modified_at, event.batch_id, event.source_file))]
        wanted = {event.content_hash for event in counting}
        return {delivery for delivery, content in loaded.items() if content in wanted}

    def dead(self, after: int = 0) -> set[Delivery]:
        """The deliveries of batches after `after` whose rows may be in bronze and do not count.

        A file that changed while it was read is among them: its rows were written before it was set aside.
        """
        read = {
            delivery for delivery, event in self._decided.items() if event.status != "known" and delivery[0] > after
        }
        return read - self.live()

    def _of_its_paths(self) -> list[FileEvent]:
        """All events of its paths, in the order of their batches."""
        found = list(self._decided.values())
        if not self._elsewhere:
            return found
        paths = {path for _, path in self._decided}
        elsewhere = [event for event in self._elsewhere if event.source_file in paths]
        return sorted([*found, *elsewhere], key=lambda event: event.batch_id)

    def changes_what_was_read(self, through: int) -> bool:
        """Whether batches after `through` took out, or brought back, rows of batches up to `through`."""
        return self.live(through) != {delivery for delivery in self.live() if delivery[0] <= through}


def plan(
    history: History,
    listing: Sequence[LandingFile],
    hash_contents: Callable[[list[str]], Mapping[str, str | Unreadable]],
    is_as_it_was_read: Callable[[FileEvent], bool] = lambda _: True,
    is_looked_for: Callable[[str], bool] = lambda _: True,
) -> list[FileEvent]:
    """The next batch: one event for each listed file that is new or changed; empty if none is.

    Changed is a file of another size or time, and one that would be read otherwise than it was. A path that is not
    listed is gone only if it `is_looked_for`.
    """
    read_before = {event.content_hash for event in history.loaded()}
    # A copy of a content that could not be read after all is not seen yet.
    seen = {
        path: event
        for path, event in history.newest_versions().items()
        if event.status != "known" or event.content_hash in read_before
    }
    # The oldest first: of two files with one content, the later one is the copy.
    oldest_first = sorted(listing, key=lambda file: (file.modified_at, file.path))
    changed = [
        file
        for file in oldest_first
        if not (_is_seen(file, seen.get(file.path)) and is_as_it_was_read(seen[file.path]))
    ]
    unfit = {file.path: Unreadable(file.unfit) for file in changed if file.unfit}
    contents = {**hash_contents([f.path for f in changed if f.size > 0 and f.path not in unfit]), **unfit}
    batch_id = history.newest_batch + 1
    # Only a content that was read can have moved.
    arrived = {(c, f.modified_at // 1000) for f in changed if (c := contents.get(f.path, EMPTY)) in read_before}
    gone = _gone(history, listing, arrived, is_looked_for)
    events = []
    for file in changed:
        content = contents.get(file.path, EMPTY)
        content_hash: str | None = None
        reason: str | None
        status: Status
        at = file.modified_at
        if isinstance(content, Unreadable):
            status, reason = "rejected", content.reason
            if content.may_pass:
                at = -1  # so that the next plan takes the file for a new one
        else:
            status, content_hash = ("known" if content in read_before else "loaded"), content
            moved_from = gone.pop((content, at // 1000), None) if status == "known" else None
            reason = json.dumps(moved_from) if moved_from else None
            read_before.add(content)
        events.append(FileEvent(file.path, file.size, at, content_hash, status, reason, batch_id))
    return events


def _gone(
    history: History,
    listing: Sequence[LandingFile],
    arrived: Collection[tuple[object, int]],
    is_looked_for: Callable[[str], bool],
) -> dict[tuple[str | None, int], list[str]]:
    """The paths that are no longer listed, by the content that they have and its time, which who moves a file keeps.

    To the second: bzip2, tar and others keep no more. Only those of contents and times that have `arrived`: to look for
    a path may cost something.
    """
    there, found = {file.path for file in listing}, dict[tuple[str | None, int], list[str]]()
    for path, event in sorted(history.newest_versions(accepted=True).items()):
        key = (event.content_hash, event.modified_at // 1000)
        if key in arrived and path not in there and is_looked_for(path):
            found.setdefault(key, []).append(path)
    return found


def vanished_or_changed(events: Iterable[FileEvent], listing: Iterable[LandingFile]) -> list[FileEvent]:
    """The events whose file is no longer in the landing folder as it was planned."""
    now = {file.path: file for file in listing}
    return [event for event in events if not _is_seen(now.get(event.source_file), event)]


def _is_seen(file: LandingFile | None, event: FileEvent | None) -> bool:
    return file is not None and event is not None and (file.size, file.modified_at) == (event.size, event.modified_at)
