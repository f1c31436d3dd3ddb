"""Whether every row is accounted for: accounts held against themselves, and against the rows that the tables have."""

from jobs.engine import accounts
from jobs.engine.accounts import Accounted
from jobs.engine.context import Run
from jobs.engine.sources import Source
from jobs.layers.tables import bronze_table, quarantine_table, silver_table, silver_writer


def verify_accounts(run: Run, source: Source) -> None:
    """Raises AssayError if the rows of the source do not balance."""
    refined = [
        Accounted(
            source.name,
            "silver",
            table,
            silver_table(source, table),
            quarantine_table(source, table),
            bronze_table(source, raw),
            run.lake.written_through(silver_table(source, table), silver_writer(source, table)),
        )
        for table, raw in source.parsed_tables.items()
    ]
    _verify(run, [*_of_bronze(source), *refined])


def verify_bronze(run: Run, source: Source) -> None:
    """Raises AssayError if bronze does not have the rows that were read."""
    _verify(run, _of_bronze(source))


def _of_bronze(source: Source) -> list[Accounted]:
    return [Accounted(source.name, "bronze", raw, bronze_table(source, raw)) for raw in source.raw]


def _verify(run: Run, tables: list[Accounted]) -> None:
    accounts.verify(run.lake, run.ledger, [table for table in tables if run.lake.exists(table.table)])
