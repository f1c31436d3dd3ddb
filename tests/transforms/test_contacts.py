import json
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
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
from transforms import contacts as source

BRONZE = "_raw STRING, _source_file STRING, _row_hash STRING, _batch_id BIGINT, _ingested_at TIMESTAMP, _rescued STRING"
CONTACTS = (
    "contact_id STRING, started_at TIMESTAMP, ended_at TIMESTAMP, counselor_names ARRAY<STRING>, "
    "transferred_at ARRAY<TIMESTAMP>, issues ARRAY<STRING>, pronouns ARRAY<STRING>, call_rating INT, "
    "initial_risk_level INT, client_name STRING, client_location STRING"
)
ASSIGNMENTS = (
    "contact_id STRING, assignment_number INT, counselor_id STRING, counselor_name STRING, "
    "started_at TIMESTAMP, ended_at TIMESTAMP"
)
YAN, FRANK, SUSAN = "Yan Delacroix", "Frank López-Patel", "Susan O'Neil"
ABSENT, SECRET = object(), "not known"
BASE_RECORD = {
    "time_call_began": "2023-01-01 09:35:00",
    "time_call_ended": "2023-01-01 11:09:00",
    "counselors": "['Yan Delacroix', 'Frank López-Patel']",
    "transfer_timestamps": "[datetime.datetime(2023, 1, 1, 9, 45)]",
    "issues_discussed": "['Family']",
    "call_rating": 2,
    "initial_risk_level": 3,
    "client_pronouns": "['She/Her', 'They/Them']",
    "client_name": "Robin Fields",
    "client_location": "Austin",
}
MISSING = [ABSENT, None, "", "  ", "NULL", "null", "N/A", "NaN", float("nan")]


def at(clock: str, day: int = 1) -> datetime:
    """That time of a day of January 2023."""
    return datetime.fromisoformat(f"2023-01-{day:02} {clock}").replace(tzinfo=UTC)


BASE_CONTACT = {
    "contact_id": "c1",
    "started_at": at("09:35"),
    "ended_at": at("11:09"),
    "counselor_names": [YAN, FRANK],
    "transferred_at": [at("09:45")],
    "issues": ["Family"],
    "pronouns": ["She/Her", "They/Them"],
    "call_rating": 2,
    "initial_risk_level": 3,
    "client_name": "Robin Fields",
    "client_location": "Austin",
}


def line(**fields: Any) -> str:
    """The base record as a line, with these fields; one that is ABSENT is left out."""
    return json.dumps({key: value for key, value in {**BASE_RECORD, **fields}.items() if value is not ABSENT})


def raw(spark: SparkSession, lines: Iterable[str | None], rescued: str | None = None) -> DataFrame:
    rows = [(text, "contacts/a.jsonl", f"hash {n}", 1, at("00:00"), rescued) for n, text in enumerate(lines)]
    return frame_of(spark, rows, BRONZE)


def parsed(spark: SparkSession, *lines: str, timezone: str = "UTC", secret: str = SECRET) -> DataFrame:
    return source.contacts(raw(spark, lines), timezone, F.lit(secret))


def contacts(spark: SparkSession, *overlays: dict[str, Any]) -> DataFrame:
    """Silver contacts: the base contact, with each of these fields; with none, no rows."""
    rows = [{**BASE_CONTACT, **overlay} for overlay in overlays]
    return frame_of(spark, [tuple(row.values()) for row in rows], CONTACTS)


def held(spark: SparkSession, *rows: tuple[str, str, datetime, datetime]) -> DataFrame:
    """Silver assignments from (contact, counselor, from, until)."""
    full = [(contact, 1, f"id of {who}", who, start, end) for contact, who, start, end in rows]
    return frame_of(spark, full, ASSIGNMENTS)


def assert_violations(spark: SparkSession, cases: list[tuple[str | None, list[str]]]) -> None:
    """Each line breaks exactly these rules."""
    expected = spark.createDataFrame(cases, "_raw STRING, violations ARRAY<STRING>")
    frame = source.contacts(raw(spark, [text for text, _ in cases]), "UTC", F.lit(SECRET))
    actual = with_violations(frame, "contacts", "contacts").select("_raw", "violations")
    assert_df_equality(actual, expected, ignore_nullable=True)


