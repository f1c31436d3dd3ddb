import json
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from chispa import assert_df_equality
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from tests.transforms.examples import examples
from transforms.shared.python_lists import text_list, time_list

NASTY = "'\"\\,[] abxuU0né\n\t\xa0\xad\u200b\u2028😀\U000e0067(){}:"
NAMES = [
    "Susan O'Neil",
    "Yu Yamada",
    "Frank López-Patel",
    'Al "Ace" D\'Or',
    "back\\slash",
    "a, b",
    "[x]",
    "', '",
    "Ngũ",
]
TEXT_LISTS = st.lists(
    st.text() | st.text(alphabet=NASTY, max_size=12) | st.sampled_from(NAMES) | st.text(alphabet="ab' ,", max_size=6),
    max_size=4,
)
# Hypothesis also draws fold=1, which Python prints and which is refused.
DATETIMES = st.datetimes(datetime(1975, 1, 1), datetime(2035, 1, 1)).map(lambda moment: moment.replace(fold=0))
MINUTES = DATETIMES.map(lambda moment: moment.replace(second=0, microsecond=0))
SECONDS = DATETIMES.map(lambda moment: moment.replace(microsecond=0))


def assert_texts(spark: SparkSession, cases: list[tuple[str, list[str] | None]]) -> None:
    frame = spark.createDataFrame(cases, "text STRING, expected ARRAY<STRING>")
    actual = frame.select("text", text_list(F.col("text")).alias("expected"))
    assert_df_equality(actual, frame, ignore_nullable=True)


def assert_times(spark: SparkSession, cases: list[tuple[str, list[datetime | None] | None]], timezone: str) -> None:
    frame = spark.createDataFrame(cases, "text STRING, expected ARRAY<TIMESTAMP>")
    actual = frame.select("text", time_list(F.col("text"), timezone).alias("expected"))
    assert_df_equality(actual, frame, ignore_nullable=True)


def cannot_be_read(texts: list[str]) -> bool:
    """Python escapes these as NUL, which Postgres cannot hold, and `\\UNNNNNNNN`, for which Spark has no reader."""
    return any(char == "\0" or (char > "\uffff" and not char.isprintable()) for text in texts for char in text)


def test_names_come_out_whole_whatever_is_in_them(spark: SparkSession) -> None:
    assert_texts(
        spark,
        [
            ("[]", []),
            ("['Yan Delacroix', 'Frank López-Patel']", ["Yan Delacroix", "Frank López-Patel"]),
            ("""["Susan O'Neil", 'Yu Yamada']""", ["Susan O'Neil", "Yu Yamada"]),
            ("""['Al "Ace" D\\'Or']""", ["Al \"Ace\" D'Or"]),
            (r"""["a\"b", 'a\\b', 'a\\xa0b', 'a\xe9\\\xe9', 'a\u200bb', 'a\nb']""",
             ['a"b', "a\\b", r"a\xa0b", "aé\\é", "a\u200bb", "a\nb"]),
            ("['Doe, Jane', 'x] [y', '[z]']", ["Doe, Jane", "x] [y", "[z]"]),
            ("['a','b' , 'c' ]", ["a", "b", "c"]),
            ("[' Ann ', 'Bo\\xa0', '  ']", ["Ann", "Bo", ""]),
        ],
    )  # fmt: skip


def test_any_list_that_python_prints_is_read_back_or_refused_whole(spark: SparkSession) -> None:
    lists = examples(TEXT_LISTS, 1000)
    expected = [None if cannot_be_read(texts) else [text.strip() for text in texts] for texts in lists]
    assert sum(value is None for value in expected) < len(lists) / 2
    assert_texts(spark, [(repr(texts), value) for texts, value in zip(lists, expected, strict=True)])


@pytest.mark.parametrize("escaped", [True, False])
def test_any_list_that_json_writes_is_read_back(spark: SparkSession, escaped: bool) -> None:
    lists = examples(TEXT_LISTS, 500)
    expected = [None if any("\0" in text for text in texts) else [text.strip() for text in texts] for texts in lists]
    written = [json.dumps(texts, ensure_ascii=escaped) for texts in lists]
    assert_texts(spark, list(zip(written, expected, strict=True)))


