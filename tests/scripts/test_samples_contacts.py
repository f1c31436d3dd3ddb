"""The contacts sample, read back without Spark by a reader that shares nothing with the writer."""

import ast
import bz2
import gzip
import hashlib
import json
import re
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.samples import SampleCounts
from scripts.samples.contacts import MAXIMUM_ROWS, write

COPY, ORIGINAL, EMPTY = "contacts-2023-05 (1).jsonl", "contacts-2023-05.jsonl", "contacts-2024-01.jsonl"
DATETIME = re.compile(r"datetime\.datetime\(([\d, ]+)\)")
MISSING = {None, "", " ", "NULL", "N/A", "NaN"}


def read_lines(path: Path) -> list[bytes]:
    unpack = {".gz": gzip.decompress, ".bz2": bz2.decompress}.get(path.suffix, bytes)
    lines = unpack(path.read_bytes()).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [line.removesuffix(b"\r") for line in (lines if lines[-1] else lines[:-1])]


def read_time(value: Any) -> datetime | None:
    try:
        return datetime.strptime(value, "%Y-%m-%d %H:%M:%S")
    except (TypeError, ValueError):
        return None


def read_transfers(text: str) -> list[datetime]:
    if found := DATETIME.search(text):
        year, month, day, hour, minute, *smaller = map(int, found[1].split(","))
        return [datetime(year, month, day, hour, minute, *smaller)]  # type: ignore[arg-type]  # never a time zone
    return [datetime.fromisoformat(item) for item in ast.literal_eval(text)]


def read_list(text: str | None) -> list[str]:
    return [] if text is None or text in MISSING else list(ast.literal_eval(text))