class TestReading:
    def test_a_line_becomes_a_typed_contact(self, spark: SparkSession) -> None:
        names = [name for name in BASE_CONTACT if name != "contact_id"]
        actual = parsed(spark, line()).select(*names)
        assert_df_equality(actual, contacts(spark, {}).select(*names), ignore_nullable=True)

    def test_the_engines_columns_pass_through(self, spark: SparkSession) -> None:
        bronze = raw(spark, [line(), "junk", None], rescued="aGk=")
        assert_df_equality(source.contacts(bronze, "UTC", F.lit(SECRET)).select(*bronze.columns), bronze)

    def test_every_row_comes_out_once_whatever_it_holds(self, spark: SparkSession) -> None:
        values = st.none() | st.integers() | st.floats() | st.text() | st.lists(st.text() | st.integers(), max_size=2)
        records = examples(st.dictionaries(st.sampled_from(sorted(BASE_RECORD)), values))
        lines = [json.dumps({**BASE_RECORD, **record}) for record in records] + examples(st.text())
        bronze = raw(spark, [text.replace("\ud800", "") for text in lines])
        checked = with_violations(source.contacts(bronze, "Europe/Paris", F.lit(SECRET)), "contacts", "contacts")
        assert_df_equality(checked.select(*bronze.columns), bronze)
        assert len(checked.collect()) == len(lines)

    def test_real_json_arrays_are_read_like_python_lists(self, spark: SparkSession) -> None:
        text = line(
            counselors=[SUSAN, 'Al "Ace" Ito', "a\\b"],
            transfer_timestamps=["2023-01-01 09:45:00", "2023-01-01T10:00:00Z"],
            issues_discussed=["Family"],
            client_pronouns=[],
        )
        actual = parsed(spark, text).select("counselor_names", "transferred_at", "issues", "pronouns")
        assert_rows(actual, [([SUSAN, 'Al "Ace" Ito', "a\\b"], [at("09:45"), at("10:00")], ["Family"], [])])

    def test_of_a_field_that_is_there_twice_the_last_value_counts(self, spark: SparkSession) -> None:
        twice = [line().removesuffix("}") + f', "call_rating": {value}}}' for value in ("5", "null")]
        assert_rows(parsed(spark, *twice).select("call_rating"), [(5,), (None,)])

    def test_names_with_apostrophes_quotes_commas_and_accents_are_whole(self, spark: SparkSession) -> None:
        names = [SUSAN, "Yu Yamada", "Doe, Jane", 'Al "Ace" D\'Or', "Frank López-Patel", "[x]"]
        assert_rows(parsed(spark, line(counselors=repr(names))).select("counselor_names"), [(names,)])

    def test_transfer_times_come_in_two_shapes(self, spark: SparkSession) -> None:
        shapes = ["[]", "[datetime.datetime(2023, 1, 1, 9, 45)]", "[datetime.datetime(2023, 1, 1, 9, 45, 7, 5)]"]
        shapes += ["['2023-01-01 09:45:00', '2023-01-01 10:02:00.5']"]
        actual = parsed(spark, *[line(transfer_timestamps=shape) for shape in shapes]).select("transferred_at")
        times = [[], [at("09:45")], [at("09:45:07.000005")], [at("09:45"), at("10:02:00.500")]]
        assert_rows(actual, [(value,) for value in times])

    def test_times_are_local_to_the_source_unless_they_say_otherwise(self, spark: SparkSession) -> None:
        text = line(time_call_ended="2023-01-01T11:09:00+01:00")
        actual = parsed(spark, text, timezone="America/Chicago").select("started_at", "ended_at", "transferred_at")
        assert_rows(actual, [(at("15:35"), at("10:09"), [at("15:45")])])

    def test_missing_values_are_null_and_missing_transfers_are_none(self, spark: SparkSession) -> None:
        lines = [json.dumps({} if value is ABSENT else dict.fromkeys(BASE_RECORD, value)) for value in MISSING]
        names = [name for name in BASE_CONTACT if name not in ("contact_id", "transferred_at")]
        actual = parsed(spark, *lines).select("transferred_at", *names)
        assert_rows(actual, [([], *[None] * len(names))] * len(lines))

    def test_missing_issues_and_pronouns_are_left_out_of_their_lists(self, spark: SparkSession) -> None:
        actual = parsed(spark, line(issues_discussed="['', 'Family', 'N/A']", client_pronouns="[' ']"))
        assert_rows(actual.select("issues", "pronouns"), [(["Family"], [])])

    def test_whole_ratings_are_read_however_they_are_written(self, spark: SparkSession) -> None:
        lines = [line(call_rating=value) for value in (4, 4.0, "4", " 4 ", 9, -1)]
        actual = parsed(spark, *lines).select("call_rating")
        assert_rows(actual, [(4,), (4,), (4,), (4,), (9,), (-1,)])


