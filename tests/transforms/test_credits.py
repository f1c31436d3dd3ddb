import random
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from chispa import assert_df_equality
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from tests.transforms.examples import examples
from tests.transforms.rows import assert_rows, frame_of
from tests.transforms.rules_helper import declared, rules, with_violations
from transforms import credits as source

FIELDS = ("org_id", "user_id", "credit_type", "action", "credits", "timestamp")
BRONZE = (
    "_batch_id BIGINT, _source_file STRING, _ingested_at TIMESTAMP, _row_hash STRING, _rescued STRING, _raw STRING, "
    "_is_malformed BOOLEAN, org_id STRING, user_id STRING, credit_type STRING, action STRING, credits STRING, "
    "timestamp STRING"
)
EVENTS = (
    "event_id STRING, org_id STRING, user_id STRING, credit_type STRING, action STRING, credits DECIMAL(12,2), "
    "signed_credits DECIMAL(12,2), occurred_at TIMESTAMP, occurred_at_raw STRING, warnings ARRAY<STRING>"
)
QUARANTINED = "_raw_org_id STRING, _raw_event_id STRING"
MISSING = [None, "", "  ", "NULL", "null", "N/A", "NaN"]
QUARTER = ("2024-10-01", "2024-12-31")
BASE_ROW = {
    "org_id": "org_000",
    "user_id": "user_000",
    "credit_type": "api_call",
    "action": "deduct",
    "credits": "32.0",
    "timestamp": "10/29/2024 12:00 AM",
}
FILE = "credits/q4.csv"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


BASE_EVENT = {
    "event_id": "e1",
    "org_id": "org_000",
    "user_id": "user_000",
    "credit_type": "api_call",
    "action": "deduct",
    "credits": Decimal("32.00"),
    "signed_credits": Decimal("-32.00"),
    "occurred_at": at("2024-10-29 00:00:00"),
    "occurred_at_raw": "10/29/2024 12:00 AM",
    "warnings": [],
}


def raw(spark: SparkSession, rows: Iterable[dict[str, Any]]) -> DataFrame:
    """Bronze: the base row with these fields; `_source_file` and the other engine columns can be among them."""
    lines = []
    for row in rows:
        fields = {**BASE_ROW, **row}
        text = ",".join(str(fields[field]) for field in FIELDS)
        engine = {"_source_file": FILE, "_row_hash": text, "_rescued": None, "_raw": text, "_is_malformed": False}
        engine |= {name: fields[name] for name in engine if name in fields}
        lines.append(
            (
                fields.get("_batch_id", 1),
                engine["_source_file"],
                at("2025-01-01"),
                *list(engine.values())[1:],
                *(fields[f] for f in FIELDS),
            )
        )
    return frame_of(spark, lines, BRONZE)


def parsed(spark: SparkSession, *rows: dict[str, Any], timezone: str = "UTC") -> DataFrame:
    return source.credit_events(raw(spark, rows), timezone, *QUARTER)


def silver(frame: DataFrame) -> DataFrame:
    """What the engine makes of parsed rows: those that break no quarantine rule, with warnings, one per key."""
    held_back = [rule["name"] for rule in rules("credits", "credit_events") if rule["action"] == "quarantine"]
    checked = with_violations(frame, "credits", "credit_events").withColumnRenamed("violations", "warnings")
    valid = checked.where(~F.arrays_overlap("warnings", F.array(*[F.lit(name) for name in held_back])))
    return valid.dropDuplicates(declared("credits")["tables"]["credit_events"]["key"])


def quarantined(frame: DataFrame) -> DataFrame:
    held_back = [rule["name"] for rule in rules("credits", "credit_events") if rule["action"] == "quarantine"]
    checked = with_violations(frame, "credits", "credit_events")
    return checked.where(F.arrays_overlap("violations", F.array(*[F.lit(name) for name in held_back])))


def events(spark: SparkSession, *overlays: dict[str, Any]) -> DataFrame:
    """Silver credit_events: the base event with these fields, numbered; `signed_credits` follows action and credits."""
    rows = []
    for number, overlay in enumerate(overlays):
        row: dict[str, Any] = {**BASE_EVENT, "event_id": f"e{number}", **overlay}
        row["credits"] = Decimal(row["credits"])
        row["signed_credits"] = row["credits"] if row["action"] == "add" else -row["credits"]
        rows.append(tuple(row.values()))
    return frame_of(spark, rows, EVENTS)


def held_back(spark: SparkSession, *rows: tuple[str | None, str]) -> DataFrame:
    return frame_of(spark, rows, QUARANTINED)


def assert_violations(spark: SparkSession, cases: list[tuple[dict[str, Any], list[str]]]) -> None:
    """Each row, together with all the others, breaks exactly these rules."""
    rows = [{**row, "_raw": str(number)} for number, (row, _) in enumerate(cases)]
    expected = [(str(number), broken) for number, (_, broken) in enumerate(cases)]
    assert_rows(
        with_violations(parsed(spark, *rows), "credits", "credit_events").select("_raw", "violations"), expected
    )


