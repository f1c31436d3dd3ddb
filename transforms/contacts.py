"""Contacts: one row is one call or chat with a crisis line, sent as one JSON object a line.

Quirks of the sender: lists are Python reprs inside JSON strings, so a name with an apostrophe is in double quotes; one
transfer time is a `datetime.datetime(...)`, several are strings; an unknown number may be a bare NaN. `counselors` has
first who answered, then one counselor per transfer, perhaps one who had the contact before.

The most private source, minors may be among the clients: their names and places never leave silver.
"""

import secrets
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from transforms.shared.python_lists import text_list, time_list
from transforms.shared.text import has_missing, hashed, known, trimmed, whole_number, without_missing
from transforms.shared.times import instant

ENGINE_COLUMNS = ("_source_file", "_row_hash", "_batch_id", "_ingested_at", "_raw", "_rescued")
# The order is part of every contact_id: another order, or another field, gives all contacts new ids.
FIELDS = (
    "time_call_began",
    "time_call_ended",
    "counselors",
    "transfer_timestamps",
    "issues_discussed",
    "call_rating",
    "initial_risk_level",
    "client_pronouns",
    "client_name",
    "client_location",
)
# A character of a JSON text, or an escape of one; a surrogate (`\uD800` to `\uDFFF`) only as one of a pair.
# Possessive, so that no line makes it backtrack or recurse.
_WHOLE = r"(?:[^\\]++|\\[^u]|\\u(?![dD][89a-fA-F])|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
_WHOLE_CHARACTERS = rf"\A{_WHOLE}*+\z"
_HALF = rf"\G({_WHOLE}*+)\\u[dD][89a-fA-F][0-9a-fA-F]{{2}}"
# What stands for a character that could not be read, in bytes that are not UTF-8 and for half of a pair.
_UNREAD = "\ufffd"
# Decision: what one of these fields has such a character in is NULL, with a warning: the call counts without it.
_OF_CLIENT = ("issues_discussed", "client_pronouns", "client_name", "client_location")
# Decision: as `pronoun_risk` joins them, pronouns are a key in Postgres, which cannot index thousands of bytes.
LONGEST_PRONOUNS = 200
RECORD = ", ".join(f"{field}: STRING" for field in FIELDS)
# The field of an object that no line has: another one in each process.
_END = f"{secrets.token_hex(16)} end"

ALL_CONTACTS = "all"
NO_PRONOUNS = "Unknown"
SHE_THEY = "She/They"


# -- silver --


def contacts(raw: DataFrame, timezone: str, id_secret: Column) -> DataFrame:
    """One row per raw line, whatever it holds: what could be read of the contact, and helper columns for the rules.

    `contact_id` is the same for the same record, and without `id_secret` nobody can tell which record it is of.

    `counselor_names` (trimmed) and `transferred_at` (NULL for a time that cannot be read) are in the sender's order,
    and are empty or NULL where the sender gives none. Ratings and risks are kept outside 1..5, too. Times without an
    offset are local to `timezone`.
    """
    read = _texts(raw, id_secret).select(
        *ENGINE_COLUMNS,
        "_is_json",
        "_is_whole",
        "contact_id",
        *FIELDS,
        instant(F.col("time_call_began"), timezone).alias("started_at"),
        instant(F.col("time_call_ended"), timezone).alias("ended_at"),
        text_list(F.col("counselors")).alias("counselor_names"),
        time_list(F.coalesce("transfer_timestamps", F.lit("[]")), timezone).alias("transferred_at"),
        text_list(F.col("issues_discussed")).alias("issues"),
        text_list(F.col("client_pronouns")).alias("pronouns"),
        whole_number(F.col("call_rating")).alias("rating"),
        whole_number(F.col("initial_risk_level")).alias("risk_level"),
    )
    pronouns = without_missing(F.col("pronouns"))
    return read.select(
        *ENGINE_COLUMNS,
        "contact_id",
        "started_at",
        "ended_at",
        "counselor_names",
        "transferred_at",
        without_missing(F.col("issues")).alias("issues"),
        F.when(_fits(pronouns), pronouns).alias("pronouns"),
        F.col("rating").alias("call_rating"),
        F.col("risk_level").alias("initial_risk_level"),
        "client_name",
        "client_location",
        "_is_json",
        "_is_whole",
        (~_has_unread("counselors")).alias("_has_whole_counselors"),
        _is_readable("counselors", "counselor_names").alias("_has_readable_counselors"),
        F.coalesce(has_missing(F.col("counselor_names")), F.lit(False)).alias("_has_nameless_counselor"),
        (_is_readable("transfer_timestamps", "transferred_at") & ~_has_null("transferred_at")).alias(
            "_has_readable_transfers"
        ),
        _is_readable("issues_discussed", "issues").alias("_has_readable_issues"),
        _is_readable("client_pronouns", "pronouns").alias("_has_readable_pronouns"),
        _fits(pronouns).alias("_has_short_pronouns"),
        _is_readable("call_rating", "rating").alias("_has_readable_rating"),
        _is_readable("initial_risk_level", "risk_level").alias("_has_readable_risk_level"),
    )


