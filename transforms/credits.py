"""Credits: one row is one use, or one purchase, of credits by a user of an organisation, cobbled together for 2024 Q4.

Quirks of the sender: any field can be missing; times come in four shapes, and a third of the rows have none that can be
read; a user may appear under two organisations, or without the one that they have elsewhere. There is no event id, so
identical rows within one file are separate events.

Finance invoices from the balances: an event is dropped for no other reason than those in conf/sources/credits.yaml, and
money is exact (DECIMAL) throughout.
"""

from contextlib import suppress
from datetime import date

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from transforms.shared.text import MISSING, UNREADABLE, hashed, trimmed

ENGINE_COLUMNS = ("_batch_id", "_source_file", "_ingested_at", "_row_hash", "_rescued", "_raw", "_is_malformed")
# The order is part of every event_id: another order, or another field, gives all events new ids.
FIELDS = ("org_id", "user_id", "credit_type", "action", "credits", "timestamp")

UNKNOWN = "unknown"
ORG_CONFLICT = "org_conflict"  # the warn rule of that name
CREDITS = "decimal(12,2)"
# What Spark's sum of DECIMAL(12,2) is: no number of events overflows it, so no absurd row stops a release.
MONEY = "decimal(22,2)"

# Decision: a longer id, or one with a NUL, is none that anybody gave out; Postgres cannot index the one, nor hold the
# other. It counts as missing, and so does one with a character that could not be read (U+FFFD): it would be another
# user. An organisation that is none is not missing, though: nobody knows which one it is, and its row is held back.
LONGEST_ID = 100
# Decision: plain decimals only. Not `1e3` (a spreadsheet that writes this has dropped digits), `$5` (not credits),
# `1,000` (the comma may be a decimal one).
_NUMBER = r"\A[+-]?(?:\d++(?:\.\d*+)?|\.\d++)\z"
_LONGEST_NUMBER = 100  # of millions of digits, Java would make a number first, for hours, and then find it too large
_BEYOND_CENTS = r"\.\d{2}\d*[1-9]"
# Shape -> how Spark reads it. Their digits are fixed, so that a text has one of them at most.
_LOCAL_TIMES = {
    r"\A[1-9]\d{3}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}\z": "yyyy-MM-dd HH:mm:ss",
    r"\A\d{2}-\d{2}-[1-9]\d{3}\z": "dd-MM-yyyy",
    r"\A\d{2}/\d{2}/[1-9]\d{3} \d{2}:\d{2} [AP]M\z": "MM/dd/yyyy hh:mm a",
}
# Decision: ten digits, 2001-09-09 to 2286-11-20; also as `1734912000.0`, as tools write whole numbers in a column with
# gaps. Thirteen digits may be milliseconds or a slip: junk.
_EPOCH_SECONDS = r"\A[1-9]\d{9}(?:\.0+)?\z"


# -- silver --


def credit_events(raw: DataFrame, timezone: str, period_from: str, period_to: str) -> DataFrame:
    """One row per raw row, whatever it holds: the event as far as it could be read, and helper columns for the rules.

    `credits` is as sent, `signed_credits` positive for add and negative for deduct (NULL for any other action).
    `period_from` and `period_to` are days (YYYY-MM-DD, both included) of `timezone`. `_home_org_id` is the user's row
    in `user_organisations`: rows that are held back, or come again in another file, do not count towards it.
    Raises ValueError if the period is none.
    """
    first_day, last_day = _period(period_from, period_to)
    events = _with_org_of_user(_read(raw, timezone))
    homes = _homes(_per_organisation(events)).select("user_id", F.col("org_id").alias("_home_org_id"))
    is_in_period = _local_day(timezone).between(F.lit(first_day), F.lit(last_day))
    return events.join(homes, "user_id", "left").select(
        *ENGINE_COLUMNS,
        "event_id",
        "org_id",
        "user_id",
        "credit_type",
        "action",
        "credits",
        F.when(F.col("action") == "add", F.col("credits"))
        .when(F.col("action") == "deduct", -F.col("credits"))
        .alias("signed_credits"),
        "occurred_at",
        "occurred_at_raw",
        "_raw_event_id",
        "_raw_org_id",
        "_has_readable_credits",
        "_has_rounded_credits",
        "_has_negative_credits",
        "_is_org_inferred",
        "_home_org_id",
        F.coalesce(is_in_period, F.lit(True)).alias("_is_in_period"),
    )


