"""The tables that analysts read: made what their staging tables are, row by row, and never swapped or dropped."""

from typing import Any

import psycopg
from psycopg import sql

from jobs.engine.errors import AssayError
from jobs.engine.publication import STAGING, Publication
from jobs.engine.sources import PublishedTable, index_name

READERS = {"gold": "analyst", "restricted": "restricted_reader"}  # the role that may read a schema's tables


def bring(connection: psycopg.Connection[Any], item: Publication) -> None:
    """Makes the live table what its staging table is, or adds its rows, in the caller's transaction.

    Raises AssayError if that cannot be done, or if one of the two has not as many rows as gold then.
    """
    _check_staging(connection, item)
    _check_name(connection, item)
    if column_types(connection, item.full_name):
        _match_columns(connection, item)
        _drop_other_key(connection, item)
        _match(connection, item)
    else:
        _create(connection, item)
    _check_row_count(connection, item)
    _complete(connection, item)


def keeps_readers_off(connection: psycopg.Connection[Any], item: Publication) -> bool:
    """Whether a live table gets other columns or another key: its readers wait then until the transaction ends."""
    found = column_types(connection, item.full_name)
    is_as_declared = found == column_types(connection, f"{STAGING}.{item.staging_name}")
    return bool(found) and not (is_as_declared and item.key in _keys(connection, item).values())


def row_count(connection: psycopg.Connection[Any], item: Publication) -> int:
    """How many rows the live table has."""
    return _count(connection, item.live)


def column_types(connection: psycopg.Connection[Any], table: str) -> dict[str, str]:
    """The columns of a table and their types, in order, as Postgres writes them."""
    rows = connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [table],
    )
    return dict(rows.fetchall())


def _check_name(connection: psycopg.Connection[Any], item: Publication) -> None:
    """Raises AssayError if something else than a table has the name of the live table."""
    kinds = connection.execute("SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", [item.full_name]).fetchone()
    if kinds and kinds[0] not in ("r", "p"):
        kind = {"i": "an index", "I": "an index", "v": "a view", "m": "a materialized view"}.get(
            kinds[0], "something else"
        )
        raise AssayError(
            f"{item.full_name} is {kind} in Postgres, and a table in this release; nothing was published",
            "rename or drop it, then run again",
        )


def _create(connection: psycopg.Connection[Any], item: Publication) -> None:
    """Makes the live table what its staging table is.

    Its key comes later: to index all rows at once is quicker than one by one. Its readers are granted it here, not by
    default privileges alone, which are those of one publisher's tables.
    """
    reader = sql.Identifier(READERS[item.table.schema_])
    parts = {"live": item.live, "staging": item.staging, "reader": reader}
    connection.execute(sql.SQL("CREATE TABLE {live} (LIKE {staging})").format(**parts))
    connection.execute(sql.SQL("INSERT INTO {live} SELECT * FROM {staging}").format(**parts))
    connection.execute(sql.SQL("GRANT SELECT ON {live} TO {reader}").format(**parts))


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
    """Takes from a live table that lacks the declared key the one it has: the rows to come need not fit that.

    Raises AssayError if something outside of Assay rests on it.
    """
    keys = _keys(connection, item)
    if item.key in keys.values():
        return
    for name, (is_primary, columns) in keys.items():
        try:
            connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(item.live, sql.Identifier(name)))
        except psycopg.errors.DependentObjectsStillExist as error:
            raise AssayError(
                f"{item.full_name} has the key ({', '.join(columns)}), which this release no longer has, and something "
                f"else rests on it ({error.diag.message_detail}); nothing was published",
                "drop what rests on it, then run again",
            ) from None
        if is_primary:  # its columns stay as they were under it
            for column in columns:
                connection.execute(
                    sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL").format(item.live, sql.Identifier(column))
                )


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


def _check_staging(connection: psycopg.Connection[Any], item: Publication) -> None:
    """Raises AssayError if the staging table has other than the rows that were loaded; keeps it as it is from here on.

    A load that was cut off from its run, whose host has vanished, could still add to it: rows of an older version.
    """
    connection.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(item.staging))
    loaded = item.state.row_count - (item.addition.before[0] if item.addition else 0)
    if (found := _count(connection, item.staging)) != loaded:
        raise AssayError(
            f"{item.full_name}: {loaded:,} rows were loaded, and {found:,} are there; nothing was published",
            "another run may have loaded meanwhile, or the load was repeated; run again",
        )


def _count(connection: psycopg.Connection[Any], table: sql.Composable) -> int:
    rows = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchone()
    assert rows is not None
    return int(rows[0])


def _check_row_count(connection: psycopg.Connection[Any], item: Publication) -> None:
    """Raises AssayError if the live table has not as many rows as gold."""
    found = row_count(connection, item)
    if found != item.state.row_count:
        raise AssayError(
            f"{item.full_name}: {item.state.row_count:,} rows in gold, {found:,} in Postgres; nothing was published",
            f"two rows may share the key ({', '.join(item.table.key)}), or the load was repeated; run again",
        )


def _complete(connection: psycopg.Connection[Any], item: Publication) -> None:
    """Brings key, indexes, comments and what the planner knows of the live table up to date."""
    if item.key not in _keys(connection, item).values():
        is_primary, names = item.key
        kind = sql.SQL("PRIMARY KEY" if is_primary else "UNIQUE NULLS NOT DISTINCT")
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        connection.execute(sql.SQL("ALTER TABLE {} ADD {} ({})").format(item.live, kind, columns))
    for index in item.table.indexes:
        name = index_name(item.name, index)
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


def _same_key(table: PublishedTable) -> sql.Composable:
    """Whether l and s have the same key; as text where a part may be NULL, as IS NOT DISTINCT FROM has no hash."""
    if table.primary_key:
        equal = [sql.SQL("l.{0} = s.{0}").format(sql.Identifier(name)) for name in table.primary_key]
        return sql.SQL(" AND ").join(equal)
    sides = [sql.SQL(", ").join(sql.Identifier(side, name) for name in table.unique_key) for side in "ls"]
    return sql.SQL("ROW({})::text = ROW({})::text").format(*sides)
