import random
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime
from itertools import product as pairs
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.engine.rules import evaluate
from jobs.engine.sources import load_sources
from tests.transforms.examples import examples
from tests.transforms.rows import assert_rows, frame_of
from tests.transforms.rules_helper import declared, rules, with_violations
from transforms import interactions as source

ENGINE = (
    "_batch_id BIGINT, _source_file STRING, _ingested_at TIMESTAMP, _row_hash STRING, _rescued STRING, _raw STRING, "
    "_is_malformed BOOLEAN"
)
FIELDS = {
    "customer_records": source.CUSTOMER_FIELDS,
    "interaction_records": source.INTERACTION_FIELDS,
    "products": source.PRODUCT_FIELDS,
}
BASE = {
    "customer_records": {"customer_id": "1", "occupation": "Farmer", "type": "Private"},
    "interaction_records": {"date_start": "04/10/2019 09:00", "interaction": "Email", "customers": "1"},
    "products": {"date": "10-2019", "product": "Jam"},
}
CUSTOMERS = "customer_id BIGINT, occupation STRING, customer_type STRING, is_listed BOOLEAN"
INTERACTIONS = (
    "interaction_id STRING, started_at TIMESTAMP, started_on DATE, channel STRING, customer_id BIGINT, "
    "customer_ids ARRAY<BIGINT>"
)
MISSING = [None, "", "  ", "NULL", "null", "N/A", "NaN"]
ERRORS = ["#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!", "#GETTING_DATA", "#SPILL!", "Err:502"]
LONGEST = "x" * source.LONGEST_LABEL
UNREADABLE = [LONGEST + "x", "a\0b", "a\ufffd", *ERRORS]
FILE = "interactions/interactions.csv"
Row = dict[str, Any]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


BASE_INTERACTION: Row = {
    "interaction_id": "i1",
    "started_at": at("2019-10-04 09:00:00"),
    "started_on": date(2019, 10, 4),
    "channel": "Email",
    "customer_id": 1,
    "customer_ids": [1],
}


def raw(spark: SparkSession, table: str, rows: Iterable[Row]) -> DataFrame:
    """Bronze: the table's base row with these fields; engine columns can be among them."""
    fields, lines = FIELDS[table], []
    for overlay in rows:
        row = {**BASE[table], **overlay}
        text = ",".join(str(row[field]) for field in fields)
        engine = {"_source_file": FILE, "_row_hash": text, "_rescued": None, "_raw": text, "_is_malformed": False}
        engine |= {name: row[name] for name in engine if name in row}
        name, *others = engine.values()
        lines.append((1, name, at("2021-01-01"), *others, *(row[field] for field in fields)))
    return frame_of(spark, lines, ", ".join([ENGINE, *[f"`{field}` STRING" for field in fields]]))


def parsed(spark: SparkSession, table: str, *rows: Row, timezone: str = "UTC") -> DataFrame:
    bronze = raw(spark, table, rows)
    if table == "interaction_records":
        return source.interaction_records(bronze, timezone)
    return source.customer_records(bronze) if table == "customer_records" else source.products(bronze)


def warned(records: DataFrame, table: str) -> DataFrame:
    """As silver keeps parsed records: with the names of the rules that they are warned of by."""
    return evaluate(records, load_sources(["interactions"])[0].tables[table].rules)


def assert_read(
    spark: SparkSession, table: str, field: str, column: str, cases: list[tuple[Any, Any]], timezone: str = "UTC"
) -> None:
    """Each value of the raw field becomes this value of the column."""
    rows = [{field: text, "_raw": str(number)} for number, (text, _) in enumerate(cases)]
    actual = parsed(spark, table, *rows, timezone=timezone).select("_raw", column)
    assert_rows(actual, [(str(number), value) for number, (_, value) in enumerate(cases)])


def assert_violations(spark: SparkSession, table: str, cases: list[tuple[Row, list[str]]]) -> None:
    """Each row, together with all the others, breaks exactly these rules."""
    rows = [{**row, "_raw": str(number)} for number, (row, _) in enumerate(cases)]
    checked = with_violations(parsed(spark, table, *rows), "interactions", table)
    assert_rows(checked.select("_raw", "violations"), [(str(n), broken) for n, (_, broken) in enumerate(cases)])


def customers(spark: SparkSession, *rows: tuple[Any, ...]) -> DataFrame:
    """Silver customers, of (id, type) each."""
    return frame_of(spark, [(number, None, kind, True) for number, kind in rows], CUSTOMERS)


def interactions(spark: SparkSession, *overlays: Row) -> DataFrame:
    """Silver interactions: the base with these fields, numbered; `on` is the day."""
    rows = []
    for number, overlay in enumerate(overlays):
        row = {**BASE_INTERACTION, "interaction_id": f"i{number}", **overlay}
        row["started_on"] = row.pop("on", row["started_on"])
        rows.append(tuple(row.values()))
    return frame_of(spark, rows, INTERACTIONS).drop("customer_ids")


def products(spark: SparkSession, *rows: tuple[date, str]) -> DataFrame:
    return frame_of(spark, rows, "month DATE, product STRING")


