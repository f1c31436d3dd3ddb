import csv
import io
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

import pytest
from chispa import assert_df_equality
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from tests.transforms.examples import examples
from tests.transforms.rows import assert_rows, frame_of
from tests.transforms.rules_helper import declared, rules, with_violations
from transforms import signups as source

BASE_ROW = {
    "id": "1043 0276",
    "first_name": "Robin",
    "last_name": "Fields",
    "age": "34",
    "gender": "Female",
    "visit_date": "2024-03-01",
}
ENGINE = (
    "_batch_id BIGINT, _source_file STRING, _ingested_at TIMESTAMP, _row_hash STRING, _rescued STRING, _raw STRING, "
    "_is_malformed BOOLEAN"
)
BRONZE = f"{ENGINE}, {', '.join(f'{field} STRING' for field in BASE_ROW)}"
SIGNUPS = (
    "user_id BIGINT, last_four STRING, first_name STRING, last_name STRING, age INT, gender STRING, visit_date DATE"
)
BASE_SIGNUP = {
    "user_id": 1043,
    "last_four": "0276",
    "first_name": "Robin",
    "last_name": "Fields",
    "age": 34,
    "gender": "Female",
    "visit_date": date(2024, 3, 1),
}
MISSING = [None, "", "  ", "NULL", "null", "N/A", "NaN", " \u00a0N/A\t"]
MONDAY = date(2024, 1, 1)


def raw(spark: SparkSession, *overlays: dict[str, Any]) -> DataFrame:
    """Bronze: the base row, with each of these fields; with none, no rows."""
    rows = []
    for number, overlay in enumerate(overlays):
        fields = {**BASE_ROW, **{name: value for name, value in overlay.items() if name in BASE_ROW}}
        line = io.StringIO()
        csv.writer(line).writerow(fields.values())
        engine = (1, "signups/a.csv", datetime(2024, 3, 2, tzinfo=UTC), f"hash {number}", overlay.get("_rescued"))
        rows.append((*engine, line.getvalue(), overlay.get("_is_malformed", False), *fields.values()))
    return frame_of(spark, rows, BRONZE)


def parsed(spark: SparkSession, *overlays: dict[str, Any]) -> DataFrame:
    return source.signups(raw(spark, *overlays))


def assert_violations(spark: SparkSession, cases: list[tuple[dict[str, Any], list[str]]]) -> None:
    """The base row with these fields breaks exactly these rules."""
    frame = with_violations(parsed(spark, *[overlay for overlay, _ in cases]), "signups", "signups")
    rows = [(f"hash {number}", broken) for number, (_, broken) in enumerate(cases)]
    assert_rows(frame.select("_row_hash", "violations"), rows)


def assert_read(spark: SparkSession, field: str, columns: list[str], cases: Iterable[tuple[Any, ...]]) -> None:
    """Each text of `field` is read as these values of `columns`."""
    listed = list(cases)
    frame = parsed(spark, *[{field: text} for text, *_ in listed])
    rows = [(f"hash {number}", *values) for number, (_, *values) in enumerate(listed)]
    assert_rows(frame.select("_row_hash", *columns), rows)


def signups_on(spark: SparkSession, counts: dict[date, int]) -> DataFrame:
    """Silver: that many people on each day."""
    days = frame_of(spark, counts.items(), "visit_date DATE, people INT")
    people = days.select("visit_date", F.posexplode(F.expr("array_repeat(true, people)")).alias("n", "_"))
    return people.select(
        F.xxhash64("visit_date", "n").alias("user_id"),
        F.lit("0000").alias("last_four"),
        *[F.lit(None).cast(kind).alias(name) for name, kind in (("first_name", "string"), ("last_name", "string"))],
        F.lit(None).cast("int").alias("age"),
        F.lit(None).cast("string").alias("gender"),
        "visit_date",
    )


