"""What was decided about the files of a source, as its present declaration sees it."""

from jobs.engine.batches import FileEvent, History, labelled
from jobs.engine.context import Run
from jobs.engine.sources import Source


def decisions(run: Run, source: Source) -> History:
    """What was decided about the files of a source, with contents named as they would be if they came now."""
    return _named_as_now(run.ledger.history(source.name), source)


def history(run: Run, source: Source, raw: str) -> History:
    """What was decided about the files of one raw table."""
    return of_raw_table(run.ledger.history(source.name), source, raw)


def of_raw_table(decided: History, source: Source, raw: str) -> History:
    """The part of a source's history that is about the files of one raw table."""
    decided = _named_as_now(decided, source)
    return decided.of(lambda event: raw in tables_in(source, event), is_full_extract=source.raw[raw].full_extract)


def _named_as_now(decided: History, source: Source) -> History:
    """A history whose contents are labelled as they would be if they came now, so that they can be told to be the same.

    Where the source had one raw table, they are not, and where it has one again, they need not be.
    """
    is_labelled = len(source.raw) > 1

    def now(event: FileEvent) -> str | None:
        if event.content_hash is None or not is_labelled:
            return event.content_hash and event.content_hash.rpartition(":")[2]
        tables = [] if event.raw_tables else source.raw_tables_of(event.source_file)
        return labelled(event.content_hash, tables) if len(tables) == 1 else event.content_hash

    is_as_now = all(bool(event.raw_tables) is is_labelled for event in decided.accepted())
    return decided if is_as_now else decided.named(now)


def tables_in(source: Source, event: FileEvent) -> list[str]:
    """The raw tables that a file was read for; those that the present patterns name, if the event does not say."""
    return event.raw_tables or source.raw_tables_of(event.source_file)


def finished_batch(run: Run, source: Source) -> int:
    """The newest batch of files that bronze has read to its end; a crash may have left a later one unfinished."""
    decided = run.ledger.history(source.name)
    newest = decided.newest_planned
    has_rows = any(event.status != "rejected" for event in decided.batch(newest))
    return decided.planned_before(newest) if has_rows and not is_accounted(run, source, newest) else newest


def is_accounted(run: Run, source: Source, batch_id: int) -> bool:
    """Whether bronze has accounted for a batch: that comes last."""
    events = run.ledger.history(source.name).batch(batch_id)
    tables = {*source.raw, *(raw for event in events for raw in tables_in(source, event))}
    return any(run.ledger.is_accounted(source.name, "bronze", raw, batch_id) for raw in tables)