def case_days(contacts: DataFrame, timezone: str = "UTC") -> DataFrame:
    """One row per counselor and day: the cases first taken that day, and the sums that their means are made of.

    `risk_level_count` and `rating_count` are the cases that have a value; the sums are 0 where none has.

    Decision: a case that returns to the same counselor counts once, on the day on which they took it first, also if it
    returns after midnight. The day is that of `timezone`, as the sender wrote it.
    """
    held = contacts.select(
        "started_at",
        "counselor_names",
        "transferred_at",
        F.posexplode("counselor_names").alias("position", "counselor_name"),
        "initial_risk_level",
        "call_rating",
    )
    # A contact is one row, so its own list shows what it counts for: nothing need be compared with other rows.
    is_first = F.array_position("counselor_names", F.col("counselor_name")) == F.col("position") + 1
    taken_over_at = F.coalesce(F.get("transferred_at", F.col("position") - 1), "started_at")
    day = F.to_date(F.from_utc_timestamp(taken_over_at, timezone))
    cases = held.where(is_first).select("counselor_name", day.alias("day"), "initial_risk_level", "call_rating")
    return cases.groupBy("counselor_name", "day").agg(
        F.count("*").alias("number_of_cases"),
        F.coalesce(F.sum("initial_risk_level"), F.lit(0)).alias("risk_level_sum"),
        F.count("initial_risk_level").alias("risk_level_count"),
        F.coalesce(F.sum("call_rating"), F.lit(0)).alias("rating_sum"),
        F.count("call_rating").alias("rating_count"),
    )


def pronoun_risk_levels(contacts: DataFrame) -> DataFrame:
    """One row per list of pronouns, as sent, and initial risk level, either NULL where not known: how many contacts."""
    return contacts.groupBy("pronouns", "initial_risk_level").agg(F.count("*").alias("contact_count"))


def counselors(case_days: DataFrame) -> DataFrame:
    """One row per counselor named in any contact. Names that differ at all, also in case, are different people."""
    named = case_days.select("counselor_name").distinct()
    return named.select(_counselor_id(F.col("counselor_name")).alias("counselor_id"), "counselor_name")


def transfers(contacts: DataFrame) -> DataFrame:
    """One row per transfer of a contact, numbered from 1: who received it, and when."""
    received = contacts.select(
        "contact_id", "counselor_names", F.posexplode("transferred_at").alias("position", "transferred_at")
    )
    receiver = F.get("counselor_names", F.col("position") + 1)
    return received.select(
        "contact_id",
        (F.col("position") + 1).alias("transfer_number"),
        _counselor_id(receiver).alias("counselor_id"),
        "transferred_at",
    )