def user_organisations(credit_events: DataFrame) -> DataFrame:
    """One row per user who is known: the home organisation `org_id`, and how many events the user has there.

    Decision: the organisation of the most events; of several, the one with the earliest dated event (one without any
    comes last), then the one with the smallest id. Events whose organisation was inferred count like all others: their
    users have one organisation only.
    """
    known = credit_events.where(F.col("user_id") != UNKNOWN)
    counts = (F.count("*").alias("event_count"), F.min("occurred_at").alias("first_event_at"))
    return _homes(known.groupBy("user_id", "org_id").agg(*counts))


# -- gold --


def org_credit_balances(credit_events: DataFrame, quarantined: DataFrame) -> DataFrame:
    """One row per organisation: what was added and deducted, the balance, and what is doubtful about it.

    Every event counts for the organisation it was recorded for, undated and disputed ones included.
    Decision: an organisation that has nothing but quarantined rows has a row too, with a balance of 0.00, so that
    finance sees that something is held back. A quarantined row counts for the organisation that it names itself.
    """
    is_disputed = F.array_contains("warnings", ORG_CONFLICT)
    balances = credit_events.groupBy("org_id").agg(
        _total("credits", F.col("action") == "add").alias("credits_added"),
        _total("credits", F.col("action") == "deduct").alias("credits_deducted"),
        _total("signed_credits", is_disputed).alias("disputed_credits"),
        F.count_if(F.col("occurred_at").isNull()).alias("undated_event_count"),
        F.min("occurred_at").alias("first_event_at"),
        F.max("occurred_at").alias("last_event_at"),
    )
    return balances.join(_quarantined_counts(quarantined), "org_id", "full").select(
        "org_id",
        _or_zero("credits_added").cast(MONEY).alias("credits_added"),
        _or_zero("credits_deducted").cast(MONEY).alias("credits_deducted"),
        (_or_zero("credits_added") - _or_zero("credits_deducted")).cast(MONEY).alias("credit_balance"),
        _or_zero("disputed_credits").cast(MONEY).alias("disputed_credits"),
        _or_zero("undated_event_count").alias("undated_event_count"),
        _or_zero("quarantined_event_count").alias("quarantined_event_count"),
        "first_event_at",
        "last_event_at",
    )


def user_activity(credit_events: DataFrame, user_organisations: DataFrame, timezone: str) -> DataFrame:
    """One row per event, with the user's home organisation (NULL for an unknown user) and the day in `timezone`.

    `warnings` is text, joined by `, `; empty, not NULL, if there are none, so that `NOT LIKE` finds those events.
    """
    homes = user_organisations.select("user_id", F.col("org_id").alias("home_org_id"))
    return credit_events.join(homes, "user_id", "left").select(
        "event_id",
        "org_id",
        "user_id",
        "home_org_id",
        "credit_type",
        "action",
        "credits",
        "occurred_at",
        _local_day(timezone).alias("occurred_on"),
        F.array_join("warnings", ", ").alias("warnings"),
    )


def user_daily_usage(credit_events: DataFrame, timezone: str) -> DataFrame:
    """One row per organisation, user, credit type, action and day in `timezone` (NULL: all undated events)."""
    return credit_events.groupBy(
        "org_id", "user_id", "credit_type", "action", _local_day(timezone).alias("occurred_on")
    ).agg(F.count("*").alias("event_count"), F.sum("credits").cast(MONEY).alias("credits"))


def unbalanced_credits(org_credit_balances: DataFrame, credit_events: DataFrame) -> DataFrame:
    """One row if the balances of all organisations do not add up to the signed sum of all events, to the cent."""
    balances = org_credit_balances.agg(F.coalesce(F.sum("credit_balance"), F.lit(0)).alias("sum_of_balances"))
    events = credit_events.agg(F.coalesce(F.sum("signed_credits"), F.lit(0)).alias("sum_of_events"))
    return balances.crossJoin(events).where(F.col("sum_of_balances") != F.col("sum_of_events"))


# -- steps to silver --


def _period(first: str, last: str) -> tuple[date, date]:
    with suppress(TypeError, ValueError):
        days = date.fromisoformat(first), date.fromisoformat(last)
        if days[0] <= days[1]:
            return days
    raise ValueError(f"period_from, period_to: expected two days in order, as 2024-10-01; found {first!r}, {last!r}")