class TestContactId:
    def ids(self, spark: SparkSession, *lines: str) -> list[str]:
        return [row.contact_id for row in parsed(spark, *lines).select("contact_id").collect()]

    def test_it_is_32_hex_digits_and_null_if_the_line_is_not_json(self, spark: SparkSession) -> None:
        good, bad = self.ids(spark, line(), "junk")
        assert len(bytes.fromhex(good)) == 16
        assert bad is None

    def test_it_stays_the_same_from_release_to_release(self, spark: SparkSession) -> None:
        assert self.ids(spark, line()) == ["43cc25824c40e022d1232a3f9116aaed"]

    def test_who_knows_the_record_but_not_the_secret_cannot_tell_its_id(self, spark: SparkSession) -> None:
        made = {parsed(spark, line(), secret=secret).select("contact_id").collect()[0][0] for secret in ("", "a", "b")}
        assert len(made) == 3

    def test_key_order_white_space_and_unknown_keys_do_not_matter(self, spark: SparkSession) -> None:
        record = {**BASE_RECORD, "counselors": ["Ann", "Bo"]}
        same = [
            json.dumps(record),
            json.dumps(dict(reversed(record.items())), ensure_ascii=False, separators=(",", ":")),
            "  " + json.dumps(record, indent=1).replace("\n", "\t") + " ",
            json.dumps({**record, "queue": "text", "client": {"client_name": "x"}}),
        ]
        assert len(set(self.ids(spark, *same))) == 1

    def test_every_field_matters(self, spark: SparkSession) -> None:
        lines = [line(), *[line(**{field: "x"}) for field in BASE_RECORD]]
        assert len(set(self.ids(spark, *lines))) == len(lines)

    def test_null_differs_from_empty_and_fields_do_not_run_into_each_other(self, spark: SparkSession) -> None:
        pairs = [
            (None, ""),
            ("", None),
            ("", ""),
            (None, None),
            ("ab", "c"),
            ("a", "bc"),
            ("-", ""),
            ("a1:b", ""),
            ("a", "b"),
        ]
        lines = [line(client_name=name, client_location=place) for name, place in pairs]
        assert len(set(self.ids(spark, *lines))) == len(pairs)


