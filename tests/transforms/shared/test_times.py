from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from chispa import assert_df_equality
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from tests.transforms.examples import examples
from transforms.shared.times import instant


def assert_instants(spark: SparkSession, cases: list[tuple[str, datetime | None]], timezone: str = "UTC") -> None:
    frame = spark.createDataFrame(cases, "text STRING, expected TIMESTAMP")
    assert_df_equality(frame.select("text", instant(F.col("text"), timezone).alias("expected")), frame)


def test_times_are_read_with_a_blank_or_t_and_with_a_fraction(spark: SparkSession) -> None:
    assert_instants(
        spark,
        [
            ("2023-01-01 09:35:00", datetime(2023, 1, 1, 9, 35, tzinfo=UTC)),
            ("2023-01-01T09:35:07", datetime(2023, 1, 1, 9, 35, 7, tzinfo=UTC)),
            ("2023-01-01 09:35", datetime(2023, 1, 1, 9, 35, tzinfo=UTC)),
            ("2023-01-01 09:35:00.5", datetime(2023, 1, 1, 9, 35, 0, 500_000, tzinfo=UTC)),
            ("2023-01-01 09:35:00.000001", datetime(2023, 1, 1, 9, 35, 0, 1, tzinfo=UTC)),
            ("2023-01-01 09:35:00.123456789", datetime(2023, 1, 1, 9, 35, 0, 123_456, tzinfo=UTC)),
            ("2024-02-29 00:00:00", datetime(2024, 2, 29, tzinfo=UTC)),
        ],
    )


def test_an_offset_is_honoured_and_beats_the_source_timezone(spark: SparkSession) -> None:
    noon = datetime(2023, 7, 1, 12, tzinfo=UTC)
    texts = [
        "2023-07-01 12:00:00Z",
        "2023-07-01T14:00:00+02:00",
        "2023-07-01 14:00:00 +0200",
        "2023-07-01 14:00:00+02",
        "2023-07-01T07:00:00.0-05:00",
    ]
    assert_instants(spark, [(text, noon) for text in texts], "America/Chicago")


def test_without_an_offset_the_time_is_local_to_the_source(spark: SparkSession) -> None:
    assert_instants(
        spark,
        [
            ("2023-01-01 09:35:00", datetime(2023, 1, 1, 15, 35, tzinfo=UTC)),
            ("2023-07-01T09:35:00", datetime(2023, 7, 1, 14, 35, tzinfo=UTC)),
        ],
        "America/Chicago",
    )


def test_a_time_that_clocks_repeat_is_the_earlier_one_and_a_skipped_one_moves_on(spark: SparkSession) -> None:
    assert_instants(
        spark,
        [
            ("2023-10-29 02:30:00", datetime(2023, 10, 29, 0, 30, tzinfo=UTC)),
            ("2023-03-26 02:30:00", datetime(2023, 3, 26, 1, 30, tzinfo=UTC)),
        ],
        "Europe/Paris",
    )


def test_what_is_not_a_date_and_time_that_exists_is_null(spark: SparkSession) -> None:
    unreadable = ["2023-02-30 10:00:00", "2023-02-29 10:00:00", "2023-13-01 10:00:00", "2023-01-01 24:00:00"]
    unreadable += ["2023-01-01 09:60:00", "2023-01-01 09:35:60", "0000-01-01 00:00:00", "2023-01-01 09:35:00+25:00"]
    unreadable += ["not-a-date", "2023", "2023-01", "2023-01-01", "09:35:00", "T09:35", "1672565700", "", "now"]
    unreadable += [
        "01/01/2023 09:35",
        "2023-1-1 9:35",
        "2023-01-01 09:35:00 or so",
        "2023-01-01 09:35:00\n",
        "2023-01-01 09:35Z",
    ]
    assert_instants(spark, [(text, None) for text in unreadable])


@pytest.mark.parametrize("timezone", ["UTC", "America/Chicago", "Australia/Lord_Howe"])
def test_any_local_time_that_is_written_is_read_back(spark: SparkSession, timezone: str) -> None:
    moments = examples(st.datetimes(datetime(1975, 1, 1), datetime(2035, 1, 1)))
    cases = [(str(moment), moment.replace(tzinfo=ZoneInfo(timezone)).astimezone(UTC)) for moment in moments]
    assert_instants(spark, [*cases], timezone)


def test_any_offset_that_is_written_is_read_back(spark: SparkSession) -> None:
    offsets = st.integers(-17 * 60, 17 * 60).map(lambda minutes: timedelta(minutes=minutes))
    moments = examples(st.tuples(st.datetimes(datetime(1975, 1, 1), datetime(2035, 1, 1)), offsets))
    cases: list[tuple[str, datetime | None]] = []
    for moment, offset in moments:
        sign, minutes = "-" if offset < timedelta() else "+", int(abs(offset).total_seconds() // 60)
        written = f"{moment.isoformat()}{sign}{minutes // 60:02}:{minutes % 60:02}"
        cases.append((written, (moment - offset).replace(tzinfo=UTC)))
    assert_instants(spark, cases, "Europe/Paris")


def test_no_text_makes_a_time_fail(spark: SparkSession) -> None:
    texts = examples(st.text() | st.text(alphabet="0123456789-:T. Z+") | st.from_regex(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d"))
    frame = spark.createDataFrame([(text,) for text in texts], "text STRING")
    assert len(frame.select(instant(F.col("text"), "Europe/Paris")).collect()) == len(texts)
