"""Publishing to Postgres: staging tables over JDBC, then one transaction that makes the live tables match."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import sql
from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, Observation, Row
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    IntegerType,
    LongType,
    ShortType,
    StringType,
    TimestampType,
)

from jobs.engine.database import Database
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.ledger import TableState
from jobs.engine.session import PROJECT
from jobs.engine.sources import Computed, PublishedTable
from jobs.engine.versions import fingerprint, metrics

ROLES = ("analyst", "restricted_reader")
STAGING = "assay_staging"
RELEASES = ("ops.releases", "ops.release_tables")
DocumentName = tuple[str, str]
"""A source, and a table of documents that it declares."""
# Any number will do, so long as every publisher takes the same one.
_PUBLISH_LOCK = 0x61737361
# How the JDBC driver says that the server is gone; what it says of rows is another matter.
_JDBC_LOST = re.compile(r"PSQLException: (?:FATAL|Connection to|An I/O error|This connection has been closed)")
_TYPES: dict[type[DataType], str] = {
    StringType: "text",
    LongType: "bigint",
    IntegerType: "integer",
    ShortType: "smallint",
    DoubleType: "double precision",
    BooleanType: "boolean",
    DateType: "date",
    TimestampType: "timestamptz",
}


@dataclass(frozen=True)
class Addition:
    """The rows that came to a gold table since it was published, if none went.

    `before`: how many it had then, and their checksum.
    """

    rows: DataFrame
    before: tuple[int, str]


@dataclass(frozen=True)
class Publication:
    """One gold table on its way to Postgres. `columns` maps each column to its Postgres type, in order.

    With an `addition`, only its rows are staged: the live table has the others.
    """

    name: str
    table: PublishedTable
    state: TableState
    columns: dict[str, str]
    addition: Addition | None = None

    @property
    def full_name(self) -> str:
        return f"{self.table.schema_}.{self.name}"

    @property
    def live(self) -> sql.Identifier:
        return sql.Identifier(self.table.schema_, self.name)

    @property
    def staging_name(self) -> str:
        return f"{self.table.schema_}__{self.name}"

    @property
    def staging(self) -> sql.Identifier:
        return sql.Identifier(STAGING, self.staging_name)

    @property
    def rows(self) -> tuple[int, str]:
        """How many rows gold has, and their checksum."""
        return self.state.row_count, self.state.checksum

    @property
    def key(self) -> tuple[bool, list[str]]:
        """Whether the table has a primary key, and its key's columns."""
        return bool(self.table.primary_key), self.table.key

    @property
    def definition(self) -> str:
        """A fingerprint of all that is declared of the table: a change is published even if no row has changed."""
        declared = self.table.model_dump_json(exclude=set(Computed.model_fields))  # how it is computed does not show
        return hashlib.sha256(f"{declared}{self.columns}".encode()).hexdigest()[:16]


def publication(name: str, table: PublishedTable, state: TableState, frame: DataFrame, place: str) -> Publication:
    """How Postgres is to hold `frame`. Raises ConfigurationError if the declared columns are not the frame's."""
    if list(table.columns) != frame.columns:
        raise ConfigurationError(
            f"{place}.columns: declares {', '.join(table.columns)}; the transform makes {', '.join(frame.columns)}"
        )
    types = {field.name: table.types.get(field.name) or _postgres_type(field.dataType) for field in frame.schema}
    return Publication(name, table, state, types)