class TestRules:
    def test_a_good_contact_breaks_no_rule(self, spark: SparkSession) -> None:
        assert_violations(
            spark,
            [
                (line(), []),
                (line(counselors="['Ann']", transfer_timestamps="[]"), []),
                (line(counselors="['Ann']", transfer_timestamps=None), []),
                (line(counselors="['Ann', 'Bo', 'Ann']", transfer_timestamps=repr(["2023-01-01 09:45:00"] * 2)), []),
                (line(time_call_ended="2023-01-01 09:35:00", counselors="['Ann']", transfer_timestamps="[]"), []),
                (line(issues_discussed="[]", client_pronouns="[]"), []),
                (line(queue="a key that nobody announced"), []),
            ],
        )

    def test_a_line_that_is_not_one_json_object_is_held_back_for_that_alone(self, spark: SparkSession) -> None:
        texts = [None, "", "   ", "[]", "1", '"x"', "null", "true", "junk", "{", "}", line()[:-1], line()[5:]]
        texts += [f"[{line()}]", line() + line(), f"{line()}, {line()}", line() + " junk", line() + "]", line() + "}"]
        texts += [f"{line()}, {{}}] {line()}", f'{line()}, "end": 1}} {line()}', f'{line()}, "record": {line()}']
        texts += [f"{line()}] [{line()}", line().replace('"', "'"), "ERROR: timed out", "<p>503</p>", '{"a": 1,}']
        # One character too few, or one other than it was, in a field whose value would only be missed.
        start, place = line()[:-1], '"client_location": '
        texts += [
            f"{start}, {place}{value}}}" for value in (r'"Zo\u0eb"', "[Ann]", "[1 2]", '["a", nan]', '"Rome', "Rome")
        ]
        texts += [start.replace('"client_name"', "\t'client_name\"") + "}", f'{start}, {place}"Ro"me"}}']
        assert_violations(spark, [(text, ["is_json"]) for text in texts])

    def test_an_object_without_any_known_field_is_held_back_for_what_it_lacks(self, spark: SparkSession) -> None:
        assert_violations(spark, [("{}", ["has_start", "has_end", "has_counselor"])])

    def test_a_counselors_name_that_could_not_be_read_is_held_back(self, spark: SparkSession) -> None:
        bronze = raw(spark, [line(counselors="['Frank L\ufffdpez-Patel']", transfer_timestamps="[]")], rescued="8w==")
        checked = with_violations(source.contacts(bronze, "UTC", F.lit(SECRET)), "contacts", "contacts")
        assert_rows(checked.select("violations"), [(["counselors_whole", "is_utf8"],)])
        given = "L\ufffdpez"  # by a sender that could not read it
        assert_violations(spark, [(line(counselors=f"['{given}']", transfer_timestamps="[]"), ["counselors_whole"])])

    def test_what_could_not_be_read_of_the_client_is_null_and_the_call_counts(self, spark: SparkSession) -> None:
        damaged = {
            "client_name": "Jos\ufffd",
            "client_location": "K\ufffdln",
            "issues_discussed": "['F\ufffd', 'Grief']",
        }
        fields = ["client_name", "client_location", "issues", "pronouns"]
        cases = [line(**{field: text}) for field, text in damaged.items()] + [line(client_pronouns="['x\ufffd']")]
        frame = source.contacts(raw(spark, cases), "UTC", F.lit(SECRET))
        whole = parsed(spark, line()).select(*fields).first()
        read = [tuple(row) for row in frame.select(*fields).collect()]
        assert whole is not None
        for row, unread in zip(read, [0, 1, 2, 3], strict=True):
            assert row == tuple(None if number == unread else value for number, value in enumerate(whole))
        assert_violations(spark, [(case, ["is_utf8"]) for case in cases])

    def test_half_a_character_is_as_one_that_could_not_be_read(self, spark: SparkSession) -> None:
        long = r"\ud83d\ude00" * 50_000
        halves = [r"\udce9", r"\uDCE9", r"\ud83d", r"\ud83d\ud83d\ude00", r"\ude00\ud83d", r"\ud83d \ude00"]
        halves += [r"\\\udce9", rf"{long}\ud83d", rf"\udce9{long}\ud83d\ud83d"]
        wholes = [r"\ud83d\ude00", r"\uD83D\uDE00", r"\\udce9", r"\ue9e9", r"\\\ud83d\ude00", r"ud83d", long]

        def of(name: str) -> str:
            return line(client_name="X").replace('"X"', f'"Ren{name}"')

        assert_violations(spark, [(of(name), ["is_utf8"]) for name in halves] + [(of(name), []) for name in wholes])
        read = source.contacts(raw(spark, [of(name) for name in halves]), "UTC", F.lit(SECRET)).collect()
        assert {row["client_name"] for row in read} == {None}
        # Two people do not become one.
        assert len({row["contact_id"] for row in read}) == len(halves)
        counselors = line(counselors="['X']", transfer_timestamps="[]").replace("'X'", r"'Ren\udce9'")
        assert_violations(spark, [(counselors, ["counselors_whole", "is_utf8"])])

    def test_lines_with_other_damage_are_other_contacts(self, spark: SparkSession) -> None:
        text = line(client_name="Jos\ufffd")
        ids = [
            source.contacts(raw(spark, [text], rescued=rescued), "UTC", F.lit(SECRET)).collect()[0]["contact_id"]
            for rescued in ("6Q==", "6g==", "6Q==")
        ]
        assert ids[0] == ids[2] != ids[1]

    @pytest.mark.parametrize(("field", "rule"), [("time_call_began", "has_start"), ("time_call_ended", "has_end")])
    def test_a_start_and_an_end_that_exist_are_needed(self, spark: SparkSession, field: str, rule: str) -> None:
        junk = ["not-a-date", "2023-02-30 10:00:00", "2023-01-01", "10:00:00", "32/13/2024", 1672565700, [], {}]
        assert_violations(spark, [(line(**{field: value}), [rule]) for value in [*MISSING, *junk]])

    def test_a_contact_does_not_end_before_it_begins(self, spark: SparkSession) -> None:
        alone = {"counselors": "['Ann']", "transfer_timestamps": "[]"}
        assert_violations(
            spark,
            [
                (line(time_call_ended="2023-01-01 09:34:59.999999", **alone), ["ends_after_start"]),
                (line(time_call_ended="2023-01-01 09:35:00", **alone), []),
                (line(time_call_ended="2022-12-31 23:59:59", **alone), ["ends_after_start"]),
            ],
        )

    def test_a_counselor_is_needed(self, spark: SparkSession) -> None:
        cases = [
            (line(counselors=value, transfer_timestamps="[]"), ["has_counselor"]) for value in [*MISSING, "[]", []]
        ]
        assert_violations(spark, cases)

    def test_every_counselor_has_a_name(self, spark: SparkSession) -> None:
        texts = ["['', 'Ann']", "['Ann', ' ']", "['N/A', 'Ann']", "['Ann', 'NULL']"]
        assert_violations(spark, [(line(counselors=text), ["counselors_named"]) for text in texts])

    def test_a_counselors_name_is_short_enough_for_a_key(self, spark: SparkSession) -> None:
        longest, longer = "\u00e9" * 200, "\u00e9" * 201
        good = [[longest, longest], [f" {longest} ", "Bo"]]
        cases = [(line(counselors=names), []) for names in good]
        cases += [(line(counselors=names), ["counselors_fit"]) for names in ([longer, "Bo"], ["Ann", longer])]
        # What cannot be read, or is broken otherwise, is not held against the names as well.
        cases += [(line(counselors=f"['{longer}', 3]"), ["counselors_readable"]), (longer, ["is_json"])]
        assert_violations(spark, cases)

    def test_pronouns_are_short_enough_for_a_key(self, spark: SparkSession) -> None:
        # As pronoun_risk joins them: each once, with " + " between them.
        cases = [(line(client_pronouns=value), []) for value in [*MISSING, "[]", "['']", ["\u00e9" * 200]]]
        cases += [(line(client_pronouns=given), []) for given in (["She/Her"] * 99, ["a" * 98, "b" * 99, " "])]
        long = (["\u00e9" * 201], ["a" * 98, "b" * 100], [f"{number:03}" for number in range(35)])
        cases += [(line(client_pronouns=given), ["pronouns_fit"]) for given in long]
        cases += [(line(client_pronouns="x" * 201), ["pronouns_readable"])]
        assert_violations(spark, cases)

    def test_a_nul_that_postgres_cannot_hold_is_no_part_of_a_list(self, spark: SparkSession) -> None:
        ways = [["Ann", "B\0o"], "['Ann', 'B\0o']", r"['Ann', 'B\x00o']", r"['Ann', 'B\u0000o']"]
        cases = [(line(counselors=way), ["counselors_readable"]) for way in ways]
        cases += [(line(client_pronouns=way), ["pronouns_readable"]) for way in ways]
        cases += [(line(issues_discussed=way), ["issues_readable"]) for way in ways]
        assert_violations(spark, cases)

    def test_counselors_that_cannot_be_read_are_held_back_for_that_alone(self, spark: SparkSession) -> None:
        texts = ["Ann", "['Ann", "[None]", "['Ann', 3]", r"['\ud800']", r"['\U000e0067']", r"['\x00']", {"a": "Ann"}, 7]
        assert_violations(spark, [(line(counselors=text), ["counselors_readable"]) for text in texts])

    def test_transfer_times_that_cannot_be_read_are_held_back_for_that_alone(self, spark: SparkSession) -> None:
        texts = ["soon", "['soon']", "[None]", "[NaT]", "['']", "[datetime.datetime(2023, 2, 30, 9, 45)]", 1672565700]
        texts += ["[datetime.datetime(2023, 1, 1)]", "['2023-01-01']", "2023-01-01 09:45:00"]
        assert_violations(spark, [(line(transfer_timestamps=text), ["transfers_readable"]) for text in texts])

    def test_an_unreadable_time_does_not_hide_a_wrong_number_of_times(self, spark: SparkSession) -> None:
        too_many = line(transfer_timestamps="['2023-01-01 09:45:00', 'soon']")
        assert_violations(spark, [(too_many, ["transfers_readable", "transfers_match_counselors"])])

    def test_there_is_one_transfer_time_less_than_counselors(self, spark: SparkSession) -> None:
        two = "['2023-01-01 09:45:00', '2023-01-01 10:02:00']"
        wrong = [("['Ann', 'Bo']", "[]"), ("['Ann', 'Bo']", None), ("['Ann', 'Bo']", two), ("['Ann']", two)]
        wrong += [("['Ann', 'Bo', 'Cy']", BASE_RECORD["transfer_timestamps"])]
        cases = [
            (line(counselors=names, transfer_timestamps=times), ["transfers_match_counselors"])
            for names, times in wrong
        ]
        assert_violations(spark, [*cases, (line(counselors="['Ann', 'Bo', 'Cy']", transfer_timestamps=two), [])])

    def test_transfers_are_within_the_call(self, spark: SparkSession) -> None:
        outside = ["2023-01-01 09:34:59", "2023-01-01 11:09:00.000001", "2022-12-31 10:00:00", "2024-01-01 10:00:00"]
        within = ["2023-01-01 09:35:00", "2023-01-01 11:09:00"]
        cases = [(line(transfer_timestamps=[time]), ["transfers_within_call"]) for time in outside]
        assert_violations(spark, [*cases, *[(line(transfer_timestamps=[time]), []) for time in within]])

    def test_a_transfer_outside_a_call_that_ends_before_it_begins_is_a_reason_of_its_own(
        self, spark: SparkSession
    ) -> None:
        backwards = {"time_call_began": "2023-01-01 10:00:00", "time_call_ended": "2023-01-01 09:00:00"}
        cases = [
            (
                line(**backwards, transfer_timestamps=["2023-01-01 12:00:00"]),
                ["ends_after_start", "transfers_within_call"],
            ),
            (line(**backwards, transfer_timestamps=["2023-01-01 09:30:00"]), ["ends_after_start"]),
        ]
        assert_violations(spark, cases)

    def test_transfers_are_in_order(self, spark: SparkSession) -> None:
        three = "['Ann', 'Bo', 'Cy']"
        times = ["2023-01-01 10:02:00", "2023-01-01 09:45:00"]
        assert_violations(
            spark,
            [
                (line(counselors=three, transfer_timestamps=repr(times)), ["transfers_in_order"]),
                (line(counselors=three, transfer_timestamps=repr(times[::-1])), []),
            ],
        )

    @pytest.mark.parametrize(("field", "rule"), [("call_rating", "rating"), ("initial_risk_level", "risk")])
    def test_numbers_are_whole_and_from_1_to_5_or_missing(self, spark: SparkSession, field: str, rule: str) -> None:
        good = [(value, []) for value in [1, 5, "3", 2.0, *MISSING]]
        outside = [(value, [f"{rule}_in_range"]) for value in [0, 6, 10, -1, "7"]]
        unreadable = [(value, [f"{rule}_readable"]) for value in ["abc", 3.7, "4/5", 10**12, [], True, float("inf")]]
        assert_violations(spark, [(line(**{field: value}), broken) for value, broken in good + outside + unreadable])

    @pytest.mark.parametrize(("field", "rule"), [("issues_discussed", "issues"), ("client_pronouns", "pronouns")])
    def test_issues_and_pronouns_that_cannot_be_read_are_warned_about(
        self, spark: SparkSession, field: str, rule: str
    ) -> None:
        good = [(line(**{field: value}), []) for value in [*MISSING, "[]", "['x']", ["x"]]]
        bad = [(line(**{field: value}), [f"{rule}_readable"]) for value in ["x", "['x'", "[1]", 3]]
        assert_violations(spark, good + bad)

    def test_a_row_has_all_its_reasons(self, spark: SparkSession) -> None:
        text = line(time_call_began="soon", counselors="[]", transfer_timestamps="['?']", call_rating=9)
        assert_violations(spark, [(text, ["has_start", "has_counselor", "transfers_readable", "rating_in_range"])])

    def test_only_what_leaves_the_case_load_right_is_a_warning(self) -> None:
        warned = {rule["name"] for rule in rules("contacts", "contacts") if rule["action"] == "warn"}
        about = ("rating", "risk")
        assert warned == {
            *[f"{name}_{check}" for name in about for check in ("readable", "in_range")],
            "issues_readable",
            "pronouns_readable",
            "pronouns_fit",
            "is_utf8",
        }
        assert {rule["action"] for rule in rules("contacts", "contacts")} == {"warn", "quarantine"}


