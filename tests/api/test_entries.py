"""What is an entry, and what a body may hold."""

import json
import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api import entries
from api.entries import MAX_ENTRIES, MAX_ENTRY_BYTES, read_batch
from api.errors import ApiError
from transforms import members

ENTRY = '{id="ada6ee1abc22511c"|created_at="2023-06-27"|sex=1|default_language_en=false}'
OTHER = "{id=0b1dc1ee7a5e11ad|created_at=2023-06-28}"


def lines(body: str | bytes) -> list[str]:
    batch = read_batch(body.encode() if isinstance(body, str) else body)
    assert batch.lines.endswith(b"\n")
    found = batch.lines.decode()[:-1].split("\n")
    assert len(found) == batch.count
    return found


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (ENTRY, [ENTRY]),
        (f"  {ENTRY} \t\r\n", [ENTRY]),
        (f"\ufeff{ENTRY}", [ENTRY]),
        (f"{ENTRY}\n{OTHER}", [ENTRY, OTHER]),
        (f"{ENTRY}\r\n\r\n  {OTHER}\r\n", [ENTRY, OTHER]),
        (json.dumps({"member": ENTRY}), [ENTRY]),
        (json.dumps({"member": f" {ENTRY}\n"}), [ENTRY]),
        (json.dumps({"member": [ENTRY, OTHER]}, indent=2), [ENTRY, OTHER]),
        (json.dumps([{"member": ENTRY}, {"member": [OTHER, ENTRY]}]), [ENTRY, OTHER, ENTRY]),
        (json.dumps([ENTRY, {"member": OTHER}]), [ENTRY, OTHER]),
        (json.dumps(ENTRY), [ENTRY]),
        ("{a=}", ["{a=}"]),
        ('{a="}{"|b=|c = "x|y=z" }', ['{a="}{"|b=|c = "x|y=z" }']),
        ("{ a =1}", ["{ a =1}"]),
        ("{name=Zoë 🦉|größe=1}", ["{name=Zoë 🦉|größe=1}"]),
        (json.dumps({"member": "{name=Zoë 🦉}"}), ["{name=Zoë 🦉}"]),
        ("{id=not valid at all}", ["{id=not valid at all}"]),
        ("{a=" + "x" * (MAX_ENTRY_BYTES - 4) + "}", ["{a=" + "x" * (MAX_ENTRY_BYTES - 4) + "}"]),
        ("\n".join([OTHER] * MAX_ENTRIES), [OTHER] * MAX_ENTRIES),
    ],
    ids=str.split(
        "text blanks_around byte_order_mark lines crlf_and_blank_lines json json_blanks json_several list_of_objects "
        "list_mixed json_text empty_value marks_in_quotes blanks_in_field unicode unicode_in_json "
        "nonsense_is_for_the_job_to_judge exactly_64_KiB most_entries"
    ),
)
def test_an_entry_is_taken_as_sent_less_the_blanks_around_it(body: str, expected: list[str]) -> None:
    assert lines(body) == expected


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "the body is empty"),
        (b" \r\n\t ", 400, "the body is empty"),
        (b"junk", 400, "the entry does not begin with { and end with }"),
        (b"{id=1", 400, "does not begin with { and end with }"),
        (b"id=1}", 400, "does not begin with { and end with }"),
        (b"{", 400, "does not begin with { and end with }"),
        (b"{}", 400, 'object 1 has not the field "member"'),
        (b"{junk}", 400, "has a part that is not of the form key=value"),
        (b"{=1}", 400, "has a part that is not of the form key=value"),
        (b"{|}", 400, "has a part that is not of the form key=value"),
        (b"{no field|a=1}", 400, "has a part that is not of the form key=value"),
        (b"{a=1|junk}", 400, "has a part that is not of the form key=value"),
        (b"{sex=1age=48}", 400, "has a part that is not of the form key=value"),
        (b'{id="ada6ee1abc22511c|a=1}', 400, "or a quote that is not closed"),
        (b"{a={b}}", 400, "has a part that is not of the form key=value"),
        (b"{a=1}{b=2}", 400, "has an entry's end and another's beginning in it"),
        (b"{a=\x001}", 400, "control character"),
        (b"{a=\t1}", 400, "control character"),
        (b"{a=1\rb=2}", 400, "control character"),
        ("{a=\x851}".encode(), 400, "control character"),
        ("{a=\u20281}".encode(), 400, "control character"),
        (b"{a=\xff}", 400, "not valid UTF-8"),
        ("{a=1}".encode("utf-16"), 400, "not valid UTF-8"),
        (b"member=%7Bid%3D1%7D", 400, "does not begin with {"),
        (b'{"member": "{a=1}"', 400, "not valid JSON"),
        (b'{"member": "{a=1}", "member": "{b=1}"}', 400, "not valid JSON"),
        (b'{"member": "{a=1}", "more": 1}', 400, 'object 1 has not the field "member", or has others'),
        (b'{"Member": "{a=1}"}', 400, 'object 1 has not the field "member"'),
        (b'{"member": null}', 400, "the entry is not a text"),
        (b'{"member": 7}', 400, "the entry is not a text"),
        (b'{"member": {"id": 1}}', 400, "the entry is not a text"),
        (b'{"member": []}', 400, "the body has no entry"),
        (b"[]", 400, "the body has no entry"),
        (b'[["{a=1}"]]', 400, "item 1 of the list is a list"),
        (b'{"member": "{a=1}\\n{b=2}"}', 400, "control character"),
        (b'{"member": "{a=\\ud800}"}', 400, "half of a surrogate pair"),
        (b"[" * 100_000, 400, "not valid JSON"),
        (b"[" + b"9" * 5_000 + b"]", 400, "not valid JSON"),
        (b"{a=" + b"x" * (MAX_ENTRY_BYTES - 3) + b"}", 413, "the entry is over 65,536 bytes"),
        ("{a=" + "é" * (MAX_ENTRY_BYTES // 2) + "}", 413, "over 65,536 bytes"),
        (json.dumps({"member": "{a=" + "x" * MAX_ENTRY_BYTES + "}"}), 413, "over 65,536 bytes"),
        ("\n".join([OTHER] * (MAX_ENTRIES + 1)), 413, "more than 10,000 entries"),
        (json.dumps({"member": [OTHER] * (MAX_ENTRIES + 1)}), 413, "more than 10,000 entries"),
        ("{a=1}" + "\n" * 8_000_000 + "{a=1}", 413, "more than 10,000 entries or lines"),
    ],
)
def test_junk_is_refused_and_the_reason_is_named(body: str | bytes, status: int, says: str) -> None:
    with pytest.raises(ApiError) as refused:
        lines(body)
    assert (refused.value.status, says in refused.value.error) == (status, True), refused.value.error


