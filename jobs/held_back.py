"""Which rows are held back and why, with examples that show their shape and nothing of their values."""

import importlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.engine.context import Run
from jobs.engine.errors import ConfigurationError
from jobs.engine.ledger import ISO
from jobs.engine.listing import line
from jobs.engine.masking import LONGEST, masked
from jobs.engine.rules import is_held_by
from jobs.engine.sources import Source
from jobs.layers.tables import quarantine_table, silver_table


@dataclass(frozen=True)
class Example:
    """A row that is held back, masked, and where it came from."""

    file: str
    batch: int
    row: str


@dataclass
class HeldBack:
    """What one rule holds back: how many rows of how many files, since when (ISO time in UTC), and why."""

    source: str
    table: str
    rule: str
    rows: int
    files: int
    since: str
    reason: str
    examples: list[Example] = field(default_factory=list)


@dataclass
class Quarantine:
    """What is held back, by source, table and rule; the rule with the most rows first. A row may break several."""

    rules: list[HeldBack]
    rows: int

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def as_text(self) -> str:
        if not self.rules:
            nothing = line("quarantine", "no rows are held back")
            return "\n".join([nothing, "", line("next", "assay accounts      where the rows of each file went")])
        lines = []
        for held in self.rules:
            rows = f"{held.rows:,} {'row' if held.rows == 1 else 'rows'}"
            files = f"{held.files:,} {'file' if held.files == 1 else 'files'}"
            lines.append(f"{held.source}.{held.table}, rule {held.rule}: {rows} of {files}, since {held.since}")
            lines.append(f"  {held.reason}")
            lines += [f"    {e.file}, batch {e.batch}: {e.row}" for e in held.examples]
        most = self.rules[0]
        replay = f"assay replay --source {most.source} --rule {most.rule} --dry-run"
        lines += ["", line("held back", f"{self.rows:,} rows in all; a row may break several rules")]
        return "\n".join([*lines, line("next", f"{replay}      after the rule or the parser was mended")])


def quarantine_of(run: Run, sources: Sequence[Source], rule: str | None, examples: int) -> Quarantine:
    """What is held back, by all rules or one, with up to so many examples for each rule of a table.

    Raises ConfigurationError for a rule that no source has and no row was held back by.
    """
    found, rows = Quarantine([], 0), 0
    seen: set[str] = set()
    for source in sources:
        for table in source.parsed_tables:
            path = quarantine_table(source, table)
            if not run.lake.exists(path):
                continue
            held_back = run.lake.read(path)
            by_rule = _by_rule(held_back, source, table)
            seen |= {held.rule for held in by_rule}
            asked = [held for held in by_rule if rule in (None, held.rule)]
            _add_examples(run, source, table, held_back, asked, examples)
            found.rules += asked
            rows += held_back.where(is_held_by(rule)).count() if asked else 0
    known = {r.name for source in sources for t in source.tables.values() for r in t.rules if r.action == "quarantine"}
    if rule is not None and rule not in known | seen:
        raise ConfigurationError(
            f"no rule that holds rows back is called {rule!r}", f"rules: {', '.join(sorted(known | seen))}"
        )
    return Quarantine(sorted(found.rules, key=lambda held: -held.rows), rows)


def _by_rule(held_back: DataFrame, source: Source, table: str) -> list[HeldBack]:
    broken = held_back.select("_source_file", "_ingested_at", F.explode("reasons").alias("broken"))
    counted = broken.groupBy(F.col("broken.rule").alias("rule")).agg(
        F.count("*").alias("rows"),
        F.count_distinct("_source_file").alias("files"),
        F.date_format(F.min("_ingested_at"), ISO).alias("since"),
        F.max_by("broken.reason", "_ingested_at").alias("reason"),
    )
    return [
        HeldBack(source.name, table, r["rule"], r["rows"], r["files"], r["since"], r["reason"])
        for r in counted.orderBy(F.desc("rows"), "rule").collect()
    ]


def _add_examples(
    run: Run, source: Source, table: str, held_back: DataFrame, rules: list[HeldBack], examples: int
) -> None:
    """The newest batch's rows first: what is held back now is what wants to be mended."""
    if not examples or not rules:
        return
    order = Window.partitionBy("rule").orderBy(F.desc("_batch_id"), "_source_file", "_row_hash")
    wanted: Any = (
        held_back.select(
            F.explode("reasons.rule").alias("rule"),
            "_batch_id",
            "_source_file",
            "_row_hash",
            # A little more, so that it shows that the row goes on.
            F.substring("_raw", 1, LONGEST + 1).alias("row"),
        )
        .where(F.col("rule").isin([held.rule for held in rules]))
        .withColumn("number", F.row_number().over(order))
        .where(F.col("number") <= examples)
        .orderBy("rule", "number")
        .collect()
    )
    names = _field_names(run, source, table)
    for held in rules:
        held.examples = [
            Example(row["_source_file"], row["_batch_id"], masked(row["row"], names))
            for row in wanted
            if row["rule"] == held.rule
        ]


def _field_names(run: Run, source: Source, table: str) -> set[str]:
    """The words that may stay in an example: names that the source itself has. Rows of CSV files hold values only."""
    raw = source.raw[source.parsed_tables[table]]
    if raw.format == "csv":
        return set()
    target = silver_table(source, table)
    # As they are sent: a source of lines lists them beside its parser.
    sent = getattr(importlib.import_module(f"transforms.{source.name}"), "FIELDS", ())
    return {*sent, *(run.lake.read(target).columns if run.lake.exists(target) else [])}
