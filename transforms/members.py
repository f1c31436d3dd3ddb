"""Members: one line is one moment of a member's activity, `{id="ada6ee1abc22511c"|created_at="2023-06-27"|sex=1|...}`.

Quirks of the sender: fields may come in another order, be missing, or be unknown ones; values are quoted or bare. A
member comes back with new lines. A line has a day but no time: of two of one day, the one that arrived later is newer.

Personal, though not medical: who follows which recommendations.
"""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from transforms.shared.text import hashed, known, trimmed, whole_number
from transforms.shared.times import TIME_OF_DAY

ENGINE_COLUMNS = ("_source_file", "_row_hash", "_batch_id", "_ingested_at", "_raw", "_rescued")
# In the order in which the sender writes them; plain lines are read by it.
FIELDS = (
    "id",
    "created_at",
    "sex",
    "age",
    "default_language_en",
    "waiting_list_time",
    "black_and_white_design",
    "follow_reco",
    "follow_reco_above_50p",
)

# -- how a line is written; possessive, so that no line makes a pattern backtrack or recurse --
# Decision: a quoted value ends at the next quote, for the sender has shown no way to write a quote in it. A bare value
# has none of the five characters that lines are made of: of `sex=1age=48` nobody knows which value is whose.
_NAME = r'[^\s"=|{}]++'
_VALUE = r'(?:"[^"]*+"|[^"=|{}]*+)'
_FIELD = rf"\s*+{_NAME}\s*+=\s*+{_VALUE}\s*+"
_LINE = rf"\A\{{{_FIELD}(?:\|{_FIELD})*+\}}\z"
_NAME_AND_VALUE = rf"[{{|]\s*+({_NAME})\s*+=\s*+({_VALUE})"
# Nearly every line is plain: all fields, in order, as this sender writes them. Such a line is faster to take apart.
_BOOLEAN, _NUMERAL = "(?:true|false)", r"-?\d++(?:\.\d++)?"
_PLAIN_VALUES = ('"[0-9a-f]{16}"', r'"\d{4}-\d\d-\d\d"', r"\d++", r"\d++", *[_BOOLEAN, _NUMERAL] * 2, _BOOLEAN)
_PLAIN_FIELDS = [f"{name}={value}" for name, value in zip(FIELDS, _PLAIN_VALUES, strict=True)]
_PLAIN_LINE = r"\A\{" + r"\|".join(_PLAIN_FIELDS) + r"\}\z"

# -- how a value is written --
_MEMBER_ID = r"\A[0-9a-fA-F]{16}\z"
# Decision: YYYY-MM-DD and no other spelling. A time of day is cut off; one with an offset may mean another day.
_DATE = rf"\A[1-9]\d{{3}}-\d{{2}}-\d{{2}}{TIME_OF_DAY}\z"
_NUMBER = r"\A[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d{1,9})?\z"
_JSON_NUMBER = r"\A-?(?:0|[1-9]\d*+)(?:\.\d++)?(?:[eE][+-]?\d++)?\z"

# What `member` can hold. The rules ..._fits in conf/sources/members.yaml name the same types.
WHOLE, NUMBER = "smallint", "decimal(5,2)"

HIGH, MODERATE, LOW = "High Engagement", "Moderate Engagement", "Low Engagement"
FOLLOWS_ABOVE = 75
ROLLING_ENTRIES = 3
# A member's entries from the oldest to the newest. The id only makes the order complete.
_ORDER = ("created_at", "_batch_id", "arrival", "entry_id")


# -- silver --


def member_entries(raw: DataFrame) -> DataFrame:
    """One row per raw line, whatever it holds: what could be read of the entry, and helper columns for the rules.

    `entry_id` is a hash of the trimmed line, so identical lines are one entry. Decision: `member_id` is in lower case,
    for hex digits mean the same in either. The two `..._raw` columns are the numbers beside them as text, with the
    digits that were sent. `rescued` has the fields beyond `FIELDS` as a JSON object, NULL if there are none. `arrival`
    orders the entries of one batch.
    """
    text = {field: F.col(f"text.{field}") for field in FIELDS}
    read = _texts(raw).select(
        *ENGINE_COLUMNS,
        "entry_id",
        F.when(text["id"].rlike(_MEMBER_ID), F.lower(text["id"])).alias("member_id"),
        _date(text["created_at"]).alias("created_at"),
        whole_number(text["sex"]).alias("sex"),
        whole_number(text["age"]).alias("age"),
        _boolean(text["default_language_en"]).alias("default_language_en"),
        _number(text["waiting_list_time"]).alias("waiting_list_time"),
        text["waiting_list_time"].alias("waiting_list_time_raw"),
        _boolean(text["black_and_white_design"]).alias("black_and_white_design"),
        _number(text["follow_reco"]).alias("follow_reco"),
        text["follow_reco"].alias("follow_reco_raw"),
        _boolean(text["follow_reco_above_50p"]).alias("follow_reco_above_50p"),
        "rescued",
        "arrival",
        "_is_well_formed",
        "_has_repeated_field",
        "text",
    )
    return read.select("*", *[_is_readable(field).alias(f"_has_readable_{field}") for field in FIELDS[2:]]).drop("text")