@pytest.mark.parametrize("table", FIELDS)
class TestAnySheet:
    def test_every_row_comes_out_once_as_the_engine_gave_it_whatever_it_holds(
        self, spark: SparkSession, table: str
    ) -> None:
        near = st.sampled_from(["1", "1,2;x", "Email", "email", "10-2019", "04/10/2019 09:00", *MISSING, *UNREADABLE])
        values = dict.fromkeys(FIELDS[table], st.none() | st.text() | near)
        engine = {"_is_malformed": st.booleans(), "_rescued": st.just('{"region": "x"}')}
        rows = examples(st.fixed_dictionaries(values, optional=engine), 200)
        numbered = [{**row, "_raw": str(number)} for number, row in enumerate(rows)]
        frame = parsed(spark, table, *numbered, timezone="Europe/Paris")
        checked = with_violations(frame, "interactions", table).select(*source.ENGINE_COLUMNS, "violations").collect()
        expected = raw(spark, table, numbered).select(*source.ENGINE_COLUMNS).collect()
        assert sorted([*map(str, row)][:-1] for row in checked) == sorted([*map(str, row)] for row in expected)

    def test_a_malformed_or_blank_row_is_held_back_for_that_alone_and_a_good_one_is_not(
        self, spark: SparkSession, table: str
    ) -> None:
        fields = FIELDS[table]
        malformed: list[Row] = [{}, dict.fromkeys(fields, "x"), dict.fromkeys(fields)]
        cases: list[tuple[Row, list[str]]] = [({**row, "_is_malformed": True}, ["row_complete"]) for row in malformed]
        cases += [(dict.fromkeys(fields, text), ["row_filled"]) for text in MISSING]
        cases += [({}, []), ({"_rescued": '{"region": "eu"}'}, [])]
        assert_violations(spark, table, cases)


class TestSpelling:
    """Channels, products and customer types that differ in case or white space alone are one."""

    @pytest.mark.parametrize(
        ("table", "field", "column"),
        [
            ("customer_records", "type", "customer_type"),
            ("interaction_records", "interaction", "channel"),
            ("products", "product", "product"),
        ],
    )
    def test_the_usual_spelling_is_shown(self, spark: SparkSession, table: str, field: str, column: str) -> None:
        usual = {
            # the most frequent one
            "Carrier Bird": ["carrier BIRD", "Carrier  Bird", "Carrier\tBird ", "CARRIER BIRD"],
            # of equally frequent ones the first, by character
            "Email": ["email", "Email", "eMail", "email", "Email"],
            # others differ in more
            **{text: [text] for text in ("Boat", "E-mail", "E mail", "Émail", "Emails", "Bird")},
        }
        cases = [(text, shown) for shown, texts in usual.items() for text in texts]
        random.Random(7).shuffle(cases)
        assert_read(spark, table, field, column, [*cases])

    def test_the_order_and_place_of_rows_does_not_matter(self, spark: SparkSession) -> None:
        texts = ["a b", "A B", "A b", "a B", "x", "X"]
        bronze = raw(spark, "products", [{"product": text} for text in random.Random(7).sample(texts, len(texts))])
        actual = source.products(bronze.repartition(6, "product")).select("product")
        assert_rows(actual, [("A B",)] * 4 + [("X",)] * 2)

    def test_any_two_texts_are_alike_if_they_are_in_lower_case_with_single_blanks(self, spark: SparkSession) -> None:
        texts = examples(st.text(alphabet="aAbB \t\u00a0", min_size=1).filter(str.strip), 200)
        usual = {}
        for text in texts:
            usual.setdefault(" ".join(text.lower().split()), Counter[str]())[" ".join(text.split())] += 1
        shown = {key: min(found, key=lambda spelling: (-found[spelling], spelling)) for key, found in usual.items()}
        expected = [(text, shown[" ".join(text.lower().split())]) for text in texts]
        assert_read(spark, "interaction_records", "interaction", "channel", expected)

    def test_a_text_that_is_too_long_or_cannot_be_read_is_null(self, spark: SparkSession) -> None:
        cases = [*[(text, None) for text in [*UNREADABLE, *MISSING]], (f" {LONGEST}\n", LONGEST)]
        cases += [("#1", "#1"), ("N/A #N/A", "N/A #N/A"), ("Café 日本", "Café 日本")]
        assert_read(spark, "interaction_records", "interaction", "channel", cases)
        assert_read(spark, "customer_records", "occupation", "occupation", cases)