class TestDerivedTables:
    def test_there_is_one_counselor_per_name(self, spark: SparkSession) -> None:
        frame = contacts(spark, {"counselor_names": [YAN, FRANK, YAN]}, {"counselor_names": [YAN, SUSAN]})
        actual = source.counselors(source.case_days(frame))
        assert_rows(actual.select("counselor_name"), [(YAN,), (FRANK,), (SUSAN,)])
        assert actual.columns == ["counselor_id", "counselor_name"]
        assert len({row.counselor_id for row in actual.collect()}) == 3

    def test_a_transfer_goes_to_the_next_counselor(self, spark: SparkSession) -> None:
        times = [at("09:45"), at("10:02")]
        frame = contacts(spark, {"counselor_names": [YAN, FRANK, YAN], "transferred_at": times}, alone("c2"))
        named = source.transfers(frame).join(source.counselors(source.case_days(frame)), "counselor_id", "left")
        actual = named.select("contact_id", "transfer_number", "counselor_name", "transferred_at")
        assert_rows(actual, [("c1", 1, FRANK, at("09:45")), ("c1", 2, YAN, at("10:02"))])

    def test_assignments_cover_the_call(self, spark: SparkSession) -> None:
        times = [at("09:45"), at("10:02")]
        frame = contacts(spark, {"counselor_names": [YAN, FRANK, YAN], "transferred_at": times}, alone("c2"))
        actual = source.assignments(frame)
        assert_rows(
            actual.drop("counselor_id"),
            [
                ("c1", 1, YAN, at("09:35"), at("09:45")),
                ("c1", 2, FRANK, at("09:45"), at("10:02")),
                ("c1", 3, YAN, at("10:02"), at("11:09")),
                ("c2", 1, YAN, at("09:35"), at("11:09")),
            ],
        )
        ids = source.counselors(source.case_days(frame)).withColumnRenamed("counselor_name", "name")
        matched = actual.join(ids, "counselor_id", "left").where(F.col("name") == F.col("counselor_name"))
        assert matched.count() == 4


