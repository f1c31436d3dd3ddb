"""Bronze: each raw file's rows as they came, exactly once. `spark-submit jobs/bronze.py --source S`."""

from dataclasses import dataclass, field, replace

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.engine.batches import FileEvent, History, plan, vanished_or_changed
from jobs.engine.context import Run
from jobs.engine.landing import content_hashes, list_files
from jobs.engine.readers import failed_file, read_lines
from jobs.engine.sources import Source


@dataclass
class BronzeReport:
    """What bronze did for one source: the file events of this run, and rows read."""

    events: list[FileEvent] = field(default_factory=list)
    rows_read: int = 0

    @property
    def rejected(self) -> list[FileEvent]:
        return [event for event in self.events if event.status == "rejected"]


def bronze_table(source: Source) -> str:
    return f"bronze/{source.name}/{source.name}"


def refine(run: Run, source: Source) -> BronzeReport:
    """Finishes the batch that a crash left, then plans and reads the next one."""
    report = BronzeReport()
    history = run.ledger.history(source.name)
    if history.newest_batch:
        _load(run, source, history.newest_batch, report)
    listing = list_files(run.spark, run.settings.landing, source.landing)
    events = plan(
        run.ledger.history(source.name), listing, lambda paths: content_hashes(run.spark, run.settings.landing, paths)
    )
    if events:
        run.ledger.record_plan(source.name, events)
        report.events += [event for event in events if event.status != "loaded"]
        _load(run, source, events[0].batch_id, report)
    return report


def _load(run: Run, source: Source, batch_id: int, report: BronzeReport) -> None:
    """Appends a planned batch to bronze and accounts for it, unless both were done before."""
    table, writer = bronze_table(source), f"bronze:{source.name}"
    files = [event for event in run.ledger.history(source.name).batch(batch_id) if event.status == "loaded"]
    if files and run.lake.written_through(table, writer) < batch_id:
        files = _append(run, source, batch_id, files, report)
        report.events += files
    if not run.ledger.is_accounted(writer, batch_id):
        accounts = _accounts(run, source, run.ledger.history(source.name), batch_id)
        run.ledger.record_accounts(accounts, writer, batch_id)
        report.rows_read += accounts.agg(F.sum("rows_read")).first()[0] or 0  # type: ignore[index]


def _append(run: Run, source: Source, batch_id: int, files: list[FileEvent], report: BronzeReport) -> list[FileEvent]:
    """Appends the files' rows; sets aside those that cannot be read, and returns the others."""
    landing, table = run.settings.landing, bronze_table(source)
    listed = list_files(run.spark, landing, source.landing)
    gone = vanished_or_changed(files, listed)
    files = _without(run, source, files, gone, "the file was changed or taken away before it was read", report)
    while files:
        try:
            rows = read_lines(run.spark, landing, [file.source_file for file in files])
            run.lake.append_once(_stamped(run, rows, batch_id), table, f"bronze:{source.name}", batch_id)
            break
        except (PySparkException, Py4JJavaError) as error:
            broken = failed_file(error, [file.source_file for file in files])
            if broken is None:
                raise
            found = [file for file in files if file.source_file == broken[0]]
            files = _without(run, source, files, found, f"the file could not be read: {broken[1]}", report)
    listed = list_files(run.spark, landing, source.landing)
    changed = vanished_or_changed(files, listed)
    return _without(run, source, files, changed, "the file was changed while it was read", report)


def _without(
    run: Run, source: Source, files: list[FileEvent], rejected: list[FileEvent], reason: str, report: BronzeReport
) -> list[FileEvent]:
    """`files` less the rejected ones, which the ledger records with the reason."""
    events = [replace(event, status="rejected", reason=reason) for event in rejected]
    run.ledger.record_rejections(source.name, events)
    report.events += events
    return [file for file in files if file not in rejected]


def _stamped(run: Run, rows: DataFrame, batch_id: int) -> DataFrame:
    """Engine columns first: Delta keeps statistics on them alone, and they are what later reads filter by."""
    return rows.select(
        F.lit(batch_id).cast("bigint").alias("_batch_id"),
        "_source_file",
        F.lit(run.started_at).alias("_ingested_at"),
        "_row_hash",
        "_rescued",
        *[column for column in rows.columns if column not in ("_source_file", "_row_hash", "_rescued")],
    )


def _accounts(run: Run, source: Source, history: History, batch_id: int) -> DataFrame:
    """One row per file of the batch. A content that was read before counts as deduplicated, row by row."""
    origin = {event.content_hash: event for event in history.loaded()}
    files = [event for event in history.batch(batch_id) if event.status != "rejected"]
    deliveries = [
        (event.source_file, event.status, origin[event.content_hash].batch_id, origin[event.content_hash].source_file)
        for event in files
    ]
    schema = "source_file STRING, status STRING, _batch_id BIGINT, _source_file STRING"
    delivered = run.spark.createDataFrame(deliveries, schema)
    batches = sorted({delivery[2] for delivery in deliveries})
    if batches:
        rows = run.lake.read(bronze_table(source)).where(F.col("_batch_id").isin(batches))
        counts = rows.groupBy("_batch_id", "_source_file").agg(F.count("*").alias("n"))
    else:
        counts = run.spark.createDataFrame([], "_batch_id BIGINT, _source_file STRING, n BIGINT")
    n, zero = F.coalesce("n", F.lit(0)), F.lit(0).cast("bigint")
    return delivered.join(counts, ["_batch_id", "_source_file"], "left").select(
        F.lit(source.name).alias("source"),
        F.lit("bronze").alias("layer"),
        F.lit(source.name).alias("table_name"),
        "source_file",
        n.alias("rows_read"),
        F.when(F.col("status") == "loaded", n).when(F.col("status") == "known", zero).alias("rows_written"),
        zero.alias("rows_quarantined"),
        F.when(F.col("status") == "known", n).when(F.col("status") == "loaded", zero).alias("rows_deduplicated"),
        zero.alias("rows_superseded"),
        F.lit(batch_id).cast("bigint").alias("batch_id"),
    )


if __name__ == "__main__":
    from jobs.cli import run_layer

    run_layer("bronze")