def test_what_is_an_entry_here_is_one_to_the_job() -> None:
    assert entries._ENTRY.pattern == members._LINE.replace(r"\z", r"\Z")


MANY = 2_000_000


@pytest.mark.parametrize(
    "body",
    [
        "[" + "1," * MANY + "1]",
        '{"member":[' + '"",' * MANY + '""]}',
        "[" + "{}," * MANY + "{}]",
        "[" + "[]," * MANY + "[]]",
        "[" + '{"member":1},' * (MANY // 5) + '{"member":1}]',
        "[" + '{"member":[1,1]},' * (MANY // 8) + '{"member":1}]',
        '["",' * MANY,
        '{"member":[' + r'"\"\\",' * MANY + "1]}",
    ],
    ids=["numbers", "texts", "objects", "lists", "members", "lists_of_members", "not_valid", "escapes"],
)
def test_what_has_far_too_many_entries_is_refused_before_they_are_built(body: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ApiError, match="more than 10,000 entries"):
            read_batch(body.encode())
        assert tracemalloc.get_traced_memory()[1] < 8 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["texts", "objects", "lists of one", "one object"])
def test_commas_and_quotes_in_entries_are_not_counted(form: str) -> None:
    entries = [f'{{a="{number},\\,"|b=,,|c=",\\"}}' for number in range(MAX_ENTRIES)]
    items = {
        "texts": entries,
        "objects": [{"member": entry} for entry in entries],
        "lists of one": [{"member": [entry]} for entry in entries],
        "one object": {"member": entries},
    }
    assert lines(json.dumps(items[form])) == entries


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (f"{ENTRY}\nsecret\n{ENTRY}", "line 2"),
        (f"{ENTRY}\n\n\nsecret", "line 4"),
        (f"\n \n{ENTRY}\nsecret", "line 4"),
        (json.dumps({"member": [ENTRY, ENTRY, "secret"]}), "entry 3"),
        (json.dumps([{"member": ENTRY}, {"member": [ENTRY, "secret"]}]), "entry 3"),
        ("secret", "the entry"),
    ],
)
def test_of_a_batch_with_junk_the_place_is_named_and_never_what_is_there(body: str, place: str) -> None:
    with pytest.raises(ApiError) as refused:
        lines(body)
    assert refused.value.error.startswith(f"{place} does not begin with")
    assert "secret" not in refused.value.error + refused.value.hint


KEY = st.from_regex(r'[^\s=|"{}\x00-\x1f\x7f-\x9f]{1,8}', fullmatch=True)
TEXT = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters='"')
PLAIN = st.text(TEXT.filter(lambda character: character not in "=|{}"), max_size=20)
VALUE = PLAIN | st.text(TEXT, max_size=20).map(lambda value: f'"{value}"')
ENTRIES = st.lists(
    st.lists(st.tuples(KEY, VALUE), min_size=1, max_size=5).map(
        lambda fields: "{" + "|".join(f"{key}={value}" for key, value in fields) + "}"
    ),
    min_size=1,
    max_size=6,
)


@given(entries=ENTRIES, is_escaped=st.booleans())
def test_what_is_sent_is_what_lands_in_every_form(entries: list[str], is_escaped: bool) -> None:
    assert lines("\n".join(entries)) == entries
    assert lines(json.dumps({"member": entries}, ensure_ascii=is_escaped)) == entries
    assert lines(json.dumps([{"member": entry} for entry in entries], ensure_ascii=is_escaped)) == entries


NEAR_ENTRIES = st.text(st.sampled_from('{}"|=[]:, \t\r\n\\abmember\x00\x85\u2028é')).map(str.encode)


@settings(max_examples=500)
@given(body=st.one_of(st.binary(max_size=200), NEAR_ENTRIES))
def test_no_body_raises_anything_but_a_refusal_and_whatever_lands_is_whole_lines(body: bytes) -> None:
    try:
        found, status = lines(body), 202
    except ApiError as refused:
        found, status = [], refused.status
    assert status in (202, 400)
    assert all(re.fullmatch(r"\{.*=.*\}", line) and line.splitlines() == [line] for line in found)
