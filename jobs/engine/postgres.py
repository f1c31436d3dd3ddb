"""Publishing to Postgres: staging tables over JDBC, then one transaction that makes the live tables match."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import sql
from py4j.protocol import Py4JJavaError
from pyspark.sql import Column, DataFrame, Observation, Row
from pyspark.sql import functions as F
from pyspark.sql.types import DateType, StructField, TimestampType

from jobs.engine import live_tables
from jobs.engine.database import Database, first_line
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.fingerprints import Fingerprint, fingerprint, metrics
from jobs.engine.publication import STAGING, Publication, as_postgres_writes_it
from jobs.engine.session import PROJECT

ROLES = tuple(live_tables.READERS.values())
_SCHEMAS = (*live_tables.READERS, "ops")
RELEASES = ("ops.releases", "ops.release_tables")
DocumentName = tuple[str, str]
"""A source, and a table of documents that it declares."""


class DocumentVersion(NamedTuple):
    """A version of a table of documents, and what identifies the table: None in a release of an earlier Assay."""

    version: int
    table: str | None


# Any number will do, so long as every publisher takes the same one.
_PUBLISH_LOCK, _STAGING_LOCK = 0x61737361, 0x61737362
_SECONDS_TO_WAIT = 60
_MOST_CONNECTIONS = 8  # over which a table is loaded: a server has a hundred for everybody, and a cluster many cores
_OLDEST_SERVER = 15  # that has UNIQUE NULLS NOT DISTINCT
_WHO_HOLDS = (
    "who: SELECT pid, usename, state, state_change FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE "
    "granted AND relation IS NOT NULL); end a forgotten transaction (SELECT pg_terminate_backend(pid)), then run again"
)
# Nothing is said on the connection while staging tables are filled, and millions of rows take their time, whatever an
# administrator allows others; one whose host vanished is to end before long.
_LIMITS = "'statement_timeout', 'transaction_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout'"
_LONG_SESSION = f"""SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ({_LIMITS});
SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"""
# How the JDBC driver says that the server is gone, and that it has refused a row: what is before a quote has no values.
_JDBC_LOST = re.compile(r"PSQLException: (?:FATAL|Connection to|An I/O error|This connection has been closed)")
_JDBC_FULL = re.compile(r"PSQLException: .*No space left on device")
# A server may speak another language than English (FEHLER: ..., ERREUR : ...), with other quotes; the driver does not.
_QUOTES = '"«»„“”「」'
_JDBC_REFUSED = re.compile(
    rf"PSQLException: (?!FATAL|PANIC)\w+ ?: (?!.*No space left on device)([^{_QUOTES}\n]*[{_QUOTES}]?)"
)


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
            f"{first_line(error)}",
            "start it, or mend POSTGRES_HOST, POSTGRES_PORT, POSTGRES_DB, POSTGRES_USER or POSTGRES_PASSWORD; "
            "without POSTGRES_HOST the embedded one is used",
        ) from None
    try:
        with connection:
            if connection.info.server_version < _OLDEST_SERVER * 10_000:
                raise AssayError(
                    f"Postgres at {address} is of version {connection.info.server_version // 10_000}",
                    f"publish to one of version {_OLDEST_SERVER} or newer",
                )
            if read_only:
                connection.execute("SET default_transaction_read_only = on")
            yield connection
    except psycopg.errors.InsufficientPrivilege as error:
        raise AssayError(
            f"Postgres user {database.user} may not do that in database {database.name} at {address}: "
            f"{first_line(error)}",
            f"what Assay publishes is to belong to {database.user}, which a backup that was restored may not: let an "
            f"administrator run ALTER ... OWNER TO {database.user} for schemas and tables of gold, restricted and ops",
        ) from None
    except psycopg.errors.LockNotAvailable as error:
        raise AssayError(
            f"Postgres at {address}, database {database.name}: another session has held a table of Assay for "
            f"{_SECONDS_TO_WAIT} seconds; nothing was published",
            _WHO_HOLDS,
        ) from error
    except (psycopg.OperationalError, Py4JJavaError) as error:
        if isinstance(error, Py4JJavaError) and not _JDBC_LOST.search(str(error)):
            raise
        raise AssayError(
            f"Postgres at {address}, database {database.name}, stopped or failed while it was used "
            f"({type(error).__name__ if isinstance(error, psycopg.Error) else 'over JDBC'})",
            "the release is there whole or not at all (assay releases); see the server's log, then run again"
            + ("; Spark workers on other machines do not reach the embedded one: set POSTGRES_HOST" * database.is_own),
        ) from error
    except psycopg.errors.IntegrityError:
        raise  # whoever sends rows says what is wrong with them
    except psycopg.Error as error:  # its text may quote values
        raise AssayError(
            f"Postgres at {address}, database {database.name}, refuses what it is asked to do ({type(error).__name__})",
            "the release is there whole or not at all (assay releases); run again with --verbose to see all of it",
        ) from error


def keep_others_off(connection: psycopg.Connection[Any]) -> None:
    """Lets no other publisher in until the connection is closed.

    Staging tables are the same for all of them: rows of another lakehouse could come between loading and release.
    Raises AssayError if another one is still at work after a minute. Nor does what follows wait longer for a table:
    whoever asked for it meanwhile would have to wait as well.
    """
    set_limits(connection)
    try:
        connection.execute("SELECT pg_advisory_lock(%s)", [_STAGING_LOCK])
    except psycopg.errors.LockNotAvailable:
        raise AssayError(
            f"another Assay publishes to Postgres at {connection.info.host}:{connection.info.port}, database "
            f"{connection.info.dbname}; nothing was published",
            "run again once it is done (assay releases); a database is for one lakehouse",
        ) from None


def set_limits(connection: psycopg.Connection[Any]) -> None:
    """Lets the connection wait a minute for a table that another session holds, and else take as long as it needs."""
    connection.execute(_LONG_SESSION)
    connection.execute("SELECT set_config('lock_timeout', %s, false)", [f"{_SECONDS_TO_WAIT}s"])


def without_limits(connection: psycopg.Connection[Any], database: Database) -> Database:
    """The database, to be loaded over connections that an administrator's limits of time do not hold for, either."""
    limited = connection.execute(f"SELECT name FROM pg_settings WHERE name IN ({_LIMITS}) AND reset_val <> '0'")
    return replace(database, jdbc_options=" ".join(f"-c {name}=0" for (name,) in limited))


