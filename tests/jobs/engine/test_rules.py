"""The quality gate over rows that are right, wrong and empty."""

import pytest
from chispa import assert_df_equality
from pyspark.sql import SparkSession

from jobs.engine import rules
from jobs.engine.errors import AssayError
from jobs.engine.sources import Rule

POSITIVE = Rule(name="positive", expression="n > 0", action="quarantine", reason="n is not positive")
EVEN = Rule(name="even", expression="n % 2 = 0", action="quarantine", reason="n is odd")
SMALL = Rule(name="small", expression="n is null or n < 5", action="warn", reason="n is large")


def test_a_row_carries_all_its_violations_and_null_is_one(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(2,), (-1,), (None,), (7,)], "n INT")
    expected = [(2, [], []), (-1, ["positive", "even"], []), (None, ["positive", "even"], []), (7, ["even"], ["small"])]
    assert_df_equality(
        rules.evaluate(rows, [POSITIVE, EVEN, SMALL]),
        spark.createDataFrame(expected, "n INT, _violations ARRAY<STRING>, warnings ARRAY<STRING>"),
        ignore_nullable=True,
    )


def test_without_rules_every_row_passes(spark: SparkSession) -> None:
    row = rules.evaluate(spark.createDataFrame([(1,)], "n INT"), []).first()
    assert row is not None
    assert (row["_violations"], row["warnings"]) == ([], [])


def test_reasons_have_the_rules_text(spark: SparkSession) -> None:
    evaluated = rules.evaluate(spark.createDataFrame([(-1,)], "n INT"), [POSITIVE, EVEN, SMALL])
    row = evaluated.select(rules.reasons([POSITIVE, EVEN, SMALL]).alias("r")).first()
    assert row is not None
    assert [tuple(reason) for reason in row["r"]] == [
        ("positive", "n is not positive", "n > 0"),
        ("even", "n is odd", "n % 2 = 0"),
    ]


def test_violations_are_counted_per_rule(spark: SparkSession) -> None:
    evaluated = rules.evaluate(spark.createDataFrame([(2,), (-1,), (7,), (8,)], "n INT"), [POSITIVE, EVEN, SMALL])
    results = rules.count_violations(evaluated, [POSITIVE, EVEN, SMALL])
    assert [(result.rule.name, result.violations, result.rows) for result in results] == [
        ("positive", 1, 4), ("even", 2, 4), ("small", 1, 4),
    ]  # fmt: skip


def test_a_fail_rule_fails_the_run_and_says_what() -> None:
    rule = Rule(name="whole", expression="true", action="fail", reason="a part is missing")
    with pytest.raises(AssayError, match=r"silver.t, rule whole: 1 of 10 rows violate it \(a part is missing\)"):
        rules.enforce("silver.t", [rules.RuleResult(rule, 1, 10)])
    rules.enforce("silver.t", [rules.RuleResult(rule, 0, 10)])


def test_a_rate_over_the_allowed_one_fails_the_run() -> None:
    rule = Rule(name="dated", expression="true", action="warn", reason="no date", max_rate=0.5)
    rules.enforce("silver.t", [rules.RuleResult(rule, 50, 100), rules.RuleResult(rule, 0, 0)])
    with pytest.raises(AssayError, match=r"60.0%, and at most 50.0% are allowed"):
        rules.enforce("silver.t", [rules.RuleResult(rule, 60, 100)])


def test_of_few_rows_the_rate_does_not_count() -> None:
    rule = Rule(name="dated", expression="true", action="warn", reason="no date", max_rate=0.5)
    rules.enforce("silver.t", [rules.RuleResult(rule, 3, 3)])
