import json
import random
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from chispa import assert_df_equality
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from tests.transforms.examples import examples
from tests.transforms.rows import assert_rows, frame_of
from tests.transforms.rules_helper import declared, rules, with_violations
from transforms import members as source

ARRIVAL = "STRUCT<modified_at: TIMESTAMP, source_file: STRING, block: BIGINT, row: BIGINT>"
BRONZE = (
    "_raw STRING, _source_file STRING, _row_hash STRING, _batch_id BIGINT, _ingested_at TIMESTAMP, _rescued STRING, "
    f"_arrival {ARRIVAL}"
)
VALUES = (
    "member_id STRING, created_at DATE, sex INT, age INT, default_language_en BOOLEAN, waiting_list_time DOUBLE, "
    "waiting_list_time_raw STRING, black_and_white_design BOOLEAN, follow_reco DOUBLE, follow_reco_raw STRING, "
    "follow_reco_above_50p BOOLEAN"
)
ENTRIES = f"_batch_id BIGINT, entry_id STRING, {VALUES}, rescued STRING, arrival {ARRIVAL}, warnings ARRAY<STRING>"
LINE = (
    '{id="ada6ee1abc22511c"|created_at="2023-06-27"|sex=1|age=48|default_language_en=false|waiting_list_time=13.3'
    "|black_and_white_design=true|follow_reco=63.6405580207529|follow_reco_above_50p=true}"
)
ADA, BOB, CYD = "ada6ee1abc22511c", "b0b0000000000001", "c4d0000000000001"
ABSENT = object()
BASE_FIELDS = {
    "id": f'"{ADA}"',
    "created_at": '"2023-06-27"',
    "sex": "1",
    "age": "48",
    "default_language_en": "false",
    "waiting_list_time": "13.3",
    "black_and_white_design": "true",
    "follow_reco": "63.6405580207529",
    "follow_reco_above_50p": "true",
}
# What the base line says, in the order of VALUES.
BASE_VALUES = (ADA, date(2023, 6, 27), 1, 48, False, 13.3, "13.3", True, 63.6405580207529, "63.6405580207529", True)
NAMES = [part.split()[0] for part in VALUES.split(", ")]
BOOLEANS = ("default_language_en", "black_and_white_design", "follow_reco_above_50p")
WHOLE, NUMBERS = ("sex", "age"), ("waiting_list_time", "follow_reco")
MISSING = ["", '""', "  ", '"  "', "NULL", '"NULL"', "null", "N/A", '"N/A"', "NaN", " NaN ", '" \u00a0N/A\t"']


def at(hour: int) -> datetime:
    return datetime(2023, 7, 1, hour, tzinfo=UTC)


def line(**fields: Any) -> str:
    """The base line with these fields, as they are to be written; one that is ABSENT is left out."""
    written = {name: text for name, text in {**BASE_FIELDS, **fields}.items() if text is not ABSENT}
    return "{" + "|".join(f"{name}={text}" for name, text in written.items()) + "}"


def arrival(modified_at: datetime, file: str, row: int) -> dict[str, Any]:
    return {"modified_at": modified_at, "source_file": file, "block": 0, "row": row}


def raw(spark: SparkSession, lines: Iterable[str | None], rescued: str | None = None) -> DataFrame:
    rows = [
        (text, "members/a.log", f"hash {n}", 1, at(0), rescued, arrival(at(0), "members/a.log", n))
        for n, text in enumerate(lines)
    ]
    return frame_of(spark, rows, BRONZE)


def parsed(spark: SparkSession, *lines: str | None) -> DataFrame:
    return source.member_entries(raw(spark, lines))


def entries(spark: SparkSession, *overlays: dict[str, Any]) -> DataFrame:
    """Silver member_entries: the base entry, with each of these fields; they arrive one after the other.

    `file`, `row` and `modified_at` are parts of `arrival`; the `_raw` texts follow the numbers unless they are given.
    """
    rows = []
    for number, overlay in enumerate(overlays):
        values = {**dict(zip(NAMES, BASE_VALUES, strict=True)), **overlay}
        for name in NUMBERS:
            if name in overlay:
                values[f"{name}_raw"] = overlay.get(f"{name}_raw", overlay[name] and str(overlay[name]))
        arrived = arrival(
            values.get("modified_at", at(0)), values.get("file", "members/a.log"), values.get("row", number)
        )
        lineage = (values.get("_batch_id", 1), values.get("entry_id", f"e{number}"))
        rows.append((*lineage, *[values[name] for name in NAMES], None, arrived, []))
    return frame_of(spark, rows, ENTRIES)


def newest(spark: SparkSession, *overlays: dict[str, Any]) -> DataFrame:
    """The newest ones of such entries."""
    return source.newest_entries(entries(spark, *overlays))


def assert_violations(spark: SparkSession, cases: list[tuple[str | None, list[str]]]) -> None:
    """Each line breaks exactly these rules."""
    frame = parsed(spark, *[text for text, _ in cases])
    assert_rows(with_violations(frame, "members", "member_entries").select("_raw", "violations"), cases)