class TestReading:
    def test_a_row_becomes_a_typed_event(self, spark: SparkSession) -> None:
        names = [name for name in BASE_EVENT if name not in ("event_id", "warnings")]
        assert_df_equality(parsed(spark, {}).select(*names), events(spark, {}).select(*names), ignore_nullable=True)

    def test_the_engines_columns_pass_through(self, spark: SparkSession) -> None:
        bronze = raw(
            spark, [{}, {"_is_malformed": True, "org_id": None}, {"_rescued": '{"region": "x"}', "credits": "1"}]
        )
        engine = list(source.ENGINE_COLUMNS)
        actual = source.credit_events(bronze, "UTC", *QUARTER).select(*engine)
        assert_df_equality(actual, bronze.select(*engine), ignore_row_order=True)

    def test_every_row_comes_out_once_whatever_it_holds(self, spark: SparkSession) -> None:
        ids = st.sampled_from(["a", "A ", "b", "c", "unknown", *MISSING]) | st.text(max_size=3)
        anything = st.none() | st.text() | st.sampled_from(["add", "1", "-1", "1734912000", "19-12-2024"])
        values = {"org_id": ids, "user_id": ids, **dict.fromkeys(FIELDS[2:], anything)}
        rows = examples(st.fixed_dictionaries(values, optional={"_is_malformed": st.booleans()}))
        numbered = [{**row, "_raw": f"{number}"} for number, row in enumerate(rows)]
        actual = with_violations(parsed(spark, *numbered, timezone="Europe/Paris"), "credits", "credit_events")
        assert sorted(row._raw for row in actual.collect()) == sorted(row["_raw"] for row in numbered)

    def test_text_is_trimmed_and_in_lower_case(self, spark: SparkSession) -> None:
        row = {"org_id": " ORG_000 ", "user_id": "\tUser_000", "credit_type": "API_Call", "action": "Deduct\u00a0"}
        row |= {"credits": " 32.0 ", "timestamp": " 10/29/2024 12:00 am "}
        names = [*FIELDS[:-1], "occurred_at"]
        assert_df_equality(parsed(spark, row).select(*names), parsed(spark, {}).select(*names))

    def test_the_time_is_kept_as_it_came(self, spark: SparkSession) -> None:
        texts = ["not-a-date", " 19-12-2024 ", "", None]
        actual = parsed(spark, *[{"timestamp": text} for text in texts]).select("occurred_at_raw")
        assert_rows(actual, [(text,) for text in texts])

    def test_an_id_that_postgres_cannot_hold_is_missing(self, spark: SparkSession) -> None:
        longest = "u" * source.LONGEST_ID
        texts = [longest + "u", "a\0b", "us\ufffdr_777", longest]
        actual = parsed(spark, *[{"user_id": text} for text in texts])
        assert_rows(actual.select("user_id"), [("unknown",)] * 3 + [(longest,)])

    def test_a_damaged_organisation_is_none_of_its_own_and_nor_is_a_header(self, spark: SparkSession) -> None:
        header = dict(zip(FIELDS, FIELDS, strict=True))
        rows = [{"org_id": "org_0\ufffd0", "user_id": "u2"}, header, {**header, "org_id": "\ufefforg_id"}]
        actual = parsed(spark, *rows).select("org_id", "_raw_org_id")
        assert_rows(actual, [(None, None), ("org_id", None), ("\ufefforg_id", None)])

    def test_an_amount_of_millions_of_digits_costs_no_time(self, spark: SparkSession) -> None:
        actual = parsed(spark, {"credits": "9" * 10_000_000}, {"credits": "0" * 90 + "7.5"})
        assert_rows(actual.select("credits"), [(Decimal("0.00"),), (Decimal("7.50"),)])

    def test_add_is_positive_and_deduct_negative(self, spark: SparkSession) -> None:
        actual = parsed(spark, *[{"action": action, "credits": "7.5"} for action in ("add", "deduct", "refund", "")])
        assert_rows(
            actual.select("action", "signed_credits"),
            [("add", Decimal("7.50")), ("deduct", Decimal("-7.50")), ("refund", None), (None, None)],
        )