@contextmanager
def connect(database: Database, *, read_only: bool = False) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit mode. Raises AssayError that names the address and the way out.

    Also when the server goes away or fails while it is used.
    """
    address = f"{database.host}:{database.port}"
    try:
        connection = psycopg.connect(database.conninfo(), autocommit=True)
    except psycopg.OperationalError as error:
        raise AssayError(
            f"cannot connect to Postgres at {address}, database {database.name}, as {database.user}: "
            f"{_first_line(error)}",
            "start it, or mend POSTGRES_HOST, POSTGRES_PORT, POSTGRES_DB, POSTGRES_USER or POSTGRES_PASSWORD; "
            "without POSTGRES_HOST the embedded one is used",
        ) from None
    try:
        with connection:
            if read_only:
                connection.execute("SET default_transaction_read_only = on")
            yield connection
    except (psycopg.OperationalError, Py4JJavaError) as error:
        if isinstance(error, Py4JJavaError) and not _JDBC_LOST.search(str(error)):
            raise
        raise AssayError(
            f"Postgres at {address}, database {database.name}, stopped or failed while it was used "
            f"({type(error).__name__ if isinstance(error, psycopg.Error) else 'over JDBC'})",
            "the release is there whole or not at all (assay releases); see the server's log, then run again",
        ) from error


def prepare(connection: psycopg.Connection[Any], passwords: Mapping[str, str]) -> None:
    """Makes schemas, ops tables, roles and grants where they are missing.

    A new role gets the password of `passwords`; without one, only an administrator can let somebody in.
    Raises AssayError naming the missing grant.
    """
    try:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_PUBLISH_LOCK])
            for role in ROLES:
                _ensure_role(connection, role, passwords.get(role))
            connection.execute((PROJECT / "conf/postgres/ops.sql").read_text())
            connection.execute((PROJECT / "conf/postgres/grants.sql").read_text())
    except psycopg.errors.InsufficientPrivilege as error:
        user = connection.info.user
        raise AssayError(
            f"Postgres user {user} lacks a privilege: {_first_line(error)}",
            f"let an administrator run: GRANT CREATE ON DATABASE {connection.info.dbname} TO {user}; "
            f"ALTER ROLE {user} CREATEROLE;  -- or CREATE ROLE {'; CREATE ROLE '.join(ROLES)};",
        ) from None


def has_tables(connection: psycopg.Connection[Any], *names: str) -> bool:
    """Whether all these tables are there: a database that nothing was published to has none."""
    rows = connection.execute("SELECT to_regclass(name) IS NULL FROM unnest(%s::text[]) AS name", [list(names)])
    return not any(is_missing for (is_missing,) in rows)


class ReleasedTable(NamedTuple):
    """What a release holds of one table.

    `withheld_checksum` is of newer rows that a rollback holds back, if any; `lakehouse` is that of the Delta version,
    and unknown of a release that an earlier Assay made.
    """

    delta_version: int
    row_count: int
    checksum: str
    definition: str
    withheld_checksum: str | None
    lakehouse: str | None

    @property
    def rows(self) -> tuple[int, str]:
        """What tells its rows from others."""
        return self.row_count, self.checksum

    def is_of_another(self, lakehouse: str) -> bool:
        """Whether it is known to have been published from another lakehouse."""
        return self.lakehouse not in (None, lakehouse)


def published(connection: psycopg.Connection[Any]) -> dict[str, ReleasedTable]:
    """What the newest release holds, by table name; less the tables that are no longer there."""
    there = "release_id = (SELECT max(release_id) FROM ops.releases) AND to_regclass(table_name) IS NOT NULL"
    return _released(connection, there)


def released(connection: psycopg.Connection[Any], release_id: int) -> dict[str, ReleasedTable]:
    """What one release holds, by table name; empty if there is no such release."""
    return _released(connection, "release_id = %s", release_id)


def _released(connection: psycopg.Connection[Any], condition: LiteralString, *values: Any) -> dict[str, ReleasedTable]:
    # By way of JSON, a database that an earlier Assay made can be read before it has the newest columns.
    rows = connection.execute(
        "SELECT table_name, delta_version, row_count, checksum, definition, to_jsonb(t) ->> 'withheld_checksum', "
        f"to_jsonb(t) ->> 'lakehouse' FROM ops.release_tables AS t WHERE {condition} ORDER BY table_name",
        values,
    )
    return {name: ReleasedTable(*values) for name, *values in rows}


def published_documents(connection: psycopg.Connection[Any], release_id: int | None = None) -> dict[DocumentName, int]:
    """Which version of each table of documents goes with a release; without a number, with the newest."""
    if not has_tables(connection, "ops.release_documents"):
        return {}
    rows = connection.execute(
        "SELECT source, document, delta_version FROM ops.release_documents "
        "WHERE release_id = coalesce(%s::bigint, (SELECT max(release_id) FROM ops.releases))",
        [release_id],
    )
    return {(source, document): version for source, document, version in rows}


def create_staging(connection: psycopg.Connection[Any], item: Publication) -> None:
    """An empty staging table. It is not logged: a crash only costs the load, which is done again."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in item.columns.items()
    )
    with connection.transaction():
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(item.staging))
        connection.execute(sql.SQL("CREATE UNLOGGED TABLE {} ({})").format(item.staging, columns))