def assert_read(spark: SparkSession, field: str, cases: dict[str, Any], column: str | None = None) -> None:
    """The base line with each of these texts as its `field` gives this value in `column` (of the same name)."""
    frame = parsed(spark, *[line(**{field: text}) for text in cases])
    actual = frame.select(F.col("arrival.row"), F.col(column or field))
    assert_rows(actual, list(enumerate(cases.values())))


class TestReading:
    def test_a_line_becomes_a_typed_entry(self, spark: SparkSession) -> None:
        actual = parsed(spark, LINE)
        assert_df_equality(actual.select(*NAMES), frame_of(spark, [BASE_VALUES], VALUES), ignore_nullable=True)
        assert_rows(actual.select("rescued", "arrival.source_file", "arrival.row"), [(None, "members/a.log", 0)])

    def test_the_engines_columns_pass_through(self, spark: SparkSession) -> None:
        bronze = raw(spark, [LINE, "junk", None], rescued="aGk=")
        actual = source.member_entries(bronze)
        engine = list(source.ENGINE_COLUMNS)
        assert_df_equality(
            actual.select(*engine, F.col("arrival").alias("_arrival")), bronze.select(*engine, "_arrival")
        )

    def test_every_row_comes_out_once_whatever_it_holds(self, spark: SparkSession) -> None:
        values = st.sampled_from([*BASE_FIELDS.values(), *MISSING]) | st.text() | st.floats().map(str)
        names = st.sampled_from([*BASE_FIELDS, "note", ""]) | st.text(max_size=3)
        pairs = st.lists(st.tuples(names, values), max_size=12)
        alike = pairs.map(lambda found: "{" + "|".join(f"{name}={value}" for name, value in found) + "}")
        near = st.sampled_from([LINE, line(note='"x"')]).flatmap(
            lambda text: st.tuples(st.integers(0, len(text)), st.text('{}|="\\ a1\n\0', max_size=2)).map(
                lambda edit: text[: edit[0]] + edit[1] + text[edit[0] + 1 :]
            )
        )
        lines = examples(st.text(), 150) + examples(st.text('{}|="ab '), 150) + examples(alike) + examples(near)
        bronze = raw(spark, [text.encode("utf-8", "replace").decode() for text in lines])
        checked = with_violations(source.member_entries(bronze), "members", "member_entries")
        assert [row.arrival.row for row in checked.collect()] == list(range(len(lines)))

    def test_no_line_is_too_long(self, spark: SparkSession) -> None:
        """Patterns that backtrack or recurse would fail, or take minutes."""
        many = "|".join(f"f{number}=1" for number in range(20_000))
        good = [LINE[:-1] + "|" + many + "}", line(note=f'"{"=|" * 100_000}"'), LINE[:-1] + " " * 200_000 + "}"]
        bad = ["{" * 200_000, "{" + many, "{" + "a=" * 100_000 + "}", '{id="' + "x" * 200_000, "{a=" + " " * 200_000]
        bad += ["{" + "a=1|" * 50_000 + "}", "{" + 'a="' * 50_000 + "}", "{" + " |" * 100_000 + "}", LINE * 1_000]
        numbers = [line(age="9" * 200_000), line(follow_reco="1" * 200_000), line(created_at="2" * 200_000)]
        actual = parsed(spark, *good, *bad, *numbers).select("arrival.row", "_is_well_formed", "sex")
        readable = {*range(len(good)), *range(len(good + bad), len(good + bad + numbers))}
        assert_rows(
            actual, [(n, n in readable, 1 if n in readable else None) for n in range(len(good + bad + numbers))]
        )

    def test_any_entry_that_is_written_is_read_back(self, spark: SparkSession) -> None:
        """In any order, with or without quotes and blanks, with fields missing, and unknown ones with any text."""
        rng = random.Random(7)
        booleans, whole = st.none() | st.booleans(), st.none() | st.integers(-(2**31), 2**31 - 1)
        numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
        ids = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")
        days = st.dates(date(1000, 1, 1))
        notes = st.none() | st.text(st.characters(codec="utf-8", exclude_characters='"\r\n')).map(str.strip)
        known = st.tuples(ids, days, whole, whole, booleans, numbers, booleans, numbers, booleans, notes)
        lines, expected = [], []
        for number, entry in enumerate(examples(known, 300)):
            texts = {}
            for name, value in zip([*BASE_FIELDS, "note"], entry, strict=True):
                if value is not None:
                    text = str(value).lower() if name in BOOLEANS else str(value)
                    texts[name] = f'"{text}"' if name == "note" or rng.random() < 0.5 else text
            names, blank = rng.sample(list(texts), len(texts)), rng.choice(["", "", " ", "\t "])
            lines.append("{" + f"{blank}|{blank}".join(f"{name}{blank}={blank}{texts[name]}" for name in names) + "}")
            rescued = None if entry[-1] is None else json.dumps({"note": entry[-1]})
            expected.append((number, *entry[:-1], rescued and json.loads(rescued)["note"]))
        note = F.get_json_object("rescued", "$.note").alias("note")
        columns = ["member_id", *list(BASE_FIELDS)[1:]]
        assert_rows(parsed(spark, *lines).select("arrival.row", *columns, note), expected)

    def test_plain_lines_are_read_like_all_others(self, spark: SparkSession) -> None:
        """A blank at its end makes no difference but that the line is not plain."""
        digits, booleans = st.from_regex("[0-9]{1,12}", fullmatch=True), st.sampled_from(["true", "false"])
        numerals = st.from_regex(r"-?[0-9]{1,5}(\.[0-9]{1,20})?", fullmatch=True)
        dates = st.from_regex('"[0-9]{4}-[01][0-9]-[0-3][0-9]"', fullmatch=True)
        ids = st.from_regex('"[0-9a-f]{16}"', fullmatch=True)
        kinds = [ids, dates, digits, digits, booleans, numerals, booleans, numerals, booleans]
        plain = [line(**dict(zip(BASE_FIELDS, texts, strict=True))) for texts in examples(st.tuples(*kinds), 200)]
        frame, other = parsed(spark, *plain), parsed(spark, *[text[:-1] + " }" for text in plain])
        columns = [name for name in other.columns if name not in ("_raw", "entry_id")]
        assert_df_equality(frame.select(*columns), other.select(*columns))
        plain_count = F.count_if(F.col("_raw").rlike(source._PLAIN_LINE)).alias("plain_count")
        assert_rows(frame.agg(plain_count).union(other.agg(plain_count)), [(len(plain),), (0,)])

    def test_the_form_of_a_line_does_not_matter(self, spark: SparkSession) -> None:
        fields = list(BASE_FIELDS.items())
        forms = [
            "{" + "|".join(f"{name}={text}" for name, text in reversed(fields)) + "}",
            "  { " + " | ".join(f"{name} = {text} " for name, text in fields) + "}\t",
            LINE.replace('"', ""),
            "{" + "|".join(f'{name}="{text.strip(chr(34))}"' for name, text in fields) + "}",
            "{" + "|".join(f'{name}=" {text.strip(chr(34))}\u00a0"' for name, text in fields) + "}",
            "{" + "|".join(f"\u00a0{name.upper()}\u2003={text}" for name, text in fields) + "}",
            LINE.replace(ADA, ADA.upper()).replace("true", "TRUE").replace("false", "False"),
        ]
        names = [name for name in NAMES if not name.endswith("_raw")]
        expected = tuple(value for name, value in zip(NAMES, BASE_VALUES, strict=True) if name in names)
        assert_rows(parsed(spark, *forms).select(*names, "rescued"), [(*expected, None)] * len(forms))

    def test_missing_values_are_null_in_every_spelling(self, spark: SparkSession) -> None:
        texts = [ABSENT, *MISSING]
        lines = [line(**dict.fromkeys(list(BASE_FIELDS)[2:], text)) for text in texts]
        assert_rows(parsed(spark, *lines).select(*NAMES), [(*BASE_VALUES[:2], *[None] * 9)] * len(texts))

    def test_unknown_fields_are_kept_as_json(self, spark: SparkSession) -> None:
        cases = {
            line(channel="app"): {"channel": "app"},
            "{channel=app|" + LINE[1:]: {"channel": "app"},
            line(Note='" a|b=c {d} \\ \u00e9 "', empty=""): {"note": "a|b=c {d} \\ \u00e9", "empty": ""},
            line(sex_="1", **{"zip-code": "8000", "größe": "N/A"}): {"sex_": "1", "zip-code": "8000", "größe": "N/A"},
        }
        actual = parsed(spark, *cases).select("arrival.row", "rescued", "follow_reco")
        assert [json.loads(row.rescued) for row in actual.collect()] == list(cases.values())
        assert_rows(actual.select("follow_reco").distinct(), [(63.6405580207529,)])

    def test_ids_are_hex_digits_in_lower_case(self, spark: SparkSession) -> None:
        good = {f'"{ADA.upper()}"': ADA, "0000000000000000": "0" * 16, f'" {ADA} "': ADA}
        bad = [ADA[1:], ADA + "0", "g" + ADA[1:], ADA[:8] + "-" + ADA[8:], f"0x{ADA[2:]}", "\u0661" * 16, f'"{ADA}\0"']
        assert_read(spark, "id", {**good, **dict.fromkeys(bad)}, "member_id")

    def test_days_that_exist_are_read(self, spark: SparkSession) -> None:
        day = date(2023, 6, 27)
        good = dict.fromkeys(
            ['"2023-06-27 10:15"', '"2023-06-27T23:59:59"', "2023-06-27 00:00:00.123", "2023-06-27"], day
        )
        good |= {'"2024-02-29"': date(2024, 2, 29), '"9999-12-31"': date(9999, 12, 31)}
        bad = ["2023-02-30", "2023-02-29", "2023-13-01", "2023-00-10", "0000-01-01", "2023-6-27", "27/06/2023"]
        bad += ["06/27/2023", "20230627", "2023/06/27", "2023-06", "2023", "1687824000", "today", "2023-06-27x"]
        bad += ["2023-06-27 24:00:00", "2023-06-27T10:00:00Z", "2023-06-27 10:00:00+02:00", "٢٠٢٣-٠٦-٢٧", "+2023-06-27"]
        assert_read(spark, "created_at", {**good, **dict.fromkeys(f'"{text}"' for text in bad)})

    def test_whole_numbers_are_read(self, spark: SparkSession) -> None:
        good = {"0": 0, "-1": -1, "+2": 2, "48.0": 48, '"7"': 7, "007": 7, "40000": 40000, "2147483647": 2147483647}
        bad = ["abc", "1.5", "1e1", "2147483648", "9" * 400, "1,000", "0x1", "true", "nan", "٣"]
        assert_read(spark, "age", {**good, **dict.fromkeys(bad)})

    def test_numbers_are_read_and_nan_and_infinity_are_none(self, spark: SparkSession) -> None:
        good = {"63.6405580207529": 63.6405580207529, "0": 0.0, "-1.5": -1.5, "+5": 5.0, ".5": 0.5, "5.": 5.0}
        good |= {"007.50": 7.5, "1e-05": 1e-05, "1E10": 1e10, "12345678901234567890": 12345678901234567890.0}
        good |= {
            "0." + "1" * 400: float("0." + "1" * 400),
            "1e-999": 0.0,
            "1.7976931348623157e308": 1.7976931348623157e308,
        }
        bad = ["abc", "1,5", "1.2.3", "--1", ".", "-", "e5", "1e", "5d", "5f", "0x1p3", "1_000", "50%", "٣", "true"]
        bad += [
            "nan",
            "NAN",
            "-NaN",
            "Infinity",
            "-Infinity",
            "inf",
            "+inf",
            "1e309",
            "-1e999",
            "9" * 400,
            "1e9999999999",
        ]
        assert_read(spark, "follow_reco", {**good, **dict.fromkeys(bad)})

    def test_numbers_keep_their_digits_as_text(self, spark: SparkSession) -> None:
        cases = {"63.64055802075290": "63.64055802075290", '" 5. "': "5.", "abc": "abc", "NULL": None}
        assert_read(spark, "waiting_list_time", cases, "waiting_list_time_raw")
        assert_read(spark, "follow_reco", cases, "follow_reco_raw")

    def test_booleans_are_true_and_false_in_any_case(self, spark: SparkSession) -> None:
        good = {"true": True, "TRUE": True, '"False"': False, "false": False}
        assert_read(
            spark, "follow_reco_above_50p", {**good, **dict.fromkeys(["1", "0", "t", "yes", "no", "tru", "on"])}
        )