class TestPublished:
    def test_contacts_have_the_initial_counselor_and_the_number_of_transfers(self, spark: SparkSession) -> None:
        actual = source.published_contacts(contacts(spark, {}, alone("c2")))
        columns = ["contact_id", "initial_counselor_name", "transfer_count", "pronouns", "issues"]
        pronouns, issues = ["She/Her", "They/Them"], ["Family"]
        assert_rows(actual.select(columns), [("c1", YAN, 1, pronouns, issues), ("c2", YAN, 0, pronouns, issues)])
        counselor_ids = source.counselors(source.case_days(contacts(spark, alone("c2")))).select("counselor_id")
        assert_rows(actual.select("initial_counselor_id").distinct(), [tuple(row) for row in counselor_ids.collect()])

    def test_every_table_has_its_declared_columns_and_none_has_the_clients_name_or_place(
        self, spark: SparkSession
    ) -> None:
        silver = contacts(spark, {})
        frames = {
            "counselors": source.published_counselors(source.counselors(source.case_days(silver))),
            "contacts": source.published_contacts(silver),
            "transfers": source.published_transfers(source.transfers(silver)),
            "counselor_daily_cases": source.counselor_daily_cases(source.case_days(silver)),
            "concurrency": source.concurrency(source.open_case_days(silver, source.assignments(silver))),
            "pronoun_risk": pronoun_risk(silver),
        }
        publish = declared("contacts")["publish"]
        assert {name: frame.columns for name, frame in frames.items()} == {
            name: list(table["columns"]) for name, table in publish.items()
        }
        for name, frame in frames.items():
            assert "Robin" not in str(frame.collect()), name
            assert "Austin" not in str(frame.collect()), name


