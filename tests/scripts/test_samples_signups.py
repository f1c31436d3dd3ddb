"""The signups sample, read back without Spark by a reader that shares nothing with the writer."""

import csv
import gzip
import hashlib
import io
import re
from collections import Counter, defaultdict
from datetime import date, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.samples import SampleCounts
from scripts.samples.signups import LAST_FOURS, MAXIMUM_ROWS, write

COPY, ORIGINAL, CORRECTIONS = "signups-2024-05 (1).csv", "signups-2024-05.csv", "signups-2024-corrections.csv"
EMPTY, HEADER_ONLY, IN_WINDOWS_1252 = "signups-2025-01.csv", "signups-2025-02.csv", "signups-2024-07.csv"
MISSING = {"", "NULL", "null", "N/A", "NaN"}
Key = tuple[int, str]


def read_text(path: Path) -> str:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return content.decode("cp1252" if path.name == IN_WINDOWS_1252 else "utf-8-sig")


def read_rows(path: Path) -> list[dict[str, str] | None]:
    """Per line its fields by name, None if they are too few or too many."""
    header, *lines = [*csv.reader(io.StringIO(read_text(path), newline=""))] or [[]]
    return [dict(zip(header, line, strict=True)) if len(line) == len(header) else None for line in lines]


def read_date(text: str) -> date | None:
    for spelling in ("%Y-%m-%d", "%m/%d/%Y", "%Y-%m-%d %H:%M:%S"):
        try:
            return datetime.strptime(text, spelling).date()
        except ValueError:
            pass
    return None


def read_key(text: str) -> Key | None:
    found = re.fullmatch(r"([0-9]+) ([0-9]{4})", text.strip())
    return (int(found[1]), found[2]) if found and int(found[1]) < 2**63 else None


def broken_rules(row: dict[str, str] | None) -> list[str]:
    if row is None:
        return ["complete_row"]
    unreadable = {"id_readable": read_key(row["id"]), "visit_date_readable": read_date(row["visit_date"])}
    return [name for name, value in unreadable.items() if value is None]


def broken_warnings(row: dict[str, str]) -> list[str]:
    age = row["age"].strip()
    if age in MISSING:
        return []
    if not re.fullmatch(r"-?[0-9]+", age):
        return ["age_readable"]
    return [] if 0 <= int(age) <= 120 else ["age_in_range"]


def count_again(folder: Path, files: tuple[str, ...]) -> SampleCounts:
    lines, usable, bad = 0, 0, Counter[str]()
    newest: dict[Key, tuple[int, date, dict[str, str]]] = {}
    for number, name in enumerate(files):
        for row in read_rows(folder / name) if name != COPY else []:
            lines += 1
            broken = broken_rules(row)
            if row is None or broken:
                assert len(broken) == 1, (broken, row)
                bad[broken[0]] += 1
                continue
            usable += 1
            key, day = read_key(row["id"]), read_date(row["visit_date"])
            assert key
            assert day
            if key not in newest or newest[key][:2] <= (number, day):
                newest[key] = (number, day, row)
    warned = Counter(name for _, _, row in newest.values() for name in broken_warnings(row))
    return SampleCounts(lines, len(newest), 0, dict(bad), dict(warned), files, usable - len(newest))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SampleCounts]:
    folder = tmp_path_factory.mktemp("landing") / "signups"
    return folder, write(folder, rows=20_001)


@pytest.fixture(scope="module")
def good(sample: tuple[Path, SampleCounts]) -> list[dict[str, str]]:
    folder, counts = sample
    rows = [row for name in counts.files if name not in (COPY, CORRECTIONS) for row in read_rows(folder / name)]
    return [row for row in rows if row is not None and not broken_rules(row)]


