"""What Assay remembers between runs, as Delta tables under `<lakehouse>/ops`: files, row accounts, table states."""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from threading import Lock, RLock
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.engine.batches import FileEvent, History, Kind, Request
from jobs.engine.delta import Lakehouse
from jobs.engine.errors import AssayError
from jobs.engine.faults import LET_IT_END
from jobs.engine.fingerprints import Fingerprint
from jobs.engine.local_rows import LocalRows, no_rows
from jobs.engine.rules import RuleResult

FILES, ACCOUNTS, TABLES = "ops/files", "ops/row_accounts", "ops/tables"
REQUESTS, RULES = "ops/requests", "ops/rule_results"

ISO = "yyyy-MM-dd'T'HH:mm:ss'Z'"  # of a time in the session's zone, which is UTC

FILE_SCHEMA = (
    "source STRING, source_file STRING, size BIGINT, modified_at BIGINT, content_hash STRING, status STRING, "
    "reason STRING, batch_id BIGINT, run_id STRING, recorded_at TIMESTAMP"
)
ACCOUNT_SCHEMA = (
    "run_id STRING, source STRING, layer STRING, table_name STRING, source_file STRING, rows_read BIGINT, "
    "rows_written BIGINT, rows_quarantined BIGINT, rows_deduplicated BIGINT, rows_superseded BIGINT, "
    "recorded_at TIMESTAMP, batch_id BIGINT"
)
REQUEST_SCHEMA = (
    "source STRING, batch_id BIGINT, kind STRING, batches ARRAY<BIGINT>, rule STRING, run_id STRING, "
    "recorded_at TIMESTAMP"
)
RULE_SCHEMA = (
    "run_id STRING, source STRING, table_name STRING, rule STRING, action STRING, rows_checked BIGINT, "
    "rows_violating BIGINT, rate DOUBLE, recorded_at TIMESTAMP"
)
TABLE_SCHEMA = (
    "table_name STRING, delta_version BIGINT, inputs STRING, logic STRING, row_count BIGINT, checksum STRING, "
    "run_id STRING, recorded_at TIMESTAMP"
)


@dataclass(frozen=True)
class RowAccount:
    """What became of the rows of one file of one batch in one table of a layer. Fields as in ACCOUNT_SCHEMA."""

    source: str
    layer: str
    table_name: str
    source_file: str
    rows_read: int
    rows_written: int
    rows_quarantined: int
    rows_deduplicated: int
    rows_superseded: int
    batch_id: int


@dataclass(frozen=True)
class TableState:
    """What a derived table (`silver/contacts/transfers`, `gold/contacts/contacts`) was computed from, and came to.

    Of a table that is parsed (`silver/contacts/contacts`), `logic` is the fingerprint of the settings that it is parsed
    with, and nothing else is said.

    `inputs` maps each table it was computed from to that table's Delta version; `logic` is the fingerprint of the code;
    `checksum` is the sum of the rows' hashes, independent of their order.
    """

    table_name: str
    delta_version: int = 0
    inputs: Mapping[str, int] = field(default_factory=dict)
    logic: str = ""
    row_count: int = 0
    checksum: str = ""

    @property
    def fingerprint(self) -> Fingerprint:
        """That of its rows."""
        return Fingerprint(self.row_count, self.checksum)