class TestTimes:
    """Every case is read in one go: a Spark job for each would take minutes."""

    def assert_times(
        self, spark: SparkSession, cases: list[tuple[str | None, datetime | None]], timezone: str = "UTC"
    ) -> None:
        actual = parsed(spark, *[{"timestamp": text} for text, _ in cases], timezone=timezone)
        assert_rows(actual.select("occurred_at_raw", "occurred_at"), cases)

    def test_four_shapes_are_read(self, spark: SparkSession) -> None:
        cases: list[tuple[str | None, datetime | None]] = [
            ("2024-11-24 00:00:00", at("2024-11-24")),
            ("2024-11-24 23:59:59", at("2024-11-24 23:59:59")),
            ("19-12-2024", at("2024-12-19")),
            ("05-10-2024", at("2024-10-05")),
            ("10/29/2024 12:00 AM", at("2024-10-29")),
            ("10/05/2024 12:00 PM", at("2024-10-05 12:00:00")),
            ("12/31/2024 11:59 PM", at("2024-12-31 23:59:00")),
            ("12/31/2024 01:05 am", at("2024-12-31 01:05:00")),
            ("1734912000", at("2024-12-23")),
            ("1734912000.0", at("2024-12-23")),
            ("29-02-2024", at("2024-02-29")),
            ("1000000000", at("2001-09-09 01:46:40")),
            ("9999999999", at("2286-11-20 17:46:39")),
        ]
        self.assert_times(spark, cases)

    def test_junk_and_what_does_not_exist_is_null(self, spark: SparkSession) -> None:
        texts = [*MISSING, "not-a-date", "abc123", "32/13/2024", "2024-02-30 00:00:00", "2023-02-29 00:00:00"]
        texts += ["2024-13-01 00:00:00", "2024-11-24 24:00:00", "2024-11-24 00:60:00", "2024-11-24 00:00:60"]
        texts += ["0000-01-01 00:00:00", "32-12-2024", "12-19-2024", "30-02-2024", "00-00-2024", "19-12-24"]
        texts += ["29/10/2024 12:00 AM", "10/29/2024 13:00 PM", "10/29/2024 00:00 AM", "10/29/2024 12:60 PM"]
        texts += ["10/29/2024", "10/29/2024 12:00", "2024-11-24", "2024-11-24T00:00:00", "19-12-2024 00:00:00"]
        texts += ["12", "173491200", "1734912000000", "17349120000", "-1734912000", "1734912000.5", "0734912000"]
        texts += ["1.734912e9", "20241124", "now", "2024-11-24 00:00:00\nx", "١٧٣٤٩١٢٠٠٠", "9" * 400]
        self.assert_times(spark, [(text, None) for text in texts])

    def test_all_but_epoch_seconds_are_local_to_the_source(self, spark: SparkSession) -> None:
        cases: list[tuple[str | None, datetime | None]] = [
            ("2024-10-29 09:00:00", at("2024-10-29 14:00:00")),
            ("19-12-2024", at("2024-12-19 06:00:00")),
            ("12/19/2024 01:00 PM", at("2024-12-19 19:00:00")),
            ("1734912000", at("2024-12-23")),
        ]
        self.assert_times(spark, cases, "America/Chicago")

    def test_any_time_that_is_written_is_read_back(self, spark: SparkSession) -> None:
        zone = ZoneInfo("Australia/Lord_Howe")
        cases: list[tuple[str | None, datetime | None]] = []
        for moment in examples(st.datetimes(datetime(2002, 1, 1), datetime(2035, 1, 1)), 200):
            second, minute = moment.replace(microsecond=0), moment.replace(second=0, microsecond=0)
            day = minute.replace(hour=0, minute=0)
            for form, local in {
                "%Y-%m-%d %H:%M:%S": second,
                "%d-%m-%Y": day,
                "%m/%d/%Y %I:%M %p": minute,
            }.items():
                cases.append((local.strftime(form), local.replace(tzinfo=zone).astimezone(UTC)))
            epoch = second.replace(tzinfo=UTC)
            cases.append((str(int(epoch.timestamp())), epoch))
        self.assert_times(spark, cases, "Australia/Lord_Howe")

    def test_no_text_makes_a_time_fail(self, spark: SparkSession) -> None:
        shapes = [
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
            r"\d\d-\d\d-\d{4}",
            r"\d\d/\d\d/\d{4} \d\d:\d\d [AP]M",
            r"\d{9,11}",
        ]
        near = st.one_of([st.from_regex(shape, fullmatch=True) for shape in shapes])
        texts = examples(st.text() | st.text(alphabet="0123456789-/: APM") | near, 600)
        frame = parsed(spark, *[{"timestamp": text} for text in texts], timezone="Europe/Paris")
        assert len(frame.select("occurred_at").collect()) == len(texts)


class TestCredits:
    def read(self, spark: SparkSession, texts: list[Any]) -> DataFrame:
        frame = parsed(spark, *[{"credits": text, "_raw": text} for text in texts])
        return frame.select("_raw", "credits")

    def test_plain_decimals_are_read_and_rounded_half_up_to_the_cent(self, spark: SparkSession) -> None:
        cases = {
            "32.0": "32",
            "0": "0",
            ".5": "0.50",
            "5.": "5",
            "+5": "5",
            "007": "7",
            "9999999999.99": "9999999999.99",
        }
        cases |= {"32.005": "32.01", "32.004": "32", "32.300000000000004": "32.30", "32.3000": "32.30"}
        cases |= {"0.005": "0.01", "-32": "-32"}
        actual = self.read(spark, list(cases))
        assert_rows(actual, [(text, Decimal(value).quantize(Decimal("0.01"))) for text, value in cases.items()])

    def test_missing_and_unreadable_credits_are_nothing(self, spark: SparkSession) -> None:
        texts = [
            *MISSING,
            "abc",
            "$5",
            "1,000",
            "1.000,50",
            "1e3",
            "1E+05",
            "0x10",
            "Infinity",
            "5 credits",
            "--5",
            ".",
        ]
        texts += ["1_000", "٣", "10000000000", "9999999999.995", "9" * 400, "-", "5d"]
        assert_rows(self.read(spark, texts), [(text, Decimal("0.00")) for text in texts])
        expected = [({"credits": text}, ["credits_missing"]) for text in texts]
        assert_violations(spark, expected)

    def test_no_text_makes_credits_fail(self, spark: SparkSession) -> None:
        texts = examples(st.text() | st.text(alphabet="0123456789.+-eE,") | st.decimals().map(str), 600)
        assert len(self.read(spark, texts).collect()) == len(texts)

    def test_any_amount_that_is_written_is_read_back(self, spark: SparkSession) -> None:
        amounts = examples(st.decimals(0, Decimal("9999999999.99"), places=2))
        assert_rows(
            self.read(spark, [f"{amount:f}" for amount in amounts]), [(f"{amount:f}", amount) for amount in amounts]
        )