class TestCustomerRecords:
    TABLE = "customer_records"

    def test_a_row_becomes_a_customer(self, spark: SparkSession) -> None:
        actual = parsed(spark, self.TABLE, {"customer_id": " 12 ", "occupation": "  Farm  hand ", "type": "Private\n"})
        assert_rows(actual.select("customer_id", "occupation", "customer_type"), [(12, "Farm hand", "Private")])

    def test_nothing_is_read_of_a_malformed_row(self, spark: SparkSession) -> None:
        actual = parsed(spark, self.TABLE, {"_is_malformed": True}).select("customer_id", "occupation", "customer_type")
        assert_rows(actual, [(None, None, None)])

    def test_ids_are_whole_numbers_above_0(self, spark: SparkSession) -> None:
        good = {"1": 1, " 1 ": 1, "1.0": 1, "12.": 12, "3.000": 3, "007": 7, "\u00a02": 2}
        good |= {"9223372036854775807": 2**63 - 1}
        bad = [*MISSING, "0", "0.0", "-1", "+1", "1.5", "1e3", "1,0", "1 2", "x", "1x", "#N/A", "true", "."]
        bad += ["\u0663", "²", "9223372036854775808", "9" * 400, "1.0.0", "2019-10-04T09:00:00"]
        cases: list[tuple[Any, Any]] = [*good.items(), *[(text, None) for text in bad]]
        assert_read(spark, self.TABLE, "customer_id", "customer_id", cases)
        assert_violations(spark, self.TABLE, [({"customer_id": text}, ["customer_id_readable"]) for text in bad])

    def test_any_id_that_is_written_is_read_back_and_no_text_fails(self, spark: SparkSession) -> None:
        ids = examples(st.integers(1, 2**63 - 1))
        written = [(text, number) for number in ids for text in (str(number), f"{number}.0", f" {number}")]
        assert_read(spark, self.TABLE, "customer_id", "customer_id", written)
        texts = examples(st.text() | st.text(alphabet="0123456789.+-eE,; "), 400)
        actual = parsed(spark, self.TABLE, *[{"customer_id": text} for text in texts]).select("customer_id").collect()
        assert len(actual) == len(texts)
        assert all(row.customer_id is None or row.customer_id > 0 for row in actual)

    def test_a_missing_type_or_occupation_is_normal_and_null(self, spark: SparkSession) -> None:
        cases: list[tuple[Any, Any]] = [(text, None) for text in [*MISSING, "unknown", "Unknown", " UNKNOWN "]]
        assert_read(spark, self.TABLE, "type", "customer_type", cases)
        missing = [({"customer_id": f"{n}1", "type": text}, []) for n, text in enumerate(MISSING, 1)]
        missing += [({"customer_id": f"{n}2", "occupation": text}, []) for n, text in enumerate(MISSING, 1)]
        assert_violations(spark, self.TABLE, [*missing, ({"customer_id": "5", "occupation": None, "type": None}, [])])

    def test_an_unreadable_type_or_occupation_is_warned_about(self, spark: SparkSession) -> None:
        cases = [({"customer_id": f"{n}1", "type": text}, ["type_readable"]) for n, text in enumerate(UNREADABLE, 1)]
        cases += [
            ({"customer_id": f"{n}2", "occupation": text}, ["occupation_readable"])
            for n, text in enumerate(UNREADABLE, 1)
        ]
        assert_violations(spark, self.TABLE, cases)

    def test_a_customer_who_is_listed_again_with_other_content_is_warned_about(self, spark: SparkSession) -> None:
        once = ["customer_listed_once"]
        cases: list[tuple[Row, list[str]]] = [
            ({}, []),
            ({"customer_id": "1.0", "type": "PRIVATE", "occupation": " Farmer"}, []),
            ({"customer_id": "2"}, once),
            ({"customer_id": "2", "occupation": "Baker"}, once),
            ({"customer_id": "3"}, once),
            ({"customer_id": "3", "type": None}, once),
            ({"customer_id": "4", "occupation": None, "type": None}, []),
            ({"customer_id": "4", "occupation": "", "type": "unknown"}, []),
            ({"customer_id": "x"}, ["customer_id_readable", *once]),
            ({"customer_id": "y", "occupation": "Baker"}, ["customer_id_readable", *once]),
        ]
        assert_violations(spark, self.TABLE, cases)

    def test_a_row_has_all_its_reasons(self, spark: SparkSession) -> None:
        row = {"customer_id": "x", "occupation": "#REF!", "type": "#N/A"}
        broken = ["customer_id_readable", "type_readable", "occupation_readable"]
        assert_violations(spark, self.TABLE, [(row, broken)])