def newest_entries(member_entries: DataFrame) -> DataFrame:
    """One row per member: the entry with the greatest `created_at`, and of several the one that arrived last."""
    newest_first = Window.partitionBy("member_id").orderBy(*[F.col(name).desc_nulls_last() for name in _ORDER])
    placed = member_entries.withColumn("_place", F.row_number().over(newest_first)).where("_place = 1")
    return placed.select(
        "member_id",
        "entry_id",
        "created_at",
        "sex",
        "age",
        "default_language_en",
        "waiting_list_time",
        "waiting_list_time_raw",
        "black_and_white_design",
        "follow_reco",
        "follow_reco_raw",
        "follow_reco_above_50p",
    )


# -- gold --


def member(newest_entries: DataFrame) -> DataFrame:
    """One row per member: their newest entry, numbers rounded half up; NULL for one that its type cannot hold."""
    return newest_entries.select(
        F.col("member_id").alias("id"),
        "created_at",
        F.col("sex").try_cast(WHOLE).alias("sex"),
        F.col("age").try_cast(WHOLE).alias("age"),
        "default_language_en",
        F.col("waiting_list_time").try_cast(NUMBER).alias("waiting_list_time"),
        "black_and_white_design",
        F.col("follow_reco").try_cast(NUMBER).alias("follow_reco"),
        "follow_reco_above_50p",
    )


def engagement_segments(newest_entries: DataFrame) -> DataFrame:
    """Three rows, also without any member: how many members are in each segment, by their newest entry.

    Decision: an unknown value meets no condition, so that an entry is in `Low Engagement` unless what is known of it
    says otherwise. The waiting time counts as sent, not as `member` rounds it: 9.996 is below 10.
    """
    waiting, is_above = F.col("waiting_list_time"), F.col("follow_reco_above_50p")
    is_high = F.coalesce((waiting < 10) & is_above, F.lit(False))
    is_moderate = F.coalesce(waiting.between(10, 20) | ~is_above, F.lit(False))
    segments = {HIGH: is_high, MODERATE: is_moderate, LOW: ~is_high & ~is_moderate}
    counts = [
        F.struct(F.lit(name).alias("segment"), F.count_if(is_in).alias("member_count"))
        for name, is_in in segments.items()
    ]
    return newest_entries.agg(F.array(*counts).alias("counts")).select(F.inline("counts"))


def member_follow_reco_rolling(member_entries: DataFrame) -> DataFrame:
    """One row per entry of each member with any `follow_reco` over 75, numbered from 1, the oldest first.

    `rolling_average` is the mean `follow_reco` of the member's previous three entries (of fewer, if there are no more);
    NULL for the first. Decision: an entry without a value is one of the three but not in their mean; NULL if none of
    them has a value.
    """
    entries_of_member = Window.partitionBy("member_id")
    oldest_first = entries_of_member.orderBy(*[F.col(name).asc_nulls_first() for name in _ORDER])
    highest = F.max("follow_reco").over(entries_of_member)
    followers = member_entries.withColumn("_highest", highest).where(F.col("_highest") > FOLLOWS_ABOVE)
    return followers.select(
        "member_id",
        F.row_number().over(oldest_first).alias("entry_number"),
        "created_at",
        "follow_reco",
        F.avg("follow_reco").over(oldest_first.rowsBetween(-ROLLING_ENTRIES, -1)).alias("rolling_average"),
    )


def member_documents(newest_entries: DataFrame) -> DataFrame:
    """One row per member: `document`, their newest entry as a JSON object, its keys in the order that the sender has.

    Decision: a value that is missing or could not be read is null rather than left out: all documents have the same
    keys. Numbers have the digits that were sent.
    """
    reco = {
        "follow_reco": _json_number("follow_reco"),
        "follow_reco_above_50p": F.col("follow_reco_above_50p").cast("string"),
    }
    document = {
        "id": _json_text("member_id"),
        "created_at": _json_text("created_at"),
        "sex": F.col("sex").cast("string"),
        "age": F.col("age").cast("string"),
        "default_language_en": F.col("default_language_en").cast("string"),
        "waiting_list_time": _json_number("waiting_list_time"),
        "black_and_white_design": F.col("black_and_white_design").cast("string"),
        "reco": _json_object(reco),
    }
    return newest_entries.select("member_id", _json_object(document).alias("document"))


# -- steps to silver --