class TestEntryId:
    def ids(self, spark: SparkSession, *lines: str | None) -> list[str]:
        return [row.entry_id for row in parsed(spark, *lines).select("entry_id").collect()]

    def test_it_stays_the_same_from_release_to_release(self, spark: SparkSession) -> None:
        assert self.ids(spark, LINE) == ["0f782d19c51fd922816bf9cba44ee479"]

    def test_identical_lines_are_one_entry_and_all_others_are_not(self, spark: SparkSession) -> None:
        assert len(set(self.ids(spark, LINE, f"  {LINE}\t", f"{LINE}\u00a0"))) == 1
        others = [line(**{name: "x"}) for name in BASE_FIELDS]
        others += [LINE, LINE.replace("|", " | "), LINE.upper(), line(note="x"), "", "junk"]
        assert len(set(self.ids(spark, *others))) == len(others)


class TestRules:
    def test_a_good_line_breaks_no_rule(self, spark: SparkSession) -> None:
        lines = [LINE, "{created_at=2023-06-27|id=ada6ee1abc22511c}", line(note='"x"'), f" {LINE} "]
        lines += [
            line(follow_reco="50", follow_reco_above_50p="false"),
            line(follow_reco="49.99999", follow_reco_above_50p="false"),
        ]
        lines += [line(**{name: text}) for name in list(BASE_FIELDS)[2:] for text in (ABSENT, "NULL", '""')]
        assert_violations(spark, [(text, []) for text in lines])

    def test_a_line_that_is_no_entry_is_held_back_for_that_alone(self, spark: SparkSession) -> None:
        texts = [None, "", "   ", "{}", "{ }", "{|}", "{=}", "{id}", "{=1}", "junk", "ERROR: timed out", "<p>503</p>"]
        texts += [LINE[1:], LINE[:-1], LINE[1:-1], LINE[:90], LINE + LINE, f"{LINE}|{LINE}", LINE + "x", f"[{LINE}]"]
        texts += [LINE.replace("|", ","), LINE.replace("|", "||"), LINE[:-1] + "|}", "{|" + LINE[1:]]
        texts += [LINE.replace("|age=", "age="), LINE.replace("|", "\n|").replace("sex=1", "sex=1 |"), line(age="4{8}")]
        texts += [
            LINE.replace('c"', "c", 1),
            line(id=f'"{ADA}""'),
            line(id=f'x"{ADA}"'),
            line(note='"a" b'),
            line(note="a=b"),
        ]
        texts += ['{"id": "ada6ee1abc22511c", "created_at": "2023-06-27"}', "{i d=1|" + LINE[1:], '{"id"=1|' + LINE[1:]]
        assert_violations(spark, [(text, ["line_well_formed"]) for text in texts])

    def test_a_field_that_is_there_twice_holds_the_line_back_for_that_alone(self, spark: SparkSession) -> None:
        again = ["age=49", "AGE=49", "age=48", "age=", f'id="{BOB}"', 'created_at="2023-06-28"', "note=1|note=2"]
        assert_violations(spark, [(f"{LINE[:-1]}|{field}}}", ["fields_unique"]) for field in again])
        assert_violations(spark, [("{sex=1|sex=1}", ["fields_unique"])])

    def test_an_id_of_16_hex_digits_is_needed(self, spark: SparkSession) -> None:
        texts = [ABSENT, *MISSING, ADA[1:], ADA + "0", "g" + ADA[1:], "1"]
        assert_violations(spark, [(line(id=text), ["id_valid"]) for text in texts])

    def test_a_day_that_exists_is_needed(self, spark: SparkSession) -> None:
        texts = [ABSENT, *MISSING, "2023-02-30", "not-a-date", "27/06/2023", "1687824000"]
        assert_violations(spark, [(line(created_at=text), ["created_at_readable"]) for text in texts])

    def test_bytes_that_are_not_utf8_are_warned_about(self, spark: SparkSession) -> None:
        frame = source.member_entries(raw(spark, [line(clinic='"M\ufffdnster"')], rescued="/A=="))
        checked = with_violations(frame, "members", "member_entries")
        assert_rows(checked.select("member_id", "violations"), [(ADA, ["is_utf8"])])

    def test_two_lines_with_other_damage_are_two_entries(self, spark: SparkSession) -> None:
        damaged = line(clinic='"M\ufffdnster"')
        frames = [source.member_entries(raw(spark, [damaged], rescued=bytes_)) for bytes_ in ("/A==", "/A==", "5A==")]
        first, again, other = [frame.collect()[0]["entry_id"] for frame in frames]
        assert first == again != other

    def test_a_value_that_cannot_be_read_is_null_and_named(self, spark: SparkSession) -> None:
        junk = {**dict.fromkeys(BOOLEANS, "maybe"), **dict.fromkeys(WHOLE, "1.5"), **dict.fromkeys(NUMBERS, "Infinity")}
        cases = [(line(**{name: text}), [f"{name}_readable"]) for name, text in junk.items()]
        everything = [f"{name}_readable" for name in list(BASE_FIELDS)[2:]]
        assert_violations(spark, [*cases, (line(**junk), everything)])
        assert_rows(parsed(spark, line(**junk)).select(*list(BASE_FIELDS)[2:]), [(None,) * 7])

    def test_a_flag_that_contradicts_its_number_is_warned_about(self, spark: SparkSession) -> None:
        contradictions = [("50", "true"), ("50.0000001", "false"), ("0", "true"), ("63.6405580207529", "false")]
        cases = [
            (line(follow_reco=number, follow_reco_above_50p=flag), ["follow_reco_above_50p_consistent"])
            for number, flag in contradictions
        ]
        unknown = [(line(follow_reco="", follow_reco_above_50p=flag), []) for flag in ("true", "false", "")]
        assert_violations(spark, [*cases, *unknown, (line(follow_reco_above_50p=""), [])])

    def test_what_the_published_types_cannot_hold_is_warned_about(self, spark: SparkSession) -> None:
        fits = [("sex", "32767", True), ("age", "-32768", True), ("sex", "32768", False), ("age", "-32769", False)]
        fits += [("waiting_list_time", text, True) for text in ("999.99", "999.9949", "-999.99")]
        fits += [("waiting_list_time", text, False) for text in ("999.995", "1000", "-999.995", "1e300")]
        fits += [("follow_reco", "999.99", True), ("follow_reco", "1000", False)]
        cases = [(line(**{name: text}), [] if is_fit else [f"{name}_fits"]) for name, text, is_fit in fits]
        assert_violations(spark, cases)

    def test_a_row_has_all_its_reasons(self, spark: SparkSession) -> None:
        text = line(id="1", created_at="2023-02-30", age="x", follow_reco="1000", follow_reco_above_50p="false")
        broken = ["id_valid", "created_at_readable", "age_readable", "follow_reco_above_50p_consistent"]
        assert_violations(spark, [(text, [*broken, "follow_reco_fits"])])

    def test_only_what_leaves_a_members_day_known_is_a_warning(self) -> None:
        by_action: dict[str, set[str]] = {}
        for rule in rules("members", "member_entries"):
            by_action.setdefault(rule["action"], set()).add(rule["name"])
        readable = {f"{name}_readable" for name in list(BASE_FIELDS)[2:]}
        assert by_action == {
            "quarantine": {"line_well_formed", "fields_unique", "id_valid", "created_at_readable"},
            "warn": {"is_utf8", "follow_reco_above_50p_consistent", *readable, *[f"{n}_fits" for n in WHOLE + NUMBERS]},
        }


