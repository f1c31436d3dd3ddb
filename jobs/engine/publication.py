"""A gold table on its way to Postgres: what is to be published, and how Postgres holds it."""

import hashlib
from dataclasses import dataclass

from psycopg import sql
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
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

from jobs.engine.errors import ConfigurationError
from jobs.engine.fingerprints import Fingerprint
from jobs.engine.ledger import TableState
from jobs.engine.sources import Computed, PublishedTable

STAGING = "assay_staging"
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
    """The rows that came to a gold table since it was published, if none went. `before`: those it had then."""

    rows: DataFrame
    before: Fingerprint


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
    types = {
        field.name: table.types.get(field.name) or _postgres_type(field.dataType, f"{place}.columns.{field.name}")
        for field in frame.schema
    }
    return Publication(name, table, state, types)


def as_postgres_writes_it(time: str) -> Column:
    """A DATE, or TIMESTAMP without its zone, as text: not with a sign before a year of five digits."""
    return F.ltrim(F.col(time).cast("string"), F.lit("+")).alias(time)


def _postgres_type(kind: DataType, place: str) -> str:
    if isinstance(kind, DecimalType):
        return f"numeric({kind.precision},{kind.scale})"
    if isinstance(kind, ArrayType):
        return f"{_postgres_type(kind.elementType, place)}[]"
    if type(kind) not in _TYPES:
        fits = ", ".join(sorted(known.typeName() for known in _TYPES))
        raise ConfigurationError(
            f"{place}: the transform makes it {kind.simpleString()}, which Postgres has no match for",
            f"cast it to one of {fits}, decimal, or an array of these",
        )
    return _TYPES[type(kind)]