def prepare(connection: psycopg.Connection[Any], passwords: Mapping[str, str]) -> None:
    """Makes schemas, ops tables and roles where they are missing, and grants what they may read to new ones.

    Grants are not made again: what an administrator has revoked since stays so. A new role gets the password of
    `passwords`; without one, only an administrator can let somebody in.
    Raises AssayError naming the missing grant.
    """
    try:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_PUBLISH_LOCK])
            is_new = [_make_role(connection, role, passwords.get(role)) for role in ROLES]
            is_new += [not has_tables(connection, *RELEASES), not _has_schemas(connection)]
            connection.execute((PROJECT / "conf/postgres/ops.sql").read_text())
            if any(is_new):
                connection.execute((PROJECT / "conf/postgres/grants.sql").read_text())
    except psycopg.errors.InsufficientPrivilege as error:
        user = connection.info.user
        if _has_schemas(connection) and all(_has_role(connection, role) for role in ROLES):
            raise  # all there is to make is there, and is somebody else's
        raise AssayError(
            f"Postgres user {user} lacks a privilege: {first_line(error)}",
            f"let an administrator run: GRANT CREATE ON DATABASE {connection.info.dbname} TO {user}; "
            f"ALTER ROLE {user} CREATEROLE;  -- or CREATE ROLE {'; CREATE ROLE '.join(ROLES)};",
        ) from None