class TestDates:
    """Every case is read in one go: a Spark job for each would take minutes."""

    def assert_dates(
        self, spark: SparkSession, cases: list[tuple[Any, datetime | None]], timezone: str = "UTC"
    ) -> None:
        assert_read(spark, "interaction_records", "date_start", "started_at", cases, timezone)

    def test_the_day_comes_first(self, spark: SparkSession) -> None:
        nine = at("2019-10-04 09:00:00")
        cases: list[tuple[Any, datetime | None]] = [
            ("04/10/2019 09:00", nine),
            (" 04/10/2019 09:00\t", nine),
            ("4/10/2019 9:00", nine),
            ("04/10/2019 09:00:00", nine),
            ("04/10/2019 09:00:59", at("2019-10-04 09:00:59")),
            ("31/12/2019 23:59", at("2019-12-31 23:59:00")),
            ("29/02/2020 00:00", at("2020-02-29")),
        ]
        self.assert_dates(spark, cases)

    def test_a_date_cell_is_the_same_instant(self, spark: SparkSession) -> None:
        nine = at("2019-10-04 09:00:00")
        texts = ["2019-10-04T09:00:00", "2019-10-04 09:00:00", "2019-10-04T09:00", "2019-10-04T09:00:00.000000"]
        self.assert_dates(spark, [(text, nine) for text in texts])

    def test_a_date_alone_is_the_start_of_that_day(self, spark: SparkSession) -> None:
        texts = ["04/10/2019", "4/10/2019", "2019-10-04", "2019-10-04T00:00:00"]
        self.assert_dates(spark, [(text, at("2019-10-04")) for text in texts])
        self.assert_dates(spark, [(text, at("2019-10-03 22:00")) for text in texts], "Europe/Paris")

    def test_junk_and_what_does_not_exist_is_held_back(self, spark: SparkSession) -> None:
        texts = [*MISSING, "not-a-date", "31/02/2019 09:00", "29/02/2019 09:00", "10/13/2019 09:00", "32/10/2019"]
        texts += ["00/10/2019", "04/00/2019 09:00", "04/10/2019 24:00", "04/10/2019 09:60", "04/10/2019 09:00:60"]
        texts += ["04/10/19 09:00", "04/10/0019 09:00", "04-10-2019 09:00", "04.10.2019", "04/10/2019T09:00", "10-2019"]
        texts += ["04/10/2019 09:00 AM", "04/10/2019  09:00", "04/10/2019 09", "04/10/2019 09:00:00.5", "2019/10/04"]
        texts += ["20191004", "43742", "43742.375", "2019-10-04T24:00:00", "2019-02-30", "2019-13-01T00:00:00", "now"]
        texts += ["09:00:00", "04/10/2019 09:00\nx", "04/10/201\u0669", "#N/A", "9" * 400, "2019-10-04T09:00Z"]
        self.assert_dates(spark, [(text, None) for text in texts])
        assert_violations(spark, "interaction_records", [({"date_start": text}, ["date_readable"]) for text in texts])

    def test_times_are_local_to_the_source_and_so_is_the_day(self, spark: SparkSession) -> None:
        rows = ["04/10/2019 23:30", "2019-10-04T23:30:00", "2019-10-04T23:30:00+00:00", "31/12/2019 20:00"]
        frame = parsed(
            spark, "interaction_records", *[{"date_start": text} for text in rows], timezone="America/Chicago"
        )
        evening = (at("2019-10-05 04:30:00"), date(2019, 10, 4))
        assert_rows(
            frame.select("started_at", "started_on"),
            [
                evening,
                evening,
                (at("2019-10-04 23:30"), date(2019, 10, 4)),
                (at("2020-01-01 02:00"), date(2019, 12, 31)),
            ],
        )

    def test_a_time_that_clocks_repeat_is_the_earlier_one_and_a_skipped_one_moves_on(self, spark: SparkSession) -> None:
        repeated, skipped = at("2023-10-29 00:30"), at("2023-03-26 01:30")
        cases: list[tuple[Any, datetime | None]] = [
            ("29/10/2023 02:30", repeated),
            ("2023-10-29T02:30:00", repeated),
            ("26/03/2023 02:30", skipped),
            ("2023-03-26T02:30:00", skipped),
        ]
        self.assert_dates(spark, cases, "Europe/Paris")

    def test_any_time_that_is_written_is_read_back(self, spark: SparkSession) -> None:
        zone = ZoneInfo("Australia/Lord_Howe")
        cases: list[tuple[Any, datetime | None]] = []
        for moment in examples(st.datetimes(datetime(2002, 1, 1), datetime(2035, 1, 1)), 200):
            second, minute = moment.replace(microsecond=0), moment.replace(second=0, microsecond=0)
            forms = {
                second.strftime("%d/%m/%Y %H:%M:%S"): second,
                minute.strftime("%d/%m/%Y %H:%M"): minute,
                f"{minute.day}/{minute.month}/{minute.year} {minute.hour}:{minute:%M}": minute,
                minute.strftime("%d/%m/%Y"): minute.replace(hour=0, minute=0),
                second.isoformat(): second,
            }
            cases += [(text, local.replace(tzinfo=zone).astimezone(UTC)) for text, local in forms.items()]
        self.assert_dates(spark, cases, "Australia/Lord_Howe")

    def test_no_text_makes_a_date_fail(self, spark: SparkSession) -> None:
        near = st.from_regex(r"\d{1,2}/\d{1,2}/\d{4}( \d{1,2}:\d\d(:\d\d)?)?", fullmatch=True)
        near |= st.from_regex(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?)?", fullmatch=True)
        texts = examples(st.text() | st.text(alphabet="0123456789-/: T") | near, 600)
        frame = parsed(spark, "interaction_records", *[{"date_start": text} for text in texts], timezone="Europe/Paris")
        assert len(frame.select("started_at", "started_on").collect()) == len(texts)


class TestCustomersNamed:
    def assert_named(self, spark: SparkSession, cases: list[tuple[Any, Any]]) -> None:
        assert_read(spark, "interaction_records", "customers", "customer_ids", cases)

    def test_several_are_separated_by_commas_or_semicolons(self, spark: SparkSession) -> None:
        cases = [("12", [12]), ("1.0", [1]), ("1, 2;3", [1, 2, 3]), ("3;1", [3, 1]), (" 1 ,\u00a02 ", [1, 2])]
        cases += [("1;", [1]), (";,1,,2,", [1, 2]), ("1;N/A;2", [1, 2]), ("1.0;2.0", [1, 2])]
        self.assert_named(spark, cases)
        assert_violations(spark, "interaction_records", [({"customers": text}, []) for text, _ in cases])

    def test_each_is_named_once(self, spark: SparkSession) -> None:
        self.assert_named(spark, [("1,1", [1]), ("2;1, 2.0; 02", [2, 1])])

    def test_an_unreadable_one_of_several_is_warned_about_and_the_others_count(self, spark: SparkSession) -> None:
        texts = ["1, x", "0;1", "-2,1", "1;1.5", "x;1;y", "1 / 2,1", "9" * 20 + ";1"]
        self.assert_named(spark, [(text, [1]) for text in texts])
        assert_violations(
            spark, "interaction_records", [({"customers": text}, ["customers_readable"]) for text in texts]
        )

    def test_without_a_readable_one_the_row_is_held_back(self, spark: SparkSession) -> None:
        texts = [*MISSING, ";", " , ; ", "N/A;null", "x", "0", "-1", "1.5", "x;y", "1 2", "#REF!", "9" * 400]
        self.assert_named(spark, [(text, []) for text in texts])
        assert_violations(spark, "interaction_records", [({"customers": text}, ["has_customer"]) for text in texts])

    def test_any_ids_that_are_written_are_read_back_and_no_text_fails(self, spark: SparkSession) -> None:
        separators = st.sampled_from([",", ";", ", ", " ; ", ",;"])
        cases: list[tuple[Any, Any]] = []
        for ids, separator in examples(st.tuples(st.lists(st.integers(1, 2**63 - 1), unique=True), separators), 200):
            cases.append((separator.join(map(str, ids)), ids))
        self.assert_named(spark, cases)
        texts = examples(st.text() | st.text(alphabet="0123456789.,; x"), 400)
        frame = parsed(spark, "interaction_records", *[{"customers": text} for text in texts]).select("customer_ids")
        assert sum(min([1, *row.customer_ids]) > 0 for row in frame.collect()) == len(texts)