class TestEventId:
    def ids(self, spark: SparkSession, *rows: dict[str, Any]) -> list[str]:
        """The ids in the order of the rows."""
        frame = parsed(spark, *[{**row, "_rescued": str(number)} for number, row in enumerate(rows)])
        found = frame.select("_rescued", "event_id").collect()
        return [row.event_id for row in sorted(found, key=lambda row: int(row._rescued))]

    def test_it_stays_the_same_from_release_to_release(self, spark: SparkSession) -> None:
        assert self.ids(spark, {}) == ["5a9b8f3825cc7fbe64be4c798a128093"]

    def test_identical_rows_of_one_file_are_separate_events(self, spark: SparkSession) -> None:
        assert len(set(self.ids(spark, {}, {}, {}))) == 3

    def test_the_same_row_in_another_file_is_the_same_event(self, spark: SparkSession) -> None:
        again = {"_source_file": "credits/again.csv"}
        first, second, same, more, one_more = self.ids(spark, {}, {}, again, again, again)
        assert {first, second} < {same, more, one_more}
        assert len({same, more, one_more}) == 3

    def test_the_same_row_in_what_the_file_was_replaced_by_is_the_same_event(self, spark: SparkSession) -> None:
        first, second, same, one_more = self.ids(spark, {}, {}, {"_batch_id": 2}, {"_batch_id": 2, "credits": "1"})
        assert same in {first, second}
        assert one_more not in {first, second}

    def test_the_order_of_rows_does_not_matter(self, spark: SparkSession) -> None:
        rows = [{}, {}, {"credits": "1"}, {"credits": "1"}, {"credits": "2"}, {"timestamp": None}, {"timestamp": ""}]
        shuffled = random.Random(7).sample(rows, len(rows))
        assert sorted(self.ids(spark, *rows)) == sorted(self.ids(spark, *shuffled))
        bronze = raw(spark, rows)
        spread = source.credit_events(bronze.repartition(5, "credits"), "UTC", *QUARTER).select("event_id")
        assert sorted(row.event_id for row in spread.collect()) == sorted(self.ids(spark, *rows))

    def test_layout_and_columns_beyond_the_contract_do_not_matter(self, spark: SparkSession) -> None:
        other = {
            "_source_file": "credits/b.csv",
            "_raw": "x;y",
            "_row_hash": "ff",
            "org_id": " org_000",
            "credits": "32.0\t",
        }
        assert len(set(self.ids(spark, {}, other))) == 1

    def test_every_field_matters_and_none_runs_into_the_next(self, spark: SparkSession) -> None:
        rows = [
            {},
            *[{field: "x"} for field in FIELDS],
            {"org_id": "ab", "user_id": "c"},
            {"org_id": "a", "user_id": "bc"},
        ]
        assert len(set(self.ids(spark, *rows))) == len(rows)

    def test_a_malformed_row_takes_no_number_from_a_good_one(self, spark: SparkSession) -> None:
        alone = self.ids(spark, {})
        malformed, good, another = self.ids(
            spark, {"_is_malformed": True}, {}, {"_is_malformed": True, "_raw": "junk", "org_id": None}
        )
        assert [good] == alone
        assert len({malformed, good, another}) == 3