class TestMember:
    def test_the_columns_have_the_types_that_were_asked_for(self, spark: SparkSession) -> None:
        frame = source.member(newest(spark, {}))
        types = (
            "id STRING, created_at DATE, sex SMALLINT, age SMALLINT, default_language_en BOOLEAN, "
            "waiting_list_time DECIMAL(5,2), black_and_white_design BOOLEAN, follow_reco DECIMAL(5,2), "
            "follow_reco_above_50p BOOLEAN"
        )
        row = (ADA, date(2023, 6, 27), 1, 48, False, Decimal("13.30"), True, Decimal("63.64"), True)
        assert_df_equality(frame, frame_of(spark, [row], types), ignore_nullable=True)

    def test_the_newest_entry_has_the_greatest_day_however_early_it_arrived(self, spark: SparkSession) -> None:
        frame = newest(
            spark,
            {"created_at": date(2023, 6, 28), "age": 1, "_batch_id": 1, "modified_at": at(1)},
            {"created_at": date(2023, 6, 27), "age": 2, "_batch_id": 2, "modified_at": at(2)},
            {"member_id": BOB, "age": 3},
        )
        assert_rows(source.member(frame).select("id", "age"), [(ADA, 1), (BOB, 3)])

    @pytest.mark.parametrize(
        ("earlier", "later"),
        [
            ({"_batch_id": 1, "modified_at": at(2), "file": "b", "row": 9}, {"_batch_id": 2, "modified_at": at(1)}),
            ({"modified_at": at(1), "file": "b", "row": 9}, {"modified_at": at(2), "file": "a", "row": 1}),
            ({"file": "a", "row": 9}, {"file": "b", "row": 1}),
            ({"row": 1}, {"row": 2}),
        ],
    )
    def test_of_one_day_it_is_the_one_that_arrived_last(
        self, spark: SparkSession, earlier: dict[str, Any], later: dict[str, Any]
    ) -> None:
        frame = newest(spark, {"age": 2, "entry_id": "a", **later}, {"age": 1, "entry_id": "b", **earlier})
        assert_rows(source.member(frame).select("age"), [(2,)])

    def test_numbers_are_rounded_half_up_and_null_if_they_do_not_fit(self, spark: SparkSession) -> None:
        cases = {
            63.6405580207529: "63.64",
            0.125: "0.13",
            -0.125: "-0.13",
            0.005: "0.01",
            1.005: "1.01",
            999.99: "999.99",
        }
        cases |= {999.994: "999.99", 999.995: None, 1000.0: None, -1000.0: None, 1e300: None, 1e-300: "0.00"}
        frame = newest(
            spark,
            *[{"member_id": f"{n:016}", "waiting_list_time": v, "follow_reco": v} for n, v in enumerate(cases)],
        )
        rows = [(f"{n:016}", *[text and Decimal(text)] * 2) for n, text in enumerate(cases.values())]
        assert_rows(source.member(frame).select("id", "waiting_list_time", "follow_reco"), rows)

    def test_whole_numbers_that_do_not_fit_are_null(self, spark: SparkSession) -> None:
        frame = newest(spark, {"sex": 32768, "age": -32769}, {"member_id": BOB, "sex": 32767, "age": None})
        assert_rows(source.member(frame).select("id", "sex", "age"), [(ADA, None, None), (BOB, 32767, None)])