def assignments(contacts: DataFrame) -> DataFrame:
    """One row per counselor who held a contact, numbered from 1 in order; from `started_at` until before `ended_at`.

    One who gets a contact back has a row for each time. A contact's rows cover the call without gap or overlap.
    """
    held = contacts.select(
        "contact_id",
        "started_at",
        "ended_at",
        "transferred_at",
        F.posexplode("counselor_names").alias("position", "counselor_name"),
    )
    taken_over_at = F.get("transferred_at", F.col("position") - 1)
    handed_over_at = F.get("transferred_at", "position")
    return held.select(
        "contact_id",
        (F.col("position") + 1).alias("assignment_number"),
        _counselor_id(F.col("counselor_name")).alias("counselor_id"),
        "counselor_name",
        F.coalesce(taken_over_at, "started_at").alias("started_at"),
        F.coalesce(handed_over_at, "ended_at").alias("ended_at"),
    )


def open_case_days(contacts: DataFrame, assignments: DataFrame) -> DataFrame:
    """One row per scope and day (of UTC) on which a case begins or ends; for `concurrency`, which says what scopes are.

    `net`: by how many the open cases change until the day ends. `most_opened`: the same at the first moment at which
    the most are open, `reached_at`.

    So no partition holds more than a day's changes or, in `concurrency`, a scope's days; and new contacts touch only
    their days.
    """
    line = contacts.select(F.lit(ALL_CONTACTS).alias("scope"), "started_at", "ended_at")
    each = assignments.select(_counselor_scope(F.col("counselor_name")).alias("scope"), "started_at", "ended_at")
    changes = _changes(line.unionByName(each)).withColumn("day", F.to_date("at"))
    # The sum includes all changes of the same instant, whatever their order (a RANGE frame, which is the default).
    within_day = Window.partitionBy("scope", "day").orderBy(F.col("at").asc_nulls_last())
    running = changes.select("scope", "day", "at", "change", F.sum("change").over(within_day).alias("opened"))
    days = running.groupBy("scope", "day").agg(
        F.sum("change").alias("net"),
        F.min(F.struct((-F.col("opened")).alias("minus_opened"), "at")).alias("first_peak"),
    )
    return days.select(
        "scope",
        "day",
        "net",
        (-F.col("first_peak.minus_opened")).alias("most_opened"),
        F.col("first_peak.at").alias("reached_at"),
    )


# -- gold --


def published_counselors(counselors: DataFrame) -> DataFrame:
    """One row per counselor."""
    return counselors.select("counselor_id", "counselor_name")


def published_contacts(contacts: DataFrame) -> DataFrame:
    """One row per contact, without the client's name and place."""
    initial_counselor = F.get("counselor_names", F.lit(0))
    return contacts.select(
        "contact_id",
        "started_at",
        "ended_at",
        _counselor_id(initial_counselor).alias("initial_counselor_id"),
        initial_counselor.alias("initial_counselor_name"),
        F.size("transferred_at").alias("transfer_count"),
        "call_rating",
        "initial_risk_level",
        "pronouns",
        "issues",
    )


def published_transfers(transfers: DataFrame) -> DataFrame:
    """One row per transfer of a contact."""
    return transfers.select("contact_id", "transfer_number", "counselor_id", "transferred_at")


def counselor_daily_cases(case_days: DataFrame) -> DataFrame:
    """One row per counselor and day: cases first taken that day, and their mean risk (1..5) and rating (1..5).

    Means are exact, rounded half up to two decimals, over the cases that have a value (also one outside 1..5, which
    silver warns about); NULL if none has.
    """
    return case_days.select(
        "counselor_name",
        "day",
        "number_of_cases",
        _quotient(F.col("risk_level_sum"), F.col("risk_level_count")).alias("average_risk_level"),
        _quotient(F.col("rating_sum"), F.col("rating_count")).alias("average_rating"),
    )