class TestInteractionRecords:
    TABLE = "interaction_records"

    def ids(self, spark: SparkSession, *rows: Row, timezone: str = "UTC") -> list[str]:
        """The ids in the order of the rows."""
        numbered = [{**row, "_rescued": str(number)} for number, row in enumerate(rows)]
        found = parsed(spark, self.TABLE, *numbered, timezone=timezone).select("_rescued", "interaction_id").collect()
        return [row.interaction_id for row in sorted(found, key=lambda row: int(row._rescued))]

    def test_a_channel_that_is_missing_or_cannot_be_read_is_held_back(self, spark: SparkSession) -> None:
        cases = [({"interaction": text}, ["channel_readable"]) for text in [*MISSING, *UNREADABLE]]
        assert_violations(spark, self.TABLE, cases)

    def test_a_row_has_all_its_reasons(self, spark: SparkSession) -> None:
        broken = ["date_readable", "channel_readable", "has_customer"]
        assert_violations(spark, self.TABLE, [({"date_start": "x", "interaction": "", "customers": "x"}, broken)])

    def test_the_id_stays_the_same_from_release_to_release(self, spark: SparkSession) -> None:
        assert self.ids(spark, {}) == ["b47693f90e77d1e0a4f07ed84b5dd18a"]

    def test_identical_rows_of_one_file_are_separate_interactions(self, spark: SparkSession) -> None:
        assert len(set(self.ids(spark, {}, {}, {}))) == 3

    def test_the_same_row_of_another_extract_is_the_same_interaction(self, spark: SparkSession) -> None:
        again = {"_source_file": "interactions/again.xlsx"}
        first, second, same, more, one_more = self.ids(spark, {}, {}, again, again, again)
        assert {first, second} < {same, more, one_more}
        assert len({same, more, one_more}) == 3

    def test_the_same_content_in_another_form_is_the_same_interaction(self, spark: SparkSession) -> None:
        forms: list[Row] = [
            {},
            {"date_start": "2019-10-04T09:00:00", "customers": "1.0", "_raw": '["2019-10-04T09:00:00", "Email", 1]'},
            {"date_start": "4/10/2019 9:00:00", "interaction": " EMAIL "},
            {"customers": "1;1", "_row_hash": "ff"},
        ]
        several: list[Row] = [{"customers": "1,2"}, {"customers": "2; 1"}]
        for alike in (forms, several):
            elsewhere = [{**row, "_source_file": f"interactions/{number}.csv"} for number, row in enumerate(alike)]
            assert len(set(self.ids(spark, *elsewhere))) == 1
            assert len(set(self.ids(spark, *alike))) == len(alike)

    def test_everything_that_is_read_matters_and_none_of_it_runs_into_the_next(self, spark: SparkSession) -> None:
        rows: list[Row] = [{}, {"date_start": "04/10/2019 09:01"}, {"interaction": "Call"}, {"interaction": "1|Email"}]
        rows += [{"customers": text} for text in ("2", "1,2", "12", "1,2,3")]
        assert len(set(self.ids(spark, *rows))) == len(rows)

    def test_the_order_of_rows_does_not_matter(self, spark: SparkSession) -> None:
        rows: list[Row] = [
            {},
            {},
            {"customers": "2"},
            {"customers": "2, x"},
            {"customers": "x, 2"},
            {"interaction": "x"},
        ]
        shuffled = random.Random(7).sample(rows, len(rows))
        assert sorted(self.ids(spark, *rows)) == sorted(self.ids(spark, *shuffled))
        spread = source.interaction_records(raw(spark, self.TABLE, rows).repartition(5, "customers"), "UTC")
        assert sorted(row.interaction_id for row in spread.collect()) == sorted(self.ids(spark, *rows))

    def test_an_unreadable_customer_beside_others_takes_no_number_from_a_good_row(self, spark: SparkSession) -> None:
        alone = self.ids(spark, {})
        for hash_ in ("0", "~"):
            _, good = self.ids(spark, {"customers": "x;1", "_row_hash": hash_}, {"_row_hash": "5"})
            assert [good] == alone

    def test_a_row_that_is_held_back_takes_no_number_from_a_good_one(self, spark: SparkSession) -> None:
        bad: list[Row] = [{"_is_malformed": True}, {"date_start": "x"}, {"interaction": ""}, {"customers": "x"}]
        ids = self.ids(spark, *bad, {}, *bad)
        assert [ids[4]] == self.ids(spark, {})
        assert len(set(ids)) == len(ids)


