"""The interactions sample, read back without Spark by a reader that shares nothing with the writer."""

import csv
import gzip
import hashlib
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import load_workbook

from scripts.samples import SampleCounts
from scripts.samples.interactions import (
    COPY,
    CUSTOMERS,
    EMPTY,
    FIRST_WORKBOOK,
    INCOMPLETE_WORKBOOK,
    INTERACTIONS,
    MAXIMUM_ROWS,
    PRODUCTS,
    write,
)

MISSING = {"", "NULL", "null", "N/A", "NaN"}
SHEETS = ["Customers", "External interactions", "Products of discussion"]
Row = dict[str, str] | None


def read_text(path: Path) -> str:
    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode("utf-8-sig")


def read_csv(path: Path) -> list[Row]:
    """Per row its trimmed values by name, missing ones empty; None for one with too few or too many fields."""
    text = read_text(path)
    header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in text.splitlines()[0] else ",")
    return [
        {name: "" if value.strip() in MISSING else value.strip() for name, value in zip(header, row, strict=True)}
        if len(row) == len(header)
        else None
        for row in rows
    ]


def read_sheet(path: Path, sheet: str) -> list[tuple[Any, ...]]:
    """The cells of the rows below the header."""
    return list(load_workbook(path)[sheet].iter_rows(min_row=2, values_only=True))


def filled(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [row for row in rows if any(str(cell).strip() for cell in row if cell is not None)]


def read_id(text: str) -> int | None:
    return int(text.split(".")[0]) if re.fullmatch(r"[0-9]+(\.0*)?", text) and float(text) > 0 else None


def read_time(text: str) -> datetime | None:
    for form in ("%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d", "%m-%Y"):
        try:
            return datetime.strptime(text, form)
        except ValueError:
            pass
    return None


def is_label(text: str) -> bool:
    return len(text) <= 100 and not text.startswith("#")


def named(text: str) -> tuple[list[int], bool]:
    """The ids in a text, and whether something else is in it."""
    found = [read_id(part.strip()) for part in re.split("[,;]", text) if part.strip()]
    return [number for number in found if number], None in found


def broken(row: Row, rules: dict[str, bool]) -> str | None:
    """The one rule that the row breaks, if any; `rules` says of each whether the row keeps it."""
    names = [name for name, is_kept in rules.items() if not is_kept]
    assert len(names) < 2, row
    return names[0] if names else None


def split(rows: list[Row], fields: list[str]) -> tuple[list[dict[str, str]], Counter[str]]:
    """The rows with anything in these fields, and how many are malformed or blank."""
    whole = [row for row in rows if row is not None]
    some = [row for row in whole if any(row[field] for field in fields)]
    bad = Counter(row_complete=len(rows) - len(whole), row_filled=len(whole) - len(some))
    return some, bad


def count_again(folder: Path, files: tuple[str, ...]) -> SampleCounts:
    by_file = {name: read_csv(folder / name) for name in (CUSTOMERS, INTERACTIONS, PRODUCTS)}
    warned: Counter[str] = Counter()
    usable = duplicates = 0

    people, bad = split(by_file[CUSTOMERS], ["customer_id", "Occupation", "Type"])
    listed: dict[int, list[tuple[str, str]]] = {}
    for row in people:
        number = read_id(row["customer_id"])
        if number is None:
            bad["customer_id_readable"] += 1
            continue
        warned["type_readable"] += not is_label(row["Type"])
        warned["occupation_readable"] += not is_label(row["Occupation"])
        listed.setdefault(number, []).append((row["Occupation"], row["Type"].lower()))
    repeated = sum(len(rows) - 1 for rows in listed.values())
    warned["customer_listed_once"] += sum(len(rows) for rows in listed.values() if len(set(rows)) > 1)
    usable += len(listed)

    things, more = split(by_file[INTERACTIONS], ["date_start", "event", "customers"])
    bad += more
    all_named = set[int]()
    for row in things:
        ids, has_others = named(row["customers"])
        why = broken(
            row,
            {
                "date_readable": read_time(row["date_start"]) is not None,
                "channel_readable": bool(row["event"]) and is_label(row["event"]),
                "has_customer": bool(ids),
            },
        )
        if why:
            bad[why] += 1
            continue
        usable += 1
        warned["customers_readable"] += has_others
        all_named |= set(ids)
    warned["customer_listed"] = len(all_named - listed.keys())

    topics, more = split(by_file[PRODUCTS], ["Date", "Product"])
    bad += more
    seen = set[tuple[datetime | None, str]]()
    for row in topics:
        month = read_time(row["Date"])
        why = broken(row, {"month_readable": month is not None, "product_readable": is_label(row["Product"])})
        if why:
            bad[why] += 1
            continue
        key = (month, " ".join(row["Product"].lower().split()))
        duplicates += key in seen
        seen.add(key)
    usable += len(seen)

    first = sum(len(filled(read_sheet(folder / FIRST_WORKBOOK, sheet))) for sheet in SHEETS)
    lines = first + sum(map(len, by_file.values()))
    return SampleCounts(lines, usable, duplicates, dict(bad), dict(warned), files, first + repeated)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SampleCounts]:
    folder = tmp_path_factory.mktemp("landing") / "interactions"
    return folder, write(folder, rows=5_001)