class TestEngagementSegments:
    def counts(self, spark: SparkSession, *pairs: tuple[float | None, bool | None]) -> dict[str, int]:
        frame = newest(
            spark,
            *[
                {"member_id": f"{n:016}", "waiting_list_time": waiting, "follow_reco_above_50p": is_above}
                for n, (waiting, is_above) in enumerate(pairs)
            ],
        )
        rows = source.engagement_segments(frame).collect()
        assert [row.segment for row in rows] == [source.HIGH, source.MODERATE, source.LOW]
        return {row.segment: row.member_count for row in rows}

    @pytest.mark.parametrize(
        ("segment", "pairs"),
        [
            (source.HIGH, [(0.0, True), (9.99, True), (9.9999999, True), (-1.0, True)]),
            (source.MODERATE, [(10.0, True), (20.0, True), (15.0, None), (15.0, False), (0.0, False), (99.0, False)]),
            (source.MODERATE, [(None, False), (10.0, None), (20.0, None)]),
            (source.LOW, [(20.0001, True), (99.0, True), (9.0, None), (21.0, None), (None, True), (None, None)]),
        ],
    )
    def test_a_member_is_in_one_segment(
        self, spark: SparkSession, segment: str, pairs: list[tuple[float | None, bool | None]]
    ) -> None:
        others = dict.fromkeys((source.HIGH, source.MODERATE, source.LOW), 0)
        assert self.counts(spark, *pairs) == {**others, segment: len(pairs)}

    def test_there_are_three_rows_also_without_any_member(self, spark: SparkSession) -> None:
        assert self.counts(spark) == {source.HIGH: 0, source.MODERATE: 0, source.LOW: 0}

    def test_the_newest_entry_counts(self, spark: SparkSession) -> None:
        frame = newest(
            spark,
            {"created_at": date(2023, 6, 28), "waiting_list_time": 1.0},
            {"created_at": date(2023, 6, 27), "waiting_list_time": 15.0},
        )
        assert_rows(source.engagement_segments(frame), [(source.HIGH, 1), (source.MODERATE, 0), (source.LOW, 0)])


