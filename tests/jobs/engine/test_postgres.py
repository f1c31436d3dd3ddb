"""Publishing against a real server: rights, changes of a table's shape, and what a release leaves alone."""

import random
import string
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import psycopg
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.sql import Row, SparkSession

from jobs.engine import postgres
from jobs.engine.database import Database
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.fingerprints import Fingerprint, measured
from jobs.engine.ledger import TableState
from jobs.engine.local_rows import local_rows
from jobs.engine.publication import Addition, Publication, publication
from jobs.engine.sources import PublishedTable


def thing(columns: dict[str, str], rows: int, **keys: Any) -> Publication:
    table = PublishedTable(
        **({"primary_key": ["id"]} | keys), description="Things", columns=dict.fromkeys(columns, "a column")
    )
    return Publication("things", table, TableState("gold/x/things", row_count=rows, checksum="sum"), columns)


def publish(database: Database, item: Publication, *rows: tuple[Any, ...]) -> int | None:
    with postgres.connect(database) as connection:
        postgres.prepare(connection, {})
        postgres.create_staging(connection, item)
        marks = ", ".join(["%s"] * len(item.columns))
        for row in rows:
            connection.execute(f"INSERT INTO assay_staging.gold__things VALUES ({marks})", row)
        with connection.transaction():
            return postgres.release(connection, "run", "lakehouse", [item], [])


def things(database: Database) -> list[tuple[Any, ...]]:
    with postgres.connect(database) as connection:
        return connection.execute("SELECT * FROM gold.things ORDER BY 1").fetchall()


def test_documents_of_other_sources_are_carried_over_from_release_to_release(database: Database) -> None:
    with postgres.connect(database) as connection:
        postgres.prepare(connection, {})
        for release, versions in ((1, {"a": 0, "b": 0}), (2, {"b": 1}), (3, {})):
            connection.execute("INSERT INTO ops.releases (run_id) VALUES ('r')")
            shown = {(source, "d"): (version, "table") for source, version in versions.items()}
            postgres.record_documents(connection, release, shown, list(versions))
        assert postgres.published_documents(connection) == {("a", "d"): (0, "table"), ("b", "d"): (1, "table")}


ID_N = {"id": "bigint", "n": "integer"}


def test_a_release_adds_changes_and_removes_rows_and_leaves_the_others_alone(database: Database) -> None:
    assert publish(database, thing(ID_N, 3), (1, 1), (2, 2), (3, None)) == 1
    with postgres.connect(database) as connection:
        untouched = connection.execute("SELECT ctid FROM gold.things WHERE id = 3").fetchone()
    assert publish(database, thing(ID_N, 3), (2, 22), (3, None), (4, 4)) == 2
    assert things(database) == [(2, 22), (3, None), (4, 4)]
    with postgres.connect(database) as connection:
        assert connection.execute("SELECT ctid FROM gold.things WHERE id = 3").fetchone() == untouched


def test_with_an_addition_only_its_rows_are_staged_and_the_others_stay(database: Database) -> None:
    publish(database, thing(ID_N, 2), (1, 1), (2, None))
    # Its frame and counts have been used by then.
    added = Addition(None, Fingerprint(2, "12"))  # type: ignore[arg-type]
    publish(database, replace(thing(ID_N, 3), addition=added), (3, 3))
    assert things(database) == [(1, 1), (2, None), (3, 3)]
    with pytest.raises(AssayError, match=r"gold.things: 4 rows in gold, 3 in Postgres; nothing was published"):
        publish(database, replace(thing(ID_N, 4), addition=replace(added, before=Fingerprint(3, "5"))), (3, 4))
    assert things(database) == [(1, 1), (2, None), (3, 3)]
    assert added.before.plus(Fingerprint(3, "-7")) == (5, "5")