def _read(raw: DataFrame, timezone: str) -> DataFrame:
    """One row per raw row: what can be read of its own values alone."""
    credits = F.col("credits")
    is_number = F.coalesce(credits.rlike(_NUMBER), F.lit(False))
    amount = F.when(is_number & (F.length(credits) <= _LONGEST_NUMBER), credits.try_cast(CREDITS))
    org_id = _identifier(F.col("org_id"))
    return _with_event_id(raw).select(
        *ENGINE_COLUMNS,
        "_content",
        "event_id",
        F.col("event_id").alias("_raw_event_id"),
        org_id.alias("org_id"),
        (~_is_missing(F.col("org_id")) & org_id.isNull()).alias("_is_org_unreadable"),
        # Which field of a malformed row is which is anybody's guess, and a header within a file names no organisation.
        F.when(~F.col("_is_malformed") & ~org_id.rlike(r"\A\x{feff}?org_id\z"), org_id).alias("_raw_org_id"),
        F.coalesce(_identifier(F.col("user_id")), F.lit(UNKNOWN)).alias("user_id"),
        F.coalesce(_identifier(F.col("credit_type")), F.lit(UNKNOWN)).alias("credit_type"),
        _identifier(F.col("action")).alias("action"),
        F.coalesce(amount, F.lit(0).cast(CREDITS)).alias("credits"),
        amount.isNotNull().alias("_has_readable_credits"),
        (amount.isNotNull() & credits.rlike(_BEYOND_CENTS)).alias("_has_rounded_credits"),
        # Of the text: -0.001 is 0.00 once rounded, and -99999999999 is too large to be read.
        (is_number & credits.startswith("-") & credits.rlike("[1-9]")).alias("_has_negative_credits"),
        _occurred_at(F.col("timestamp"), timezone).alias("occurred_at"),
        "occurred_at_raw",
    )


def _with_event_id(raw: DataFrame) -> DataFrame:
    """`raw` with its fields trimmed, `_content` of these, and `event_id` of that and how often the file had it so far.

    A file that was replaced in place is another one from then on, also while a copy keeps its former rows alive.

    Decision: the file's name and place are not part of it. Of a row that is three times in one file, and four times in
    an export that overlaps with it, there are four events: nothing is invoiced twice. The price is that equal rows of
    unrelated files are one event, too; the row accounts show them as deduplicated.
    Nor are white space, line ends, quotes, the order of columns and columns beyond the contract: an export that differs
    only in these has the same events.
    """
    fields = raw.select(
        *ENGINE_COLUMNS,
        *[trimmed(F.col(field)).alias(field) for field in FIELDS],
        F.col("timestamp").alias("occurred_at_raw"),
    )
    values = [F.coalesce(field, F.lit("")) for field in FIELDS]
    measured = F.concat(*[F.concat(F.octet_length(value), F.lit(":"), value) for value in values])
    line = F.concat(F.lit("line:"), F.coalesce("_raw", F.lit("")))
    content = F.when(F.col("_is_malformed"), line).when(~F.col("_is_malformed"), measured)
    # Rows with the same content are alike in all that is read of them: which of them is the first does not matter.
    alike = Window.partitionBy("_batch_id", "_source_file", "_content").orderBy(F.col("_row_hash").asc_nulls_last())
    numbered = F.concat("_content", F.lit("#"), F.row_number().over(alike))
    event_id = hashed(numbered)
    return fields.withColumn("_content", content).withColumn("event_id", event_id)


def _with_org_of_user(events: DataFrame) -> DataFrame:
    """`events`, with a missing `org_id` filled where the user has exactly one organisation in all other rows.

    Rows that are quarantined for another reason count as well: an invoice must not rest on a doubtful organisation.
    Nor is one that is named and cannot be read missing: it is perhaps another one.
    """
    is_named = F.col("org_id").isNotNull() | F.col("_is_org_unreadable")
    only_orgs = (
        events.where(~F.col("_is_malformed") & is_named & (F.col("user_id") != UNKNOWN))
        .groupBy("user_id")
        .agg(
            F.min("org_id").alias("_only_org_id"),
            F.max("org_id").alias("_last_org_id"),
            F.max("_is_org_unreadable").alias("_has_unreadable_org"),
        )
        .where((F.col("_only_org_id") == F.col("_last_org_id")) & ~F.col("_has_unreadable_org"))
        .select("user_id", "_only_org_id")
    )
    is_missing = F.col("org_id").isNull() & ~F.col("_is_org_unreadable")
    is_inferred = is_missing & F.col("_only_org_id").isNotNull()
    return events.join(only_orgs, "user_id", "left").withColumns(
        {
            "org_id": F.when(is_missing, F.col("_only_org_id")).otherwise(F.col("org_id")),
            "_is_org_inferred": is_inferred,
        }
    )


