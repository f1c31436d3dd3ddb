"""Sample files of the interactions source: the three sheets of an invented shop, 2017 to 2020, delivered twice.

First one workbook with all three sheets, then a newer CSV of each sheet that takes its place, with the quirks of the
real ones:
- in the workbook, dates are date cells or text, ids are numbers or text; blank rows are between the others, and there
  is a sheet that nobody announced;
- dates are day first, with and without seconds, zeros in front and a time, or as date cells are exported;
- several customers are separated by commas or semicolons; some are not in the customers sheet, some are no ids at all;
- types, occupations and products are missing in many spellings; channels, types and products are spelt in several ways;
- months have no product, one or several; rows are blank, repeated, or have a field too few or too many;
- files have a BOM and CRLF, are gzip, have semicolons, other headers, other columns in another order; one breaks off in
  its last row; one is delivered again under another name.
Newest of all are a workbook that lacks a sheet and an empty file: both are set aside, and change nothing.

Every bad row is bad for exactly one reason; reasons are the names of the rules in conf/sources/interactions.yaml.
Customers are numbers: nobody is meant.
"""

import csv
import io
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from openpyxl import Workbook
from openpyxl.writer.excel import ExcelWriter

from scripts.samples import SampleCounts
from scripts.samples.files import arriving, compressed

MINIMUM_ROWS = 100  # room for one row of every kind
MAXIMUM_ROWS = 5_000_000
WORKBOOK_ROWS = 20_000  # of interactions, at most: spreadsheets are not made for more, and slow to write
MINIMUM_CUSTOMERS = 20
ROWS_PER_FLAW = 500  # one row of every flaw in that many rows of its sheet, and at least one

_FIRST_YEAR, _MONTHS, _MONTHS_OF_FIRST_EXTRACT = 2017, 48, 42
_CHANNELS = ("Email",) * 9 + ("Call",) * 6 + ("Post",) * 3 + ("Carrier bird",) * 2 + ("Boat",)
_TYPES = ("Private",) * 6 + ("Business",) * 3 + ("Public body",)
_OCCUPATIONS = ("Baker", "Café owner", "Captain, retired", "Farmer", "Nurse", "Ship's cook", "Teacher")
_OTHER_OCCUPATION = "Beekeeper"
_PRODUCTS = ("Apple jam", "Honey", "Lamp oil", "Rope", "Sailcloth", "Smoked fish", "Tea")
_FIRST_UNLISTED_ID = 9_000_001
_UNTIDY_SHARE, _MISSING_SHARE = 0.04, 0.05