def daily_cases(contacts: DataFrame) -> DataFrame:
    return source.counselor_daily_cases(source.case_days(contacts))


class TestCounselorDailyCases:
    def test_cases_are_counted_and_averaged_per_counselor_and_day(self, spark: SparkSession) -> None:
        moved = {"counselor_names": [YAN, FRANK], "transferred_at": [at("10:00")]}
        frame = contacts(
            spark,
            {"contact_id": "a", "started_at": at("09:00"), "initial_risk_level": 1, "call_rating": 5, **moved},
            {**alone("b"), "started_at": at("23:59"), "initial_risk_level": 2, "call_rating": None},
            {**alone("c"), "started_at": at("09:00", day=2), "initial_risk_level": None, "call_rating": None},
        )
        assert_rows(
            daily_cases(frame),
            [
                (YAN, date(2023, 1, 1), 2, Decimal("1.50"), Decimal("5.00")),
                (YAN, date(2023, 1, 2), 1, None, None),
                (FRANK, date(2023, 1, 1), 1, Decimal("1.00"), Decimal("5.00")),
            ],
        )

    def test_a_case_that_returns_counts_once_also_after_midnight(self, spark: SparkSession) -> None:
        times = [at("23:30"), at("23:40"), at("23:50"), at("00:10", day=2)]
        names = [YAN, FRANK, YAN, FRANK, YAN]
        frame = contacts(spark, {"started_at": at("23:00"), "counselor_names": names, "transferred_at": times})
        once = (1, Decimal("3.00"), Decimal("2.00"))
        first = date(2023, 1, 1)
        assert_rows(daily_cases(frame), [(YAN, first, *once), (FRANK, first, *once)])

    def test_a_case_counts_on_the_day_it_was_taken_not_the_day_the_call_began(self, spark: SparkSession) -> None:
        moved = {"counselor_names": [YAN, FRANK], "transferred_at": [at("00:10", day=2)]}
        actual = source.case_days(contacts(spark, {"started_at": at("23:00"), **moved}))
        assert_rows(
            actual.select("counselor_name", "day", "number_of_cases"),
            [(YAN, date(2023, 1, 1), 1), (FRANK, date(2023, 1, 2), 1)],
        )

    def test_the_day_is_that_of_the_source(self, spark: SparkSession) -> None:
        actual = source.case_days(contacts(spark, {**alone("a"), "started_at": at("03:00", day=2)}), "America/Chicago")
        assert_rows(actual.select("day"), [(date(2023, 1, 1),)])

    def test_means_are_rounded_once_half_up(self, spark: SparkSession) -> None:
        # 1,001 / 200 = 5.005 exactly, of which a binary fraction falls short.
        risks = [5] * 199 + [6]
        frame = contacts(spark, *[{**alone(str(n)), "initial_risk_level": risk} for n, risk in enumerate(risks)])
        assert_rows(daily_cases(frame).select("average_risk_level"), [(Decimal("5.01"),)])

    def test_absurd_values_do_not_fail(self, spark: SparkSession) -> None:
        frame = contacts(spark, *[{**alone(str(n)), "call_rating": 2**31 - 1} for n in range(3)])
        assert_rows(daily_cases(frame).select("average_rating"), [(Decimal(2**31 - 1),)])