def test_the_counts_are_what_an_independent_reader_finds(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    assert count_again(folder, counts.files) == counts


@settings(max_examples=15)
@given(rows=st.integers(200, 900), seed=st.integers())
def test_the_counts_hold_for_any_size_and_seed(tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    counts = write(folder, rows, seed)
    assert counts.lines == rows == counts.valid + counts.superseded + sum(counts.bad.values())
    assert count_again(folder, counts.files) == counts


def test_every_kind_of_flaw_is_there_in_the_smallest_sample(tmp_path: Path) -> None:
    counts = write(tmp_path, rows=200)
    assert min(counts.superseded, *counts.bad.values(), *counts.warned.values()) > 0


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_same_rows_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a", 2_000, seed=3) == write(tmp_path / "b", 2_000, seed=3)
    write(tmp_path / "c", 2_000, seed=4)
    first, second, other_seed = digests(tmp_path / "a"), digests(tmp_path / "b"), digests(tmp_path / "c")
    assert first == second
    assert {name for name in first if first[name] == other_seed[name]} == {EMPTY, HEADER_ONLY}


def test_only_whole_files_are_left_and_corrections_are_newer_than_all_that_they_correct(tmp_path: Path) -> None:
    counts = write(tmp_path, 500)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(counts.files)
    months = counts.files[: counts.files.index(CORRECTIONS)]
    assert len(months) == 12
    assert max(months) < CORRECTIONS


@pytest.mark.parametrize("rows", [0, 199, MAXIMUM_ROWS + 1])
def test_a_size_that_cannot_be_made_is_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(ValueError, match="rows must be from 200 to 5,000,000"):
        write(tmp_path / "signups", rows)
    assert not (tmp_path / "signups").exists()


def test_files_come_in_every_form(sample: tuple[Path, SampleCounts]) -> None:
    folder, _ = sample
    assert gzip.decompress((folder / "signups-2024-02.csv.gz").read_bytes()).startswith(b"id,first_name")
    march = (folder / "signups-2024-03.csv").read_bytes()
    assert march.startswith(b"\xef\xbb\xbfid,")
    assert march.endswith(b"\r\n")
    assert march.count(b"\n") == march.count(b"\r\n") > 100
    with pytest.raises(UnicodeDecodeError):
        (folder / IN_WINDOWS_1252).read_text(encoding="utf-8")
    assert not (folder / "signups-2024-12.csv").read_bytes().endswith(b"\n")
    assert (folder / COPY).read_bytes() == (folder / ORIGINAL).read_bytes()
    assert (folder / EMPTY).read_bytes() == b""
    assert (folder / HEADER_ONLY).read_bytes() == b"id,first_name,last_name,age,gender,visit_date\n"


def test_columns_are_reordered_added_and_left_out(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    headers = {name: read_text(folder / name).splitlines()[0].split(",") for name in counts.files if name != EMPTY}
    assert headers[ORIGINAL][0] == "visit_date"
    assert "clinic" in headers["signups-2024-06.csv"]
    assert "gender" not in headers["signups-2024-11.csv"]
    assert {"id", "visit_date"} <= set.intersection(*map(set, headers.values()))


def test_the_file_in_another_encoding_has_nothing_but_valid_lines(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    rows = read_rows(folder / IN_WINDOWS_1252)
    keys = {read_key(row["id"]) for row in rows if row is not None and not broken_rules(row)}
    assert len(keys) == len(rows)
    others = [row for name in counts.files if name != IN_WINDOWS_1252 for row in read_rows(folder / name)]
    assert keys.isdisjoint({read_key(row["id"]) for row in others if row is not None})


def test_dates_come_in_three_spellings(good: list[dict[str, str]]) -> None:
    shapes = {re.sub(r"\d", "9", row["visit_date"]) for row in good}
    assert shapes == {"9999-99-99", "99/99/9999", "9999-99-99 99:99:99"}


def test_people_share_user_ids_and_the_last_four_were_plainly_made_up(good: list[dict[str, str]]) -> None:
    keys = {key for row in good if (key := read_key(row["id"]))}
    assert len({user_id for user_id, _ in keys}) < len(keys)
    assert {last_four for _, last_four in keys} == set(LAST_FOURS)
    assert {"0000", "1234"} <= set(LAST_FOURS)


def test_people_occur_twice_in_a_file_and_again_in_corrections(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    twice = 0
    for name in counts.files:
        keys = Counter(read_key(row["id"]) for row in read_rows(folder / name) if row and not broken_rules(row))
        twice += sum(count - 1 for count in keys.values()) if name not in (COPY, CORRECTIONS) else 0
        assert name != CORRECTIONS or max(keys.values()) == 1
    corrections = len(read_rows(folder / CORRECTIONS))
    assert min(twice, corrections) > 0
    assert twice + corrections == counts.superseded


def test_names_have_commas_quotes_apostrophes_and_more_than_ascii(good: list[dict[str, str]]) -> None:
    names = {row["last_name"] for row in good}
    assert all(any(mark in name for name in names) for mark in (",", '"', "'"))
    assert any(not name.isascii() for name in names)


@pytest.mark.parametrize("field", ["first_name", "last_name", "age", "gender"])
def test_values_are_missing_in_every_spelling(good: list[dict[str, str]], field: str) -> None:
    assert {row.get(field, "") for row in good} >= {*MISSING, " "}


def test_signups_differ_by_weekday_and_grow(good: list[dict[str, str]]) -> None:
    counts = Counter(day for row in good if (day := read_date(row["visit_date"])))
    by_weekday, by_month = defaultdict[int, int](int), defaultdict[int, int](int)
    for day, count in counts.items():
        by_weekday[day.weekday()] += count
        by_month[day.month] += count
    assert by_weekday[6] < by_weekday[5] < by_weekday[4] / 1.5
    assert by_month[12] > 1.3 * by_month[1]
    assert min(counts) == date(2024, 1, 1)
    assert max(counts) == date(2024, 12, 31)