class TestRolling:
    def test_it_is_the_mean_of_the_previous_three_entries(self, spark: SparkSession) -> None:
        values = [80.0, 10.0, 30.0, 50.0, 70.0]
        days = [date(2023, 1, number) for number in range(1, 6)]
        rows = [{"created_at": day, "follow_reco": value} for day, value in zip(days, values, strict=True)]
        rolling = [None, 80.0, 45.0, 40.0, 30.0]
        expected = [(ADA, n + 1, days[n], values[n], rolling[n]) for n in range(5)]
        actual = source.member_follow_reco_rolling(entries(spark, *reversed(rows)))
        assert actual.columns == ["member_id", "entry_number", "created_at", "follow_reco", "rolling_average"]
        assert_rows(actual, expected)

    def test_only_members_with_a_value_over_75_are_there_with_all_their_entries(self, spark: SparkSession) -> None:
        frame = entries(
            spark,
            *[{"follow_reco": value} for value in (75.0, None, 1.0)],
            *[{"member_id": BOB, "follow_reco": value} for value in (1.0, 75.0000001, None)],
            {"member_id": CYD, "follow_reco": None},
        )
        actual = source.member_follow_reco_rolling(frame).select("member_id", "entry_number", "follow_reco")
        assert_rows(actual, [(BOB, 1, 1.0), (BOB, 2, 75.0000001), (BOB, 3, None)])

    def test_entries_of_one_day_are_in_order_of_arrival(self, spark: SparkSession) -> None:
        frame = entries(
            spark,
            {"follow_reco": 4.0, "_batch_id": 2, "row": 1, "entry_id": "a"},
            {"follow_reco": 3.0, "modified_at": at(2), "row": 1, "entry_id": "b"},
            {"follow_reco": 2.0, "row": 2, "entry_id": "c"},
            {"follow_reco": 90.0, "row": 1, "entry_id": "d"},
        )
        actual = source.member_follow_reco_rolling(frame).select("entry_number", "follow_reco", "rolling_average")
        assert_rows(actual, [(1, 90.0, None), (2, 2.0, 90.0), (3, 3.0, 46.0), (4, 4.0, 95.0 / 3)])

    def test_an_entry_without_a_value_is_one_of_the_three_but_not_in_their_mean(self, spark: SparkSession) -> None:
        values = [None, None, 90.0, None, None, None, None, 10.0]
        rolling = [None, None, None, 90.0, 90.0, 90.0, None, None]
        frame = entries(spark, *[{"follow_reco": value} for value in values])
        actual = source.member_follow_reco_rolling(frame).select("entry_number", "follow_reco", "rolling_average")
        assert_rows(actual, [(n + 1, *pair) for n, pair in enumerate(zip(values, rolling, strict=True))])

    def test_any_entries_have_the_means_that_python_finds(self, spark: SparkSession) -> None:
        values = st.none() | st.integers(0, 400).map(lambda quarter: quarter / 4)
        rows = examples(st.tuples(st.sampled_from([ADA, BOB, CYD]), st.integers(1, 28), values), 200)
        expected = []
        for member in (ADA, BOB, CYD):
            own = sorted((day, n, value) for n, (who, day, value) in enumerate(rows) if who == member)
            assert any((value or 0) > 75 for _, _, value in own)
            for place, (day, _, value) in enumerate(own):
                known = [before for _, _, before in own[max(place - 3, 0) : place] if before is not None]
                mean = sum(known) / len(known) if known else None
                expected.append((member, place + 1, date(2023, 1, day), value, mean))
        overlays = [{"member_id": who, "created_at": date(2023, 1, d), "follow_reco": v} for who, d, v in rows]
        assert_rows(source.member_follow_reco_rolling(entries(spark, *overlays)), expected)