class TestReading:
    def test_a_row_becomes_a_typed_signup(self, spark: SparkSession) -> None:
        expected = frame_of(spark, [tuple(BASE_SIGNUP.values())], SIGNUPS)
        assert_df_equality(parsed(spark, {}).select(*BASE_SIGNUP), expected, ignore_nullable=True)

    def test_every_row_comes_out_once_whatever_it_holds(self, spark: SparkSession) -> None:
        texts = st.none() | st.text() | st.text(alphabet="0123456789-/: T.+eE\x00") | st.sampled_from(MISSING)
        overlays: list[dict[str, Any]] = [*examples(st.dictionaries(st.sampled_from(sorted(BASE_ROW)), texts))]
        overlays += [dict.fromkeys(BASE_ROW, None), {"_is_malformed": True}, {"_rescued": '{"clinic": "north"}'}]
        bronze = raw(spark, *overlays)
        engine = bronze.columns[:7]
        checked = with_violations(source.signups(bronze), "signups", "signups")
        assert_df_equality(checked.select(*engine), bronze.select(*engine))
        assert len(checked.collect()) == len(overlays)

    def test_names_and_gender_are_trimmed_and_else_as_sent(self, spark: SparkSession) -> None:
        cases = [(" Ann\u00a0", "Ann"), ("Zoë", "Zoë"), ("O'Neil, Jr.", "O'Neil, Jr."), ("Null", "Null"), ("f", "f")]
        for field in ("first_name", "last_name", "gender"):
            assert_read(spark, field, [field], [*cases, *[(text, None) for text in MISSING]])

    def test_with_a_character_that_postgres_cannot_hold_it_is_not_readable(self, spark: SparkSession) -> None:
        assert_read(spark, "last_name", ["last_name"], [("Fi\x00lds", None)])
        assert_violations(spark, [({"last_name": "Fi\x00lds"}, ["text_readable"])])


class TestId:
    def test_it_is_a_user_id_and_the_last_four_as_text(self, spark: SparkSession) -> None:
        cases = [
            ("1043 0276", 1043, "0276"),
            ("  7 0000\u00a0", 7, "0000"),
            ("0043 1234", 43, "1234"),
            ("0 9999", 0, "9999"),
            (f"{2**63 - 1} 0001", 2**63 - 1, "0001"),
        ]
        assert_read(spark, "id", ["user_id", "last_four"], cases)
        assert_violations(spark, [({"id": text}, []) for text, *_ in cases])

    def test_an_id_of_another_shape_is_held_back(self, spark: SparkSession) -> None:
        texts = ["1043", "0276", "1043  0276", "1043\t0276", "1043\u00a00276", "1043-0276", "10430276", "1043 276"]
        texts += ["1043 02765", "1043 0276 1", "1043 027x", "abc 0276", "-5 0276", "+5 0276", "1.0 0276", "1e3 0276"]
        texts += [
            "1043 \u0660\u0662\u0667\u0666",
            "\u0661 0276",
            "1043 \n0276",
            "1,043 0276",
            "0x1F 0276",
            "1043 0276\x00",
        ]
        texts += [f"{2**63} 0001", f"{'9' * 40} 0001", "9" * 10_000]
        assert_violations(spark, [({"id": text}, ["id_readable"]) for text in [*texts, *MISSING]])

    def test_any_id_that_is_written_is_read_back_and_no_text_fails(self, spark: SparkSession) -> None:
        ids = examples(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 9999).map(lambda n: f"{n:04}")))
        junk = examples(st.text() | st.text(alphabet="0123456789 ", min_size=4).filter(lambda text: " " not in text))
        cases = [(f"{user} {four}", user, four) for user, four in ids]
        assert_read(spark, "id", ["user_id", "last_four"], [*cases, *[(text, None, None) for text in junk]])