def test_what_is_not_a_list_of_texts_is_refused_whole(spark: SparkSession) -> None:
    texts = ["", "Ann", "'Ann'", "Ann, Bo", "['Ann'", "['Ann', ", "['Ann',]", "[Ann]", "['Ann' 'Bo']", "['Ann'] and Bo"]
    texts += ["[None]", "[null]", "[1]", "['Ann', 2]", "[['Ann']]", "[{'a': 'Ann'}]", "('Ann', 'Bo')", "{'Ann'}", "[,]"]
    texts += ["['a'b']", '["a"b"]', r"['Ann\']", r"['\q']", r"['\x4']", r"['\u12']", "['a\nb']", "['Ann']['Bo']"]
    texts += [
        r"['\x00']",
        r"['Ren\ufffd']",
        r"['\uFfFd']",
        r"['\u0000']",
        r"['\ud83d']",
        r"['\ude00']",
        r"['\U0001f600']",
        "[datetime.datetime(2023)]",
    ]
    assert_texts(spark, [(text, None) for text in texts])


def test_a_very_long_list_is_read(spark: SparkSession) -> None:
    plain, quoted = [f"name {number}" for number in range(20_000)], [f"O'Neil {number}" for number in range(20_000)]
    long = ["x" * 200_000, "\\" * 100_000]
    assert_texts(spark, [(repr(texts), texts) for texts in (plain, quoted, long)] + [(repr(plain)[:-1], None)])


def test_no_text_makes_a_list_fail(spark: SparkSession) -> None:
    texts = examples(st.text() | st.text(alphabet=NASTY).map(lambda text: f"[{text}]") | st.text(alphabet="['\"\\, ]"))
    texts += ["[datetime.datetime(" + text + ")]" for text in examples(st.text(alphabet="0123456789, ()"))]
    frame = spark.createDataFrame([(text,) for text in texts], "text STRING")
    lists = frame.select(text_list(F.col("text")), time_list(F.col("text"), "Europe/Paris"))
    assert len(lists.collect()) == len(texts)


def test_times_are_read_as_datetimes_or_as_texts(spark: SparkSession) -> None:
    first, second = datetime(2023, 1, 1, 9, 45, tzinfo=UTC), datetime(2023, 1, 1, 10, 2, 7, 500, tzinfo=UTC)
    assert_times(
        spark,
        [
            ("[]", []),
            ("[datetime.datetime(2023, 1, 1, 9, 45)]", [first]),
            ("[datetime.datetime(2023, 1, 1, 9, 45), datetime.datetime(2023, 1, 1, 10, 2, 7, 500)]", [first, second]),
            ("['2023-01-01 09:45:00']", [first]),
            ("['2023-01-01 09:45:00', '2023-01-01 10:02:07.000500']", [first, second]),
            ('["2023-01-01T09:45:00Z","2023-01-01T10:02:07.0005"]', [first, second]),
        ],
        "UTC",
    )


def test_a_time_that_does_not_exist_is_null_in_its_place(spark: SparkSession) -> None:
    good = datetime(2023, 1, 1, 9, 45, tzinfo=UTC)
    assert_times(
        spark,
        [
            ("[datetime.datetime(2023, 2, 30, 9, 45)]", [None]),
            ("[datetime.datetime(2023, 1, 1, 24, 0), datetime.datetime(2023, 1, 1, 9, 45)]", [None, good]),
            ("['2023-01-01 09:45:00', 'soon']", [good, None]),
            ("['2023-02-30 09:45:00', '']", [None, None]),
        ],
        "UTC",
    )


def test_what_is_not_a_list_of_times_is_refused_whole(spark: SparkSession) -> None:
    texts = ["2023-01-01 09:45:00", "[2023-01-01 09:45:00]", "[NaT]", "[None]", "datetime.datetime(2023, 1, 1, 9, 45)"]
    texts += ["[datetime.datetime(2023, 1, 1)]", "[datetime.datetime(2023, 1, 1, 9, 45, 60)]", "['2023-01-01 09:45:00'"]
    texts += ["[datetime.datetime(2023, 1, 1, 9, 45), '2023-01-01 10:02:00']", "[datetime.date(2023, 1, 1)]"]
    texts += ["[datetime.datetime(2023, 1, 1, 9, 45, tzinfo=datetime.timezone.utc)]", "[Timestamp('2023-01-01 09:45')]"]
    texts += ["[datetime.datetime(2023, 1, 1, 9, 45, fold=1)]"]
    assert_times(spark, [(text, None) for text in texts], "UTC")


@pytest.mark.parametrize("timezone", ["UTC", "America/Chicago"])
def test_any_times_that_python_prints_are_read_back(spark: SparkSession, timezone: str) -> None:
    lists = examples(st.lists(DATETIMES | MINUTES | SECONDS, max_size=3))
    cases = []
    for moments in lists:
        instants = [moment.replace(tzinfo=ZoneInfo(timezone)).astimezone(UTC) for moment in moments]
        cases += [(repr(moments), instants), (repr([str(moment) for moment in moments]), instants)]
    assert_times(spark, cases, timezone)
