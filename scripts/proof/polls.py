"""A reader that polls while releases are made: in each of its snapshots, all tables must be of one release."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import IsolationLevel

from jobs.engine.database import Database


@dataclass
class Polls:
    """What a reader saw: how often it looked, the content of all tables by release, and what contradicted itself."""

    count: int = 0
    content: dict[int, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


@contextmanager
def polling(database: Database) -> Iterator[Polls]:
    """Looks as often as it can, until the end of the block, each time in one REPEATABLE READ transaction."""
    polls, ended = Polls(), threading.Event()

    def look_on() -> None:
        with psycopg.connect(database.conninfo()) as connection:
            connection.isolation_level = IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            while not ended.is_set():
                with connection.transaction():
                    look(connection, polls)

    reader = threading.Thread(target=look_on)
    reader.start()
    try:
        yield polls
    finally:
        ended.set()
        reader.join()


def look(connection: psycopg.Connection[tuple[object, ...]], polls: Polls) -> None:
    """Compares each published table with what the newest release says of it, and with what it was at the last look."""
    polls.count += 1
    recorded = connection.execute(
        "SELECT release_id, table_name, row_count FROM ops.release_tables "
        "WHERE release_id = (SELECT max(release_id) FROM ops.releases) ORDER BY table_name"
    ).fetchall()
    content = hashlib.sha256()
    for release, table, rows in recorded:
        found = connection.execute(f"SELECT t::text FROM {table} AS t ORDER BY 1").fetchall()
        content.update(repr(found).encode())
        if len(found) != rows:
            polls.wrong.append(f"release {release}: {table} has {len(found)} rows, and is said to have {rows}")
    if recorded:
        release = int(str(recorded[0][0]))
        if polls.content.setdefault(release, content.hexdigest()) != content.hexdigest():
            polls.wrong.append(f"release {release}: its tables are not what they were")