def has_tables(connection: psycopg.Connection[Any], *names: str) -> bool:
    """Whether all these tables are there: a database that nothing was published to has none."""
    rows = connection.execute("SELECT to_regclass(name) IS NULL FROM unnest(%s::text[]) AS name", [list(names)])
    return not any(is_missing for (is_missing,) in rows)


class ReleasedTable(NamedTuple):
    """What a release holds of one table; `withheld_checksum` is of newer rows that a rollback holds back, if any."""

    delta_version: int
    row_count: int
    checksum: str
    definition: str
    withheld_checksum: str | None

    @property
    def fingerprint(self) -> Fingerprint:
        """That of its rows."""
        return Fingerprint(self.row_count, self.checksum)


def is_of_another(connection: psycopg.Connection[Any], lakehouse: str, release_id: int | None = None) -> bool:
    """Whether a release, or without a number the newest, is known to have been published from another lakehouse."""
    if not has_tables(connection, *RELEASES):
        return False
    row = connection.execute(
        "SELECT to_jsonb(r) ->> 'lakehouse' FROM ops.releases AS r WHERE release_id = coalesce(%s::bigint, "
        "(SELECT max(release_id) FROM ops.releases))",
        [release_id],
    ).fetchone()
    return row is not None and row[0] not in (None, lakehouse)


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
        "SELECT table_name, delta_version, row_count, checksum, definition, to_jsonb(t) ->> 'withheld_checksum' "
        f"FROM ops.release_tables AS t WHERE {condition} ORDER BY table_name",
        values,
    )
    return {name: ReleasedTable(*values) for name, *values in rows}


def of_no_release(connection: psycopg.Connection[Any]) -> list[str]:
    """The tables that an earlier release holds and the newest does not, as those of a lakehouse that was taken over."""
    rows = connection.execute(
        "SELECT DISTINCT table_name FROM ops.release_tables WHERE to_regclass(table_name) IS NOT NULL EXCEPT "
        "SELECT table_name FROM ops.release_tables WHERE release_id = (SELECT max(release_id) FROM ops.releases) "
        "ORDER BY table_name"
    )
    return [name for (name,) in rows]


def published_documents(
    connection: psycopg.Connection[Any], release_id: int | None = None
) -> dict[DocumentName, DocumentVersion]:
    """Which version of each table of documents goes with a release; without a number, with the newest."""
    if not has_tables(connection, "ops.release_documents"):
        return {}
    # As JSON, so that the table of an earlier Assay, which lacks the column, can be asked, too.
    rows = connection.execute(
        "SELECT source, document, delta_version, to_jsonb(d) ->> 'delta_table' FROM ops.release_documents AS d "
        "WHERE release_id = coalesce(%s::bigint, (SELECT max(release_id) FROM ops.releases))",
        [release_id],
    )
    return {(source, document): DocumentVersion(version, table) for source, document, version, table in rows}