def row_count(connection: psycopg.Connection[Any], item: Publication) -> int:
    """How many rows the live table has."""
    rows = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(item.live)).fetchone()
    assert rows is not None
    return int(rows[0])


def load_staging(frame: DataFrame, database: Database, item: Publication) -> tuple[int, str]:
    """Loads the rows over JDBC, in parallel from the executors. Returns how many they were, and their checksum."""
    observed = Observation()
    frame.observe(observed, *metrics(frame.columns)).write.format("jdbc").mode("append").options(
        url=database.jdbc_url,
        driver="org.postgresql.Driver",
        user=database.user,
        password=database.password,
        dbtable=f'"{STAGING}"."{item.staging_name}"',
        # One round trip for many rows: twice as fast as a statement a row.
        reWriteBatchedInserts="true",
        # The server casts: to char(16), numeric(5,2) and the other declared types.
        stringtype="unspecified",
        batchsize="10000",
    ).save()
    return fingerprint(observed.get)


def release(
    connection: psycopg.Connection[Any],
    run_id: str,
    lakehouse: str,
    changed: Sequence[Publication],
    unchanged: Sequence[Publication],
    rolled_back_to: int | None = None,
) -> int | None:
    """Makes every changed table match its staging table and records the release, all in the caller's transaction.

    Returns the release's number; None if nothing changed. Tables of other sources are carried over from the last one.
    """
    if not changed:
        return None
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_PUBLISH_LOCK])
    for item in changed:
        if column_types(connection, item.full_name):
            _match_columns(connection, item)
            _drop_other_key(connection, item)
            _match(connection, item)
        else:
            _create_live(connection, item)
        _check_row_count(connection, item)
        _complete(connection, item)
    newest = connection.execute(
        "INSERT INTO ops.releases (run_id, rolled_back_to) VALUES (%s, %s) RETURNING release_id",
        [run_id, rolled_back_to],
    ).fetchone()
    assert newest is not None
    named = [*changed, *unchanged]
    connection.cursor().executemany(
        "INSERT INTO ops.release_tables "
        "(release_id, table_name, delta_version, row_count, checksum, definition, lakehouse) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s)",
        [(newest[0], i.full_name, i.state.delta_version, *i.rows, i.definition, lakehouse) for i in named],
    )
    columns = "table_name, delta_version, row_count, checksum, definition, withheld_checksum, lakehouse"
    connection.execute(
        f"INSERT INTO ops.release_tables (release_id, {columns}) SELECT %s, {columns} FROM ops.release_tables "
        "WHERE release_id = (SELECT max(release_id) FROM ops.releases WHERE release_id < %s) AND table_name <> ALL(%s)",
        [newest[0], newest[0], [item.full_name for item in named]],
    )
    return int(newest[0])


@contextmanager
def said_if_refused(says: str, hint: str) -> Iterator[None]:
    """Raises AssayError naming table and constraint if a constraint refuses rows; its own text may quote values."""
    try:
        yield
    except psycopg.errors.IntegrityError as error:
        refused, constraint = error.diag, error.diag.constraint_name or error.diag.column_name
        raise AssayError(f"{refused.schema_name}.{refused.table_name}: {says} ({constraint})", hint) from None


def withhold(connection: psycopg.Connection[Any], withheld: Mapping[str, str | None]) -> None:
    """Records in the newest release which newer rows of a table are held back, by checksum; None: none are."""
    connection.cursor().executemany(
        "UPDATE ops.release_tables SET withheld_checksum = %s WHERE table_name = %s "
        "AND release_id = (SELECT max(release_id) FROM ops.releases) AND withheld_checksum IS DISTINCT FROM %s",
        [(value, name, value) for name, value in withheld.items()],
    )


def record_documents(
    connection: psycopg.Connection[Any], release_id: int, versions: Mapping[DocumentName, int], sources: Sequence[str]
) -> None:
    """Records the documents that go with a release; those of other than `sources` are carried over from the last."""
    connection.cursor().executemany(
        "INSERT INTO ops.release_documents (release_id, source, document, delta_version) VALUES (%s, %s, %s, %s)",
        [(release_id, *name, version) for name, version in versions.items()],
    )
    connection.execute(
        "INSERT INTO ops.release_documents (release_id, source, document, delta_version) "
        "SELECT %s, source, document, delta_version FROM ops.release_documents "
        "WHERE release_id = (SELECT max(release_id) FROM ops.releases WHERE release_id < %s) AND source <> ALL(%s)",
        [release_id, release_id, list(sources)],
    )