def _per_organisation(events: DataFrame) -> DataFrame:
    """One row per user who is known and organisation: how many different events that are kept, and the earliest time.

    Of rows with one content there are as many events as the file that has most of them has. To count them so is to
    count their ids, each of which would take a number first, and so a sorted file.
    """
    # By content alone: the two steps that need rows of one content in one place move each row once.
    kept = events.where(_is_kept() & (F.col("user_id") != UNKNOWN)).repartition("_content")
    by, first = ("user_id", "org_id"), F.min("occurred_at").alias("occurred_at")
    in_files = kept.groupBy(*by, "_content", "_batch_id", "_source_file").agg(F.count("*").alias("event_count"), first)
    in_all = in_files.groupBy(*by, "_content").agg(F.max("event_count").alias("event_count"), first)
    first = F.min("occurred_at").alias("first_event_at")
    return in_all.groupBy(*by).agg(F.sum("event_count").alias("event_count"), first)


def _homes(per_organisation: DataFrame) -> DataFrame:
    """One row per user: the organisation with most events (`user_organisations` says which of several)."""
    home_first = F.struct(
        (-F.col("event_count")).alias("minus_event_count"),
        F.col("first_event_at").isNull().alias("is_undated"),
        "first_event_at",
        "org_id",
    )
    homes = per_organisation.groupBy("user_id").agg(F.min(home_first).alias("home"))
    return homes.select(
        "user_id",
        F.col("home.org_id").alias("org_id"),
        (-F.col("home.minus_event_count")).alias("event_count"),
    )


def _is_kept() -> Column:
    """Whether the row breaks none of the quarantine rules (a test holds the two together)."""
    has_sign = F.coalesce(F.col("action").isin("add", "deduct"), F.lit(False)) & ~F.col("_has_negative_credits")
    return ~F.col("_is_malformed") & F.col("org_id").isNotNull() & has_sign


def _identifier(text: Column) -> Column:
    """A trimmed text in lower case; NULL if it says that there is no value, in any case, or cannot be an id."""
    bare = F.lower(text)
    is_possible = (F.length(bare) <= LONGEST_ID) & ~bare.rlike(UNREADABLE)
    return F.when(~_is_missing(text) & is_possible, bare)


def _is_missing(text: Column) -> Column:
    return F.coalesce(F.lower(text).isin(*[value.lower() for value in MISSING]), F.lit(True))


def _occurred_at(text: Column, timezone: str) -> Column:
    """The TIMESTAMP of a trimmed text in one of the four shapes; NULL for any other, and if there is no such time.

    All but epoch seconds are local to `timezone`; a date alone is the start of that day. Needs a session in UTC.
    """
    written = F.upper(text)
    shapes = [
        F.when(written.rlike(shape), F.try_to_timestamp(written, F.lit(form))) for shape, form in _LOCAL_TIMES.items()
    ]
    local = F.coalesce(*shapes)
    seconds = F.when(written.rlike(_EPOCH_SECONDS), F.left(written, F.lit(10)).try_cast("bigint"))
    return F.coalesce(local if timezone == "UTC" else F.to_utc_timestamp(local, timezone), F.timestamp_seconds(seconds))


# -- steps to gold --


def _local_day(timezone: str) -> Column:
    return F.to_date(F.from_utc_timestamp("occurred_at", timezone))


def _total(column: str, condition: Column) -> Column:
    return F.sum(F.when(condition, F.col(column)))


def _or_zero(column: str) -> Column:
    return F.coalesce(column, F.lit(0))


def _quarantined_counts(quarantined: DataFrame) -> DataFrame:
    """One row per organisation that quarantined rows name: how many events they are (by id, like all others)."""
    named = quarantined.where(F.col("_raw_org_id").isNotNull())
    return named.groupBy(F.col("_raw_org_id").alias("org_id")).agg(
        F.count_distinct("_raw_event_id").alias("quarantined_event_count")
    )