def create_staging(connection: psycopg.Connection[Any], item: Publication) -> None:
    """An empty staging table. It is not logged: a crash only costs the load, which is done again."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in item.columns.items()
    )
    with _said_of(item), connection.transaction():
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(item.staging))
        try:
            connection.execute(sql.SQL("CREATE UNLOGGED TABLE {} ({})").format(item.staging, columns))
        except (psycopg.errors.UndefinedObject, psycopg.errors.SyntaxError, psycopg.DataError) as error:
            raise ConfigurationError(
                f"{item.full_name}: Postgres does not make columns as they are declared: {first_line(error)}",
                "nothing was published; mend `types` of the table in conf/sources",
            ) from None


def load_staging(frame: DataFrame, database: Database, item: Publication) -> Fingerprint:
    """Loads the rows over JDBC, in parallel from the executors. Returns the fingerprint of those that were sent.

    Raises AssayError naming the table if Postgres refuses a row.
    """
    observed = Observation()
    # Not by the option numPartitions, for which Spark plans the rows anew, and nothing is observed.
    rows = frame.observe(observed, *metrics(frame)).select(*map(_sent, frame.schema)).coalesce(_MOST_CONNECTIONS)
    writer = rows.write.format("jdbc").mode("append")
    writer = writer.options(
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
        # Spark logs what the driver says of a refused batch: not the rows of it, nor what the server says in detail.
        logServerErrorDetail="false",
    )
    try:
        writer.save()
    except Py4JJavaError as error:
        text = str(error)
        if _JDBC_FULL.search(text):
            raise AssayError(
                f"{item.full_name}: no space is left for it in Postgres at {database.host}; nothing was published",
                "make room on its server, then run again",
            ) from error
        if (refused := _JDBC_REFUSED.search(text)) and not _JDBC_LOST.search(text):
            with connect(database, read_only=True):  # one that is going away says so in its own language, too
                pass
            why = re.sub(f"[{_QUOTES}]", "...", refused[1])
            raise AssayError(
                f"{item.full_name}: Postgres refused rows that were loaded ({why}); nothing was published",
                "if it is about a value, a type that is declared for a column (conf/sources) may be too narrow; run "
                "again with --verbose to see all of it, which may quote values",
            ) from error
        raise
    return fingerprint(observed.get)


def _sent(field: StructField) -> Column:
    """A column as it is sent: days and times as text, for in JDBC's calendar 1582-10-05 to 14 are missing.

    In arrays they go by that calendar. Postgres refuses what is before the year 1, which it writes in another way.
    """
    if isinstance(field.dataType, DateType):
        return as_postgres_writes_it(field.name)
    if isinstance(field.dataType, TimestampType):
        return F.concat(as_postgres_writes_it(field.name), F.lit("+00")).alias(field.name)
    return F.col(field.name)


def release(
    connection: psycopg.Connection[Any],
    run_id: str,
    lakehouse: str,
    changed: Sequence[Publication],
    unchanged: Sequence[Publication],
    rolled_back_to: int | None = None,
    *,
    ledger_commit: str | None = None,
    take_over: bool = False,
) -> int | None:
    """Makes every changed table match its staging table and records the release, all in the caller's transaction.

    Returns the release's number; None if nothing changed. Tables of other sources are carried over from the last one,
    but for those that were dropped since, and those of another lakehouse. `ledger_commit` is the newest of this one.
    Raises AssayError if another one has published meanwhile, unless this one is to `take_over`.
    """
    if not changed:
        return None
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_PUBLISH_LOCK])
    if not take_over:
        verify_owner(connection, lakehouse)
    # What keeps readers off a table until the release is made comes last.
    for item in sorted(changed, key=lambda item: live_tables.keeps_readers_off(connection, item)):
        with _said_of(item):
            live_tables.bring(connection, item)
    newest = connection.execute(
        "INSERT INTO ops.releases (run_id, rolled_back_to, lakehouse, ledger_commit) VALUES (%s, %s, %s, %s) "
        "RETURNING release_id",
        [run_id, rolled_back_to, lakehouse, ledger_commit],
    ).fetchone()
    assert newest is not None
    named = [*changed, *unchanged]
    connection.cursor().executemany(
        "INSERT INTO ops.release_tables "
        "(release_id, table_name, delta_version, row_count, checksum, definition) VALUES (%s, %s, %s, %s, %s, %s)",
        [(newest[0], i.full_name, i.state.delta_version, *i.state.fingerprint, i.definition) for i in named],
    )
    columns = "table_name, delta_version, row_count, checksum, definition, withheld_checksum"
    connection.execute(
        f"INSERT INTO ops.release_tables (release_id, {columns}) "
        f"SELECT %(new)s, {columns} FROM ops.release_tables JOIN ops.releases USING (release_id) "
        "WHERE release_id = (SELECT max(release_id) FROM ops.releases WHERE release_id < %(new)s) "
        "AND coalesce(lakehouse, %(own)s) = %(own)s AND to_regclass(table_name) IS NOT NULL "
        "AND table_name <> ALL(%(named)s)",
        {"new": newest[0], "own": lakehouse, "named": [item.full_name for item in named]},
    )
    return int(newest[0])


def verify_owner(connection: psycopg.Connection[Any], lakehouse: str) -> None:
    """Raises AssayError if the newest release was published from another lakehouse, which would not know of the next.

    Decision: sample data, or a developer's, must not take the place of what analysts read because POSTGRES_HOST was
    set. So a database has one lakehouse; what it holds from before that was recorded is anybody's.
    """
    if is_of_another(connection, lakehouse):
        where = f"{connection.info.host}:{connection.info.port}, database {connection.info.dbname}"
        raise AssayError(
            f"what is published in Postgres at {where}, is from another lakehouse; nothing was published",
            "mend POSTGRES_HOST, POSTGRES_DB or ASSAY_LAKEHOUSE; if this lakehouse is to take the other one's place: "
            "assay run --take-over",
        )


def ledger_commit(connection: psycopg.Connection[Any]) -> str | None:
    """The newest commit to the lakehouse's ledger when the newest release was made; None if that is not known."""
    if not has_tables(connection, *RELEASES):
        return None
    row = connection.execute(
        "SELECT to_jsonb(r) ->> 'ledger_commit' FROM ops.releases AS r ORDER BY release_id DESC LIMIT 1"
    ).fetchone()
    return row[0] if row else None