class TestProducts:
    TABLE = "products"

    def test_a_month_is_its_first_day(self, spark: SparkSession) -> None:
        october = date(2019, 10, 1)
        texts = ["10-2019", " 10-2019 ", "2019-10-01T00:00:00", "2019-10-31T23:59:59", "2019-10-04", "2019-10-04 09:00"]
        cases: list[tuple[Any, Any]] = [*[(text, october) for text in texts], ("9-2019", date(2019, 9, 1))]
        cases += [("01-2020", date(2020, 1, 1)), ("12-2019", date(2019, 12, 1))]
        assert_read(spark, self.TABLE, "date", "month", cases)

    def test_an_unreadable_month_is_held_back(self, spark: SparkSession) -> None:
        texts = [
            *MISSING,
            "13-2019",
            "00-2019",
            "0-2019",
            "2019-10",
            "10/2019",
            "10.2019",
            "Oct 2019",
            "10-19",
            "102019",
        ]
        texts += [
            "10-0019",
            "43739",
            "2019-13-01T00:00:00",
            "2019-02-30",
            "01-10-2019",
            "10-2019\nx",
            "#N/A",
            "9" * 400,
        ]
        assert_read(spark, self.TABLE, "date", "month", [(text, None) for text in texts])
        assert_violations(spark, self.TABLE, [({"date": text}, ["month_readable"]) for text in texts])

    def test_any_month_that_is_written_is_read_back_and_no_text_fails(self, spark: SparkSession) -> None:
        days = examples(st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31)), 200)
        cases = [
            (text, day.date().replace(day=1))
            for day in days
            for text in (f"{day.month:02}-{day.year}", f"{day.month}-{day.year}", day.isoformat(), str(day.date()))
        ]
        assert_read(spark, self.TABLE, "date", "month", cases)
        near = st.from_regex(r"\d{1,2}-\d{4}|\d{4}-\d\d-\d\d", fullmatch=True)
        texts = examples(st.text() | st.text(alphabet="0123456789-T:") | near, 400)
        assert len(parsed(spark, self.TABLE, *[{"date": text} for text in texts]).collect()) == len(texts)

    def test_a_row_without_a_product_says_that_the_month_has_none(self, spark: SparkSession) -> None:
        texts = [*MISSING, "unknown", " UNKNOWN "]
        assert_read(spark, self.TABLE, "product", "product", [(text, "Unknown") for text in texts])
        assert_violations(spark, self.TABLE, [({"product": text}, []) for text in texts])

    def test_an_unreadable_product_is_held_back(self, spark: SparkSession) -> None:
        assert_violations(spark, self.TABLE, [({"product": text}, ["product_readable"]) for text in UNREADABLE])

    def test_a_row_has_all_its_reasons(self, spark: SparkSession) -> None:
        broken = ["month_readable", "product_readable"]
        assert_violations(spark, self.TABLE, [({"date": "x", "product": "#REF!"}, broken)])


class TestCustomers:
    def test_a_customer_whom_only_interactions_name_is_kept_and_warned_about(self, spark: SparkSession) -> None:
        records = parsed(
            spark,
            "customer_records",
            {"customer_id": "1"},
            {"customer_id": "2", "occupation": None, "type": None},
            {"customer_id": "3", "type": "unknown"},
            {"customer_id": "4", "type": "#REF!"},
        )
        named = parsed(spark, "interaction_records", {"customers": "1;9"}, {"customers": "9,1,8"})
        actual = source.customers(warned(records, "customer_records"), named)
        assert_rows(
            with_violations(actual, "interactions", "customers"),
            [
                (1, "Farmer", "Private", True, [], []),
                (2, None, "Unknown", True, [], []),
                (3, "Farmer", "Unknown", True, [], []),
                (4, "Farmer", "Unknown", True, ["type_readable"], []),
                (8, None, "Unknown", False, ["customer_listed"], ["customer_listed"]),
                (9, None, "Unknown", False, ["customer_listed"], ["customer_listed"]),
            ],
        )

    def test_either_sheet_may_have_no_rows(self, spark: SparkSession) -> None:
        no_records, no_named = parsed(spark, "customer_records"), parsed(spark, "interaction_records")
        records, named = parsed(spark, "customer_records", {}), parsed(spark, "interaction_records", {})
        no_records, records = (warned(sheet, "customer_records") for sheet in (no_records, records))
        assert_rows(source.customers(records, no_named), [(1, "Farmer", "Private", True, [])])
        assert_rows(source.customers(no_records, named), [(1, None, "Unknown", False, ["customer_listed"])])
        assert_rows(source.customers(no_records, no_named), [])


class TestInteractions:
    def test_there_is_one_row_per_customer_named(self, spark: SparkSession) -> None:
        records = frame_of(spark, [tuple({**BASE_INTERACTION, "customer_ids": [3, 1]}.values())], INTERACTIONS)
        row, warnings = tuple(BASE_INTERACTION.values())[:4], ["customers_readable"]
        records = records.drop("customer_id").withColumn("warnings", F.array(F.lit(warnings[0])))
        assert_rows(source.interactions(records), [(*row, 3, warnings), (*row, 1, warnings)])