class TestRules:
    def test_a_good_row_breaks_no_rule(self, spark: SparkSession) -> None:
        good = [{}, {"action": "add"}, {"credit_type": "report_download"}, {"credit_type": "data_export"}]
        good += [{"credits": "0"}, {"credits": "-0.00"}, {"_rescued": '{"region": "eu"}'}]
        assert_violations(spark, [(row, []) for row in good])

    def test_a_malformed_row_is_held_back_for_that_alone(self, spark: SparkSession) -> None:
        odd = {"_is_malformed": True, "org_id": None, "user_id": None, "action": None, "credits": "-1"}
        checked = with_violations(parsed(spark, odd), "credits", "credit_events")
        broken = set(checked.select("violations").collect()[0].violations)
        quarantine = {rule["name"] for rule in rules("credits", "credit_events") if rule["action"] == "quarantine"}
        assert broken & quarantine == {"row_complete"}

    def test_a_missing_organisation_is_the_users_only_one(self, spark: SparkSession) -> None:
        cases = [({}, []), ({}, []), *[({"org_id": value}, ["org_inferred"]) for value in [*MISSING, "Null", "n/a"]]]
        assert_violations(spark, cases)
        actual = parsed(spark, {}, {"org_id": None, "user_id": "USER_000 "}).select("org_id")
        assert_rows(actual, [("org_000",), ("org_000",)])

    def test_a_missing_organisation_of_an_unknown_user_is_held_back(self, spark: SparkSession) -> None:
        unknown = ["org_known", "user_missing"]
        nobody = [({"org_id": None, "user_id": value}, unknown) for value in [*MISSING, "unknown"]]
        # Rows without a user say nothing about whose organisation theirs is.
        others = [({"user_id": None}, ["user_missing"]), ({"org_id": None, "user_id": "user_999"}, ["org_known"])]
        assert_violations(spark, [*nobody, *others])

    def test_a_missing_organisation_of_a_user_of_two_is_held_back(self, spark: SparkSession) -> None:
        cases = [({}, []), ({}, []), ({"org_id": "org_001"}, ["org_conflict"]), ({"org_id": None}, ["org_known"])]
        assert_violations(spark, cases)

    def test_an_organisation_in_a_row_that_is_held_back_makes_a_user_doubtful_too(self, spark: SparkSession) -> None:
        cases = [({}, []), ({"org_id": "org_001", "action": ""}, ["action_known", "org_conflict"])]
        assert_violations(spark, [*cases, ({"org_id": None}, ["org_known"])])

    def test_an_organisation_that_cannot_be_read_is_not_missing(self, spark: SparkSession) -> None:
        for text in ("org_0\ufffd1", "org\x00", "o" * (source.LONGEST_ID + 1)):
            assert_violations(spark, [({}, []), ({"org_id": text}, ["org_known"]), ({"org_id": None}, ["org_known"])])
        # Of whom, nobody knows: no user is doubtful.
        unknown = {"org_id": "org_0\ufffd1", "user_id": None}
        assert_violations(
            spark, [({}, []), ({"org_id": None}, ["org_inferred"]), (unknown, ["org_known", "user_missing"])]
        )

    def test_a_malformed_row_says_nothing_about_a_users_organisation(self, spark: SparkSession) -> None:
        malformed = {"_is_malformed": True, "org_id": "org_001"}
        rows = with_violations(parsed(spark, {}, malformed, {"org_id": None}), "credits", "credit_events")
        assert_rows(
            rows.where("not _is_malformed").select("org_id", "violations"),
            [("org_000", []), ("org_000", ["org_inferred"])],
        )

    def test_the_action_is_add_or_deduct(self, spark: SparkSession) -> None:
        bad = [*MISSING, "refund", "adds", "add deduct", "+"]
        cases = [({"action": value}, ["action_known"]) for value in bad]
        assert_violations(spark, [*cases, ({"action": " ADD "}, [])])

    def test_negative_credits_are_held_back(self, spark: SparkSession) -> None:
        cases = [("-1", []), ("-0.01", []), (" -32.0 ", []), ("-0.001", ["credits_rounded"])]
        cases += [("-99999999999", ["credits_missing"])]
        assert_violations(spark, [({"credits": text}, ["credits_not_negative", *more]) for text, more in cases])

    def test_more_than_two_decimals_are_warned_about_if_they_matter(self, spark: SparkSession) -> None:
        rounded = [({"credits": text}, ["credits_rounded"]) for text in ("32.005", "0.001", "32.300000000000004")]
        assert_violations(spark, [*rounded, ({"credits": "32.000"}, []), ({"credits": "32.10"}, [])])

    def test_a_missing_user_is_unknown(self, spark: SparkSession) -> None:
        assert_violations(spark, [({"user_id": value}, ["user_missing"]) for value in [*MISSING, "Unknown"]])
        assert_rows(parsed(spark, {"user_id": None}).select("user_id"), [("unknown",)])

    def test_a_missing_credit_type_is_unknown_and_another_one_is_kept(self, spark: SparkSession) -> None:
        cases = [({"credit_type": value}, ["credit_type_missing"]) for value in MISSING]
        assert_violations(spark, [*cases, ({"credit_type": "Video"}, ["credit_type_unexpected"])])
        actual = parsed(spark, {"credit_type": None}, {"credit_type": "Video"}).select("credit_type")
        assert_rows(actual, [("unknown",), ("video",)])

    def test_an_unreadable_time_is_undated_and_not_out_of_period(self, spark: SparkSession) -> None:
        texts = [*MISSING, "not-a-date", "abc123", "32/13/2024"]
        assert_violations(spark, [({"timestamp": text}, ["undated"]) for text in texts])

    def test_a_time_outside_the_period_is_warned_about(self, spark: SparkSession) -> None:
        outside = ["2024-09-30 23:59:59", "2025-01-01 00:00:00", "24-11-2023", "01/01/2042 12:00 AM", "1000000000"]
        inside = ["2024-10-01 00:00:00", "2024-12-31 23:59:59"]
        cases = [({"timestamp": text}, ["out_of_period"]) for text in outside]
        assert_violations(spark, [*cases, *[({"timestamp": text}, []) for text in inside]])

    def test_the_period_is_in_days_of_the_sources_time_zone(self, spark: SparkSession) -> None:
        midnight_utc = [{"timestamp": "1727740800"}, {"timestamp": "01-10-2024"}]
        frame = parsed(spark, *midnight_utc, timezone="America/Chicago")
        assert_rows(frame.select("occurred_at_raw", "_is_in_period"), [("1727740800", False), ("01-10-2024", True)])

    def test_a_row_has_all_its_reasons(self, spark: SparkSession) -> None:
        nothing = dict.fromkeys(FIELDS)
        broken = ["org_known", "action_known", "user_missing", "credit_type_missing", "credits_missing", "undated"]
        assert_violations(spark, [(nothing, broken)])

    def test_what_counts_towards_a_home_is_exactly_what_is_kept(self, spark: SparkSession) -> None:
        """The step that finds the home organisation and the quarantine rules must agree."""
        values = {
            "org_id": st.sampled_from(["org_000", None]),
            "user_id": st.sampled_from(["a", "b", None]),
            "action": st.sampled_from(["add", "deduct", "refund", None]),
            "credits": st.sampled_from(["1", "-1", "-0.001", "-99999999999", "x", None]),
            "timestamp": st.sampled_from(["1734912000", "junk"]),
            "_is_malformed": st.booleans(),
        }
        frame = parsed(spark, *examples(st.fixed_dictionaries(values), 200))
        assert_df_equality(
            frame.where(source._is_kept()).select("event_id"),
            frame.join(quarantined(frame), "event_id", "left_anti").select("event_id"),
            ignore_row_order=True,
        )

    def test_the_rules_are_those_of_the_contract(self) -> None:
        by_action: dict[str, set[str]] = {}
        for rule in rules("credits", "credit_events"):
            by_action.setdefault(rule["action"], set()).add(rule["name"])
        assert by_action == {
            "quarantine": {"row_complete", "org_known", "action_known", "credits_not_negative"},
            "warn": {
                "org_inferred",
                "org_conflict",
                "user_missing",
                "credit_type_missing",
                "credit_type_unexpected",
                "credits_missing",
                "credits_rounded",
                "undated",
                "out_of_period",
            },
        }