def test_tables_that_a_release_does_not_change_are_in_it_unless_dropped_or_of_another_lakehouse(
    database: Database,
) -> None:
    publish(database, thing(ID_N, 1), (1, 1))
    with postgres.connect(database) as connection:
        connection.execute("CREATE TABLE gold.others (n int)")
        connection.execute("ALTER TABLE ops.release_tables DISABLE ROW LEVEL SECURITY")
        for name in ("gold.others", "gold.dropped"):
            connection.execute("INSERT INTO ops.release_tables VALUES (1, %s, 0, 5, '0', 'd')", [name])
    publish(database, thing(ID_N, 1), (1, 2))
    with postgres.connect(database) as connection:
        assert list(postgres.released(connection, 2)) == ["gold.others", "gold.things"]
        assert postgres.of_no_release(connection) == []
        with connection.transaction():
            taken_over = postgres.release(connection, "run", "a new lakehouse", [], [thing(ID_N, 1)], take_over=True)
        assert taken_over is None, "no table of its own, no release"
        postgres.create_staging(connection, thing(ID_N, 0))
        with connection.transaction():
            postgres.release(connection, "run", "a new lakehouse", [thing(ID_N, 0)], [], take_over=True)
        assert list(postgres.published(connection)) == ["gold.things"]
        assert postgres.of_no_release(connection) == ["gold.others"]
        secured = "SELECT relrowsecurity FROM pg_class WHERE oid = 'ops.release_tables'::regclass"
        assert connection.execute(secured).fetchone() == (True,)


def test_a_key_with_null_parts_is_matched(database: Database) -> None:
    item = thing(ID_N, 2, primary_key=[], unique_key=["id", "n"])
    publish(database, item, (1, None), (1, 1))
    publish(database, item, (1, None), (1, 2))
    assert set(things(database)) == {(1, 2), (1, None)}


def test_a_wrong_count_publishes_nothing(database: Database) -> None:
    publish(database, thing(ID_N, 1), (1, 1))
    for rows in ([(2, 2)], [(1, 1), (2, 2), (3, 3), (3, 4)]):  # lost, or of a load that was cut off from its run
        with pytest.raises(
            AssayError, match=rf"gold.things: 3 rows were loaded, and {len(rows)} are there; nothing was"
        ):
            publish(database, thing(ID_N, 3), *rows)
    with pytest.raises(AssayError, match=r"gold.things: 2 rows in gold, 1 in Postgres; nothing was published"):
        publish(database, thing(ID_N, 2), (1, 1), (1, 1))
    assert things(database) == [(1, 1)]


def test_a_table_that_another_session_holds_is_named_and_not_waited_for_without_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_SECONDS_TO_WAIT", 1)
    publish(database, thing(ID_N, 1), (1, 1))
    held = r"gold.things: another session has held it, or its staging table, for 1 seconds; nothing was published"
    for table in ("assay_staging.gold__things", "gold.things"):
        with psycopg.connect(database.conninfo()) as other, postgres.connect(database) as connection:
            item = thing({**ID_N, "new": "integer"}, 0)
            if table == "gold.things":
                postgres.create_staging(connection, item)
            other.execute(f"SELECT FROM {table}")  # and forgotten
            postgres.keep_others_off(connection)
            if table.startswith("assay_staging"):
                with pytest.raises(AssayError, match=held):
                    postgres.create_staging(connection, item)
                continue
            with pytest.raises(AssayError, match=held), connection.transaction():
                postgres.release(connection, "run", "lakehouse", [item], [])
    assert things(database) == [(1, 1)]


