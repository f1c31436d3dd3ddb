"""The published tables that the service reads, as publishing makes them, with a few rows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psycopg

from jobs.engine.database import Database

_TABLES = """
CREATE SCHEMA gold;
CREATE SCHEMA ops;
CREATE TABLE ops.releases (
  release_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run_id TEXT NOT NULL,
  published_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE TABLE ops.release_tables (
  release_id BIGINT REFERENCES ops.releases, table_name TEXT, PRIMARY KEY (release_id, table_name)
);
CREATE TABLE gold.customer_channel_interactions (
  customer_id bigint, channel text, interaction_count bigint, PRIMARY KEY (customer_id, channel)
);
CREATE TABLE gold.customer_channel_topics (
  customer_id bigint, channel text, product text, interaction_count bigint, PRIMARY KEY (customer_id, channel, product)
);
CREATE TABLE gold.product_customer_types (
  product text, customer_type text, interaction_count bigint, PRIMARY KEY (product, customer_type)
);
CREATE TABLE gold.customer_channel_daily_interactions (
  customer_id bigint, channel text, interacted_on date, interaction_count bigint,
  PRIMARY KEY (customer_id, channel, interacted_on)
);
REVOKE ALL ON SCHEMA gold, ops FROM PUBLIC;
DO $$ BEGIN
  CREATE ROLE analyst LOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
GRANT USAGE ON SCHEMA gold, ops TO analyst;
GRANT SELECT ON ALL TABLES IN SCHEMA gold, ops TO analyst;
"""
_ROWS = """
INSERT INTO gold.customer_channel_interactions VALUES
  (1, 'Email', 1), (1, 'Call', 0), (1, 'Bird', 0),
  (2, 'Email', 3), (2, 'Call', 1), (2, 'Bird', 0),
  (3, 'Email', 0), (3, 'Call', 0), (3, 'Bird', 0),
  (9223372036854775807, 'Email', 0), (9223372036854775807, 'Call', 2), (9223372036854775807, 'Bird', 0);
INSERT INTO gold.customer_channel_daily_interactions VALUES
  (1, 'Email', '2019-10-04', 1),
  (2, 'Email', '2019-10-04', 1), (2, 'Email', '2019-10-31', 2), (2, 'Call', '2019-11-01', 1),
  (9223372036854775807, 'Call', '2019-10-04', 2);
INSERT INTO gold.customer_channel_topics VALUES
  (1, 'Email', 'Loans', 1), (2, 'Email', 'Savings', 3), (2, 'Email', 'Loans', 3), (2, 'Call', 'Unknown', 1);
INSERT INTO gold.product_customer_types VALUES
  ('Savings', 'Private', 3), ('Savings', 'Business', 0), ('Loans', 'Private', 3), ('Loans', 'Business', 1);
"""


def create_tables(database: Database) -> None:
    """The tables, empty, before any release."""
    execute(database, _TABLES)


TABLES = (
    "gold.customer_channel_interactions",
    "gold.customer_channel_topics",
    "gold.product_customer_types",
    "gold.customer_channel_daily_interactions",
)


def publish(database: Database, changes: str = "SELECT 1", tables: Sequence[str] = TABLES) -> int:
    """Changes tables and records a release in one transaction, as publishing does; returns its number."""
    with psycopg.connect(database.conninfo()) as connection:
        connection.execute(changes)  # type: ignore[call-overload]
        row = connection.execute("INSERT INTO ops.releases (run_id) VALUES ('run') RETURNING release_id").fetchone()
        assert row
        connection.cursor().executemany(
            "INSERT INTO ops.release_tables VALUES (%s, %s)", [(row[0], table) for table in tables]
        )
    return int(row[0])


def publish_rows(database: Database) -> int:
    create_tables(database)
    return publish(database, _ROWS)


def execute(database: Database, statement: str) -> list[tuple[Any, ...]]:
    """What a statement of the owner's returns, if anything."""
    with psycopg.connect(database.conninfo(), autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return list(cursor.fetchall()) if cursor.description else []


def new_database(server: Database, name: str) -> Database:
    execute(server, f'CREATE DATABASE "{name}"')
    return replace(server, name=name)
