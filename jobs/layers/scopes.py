"""What a pass of silver takes: which bronze rows, and in whose place they come."""

from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F

from jobs.engine.batches import History, Request
from jobs.engine.context import Run
from jobs.engine.sources import Source
from jobs.layers.histories import finished_batch, of_raw_table
from jobs.layers.tables import quarantine_table, silver_table, silver_writer


@dataclass(frozen=True)
class Scope:
    """Which bronze rows one pass of silver takes: batches `after` < b <= `through`; less those of `dead` deliveries.

    With `rebuild` they take the place of all rows of the table; with a `request`, of the rows of its batches.
    """

    after: int
    through: int
    rebuild: bool
    dead: frozenset[tuple[int, str]]
    request: Request | None = None

    @property
    def where(self) -> str:
        """SQL: whether a row is of the batches that this pass takes."""
        if self.request and not self.rebuild:
            return f"_batch_id IN ({', '.join(map(str, self.request.batches))})"
        return f"_batch_id > {self.after} AND _batch_id <= {self.through}"

    def covers(self) -> Column:
        """The same as a column."""
        return F.expr(self.where)


def scope_of(run: Run, source: Source, table: str) -> Scope | None:
    """What silver has to do next for a table; None if nothing."""
    history, done = run.ledger.history(source.name), done_through(run, source, table)
    # Where nothing came, quarantine is not looked at: most runs find no news.
    quarantined = quarantined_through(run, source, table) if history.newest_batch > done else done
    return next_scope(source, table, history, done, finished_batch(run, source), quarantined)


def next_scope(
    source: Source, table: str, history: History, done: int, finished: int, quarantined: int = 0
) -> Scope | None:
    """What is next for a table that has all up to batch `done`, when bronze has all up to batch `finished`.

    Its quarantine has all up to `quarantined`.
    """
    declared = source.tables[table]
    # What is planned and not read yet, or is set aside in the end, takes no rows out.
    decided = of_raw_table(history, source, source.parsed_tables[table]).through(finished)
    request = decided.next_request(done)
    if request and finished < min(request.batch_id - 1, history.newest_planned):
        request = None  # a batch before it is not in bronze yet
    # A row may come before the one that it refers to, or lose it.
    referred = [of_raw_table(history, source, source.parsed_tables[t]).through(finished) for t in declared.referenced]
    through = request.batch_id - 1 if request else max(each.newest_planned for each in (decided, *referred))
    if request and decided.changes_what_was_read(request.batch_id):
        # Of its rows, some were taken out or brought back since. One pass for all of it, under the newest number: one
        # under an older number that foresaw this would leave nothing by which to notice that it was undone again.
        return Scope(0, decided.newest_planned, True, frozenset(decided.dead()))
    is_outdated = decided.changes_what_was_read(done)
    is_outdated |= any(other.loaded(done) or other.changes_what_was_read(done) for other in referred)
    if quarantined > done:
        # A pass that a crash cut short may have made quarantine anew for what has been taken back since: that of what
        # was done, or of what a request is about.
        earlier = [decided.through(batch) for batch in range(done + 1, decided.newest_planned)]
        numbers = [done, *[asked.batch_id for asked in decided.requests if asked.batch_id > done]]
        is_outdated |= any(before.changes_what_was_read(number) for before in earlier for number in numbers)
        # One for a request may have made it anew as a row came before its copy, or have let rows out of it whose copies
        # in other batches count as duplicates; one that goes by another table, have judged by what that had then.
        is_outdated |= any(done < asked.batch_id <= quarantined for asked in decided.requests) or bool(referred)
    # Where the newest file wins, one that is delivered again may turn out to be older than it seemed.
    news = {e.batch_id for e in (decided.accepted(done) if declared.keep == "newest" else decided.loaded(done))}
    if request:  # after it, nothing would account for the rows of a file that was set aside while it was read
        news |= {batch for batch, _ in decided.dead(done)}
    if request and request.kind == "settings":  # with what is new: perhaps by a key that the table does not have yet
        return Scope(0, request.batch_id, True, frozenset(decided.dead()), request)
    if through > done and (is_outdated or any(batch <= through for batch in news)):
        rebuild = declared.is_always_rebuilt or is_outdated
        after = 0 if rebuild else done
        return Scope(after, through, rebuild, frozenset(decided.dead(after)))
    if request:
        # Rows that depend on each other are all checked anew, as they are whenever a file arrives.
        rebuild = declared.is_always_rebuilt or is_outdated or bool(referred)
        return Scope(0, request.batch_id, rebuild, frozenset(decided.dead()), request)
    return None


def done_through(run: Run, source: Source, table: str) -> int:
    """The newest batch or request that a table has."""
    return run.lake.written_through(silver_table(source, table), silver_writer(source, table))


def quarantined_through(run: Run, source: Source, table: str) -> int:
    """The newest batch or request that a table's quarantine has; after a crash, one that the table lacks."""
    return run.lake.written_through(quarantine_table(source, table), silver_writer(source, table))


def is_quarantine_ahead(run: Run, source: Source, table: str) -> bool:
    """Whether a crash came between the two writes of a pass."""
    return quarantined_through(run, source, table) > done_through(run, source, table)
