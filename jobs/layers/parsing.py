"""How raw rows become rows of silver: by which transform, and with which settings.

Where these change, all rows are parsed anew.
"""

import hashlib
import json
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.engine import id_secret
from jobs.engine.batches import History, Request
from jobs.engine.calls import call
from jobs.engine.context import Run
from jobs.engine.ledger import TableState
from jobs.engine.local_rows import hidden, no_rows
from jobs.engine.readers import ARRIVAL, BRONZE_OF_LINES
from jobs.engine.sources import Source, input_names
from jobs.layers.scopes import done_through
from jobs.layers.tables import silver_table


def parse(run: Run, source: Source, table: str, bronze: DataFrame) -> DataFrame:
    """What the table's transform makes of bronze rows."""
    needs_secret = _needs_secret(source, table)
    secret = hidden(run.spark, id_secret.read(run.lake, source.name)) if needs_secret else F.lit("")
    return _parse(source, table, bronze, secret)


def shape(run: Run, source: Source, table: str) -> DataFrame:
    """What parsing bronze makes, without rows."""
    return _parse(source, table, _empty_bronze(run, source, table), F.lit(""))


def _parse(source: Source, table: str, bronze: DataFrame, secret: Column) -> DataFrame:
    return call(source.silver_transform(table), {"raw": bronze}, source, {id_secret.PARAMETER: secret})


def _empty_bronze(run: Run, source: Source, table: str) -> DataFrame:
    """A bronze table without rows."""
    raw = source.raw[source.parsed_tables[table]]
    own = ["_is_malformed BOOLEAN", *[f"`{name}` STRING" for name in raw.columns]] if raw.format == "csv" else []
    own += [ARRIVAL] if raw.arrival_order else []
    return no_rows(run.spark, ", ".join([BRONZE_OF_LINES, *own]))


def _needs_secret(source: Source, table: str) -> bool:
    return id_secret.PARAMETER in input_names(source.silver_transform(table))


def see_to_settings(run: Run, source: Source) -> bool:
    """Has all rows parsed anew if they were with other settings than the present ones; makes a secret where none is.

    Otherwise old rows would be in one time zone and new ones in another, or have two ids, and count twice. What is to
    be done is written down before what has been seen, for a crash in between. Returns whether it is another secret than
    rows have ids of.
    """
    with_ids = [table for table in source.parsed_tables if _needs_secret(source, table)]
    is_new = bool(with_ids) and id_secret.find(run.lake, source.name) is None
    has_new_ids = is_new and any(done_through(run, source, table) for table in with_ids)
    if has_new_ids:  # at once, for a run that fails later
        run.steps.warn(f"{source.name}: the secret of its ids is gone: all records get new ones")
    if is_new:
        id_secret.make(run.lake, source.name)
        run.lake.sync()
    otherwise = _parsed_otherwise(run, source)
    if request := _all_anew(run, source, otherwise, run.ledger.history(source.name)):
        run.ledger.ask(source.name, request.kind, request.batches)
    run.ledger.record_table_states(otherwise)
    return has_new_ids


def settings_request(run: Run, source: Source, history: History) -> Request | None:
    """What is to be asked for if rows were parsed with other settings than the present ones; None if none were."""
    return _all_anew(run, source, _parsed_otherwise(run, source), history)


def _all_anew(run: Run, source: Source, otherwise: list[TableState], history: History) -> Request | None:
    """That all batches are parsed anew; None if no table that was parsed `otherwise` has done any.

    One that has done none, such as one that is declared since, is no reason; nor is an upgrade by itself.
    """
    names = {state.table_name for state in otherwise}
    is_due = any(
        silver_table(source, table) in names
        and done_through(run, source, table)
        and not _is_as_once_recorded(run, source, table)
        for table in source.parsed_tables
    )
    batches = {event.batch_id for event in history.loaded()}
    return Request(history.newest_batch + 1, "settings", tuple(sorted(batches))) if is_due and batches else None


def _parsed_otherwise(run: Run, source: Source) -> list[TableState]:
    """The states of those parsed tables of which another one is recorded: of settings and secret, by fingerprint."""
    now = {table: _settings_of(run, source, table) for table in source.parsed_tables}
    return [
        TableState(silver_table(source, table), logic=fingerprint)
        for table, fingerprint in now.items()
        if fingerprint != _recorded_settings(run, source, table)
    ]


def _is_as_once_recorded(run: Run, source: Source, table: str) -> bool:
    """Whether an earlier Assay has recorded the present settings of a table: it did not record which rows stay."""
    return _recorded_settings(run, source, table) == _fingerprint(_named_settings(run, source, table))


def _recorded_settings(run: Run, source: Source, table: str) -> str:
    """Empty if none are."""
    state = run.ledger.table_states().get(silver_table(source, table))
    return state.logic if state else ""


def _settings_of(run: Run, source: Source, table: str) -> str:
    """A fingerprint of what a table is parsed with, beside bronze and code, and of which of its rows stay."""
    declared = source.tables[table]
    which_stay = {name: getattr(declared, name) for name in ("key", "keep", "order_by", "rebuild")}
    which_stay["full_extract"] = source.raw[source.parsed_tables[table]].full_extract
    return _fingerprint([_named_settings(run, source, table), which_stay])


def _named_settings(run: Run, source: Source, table: str) -> dict[str, Any]:
    """What a table's transform names beside tables, and is given."""
    named, settings = input_names(source.silver_transform(table)), source.settings()
    found = {name: settings[name] for name in named if name in settings}
    if _needs_secret(source, table) and (secret := id_secret.find(run.lake, source.name)):
        found[id_secret.PARAMETER] = secret
    return found


def _fingerprint(settings: object) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16] if settings else ""
