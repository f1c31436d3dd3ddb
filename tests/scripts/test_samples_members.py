"""The members sample, read back without Spark by a reader that shares nothing with the writer."""

import bz2
import gzip
import hashlib
import math
import re
from collections import Counter, defaultdict
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.samples import SampleCounts
from scripts.samples.members import MAXIMUM_ROWS, write

COPY, ORIGINAL, EMPTY = "members-2023-05 (1).log", "members-2023-05.log", "members-2024-01.log"
FIELDS = ["id", "created_at", "sex", "age", "default_language_en", "waiting_list_time", "black_and_white_design",
          "follow_reco", "follow_reco_above_50p"]  # fmt: skip
BOOLEANS = ("default_language_en", "black_and_white_design", "follow_reco_above_50p")
MISSING = {"", "NULL", "null", "N/A", "NaN"}
Entry = dict[str, str]


def read_lines(path: Path) -> list[bytes]:
    unpack = {".gz": gzip.decompress, ".bz2": bz2.decompress}.get(path.suffix, bytes)
    lines = unpack(path.read_bytes()).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [line.removesuffix(b"\r") for line in (lines if lines[-1] else lines[:-1])]


def read_entry(line: bytes) -> Entry | str:
    """The fields by name in lower case, or the rule that the line breaks: read from left to right, piece by piece."""
    text, fields = line.decode("utf-8", "replace").strip(), list[tuple[str, str]]()
    if len(text) < 2 or (text[0], text[-1]) != ("{", "}"):
        return "line_well_formed"
    rest, more = text[1:-1], True
    while more:
        name, equals, rest = rest.partition("=")
        rest = rest.lstrip()
        if rest.startswith('"'):
            value, quote, rest = rest[1:].partition('"')
            after, bar, rest = rest.partition("|")
            is_whole = bool(quote) and not after.strip()
        else:
            value, bar, rest = rest.partition("|")
            is_whole = not set(value) & set('"={}')
        if not (equals and is_whole and re.fullmatch(r'[^\s"|{}]+', name.strip())):
            return "line_well_formed"
        fields.append((name.strip().lower(), value.strip()))
        more = bool(bar)
    return dict(fields) if len(dict(fields)) == len(fields) else "fields_unique"


def read_day(text: str) -> date | None:
    found = re.fullmatch(r"([0-9]{4})-([0-9]{2})-([0-9]{2})( [0-9:]{8})?", text)
    try:
        return date(*map(int, found.groups()[:3])) if found else None
    except ValueError:
        return None


def read_number(text: str) -> float | None:
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None


def read_whole(text: str) -> int | None:
    return int(float(text)) if re.fullmatch(r"-?[0-9]+(\.0)?", text) and abs(float(text)) < 2**31 else None


def read_boolean(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.lower())


def broken_rules(line: bytes) -> list[str]:
    entry = read_entry(line)
    if isinstance(entry, str):
        return [entry]
    return [
        *([] if re.fullmatch("[0-9a-fA-F]{16}", entry.get("id", "")) else ["id_valid"]),
        *([] if read_day(entry.get("created_at", "")) else ["created_at_readable"]),
    ]


def broken_warnings(line: bytes) -> list[str]:
    entry = read_entry(line)
    assert not isinstance(entry, str)
    known = {name: value for name, value in entry.items() if value not in MISSING}
    readers = {"sex": read_whole, "age": read_whole, "waiting_list_time": read_number, "follow_reco": read_number}
    values = {
        name: readers.get(name, read_boolean)(value) for name, value in known.items() if name in {*readers, *BOOLEANS}
    }
    reco, is_above = values.get("follow_reco"), values.get("follow_reco_above_50p")
    is_utf8 = line.decode("utf-8", "ignore").encode() == line
    return [
        *([] if is_utf8 else ["is_utf8"]),
        *[f"{name}_readable" for name, value in values.items() if value is None],
        *(["follow_reco_above_50p_consistent"] if None not in (reco, is_above) and (reco > 50) != is_above else []),
        *[f"{name}_fits" for name in ("sex", "age") if not -(2**15) <= (values.get(name) or 0) < 2**15],
        *[f"{name}_fits" for name in ("waiting_list_time", "follow_reco") if hundredths(values.get(name) or 0) > 99999],
    ]


