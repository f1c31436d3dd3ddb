"""A small world to break: raw files, a lakehouse, a database, and a fingerprint of what all of it holds in the end."""

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
from psycopg import sql
from pydantic import SecretStr
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.engine import delta, embedded
from jobs.engine.database import Database
from jobs.engine.session import FOR_FEW_ROWS, start_session
from jobs.engine.settings import PostgresSettings, Settings
from jobs.engine.sources import Source

SOURCES = ("members", "signups")
SPARK = {**FOR_FEW_ROWS, "spark.driver.memory": "1g"}
# What a run stamps on rows and accounts, and so differs from run to run.
_STAMPS = ("run_id", "recorded_at", "_ingested_at")
State = dict[str, str]
AS_IF_LARGE = {"FEW_BYTES": 0, "_LARGEST_CHANGE": 1 << 30}  # of jobs.engine.delta
_AS_IF_LARGE = "PROOF_AS_IF_LARGE"  # the environment variable that tells processes of it


@contextmanager
def ground() -> Iterator[tuple[Path, SparkSession, Database]]:
    """What a proof stands on: a folder that goes afterwards, a session, a Postgres in the folder's `postgres`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spark = start_session(master="local[2]", spark_settings=SPARK, log=folder / "log")
        try:
            yield folder, spark, embedded.start(folder / "postgres")
        finally:
            embedded.stop(folder / "postgres")
            spark.stop()


def as_if_large(wanted: bool | None = None) -> None:
    """Lets this process, and those that it starts, bring tables up to date by what changed, as it would large ones.

    Without `wanted`, if the process that started this one does.
    """
    if wanted is not None:
        os.environ[_AS_IF_LARGE] = str(int(wanted))
    if os.environ.get(_AS_IF_LARGE) == "1":
        vars(delta).update(AS_IF_LARGE)


def relaxed(source: Source, *rules: str) -> Source:
    """The source with some rules that every row passes."""
    content = source.model_dump(by_alias=True)
    for table in content["tables"].values():
        for rule in table["rules"]:
            if rule["name"] in rules:
                rule["expression"] = "true"
    return Source.model_validate(content)


def with_rule(source: Source, expression: str, action: str) -> Source:
    """The source with one more rule for each parsed table."""
    content = source.model_dump(by_alias=True)
    rule = {"name": "one_more", "expression": expression, "action": action, "reason": "as the test has it"}
    for name in source.parsed_tables:
        content["tables"][name]["rules"].append(rule)
    return Source.model_validate(content)


def strict(source: Source) -> Source:
    """The source with a rule that holds every row back."""
    return with_rule(source, "false", "quarantine")


def set_otherwise(source: Source) -> Source:
    """The source with other settings that its rows are parsed with."""
    content = source.model_dump(by_alias=True) | {"timezone": "Asia/Tokyo"}
    for name in source.parsed_tables:
        table = content["tables"][name]
        table["rebuild"] = "always" if table["rebuild"] == "when_replaced" else "when_replaced"
    return Source.model_validate(content)


def land(landing: Path, path: str, text: str, at: int) -> None:
    file = landing / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    os.utime(file, (at, at))


def first_delivery(landing: Path) -> None:
    """What a world starts with: one good file a source, with a bad and a repeated row."""
    land(
        landing,
        "members/a.log",
        entry("a" * 16, 40) + entry("b" * 16, 41) + entry("a" * 16, 40) + "junk\n",
        1_700_000_000,
    )
    land(landing, "signups/a.csv", with_header(person(1, "Ann"), person(2, "Bob"), "junk\n"), 1_700_000_000)
    land(landing, "contacts/a.jsonl", contact(1, "Ann") + contact(2, "Bob") * 2 + "junk\n", 1_700_000_000)


def second_delivery(landing: Path) -> None:
    """What comes next: a new file, a copy, a file replaced in place, a correction, an empty file.

    Contacts only come: after a replaced file, their tables would be made anew as a whole.
    """
    land(landing, "members/b.log", entry("a" * 16, 42) + entry("c" * 16, 43) + "junk again\n", 1_700_000_100)
    shutil.copy2(landing / "members/a.log", landing / "members/copy of a.log")
    land(landing, "members/empty.log", "", 1_700_000_100)
    land(landing, "signups/a.csv", with_header(person(1, "Ann"), person(3, "Cyd"), "more junk\n"), 1_700_000_100)
    land(landing, "signups/b.csv", with_header(person(1, "Anna"), person(4, "Dan")), 1_700_000_200)
    again = contact(1, "Ann") + contact(3, "Cyd", "Ann") + contact(4, "Bob") + "more junk\n"
    land(landing, "contacts/b.jsonl", again, 1_700_000_100)
    shutil.copy2(landing / "contacts/a.jsonl", landing / "contacts/copy of a.jsonl")


def third_delivery(landing: Path) -> None:
    """One more file a source."""
    land(landing, "members/d.log", entry("a" * 16, 44) + entry("d" * 16, 45), 1_700_000_300)
    land(landing, "signups/d.csv", with_header(person(5, "Eve")), 1_700_000_300)
    land(landing, "contacts/d.jsonl", contact(5, "Eve", "Ann"), 1_700_000_300)


def entry(member: str, age: int) -> str:
    return f'{{id="{member}"|created_at="2023-06-27"|sex=1|age={age}|waiting_list_time=13.3|follow_reco=80.5}}\n'


def with_header(*lines: str) -> str:
    return "id,first_name,last_name,age,gender,visit_date\n" + "".join(lines)


def person(number: int, name: str) -> str:
    return f"{number} 0001,{name},Lee,34,F,2024-05-{number % 28 + 1:02}\n"


def contact(hour: int, *counselors: str) -> str:
    """A call from `hour` to six hours later, handed on each hour until all counselors have had it."""
    times = [f"2024-05-01 {hour + number:02}:00:00" for number in range(24 - hour)]
    fields = {
        "time_call_began": times[0],
        "time_call_ended": times[6],
        "counselors": repr(list(counselors)),
        "transfer_timestamps": repr(times[1 : len(counselors)]),
        "initial_risk_level": hour,
        "client_pronouns": "['They/Them']",
    }
    return json.dumps(fields) + "\n"


@dataclass(frozen=True)
class World:
    """Landing, lakehouse, output and database below one folder."""

    folder: Path
    database: Database
    sources: tuple[str, ...] = SOURCES

    @property
    def landing(self) -> Path:
        return self.folder / "landing"

    @property
    def lakehouse(self) -> Path:
        return self.folder / "lakehouse"

    def environment(self) -> dict[str, str]:
        """What makes a new `assay` process work in this world; small and quick, as its data is."""
        return {
            **os.environ,
            "ASSAY_LANDING": str(self.landing),
            "ASSAY_LAKEHOUSE": str(self.lakehouse),
            "ASSAY_OUTPUT": str(self.folder / "output"),
            "ASSAY_LOGS": str(self.folder / "logs"),
            "ASSAY_MASTER": "local[2]",
            "ASSAY_SPARK": json.dumps(SPARK),
            **postgres_variables(self.database),
        }

    def settings(self) -> Settings:
        """The same for this process."""
        return Settings(
            landing=str(self.landing),
            lakehouse=str(self.lakehouse),
            output=str(self.folder / "output"),
            logs=self.folder / "logs",
            postgres=postgres_settings(self.database),
        )

    @contextmanager
    def copied(self, folder: Path) -> Iterator["World"]:
        """The same world again, to be broken; gone afterwards."""
        shutil.copytree(self.folder, folder)
        name = f"world_{uuid.uuid4().hex[:8]}"
        with _server(self.database) as connection:
            create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(create.format(sql.Identifier(name), sql.Identifier(self.database.name)))
        try:
            yield replace(self, folder=folder, database=replace(self.database, name=name))
        finally:
            with _server(self.database) as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            shutil.rmtree(folder)

    def state(self, spark: SparkSession) -> State:
        """A fingerprint of every table, file and account: the same for worlds that hold the same."""
        return {**self._lakehouse(spark), **self.published(), **self._ops(), **self.files()}

    def _lakehouse(self, spark: SparkSession) -> State:
        def content(table: Path) -> str:
            rows = spark.read.format("delta").load(str(table))
            columns = [column for column in rows.columns if column not in _STAMPS]
            row_hash = F.xxhash64(*[F.to_json(F.struct(column)) for column in columns]).cast("decimal(38,0)")
            counted = rows.agg(F.count("*").alias("rows"), F.sum(row_hash).alias("hash")).first()
            assert counted is not None
            return f"{counted['rows']} rows, {counted['hash']}"

        tables = [log.parent for log in sorted(self.lakehouse.glob("*/*/*/_delta_log"))]
        with ThreadPoolExecutor(max_workers=4) as pool:
            names = [str(table.relative_to(self.lakehouse)) for table in tables]
            return dict(zip(names, pool.map(content, tables), strict=True))

    def published(self) -> State:
        """The same of the published tables alone."""
        with psycopg.connect(self.database.conninfo(), autocommit=True) as connection:
            tables = connection.execute(
                "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('gold', 'restricted')"
            ).fetchall()
            found = {name: _content(connection, f"SELECT * FROM {name} AS t", "t::text") for (name,) in tables}
            return {**found, "tables of the release": _content(connection, _RELEASE, "t::text")}

    def _ops(self) -> State:
        rejected = "SELECT DISTINCT source, source_file, reason FROM ops.rejected_files"
        staging = "SELECT * FROM pg_tables WHERE schemaname = 'assay_staging'"
        with psycopg.connect(self.database.conninfo(), autocommit=True) as connection:
            queries = {"accounts": _ACCOUNTS, "rejected files": rejected, "staging tables left": staging}
            return {name: _content(connection, query, "t::text") for name, query in queries.items()}

    def files(self) -> State:
        """The same of exports and documents."""
        output = self.folder / "output"
        files = [file for file in sorted(output.rglob("*")) if file.is_file() and not file.name.startswith(".")]
        return {str(file.relative_to(output)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


_ACCOUNTS = """SELECT DISTINCT ON (source, layer, table_name, batch_id, source_file)
source, layer, table_name, batch_id, source_file, rows_read, rows_written,
 rows_quarantined, rows_deduplicated, rows_superseded FROM ops.row_accounts