class TestDocuments:
    def documents(self, spark: SparkSession, *overlays: dict[str, Any]) -> dict[str, str]:
        rows = source.member_documents(newest(spark, *overlays)).collect()
        return {row.member_id: row.document for row in rows}

    def test_a_document_is_the_newest_entry_with_its_keys_in_order(self, spark: SparkSession) -> None:
        found = self.documents(spark, {"created_at": date(2023, 6, 26), "age": 1}, {}, {"member_id": BOB, "sex": 2})
        assert found[ADA] == (
            '{"id":"ada6ee1abc22511c","created_at":"2023-06-27","sex":1,"age":48,"default_language_en":false,'
            '"waiting_list_time":13.3,"black_and_white_design":true,'
            '"reco":{"follow_reco":63.6405580207529,"follow_reco_above_50p":true}}'
        )
        assert json.loads(found[BOB])["sex"] == 2

    def test_missing_values_are_null(self, spark: SparkSession) -> None:
        nothing = dict.fromkeys(NAMES[2:])
        document = json.loads(self.documents(spark, nothing)[ADA])
        assert document == {
            "id": ADA,
            "created_at": "2023-06-27",
            **dict.fromkeys(list(BASE_FIELDS)[2:7]),
            "reco": {"follow_reco": None, "follow_reco_above_50p": None},
        }
        assert list(document) == [*list(BASE_FIELDS)[:7], "reco"]

    def test_numbers_are_written_as_they_were_sent(self, spark: SparkSession) -> None:
        sent = ["13", "13.30", "0", "-0.5", "10000000000", "0.00001", "63.640558020752901234", "1e-05", "1E10"]
        other = {"+5": "5.0", ".5": "0.5", "5.": "5.0", "007": "7.0", "-.5": "-0.5"}
        unreadable = {"abc": "null", "Infinity": "null", "1e309": "null", "NaN": "null"}
        cases = {**dict(zip(sent, sent, strict=True)), **other, **unreadable}
        lines = [line(id=f"{n:016}", waiting_list_time=text, follow_reco=text) for n, text in enumerate(cases)]
        found = source.newest_entries(parsed(spark, *lines))
        rows = sorted(source.member_documents(found).collect())
        for row, (text, written) in zip(rows, cases.items(), strict=True):
            assert f'"waiting_list_time":{written},' in row.document, text
            assert f'"follow_reco":{written},' in row.document, text
            json.loads(row.document)

    def test_any_entry_makes_a_document_that_says_the_same(self, spark: SparkSession) -> None:
        numbers = (st.none() | st.floats(allow_nan=False, allow_infinity=False)).map(
            lambda n: None if n is None else str(n)
        )
        texts = numbers | st.from_regex(r"\A[+-]?\d{0,4}(\.\d{0,20})?\Z").filter(str.isascii)
        pairs = examples(st.tuples(texts, texts), 200)
        lines = [
            line(id=f"{n:016}", waiting_list_time=one or "", follow_reco=two or "")
            for n, (one, two) in enumerate(pairs)
        ]
        silver = parsed(spark, *lines).select("member_id", "waiting_list_time", "follow_reco").collect()
        values = {row.member_id: (row.waiting_list_time, row.follow_reco) for row in silver}
        for row in source.member_documents(source.newest_entries(parsed(spark, *lines))).collect():
            document = json.loads(row.document)
            assert (document["waiting_list_time"], document["reco"]["follow_reco"]) == values[row.member_id]