def known_runs(connection: psycopg.Connection[Any], table: str) -> list[str]:
    """The runs of which an ops table has rows."""
    return [run_id for (run_id,) in connection.execute(f"SELECT DISTINCT run_id FROM {table}")]


def copy_new(connection: psycopg.Connection[Any], table: str, columns: list[str], rows: Iterable[Row]) -> None:
    """Copies rows of the ledger to an ops table."""
    with connection.cursor().copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def drop_staging(connection: psycopg.Connection[Any], items: Sequence[Publication]) -> None:
    """Drops the items' staging tables; also those that a crash left, unless another publisher is at work."""
    left = [] if other_publishers(connection) else staging_tables(connection)
    drop_staging_tables(connection, sorted({*left, *[item.staging_name for item in items]}))


def staging_tables(connection: psycopg.Connection[Any]) -> list[str]:
    """The staging tables there are, none of which is left when a run has ended."""
    rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", [STAGING])
    return [name for (name,) in rows]


def drop_staging_tables(connection: psycopg.Connection[Any], names: Sequence[str]) -> None:
    for name in names:
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(STAGING, name)))


def other_publishers(connection: psycopg.Connection[Any]) -> bool:
    """Whether another session of Assay is connected: a publisher keeps its own open while it fills staging tables."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = current_setting('application_name') AND pid <> pg_backend_pid())"
    ).fetchone()
    return row is not None and bool(row[0])


def _create_live(connection: psycopg.Connection[Any], item: Publication) -> None:
    """Makes the live table what its staging table is.

    Its key comes later: to index all rows at once is quicker than one by one.
    """
    parts = {"live": item.live, "staging": item.staging}
    connection.execute(sql.SQL("CREATE TABLE {live} (LIKE {staging})").format(**parts))
    connection.execute(sql.SQL("INSERT INTO {live} SELECT * FROM {staging}").format(**parts))


def _match_columns(connection: psycopg.Connection[Any], item: Publication) -> None:
    """Gives the live table the columns that it does not have yet. Never drops anything."""
    found = column_types(connection, item.full_name)
    wanted = column_types(connection, f"{STAGING}.{item.staging_name}")
    for name, kind in wanted.items():
        if name not in found:
            connection.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(item.live, sql.Identifier(name), sql.SQL(kind))
            )
        elif found[name] != kind:
            raise AssayError(
                f"{item.full_name}.{name} is {found[name]} in Postgres and {kind} in this release; "
                "nothing was published",
                f"alter the column, or drop {item.full_name}: Assay never drops a table that may be in use",
            )
    if extra := sorted(found.keys() - wanted.keys()):
        raise AssayError(
            f"{item.full_name} has a column {extra[0]!r} that this release no longer has; nothing was published",
            f"let its owner run: ALTER TABLE {item.full_name} DROP COLUMN {extra[0]}",
        )


def _keys(connection: psycopg.Connection[Any], item: Publication) -> dict[str, tuple[bool, list[str]]]:
    """The keys of the live table, by constraint: whether it is the primary one, and its columns.

    A unique constraint that takes two NULLs for different is somebody else's.
    """
    rows = connection.execute(
        "SELECT conname, contype = 'p', ARRAY("
        "SELECT attname::text FROM unnest(conkey) WITH ORDINALITY AS k(number, place) "
        "JOIN pg_attribute ON attrelid = conrelid AND attnum = number ORDER BY place) "
        "FROM pg_constraint JOIN pg_index ON indexrelid = conindid "
        "WHERE conrelid = to_regclass(%s) AND (contype = 'p' OR contype = 'u' AND indnullsnotdistinct)",
        [item.full_name],
    )
    return {name: (is_primary, columns) for name, is_primary, columns in rows}


def _drop_other_key(connection: psycopg.Connection[Any], item: Publication) -> None:
    """Takes from the live table a key that is no longer the declared one: the rows to come need not fit it.

    Raises AssayError if something outside of Assay rests on it.
    """
    for name, (is_primary, columns) in _keys(connection, item).items():
        if (is_primary, columns) == item.key:
            continue
        try:
            connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(item.live, sql.Identifier(name)))
        except psycopg.errors.DependentObjectsStillExist:
            raise AssayError(
                f"{item.full_name} has the key ({', '.join(columns)}), which this release no longer has, and another "
                "table refers to it; nothing was published",
                f"drop the foreign keys that refer to {item.full_name} (psql: \\d {item.full_name}), then run again",
            ) from None
        if is_primary:  # its columns stay as they were under it
            for column in columns:
                connection.execute(
                    sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL").format(item.live, sql.Identifier(column))
                )


def _complete(connection: psycopg.Connection[Any], item: Publication) -> None:
    """Brings key, indexes, comments and what the planner knows of the live table up to date."""
    if item.key not in _keys(connection, item).values():
        is_primary, names = item.key
        kind = sql.SQL("PRIMARY KEY" if is_primary else "UNIQUE NULLS NOT DISTINCT")
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        connection.execute(sql.SQL("ALTER TABLE {} ADD {} ({})").format(item.live, kind, columns))
    for index in item.table.indexes:
        name = f"{item.name}_by_{'_'.join(index)}"[:63]
        connection.execute(
            sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} ({})").format(
                sql.Identifier(name), item.live, sql.SQL(", ").join(map(sql.Identifier, index))
            )
        )
    connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(item.live, sql.Literal(item.table.description)))
    for column, comment in item.table.columns.items():
        connection.execute(
            sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(item.live, sql.Identifier(column), sql.Literal(comment))
        )
    connection.execute(sql.SQL("ANALYZE {}").format(item.live))


def column_types(connection: psycopg.Connection[Any], table: str) -> dict[str, str]:
    """The columns of a table and their types, in order, as Postgres writes them."""
    rows = connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [table],
    )
    return dict(rows.fetchall())


def _match(connection: psycopg.Connection[Any], item: Publication) -> None:
    """Takes out the rows that are gone or differ and puts in the new ones: only what changed costs.

    With an addition, there are only new ones.
    """
    columns = list(item.columns)
    same_key = _same_key(item.table)
    row = {
        side: sql.SQL("ROW({})").format(
            sql.SQL(", ").join(sql.SQL(f"{side}.{{}}").format(sql.Identifier(c)) for c in columns)
        )
        for side in "ls"
    }
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    parts = {"live": item.live, "staging": item.staging, "key": same_key, "names": names, **row}
    connection.execute(sql.SQL("ANALYZE {staging}").format(**parts))
    if not item.addition:
        connection.execute(
            sql.SQL(
                "DELETE FROM {live} AS l WHERE NOT EXISTS "
                "(SELECT FROM {staging} AS s WHERE {key} AND {l} IS NOT DISTINCT FROM {s})"
            ).format(**parts)
        )
    connection.execute(
        sql.SQL(
            "INSERT INTO {live} ({names}) SELECT {names} FROM {staging} AS s "
            "WHERE NOT EXISTS (SELECT FROM {live} AS l WHERE {key})"
        ).format(**parts)
    )


def _check_row_count(connection: psycopg.Connection[Any], item: Publication) -> None:
    """Raises AssayError if the live table has not as many rows as gold."""
    found = row_count(connection, item)
    if found != item.state.row_count:
        raise AssayError(
            f"{item.full_name}: {item.state.row_count:,} rows in gold, {found:,} in Postgres; nothing was published",
            f"two rows may share the key ({', '.join(item.table.key)}), or the load was repeated; run again",
        )


def _same_key(table: PublishedTable) -> sql.Composable:
    """Whether l and s have the same key; as text where a part may be NULL, as IS NOT DISTINCT FROM has no hash."""
    if table.primary_key:
        equal = [sql.SQL("l.{0} = s.{0}").format(sql.Identifier(name)) for name in table.primary_key]
        return sql.SQL(" AND ").join(equal)
    sides = [sql.SQL(", ").join(sql.Identifier(side, name) for name in table.unique_key) for side in "ls"]
    return sql.SQL("ROW({})::text = ROW({})::text").format(*sides)


def _ensure_role(connection: psycopg.Connection[Any], role: str, password: str | None) -> None:
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
        statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
        connection.execute(statement)


def _postgres_type(kind: DataType) -> str:
    if isinstance(kind, DecimalType):
        return f"numeric({kind.precision},{kind.scale})"
    if isinstance(kind, ArrayType):
        return f"{_postgres_type(kind.elementType)}[]"
    if type(kind) not in _TYPES:
        raise ConfigurationError(
            f"a published column has the type {kind.simpleString()}, which Postgres has no match for"
        )
    return _TYPES[type(kind)]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