def concurrency(open_case_days: DataFrame) -> DataFrame:
    """One row for the whole line (scope `all`) and one per counselor: the most cases open at once, and when first.

    A case is open from its start until before its end, so one that ends as another begins is not concurrent with it,
    and one that lasts no time is never open: a scope with nothing else has 0 and `reached_at` NULL. A counselor's cases
    are their assignments, not whole calls. A counselor called `all` has the scope `all (counselor)`.
    """
    earlier_days = Window.partitionBy("scope").orderBy(F.col("day").asc_nulls_last())
    open_before = F.coalesce(F.sum("net").over(earlier_days.rowsBetween(Window.unboundedPreceding, -1)), F.lit(0))
    days = open_case_days.select("scope", (open_before + F.col("most_opened")).alias("open_count"), "reached_at")
    most_open_first = F.min(F.struct((-F.col("open_count")).alias("minus_open"), "reached_at"))
    peaks = days.groupBy("scope").agg(most_open_first.alias("first_peak"))
    most_open = -F.col("first_peak.minus_open")
    return peaks.select(
        "scope",
        most_open.alias("max_concurrent_cases"),
        F.when(most_open > 0, F.col("first_peak.reached_at")).alias("reached_at"),
        (most_open > 1).alias("handled_concurrent_cases"),
    )


def pronoun_risk(pronoun_risk_levels: DataFrame) -> DataFrame:
    """One row per exact set of pronouns, sorted and joined by ` + `: its contacts and their mean initial risk (1..5).

    Decision: contacts without pronouns are `Unknown`. The row `She/They`, always there, has the contacts that use both
    She/Her and They/Them, whatever else they use; they count in the row of their exact set, too. One who gives
    `She/They` as one pronoun uses both. Means are exact, rounded half up to two decimals; NULL if no contact has a risk
    level.
    """
    exact_set = F.array_join(F.sort_array(F.array_distinct("pronouns")), " + ")
    named = pronoun_risk_levels.select(
        F.coalesce(F.when(F.size("pronouns") > 0, exact_set), F.lit(NO_PRONOUNS)).alias("pronouns"),
        F.coalesce(_uses("She/Her") & _uses("They/Them") | _uses(SHE_THEY), F.lit(False)).alias("uses_she_and_they"),
        "initial_risk_level",
        "contact_count",
    )
    of_those_with_a_level = F.when(F.col("initial_risk_level").isNotNull(), F.col("contact_count"))
    total = F.sum(F.col("initial_risk_level") * F.col("contact_count"))
    measures = (
        F.coalesce(F.sum("contact_count"), F.lit(0)).alias("contact_count"),
        _quotient(total, F.sum(of_those_with_a_level)).alias("average_risk_level"),
    )
    she_they = named.where("uses_she_and_they").agg(*measures)
    exact_sets = named.where(F.col("pronouns") != SHE_THEY).groupBy("pronouns").agg(*measures)
    return exact_sets.unionByName(she_they.select(F.lit(SHE_THEY).alias("pronouns"), *she_they.columns))


# -- steps to silver --


def _texts(raw: DataFrame, id_secret: Column) -> DataFrame:
    """Each line's fields as trimmed text, NULL where missing; `contact_id` from the fields as they came.

    Spark reads the first value of a text and ignores what follows. In brackets and followed by an object that no line
    can have, a line makes two elements, and that object is the second one, only if it is one whole object. Needs
    spark.sql.json.enablePartialResults off: else Spark passes over what it cannot read within a field, and goes on.
    """
    half = F.when(_has_half_character(F.col("_raw")), F.col("_raw"))
    line = F.coalesce(F.regexp_replace("_half", _HALF, rf"$1\\u{ord(_UNREAD):x}"), "_raw")
    wrapped = F.concat(F.lit("["), line, F.lit(f', {{"{_END}": 1}}]'))
    two = F.from_json(wrapped, f"ARRAY<STRUCT<{RECORD}, `{_END}`: INT>>", {"allowSingleQuotes": "false"})
    # As it came: of two lines with other damage, what was read is perhaps the same.
    damaged = F.coalesce("_rescued", "_half")
    read = raw.withColumn("_half", half).select(*ENGINE_COLUMNS, damaged.alias("_damaged"), two.alias("two"))
    is_object = (F.size("two") == 2) & F.get("two", F.lit(1))[_END].isNotNull()
    records = read.select(*ENGINE_COLUMNS, "_damaged", F.when(is_object, F.get("two", F.lit(0))).alias("record"))
    bare = records.select(
        *ENGINE_COLUMNS,
        "_damaged",
        F.col("record").isNotNull().alias("_is_json"),
        F.when(F.col("record").isNotNull(), _contact_id("record", F.col("_damaged"), id_secret)).alias("contact_id"),
        *[trimmed(F.col(f"record.{field}")).alias(field) for field in FIELDS],
    )
    is_unread = {field: _has_unread(field) for field in _OF_CLIENT}
    readable = {
        field: F.when(~is_unread[field], F.col(field)) if field in is_unread else F.col(field) for field in FIELDS
    }
    return bare.select(
        *ENGINE_COLUMNS,
        "_is_json",
        (F.col("_damaged").isNull() & ~reduce(or_, is_unread.values())).alias("_is_whole"),
        "contact_id",
        *[_without_bare_nan(known(value)).alias(field) for field, value in readable.items()],
    )