def hundredths(number: float) -> Decimal:
    return abs(Decimal(str(number)) * 100).quantize(Decimal(1), ROUND_HALF_UP)


def count_again(folder: Path, files: tuple[str, ...]) -> SampleCounts:
    lines, duplicates, valid, bad, warned = 0, 0, set[bytes](), Counter[str](), Counter[str]()
    for name in files:
        for line in read_lines(folder / name) if name != COPY else []:
            lines += 1
            broken = broken_rules(line)
            if broken:
                assert len(broken) == 1, (broken, line)
                bad[broken[0]] += 1
            elif line.strip() in valid:
                duplicates += 1
            else:
                valid.add(line.strip())
                flaws = broken_warnings(line)
                assert len(flaws) < 2, (flaws, line)
                warned.update(flaws)
    return SampleCounts(lines, len(valid), duplicates, dict(bad), dict(warned), files)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SampleCounts]:
    folder = tmp_path_factory.mktemp("landing") / "members"
    return folder, write(folder, rows=30_001)


@pytest.fixture(scope="module")
def good(sample: tuple[Path, SampleCounts]) -> dict[str, list[Entry]]:
    """File -> its usable entries, in order."""
    folder, counts = sample
    entries = {name: [read_entry(line) for line in read_lines(folder / name) if not broken_rules(line)]
               for name in counts.files if name != COPY}  # fmt: skip
    return {name: [entry for entry in found if not isinstance(entry, str)] for name, found in entries.items()}


@pytest.fixture(scope="module")
def lines(sample: tuple[Path, SampleCounts]) -> list[str]:
    """All usable lines, as they were written."""
    folder, counts = sample
    every = [line for name in counts.files for line in read_lines(folder / name)]
    return [line.decode("utf-8", "replace") for line in every if not broken_rules(line)]