_MISSING = ("", " ", "NULL", "null", "N/A", "NaN")
_UNREADABLE = ("#REF!", "#N/A", "?" * 101)
_JUNK_IDS = ("x", "0", "-4", "1.5", "see notes", "#VALUE!")
_SEPARATORS = (",", ", ", ";", "; ")
_HOW_MANY = (1,) * 30 + (2, 3)
# Empty: without zeros in front.
_DATE_FORMS = ("%d/%m/%Y %H:%M",) * 12 + ("%d/%m/%Y %H:%M:%S", "%d/%m/%Y", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d", "")
_MONTH_FORMS = ("%m-%Y",) * 9 + ("%Y-%m-%dT%H:%M:%S",)

# Kind of row -> the field with the flaw, and its values. The names are those of the rules.
_FLAWS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "customer_id_readable": ("Customer_Id", (*_MISSING, *_JUNK_IDS)),
    "type_readable": ("Type", _UNREADABLE),
    "occupation_readable": ("Occupation", _UNREADABLE),
    "date_readable": ("Date Start", (*_MISSING, "not-a-date", "31/02/2019 09:00", "10/13/2019 09:00", "43742.375")),
    "channel_readable": ("Interaction", (*_MISSING, *_UNREADABLE)),
    "has_customer": ("Customers", (*_MISSING, *_JUNK_IDS, " ; ", "x, y")),
    "customers_readable": ("Customers", tuple(f"{junk};7" for junk in _JUNK_IDS)),
    "month_readable": ("Date", (*_MISSING, "13-2019", "Oct 2019", "10/2019", "2019")),
    "product_readable": ("Product", _UNREADABLE),
}
_MALFORMED, _BLANK = "row_complete", "row_filled"
_UNLISTED = "unlisted"  # an interaction with a customer who is not in the customers sheet
_LISTED_AGAIN = "listed_again"  # a customer once more, with another occupation
_SAME_AGAIN = "same_again"  # a row once more: of a customer or product a repetition, of interactions another one
_BAD_CUSTOMERS = ("customer_id_readable", _MALFORMED, _BLANK)
_BAD_INTERACTIONS = ("date_readable", "channel_readable", "has_customer", _MALFORMED, _BLANK)
_BAD_PRODUCTS = ("month_readable", "product_readable", _MALFORMED, _BLANK)
_BAD = tuple(dict.fromkeys((*_BAD_CUSTOMERS, *_BAD_INTERACTIONS, *_BAD_PRODUCTS)))
_OF_CUSTOMERS = (*_BAD_CUSTOMERS, "type_readable", "occupation_readable", _LISTED_AGAIN, _SAME_AGAIN)
_OF_INTERACTIONS = (*_BAD_INTERACTIONS, "customers_readable", _UNLISTED, _SAME_AGAIN)

CUSTOMERS, INTERACTIONS, PRODUCTS = "customers-2020-12.csv", "interactions-2020-12.csv.gz", "products-2020-12.csv"
FIRST_WORKBOOK, INCOMPLETE_WORKBOOK = "interactions-2020-06.xlsx", "interactions-2021-01.xlsx"
COPY, EMPTY = "products-2020-12 (1).csv", "customers-2021-01.csv"
# In the order of delivery.
_DELIVERED_AT = {
    FIRST_WORKBOOK: datetime(2020, 7, 1, tzinfo=UTC),
    CUSTOMERS: datetime(2021, 1, 4, tzinfo=UTC),
    INTERACTIONS: datetime(2021, 1, 5, tzinfo=UTC),
    PRODUCTS: datetime(2021, 1, 6, tzinfo=UTC),
    COPY: datetime(2021, 1, 7, tzinfo=UTC),
    INCOMPLETE_WORKBOOK: datetime(2021, 2, 1, tzinfo=UTC),
    EMPTY: datetime(2021, 2, 2, tzinfo=UTC),
}
# Name of a column in the file -> the field in it.
_HEADERS: Mapping[str, Mapping[str, str]] = {
    CUSTOMERS: {"Type": "Type", "customer_id": "Customer_Id", "Region": "Region", "Occupation": "Occupation"},
    INTERACTIONS: {"date_start": "Date Start", "event": "Interaction", "customers": "Customers"},
    PRODUCTS: {"Date": "Date", "Product": "Product"},
}
_BROKEN_OFF = "12-20"  # the last line of the products, without a product and without a line end

_Cell = str | int | float | datetime | None
_Row = dict[str, _Cell]
"""A row by column; a column that is not in it is blank, and a malformed row has no columns at all."""
_Line = tuple[str, _Row]
"""A kind, empty for a good row with nothing special about it, and the row."""
_Render = Callable[[random.Random, _Row], _Row]