class TestUserOrganisations:
    def homes(self, frame: DataFrame) -> DataFrame:
        return source.user_organisations(frame).select("user_id", "org_id", "event_count")

    def test_home_is_where_most_events_are(self, spark: SparkSession) -> None:
        frame = events(spark, {"org_id": "a"}, {"org_id": "b"}, {"org_id": "b"}, {"user_id": "other", "org_id": "c"})
        assert_rows(self.homes(frame), [("user_000", "b", 2), ("other", "c", 1)])

    def test_a_tie_goes_to_the_earliest_dated_event(self, spark: SparkSession) -> None:
        early, late = at("2024-10-01"), at("2024-10-02")
        frame = events(
            spark,
            {"user_id": "u", "org_id": "a", "occurred_at": late},
            {"user_id": "u", "org_id": "b", "occurred_at": early},
            {"user_id": "v", "org_id": "a", "occurred_at": None},
            {"user_id": "v", "org_id": "b", "occurred_at": late},
        )
        assert_rows(self.homes(frame), [("u", "b", 1), ("v", "b", 1)])

    def test_a_further_tie_goes_to_the_smallest_id(self, spark: SparkSession) -> None:
        undated: dict[str, Any] = {"user_id": "v", "occurred_at": None}
        frame = events(spark, {"org_id": "b"}, {"org_id": "a"}, {**undated, "org_id": "b"}, {**undated, "org_id": "a"})
        assert_rows(self.homes(frame), [("user_000", "a", 1), ("v", "a", 1)])

    def test_unknown_is_no_user(self, spark: SparkSession) -> None:
        assert_rows(self.homes(events(spark, {"user_id": "unknown"})), [])

    def test_rows_that_are_held_back_or_come_again_do_not_count(self, spark: SparkSession) -> None:
        again = {"org_id": "b", "credits": "1", "_source_file": "credits/again.csv"}
        rows = [{"org_id": "a"}, {"org_id": "a"}, {"org_id": "b", "credits": "1"}, again]
        rows += [{"org_id": "b", "credits": str(number), "action": "refund"} for number in range(9)]
        frame = parsed(spark, *rows)
        assert_rows(self.homes(silver(frame)), [("user_000", "a", 2)])
        assert_rows(frame.select("_home_org_id").distinct(), [("a",)])

    def test_conflicts_and_the_table_agree(self, spark: SparkSession) -> None:
        values = {
            "org_id": st.sampled_from(["a", "b", "c", None]),
            "user_id": st.sampled_from(["u", "v", "w", "x", None]),
            "action": st.sampled_from(["add", "deduct", None]),
            "timestamp": st.sampled_from(["1734912000", "1734912001", "junk"]),
            "_source_file": st.sampled_from(["credits/a.csv", "credits/b.csv"]),
        }
        kept = silver(parsed(spark, *examples(st.fixed_dictionaries(values), 150)))
        homes = source.user_organisations(kept).select("user_id", F.col("org_id").alias("home"))
        joined = kept.join(homes, "user_id", "left")
        assert_rows(joined.where("not home <=> _home_org_id").select("event_id"), [])
        warned = F.array_contains("warnings", "org_conflict") != F.coalesce(
            F.col("org_id") != F.col("home"), F.lit(False)
        )
        assert_rows(joined.where(warned).select("event_id"), [])