def test_the_counts_are_what_an_independent_reader_finds(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    assert count_again(folder, counts.files) == counts


@settings(max_examples=10)
@given(rows=st.integers(200, 900), seed=st.integers())
def test_the_counts_hold_for_any_size_and_seed(tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    counts = write(folder, rows, seed)
    assert counts.lines == rows == counts.valid + counts.duplicates + sum(counts.bad.values())
    assert count_again(folder, counts.files) == counts


def test_every_kind_of_flaw_is_there_in_the_smallest_sample(tmp_path: Path) -> None:
    counts = write(tmp_path, rows=200)
    assert (len(counts.bad), len(counts.warned)) == (4, 13)
    assert min(counts.duplicates, *counts.bad.values(), *counts.warned.values()) > 0


def digests(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in folder.iterdir()
    }


def test_the_same_rows_and_seed_give_the_same_bytes_and_times(tmp_path: Path) -> None:
    assert write(tmp_path / "a", 2_000, seed=3) == write(tmp_path / "b", 2_000, seed=3)
    write(tmp_path / "c", 2_000, seed=4)
    first, second, other_seed = digests(tmp_path / "a"), digests(tmp_path / "b"), digests(tmp_path / "c")
    assert first == second
    assert {name for name in first if first[name] == other_seed.get(name)} == {EMPTY}


def test_only_whole_files_are_left_and_their_times_are_the_order_of_delivery(
    sample: tuple[Path, SampleCounts],
) -> None:
    folder, counts = sample
    assert sorted(path.name for path in folder.iterdir()) == sorted(counts.files)
    times = [(folder / name).stat().st_mtime for name in counts.files]
    assert times == sorted(times)
    assert datetime.fromtimestamp((folder / ORIGINAL).stat().st_mtime, UTC) == datetime(2023, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize("rows", [0, 199, MAXIMUM_ROWS + 1])
def test_a_size_that_cannot_be_made_is_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(ValueError, match="rows must be from 200 to 50,000,000"):
        write(tmp_path / "members", rows)
    assert not (tmp_path / "members").exists()


def test_one_line_in_four_hundred_is_a_file_of_its_own(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    alone = {name: read_lines(folder / name) for name in counts.files if name.startswith("member-")}
    assert len(alone) == 30_001 // 400
    for name, content in alone.items():
        assert len(content) == 1
        entry = read_entry(content[0])
        assert not isinstance(entry, str)
        assert name.split(".")[0] == f"member-{entry['id'].lower()}"
    assert len(counts.files) == len(alone) + 15


def test_files_come_in_every_form(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    assert gzip.decompress((folder / "members-2023-02.log.gz").read_bytes()).startswith(b"{")
    assert bz2.decompress((folder / "members-2023-03.log.bz2").read_bytes()).startswith(b"{")
    april = (folder / "members-2023-04.log").read_bytes()
    assert april.startswith(b"\xef\xbb\xbf{")
    assert april.endswith(b"\r\n")
    assert april.count(b"\n") == april.count(b"\r\n")
    assert not (folder / "members-2023-12.log").read_bytes().endswith((b"\n", b"}"))
    assert (folder / COPY).read_bytes() == (folder / ORIGINAL).read_bytes()
    assert (folder / EMPTY).read_bytes() == b""
    alone = [(folder / name).read_bytes() for name in counts.files if name.startswith("member-")]
    assert any(content.startswith(b"\xef\xbb\xbf") and content.endswith(b"\r\n") for content in alone)
    assert any(content.endswith(b"}") for content in alone)
    assert any(content.startswith(b"\x1f\x8b") for content in alone)


def test_lines_are_repeated_within_a_file_and_across_files(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    files = {name: Counter(map(bytes.strip, read_lines(folder / name))) for name in counts.files if name != COPY}
    usable = {name: {line: n for line, n in found.items() if not broken_rules(line)} for name, found in files.items()}
    within = sum(count - 1 for found in usable.values() for count in found.values())
    across = Counter(line for found in usable.values() for line in found)
    assert within > 0
    assert max(across.values()) > 1
    assert within + sum(count - 1 for count in across.values()) == counts.duplicates


def test_members_come_back_on_other_days_on_the_same_day_and_in_other_files(good: dict[str, list[Entry]]) -> None:
    days, files_of_day = defaultdict[str, list[str]](list), defaultdict[tuple[str, str], set[str]](set)
    for name, entries in good.items():
        for entry in entries:
            member, day = entry["id"].lower(), entry["created_at"][:10]
            days[member].append(day)
            files_of_day[member, day].add(name)
    assert any(len(set(found)) > 3 for found in days.values())
    assert any(len(set(found)) < len(found) for found in days.values())
    assert any(found != sorted(found) for found in days.values()), "late entries are of days long past"
    alone_and_in_a_log = [
        names for names in files_of_day.values() if len({name.startswith("member-") for name in names}) == 2
    ]
    assert alone_and_in_a_log
    assert 1 < sum(map(len, days.values())) / len(days) < 5


@pytest.mark.parametrize("field", FIELDS[2:])
def test_values_are_missing(lines: list[str], field: str) -> None:
    assert any(f"{field}=" not in line.lower() for line in lines)
    assert any(re.search(f'\\|{field}=(|"|" "|NULL|null|"N/A"|NaN)[|}}]', line) for line in lines)


def test_lines_come_in_every_form(lines: list[str], good: dict[str, list[Entry]]) -> None:
    assert any(not line.strip().lower().lstrip("{ ").startswith("id") for line in lines)
    assert any(line.startswith(" { ") for line in lines)
    assert any('|age="' in line for line in lines)
    assert any("{id=" in line and '{id="' not in line for line in lines)
    assert any("|Sex=" in line for line in lines)
    assert any("=TRUE" in line for line in lines)
    assert any('channel="app|web"' in line for line in lines)
    assert any('note="a=b {c}"' in line for line in lines)
    entries = [entry for found in good.values() for entry in found]
    assert {name for entry in entries for name in entry} == {*FIELDS, "channel", "note", "clinic"}
    assert {len(entry["created_at"]) for entry in entries} == {10, 19}


def test_recommendations_are_followed_more_and_less(good: dict[str, list[Entry]]) -> None:
    values = [read_number(entry.get("follow_reco", "")) for found in good.values() for entry in found]
    known = [value for value in values if value is not None]
    assert 0.4 < sum(value > 50 for value in known) / len(known) < 0.6
    assert 0.2 < sum(value > 75 for value in known) / len(known) < 0.3