def write(folder: Path, rows: int = 100_000, seed: int = 7) -> SampleCounts:
    """Write the sample into `folder` (made if need be): `rows` interactions in the newest CSV, and the other lines.

    The same rows and seed give the same bytes and modification times; the latter tell which delivery is the newest.
    The counts are of the three sheets together. All rows of the first workbook are superseded, bad ones among them.
    `warned` is what a run says: `customer_listed_once` counts every row of a customer with two that differ, and
    `customer_listed` the customers whom only interactions name; these have no line.
    Raises ValueError if `rows` is outside 100..5,000,000.
    """
    if not MINIMUM_ROWS <= rows <= MAXIMUM_ROWS:
        raise ValueError(f"rows must be from {MINIMUM_ROWS:,} to {MAXIMUM_ROWS:,}, not {rows:,}")
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    sheets = _first_extract(rng, min(rows // 2, WORKBOOK_ROWS))
    first_rows = sum(1 for lines in sheets.values() for row in lines if row)
    _write_workbook(folder, FIRST_WORKBOOK, seed, {**sheets, "Notes": [{"For": "the sales team", "Copies": 3}]})

    people, things, topics = Counter[str](), Counter[str](), Counter[str]()
    customers = _counted(_customers(rng, _customer_count(rows), _as_text), people)
    interactions = _counted(_interactions(rng, rows, _customer_count(rows), _MONTHS, _as_text), things)
    products = _counted(_products(rng, _MONTHS, _as_text), topics)
    _write_csv(folder, CUSTOMERS, seed, customers, start="\ufeff", newline="\r\n")
    _write_csv(folder, INTERACTIONS, seed, interactions)
    _write_csv(folder, PRODUCTS, seed, products, delimiter=";", end=_BROKEN_OFF)
    with _delivered(folder, COPY, seed) as copy, (folder / PRODUCTS).open("rb") as original:
        shutil.copyfileobj(original, copy)
    _write_workbook(folder, INCOMPLETE_WORKBOOK, seed, {name: sheets[name][:5] for name in list(sheets)[:2]})
    with _delivered(folder, EMPTY, seed):
        pass
    topics[_MALFORMED] += 1  # the line that breaks off
    return _counts(first_rows, people, things, topics, unlisted=_quota(rows))


def _counts(
    first_rows: int, people: Counter[str], things: Counter[str], topics: Counter[str], unlisted: int
) -> SampleCounts:
    lines = first_rows + people.total() + things.total() + topics.total()
    bad = {kind: people[kind] + things[kind] + topics[kind] for kind in _BAD}
    superseded = first_rows + people[_LISTED_AGAIN] + people[_SAME_AGAIN]
    return SampleCounts(
        lines=lines,
        valid=lines - superseded - topics[_SAME_AGAIN] - sum(bad.values()),
        duplicates=topics[_SAME_AGAIN],
        bad=bad,
        warned={
            **{kind: people[kind] for kind in ("type_readable", "occupation_readable")},
            "customer_listed_once": 2 * people[_LISTED_AGAIN],
            "customers_readable": things["customers_readable"],
            "customer_listed": unlisted,
        },
        files=tuple(_DELIVERED_AT),
        superseded=superseded,
    )


def _counted(lines: Iterable[_Line], counts: Counter[str]) -> Iterator[_Line]:
    for kind, row in lines:
        counts[kind] += 1
        yield kind, row


def _quota(size: int) -> int:
    return max(1, size // ROWS_PER_FLAW)


def _plan(rng: random.Random, size: int, kinds: Sequence[str]) -> dict[int, str]:
    """Row number -> what is special about that row. The first is not, so that there is one to repeat."""
    special = [kind for kind in kinds for _ in range(_quota(size))]
    return dict(zip(rng.sample(range(1, size), len(special)), special, strict=True))


def _customer_count(interactions: int) -> int:
    return max(MINIMUM_CUSTOMERS, interactions // 20)


# -- the rows of the three sheets --


def _first_extract(rng: random.Random, interactions: int) -> dict[str, list[_Row]]:
    """The sheets of the first workbook, with some blank rows."""
    customers, months = _customer_count(interactions), _MONTHS_OF_FIRST_EXTRACT
    sheets = {
        "Customers": _customers(rng, customers, _as_cells),
        "External interactions": _interactions(rng, interactions, customers, months, _as_cells),
        "Products of discussion": _products(rng, months, _as_cells),
    }
    return {name: [row for _, row in lines] for name, lines in sheets.items()}


def _customers(rng: random.Random, size: int, render: _Render) -> Iterator[_Line]:
    """Customers 1, 2, 3, ...; what is special comes after one of them, or is a flaw of one of them."""
    plan = _plan(rng, size, _OF_CUSTOMERS)
    for number in range(size):
        kind = plan.get(number, "")
        customer: _Row = {
            "Customer_Id": number + 1,
            "Occupation": _one_of(rng, _OCCUPATIONS),
            "Type": _one_of(rng, _TYPES),
            "Region": rng.choice(("north", "south")),
        }
        if kind in ("type_readable", "occupation_readable"):
            yield kind, render(rng, _spoilt(rng, kind, customer))
            continue
        yield "", render(rng, customer)
        if kind == _LISTED_AGAIN:
            yield kind, render(rng, {**customer, "Occupation": _OTHER_OCCUPATION})
        elif kind == _SAME_AGAIN:
            yield kind, render(rng, customer)
        elif kind:
            yield kind, render(rng, _spoilt(rng, kind, customer))


def _interactions(rng: random.Random, size: int, customers: int, months: int, render: _Render) -> Iterator[_Line]:
    """Interactions in the order of time; some customers have far more of them than others."""
    plan, unlisted, last = _plan(rng, size, _OF_INTERACTIONS), 0, _Row()
    minutes = (_month(months) - _month(0)) // timedelta(minutes=1)
    for number in range(size):
        kind = plan.get(number, "")
        ids = [1 + int(customers * rng.random() ** 2) for _ in range(rng.choice(_HOW_MANY))]
        if kind == _UNLISTED:
            ids = [_FIRST_UNLISTED_ID + unlisted, *ids[1:]]
            unlisted += 1
        row: _Row = {
            "Date Start": _month(0) + timedelta(minutes=int((number + rng.random()) / size * minutes)),
            "Interaction": _spelt(rng, rng.choice(_CHANNELS)),
            "Customers": ids[0] if len(ids) == 1 else rng.choice(_SEPARATORS).join(map(str, ids)),
        }
        if kind == _SAME_AGAIN:
            yield kind, last
        elif kind in _FLAWS or kind in (_MALFORMED, _BLANK):
            yield kind, render(rng, _spoilt(rng, kind, row))
        else:
            last = render(rng, row)
            yield kind, last


def _products(rng: random.Random, months: int, render: _Render) -> Iterator[_Line]:
    """None, one or several products a month. The first months and the last ones have every kind of row between them."""
    first_of_bad = months - len(_BAD_PRODUCTS)
    special = {0: ("Honey", "Rope"), 1: (), 2: ("",), **dict.fromkeys(range(first_of_bad, months), ("Tea",))}
    for number in range(months):
        some = rng.sample(_PRODUCTS, rng.choice((0, 1, 1, 1, 2, 2, 3)))
        names = special.get(number, some)
        rows: list[_Row] = [
            {"Date": _month(number), "Product": _spelt(rng, name) if name else rng.choice(_MISSING)} for name in names
        ]
        for row in rows:
            yield "", render(rng, row)
        if number in (0, 2):
            yield _SAME_AGAIN, render(rng, {"Date": _month(number), "Product": names[0].upper()})
        elif number >= first_of_bad:
            kind = _BAD_PRODUCTS[number - first_of_bad]
            yield kind, render(rng, _spoilt(rng, kind, rows[0]))


def _month(number: int) -> datetime:
    return datetime(_FIRST_YEAR + number // 12, number % 12 + 1, 1)


def _spoilt(rng: random.Random, kind: str, row: _Row) -> _Row:
    """The row with the flaw of that kind."""
    if kind == _MALFORMED:
        return {}
    if kind == _BLANK:
        return {field: rng.choice(_MISSING) for field in row if field != "Region"}
    field, values = _FLAWS[kind]
    return {**row, field: rng.choice(values)}


def _one_of(rng: random.Random, texts: Sequence[str]) -> str:
    return rng.choice(_MISSING) if rng.random() < _MISSING_SHARE else _spelt(rng, rng.choice(texts))


def _spelt(rng: random.Random, text: str) -> str:
    if rng.random() >= _UNTIDY_SHARE:
        return text
    return rng.choice((text.upper(), text.lower(), f" {text}", f"{text}\t", text.replace(" ", "  ")))


# -- as text, or as cells --


def _as_text(rng: random.Random, row: _Row) -> _Row:
    return {field: _text(rng, field, value) for field, value in row.items()}


def _as_cells(rng: random.Random, row: _Row) -> _Row:
    """Half of the dates stay dates, most ids numbers; a text of blanks alone is an empty cell."""
    cells: _Row = {}
    for field, value in row.items():
        if isinstance(value, datetime) and rng.random() < 0.5:
            cells[field] = value
        elif isinstance(value, int) and rng.random() < 0.9:
            cells[field] = value if rng.random() < 0.9 else float(value)
        elif field != "Region":
            cells[field] = _text(rng, field, value) or None
    return cells if any(str(value or "").strip() for value in cells.values()) else {}


def _text(rng: random.Random, field: str, value: _Cell) -> str:
    if isinstance(value, datetime):
        form = rng.choice(_MONTH_FORMS if field == "Date" else _DATE_FORMS)
        return value.strftime(form) if form else f"{value.day}/{value.month}/{value.year} {value.hour}:{value:%M}"
    if isinstance(value, int) and rng.random() < _UNTIDY_SHARE:
        return rng.choice((f"{value}.0", f" {value}", f"{value} "))
    return str(value)


# -- files --


@contextmanager
def _delivered(folder: Path, name: str, seed: int) -> Iterator[BinaryIO]:
    """A file to write to, with the modification time of its delivery.

    That differs by seed: a sample of another seed must not be taken for the one that was there before.
    """
    at = (_DELIVERED_AT[name] + timedelta(seconds=seed % 86_400)).timestamp()
    with arriving(folder / name) as file:
        yield file
        file.flush()
        os.utime(file.fileno(), (at, at))


def _write_csv(
    folder: Path,
    name: str,
    seed: int,
    lines: Iterable[_Line],
    start: str = "",
    newline: str = "\n",
    delimiter: str = ",",
    end: str = "",
) -> None:
    """The lines below the file's header. A malformed one has a field too few or too many."""
    header = _HEADERS[name]
    with _delivered(folder, name, seed) as file, compressed(file, name) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        text.write(start)
        rows = csv.writer(text, delimiter=delimiter, lineterminator=newline)
        rows.writerow(header)
        for number, (kind, row) in enumerate(lines):
            if kind == _MALFORMED:
                rows.writerow(["?"] * (len(header) + (-1 if number % 2 else 1)))
            else:
                rows.writerow([row.get(field, "") for field in header.values()])
        text.write(end)
        text.flush()
        text.detach()


def _write_workbook(folder: Path, name: str, seed: int, sheets: Mapping[str, list[_Row]]) -> None:
    """One sheet each; the first row of each has all of its columns."""
    workbook = Workbook(write_only=True)
    workbook.properties.created = workbook.properties.modified = _DELIVERED_AT[name].replace(tzinfo=None)
    for title, rows in sheets.items():
        sheet = workbook.create_sheet(title)
        header = list(rows[0])
        sheet.append(header)
        for row in rows:
            sheet.append([row.get(field) for field in header])
    saved = io.BytesIO()
    with ZipFile(saved, "w") as archive:
        ExcelWriter(workbook, archive).write_data()
    # Once more, without the time at which each part was written: it would make the same content differ.
    with _delivered(folder, name, seed) as file, ZipFile(saved) as parts, ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for part in parts.namelist():
            archive.writestr(ZipInfo(part), parts.read(part), ZIP_DEFLATED)