def read_record(line: bytes) -> dict[str, Any] | str:
    """The record, or why there is none."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "not_utf8"
    except ValueError:
        return "not_json"
    assert isinstance(record, dict)
    return record


def reasons(record: dict[str, Any]) -> list[str]:
    """Every rule of the source that the record breaks; no rule fires only because another value is missing."""
    start, end = read_time(record.get("time_call_began")), read_time(record.get("time_call_ended"))
    counselors, transfers = read_list(record.get("counselors")), read_transfers(record["transfer_timestamps"])
    pronouns = " + ".join(dict.fromkeys(read_list(record.get("client_pronouns"))))
    outside = start and end and not all(start < transfer < end for transfer in transfers)
    return [
        *(["no_start"] if start is None else []),
        *(["no_end"] if end is None else []),
        *(["end_before_start"] if start and end and end < start else []),
        *(["no_counselor"] if not counselors else []),
        *(["long_name"] if any(len(name) > 200 for name in counselors) else []),
        *(["long_pronouns"] if len(pronouns) > 200 else []),
        *(["transfer_count"] if counselors and len(transfers) != len(counselors) - 1 else []),
        *(["transfer_outside_call"] if outside else []),
    ]


def count_again(folder: Path, files: tuple[str, ...]) -> SampleCounts:
    lines, valid, bad, warned = 0, set[bytes](), Counter[str](), Counter[str]()
    duplicates = 0
    for name in files:
        for line in read_lines(folder / name) if name != COPY else []:
            lines += 1
            record = read_record(line)
            broken = [record] if isinstance(record, str) else reasons(record)
            if broken or isinstance(record, str):
                assert len(broken) == 1, (broken, line)
                bad[broken[0]] += 1
            elif line in valid:
                duplicates += 1
            else:
                valid.add(line)
                for field, flaw in (("call_rating", "rating"), ("initial_risk_level", "risk")):
                    value = record.get(field)
                    warned[f"{flaw}_out_of_range"] += value not in {*MISSING, 1, 2, 3, 4, 5}
    return SampleCounts(lines, len(valid), duplicates, dict(bad), dict(warned), files)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SampleCounts]:
    folder = tmp_path_factory.mktemp("landing") / "contacts"
    return folder, write(folder, rows=30_001)


@pytest.fixture(scope="module")
def good(sample: tuple[Path, SampleCounts]) -> list[dict[str, Any]]:
    folder, counts = sample
    records = [read_record(line) for name in counts.files for line in read_lines(folder / name)]
    return [record for record in records if not isinstance(record, str) and not reasons(record)]


def test_the_counts_are_what_an_independent_reader_finds(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    assert count_again(folder, counts.files) == counts


@settings(max_examples=15)
@given(rows=st.integers(100, 700), seed=st.integers())
def test_the_counts_hold_for_any_size_and_seed(tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    counts = write(folder, rows, seed)
    assert counts.lines == rows == counts.valid + counts.duplicates + sum(counts.bad.values())
    assert count_again(folder, counts.files) == counts


def test_every_kind_of_flaw_is_there_in_the_smallest_sample(tmp_path: Path) -> None:
    counts = write(tmp_path, rows=100)
    assert min(counts.duplicates, *counts.bad.values(), *counts.warned.values()) > 0


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_same_rows_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a", 2_000, seed=3) == write(tmp_path / "b", 2_000, seed=3)
    write(tmp_path / "c", 2_000, seed=4)
    first, second, other_seed = digests(tmp_path / "a"), digests(tmp_path / "b"), digests(tmp_path / "c")
    assert first == second
    assert {name for name in first if first[name] == other_seed[name]} == {EMPTY}


def test_only_whole_files_are_left(tmp_path: Path) -> None:
    counts = write(tmp_path, 500)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(counts.files)


@pytest.mark.parametrize("rows", [0, 99, MAXIMUM_ROWS + 1])
def test_a_size_that_cannot_be_made_is_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(ValueError, match="rows must be from 100 to 8,000,000"):
        write(tmp_path / "contacts", rows)
    assert not (tmp_path / "contacts").exists()


def test_files_come_in_every_form(sample: tuple[Path, SampleCounts]) -> None:
    folder, _ = sample
    assert gzip.decompress((folder / "contacts-2023-02.jsonl.gz").read_bytes()).startswith(b"{")
    assert bz2.decompress((folder / "contacts-2023-03.jsonl.bz2").read_bytes()).startswith(b"{")
    april = (folder / "contacts-2023-04.jsonl").read_bytes()
    assert april.startswith(b"\xef\xbb\xbf{")
    assert april.endswith(b"\r\n")
    assert april.count(b"\n") == april.count(b"\r\n")
    assert (folder / "contacts-2023-06.jsonl").read_bytes().count(rb"\u00") > 100
    assert b"\n" not in (folder / "contacts-2023-12.jsonl").read_bytes()[-40:]
    assert (folder / COPY).read_bytes() == (folder / ORIGINAL).read_bytes()
    assert (folder / EMPTY).read_bytes() == b""


def test_lines_are_repeated_within_a_file_and_across_files(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    files = [Counter(read_lines(folder / name)) for name in counts.files if name != COPY]
    within = sum(count - 1 for lines in files for count in lines.values())
    across = sum(count - 1 for count in Counter(line for lines in files for line in lines).values())
    assert within > 0
    assert across > 0
    assert within + across == counts.duplicates


def test_names_have_apostrophes_and_more_than_ascii(good: list[dict[str, Any]]) -> None:
    texts = [record["counselors"] for record in good]
    names = {name for text in texts for name in read_list(text)}
    assert len(names) == 60
    assert any("'" in name for name in names)
    assert any(not name.isascii() for name in names)
    assert all(f'"{name}"' in text for text in texts for name in read_list(text) if "'" in name)


def test_transfer_times_have_every_shape(good: list[dict[str, Any]]) -> None:
    texts = [record["transfer_timestamps"] for record in good]
    assert "[]" in texts
    parts = {found[1].count(",") + 1 for text in texts if (found := DATETIME.search(text))}
    assert parts == {5, 6, 7}, "to the minute, to the second, to the microsecond"
    counts = {len(read_transfers(text)) for text in texts}
    assert counts >= {0, 1, 2, 3}
    assert all(("datetime" in text) == (len(read_transfers(text)) == 1) for text in texts)


def test_contacts_return_to_a_former_counselor_but_never_stay_with_one(good: list[dict[str, Any]]) -> None:
    chains = [read_list(record["counselors"]) for record in good]
    assert any(len(set(chain)) < len(chain) for chain in chains)
    assert not any(one == next_one for chain in chains for one, next_one in pairwise(chain))


def test_calls_cross_midnight_overlap_and_last_no_time_at_all(good: list[dict[str, Any]]) -> None:
    calls = [(read_time(record["time_call_began"]), read_time(record["time_call_ended"])) for record in good]
    spans = sorted((start, end) for start, end in calls if start and end)
    assert len(spans) == len(good)
    assert any(start.date() < end.date() for start, end in spans)
    assert any(start == end for start, end in spans)
    assert any(next_start < end for (_, end), (next_start, _) in pairwise(spans))
    assert {start.month for start, _ in spans} == set(range(1, 13))
    assert all(end - start < timedelta(hours=5) for start, end in spans)


@pytest.mark.parametrize("field", ["client_pronouns", "issues_discussed", "call_rating", "client_name"])
def test_values_are_missing_in_every_spelling(good: list[dict[str, Any]], field: str) -> None:
    assert {record.get(field) for record in good} >= MISSING
    assert any(field not in record for record in good)


def test_lists_are_empty_and_keys_come_reordered_or_unannounced(good: list[dict[str, Any]]) -> None:
    assert any(record.get("client_pronouns") == "[]" for record in good)
    assert any(record.get("issues_discussed") == "[]" for record in good)
    assert any("queue" in record for record in good)
    assert any(next(iter(record)) != "time_call_began" for record in good)