class TestPublished:
    def test_every_table_has_its_declared_columns(self, spark: SparkSession) -> None:
        publish, found = declared("members")["publish"], newest(spark, {})
        frames = {
            "member": source.member(found),
            "engagement_segments": source.engagement_segments(found),
            "member_follow_reco_rolling": source.member_follow_reco_rolling(entries(spark, {})),
        }
        assert {name: frame.columns for name, frame in frames.items()} == {
            name: list(table["columns"]) for name, table in publish.items()
        }

    def test_what_silver_keeps_is_what_the_tables_are_made_of(self, spark: SparkSession) -> None:
        """The engine drops columns that start with _ on the way to silver, but for the batch and the file."""
        bronze = parsed(spark, LINE, line(id=BOB, follow_reco="80"))
        kept = [name for name in bronze.columns if not name.startswith("_")]
        silver = bronze.select("_batch_id", "_source_file", *kept)
        found = source.newest_entries(silver)
        assert source.member(found).count() == source.member_documents(found).count() == 2
        assert_rows(source.member_follow_reco_rolling(silver).select("member_id", "follow_reco"), [(BOB, 80.0)])

    def test_documents_are_declared_for_what_is_made(self, spark: SparkSession) -> None:
        documents = declared("members")["documents"]
        assert documents == {
            "member_documents": {"folder": "processed", "prefix": "member-", "suffix": ".json", "key": "member_id"}
        }
        assert source.member_documents(newest(spark, {})).columns == ["member_id", "document"]