class TestVisitDate:
    def test_dates_are_read_in_every_safe_spelling(self, spark: SparkSession) -> None:
        spellings = ["2024-03-01", "2024/03/01", "03/01/2024", "3/1/2024", "03/1/2024", " 2024-03-01 "]
        spellings += ["2024-03-01 23:59:59", "2024-03-01T08:30", "2024-03-01 00:00:00.000", "03/01/2024 08:30"]
        leap = [
            ("2024-02-29", date(2024, 2, 29)),
            ("02/29/2024", date(2024, 2, 29)),
            ("12/31/1999", date(1999, 12, 31)),
        ]
        assert_read(spark, "visit_date", ["visit_date"], [*[(text, date(2024, 3, 1)) for text in spellings], *leap])

    def test_a_date_that_is_missing_ambiguous_or_does_not_exist_is_held_back(self, spark: SparkSession) -> None:
        texts = ["2024-02-30", "2023-02-29", "02/30/2024", "13/01/2024", "32/13/2024", "00/10/2024", "2024-13-01"]
        texts += ["01-03-2024", "03-01-2024", "1/3/24", "2024-3-1", "2024-03/01", "20240301", "2024-03", "2024"]
        texts += ["1709251200", "1 March 2024", "01.03.2024", "0000-01-01", "03/01/0024", "not-a-date", "tomorrow"]
        texts += ["2024-03-01 24:00:00", "2024-03-01 25:61", "2024-03-01T00:00:00Z", "2024-03-01 00:00:00+02:00"]
        texts += [
            "2024-03-01x",
            "x2024-03-01",
            "2024-03-01\n2024-03-02",
            "\u0662\u0660\u0662\u0664-03-01",
            "20244-03-01",
            "-2024-03-01",
        ]
        cases = [({"visit_date": text}, ["visit_date_readable"]) for text in [*texts, *MISSING]]
        assert_violations(spark, cases)

    def test_any_date_that_is_written_is_read_back_and_no_text_fails(self, spark: SparkSession) -> None:
        written = ["{0:%Y-%m-%d}", "{0:%Y/%m/%d}", "{0:%m/%d/%Y}", "{0.month}/{0.day}/{0.year}", "{0:%Y-%m-%d} {1}"]
        days = st.dates(date(1000, 1, 1))
        valid = examples(st.tuples(days, st.sampled_from(written), st.times().map(str)))
        junk = examples(st.text() | st.from_regex(r"\A\d{0,5}[-/.]\d{0,3}[-/]\d{0,2}\Z"))
        frame = parsed(spark, *[{"visit_date": text} for text in junk])
        assert frame.select("visit_date").count() == len(frame.select("visit_date").collect()) == len(junk)
        cases = [(spelling.format(day, time), day) for day, spelling, time in valid]
        assert_read(spark, "visit_date", ["visit_date"], cases)


class TestRules:
    def test_a_good_signup_breaks_no_rule_and_only_id_and_date_are_needed(self, spark: SparkSession) -> None:
        optional = {"first_name", "last_name", "age", "gender"}
        assert_violations(spark, [({}, []), *[(dict.fromkeys(optional, text), []) for text in MISSING]])
        assert set(declared("signups")["required_columns"]) == set(BASE_ROW) - optional

    def test_a_row_with_too_few_or_too_many_fields_is_held_back_for_that_alone(self, spark: SparkSession) -> None:
        shifted = {"id": "Robin", "age": "Female", "gender": "\ufffd", "visit_date": None, "_is_malformed": True}
        old = {"age": "999", "_is_malformed": True}
        assert_violations(spark, [(overlay, ["complete_row"]) for overlay in (shifted, old)])

    def test_ages_are_whole_and_from_0_to_120_or_missing(self, spark: SparkSession) -> None:
        good = {"0": 0, "120": 120, " 34 ": 34, "34.0": 34}
        outside = {"-1": -1, "121": 121, "999": 999, str(2**31 - 1): 2**31 - 1}
        unreadable = ["abc", "forty", "34.5", "1e2", "34 years", "30-40", "0x22", str(2**31), "9" * 40, "inf", "\u0663"]
        ages = [*good.items(), *outside.items(), *[(text, None) for text in [*MISSING, *unreadable]]]
        assert_read(spark, "age", ["age"], ages)
        assert_violations(
            spark,
            [
                *[({"age": text}, []) for text in [*good, *MISSING]],
                *[({"age": text}, ["age_in_range"]) for text in outside],
                *[({"age": text}, ["age_readable"]) for text in unreadable],
            ],
        )

    def test_a_name_or_gender_that_could_not_be_read_is_null_and_warned_about(self, spark: SparkSession) -> None:
        fields = ("first_name", "last_name", "gender")
        assert_violations(spark, [({field: "M\ufffdller"}, ["text_readable"]) for field in fields])
        for field in fields:
            assert_read(spark, field, [field], [("M\ufffdller", None)])

    def test_a_row_has_all_its_reasons(self, spark: SparkSession) -> None:
        everything = {"id": "x", "visit_date": "soon", "age": "old", "last_name": "\ufffd"}
        names = ["id_readable", "visit_date_readable", "age_readable", "text_readable"]
        assert_violations(spark, [(everything, names)])

    def test_only_what_leaves_the_counts_right_is_a_warning(self) -> None:
        actions = {rule["name"]: rule["action"] for rule in rules("signups", "signups")}
        held_back = dict.fromkeys(["complete_row", "id_readable", "visit_date_readable"], "quarantine")
        assert actions == {**held_back, **dict.fromkeys(["age_readable", "age_in_range", "text_readable"], "warn")}

    def test_of_the_same_person_the_newest_file_wins_then_the_latest_date(self) -> None:
        table = declared("signups")["tables"]["signups"]
        assert (table["key"], table["keep"], table["order_by"]) == (["user_id", "last_four"], "newest", ["visit_date"])