def record_ledger_commit(connection: psycopg.Connection[Any], commit: str) -> None:
    """Has the newest release be of the lakehouse as it is now."""
    newest = "WHERE release_id = (SELECT max(release_id) FROM ops.releases)"
    connection.execute(f"UPDATE ops.releases SET ledger_commit = %s {newest}", [commit])


@contextmanager
def said_if_refused(says: str, hint: str) -> Iterator[None]:
    """Raises AssayError naming table and constraint if a constraint refuses rows; its own text may quote values."""
    try:
        yield
    except psycopg.errors.IntegrityError as error:
        refused, constraint = error.diag, error.diag.constraint_name or error.diag.column_name
        raise AssayError(f"{refused.schema_name}.{refused.table_name}: {says} ({constraint})", hint) from None


@contextmanager
def _said_of(item: Publication) -> Iterator[None]:
    """Raises AssayError naming the table if another session holds it, or if a row's text is too long to index."""
    try:
        yield
    except psycopg.errors.LockNotAvailable:
        raise AssayError(
            f"{item.full_name}: another session has held it, or its staging table, for {_SECONDS_TO_WAIT} seconds; "
            "nothing was published",
            _WHO_HOLDS,
        ) from None
    except psycopg.errors.ProgramLimitExceeded as error:
        index = error.diag.constraint_name or "its key or an index"  # of very long ones, Postgres does not say which
        raise AssayError(
            f"{item.full_name}: a row has a text that is too long for {index}; nothing was published",
            "Postgres indexes at most 2,704 bytes a row: hold such rows back with a rule (conf/sources) and have "
            "them refined anew (assay run --source ... --from ...); or take the column out of keys and indexes",
        ) from None


def withhold(connection: psycopg.Connection[Any], withheld: Mapping[str, str | None]) -> None:
    """Records in the newest release which newer rows of a table are held back, by checksum; None: none are."""
    connection.cursor().executemany(
        "UPDATE ops.release_tables SET withheld_checksum = %s WHERE table_name = %s "
        "AND release_id = (SELECT max(release_id) FROM ops.releases) AND withheld_checksum IS DISTINCT FROM %s",
        [(value, name, value) for name, value in withheld.items()],
    )