class Ledger:
    """Reads and writes the ledger in the name of one run, which is the only writer: what it has read stays true."""

    def __init__(self, lake: Lakehouse, run_id: str, recorded_at: datetime) -> None:
        self._lake = lake
        self._run_id = run_id
        self._recorded_at = recorded_at
        self._histories: dict[str, History] = {}
        self._states: dict[str, TableState] | None = None
        self._batches: set[tuple[str, str, str, int]] | None = None
        # Sources are refined a few at a time, each in a thread of its own.
        self._loading = {table: RLock() for table in (FILES, ACCOUNTS, TABLES)}
        self._writing = Lock()
        self._stamping = Lock()

    def identity(self) -> str:
        """What tells this lakehouse from all others: that of the one table which nothing can make anew."""
        return self._lake.identity(FILES)

    def commit(self) -> str:
        """The newest commit to the same table: its version, and what tells it from any other of that number."""
        version = self._lake.version(FILES) or 0
        return f"{version} {self._lake.commit_id(FILES, version)}"

    def has(self, commit: str) -> bool:
        """Whether that was a commit of this lakehouse; one that was brought back from an older backup lacks it.

        Of a number whose commit is no longer in the log, it counts as the one.
        """
        version, name = commit.split()
        newest = self._lake.version(FILES) or 0
        return int(version) <= newest and self._lake.commit_id(FILES, int(version)) in (name, None)

    def load(self, sources: Sequence[str]) -> None:
        """Reads what a run of these sources asks for first, at once: planning, which takes longest, uses one core."""
        with ThreadPoolExecutor(max_workers=3) as pool:
            histories = pool.submit(self._load_histories, sources)
            states, accounted = pool.submit(self.table_states), pool.submit(self._accounted)
            histories.result()
            states.result()
            accounted.result()

    def sources(self) -> set[str]:
        """The names of all sources that files were ever read of."""
        return {row[0] for row in self._read(FILES, FILE_SCHEMA).select("source").distinct().collect()}

    def history(self, source: str) -> History:
        """What was decided about each file of a source."""
        self._load_histories([source])
        return self._histories[source]

    def _load_histories(self, sources: Sequence[str]) -> None:
        with self._loading[FILES]:
            unknown = [source for source in sources if source not in self._histories]
            if not unknown:
                return
            is_wanted, columns = F.col("source").isin(*unknown), list(FileEvent.__dataclass_fields__)
            files: dict[str, list[FileEvent]] = {source: [] for source in unknown}
            for row in self._read(FILES, FILE_SCHEMA).where(is_wanted).select("source", *columns).collect():
                files[row[0]].append(FileEvent(*row[1:]))
            requests: dict[str, list[Request]] = {source: [] for source in unknown}
            for row in self._read(REQUESTS, REQUEST_SCHEMA).where(is_wanted).collect():
                request = Request(row["batch_id"], row["kind"], tuple(row["batches"]), row["rule"])
                requests[row["source"]].append(request)
            self._histories |= {source: History(files[source], requests[source]) for source in unknown}

    def ask(self, source: str, kind: Kind, batches: Sequence[int], rule: str | None = None) -> Request:
        """Records that rows are to go through silver once more; the run that does it may be a later one.

        Raises AssayError if another run has recorded a request under that number meanwhile: this one would be lost.
        """
        request = Request(self.history(source).newest_batch + 1, kind, tuple(batches), rule)
        rows = self._stamped([{"source": source, **asdict(request), "batches": list(request.batches)}], REQUEST_SCHEMA)
        with self._writing:
            is_first = self._lake.append_once(rows, REQUESTS, f"request:{source}", request.batch_id)
        if not is_first:
            raise AssayError(f"{source}: another run has made request {request.batch_id} meanwhile", LET_IT_END)
        self._histories[source] = self.history(source).asked(request)
        return request

    def ingested_between(self, source: str, first: date, last: date) -> list[int]:
        """The batches planned, or read into bronze, on days from `first` to `last`, both included, in UTC.

        After a crash in between, a batch is read by a later run than the one that planned it.
        """
        is_wanted = (F.col("source") == source) & F.to_date("recorded_at").between(F.lit(first), F.lit(last))
        planned = self._read(FILES, FILE_SCHEMA).where(is_wanted)
        read = self.all_accounts().where(is_wanted & (F.col("layer") == "bronze"))
        batches = planned.select("batch_id").union(read.select("batch_id")).distinct()
        return sorted(row["batch_id"] for row in batches.collect())

    def planned_at(self, source: str, batch_id: int) -> str:
        """When the run began that planned a batch of files, as ISO time in UTC."""
        events = self._read(FILES, FILE_SCHEMA).where((F.col("source") == source) & (F.col("batch_id") == batch_id))
        row = events.agg(F.date_format(F.min("recorded_at"), ISO)).first()
        assert row is not None
        return str(row[0])

    def record_plan(self, source: str, events: list[FileEvent]) -> None:
        """Records a batch before any of it is read; `batch_id` of the events is one that the history does not have.

        Raises AssayError if another run has recorded that batch meanwhile: this one would take its rows for its own.
        """
        rows = self._stamped([{"source": source, **asdict(event)} for event in events], FILE_SCHEMA)
        with self._writing:
            is_first = self._lake.append_once(rows, FILES, f"plan:{source}", events[0].batch_id)
        if not is_first:
            raise AssayError(f"{source}: another run has planned batch {events[0].batch_id} meanwhile", LET_IT_END)
        self._histories[source] = self.history(source).followed_by(events)

    def record_rejections(self, source: str, events: list[FileEvent]) -> None:
        """Records files of a planned batch that could not be read after all (their `status` is `rejected`)."""
        if events:
            self._append([{"source": source, **asdict(event)} for event in events], FILES, FILE_SCHEMA)
            self._histories[source] = self.history(source).followed_by(events)

    def is_accounted(self, source: str, layer: str, table: str, batch_id: int) -> bool:
        """Whether there are accounts of a batch in a table."""
        return (source, layer, table, batch_id) in self._accounted()

    def accounted_batches(self, source: str, layer: str) -> dict[str, set[int]]:
        """The batches of which there are accounts, by table, also by such as are no longer declared."""
        found: dict[str, set[int]] = {}
        for of_source, of_layer, table, batch in self._accounted():
            if (of_source, of_layer) == (source, layer):
                found.setdefault(table, set()).add(batch)
        return found

    def record_accounts(self, accounts: Sequence[RowAccount]) -> None:
        """Records what became of the rows of a batch."""
        if accounts:
            known = self._accounted()
            self._append([asdict(account) for account in accounts], ACCOUNTS, ACCOUNT_SCHEMA)
            known.update((a.source, a.layer, a.table_name, a.batch_id) for a in accounts)

    def _accounted(self) -> set[tuple[str, str, str, int]]:
        """All (source, layer, table, batch) that have accounts."""
        with self._loading[ACCOUNTS]:
            if self._batches is None:
                each = self.all_accounts().groupBy("source", "layer", "table_name", "batch_id")
                rows = [tuple(row) for row in each.agg(_newest()).collect()]
                self._come_after(newest for *_, newest in rows)
                self._batches = {(source, layer, table, batch) for source, layer, table, batch, _ in rows}
            return self._batches

    def accounts_of(self, source: str, layer: str, table: str) -> set[RowAccount]:
        """The accounts in force of one table."""
        is_wanted = (F.col("source") == source) & (F.col("layer") == layer) & (F.col("table_name") == table)
        rows = self.accounts().where(is_wanted).select(*RowAccount.__dataclass_fields__).collect()
        return {RowAccount(**row.asDict()) for row in rows}

    def all_accounts(self) -> DataFrame:
        """Every account ever recorded, also those that do not balance: ACCOUNT_SCHEMA."""
        return self._read(ACCOUNTS, ACCOUNT_SCHEMA)

    def rejected_files(self) -> DataFrame:
        """One row per file set aside: FILE_SCHEMA."""
        return self._read(FILES, FILE_SCHEMA).where("status = 'rejected'")

    def accounts(self) -> DataFrame:
        """The account in force of each layer, table, batch and file: the newest one recorded."""
        names = [column.split()[0] for column in ACCOUNT_SCHEMA.split(", ")]
        identity = ["source", "layer", "table_name", "batch_id", "source_file"]
        newest = self.all_accounts().groupBy(*identity).agg(F.max_by(F.struct(*names), "recorded_at").alias("a"))
        return newest.select("a.*")

    def record_rule_results(self, source: str, results: Sequence[RuleResult]) -> None:
        """Records how many rows each rule found in this run."""
        rows = [
            {
                "source": source,
                "table_name": result.table,
                "rule": result.rule.name,
                "action": result.rule.action,
                "rows_checked": result.rows,
                "rows_violating": result.violations,
                "rate": result.rate,
            }
            for result in results
        ]
        if rows:
            self._append(rows, RULES, RULE_SCHEMA)

    def rule_results(self) -> DataFrame:
        """One row per rule and time that it was applied: RULE_SCHEMA."""
        return self._read(RULES, RULE_SCHEMA)

    def table_states(self) -> dict[str, TableState]:
        """The newest state of each derived table, by name."""
        with self._loading[TABLES]:
            if self._states is None:
                newest = F.max_by(F.struct(*_STATE_COLUMNS), F.struct("recorded_at", "delta_version")).alias("state")
                each = self._read(TABLES, TABLE_SCHEMA).groupBy("table_name")
                rows = each.agg(newest, _newest()).select("state.*", "newest").collect()
                self._come_after(row["newest"] for row in rows)
                found = [{name: row[name] for name in _STATE_COLUMNS} for row in rows]
                states = [TableState(**{**state, "inputs": json.loads(state["inputs"])}) for state in found]
                self._states = {state.table_name: state for state in states}
            return self._states

    def record_table_states(self, states: Sequence[TableState]) -> None:
        rows = [{**asdict(state), "inputs": json.dumps(dict(state.inputs), sort_keys=True)} for state in states]
        if rows:
            known = self.table_states()
            self._append(rows, TABLES, TABLE_SCHEMA)
            known.update({state.table_name: state for state in states})

    def _read(self, table: str, schema: str) -> DataFrame:
        if not self._lake.exists(table):
            return no_rows(self._lake.spark, schema)
        return self._lake.read(table)

    def _append(self, rows: list[dict[str, Any]], table: str, schema: str) -> None:
        # What was written is found by reading it, and rows written twice say the same: it needs no number.
        stamped = self._stamped(rows, schema)
        with self._writing:
            self._lake.append(stamped, table)

    def _come_after(self, recorded: Iterable[int]) -> None:
        """Has all that follows recorded after these (microseconds since 1970), also where a clock was set back."""
        with self._stamping:
            for newest in recorded:
                self._recorded_at = max(self._recorded_at, _EPOCH + timedelta(microseconds=newest))

    def _stamped(self, rows: list[dict[str, Any]], schema: str) -> LocalRows:
        """The rows with the run, and when it began; each time a microsecond later, for of two the newer one counts."""
        with self._stamping:
            self._recorded_at += timedelta(microseconds=1)
            stamp = {"run_id": self._run_id, "recorded_at": self._recorded_at}
        return LocalRows([{**row, **stamp} for row in rows], schema)


def _newest() -> Column:
    """When the newest of some rows was recorded, in microseconds since 1970, as `newest`."""
    return F.max(F.unix_micros("recorded_at")).alias("newest")


_STATE_COLUMNS = list(TableState.__dataclass_fields__)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
