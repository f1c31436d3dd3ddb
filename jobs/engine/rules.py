"""The quality gate: rules of conf/sources/<source>.yaml over the rows of one silver table."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.local_rows import no_rows
from jobs.engine.sources import SOURCES_FOLDER, Rule

VIOLATIONS = "_violations"
IS_VALID, IS_BAD = f"size({VIOLATIONS}) = 0", f"size({VIOLATIONS}) > 0"
_REASONS = "array<struct<rule: string, reason: string, expression: string>>"
# Of fewer rows a share says little: two bad rows of three must not fail a run.
RATES_COUNT_FROM_ROWS = 100


@dataclass(frozen=True)
class RuleResult:
    """How many of the rows checked violate a rule of a table."""

    table: str
    rule: Rule
    violations: int
    rows: int

    @property
    def rate(self) -> float:
        return self.violations / self.rows if self.rows else 0.0


def answered(
    rows: DataFrame, rules: Sequence[Rule], key: Sequence[str], known: DataFrame | None, tables: Mapping[str, DataFrame]
) -> DataFrame:
    """`rows` with one column for each rule over many rows: whether the row passes it.

    `known`: rows of the same table that are there already; `tables`: the tables that `references` may name.
    """
    for rule in rules:
        if rule.unique:
            found = rows.select(*rule.unique, F.struct(*key).alias("_key"))
            if known is not None:
                found = found.unionByName(known.select(*rule.unique, F.struct(*key).alias("_key")))
            shared = found.groupBy(*rule.unique).agg((F.count_distinct("_key") == 1).alias(rule.answer))
            rows = _joined(rows, shared, rule.unique, rule.answer)
        elif rule.needs:
            table, column = rule.needs
            there = tables[table].select(F.col(column).alias(rule.columns[0])).distinct()
            rows = _joined(rows, there.withColumn(rule.answer, F.lit(True)), rule.columns, rule.answer)
    return rows


def _joined(rows: DataFrame, answers: DataFrame, columns: list[str], answer: str) -> DataFrame:
    """`rows` with the answer for their values of `columns`; true where one of these is missing."""
    is_missing = reduce(or_, [F.col(column).isNull() for column in columns])
    return rows.join(answers, columns, "left").withColumn(answer, is_missing | F.coalesce(answer, F.lit(False)))


def evaluate(parsed: DataFrame, rules: Sequence[Rule]) -> DataFrame:
    """`parsed` with `_violations` and `warnings`: per row, the names of all violated rules of either kind."""
    return parsed.withColumns(
        {
            VIOLATIONS: _violated([rule for rule in rules if rule.action != "warn"]),
            "warnings": _violated([rule for rule in rules if rule.action == "warn"]),
        }
    )


def is_held_by(rule: str | None) -> Column:
    """Of a row in quarantine: whether that rule is among its reasons; always true for None."""
    return F.exists("reasons", lambda reason: reason["rule"] == rule) if rule else F.lit(True)


def no_reasons() -> Column:
    """NULL in place of reasons."""
    return F.lit(None).cast(_REASONS)


def reasons(rules: Sequence[Rule]) -> Column:
    """For a quarantined row: the violated rules, as ARRAY<STRUCT<rule, reason, expression>>."""
    texts = [
        {"rule": rule.name, "reason": rule.reason, "expression": rule.text} for rule in rules if rule.action != "warn"
    ]
    all_texts = F.from_json(F.lit(json.dumps(texts)), _REASONS)
    return F.filter(all_texts, lambda text: F.array_contains(VIOLATIONS, text["rule"]))


def metrics(rules: Sequence[Rule]) -> list[Column]:
    """Aggregates over evaluated rows: how many there are, and violate each rule; of a `warn` rule, only kept rows."""
    counts = [f"count_if({_is_found(rule)}) AS `rule:{rule.name}`" for rule in rules]
    return [F.expr(count) for count in ("count(1) AS rows", *counts)]


def results(table: str, rules: Sequence[Rule], found: Mapping[str, int]) -> list[RuleResult]:
    """What `metrics`, or `rows` and `violations` of each rule, came to."""
    return [RuleResult(table, rule, found[f"rule:{rule.name}"], found["rows"]) for rule in rules]


def violations(rule: Rule) -> Column:
    """How many rows violate a rule, as an aggregate."""
    return F.expr(f"count_if(NOT {_passes(rule)}) AS `rule:{rule.name}`")


def enforce(results: Sequence[RuleResult]) -> None:
    """Raises AssayError for the first rule that fails the run: a violated `fail` rule, or a rate over `max_rate`."""
    for result in results:
        rule = result.rule
        count = f"{result.violations:,} of {result.rows:,} rows violate it"
        found = f"silver.{result.table}, rule {rule.name}: {count} ({rule.reason})"
        if rule.action == "fail" and result.violations:
            raise AssayError(found, "nothing was published; mend the raw file or the rule, then run again")
        if rule.max_rate is not None and result.rows >= RATES_COUNT_FROM_ROWS and result.rate > rule.max_rate:
            raise AssayError(
                f"{found}: {result.rate:.1%}, and at most {rule.max_rate:.1%} are allowed (max_rate)",
                "nothing was published; mend the raw file, or raise max_rate if this is to be expected",
            )


def check_expressions(
    source: str, table: str, parsed: DataFrame, rules: Sequence[Rule], tables: Mapping[str, DataFrame] | None = None
) -> None:
    """Raises ConfigurationError for a rule that Spark cannot evaluate over the columns of `parsed`.

    `tables`: the tables that `references` may name; their columns alone matter.
    """
    # The columns alone: analysing the parser's own plan again for each rule would cost seconds.
    parsed = no_rows(parsed.sparkSession, parsed.schema)
    for number, rule in enumerate(rules):
        place = f"{SOURCES_FOLDER / source}.yaml, tables.{table}.rules[{number}]"
        if rule.expression is None:
            _check_columns(place, rule, parsed, tables)
            continue
        place += ".expression"
        try:
            # Beside the columns, where an expression over many rows, such as a sum, has no place.
            kind = parsed.select("*", F.expr(rule.expression)).schema[-1].dataType.simpleString()
        except AnalysisException as error:
            raise ConfigurationError(
                f"{place}: {_finding(error, parsed.columns)}", _suggestion(error, parsed)
            ) from None
        if kind != "boolean":
            raise ConfigurationError(f"{place}: must be true or false for a row; {rule.expression!r} is {kind}")


def _check_columns(place: str, rule: Rule, parsed: DataFrame, tables: Mapping[str, DataFrame] | None) -> None:
    wanted = [(column, parsed.columns) for column in rule.columns]
    if rule.needs:
        wanted.append((rule.needs[1], (tables or {})[rule.needs[0]].columns))
    for column, columns in wanted:
        if column not in columns:
            raise ConfigurationError(
                f"{place}: {rule.text}: column {column!r} does not exist. Columns: {', '.join(columns)}"
            )


def _is_found(rule: Rule) -> str:
    """SQL: whether an evaluated row counts among those that violate a rule."""
    if rule.action == "warn":
        return f"array_contains(warnings, '{rule.name}') AND size({VIOLATIONS}) = 0"
    return f"array_contains({VIOLATIONS}, '{rule.name}')"


def _violated(rules: Sequence[Rule]) -> Column:
    """The names of the rules that a row violates, ARRAY<STRING>."""
    # Nearly every row passes all: only for the others is it worth while to make a list. In SQL, as each function of a
    # Column is a call to Java of its own, and there are many rules.
    passes_all = " AND ".join(_passes(rule) for rule in rules) or "true"
    names = ", ".join(f"CASE WHEN NOT {_passes(rule)} THEN '{rule.name}' END" for rule in rules)
    return F.expr(
        f"CASE WHEN {passes_all} THEN CAST(array() AS ARRAY<STRING>) "
        f"ELSE CAST(array_compact(array({names})) AS ARRAY<STRING>) END"
    )


def _passes(rule: Rule) -> str:
    """SQL: whether a row passes a rule; one that cannot tell, NULL, does not pass it."""
    return f"coalesce((\n{rule.condition}\n), false)"  # its last line may end in a comment


def _finding(error: AnalysisException, columns: list[str]) -> str:
    unknown = _unknown_column(error)
    if unknown:
        return f"column {unknown!r} does not exist. Columns: {', '.join(columns)}"
    return (error.getCondition() or "error") + ": " + str(error).splitlines()[0]


def _suggestion(error: AnalysisException, parsed: DataFrame) -> str | None:
    close = difflib.get_close_matches(_unknown_column(error) or "", parsed.columns, n=1)
    return f"did you mean {close[0]!r}?" if close else None


def _unknown_column(error: AnalysisException) -> str | None:
    if not (error.getCondition() or "").startswith("UNRESOLVED_COLUMN"):
        return None
    return (error.getMessageParameters() or {}).get("objectName", "").strip("`")