ORDER BY source, layer, table_name, batch_id, source_file, recorded_at DESC"""
_RELEASE = """SELECT table_name, row_count, checksum FROM ops.release_tables
WHERE release_id = (SELECT max(release_id) FROM ops.releases)"""


def _content(connection: psycopg.Connection[tuple[object, ...]], query: str, text: str) -> str:
    row = connection.execute(
        f"SELECT count(*), md5(coalesce(string_agg({text}, E'\\n' ORDER BY {text}), '')) FROM ({query}) AS t"
    ).fetchone()
    assert row is not None
    return f"{row[0]} rows, {row[1]}"


def postgres_settings(database: Database) -> PostgresSettings:
    """The settings that make Assay publish to a database."""
    return PostgresSettings(
        host=database.host,
        port=database.port,
        db=database.name,
        user=database.user,
        password=SecretStr(database.password),
    )


def postgres_variables(database: Database) -> dict[str, str]:
    """The same as the environment of a process."""
    return {
        "POSTGRES_HOST": database.host,
        "POSTGRES_PORT": str(database.port),
        "POSTGRES_DB": database.name,
        "POSTGRES_USER": database.user,
        "POSTGRES_PASSWORD": database.password,
    }


def new_database(server: Database, name: str) -> Database:
    """A new database on a server."""
    with _server(server) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return replace(server, name=name)


@contextmanager
def _server(database: Database) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(replace(database, name="postgres").conninfo(), autocommit=True) as connection:
        yield connection


def differences(expected: State, found: State) -> list[str]:
    """One line for each thing that two worlds do not have in common."""
    return [
        f"{name}: {expected.get(name, 'missing')} expected, {found.get(name, 'missing')} found"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