def test_a_staging_table_that_somebody_reads_is_left_to_the_next_run(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_SECONDS_TO_WAIT", 1)
    publish(database, item := thing(ID_N, 1), (1, 1))
    with psycopg.connect(database.conninfo()) as other, postgres.connect(database) as connection:
        other.execute("SELECT FROM assay_staging.gold__things")
        postgres.keep_others_off(connection)
        postgres.drop_staging(connection, [item])
        assert postgres.staging_tables(connection) == ["gold__things"]
        told = pytest.raises(AssayError, match="another session has held a table of Assay for 1 seconds")
        with told, postgres.connect(database) as third:
            third.execute("SET lock_timeout = '1s'; DROP TABLE assay_staging.gold__things")
    with postgres.connect(database) as connection:
        postgres.drop_staging(connection, [item])
        assert postgres.staging_tables(connection) == []


@pytest.mark.parametrize("wrong", [(4, 1), (None, 1)])
def test_a_key_that_is_none_publishes_nothing_and_is_named_without_its_values(
    database: Database, wrong: tuple[int | None, int]
) -> None:
    refused = "things_pkey" if wrong[0] else "id"
    with pytest.raises(AssayError) as error, postgres.said_if_refused("does not fit", "mend it"):
        publish(database, thing(ID_N, 2), (4, 1), wrong)
    assert str(error.value) == f"gold.things: does not fit ({refused})\n       mend it"
    with pytest.raises(AssayError, match="UndefinedTable"):
        things(database)
    publish(database, thing(ID_N, 1), (3, 1))
    with pytest.raises(AssayError) as error, postgres.said_if_refused("does not fit", "mend it"):
        publish(database, thing(ID_N, 3), (3, 1), (4, 1), wrong)
    assert str(error.value) == f"gold.things: does not fit ({refused})\n       mend it"
    assert things(database) == [(3, 1)]


@pytest.mark.parametrize(
    ("length", "keys", "index"),
    [
        (6_000, {"primary_key": ["note"]}, "things_pkey"),
        (6_000, {"indexes": [["note", "id"]]}, "things_by_note_id"),
        (20_000, {"primary_key": ["note"]}, "its key or an index"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_text_that_is_too_long_to_be_indexed_publishes_nothing_and_is_told_without_it(
    database: Database, length: int, keys: dict[str, Any], index: str, is_first: bool
) -> None:
    columns = {"id": "bigint", "note": "text"}
    if not is_first:
        publish(database, thing(columns, 1, **keys), (1, "short"))
    long = "".join(random.Random(7).choices(string.ascii_letters, k=length))  # which Postgres cannot compress enough
    with pytest.raises(AssayError) as error:
        publish(database, thing(columns, 2, **keys), (1, "short"), (2, long))
    assert error.value.message == f"gold.things: a row has a text that is too long for {index}; nothing was published"
    assert not {long[at : at + 6] for at in range(length)} & {str(error.value)[at : at + 6] for at in range(1_000)}
    with postgres.connect(database) as connection:
        assert list(postgres.published(connection)) == ([] if is_first else ["gold.things"])
    if not is_first:
        assert things(database) == [(1, "short")]


def test_a_first_release_makes_key_and_indexes(database: Database) -> None:
    publish(database, thing(ID_N, 1, indexes=[["n"], ["n", "id"]]), (1, 1))
    with postgres.connect(database) as connection:
        found = connection.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'things'").fetchall()
    assert sorted(definition for (definition,) in found) == [
        "CREATE INDEX things_by_n ON gold.things USING btree (n)",
        "CREATE INDEX things_by_n_id ON gold.things USING btree (n, id)",
        "CREATE UNIQUE INDEX things_pkey ON gold.things USING btree (id)",
    ]


def keys(database: Database) -> list[str]:
    with postgres.connect(database) as connection:
        found = connection.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE conrelid = 'gold.things'::regclass AND contype IN ('p', 'u') ORDER BY 1"
        ).fetchall()
    return [definition for (definition,) in found]


def test_a_key_that_is_declared_anew_takes_the_old_ones_place(database: Database) -> None:
    publish(database, thing(ID_N, 2), (1, 1), (2, 1))
    publish(database, thing(ID_N, 3, primary_key=["id", "n"]), (1, 1), (1, 2), (2, 1))
    assert keys(database) == ["PRIMARY KEY (id, n)"]
    assert things(database) == [(1, 1), (1, 2), (2, 1)]
    publish(database, thing(ID_N, 2, primary_key=[], unique_key=["n"]), (1, None), (1, 2))
    assert keys(database) == ["UNIQUE NULLS NOT DISTINCT (n)"]
    assert set(things(database)) == {(1, None), (1, 2)}
    with postgres.connect(database) as connection:  # an administrator's, which is not Assay's to drop
        connection.execute("ALTER TABLE gold.things ADD UNIQUE (id, n)")
    publish(database, thing(ID_N, 1), (7, None))
    assert keys(database) == ["PRIMARY KEY (id)", "UNIQUE (id, n)"]
    assert things(database) == [(7, None)]
    with postgres.connect(database) as connection:  # beside the declared key, this one is none of Assay's either
        connection.execute("ALTER TABLE gold.things ADD UNIQUE NULLS NOT DISTINCT (n)")
    publish(database, thing(ID_N, 1), (8, None))
    assert keys(database) == ["PRIMARY KEY (id)", "UNIQUE (id, n)", "UNIQUE NULLS NOT DISTINCT (n)"]


def test_rows_that_do_not_fit_a_new_key_publish_nothing_and_the_old_key_stays(database: Database) -> None:
    publish(database, thing(ID_N, 2), (1, 1), (2, 1))
    with pytest.raises(AssayError) as error, postgres.said_if_refused("does not fit", "mend it"):
        publish(database, thing(ID_N, 2, primary_key=["n"]), (3, 5), (4, 5))
    assert str(error.value) == "gold.things: does not fit (things_pkey)\n       mend it"
    assert (keys(database), things(database)) == (["PRIMARY KEY (id)"], [(1, 1), (2, 1)])


def test_a_key_that_another_table_refers_to_stays_and_the_release_says_so(database: Database) -> None:
    publish(database, thing(ID_N, 1), (1, 1))
    with postgres.connect(database) as connection:
        connection.execute("CREATE TABLE mine (id bigint REFERENCES gold.things)")
    says = r"gold.things has the key \(id\), .* else rests on it \(constraint mine_id_fkey on table mine depends"
    with pytest.raises(AssayError, match=says):
        publish(database, thing(ID_N, 1, primary_key=["n"]), (1, 1))
    assert (keys(database), things(database)) == (["PRIMARY KEY (id)"], [(1, 1)])


def test_a_new_column_is_added_and_views_stay(database: Database) -> None:
    publish(database, thing(ID_N, 1), (1, 1))
    with postgres.connect(database) as connection:
        connection.execute("CREATE VIEW gold.mine AS SELECT n FROM gold.things")
    publish(database, thing(ID_N | {"note": "text"}, 1), (1, 1, "new"))
    assert things(database) == [(1, 1, "new")]


def test_another_type_or_a_missing_column_stops_the_release_and_says_what_to_do(database: Database) -> None:
    publish(database, thing(ID_N, 1), (1, 1))
    with pytest.raises(AssayError, match=r"gold.things.n is integer in Postgres and text in this release"):
        publish(database, thing({"id": "bigint", "n": "text"}, 1), (1, "1"))
    with pytest.raises(AssayError, match=r"has a column 'n' that this release no longer has"):
        publish(database, thing({"id": "bigint"}, 1), (1,))
    assert things(database) == [(1, 1)]


def test_other_sources_tables_are_carried_over_into_the_next_release(database: Database) -> None:
    publish(database, thing(ID_N, 1), (1, 1))
    other = replace(thing(ID_N, 0), name="others")
    with postgres.connect(database) as connection:
        postgres.create_staging(connection, other)
        with connection.transaction():
            postgres.release(connection, "run 2", "lakehouse", [other], [])
        assert sorted(postgres.published(connection)) == ["gold.others", "gold.things"]


@pytest.fixture
def plain_user(database: Database) -> Iterator[Database]:
    """Somebody who may log in and nothing else."""
    with psycopg.connect(database.conninfo(), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS plain")
        connection.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    yield database.as_user("plain", "plain")
    with psycopg.connect(database.conninfo(), autocommit=True) as connection:
        connection.execute("DROP OWNED BY plain CASCADE")
        connection.execute("DROP ROLE plain")


def test_a_missing_grant_is_named(plain_user: Database) -> None:
    with (
        postgres.connect(plain_user) as connection,
        pytest.raises(AssayError, match=r"lacks a privilege") as error,
    ):
        postgres.prepare(connection, {})
    assert f"GRANT CREATE ON DATABASE {plain_user.name} TO plain" in str(error.value)


def test_rights_to_create_schemas_and_roles_are_enough(database: Database, plain_user: Database) -> None:
    with psycopg.connect(database.conninfo(), autocommit=True) as connection:
        connection.execute(f'GRANT CREATE ON DATABASE "{database.name}" TO plain')
        connection.execute("ALTER ROLE plain CREATEROLE")
    assert publish(plain_user, thing(ID_N, 1), (1, 1)) == 1
    # What an administrator puts there, or takes from readers, stays so.
    with psycopg.connect(database.conninfo(), autocommit=True) as connection:
        may_read = "SELECT has_table_privilege('analyst', 'gold.things', 'SELECT')"
        assert connection.execute(may_read).fetchone() == (True,)
        connection.execute("CREATE VIEW gold.mine AS SELECT 1 AS n; REVOKE SELECT ON gold.things FROM analyst")
        connection.execute("REVOKE USAGE ON SCHEMA restricted FROM restricted_reader")
        connection.execute("REVOKE SELECT ON ops.row_accounts FROM analyst")
        assert publish(plain_user, thing(ID_N, 1), (2, 1)) == 2
        assert connection.execute(may_read).fetchone() == (False,)
        still = (
            "SELECT has_schema_privilege('restricted_reader', 'restricted', 'USAGE'), "
            "has_table_privilege('analyst', 'ops.row_accounts', 'SELECT'), "
            "has_table_privilege('analyst', 'ops.releases', 'SELECT')"
        )
        assert connection.execute(still).fetchone() == (False, False, True)
        # A schema that is made anew is granted anew, but for what is of no release now, or has moved.
        for table, release in {"former": 1, "moved": 2}.items():
            connection.execute(f"CREATE TABLE gold.{table} (); REVOKE ALL ON gold.{table} FROM analyst")
            connection.execute(f"ALTER TABLE gold.{table} OWNER TO plain")
            connection.execute(f"INSERT INTO ops.release_tables VALUES ({release}, 'gold.{table}', 0, 0, '0', 'd')")
        connection.execute("INSERT INTO ops.release_tables VALUES (1, 'restricted.moved', 0, 0, '0', 'd')")
        connection.execute("DROP SCHEMA restricted CASCADE")
        assert publish(plain_user, thing(ID_N, 1), (3, 1)) == 3
        assert connection.execute(still).fetchone() == (True, True, True)
        # So is what is published, as after a backup was restored on a server that has no such roles.
        assert connection.execute(may_read).fetchone() == (True,)
        for table in ("former", "moved"):
            assert connection.execute(may_read.replace("things", table)).fetchone() == (False,)


def test_readers_may_read_what_another_publisher_makes(database: Database, plain_user: Database) -> None:
    publish(database, thing(ID_N, 1), (1, 1))
    with psycopg.connect(database.conninfo(), autocommit=True) as connection:
        connection.execute(f'GRANT CREATE ON DATABASE "{database.name}" TO plain')
        connection.execute("DROP TABLE gold.things")
        for schema in ("gold", "restricted", "ops", "assay_staging"):
            connection.execute(f"ALTER SCHEMA {schema} OWNER TO plain")
        tables = connection.execute("SELECT 'ops.' || tablename FROM pg_tables WHERE schemaname = 'ops'")
        for (table,) in tables.fetchall():
            connection.execute(f"ALTER TABLE {table} OWNER TO plain")
        assert publish(plain_user, thing(ID_N, 1), (2, 1)) == 2
        may_read = connection.execute("SELECT has_table_privilege('analyst', 'gold.things', 'SELECT')").fetchone()
    assert may_read == (True,)


def test_what_belongs_to_somebody_else_is_named(database: Database, plain_user: Database) -> None:
    publish(database, thing(ID_N, 1), (1, 1))
    with psycopg.connect(database.conninfo(), autocommit=True) as connection:
        connection.execute(f'GRANT CREATE ON DATABASE "{database.name}" TO plain')
    with pytest.raises(
        AssayError, match=r"user plain may not do that in .*: permission denied for schema ops"
    ) as error:
        publish(plain_user, thing(ID_N, 1), (2, 1))
    assert "ALTER ... OWNER TO plain" in str(error.value)
    assert things(database) == [(1, 1)]


def test_a_row_that_is_refused_is_told_of_in_any_language_without_its_values() -> None:
    for said, kept in (
        ('ERROR: invalid input syntax for type integer: "Ann"', 'invalid input syntax for type integer: "'),
        ("FEHLER: ungültige Eingabesyntax für Typ integer: »Ann«", "ungültige Eingabesyntax für Typ integer: »"),
        ("ERREUR : syntaxe en entrée invalide : « Ann »", "syntaxe en entrée invalide : «"),
    ):
        found = postgres._JDBC_REFUSED.search(f"org.postgresql.util.PSQLException: {said}\n\tat org.postgresql")
        assert found is not None
        assert found[1] == kept
    for lost in ("FATAL: terminating connection", "An I/O error occurred", "ERROR: x: No space left on device"):
        assert not postgres._JDBC_REFUSED.search(f"PSQLException: {lost}")


def test_times_of_the_ledger_are_the_same_in_every_zone(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    try:
        with postgres.connect(database) as connection:
            connection.execute("SET timezone = 'America/New_York'; CREATE TEMP TABLE times (at timestamptz)")
            at = datetime(2026, 7, 1, 12, 0, 0, 123456)  # as Spark gives it: in the machine's zone
            postgres.copy_new(connection, "times", ["at"], [Row(at)])
            (found,) = connection.execute("SELECT at AT TIME ZONE 'UTC' FROM times").fetchone() or ()
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found == datetime(2026, 7, 1, 10, 0, 0, 123456)


def test_the_limits_of_others_do_not_end_a_release(database: Database, spark: SparkSession) -> None:
    limits = ("statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout")
    with postgres.connect(database) as connection:
        # An older server does not know all of them.
        found = connection.execute(
            "SELECT set_config(name, '60s', false) FROM pg_settings WHERE name = ANY(%s)", [list(limits)]
        )
        assert found.rowcount >= 3
        postgres.keep_others_off(connection)
        found = connection.execute("SELECT DISTINCT setting FROM pg_settings WHERE name = ANY(%s)", [list(limits)])
        assert found.fetchall() == [("0",)]
        assert postgres.without_limits(connection, database) == database
    with psycopg.connect(database.conninfo(), autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{database.name}" SET statement_timeout = 300')
    with postgres.connect(database) as connection:
        postgres.keep_others_off(connection)
        postgres.prepare(connection, {})
        item = thing(ID_N, 1_000)
        postgres.create_staging(connection, item)
        connection.execute(
            "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.6); RETURN NULL; "
            "END $$; CREATE TRIGGER slowly BEFORE INSERT ON assay_staging.gold__things EXECUTE FUNCTION slowly()"
        )
        frame = spark.range(1_000).selectExpr("id", "cast(id AS INT) AS n").coalesce(1)
        assert postgres.load_staging(frame, postgres.without_limits(connection, database), item)[0] == 1_000


def test_a_server_that_is_too_old_is_refused_before_anything_is_loaded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_OLDEST_SERVER", 99)
    says = r"Postgres at 127\.0\.0\.1:\d+ is of version \d\d\n"
    with pytest.raises(AssayError, match=says) as error, postgres.connect(database):
        pass
    assert "version 99 or newer" in str(error.value.hint)


def test_spark_connects_with_tls_as_all_others_do(
    database: Database, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, database = f"jdbc:postgresql://127.0.0.1:{database.port}/{database.name}", replace(database, is_own=False)
    assert database.jdbc_url == address
    assert replace(database, host="::1").jdbc_url == address.replace("127.0.0.1", "[::1]")
    rows, item = local_rows(spark, [{"id": 1, "n": 1}], "id BIGINT, n INT"), thing(ID_N, 1)
    with postgres.connect(database) as connection:
        postgres.prepare(connection, {})
        postgres.create_staging(connection, item)
    assert postgres.load_staging(rows, database, item)[0] == 1
    monkeypatch.setenv("PGSSLMODE", "require")
    assert database.jdbc_url == f"{address}?sslmode=require"
    with pytest.raises(Py4JJavaError, match="does not support SSL"):
        postgres.load_staging(rows, database, item)
    # To libpq, these two mean that the server is verified.
    monkeypatch.setenv("PGSSLROOTCERT", "/etc/a b.pem")
    assert database.jdbc_url == f"{address}?sslmode=verify-ca&sslrootcert=%2Fetc%2Fa%20b.pem"
    monkeypatch.delenv("PGSSLMODE")
    monkeypatch.setenv("PGSSLROOTCERT", "system")
    assert database.jdbc_url == f"{address}?sslmode=verify-full&sslfactory=org.postgresql.ssl.DefaultJavaSSLFactory"


def test_what_the_shell_says_of_servers_is_not_about_the_embedded_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.2")  # nobody listens there
    given = replace(database, is_own=False)
    for reached in (database, given):
        with psycopg.connect(reached.conninfo()) as connection:
            assert connection.info.hostaddr == "127.0.0.1"
    for name, value in {"PGSSLMODE": "verify-full", "PGGSSENCMODE": "require", "PGCHANNELBINDING": "require"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(given.conninfo())
    psycopg.connect(database.conninfo()).close()
    assert database.jdbc_url.endswith("?sslmode=disable")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"port": 1}, "cannot connect to Postgres at 127.0.0.1:1"),
        ({"password": "wrong"}, "password authentication failed"),
        ({"name": "nowhere"}, 'database "nowhere" does not exist'),
    ],
)
def test_a_server_that_cannot_be_reached_is_named(database: Database, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(AssayError) as error, postgres.connect(replace(database, **changes)):
        pass
    assert says in str(error.value)
    assert "POSTGRES_HOST" in str(error.value)


def test_a_column_that_postgres_has_no_type_for_is_named(spark: SparkSession) -> None:
    table = PublishedTable(primary_key=["id"], description="d", columns={"id": "The id", "celsius": "Degrees"})
    state = TableState("gold/weather/warmest")
    rows = spark.sql("SELECT 1 AS id, array(1.5F) AS celsius")
    with pytest.raises(ConfigurationError, match=r"^weather.yaml, publish.warmest.columns.celsius: .* makes it float"):
        publication("warmest", table, state, rows, "weather.yaml, publish.warmest")


def test_what_is_not_a_table_is_left_alone_and_named(database: Database) -> None:
    publish(database, thing(ID_N, 1), (1, 1))
    for made, kind in (("VIEW gold.things AS SELECT 1 AS n", "a view"), ("INDEX things ON gold.other (n)", "an index")):
        with psycopg.connect(database.conninfo(), autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS gold.things; CREATE TABLE IF NOT EXISTS gold.other (n int)")
            connection.execute(f"CREATE {made}")
            with pytest.raises(AssayError, match=rf"gold.things is {kind} in Postgres, and a table in this release"):
                publish(database, thing(ID_N, 1), (1, 1))
            connection.execute("DROP VIEW IF EXISTS gold.things" if kind == "a view" else "DROP INDEX gold.things")


def test_a_type_that_postgres_does_not_know_is_named(database: Database) -> None:
    for kind, says in {
        "charcter(16)": 'type "charcter" does not exist',
        "char(0)": "length for type char must be",
    }.items():
        with pytest.raises(ConfigurationError, match=r"gold.things: Postgres does not make columns as they") as refused:
            publish(database, thing({"id": "bigint", "n": kind}, 1), (1, 1))
        assert says in str(refused.value)


def test_what_nobody_thought_of_is_said_without_values(database: Database) -> None:
    with (
        pytest.raises(AssayError, match=r"refuses what it is asked to do \(InvalidTextRepresentation\)") as error,
        postgres.connect(database) as connection,
    ):
        connection.execute("SELECT 'a value'::int")
    assert "a value" not in str(error.value)


def test_the_newest_release_tells_how_far_its_lakehouse_was(database: Database) -> None:
    with postgres.connect(database) as connection:
        assert postgres.ledger_commit(connection) is None, "nothing is published yet"
        postgres.prepare(connection, {})
        for commit in ("1 a", None, "2 b"):
            postgres.create_staging(connection, thing(ID_N, 0))
            with connection.transaction():
                postgres.release(connection, "run", "lakehouse", [thing(ID_N, 0)], [], ledger_commit=commit)
            assert postgres.ledger_commit(connection) == commit


def test_tables_that_keep_their_readers_off_come_last_in_a_release(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(database, thing(ID_N, 1), (1, 1))
    new = replace(thing(ID_N, 0), name="new")
    brought = list[str]()
    monkeypatch.setattr(postgres.live_tables, "bring", lambda _, item: brought.append(item.full_name))
    with postgres.connect(database) as connection:
        postgres.create_staging(connection, new)
        for item, is_kept_off in (
            (thing(ID_N, 1), False),
            (thing({**ID_N, "more": "text"}, 1), True),
            (thing(ID_N, 1, primary_key=["n"]), True),
        ):
            brought.clear()
            postgres.create_staging(connection, item)
            with connection.transaction():
                postgres.release(connection, "run", "lakehouse", [item, new], [])
            names = ["gold.things", "gold.new"]
            assert brought == (names[::-1] if is_kept_off else names)


def test_a_role_that_another_database_of_the_server_is_given_meanwhile_is_there(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres.connect(database) as connection:
        postgres.prepare(connection, {})
        monkeypatch.setattr(postgres, "_has_role", lambda *_: False)
        with connection.transaction():
            assert not postgres._make_role(connection, "analyst", None)
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_every_day_and_time_arrives_as_it_is(database: Database, spark: SparkSession) -> None:
    """Also those ten that the calendar of JDBC does not have, and years of five digits."""
    item = thing({"id": "date", "at": "timestamptz"}, 4)
    days = ["1582-10-04", "1582-10-05", "1582-10-14", "2024-02-29"]
    values = ", ".join(f"(DATE'{day}', TIMESTAMP'{day} 23:59:59.123456')" for day in days)
    last = "(DATE'+10000-01-01', TIMESTAMP'+10000-01-01 00:00:00'), (NULL, NULL)"
    rows = spark.sql(f"SELECT * FROM VALUES {values}, {last} AS rows(id, at)")
    with postgres.connect(database) as connection:
        postgres.prepare(connection, {})
        postgres.create_staging(connection, item)
        assert postgres.load_staging(rows, database, item) == measured(rows)
        found = connection.execute(
            "SELECT id::text, (at AT TIME ZONE 'UTC')::text FROM assay_staging.gold__things AS t ORDER BY t.id"
        ).fetchall()
    expected = [(day, f"{day} 23:59:59.123456") for day in days]
    assert found == [*expected, ("10000-01-01", "10000-01-01 00:00:00"), (None, None)]
