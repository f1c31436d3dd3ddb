from chispa import assert_df_equality
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from tests.transforms.examples import examples
from transforms.shared.text import MISSING, WHITESPACE, known, trimmed, whole_number, without_missing


def test_blank_and_the_spellings_of_nothing_are_missing(spark: SparkSession) -> None:
    cases = [
        (text, None) for text in ("", "  ", "\t\u00a0", "NULL", "null", "N/A", "NaN", " NULL ", "\u3000N/A\n", None)
    ]
    frame = spark.createDataFrame(cases, "text STRING, expected STRING")
    assert_df_equality(frame.select("text", known(trimmed(F.col("text"))).alias("expected")), frame)


def test_a_text_that_is_only_like_missing_is_kept(spark: SparkSession) -> None:
    cases = [(text, text) for text in ("Null", "nan", "None", "-", "0", "NULL NULL")]
    frame = spark.createDataFrame(cases, "text STRING, expected STRING")
    assert_df_equality(frame.select("text", known(trimmed(F.col("text"))).alias("expected")), frame)


def test_white_space_is_what_unicode_says() -> None:
    assert set(WHITESPACE) == {character for character in map(chr, range(0x110000)) if character.isspace()}


def test_any_text_is_trimmed_as_python_does(spark: SparkSession) -> None:
    texts = examples(st.text() | st.text(alphabet=WHITESPACE + "aNUL/é"))
    cases = [(text, None if text.strip() in MISSING else text.strip()) for text in texts]
    frame = spark.createDataFrame(cases, "text STRING, expected STRING")
    assert_df_equality(frame.select("text", known(trimmed(F.col("text"))).alias("expected")), frame)


def test_missing_texts_are_taken_out_of_a_list(spark: SparkSession) -> None:
    cases = [(["a", "", "N/A", "b", "a"], ["a", "b", "a"]), (["a"], ["a"]), (["NaN"], []), ([], []), (None, None)]
    frame = spark.createDataFrame(cases, "texts ARRAY<STRING>, expected ARRAY<STRING>")
    actual = frame.select("texts", without_missing(F.col("texts")).alias("expected"))
    assert_df_equality(actual, frame, ignore_nullable=True)


def test_whole_numbers_are_read_and_nothing_else_is(spark: SparkSession) -> None:
    good = [("3", 3), ("-1", -1), ("+4", 4), ("2.0", 2), ("2.", 2), ("-7.000", -7), ("2147483647", 2147483647)]
    bad = ["3.7", "abc", "", "3d", "1e1", "0x3", "2147483648", "9" * 40, "3.0.0", "three", "3 4", "٣", "NaN", ".0"]
    frame = spark.createDataFrame([*good, *[(text, None) for text in bad], (None, None)], "text STRING, expected INT")
    assert_df_equality(frame.select("text", whole_number(F.col("text")).alias("expected")), frame)


def test_no_text_makes_a_number_fail(spark: SparkSession) -> None:
    texts = examples(st.text() | st.text(alphabet="0123456789.+-eE "))
    frame = spark.createDataFrame([(text,) for text in texts], "text STRING")
    assert len(frame.select(whole_number(F.col("text"))).collect()) == len(texts)