def _has_half_character(line: Column) -> Column:
    """Whether a JSON text has half a surrogate pair, which is no character: Spark makes `?` of each."""
    may_have = F.contains(line, F.lit(r"\ud")) | F.contains(line, F.lit(r"\uD"))
    return F.coalesce(may_have & ~line.rlike(_WHOLE_CHARACTERS), F.lit(False))


def _has_unread(field: str) -> Column:
    return F.coalesce(F.contains(F.col(field), F.lit(_UNREAD)), F.lit(False))


def _fits(pronouns: Column) -> Column:
    joined = F.array_join(F.array_distinct(pronouns), " + ")
    return F.coalesce(F.length(joined) <= LONGEST_PRONOUNS, F.lit(True))


def _contact_id(record: str, damaged: Column, secret: Column) -> Column:
    """A hash of the fields in a fixed order, each with its length, so that no two records run into the same text.

    Of a line that was `damaged` in one of them, also of that.

    Decision: of a secret, too. Analysts see the id and all fields but name and place: those they could try out.
    """
    values = [F.col(f"{record}.{field}") for field in FIELDS]
    measured = [F.coalesce(F.concat(F.octet_length(value), F.lit(":"), value), F.lit("-")) for value in values]
    is_in_a_field = F.contains(F.concat_ws("", *values), F.lit(_UNREAD))
    as_it_came = F.coalesce(
        F.when(damaged.isNotNull() & is_in_a_field, F.concat(F.lit("damaged:"), damaged)), F.lit("")
    )
    return hashed(F.concat(secret, *measured, as_it_came))


def _counselor_id(name: Column) -> Column:
    return hashed(name)


def _without_bare_nan(text: Column) -> Column:
    """NULL for a NaN that stood without quotes (Python writes that for a missing number): Spark adds quotes to it."""
    return F.nullif(text, F.lit('"NaN"'))


def _is_readable(field: str, column: str) -> Column:
    return F.col(field).isNull() | F.col(column).isNotNull()


def _has_null(array: str) -> Column:
    return F.coalesce(F.exists(array, lambda value: value.isNull()), F.lit(False))


# -- steps to gold --


def _quotient(total: Column, count: Column) -> Column:
    """Whole numbers divided exactly, rounded half up (AVG would round twice); NULL if `count` is 0 or NULL."""
    return F.round(F.try_divide(total.cast("decimal(18,0)"), count.cast("decimal(18,0)")), 2).cast("decimal(12,2)")


def _counselor_scope(name: Column) -> Column:
    """A counselor's name, with a suffix where it is `all`, and one more where it is already that: no two are alike."""
    suffix = " (counselor)"
    clashes = name.rlike(rf"\A{ALL_CONTACTS}(?: \(counselor\))*\z")
    return F.when(clashes, F.concat(name, F.lit(suffix))).when(~clashes, name)


def _changes(intervals: DataFrame) -> DataFrame:
    """Two rows per interval: `at` it starts and ends, and by how many the open cases of its scope `change`.

    As a union, through which Spark has a filter on days pass, as it does not through a function that makes rows.
    """
    starts = intervals.select("scope", F.col("started_at").alias("at"), F.lit(1).alias("change"))
    return starts.unionByName(intervals.select("scope", F.col("ended_at").alias("at"), F.lit(-1).alias("change")))


def _uses(pronoun: str) -> Column:
    return F.array_contains("pronouns", pronoun)