def _texts(raw: DataFrame) -> DataFrame:
    """Each line's fields as trimmed text, NULL where missing, in the struct `text`; unknown ones in `rescued`."""
    lines = raw.select(*ENGINE_COLUMNS, F.col("_arrival").alias("arrival"), trimmed(F.col("_raw")).alias("line"))
    marked = lines.select("*", F.col("line").rlike(_PLAIN_LINE).alias("is_plain"))
    is_other = ~F.col("is_plain") & F.col("line").rlike(_LINE)
    split = marked.select(
        *ENGINE_COLUMNS,
        "arrival",
        # As it came: of two lines with other damage, what was read is perhaps the same.
        hashed(F.concat_ws("\n", "line", "_rescued")).alias("entry_id"),
        F.when(F.col("is_plain"), _plain_parts(F.col("line"))).alias("plain"),
        F.when(is_other, _names_and_values(F.col("line"))).alias("other"),
    )
    fields = split.select("*", _by_name(F.col("other.names"), F.col("other.values")).alias("fields"))
    text = F.when(F.col("plain").isNotNull(), _plain_texts(F.col("plain"))).when(
        F.col("fields").isNotNull(), _texts_by_name(F.col("fields"))
    )
    return fields.select(
        *ENGINE_COLUMNS,
        "arrival",
        "entry_id",
        text.alias("text"),
        _unknown(F.col("fields")).alias("rescued"),
        (F.col("plain").isNotNull() | F.col("other").isNotNull()).alias("_is_well_formed"),
        (F.col("other").isNotNull() & F.col("fields").isNull()).alias("_has_repeated_field"),
    )


def _plain_parts(line: Column) -> Column:
    """`name=value` of each field of a plain line, in order, without quotes."""
    inner = F.substr(line, F.lit(2), F.length(line) - 2)
    return F.split(F.replace(inner, F.lit('"'), F.lit("")), r"\|")


def _plain_texts(parts: Column) -> Column:
    texts = [F.substr(F.get(parts, F.lit(n)), F.lit(len(name) + 2)).alias(name) for n, name in enumerate(FIELDS)]
    return F.struct(*texts)


def _names_and_values(line: Column) -> Column:
    """The fields of a well-formed line, in order; without quotes and the white space in and around them.

    Decision: names are in lower case, as those of CSV columns are.
    """
    names = F.regexp_extract_all(F.lower(line), F.lit(_NAME_AND_VALUE), F.lit(1))
    values = F.regexp_extract_all(line, F.lit(_NAME_AND_VALUE), F.lit(2))
    bare_values = F.transform(values, lambda value: trimmed(F.btrim(value, F.lit('"'))))
    return F.struct(F.transform(names, trimmed).alias("names"), bare_values.alias("values"))


def _by_name(names: Column, values: Column) -> Column:
    """MAP of name to value; NULL if a name is there more than once."""
    return F.when(F.size(F.array_distinct(names)) == F.size(names), F.map_from_arrays(names, values))


def _texts_by_name(fields: Column) -> Column:
    return F.struct(*[known(F.try_element_at(fields, F.lit(name))).alias(name) for name in FIELDS])


def _unknown(fields: Column) -> Column:
    unknown = F.map_filter(fields, lambda name, _: ~name.isin(*FIELDS))
    return F.when(F.size(unknown) > 0, F.to_json(unknown))


def _date(text: Column) -> Column:
    return F.when(text.rlike(_DATE), F.left(text, F.lit(10)).try_cast("date"))


def _boolean(text: Column) -> Column:
    """Decision: `true` and `false`, in any case; not `1`, `yes` or `t`, for another system may mean something else."""
    return F.when(F.lower(text).isin("true", "false"), F.lower(text) == "true")


def _number(text: Column) -> Column:
    """The DOUBLE; NULL for NaN and Infinity, in whatever spelling, and for a number beyond DOUBLE."""
    number = F.when(text.rlike(_NUMBER), text.try_cast("double"))
    return F.when(F.abs(number) < float("inf"), number)


def _is_readable(field: str) -> Column:
    return F.col(f"text.{field}").isNull() | F.col(field).isNotNull()


# -- steps to gold --


def _json_object(members: Mapping[str, Column]) -> Column:
    """A JSON object of values that are JSON text already; null for NULL."""
    parts = []
    for number, (name, value) in enumerate(members.items()):
        parts += [F.lit(f'{"," if number else "{"}"{name}":'), F.coalesce(value, F.lit("null"))]
    return F.concat(*parts, F.lit("}"))


def _json_text(column: str) -> Column:
    """For a column without characters that JSON escapes."""
    return F.concat(F.lit('"'), F.col(column).cast("string"), F.lit('"'))


def _json_number(column: str) -> Column:
    """The text that was sent; if JSON does not write numbers like that (`+5`, `.5`), the number; NULL if not known."""
    sent = F.col(f"{column}_raw")
    is_json = sent.rlike(_JSON_NUMBER)
    return F.when(F.col(column).isNotNull() & is_json, sent).when(~is_json, F.col(column).cast("string"))