class TestConcurrency:
    def of_calls(self, spark: SparkSession, *calls: tuple[datetime, datetime]) -> DataFrame:
        frame = contacts(spark, *[{"started_at": start, "ended_at": end} for start, end in calls])
        return source.concurrency(source.open_case_days(frame, held(spark)))

    def test_the_most_open_cases_and_the_first_moment_of_them(self, spark: SparkSession) -> None:
        calls = [("09:00", "10:00"), ("09:30", "11:00"), ("12:00", "13:00"), ("12:30", "13:00")]
        actual = self.of_calls(spark, *[(at(start), at(end)) for start, end in calls])
        assert_rows(actual, [("all", 2, at("09:30"), True)])

    def test_a_case_that_ends_as_another_begins_is_not_concurrent_with_it(self, spark: SparkSession) -> None:
        actual = self.of_calls(spark, (at("09:00"), at("10:00")), (at("10:00"), at("11:00")))
        assert_rows(actual, [("all", 1, at("09:00"), False)])

    def test_cases_that_begin_together_are_concurrent(self, spark: SparkSession) -> None:
        actual = self.of_calls(spark, *[(at("09:00"), at("10:00"))] * 3)
        assert_rows(actual, [("all", 3, at("09:00"), True)])

    def test_cases_open_over_midnight_count_on_the_next_days(self, spark: SparkSession) -> None:
        calls = [(at("22:00"), at("08:00", day=4)), (at("23:00"), at("07:00", day=4)), (at("06:00", 4), at("06:30", 4))]
        assert_rows(self.of_calls(spark, *calls), [("all", 3, at("06:00", day=4), True)])

    def test_a_case_of_no_length_is_never_open(self, spark: SparkSession) -> None:
        none = (at("09:30"), at("09:30"))
        assert_rows(self.of_calls(spark, none), [("all", 0, None, False)])
        assert_rows(self.of_calls(spark, none, (at("09:00"), at("10:00"))), [("all", 1, at("09:00"), False)])

    def test_a_counselors_cases_are_their_assignments(self, spark: SparkSession) -> None:
        calls = contacts(spark, *[{"contact_id": c, "started_at": at("09:00"), "ended_at": at("11:00")} for c in "ab"])
        cases = held(
            spark,
            ("a", YAN, at("09:00"), at("10:00")),
            ("a", FRANK, at("10:00"), at("11:00")),
            ("b", FRANK, at("09:00"), at("10:00")),
            ("b", YAN, at("10:00"), at("10:30")),
            ("b", FRANK, at("10:30"), at("11:00")),
        )
        assert_rows(
            source.concurrency(source.open_case_days(calls, cases)),
            [("all", 2, at("09:00"), True), (YAN, 1, at("09:00"), False), (FRANK, 2, at("10:30"), True)],
        )

    def test_a_counselor_called_all_is_not_the_whole_line(self, spark: SparkSession) -> None:
        names = ["all", "all (counselor)", "All", "all ", "all counselors"]
        cases = held(spark, *[("c1", name, at("09:00"), at("10:00")) for name in names])
        scopes = [
            row.scope
            for row in source.concurrency(source.open_case_days(contacts(spark, {}), cases)).select("scope").collect()
        ]
        suffixed = ["all (counselor)", "all (counselor) (counselor)", "All", "all ", "all counselors"]
        assert sorted(scopes) == sorted(["all", *suffixed])

    def test_it_agrees_with_counting_at_every_moment(self, spark: SparkSession) -> None:
        minutes = st.tuples(st.integers(0, 5000), st.integers(0, 30) | st.integers(0, 4000))
        interval = minutes.map(lambda pair: (at("00:00") + timedelta(minutes=pair[0]), timedelta(minutes=pair[1])))
        cases, expected = [], []
        for number, intervals in enumerate(examples(st.lists(interval, min_size=1, max_size=8), 100)):
            spans = [(start, start + length) for start, length in intervals]
            cases += [(f"c{number}", f"counselor {number}", start, end) for start, end in spans]
            expected.append((f"counselor {number}", *self.counted(spans)))
        every = [(start, end) for _, _, start, end in cases]
        calls = contacts(spark, *[{"started_at": start, "ended_at": end} for start, end in every])
        actual = source.concurrency(source.open_case_days(calls, held(spark, *cases)))
        assert_rows(actual, [("all", *self.counted(every)), *expected])

    def counted(self, spans: list[tuple[datetime, datetime]]) -> tuple[int, datetime | None, bool]:
        open_at = {moment: sum(start <= moment < end for start, end in spans) for moment, _ in spans}
        most = max(open_at.values())
        return most, min((m for m in open_at if open_at[m] == most), default=None) if most else None, most > 1


def pronoun_risk(contacts: DataFrame) -> DataFrame:
    return source.pronoun_risk(source.pronoun_risk_levels(contacts))


class TestPronounRisk:
    def test_there_is_a_row_per_exact_set_and_one_for_she_and_they(self, spark: SparkSession) -> None:
        given = [
            (["She/Her"], 1),
            (["She/Her", "She/Her"], 2),
            (["They/Them", "She/Her"], 2),
            (["She/Her", "They/Them"], 5),
            (["They/Them", "He/Him", "She/Her"], None),
        ]
        frame = contacts(spark, *[{"pronouns": pronouns, "initial_risk_level": risk} for pronouns, risk in given])
        assert_rows(
            pronoun_risk(frame),
            [
                ("She/Her", 2, Decimal("1.50")),
                ("She/Her + They/Them", 2, Decimal("3.50")),
                ("He/Him + She/Her + They/Them", 1, None),
                ("She/They", 3, Decimal("3.50")),
            ],
        )

    def test_contacts_without_pronouns_are_unknown(self, spark: SparkSession) -> None:
        frame = contacts(spark, {"pronouns": None}, {"pronouns": []}, {"pronouns": ["Unknown"]})
        assert_rows(pronoun_risk(frame), [("Unknown", 3, Decimal("3.00")), ("She/They", 0, None)])

    def test_she_they_as_one_pronoun_is_in_the_row_of_both(self, spark: SparkSession) -> None:
        frame = contacts(spark, {"pronouns": ["She/They"]}, {"initial_risk_level": 2})
        assert_rows(
            pronoun_risk(frame), [("She/They", 2, Decimal("2.50")), ("She/Her + They/Them", 1, Decimal("2.00"))]
        )


def alone(contact_id: str) -> dict[str, Any]:
    """A contact that one counselor answered and kept."""
    return {"contact_id": contact_id, "counselor_names": [YAN], "transferred_at": []}