class TestPublished:
    def test_users_are_the_signups_for_restricted_readers_only(self, spark: SparkSession) -> None:
        silver = frame_of(spark, [tuple(BASE_SIGNUP.values())], SIGNUPS)
        with_lineage = silver.select(F.lit("a.csv").alias("_source_file"), "*", F.array().alias("warnings"))
        assert_df_equality(source.users(with_lineage), silver)
        publish = declared("signups")["publish"]
        assert {name: table.get("schema", "gold") for name, table in publish.items()} == {
            "users": "restricted",
            "daily_user_counts": "gold",
            "forecast_backtest": "gold",
        }

    def test_every_table_has_its_declared_columns(self, spark: SparkSession) -> None:
        silver = frame_of(spark, [tuple(BASE_SIGNUP.values())], SIGNUPS)
        publish = declared("signups")["publish"]
        functions = (source.users, source.daily_user_counts, source.forecast_backtest)
        assert {function.__name__: function(silver).columns for function in functions} == {
            name: list(table["columns"]) for name, table in publish.items()
        }
        assert list(publish["daily_user_counts"]["columns"]) == ["year", "month", "day", "observed", "count"]

    def test_the_configured_forecaster_is_the_mean(self) -> None:
        assert declared("signups")["parameters"] == {"forecaster": "mean"}


class TestDailyUserCounts:
    def test_days_with_signups_are_counted_and_the_next_day_is_expected(self, spark: SparkSession) -> None:
        actual = source.daily_user_counts(signups_on(spark, {date(2024, 2, 27): 4, date(2024, 2, 28): 1}))
        expected = frame_of(
            spark,
            [
                (2024, 2, 27, True, Decimal("4.00")),
                (2024, 2, 28, True, Decimal("1.00")),
                (2024, 2, 29, False, Decimal("2.50")),
            ],
            "year INT, month INT, day INT, observed BOOLEAN, count DECIMAL(14,2)",
        )
        assert_df_equality(actual, expected, ignore_row_order=True, ignore_nullable=True)

    def test_two_people_who_share_a_user_id_are_two(self, spark: SparkSession) -> None:
        people = [{**BASE_SIGNUP, "last_four": four} for four in ("0276", "1234")]
        silver = frame_of(spark, [tuple(person.values()) for person in people], SIGNUPS)
        actual = source.daily_user_counts(silver).where("observed").select("count")
        assert_rows(actual, [(Decimal("2.00"),)])

    def test_days_without_signups_have_no_row_and_do_not_lower_the_mean(self, spark: SparkSession) -> None:
        actual = source.daily_user_counts(signups_on(spark, {date(2023, 12, 1): 3, date(2023, 12, 31): 5}))
        days = [(2023, 12, 1, True, 3), (2023, 12, 31, True, 5), (2024, 1, 1, False, 4)]
        assert_rows(actual, [(*day, Decimal(count)) for *day, count in days])

    def test_the_mean_is_rounded_once_half_up(self, spark: SparkSession) -> None:
        counts = {MONDAY + timedelta(days=day): 1 for day in range(8)}
        actual = source.daily_user_counts(signups_on(spark, {**counts, MONDAY: 2})).where("not observed")
        assert_rows(actual.select("count"), [(Decimal("1.13"),)])

    def test_no_signups_make_no_rows(self, spark: SparkSession) -> None:
        for name in source.FORECASTERS:
            assert_rows(source.daily_user_counts(frame_of(spark, [], SIGNUPS), name), [])

    def test_an_unknown_forecaster_is_refused_with_the_names_there_are(self, spark: SparkSession) -> None:
        with pytest.raises(ValueError, match="'median'; forecasters: mean, weekday_mean, linear_trend"):
            source.daily_user_counts(frame_of(spark, [], SIGNUPS), "median")

    def test_the_last_day_that_can_be_written_has_a_next_one(self, spark: SparkSession) -> None:
        actual = source.daily_user_counts(signups_on(spark, {date(9999, 12, 31): 1})).where("not observed")
        assert_rows(actual, [(10000, 1, 1, False, Decimal(1))])


