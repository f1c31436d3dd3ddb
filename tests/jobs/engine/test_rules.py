"""The quality gate over rows that are right, wrong and empty."""

import pytest
from chispa import assert_df_equality
from pyspark.sql import SparkSession

from jobs.engine import rules
from jobs.engine.errors import AssayError, ConfigurationError
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
    found = evaluated.agg(*rules.metrics([POSITIVE, EVEN, SMALL])).first()
    assert found is not None
    results = rules.results("t", [POSITIVE, EVEN, SMALL], found.asDict())
    assert [(result.rule.name, result.violations, result.rows) for result in results] == [
        ("positive", 1, 4), ("even", 2, 4), ("small", 1, 4),
    ]  # fmt: skip


def test_a_fail_rule_fails_the_run_and_says_what() -> None:
    rule = Rule(name="whole", expression="true", action="fail", reason="a part is missing")
    with pytest.raises(AssayError, match=r"silver.t, rule whole: 1 of 10 rows violate it \(a part is missing\)"):
        rules.enforce([rules.RuleResult("t", rule, 1, 10)])
    rules.enforce([rules.RuleResult("t", rule, 0, 10)])


def test_a_rate_over_the_allowed_one_fails_the_run() -> None:
    rule = Rule(name="dated", expression="true", action="warn", reason="no date", max_rate=0.5)
    rules.enforce([rules.RuleResult("t", rule, 50, 100), rules.RuleResult("t", rule, 0, 0)])
    with pytest.raises(AssayError, match=r"60.0%, and at most 50.0% are allowed"):
        rules.enforce([rules.RuleResult("t", rule, 60, 100)])


def test_of_few_rows_the_rate_does_not_count() -> None:
    rule = Rule(name="dated", expression="true", action="warn", reason="no date", max_rate=0.5)
    rules.enforce([rules.RuleResult("t", rule, 3, 3)])


ONE_NAME = Rule(name="one_name", unique=["name"], action="warn", reason="another row has the name")
KNOWN = Rule(name="known", references="people(person_id)", column="boss", action="quarantine", reason="nobody")


def test_a_value_that_another_key_has_too_is_not_unique(spark: SparkSession) -> None:
    rows = spark.createDataFrame(
        [(1, "a"), (2, "a"), (3, "b"), (3, "b"), (4, "c"), (5, None), (6, None)], "id INT, name STRING"
    )
    there = spark.createDataFrame([(4, "c"), (9, "b")], "id INT, name STRING")
    evaluated = rules.evaluate(rules.answered(rows, [ONE_NAME], ["id"], there, {}), [ONE_NAME])
    found = [(row["id"], len(row["warnings"])) for row in evaluated.orderBy("id", "name").collect()]
    assert found == [(1, 1), (2, 1), (3, 1), (3, 1), (4, 0), (5, 0), (6, 0)]


def test_a_value_must_be_in_the_table_that_it_references(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(1, 7), (2, 8), (3, None)], "id INT, boss INT")
    people = spark.createDataFrame([(7,), (7,)], "person_id INT")
    evaluated = rules.evaluate(rules.answered(rows, [KNOWN], ["id"], None, {"people": people}), [KNOWN])
    assert [(row["id"], row["_violations"]) for row in evaluated.orderBy("id").collect()] == [
        (1, []), (2, ["known"]), (3, []),
    ]  # fmt: skip
    row = evaluated.where("id = 2").select(rules.reasons([KNOWN]).alias("r")).first()
    assert row is not None
    assert row["r"][0]["expression"] == "boss references people(person_id)"


def test_a_rule_over_one_row_that_needs_many_is_a_configuration_error(spark: SparkSession) -> None:
    rows = spark.createDataFrame([], "id INT")
    average = Rule(name="low", expression="avg(id) < 4", action="warn", reason="r")
    with pytest.raises(ConfigurationError, match=r"tables.t.rules\[0\].expression: MISSING_GROUP_BY"):
        rules.check_expressions("s", "t", rows, [average])


def test_a_rule_over_many_rows_that_names_no_column_is_a_configuration_error(spark: SparkSession) -> None:
    rows, people = spark.createDataFrame([], "id INT, boss INT"), spark.createDataFrame([], "id INT")
    for rule, column in ((ONE_NAME, "name"), (KNOWN, "person_id")):
        with pytest.raises(ConfigurationError, match=f"column '{column}' does not exist. Columns: id"):
            rules.check_expressions("s", "t", rows, [rule], {"people": people})
