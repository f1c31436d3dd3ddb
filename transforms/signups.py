"""Signups: one row is one person who signed up, sent as CSV.

The key is two ids in one field, `1043 0276`: a numeric user id and the last four digits of a social security number.
Two people can share a user id; only the pair is unique. The last four are text, for their leading zeros.

Health-related, sensitive: who signed up is for restricted readers; everyone else sees counts per day.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from decimal import Decimal
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from transforms.shared.text import UNREADABLE, known, trimmed, whole_number
from transforms.shared.times import TIME_OF_DAY

ENGINE_COLUMNS = ("_batch_id", "_source_file", "_ingested_at", "_row_hash", "_rescued", "_raw", "_is_malformed")
FIELDS = ("id", "first_name", "last_name", "age", "gender", "visit_date")
USER = ("user_id", "last_four", "first_name", "last_name", "age", "gender", "visit_date")

# Decision: exactly one blank between the two ids. With more, or a tab, the row may have been put together wrongly.
_ID = r"\A(\d+) (\d{4})\z"
# Decision: these spellings, and no others: with slashes the month comes first, unless the year does. `05-06-2024` may
# be May or June, `1/2/24` is short of a century. A time of day is cut off; one with an offset may mean another day.
_YEAR_FIRST = rf"\A([1-9]\d{{3}})([-/])(\d{{2}})\2(\d{{2}}){TIME_OF_DAY}\z"
_MONTH_FIRST = rf"\A(\d{{1,2}})/(\d{{1,2}})/([1-9]\d{{3}}){TIME_OF_DAY}\z"

DAILY_COUNT = "decimal(14,2)"
_MOST_HUNDREDTHS = 10**14 - 1  # what it can hold
# Decision: a backtest of the last year of signups shows how a forecaster does now, and costs the same however long the
# history gets.
BACKTEST_DAYS = 365
HORIZONS = (1, 7)


# -- silver --


def signups(raw: DataFrame) -> DataFrame:
    """One row per raw row, whatever it holds: what could be read of the signup, and helper columns for the rules.

    `user_id` is NULL if it is not a number up to 2^63 - 1 followed by one blank and four digits. Decision: `gender` is
    as sent, in its case too, for there is no list of what it may be. Ages outside 0..120 are kept.
    """
    bare = raw.select(*ENGINE_COLUMNS, *[trimmed(F.col(field)).alias(field) for field in FIELDS])
    texts = bare.select(*ENGINE_COLUMNS, *[known(F.col(field)).alias(field) for field in FIELDS])
    read = texts.select(
        *ENGINE_COLUMNS,
        F.regexp_extract("id", _ID, 1).try_cast("bigint").alias("user_id"),
        F.nullif(F.regexp_extract("id", _ID, 2), F.lit("")).alias("last_four"),
        _if_readable("first_name"),
        _if_readable("last_name"),
        whole_number(F.col("age")).alias("age"),
        _if_readable("gender"),
        _date(F.col("visit_date")).alias("visit_date"),
        F.col("age").isNotNull().alias("_has_age"),
        (~F.concat_ws("", "first_name", "last_name", "gender").rlike(UNREADABLE)).alias("_has_readable_text"),
    )
    return read.select(
        *ENGINE_COLUMNS,
        *USER,
        (F.col("age").isNotNull() | ~F.col("_has_age")).alias("_has_readable_age"),
        "_has_readable_text",
    )


# -- gold --


def users(signups: DataFrame) -> DataFrame:
    """One row per person who signed up: their newest signup."""
    return signups.select(*USER)


def daily_user_counts(signups: DataFrame, forecaster: str = "mean") -> DataFrame:
    """One row per day with a signup (`observed`): how many people; one for the day after the last: how many to expect.

    `forecaster` is one of `FORECASTERS`. No signups, no rows. Raises ValueError for an unknown forecaster.
    """
    model = forecaster_named(forecaster)
    days = _daily_counts(signups)
    last_day = days.agg(F.max("day").alias("last_day")).where("last_day is not null")
    wanted = last_day.select(F.date_add("last_day", 1).alias("target_on"), F.lit(1).alias("horizon_days"))
    observed = days.select("day", F.lit(True).alias("observed"), F.col("signup_count").cast(DAILY_COUNT).alias("count"))
    forecast = model.expected(_history(days, wanted)).select(
        F.col("target_on").alias("day"), F.lit(False).alias("observed"), F.col("expected").alias("count")
    )
    return observed.unionByName(forecast).select(
        F.year("day").alias("year"),
        F.month("day").alias("month"),
        F.day("day").alias("day"),
        "observed",
        "count",
    )


def forecast_backtest(signups: DataFrame) -> DataFrame:
    """One row per forecaster and horizon, always: how far its forecasts were from the counts, by rolling origin.

    Each of the last `BACKTEST_DAYS` days with a signup is forecast from the days that were known `horizon_days` before
    it (1: until the day before), and from no later ones; a day with none known before it is not tested. All forecasters
    are tested on the same days. `mean_absolute_error` is in signups a day, NULL if `days_tested` is 0.
    """
    days = _daily_counts(signups)
    horizons = F.explode(F.array(*[F.lit(horizon) for horizon in HORIZONS])).alias("horizon_days")
    latest = days.orderBy(F.col("day").desc_nulls_last()).limit(BACKTEST_DAYS)
    tested = latest.select(F.col("day").alias("target_on"), "signup_count", horizons)
    history = _history(days, tested.select("target_on", "horizon_days"))
    models = F.explode(F.array(*[F.lit(name) for name in FORECASTERS])).alias("model")
    nothing_tested = days.agg(F.count("*")).select(models).select("model", horizons)
    forecasts = _union([model.expected(history).withColumn("model", F.lit(n)) for n, model in FORECASTERS.items()])
    errors = forecasts.join(tested, ["target_on", "horizon_days"], "inner").select(
        "model", "horizon_days", F.abs(F.col("expected") - F.col("signup_count")).alias("error")
    )
    return (
        nothing_tested.join(errors, ["model", "horizon_days"], "left")
        .groupBy("model", "horizon_days")
        .agg(
            _quotient(F.sum("error"), F.count("error")).alias("mean_absolute_error"),
            F.count("error").alias("days_tested"),
        )
    )


# -- forecasters --


class Forecaster(ABC):
    """Says how many people to expect on a day, from the days known by then.

    To plug in another one, write a subclass and name it in `FORECASTERS`: it is then tested by `forecast_backtest` and
    can be chosen under `parameters` in conf/sources/signups.yaml. One of a model library fits here as well: in
    `expected`, `history.groupBy("target_on", "horizon_days").applyInPandas(fit_and_predict, schema)` fits one model per
    forecast, each in a worker and none in the driver (pandas, pyarrow and the library are needed there).
    """

    @abstractmethod
    def expected(self, history: DataFrame) -> DataFrame:
        """One row per forecast: `target_on`, `horizon_days`, and `expected` DECIMAL(14,2), 0 or more.

        `history`: one row per forecast and day known to it: `target_on` DATE, the day to forecast; `horizon_days` INT,
        how long before it the forecast is made; `day` DATE, a day until then; `signup_count` BIGINT of that day. Days
        without a signup have no row.
        """


class Mean(Forecaster):
    """The mean of all daily counts."""

    def expected(self, history: DataFrame) -> DataFrame:
        return _per_forecast(history, _mean(F.col("signup_count")))


class WeekdayMean(Forecaster):
    """The mean of the daily counts of the same day of the week; of all days if there is none."""

    def expected(self, history: DataFrame) -> DataFrame:
        is_same_weekday = F.weekday("day") == F.weekday("target_on")
        same_weekday = F.when(is_same_weekday, F.col("signup_count"))
        return _per_forecast(history, F.coalesce(_mean(same_weekday), _mean(F.col("signup_count"))))


class LinearTrend(Forecaster):
    """The straight line through the daily counts (least squares), continued, but not below 0; one day's count if alone.

    With x the days from the day to forecast and y the counts, what the line has at x = 0:
    (sum y * sum x^2 - sum x * sum xy) / (n * sum x^2 - (sum x)^2). Whole numbers until the division.
    """

    def expected(self, history: DataFrame) -> DataFrame:
        x, y = F.date_diff("day", "target_on").cast("decimal(10,0)"), F.col("signup_count").cast("decimal(10,0)")
        count, sum_x, sum_y, sum_xx, sum_xy = F.count("*"), F.sum(x), F.sum(y), F.sum(x * x), F.sum(x * y)
        at_target = F.greatest(sum_y * sum_xx - sum_x * sum_xy, F.lit(0))
        spread = count * sum_xx - sum_x * sum_x
        return _per_forecast(history, F.coalesce(_quotient(at_target, spread), _mean(F.col("signup_count"))))


FORECASTERS: Mapping[str, Forecaster] = {
    "mean": Mean(),
    "weekday_mean": WeekdayMean(),
    "linear_trend": LinearTrend(),
}


def forecaster_named(name: str) -> Forecaster:
    """Raises ValueError, with the names there are, if none is called `name`."""
    if name not in FORECASTERS:
        raise ValueError(f"no forecaster is called {name!r}; forecasters: {', '.join(FORECASTERS)}")
    return FORECASTERS[name]


# -- steps --


def _if_readable(column: str) -> Column:
    return F.when(~F.col(column).rlike(UNREADABLE), F.col(column)).alias(column)


def _date(text: Column) -> Column:
    """The DATE; NULL if the text is in none of the spellings above, or the date does not exist."""
    year_first = F.regexp_replace(text, _YEAR_FIRST, "$1-$3-$4").try_cast("date")
    month_first = F.regexp_replace(text, _MONTH_FIRST, "$3-$1-$2").try_cast("date")
    return F.when(text.rlike(_YEAR_FIRST), year_first).when(text.rlike(_MONTH_FIRST), month_first)


def _daily_counts(signups: DataFrame) -> DataFrame:
    """One row per day with a signup: `day`, and how many people (silver has one row per person).

    Decision: a day without any is not a day with 0, neither in a forecast nor in its test: nobody may have signed up,
    or the doors were closed, or the file is yet to come. The mean of the observed daily counts leaves them out, too.
    """
    return signups.groupBy(F.col("visit_date").alias("day")).agg(F.count("*").alias("signup_count"))


def _history(days: DataFrame, wanted: DataFrame) -> DataFrame:
    """One row per wanted forecast (`target_on`, `horizon_days`: few) and day known to it."""
    is_known = F.col("day") <= F.date_sub("target_on", F.col("horizon_days"))
    return days.join(F.broadcast(wanted), is_known, "inner")


def _per_forecast(history: DataFrame, expected: Column) -> DataFrame:
    return history.groupBy("target_on", "horizon_days").agg(expected.alias("expected"))


def _union(frames: list[DataFrame]) -> DataFrame:
    return reduce(DataFrame.unionByName, frames)


def _mean(values: Column) -> Column:
    return _quotient(F.sum(values), F.count(values))


def _quotient(numerator: Column, denominator: Column) -> Column:
    """Of two numbers that are not negative, exact and rounded half up, once; NULL if the denominator is 0.

    One that is too large is the largest there is: a trend may go on to a day in the year 9999.
    """
    twice = F.nullif(2 * denominator.cast("decimal(38,0)"), F.lit(0))
    hundredths = F.call_function("div", 200 * numerator + denominator, twice)
    held = F.when(hundredths.isNotNull(), F.least(hundredths, F.lit(_MOST_HUNDREDTHS)))
    return (held * F.lit(Decimal("0.01"))).cast(DAILY_COUNT)