def test_the_counts_are_what_an_independent_reader_finds(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    assert count_again(folder, counts.files) == counts
    assert len(read_csv(folder / INTERACTIONS)) == 5_001


@settings(max_examples=15)
@given(rows=st.integers(100, 700), seed=st.integers())
def test_the_counts_hold_for_any_size_and_seed(tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    counts = write(folder, rows, seed)
    assert counts.lines == counts.valid + counts.duplicates + counts.superseded + sum(counts.bad.values())
    assert count_again(folder, counts.files) == counts


def test_every_kind_of_flaw_is_there_in_the_smallest_sample(tmp_path: Path) -> None:
    counts = write(tmp_path, rows=100)
    assert (len(counts.bad), len(counts.warned)) == (8, 5)
    assert min(counts.duplicates, counts.superseded, *counts.bad.values(), *counts.warned.values()) > 0


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_same_rows_and_seed_give_the_same_bytes_and_times(tmp_path: Path) -> None:
    assert write(tmp_path / "a", 1_000, seed=3) == write(tmp_path / "b", 1_000, seed=3)
    write(tmp_path / "c", 1_000, seed=4)
    first, second, other_seed = digests(tmp_path / "a"), digests(tmp_path / "b"), digests(tmp_path / "c")
    assert first == second
    assert {name for name in first if first[name] == other_seed[name]} == {EMPTY}
    times = [{path.name: path.stat().st_mtime for path in (tmp_path / folder).iterdir()} for folder in "abc"]
    assert times[0] == times[1]
    assert not {*times[0].items()} & {*times[2].items()}


def test_a_workbook_does_not_tell_when_it_was_made(sample: tuple[Path, SampleCounts]) -> None:
    folder, _ = sample
    for name in (FIRST_WORKBOOK, INCOMPLETE_WORKBOOK):
        with zipfile.ZipFile(folder / name) as parts:
            assert {part.date_time for part in parts.infolist()} == {(1980, 1, 1, 0, 0, 0)}
            years = re.findall(rb">(\d{4})-\d\d-\d\dT", parts.read("docProps/core.xml"))
            assert set(years) <= {b"2020", b"2021"}


def test_only_whole_files_are_left_and_times_are_those_of_delivery(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    by_time = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    assert [path.name for path in by_time] == list(counts.files)
    assert counts.files[0] == FIRST_WORKBOOK
    assert {datetime.fromtimestamp(path.stat().st_mtime, UTC).year for path in by_time} == {2020, 2021}


@pytest.mark.parametrize("rows", [0, 99, MAXIMUM_ROWS + 1])
def test_a_size_that_cannot_be_made_is_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(ValueError, match="rows must be from 100 to 5,000,000"):
        write(tmp_path / "interactions", rows)
    assert not (tmp_path / "interactions").exists()


def test_files_come_in_every_form(sample: tuple[Path, SampleCounts]) -> None:
    folder, _ = sample
    customers = (folder / CUSTOMERS).read_bytes()
    assert customers.startswith(b"\xef\xbb\xbfType,customer_id,Region,Occupation\r\n")
    assert customers.count(b"\n") == customers.count(b"\r\n")
    assert gzip.decompress((folder / INTERACTIONS).read_bytes()).startswith(b"date_start,event,customers\n")
    products = (folder / PRODUCTS).read_bytes()
    assert products.startswith(b"Date;Product\n")
    assert products.endswith(b"\n12-20")
    assert (folder / COPY).read_bytes() == products
    assert (folder / EMPTY).read_bytes() == b""


def test_the_first_delivery_is_one_workbook_with_a_sheet_to_be_ignored(sample: tuple[Path, SampleCounts]) -> None:
    folder, _ = sample
    workbook = load_workbook(folder / FIRST_WORKBOOK)
    assert workbook.sheetnames == [*SHEETS, "Notes"]
    headers = [[cell.value for cell in next(workbook[sheet].iter_rows())] for sheet in SHEETS]
    assert headers == [
        ["Customer_Id", "Occupation", "Type"],
        ["Date Start", "Interaction", "Customers"],
        ["Date", "Product"],
    ]
    assert load_workbook(folder / INCOMPLETE_WORKBOOK).sheetnames == SHEETS[:2]


def test_cells_are_dates_numbers_and_text_and_some_rows_are_blank(sample: tuple[Path, SampleCounts]) -> None:
    folder, _ = sample
    customers, interactions, products = (read_sheet(folder / FIRST_WORKBOOK, sheet) for sheet in SHEETS)
    assert {type(row[0]) for row in interactions} >= {datetime, str}
    assert {type(row[2]) for row in interactions} >= {int, str}
    assert {type(row[0]) for row in products} >= {datetime, str}
    assert all(len(filled(rows)) < len(rows) for rows in (customers, interactions, products))
    assert max(time for row in interactions if isinstance(time := row[0], datetime)) < datetime(2020, 7, 1)


def test_a_large_sample_has_a_workbook_of_moderate_size(tmp_path: Path) -> None:
    write(tmp_path, rows=41_000)
    assert len(read_sheet(tmp_path / FIRST_WORKBOOK, SHEETS[1])) == 20_000


@pytest.fixture(scope="module")
def interactions(sample: tuple[Path, SampleCounts]) -> list[dict[str, str]]:
    folder, _ = sample
    rows = [row for row in read_csv(folder / INTERACTIONS) if row]
    return [row for row in rows if read_time(row["date_start"]) and named(row["customers"])[0]]


def test_dates_come_in_every_spelling(interactions: list[dict[str, str]]) -> None:
    shapes = {re.sub(r"\d", "9", row["date_start"]) for row in interactions}
    assert shapes > {"99/99/9999 99:99", "99/99/9999 99:99:99", "99/99/9999", "9999-99-99T99:99:99", "9999-99-99"}
    assert "9/9/9999 9:99" in shapes


def test_one_or_several_customers_are_named_and_rows_are_repeated(interactions: list[dict[str, str]]) -> None:
    texts = [row["customers"] for row in interactions]
    assert {re.sub(r"[^,;]", "", text) for text in texts} >= {"", ",", ";", ",,", ";;"}
    assert any(text.endswith(".0") for text in texts)
    assert max(Counter(tuple(row.values()) for row in interactions).values()) > 1


def test_channels_types_and_products_are_spelt_in_several_ways(sample: tuple[Path, SampleCounts]) -> None:
    folder, _ = sample
    for name, field in ((CUSTOMERS, "Type"), (INTERACTIONS, "event")):
        spellings = {row[field] for row in read_csv(folder / name) if row and is_label(row[field])}
        assert len({" ".join(text.lower().split()) for text in spellings}) < len(spellings)


def test_months_have_no_product_one_or_several(sample: tuple[Path, SampleCounts]) -> None:
    folder, _ = sample
    rows = [row for row in read_csv(folder / PRODUCTS) if row and read_time(row["Date"])]
    counts = Counter(read_time(row["Date"]) for row in rows if row["Product"])
    assert {1, 2} < set(counts.values())
    assert datetime(2017, 2, 1) not in {read_time(row["Date"]) for row in rows}
    assert datetime(2017, 3, 1) in {read_time(row["Date"]) for row in rows if not row["Product"]}
    assert datetime(2017, 3, 1) not in counts