class TestChannelInteractions:
    def test_every_known_customer_and_every_channel_is_there_zeros_included(self, spark: SparkSession) -> None:
        frame = interactions(spark, {}, {}, {"channel": "Call"}, {"customer_id": 2, "channel": "Bird"})
        actual = source.customer_channel_interactions(customers(spark, (1, "A"), (2, "A"), (3, "B")), frame)
        assert_rows(
            actual,
            [
                (1, "Email", 2), (1, "Call", 1), (1, "Bird", 0),
                (2, "Email", 0), (2, "Call", 0), (2, "Bird", 1),
                (3, "Email", 0), (3, "Call", 0), (3, "Bird", 0),
            ],
        )  # fmt: skip

    def test_without_customers_or_channels_there_are_no_rows(self, spark: SparkSession) -> None:
        assert_rows(source.customer_channel_interactions(customers(spark, (1, "A")), interactions(spark)), [])
        assert_rows(source.customer_channel_interactions(customers(spark), interactions(spark)), [])

    def test_per_day_there_are_no_zeros(self, spark: SparkSession) -> None:
        next_day = {"on": date(2019, 10, 5)}
        frame = interactions(spark, {}, {}, next_day, {"channel": "Call", **next_day}, {"customer_id": 2})
        friday, saturday = date(2019, 10, 4), date(2019, 10, 5)
        assert_rows(
            source.customer_channel_daily_interactions(frame),
            [(1, "Email", friday, 2), (1, "Email", saturday, 1), (1, "Call", saturday, 1), (2, "Email", friday, 1)],
        )
        assert_rows(source.customer_channel_daily_interactions(interactions(spark)), [])


OCTOBER, NOVEMBER = date(2019, 10, 1), date(2019, 11, 1)


class TestTopics:
    def test_an_interaction_counts_for_each_product_of_its_month(self, spark: SparkSession) -> None:
        frame = interactions(
            spark,
            {"on": date(2019, 10, 1)},
            {"on": date(2019, 10, 31)},
            {"on": date(2019, 11, 1)},
            {"on": date(2019, 10, 9), "channel": "Call"},
            {"on": date(2019, 10, 9), "customer_id": 2},
        )
        discussed = products(spark, (OCTOBER, "Jam"), (OCTOBER, "Tea"), (NOVEMBER, "Jam"), (date(2020, 10, 1), "Rum"))
        assert_rows(
            source.customer_channel_topics(frame, discussed),
            [
                (1, "Email", "Jam", 3), (1, "Email", "Tea", 2), (1, "Call", "Jam", 1), (1, "Call", "Tea", 1),
                (2, "Email", "Jam", 1), (2, "Email", "Tea", 1),
            ],
        )  # fmt: skip

    def test_in_a_month_without_a_product_it_is_unknown(self, spark: SparkSession) -> None:
        frame = interactions(spark, {}, {"on": NOVEMBER}, {"on": date(2019, 12, 1)})
        discussed = products(spark, (OCTOBER, "Jam"), (OCTOBER, "Unknown"), (NOVEMBER, "Unknown"))
        expected = [(1, "Email", "Jam", 1), (1, "Email", "Unknown", 2)]
        assert_rows(source.customer_channel_topics(frame, discussed), expected)

    def test_before_any_products_have_arrived_all_are_unknown(self, spark: SparkSession) -> None:
        frame = interactions(spark, {}, {"on": NOVEMBER})
        assert_rows(source.customer_channel_topics(frame, products(spark)), [(1, "Email", "Unknown", 2)])
        assert_rows(source.customer_channel_topics(interactions(spark), products(spark)), [])