def rounded(value: Fraction) -> Decimal:
    hundredths = Fraction(value * 100 + Fraction(1, 2)).__floor__()
    return (Decimal(hundredths) / 100).quantize(Decimal("0.01"), ROUND_HALF_UP)


def plain_mean(counts: dict[date, int], target: date) -> Fraction:
    return Fraction(sum(counts.values()), len(counts))


def plain_weekday_mean(counts: dict[date, int], target: date) -> Fraction:
    same = {day: count for day, count in counts.items() if day.weekday() == target.weekday()}
    return plain_mean(same or counts, target)


def plain_linear_trend(counts: dict[date, int], target: date) -> Fraction:
    """By the textbook: slope = covariance / variance, through the centre."""
    days = [day.toordinal() for day in counts]
    middle, mean = Fraction(sum(days), len(days)), plain_mean(counts, target)
    variance = sum(((day - middle) ** 2 for day in days), Fraction(0))
    covariance = sum(((day.toordinal() - middle) * (count - mean) for day, count in counts.items()), Fraction(0))
    slope = covariance / variance if variance else Fraction(0)
    return max(Fraction(0), mean + slope * (target.toordinal() - middle))


PLAIN = {"mean": plain_mean, "weekday_mean": plain_weekday_mean, "linear_trend": plain_linear_trend}


