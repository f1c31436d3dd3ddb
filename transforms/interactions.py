"""Interactions: one row is one contact of the business with one or several of its customers, on one channel.

Sent as three sheets of one workbook, or as three CSVs: the customers, their interactions, and which products were being
discussed in which month. Every delivery of a sheet is a full extract and takes the place of the earlier ones.

Quirks of the sender: dates are day first, or date cells of a spreadsheet; ids come as numbers with a decimal point;
several customers are separated by `,` or `;`, and some of them are not among the customers; types and occupations are
missing; the same channel, product or type is spelt in several ways. There is no interaction id, so identical rows are
separate interactions.
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from transforms.shared.text import UNREADABLE, WHITESPACE, hashed, known, trimmed, without_missing
from transforms.shared.times import instant

ENGINE_COLUMNS = ("_batch_id", "_source_file", "_ingested_at", "_row_hash", "_rescued", "_raw", "_is_malformed")
CUSTOMER_FIELDS = ("customer_id", "occupation", "type")
INTERACTION_FIELDS = ("date_start", "interaction", "customers")
PRODUCT_FIELDS = ("date", "product")

# The type of a customer without one, and the product of a month without one.
UNKNOWN = "Unknown"
UNLISTED = "customer_listed"  # the warn rule of that name

# Decision: a longer text is none that names a channel, product, type or occupation; Postgres cannot index it.
LONGEST_LABEL = 100
# What spreadsheets write in a cell whose value they could not compute.
_ERRORS = r"N/A|REF!|VALUE!|NAME\?|DIV/0!|NUM!|NULL!|GETTING_DATA|SPILL!|CALC!|FIELD!|BLOCKED!|CONNECT!|BUSY!|UNKNOWN!"
_UNREADABLE = rf"{UNREADABLE}|\A#(?:{_ERRORS})\z|\AErr:\d{{3}}\z"
_CUSTOMER_ID = r"\A(\d++)(?:\.0*+)?\z"

# Decision: with slashes the day comes first, always; seconds may be left out, and zeros in front. A date alone is the
# start of that day: a date cell without a time arrives as just that.
_DAY_FIRST = r"\A\d{1,2}/\d{1,2}/[1-9]\d{3}(?: \d{1,2}:\d{2}(?::\d{2})?)?\z"
_DAY_FIRST_FORM = "d/M/yyyy[ H:mm[:ss]]"
_DAY_ALONE = r"\A[1-9]\d{3}-\d{2}-\d{2}\z"
# Spreadsheets turn 10-2019 into a date cell of the first of October.
_MONTH = r"\A(\d{1,2})-([1-9]\d{3})\z"
_MONTH_OF_DAY = r"\A([1-9]\d{3}-\d{2}-\d{2})(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)?\z"


# -- silver --


def customer_records(raw: DataFrame) -> DataFrame:
    """One row per row of the customers sheet: the customer as far as it could be read, and helper columns.

    `customer_id` is NULL if it is no whole number above 0. `customer_type` and `occupation` are NULL where missing, and
    the type also where the sender says that it is unknown.
    """
    texts = _texts(raw, CUSTOMER_FIELDS)
    read = texts.select(
        *ENGINE_COLUMNS,
        _customer_id(F.col("customer_id")).alias("customer_id"),
        _label(F.col("occupation")).alias("occupation"),
        _unless_unknown(_label(F.col("type"))).alias("customer_type"),
        "_is_blank",
        _is_readable("occupation").alias("_has_readable_occupation"),
        _is_readable("type").alias("_has_readable_type"),
    )
    same_customer = Window.partitionBy("customer_id")
    content = F.struct("occupation", "customer_type")
    is_consistent = F.min(content).over(same_customer).eqNullSafe(F.max(content).over(same_customer))
    return _in_usual_spelling(read, "customer_type").withColumn("_is_consistent", is_consistent)


def interaction_records(raw: DataFrame, timezone: str) -> DataFrame:
    """One row per row of the interactions sheet: the interaction as far as it could be read, and helper columns.

    `started_at` is UTC, `started_on` the day in `timezone`, to which times without an offset are local.
    `customer_ids` are the customers named, each once, in the sender's order; empty if none can be read.
    """
    texts = _texts(raw, INTERACTION_FIELDS)
    read = texts.withColumn("_ids", _customer_ids(F.col("customers"))).select(
        *ENGINE_COLUMNS,
        _started_at(F.col("date_start"), timezone).alias("started_at"),
        _label(F.col("interaction")).alias("channel"),
        F.array_distinct(F.array_compact("_ids")).alias("customer_ids"),
        "_is_blank",
        F.exists("_ids", lambda customer_id: customer_id.isNull()).alias("_has_unreadable_customer"),
    )
    return _with_interaction_id(_in_usual_spelling(read, "channel")).select(
        *ENGINE_COLUMNS,
        "interaction_id",
        "started_at",
        F.to_date(F.from_utc_timestamp("started_at", timezone)).alias("started_on"),
        "channel",
        "customer_ids",
        "_is_blank",
        "_has_unreadable_customer",
    )


def products(raw: DataFrame) -> DataFrame:
    """One row per row of the products sheet: a month (its first day), what was being discussed, and helper columns.

    Decision: a row without a product, or with one called `unknown`, is no error: it says that the month has none, and
    its product is `Unknown`. In the published tables it is as if the row were not there.
    """
    texts = _texts(raw, PRODUCT_FIELDS)
    read = texts.select(
        *ENGINE_COLUMNS,
        _month(F.col("date")).alias("month"),
        _unless_unknown(_label(F.col("product"))).alias("product"),
        "_is_blank",
        _is_readable("product").alias("_has_readable_product"),
    )
    return _in_usual_spelling(read, "product").withColumn("product", F.coalesce("product", F.lit(UNKNOWN)))


def customers(customer_records: DataFrame, interaction_records: DataFrame) -> DataFrame:
    """One row per known customer: those of the sheet (`is_listed`), and those that only interactions name."""
    sheet = customer_records.select("customer_id", "occupation", "customer_type", "warnings")
    listed = sheet.withColumn("is_listed", F.lit(True))
    named = interaction_records.select(F.explode("customer_ids").alias("customer_id")).distinct()
    return listed.join(named, "customer_id", "full").select(
        "customer_id",
        "occupation",
        F.coalesce("customer_type", F.lit(UNKNOWN)).alias("customer_type"),
        F.coalesce("is_listed", F.lit(False)).alias("is_listed"),
        F.coalesce("warnings", F.array(F.lit(UNLISTED))).alias("warnings"),
    )


def interactions(interaction_records: DataFrame) -> DataFrame:
    """One row per interaction and customer named in it."""
    return interaction_records.select(
        "interaction_id",
        "started_at",
        "started_on",
        "channel",
        F.explode("customer_ids").alias("customer_id"),
        "warnings",
    )


# -- gold: an interaction counts once for each customer that it names --


def customer_channel_interactions(customers: DataFrame, interactions: DataFrame) -> DataFrame:
    """One row per known customer and channel ever used by anybody: how many interactions, 0 included."""
    counts = interactions.groupBy("customer_id", "channel").agg(F.count("*").alias("interaction_count"))
    channels = counts.select("channel").distinct()
    return _with_zeros(counts, customers.select("customer_id").crossJoin(F.broadcast(channels)))


def customer_channel_daily_interactions(interactions: DataFrame) -> DataFrame:
    """One row per customer, channel and day (of the source's time zone) with an interaction: how many."""
    return interactions.groupBy("customer_id", "channel", F.col("started_on").alias("interacted_on")).agg(
        F.count("*").alias("interaction_count")
    )


def customer_channel_topics(interactions: DataFrame, products: DataFrame) -> DataFrame:
    """One row per customer, channel and product that occur together: how many interactions.

    Decision: an interaction in a month with several products counts once for each; in a month with none its product is
    `Unknown`.
    """
    month = F.trunc("started_on", "month").alias("month")
    monthly = interactions.groupBy("customer_id", "channel", month).agg(F.count("*").alias("interaction_count"))
    topics = monthly.join(_discussed(products), "month", "left")
    return topics.groupBy("customer_id", "channel", F.coalesce("product", F.lit(UNKNOWN)).alias("product")).agg(
        F.sum("interaction_count").alias("interaction_count")
    )


def product_customer_types(customers: DataFrame, interactions: DataFrame, products: DataFrame) -> DataFrame:
    """One row per product and customer type: how many interactions, 0 included.

    Decision: one with two customers of a type counts twice, so that the sums are those of `customer_channel_topics`.
    All products of the sheet have rows, and `Unknown` if there is an interaction in a month without one.
    """
    topics = customer_channel_topics(interactions, products)
    types = customers.select("customer_id", "customer_type")
    counts = (
        topics.join(types, "customer_id", "inner")
        .groupBy("product", "customer_type")
        .agg(F.sum("interaction_count").alias("interaction_count"))
    )
    all_products = _discussed(products).select("product").unionByName(counts.select("product")).distinct()
    return _with_zeros(counts, all_products.crossJoin(types.select("customer_type").distinct()))


# -- steps to silver --


def _texts(raw: DataFrame, fields: tuple[str, ...]) -> DataFrame:
    """Each field as trimmed text, NULL where missing; `_is_blank` if all are.

    In a malformed row all are: which of its fields is which is anybody's guess.
    """
    values = [F.when(~F.col("_is_malformed"), trimmed(F.col(field))).alias(field) for field in fields]
    bare = raw.select(*ENGINE_COLUMNS, *values)
    texts = bare.select(*ENGINE_COLUMNS, *[known(F.col(field)).alias(field) for field in fields])
    return texts.withColumn("_is_blank", F.coalesce(*fields).isNull())


def _customer_id(text: Column) -> Column:
    """The BIGINT above 0 that `text` writes, also as `2.0`; NULL for any other text."""
    number = F.regexp_extract(text, _CUSTOMER_ID, 1).try_cast("bigint")
    return F.when(number > 0, number)


def _customer_ids(text: Column) -> Column:
    """The ids in `1, 2;3` in order, ARRAY<BIGINT>, NULL in place of one that cannot be read; empty if there is none."""
    entries = without_missing(F.transform(F.split(text, "[,;]"), trimmed))
    return F.transform(F.coalesce(entries, F.array().cast("array<string>")), _customer_id)


def _label(text: Column) -> Column:
    """A trimmed text with one blank for any white space in it; NULL if it is too long, or cannot be read."""
    words = F.regexp_replace(text, f"[{WHITESPACE}]++", " ")
    return F.when((F.length(words) <= LONGEST_LABEL) & ~words.rlike(_UNREADABLE), words)


def _is_readable(field: str) -> Column:
    return F.col(field).isNull() | _label(F.col(field)).isNotNull()


def _unless_unknown(label: Column) -> Column:
    return F.when(F.lower(label) != UNKNOWN.lower(), label)


def _in_usual_spelling(rows: DataFrame, column: str) -> DataFrame:
    """`rows` with labels of `column` that differ in case alone spelt alike.

    Decision: as they are spelt most often; of several such spellings, the first in the order of characters.
    """
    folded = F.lower(column)
    spellings = rows.groupBy(folded.alias("_folded")).agg(F.mode(column, True).alias("_usual"))
    return (
        rows.join(F.broadcast(spellings), folded == F.col("_folded"), "left")
        .withColumn(column, F.col("_usual"))
        .drop("_folded", "_usual")
    )


def _with_interaction_id(records: DataFrame) -> DataFrame:
    """`records` with `interaction_id`, from what was read and how often it occurred in the file so far.

    Decision: not from the text as sent. A date cell and a date as text, `1` and `1.0`, `Email` and `EMAIL` make the
    same interaction, so that ids stay from one extract to the next; another order of customers does not matter either.
    """
    ids = F.array_join(F.array_sort("customer_ids"), ",")
    content = [F.unix_micros("started_at"), ids, F.lower("channel")]
    # Rows with the same content are alike in all but whether they name an unreadable customer as well.
    alike = Window.partitionBy("_batch_id", "_source_file", *content).orderBy(
        F.col("_has_unreadable_customer").asc_nulls_last(), F.col("_row_hash").asc_nulls_last()
    )
    values = [F.coalesce(value.cast("string"), F.lit("")) for value in (F.row_number().over(alike), *content)]
    return records.withColumn("interaction_id", hashed(F.concat_ws("|", *values)))


def _started_at(text: Column, timezone: str) -> Column:
    """The TIMESTAMP of `04/10/2019 09:00` (day first) or `2019-10-04T09:00:00`, local to `timezone`; NULL for others.

    An offset is honoured, and clock changes are treated, as in `instant`. Needs a session in UTC.
    """
    local = F.when(text.rlike(_DAY_FIRST), F.try_to_timestamp(text, F.lit(_DAY_FIRST_FORM)))
    start_of_day = F.when(text.rlike(_DAY_ALONE), F.concat(text, F.lit("T00:00")))
    day_first = local if timezone == "UTC" else F.to_utc_timestamp(local, timezone)
    return F.coalesce(day_first, instant(F.coalesce(start_of_day, text), timezone))


def _month(text: Column) -> Column:
    """The first day (DATE) of the month that `10-2019` or `2019-10-01T00:00:00` writes; NULL for any other text."""
    first_day = F.when(text.rlike(_MONTH), F.regexp_replace(text, _MONTH, "$2-$1-1").try_cast("date"))
    day = F.regexp_extract(text, _MONTH_OF_DAY, 1).try_cast("date")
    return F.coalesce(first_day, F.trunc(day, "month"))


# -- steps to gold --


def _discussed(products: DataFrame) -> DataFrame:
    """One row per month and product, less the rows that say that a month has none."""
    return products.where(F.col("product") != UNKNOWN).select("month", "product")


def _with_zeros(counts: DataFrame, wanted: DataFrame) -> DataFrame:
    """`counts` of each row of `wanted`, whose columns are their key; 0 where there is none."""
    count = F.coalesce("interaction_count", F.lit(0).cast("bigint"))
    return wanted.join(counts, wanted.columns, "left").select(*wanted.columns, count.alias("interaction_count"))