class TestBalances:
    def test_added_less_deducted_per_organisation_undated_and_disputed_included(self, spark: SparkSession) -> None:
        first, last = at("2024-10-01"), at("2024-12-31")
        frame = events(
            spark,
            {"action": "add", "credits": "100.10", "occurred_at": last},
            {"credits": "30.05", "occurred_at": first},
            {"credits": "0.06", "occurred_at": None, "warnings": ["undated"]},
            {"credits": "9.00", "warnings": ["out_of_period", "org_conflict"]},
            {"action": "add", "credits": "2.00", "occurred_at": None, "warnings": ["org_conflict", "undated"]},
            {"org_id": "b", "credits": "1.00", "occurred_at": None, "warnings": ["undated"]},
        )
        actual = source.org_credit_balances(frame, held_back(spark, ("org_000", "q1"), ("org_000", "q2")))
        added, deducted, balance = Decimal("102.10"), Decimal("39.11"), Decimal("62.99")
        none, one = Decimal("0.00"), Decimal("1.00")
        assert_rows(
            actual,
            [
                ("org_000", added, deducted, balance, Decimal("-7.00"), 2, 2, first, last),
                ("b", none, one, -one, none, 1, 0, None, None),
            ],
        )

    def test_an_organisation_with_nothing_but_quarantined_rows_is_there(self, spark: SparkSession) -> None:
        actual = source.org_credit_balances(events(spark), held_back(spark, ("org_009", "q1"), (None, "q2")))
        zero = Decimal("0.00")
        assert_rows(actual, [("org_009", zero, zero, zero, zero, 0, 1, None, None)])

    def test_a_quarantined_row_counts_once_for_the_organisation_it_names(self, spark: SparkSession) -> None:
        again = {"action": "refund", "_source_file": "credits/again.csv"}
        rows = [{}, {"action": "refund"}, {"action": "refund"}, again, {"org_id": None, "user_id": None}]
        rows += [{"org_id": " ORG_000", "credits": "-1"}, {"org_id": "error: timed out", "_is_malformed": True}]
        frame = parsed(spark, *rows)
        actual = source.org_credit_balances(silver(frame), quarantined(frame))
        assert_rows(actual.select("org_id", "quarantined_event_count"), [("org_000", 3)])

    def test_the_balances_add_up_to_the_signed_sum_of_all_events(self, spark: SparkSession) -> None:
        values = {
            "org_id": st.sampled_from(["a", "b", "c", "d", None]),
            "user_id": st.sampled_from(["u", "v", "w", None]),
            "action": st.sampled_from(["add", "deduct", "deduct", None]),
            "credits": st.decimals(0, 10**9, places=2).map(str)
            | st.sampled_from(["junk", "0.005", "9999999999.99", None]),
            "timestamp": st.sampled_from(["1734912000", "19-12-2024", "junk", None]),
        }
        frame = parsed(spark, *examples(st.fixed_dictionaries(values)))
        kept, zero = silver(frame), Decimal("0.00")
        balances = source.org_credit_balances(kept, quarantined(frame))
        assert_rows(source.unbalanced_credits(balances, kept), [])
        total = sum((row.credit_balance for row in balances.collect()), zero)
        assert total == sum((row.signed_credits for row in kept.collect()), zero)
        assert total != zero

    def test_a_balance_that_is_a_cent_off_is_found(self, spark: SparkSession) -> None:
        frame = events(spark, {"credits": "1.00"}, {"org_id": "b", "action": "add", "credits": "3.00"})
        good = source.org_credit_balances(frame, held_back(spark))
        off = good.withColumn("credit_balance", (F.col("credit_balance") + Decimal("0.01")).cast(source.MONEY))
        cent = [(Decimal("2.02"), Decimal("2.00"))]
        assert_rows(source.unbalanced_credits(good, frame), [])
        assert_rows(source.unbalanced_credits(off, frame), cent)
        assert_rows(source.unbalanced_credits(good.where("org_id = 'b'"), frame), [(Decimal("3.00"), Decimal("2.00"))])

    def test_tables_without_rows_balance(self, spark: SparkSession) -> None:
        balances = source.org_credit_balances(events(spark), held_back(spark))
        assert_rows(source.unbalanced_credits(balances, events(spark)), [])
        missing = source.org_credit_balances(events(spark), held_back(spark))
        assert_rows(source.unbalanced_credits(missing, events(spark, {})), [(Decimal("0.00"), Decimal("-32.00"))])