def record_documents(
    connection: psycopg.Connection[Any],
    release_id: int,
    versions: Mapping[DocumentName, DocumentVersion],
    sources: Sequence[str],
) -> None:
    """Records the documents that go with a release; those of other than `sources` are carried over from the last."""
    connection.cursor().executemany(
        "INSERT INTO ops.release_documents (release_id, source, document, delta_version, delta_table) "
        "VALUES (%s, %s, %s, %s, %s)",
        [(release_id, *name, *version) for name, version in versions.items()],
    )
    connection.execute(
        "INSERT INTO ops.release_documents (release_id, source, document, delta_version, delta_table) "
        "SELECT %s, source, document, delta_version, delta_table FROM ops.release_documents "
        "WHERE release_id = (SELECT max(release_id) FROM ops.releases WHERE release_id < %s) AND source <> ALL(%s)",
        [release_id, release_id, list(sources)],
    )


def first_run(connection: psycopg.Connection[Any]) -> str | None:
    """The run of the first release, which tells a database from all others; None before there is one."""
    row = connection.execute("SELECT run_id FROM ops.releases ORDER BY release_id LIMIT 1").fetchone()
    return str(row[0]) if row else None


def known_runs(connection: psycopg.Connection[Any], table: str, sources: Sequence[str]) -> list[tuple[str, str]]:
    """The sources, of these, and runs of which an ops table has rows."""
    there = f"SELECT DISTINCT source, run_id FROM {table} WHERE source = ANY(%s)"
    return connection.execute(there, [list(sources)]).fetchall()


def copy_new(connection: psycopg.Connection[Any], table: str, columns: list[str], rows: Iterable[Row]) -> None:
    """Copies rows of the ledger to an ops table."""
    with connection.cursor().copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
        for row in rows:
            # Spark gives times in the zone of this machine, and Postgres would take them for times in its own.
            copy.write_row([value.astimezone(UTC) if isinstance(value, datetime) else value for value in row])


def drop_staging(connection: psycopg.Connection[Any], items: Sequence[Publication]) -> None:
    """Drops the items' staging tables; also those that a crash left, unless another publisher is at work."""
    left = [] if other_publishers(connection) else staging_tables(connection)
    drop_staging_tables(connection, sorted({*left, *[item.staging_name for item in items]}))


def staging_tables(connection: psycopg.Connection[Any]) -> list[str]:
    """The staging tables there are, none of which is left when a run has ended."""
    rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", [STAGING])
    return [name for (name,) in rows]


def drop_staging_tables(connection: psycopg.Connection[Any], names: Sequence[str]) -> None:
    """One that somebody reads, as a backup does, stays, for the next run to drop."""
    for name in names:
        with suppress(psycopg.errors.LockNotAvailable):
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(STAGING, name)))


def other_publishers(connection: psycopg.Connection[Any]) -> bool:
    """Whether another session of Assay is connected: a publisher keeps its own open while it fills staging tables."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = current_setting('application_name') AND pid <> pg_backend_pid())"
    ).fetchone()
    return row is not None and bool(row[0])


def _make_role(connection: psycopg.Connection[Any], role: str, password: str | None) -> bool:
    """Makes a role unless it is there; whether it was made."""
    if _has_role(connection, role):
        return False
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
    try:
        with connection.transaction():
            connection.execute(create)
    except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        return False  # roles are the server's, and who publishes to another database of it was quicker
    if role == live_tables.READERS["gold"]:  # `assay serve` reads as the publisher in this role
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(role)))
    return True


def _has_role(connection: psycopg.Connection[Any], role: str) -> bool:
    return connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone() is not None


def _has_schemas(connection: psycopg.Connection[Any]) -> bool:
    found = "SELECT to_regnamespace(name) IS NOT NULL FROM unnest(%s::text[]) AS name"
    return all(is_there for (is_there,) in connection.execute(found, [list(_SCHEMAS)]))