class TestProductCustomerTypes:
    def test_every_product_and_every_type_is_there_zeros_included(self, spark: SparkSession) -> None:
        frame = interactions(spark, {}, {"channel": "Call"}, {"customer_id": 2}, {"customer_id": 3, "on": NOVEMBER})
        known = customers(spark, (1, "A"), (2, "B"), (3, "A"), (4, "C"))
        discussed = products(spark, (OCTOBER, "Jam"), (OCTOBER, "Tea"), (date(2020, 1, 1), "Rum"))
        assert_rows(
            source.product_customer_types(known, frame, discussed),
            [
                ("Jam", "A", 2), ("Jam", "B", 1), ("Jam", "C", 0),
                ("Tea", "A", 2), ("Tea", "B", 1), ("Tea", "C", 0),
                ("Rum", "A", 0), ("Rum", "B", 0), ("Rum", "C", 0),
                ("Unknown", "A", 1), ("Unknown", "B", 0), ("Unknown", "C", 0),
            ],
        )  # fmt: skip

    def test_unknown_is_a_product_only_if_there_is_such_an_interaction(self, spark: SparkSession) -> None:
        discussed = products(spark, (OCTOBER, "Jam"), (NOVEMBER, "Unknown"))
        actual = source.product_customer_types(customers(spark, (1, "A")), interactions(spark, {}), discussed)
        assert_rows(actual, [("Jam", "A", 1)])

    def test_an_interaction_with_two_customers_of_a_type_counts_twice(self, spark: SparkSession) -> None:
        frame = interactions(spark, {"interaction_id": "one"}, {"interaction_id": "one", "customer_id": 2})
        known = customers(spark, (1, "A"), (2, "A"))
        assert_rows(source.product_customer_types(known, frame, products(spark)), [("Unknown", "A", 2)])

    def test_what_has_not_arrived_is_no_error(self, spark: SparkSession) -> None:
        known, discussed = customers(spark, (1, "A")), products(spark, (OCTOBER, "Jam"))
        nobody, nothing = interactions(spark), products(spark)
        assert_rows(source.product_customer_types(known, nobody, discussed), [("Jam", "A", 0)])
        assert_rows(source.product_customer_types(known, nobody, nothing), [])
        assert_rows(source.product_customer_types(customers(spark), nobody, discussed), [])

    def test_all_published_tables_agree_for_any_rows(self, spark: SparkSession) -> None:
        """An independent count in Python of what the sheets say."""
        months = [date(2019, month, 1) for month in range(1, 5)]
        days = st.sampled_from(months).flatmap(lambda month: st.integers(1, 28).map(lambda day: month.replace(day=day)))
        rows = examples(st.tuples(st.sampled_from("EC"), days, st.integers(1, 4)), 120)
        discussed = {months[0]: ["Jam", "Tea"], months[1]: ["Tea"], months[2]: []}
        kinds = {1: "A", 2: "A", 3: "B", 4: "Unknown", 5: "C"}
        frame = interactions(spark, *[{"channel": c, "on": on, "customer_id": number} for c, on, number in rows])
        known = customers(spark, *kinds.items())
        sheet = products(spark, *[(month, name) for month, names in discussed.items() for name in names])
        topics = Counter(
            (number, channel, name)
            for channel, on, number in rows
            for name in discussed.get(on.replace(day=1)) or ["Unknown"]
        )
        by_type = Counter[tuple[str, str]]()
        for (number, _, name), count in topics.items():
            by_type[name, kinds[number]] += count
        channels = Counter((number, channel) for channel, _, number in rows)
        assert_rows(
            source.customer_channel_interactions(known, frame),
            [(number, channel, channels[number, channel]) for number, channel in pairs(kinds, "EC")],
        )
        daily = Counter((number, channel, on) for channel, on, number in rows)
        assert_rows(source.customer_channel_daily_interactions(frame), [(*key, n) for key, n in daily.items()])
        assert_rows(source.customer_channel_topics(frame, sheet), [(*key, n) for key, n in topics.items()])
        cells = pairs(["Jam", "Tea", "Unknown"], set(kinds.values()))
        assert_rows(source.product_customer_types(known, frame, sheet), [(*cell, by_type[cell]) for cell in cells])


class TestDeclaration:
    def test_every_published_table_has_its_declared_columns_and_counts_are_bigint(self, spark: SparkSession) -> None:
        known, frame, discussed = customers(spark), interactions(spark), products(spark)
        frames = {
            "customer_channel_interactions": source.customer_channel_interactions(known, frame),
            "customer_channel_daily_interactions": source.customer_channel_daily_interactions(frame),
            "customer_channel_topics": source.customer_channel_topics(frame, discussed),
            "product_customer_types": source.product_customer_types(known, frame, discussed),
        }
        publish = declared("interactions")["publish"]
        assert {name: actual.columns for name, actual in frames.items()} == {
            name: list(table["columns"]) for name, table in publish.items()
        }
        assert {dict(actual.dtypes)["interaction_count"] for actual in frames.values()} == {"bigint"}

    def test_silver_has_the_columns_of_the_contract(self, spark: SparkSession) -> None:
        records, named = parsed(spark, "customer_records"), parsed(spark, "interaction_records")
        frames = {
            "customer_records": records,
            "interaction_records": named,
            "products": parsed(spark, "products"),
            "customers": source.customers(warned(records, "customer_records"), named),
            "interactions": source.interactions(warned(named, "interaction_records")),
        }
        expected = {
            "customer_records": "customer_id bigint, occupation string, customer_type string",
            "interaction_records": "interaction_id string, started_at timestamp, started_on date, channel string, "
            "customer_ids array<bigint>",
            "products": "month date, product string",
            "customers": "customer_id bigint, occupation string, customer_type string, is_listed boolean, "
            "warnings array<string>",
            "interactions": "interaction_id string, started_at timestamp, started_on date, channel string, "
            "customer_id bigint, warnings array<string>",
        }
        assert expected == {
            name: ", ".join(f"{column} {kind}" for column, kind in frame.dtypes if not column.startswith("_"))
            for name, frame in frames.items()
        }
        assert list(declared("interactions")["tables"]) == list(frames)

    def test_the_raw_sheets_are_declared_as_the_transforms_read_them(self) -> None:
        content = declared("interactions")
        sheets = {table["raw"]: name for name, table in content["tables"].items() if "raw" in table}
        assert {sheets[name]: tuple(sheet["columns"]) for name, sheet in content["raw"].items()} == FIELDS
        assert all(sheet["full_extract"] for sheet in content["raw"].values())
        assert content["raw"]["interactions"]["aliases"] == {"event": "interaction"}

    def test_the_rules_are_those_of_the_contract(self) -> None:
        by_action: dict[str, set[str]] = {}
        for table in declared("interactions")["tables"]:
            for rule in rules("interactions", table):
                by_action.setdefault(rule["action"], set()).add(rule["name"])
        assert by_action == {
            "quarantine": {
                "row_complete",
                "row_filled",
                "customer_id_readable",
                "date_readable",
                "channel_readable",
                "has_customer",
                "month_readable",
                "product_readable",
            },
            "warn": {
                "type_readable",
                "occupation_readable",
                "customer_listed_once",
                "customer_listed",
                "customers_readable",
            },
        }