class TestUserActivity:
    def test_there_is_one_row_per_event_with_home_day_and_warnings(self, spark: SparkSession) -> None:
        frame = events(
            spark,
            {},
            {"credits": "1.00"},
            {"org_id": "b", "credits": "0.50", "occurred_at": None, "warnings": ["org_conflict", "undated"]},
            {"user_id": "unknown", "credits": "2.00", "warnings": ["user_missing"]},
        )
        actual = source.user_activity(frame, source.user_organisations(frame), "UTC")
        when, day = BASE_EVENT["occurred_at"], date(2024, 10, 29)
        row, home = ("api_call", "deduct"), "org_000"
        assert_rows(
            actual,
            [
                ("e0", home, "user_000", home, *row, Decimal("32.00"), when, day, ""),
                ("e1", home, "user_000", home, *row, Decimal("1.00"), when, day, ""),
                ("e2", "b", "user_000", home, *row, Decimal("0.50"), None, None, "org_conflict, undated"),
                ("e3", home, "unknown", None, *row, Decimal("2.00"), when, day, "user_missing"),
            ],
        )

    def test_the_day_is_that_of_the_sources_time_zone(self, spark: SparkSession) -> None:
        frame = events(spark, {"occurred_at": at("2024-12-19 03:00:00")})
        activity = source.user_activity(frame, source.user_organisations(frame), "America/Chicago")
        assert_rows(activity.select("occurred_on"), [(date(2024, 12, 18),)])
        usage = source.user_daily_usage(frame, "America/Chicago")
        assert_rows(usage.select("occurred_on"), [(date(2024, 12, 18),)])


class TestUserDailyUsage:
    def test_events_are_added_up_per_group_and_day_and_the_undated_in_one_row(self, spark: SparkSession) -> None:
        noon = {"occurred_at": at("2024-10-29 12:00:00")}
        undated: dict[str, Any] = {"occurred_at": None}
        frame = events(
            spark,
            {},
            {**noon, "credits": "0.05"},
            {"occurred_at": BASE_EVENT["occurred_at"] + timedelta(days=1)},
            *[{**undated, "credits": "1.10"}] * 3,
            {"action": "add"},
            {"credit_type": "data_export"},
            {"user_id": "other"},
            {"org_id": "b"},
        )
        day, org, user, base = date(2024, 10, 29), "org_000", "user_000", Decimal("32.00")
        assert_rows(
            source.user_daily_usage(frame, "UTC"),
            [
                (org, user, "api_call", "deduct", day, 2, Decimal("32.05")),
                (org, user, "api_call", "deduct", day + timedelta(days=1), 1, base),
                (org, user, "api_call", "deduct", None, 3, Decimal("3.30")),
                (org, user, "api_call", "add", day, 1, base),
                (org, user, "data_export", "deduct", day, 1, base),
                (org, "other", "api_call", "deduct", day, 1, base),
                ("b", user, "api_call", "deduct", day, 1, base),
            ],
        )


class TestDeclaration:
    def test_every_published_table_has_its_declared_columns(self, spark: SparkSession) -> None:
        frame = events(spark, {})
        homes = source.user_organisations(frame)
        frames = {
            "org_credit_balances": source.org_credit_balances(frame, held_back(spark)),
            "user_activity": source.user_activity(frame, homes, "UTC"),
            "user_daily_usage": source.user_daily_usage(frame, "UTC"),
        }
        publish = declared("credits")["publish"]
        assert {name: actual.columns for name, actual in frames.items()} == {
            name: list(table["columns"]) for name, table in publish.items()
        }

    def test_silver_has_the_columns_of_the_contract(self, spark: SparkSession) -> None:
        kept = [name for name in silver(parsed(spark, {})).columns if not name.startswith("_")]
        assert kept == list(BASE_EVENT)

    def test_no_money_is_floating_point(self, spark: SparkSession) -> None:
        frame = events(spark, {})
        for actual in (
            source.org_credit_balances(frame, held_back(spark)),
            source.user_daily_usage(frame, "UTC"),
            source.user_activity(frame, source.user_organisations(frame), "UTC"),
        ):
            assert not {kind for _, kind in actual.dtypes} & {"float", "double"}

    @pytest.mark.parametrize(
        "period", [("2024-31-12", "2024-12-31"), ("2024-12-31", "2024-10-01"), ("", "2024-10-01"), (2024, 2025)]
    )
    def test_a_period_that_is_none_is_refused(self, spark: SparkSession, period: tuple[Any, Any]) -> None:
        with pytest.raises(ValueError, match="period_from, period_to: expected two days in order"):
            source.credit_events(raw(spark, [{}]), "UTC", *period)

    def test_the_period_and_the_balance_check_are_declared(self) -> None:
        content = declared("credits")
        assert content["parameters"] == {"period_from": "2024-10-01", "period_to": "2024-12-31"}
        assert [check["transform"] for check in content["checks"]] == ["unbalanced_credits"]
        assert tuple(content["required_columns"]) == tuple(content["columns"]) == source.FIELDS