class TestForecasters:
    def expected(self, spark: SparkSession, name: str, cases: list[dict[date, int]]) -> list[Decimal]:
        """Per case: the forecast for the day after its last; a case is told from the others by its horizon."""
        known = [
            (max(counts) + timedelta(days=1), number, day, count)
            for number, counts in enumerate(cases)
            for day, count in counts.items()
        ]
        history = frame_of(spark, known, "target_on DATE, horizon_days INT, day DATE, signup_count BIGINT")
        frame = source.forecaster_named(name).expected(history)
        assert frame.columns == ["target_on", "horizon_days", "expected"]
        assert frame.schema["expected"].dataType.simpleString() == "decimal(14,2)"
        return [row.expected for row in frame.orderBy("horizon_days").collect()]

    def test_the_weekday_mean_takes_the_same_day_of_the_week(self, spark: SparkSession) -> None:
        weeks = {MONDAY + timedelta(days=day): 10 * (day % 7) + day // 7 for day in range(14)}
        assert self.expected(spark, "weekday_mean", [weeks]) == [Decimal("0.50")]

    def test_the_weekday_mean_takes_all_days_if_that_weekday_is_new(self, spark: SparkSession) -> None:
        assert self.expected(spark, "weekday_mean", [{MONDAY: 1, MONDAY + timedelta(days=1): 2}]) == [Decimal("1.50")]

    def test_the_trend_goes_on_but_not_below_0(self, spark: SparkSession) -> None:
        rising = {MONDAY + timedelta(days=day): 3 * day + 2 for day in (0, 1, 2, 4)}
        falling = {MONDAY + timedelta(days=day): 10 - 3 * day for day in range(4)}
        assert self.expected(spark, "linear_trend", [rising, falling]) == [Decimal("17.00"), Decimal("0.00")]

    def test_the_trend_of_one_day_is_its_count(self, spark: SparkSession) -> None:
        assert self.expected(spark, "linear_trend", [{MONDAY: 7}]) == [Decimal("7.00")]

    @pytest.mark.parametrize("name", list(source.FORECASTERS))
    def test_it_agrees_with_plain_python(self, spark: SparkSession, name: str) -> None:
        days = st.integers(0, 40).map(lambda n: MONDAY + timedelta(days=n)) | st.dates(
            date(1000, 1, 1), date(9998, 1, 1)
        )
        counts = st.integers(1, 30) | st.integers(1, 1_000_000)
        cases = examples(st.dictionaries(days, counts, min_size=1, max_size=15), 200)
        plain = [rounded(PLAIN[name](case, max(case) + timedelta(days=1))) for case in cases]
        assert self.expected(spark, name, cases) == plain


class TestForecastBacktest:
    def assert_agrees(self, spark: SparkSession, counts: dict[date, int], tested: Iterable[date]) -> None:
        """Every day is forecast anew, in plain Python, from the days known so long before it."""
        rows = []
        for name, plain in PLAIN.items():
            for horizon in source.HORIZONS:
                errors = []
                for target in tested:
                    known = {d: count for d, count in counts.items() if d <= target - timedelta(days=horizon)}
                    if known:
                        errors.append(abs(Fraction(rounded(plain(known, target))) - counts[target]))
                error = rounded(sum(errors, Fraction(0)) / len(errors)) if errors else None
                rows.append((name, horizon, error, len(errors)))
        assert_rows(source.forecast_backtest(signups_on(spark, counts)), rows)

    def test_each_day_is_forecast_from_what_was_known_before_it(self, spark: SparkSession) -> None:
        counts = {MONDAY + timedelta(days=day): 5 + day // 4 + 3 * (day % 7) for day in range(30) if day % 11 != 6}
        self.assert_agrees(spark, counts, counts)

    def test_only_the_last_year_is_tested_but_all_that_came_before_is_known(self, spark: SparkSession) -> None:
        counts = {MONDAY + timedelta(days=day): 1 + day * 7919 % 13 for day in range(source.BACKTEST_DAYS + 20)}
        self.assert_agrees(spark, counts, list(counts)[-source.BACKTEST_DAYS :])

    def test_by_hand(self, spark: SparkSession) -> None:
        # From the day before, the mean expects 2 of the 4, then 3 of the 5. No day is known a week before.
        counts = {MONDAY: 2, MONDAY + timedelta(days=1): 4, MONDAY + timedelta(days=2): 5}
        actual = source.forecast_backtest(signups_on(spark, counts)).where("model = 'mean'")
        assert_rows(actual, [("mean", 1, Decimal("2.00"), 2), ("mean", 7, None, 0)])

    def test_a_trend_that_goes_on_to_a_far_date_ends_at_the_largest_number(self, spark: SparkSession) -> None:
        # 400,000 more on each of 2.9 million days are over 10^12. Tuesday is expected to be like Monday.
        counts = {MONDAY: 1, MONDAY + timedelta(days=1): 400_001, date(9999, 12, 31): 1}
        actual = source.forecast_backtest(signups_on(spark, counts)).where("model = 'linear_trend'")
        far = Decimal("999999999999.99") - 1
        mean = ((400_000 + far) / 2).quantize(Decimal("0.01"), ROUND_HALF_UP)
        assert_rows(actual, [("linear_trend", 1, mean, 2), ("linear_trend", 7, far, 1)])

    def test_without_a_day_to_test_every_model_still_has_its_rows(self, spark: SparkSession) -> None:
        rows = [(name, horizon, None, 0) for name in source.FORECASTERS for horizon in (1, 7)]
        assert_rows(source.forecast_backtest(frame_of(spark, [], SIGNUPS)), rows)

    def test_the_better_model_has_the_smaller_error(self, spark: SparkSession) -> None:
        weekly = {MONDAY + timedelta(days=day): 2 + 10 * (day % 7 < 5) for day in range(56)}
        rising = {MONDAY + timedelta(days=day): 1 + day for day in range(56)}
        best = {}
        for shape, counts in (("weekly", weekly), ("rising", rising)):
            rows = source.forecast_backtest(signups_on(spark, counts)).where("horizon_days = 1").collect()
            best[shape] = min(rows, key=lambda row: row.mean_absolute_error).model
        assert best == {"weekly": "weekday_mean", "rising": "linear_trend"}
