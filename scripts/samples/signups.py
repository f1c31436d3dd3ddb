"""Sample files of the signups source: CSV, one line a person who signed up in 2024 at an invented place.

One file a month and one of corrections, with the quirks of the real exports:
- dates are `YYYY-MM-DD`, in two months `MM/DD/YYYY`, in one with a time of day;
- people share a user id and differ in the last four digits; ages, names and genders are missing in many spellings;
- names have commas, quotes, apostrophes and letters beyond ASCII;
- files are plain, gzip, with BOM and CRLF, or Windows-1252 (July); columns come in another order, with one that nobody
  announced, or without one; one file is delivered again under another name; one is empty, one has a header only; one
  breaks off in its last line;
- people occur twice in a file, and again in the file of corrections.
More sign up on weekdays than on weekends, and more from month to month, so that forecasters differ.

Every bad line is bad for exactly one reason; reasons are the names of the rules in conf/sources/signups.yaml. Nobody is
meant: names are random combinations, user ids count up from 1000, and the last four digits of a social security number
are one of ten texts such as 0000 and 1234 that were plainly made up.
"""

import csv
import io
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate, chain, islice, pairwise
from pathlib import Path
from typing import BinaryIO

from scripts.samples import SampleCounts
from scripts.samples.files import arriving, compressed

MINIMUM_ROWS = 200  # room for one line of every kind in some month, and a correction
MAXIMUM_ROWS = 5_000_000  # a tenth of the lines is kept in memory, to choose from for the corrections
LINES_PER_FLAW = 500  # one line of every flaw in that many lines, and at least one
LINES_PER_CORRECTION = 50
LAST_FOURS = ("0000", "0001", "0007", "0012", "0123", "1111", "1234", "2222", "4321", "9999")

_FIRST = (
    "Adaeze", "Amélie", "Bo", "Callum", "Chidi", "Dina", "Emre", "Farah", "Frank", "Gwen", "Hana", "Ivo", "Jun",
    "Kofi", "Lena", "Mateo", "Nia", "Ola", "Priya", "Renée", "Susan", "Yan", "Zoë",
)  # fmt: skip
_LAST = (
    "Abara", "Brontë", "D'Angelo", "Delacroix", "Fields, Jr.", "Fischer", "García", "Ito", "Jansen", "Kowalski",
    "López-Patel", "Müller", "O'Neil", "Okafor", 'Petrov "the 2nd"', "Quispe", "Silva", "Tanaka", "Yamada",
)  # fmt: skip
_GENDERS = ("Female", "Male", "Female", "Male", "Non-binary", "female", "M", "Prefer not to say")
_MISSING = ("", " ", "NULL", "null", "N/A", "NaN")

_FIELDS = ("id", "first_name", "last_name", "age", "gender", "visit_date")
_Row = dict[str, str]

# Rule -> values of one field that break it and no other rule.
_BAD = {
    "id_readable": (
        "id",
        (*_MISSING, "1043", "1043-0276", "1043  0276", "1043 276", "x 0276", "-5 0276", "9" * 20 + " 0001"),
    ),
    "visit_date_readable": (
        "visit_date",
        (*_MISSING, "not-a-date", "2024-02-30", "13/45/2024", "32/13/2024", "05-06-2024", "1/2/24"),
    ),
}
_MALFORMED = "complete_row"
_WARNED = {
    "age_readable": ("age", ("abc", "forty", "34.5", "3O", "12 months")),
    "age_in_range": ("age", ("-1", "121", "150", "999")),
}
_AGAIN = "again"  # the person of an earlier line of the file once more
_FLAWS = {**_BAD, **_WARNED}

_FIRST_DAY, _DAYS = date(2024, 1, 1), 366
_WEEKDAY_LOAD = (12, 11, 10, 10, 9, 4, 3)  # Monday first
_GROWTH = 0.6  # the last day of the year has that much more than the first


@dataclass(frozen=True)
class _Delivery:
    """One file; of a month, if it is not of corrections."""

    name: str
    month: int = 0
    fields: tuple[str, ...] = _FIELDS
    dates: str = "%Y-%m-%d"
    encoding: str = "utf-8"
    newline: str = "\n"
    is_broken_off: bool = False

    @property
    def takes_special_lines(self) -> bool:
        """None in the file in another encoding: if it is set aside, nothing but its valid lines is missing."""
        return self.encoding != "cp1252"


_DELIVERIES = (
    _Delivery("signups-2024-01.csv", 1),
    _Delivery("signups-2024-02.csv.gz", 2),
    _Delivery("signups-2024-03.csv", 3, encoding="utf-8-sig", newline="\r\n"),
    _Delivery("signups-2024-04.csv", 4, dates="%m/%d/%Y"),
    _Delivery("signups-2024-05.csv", 5, fields=("visit_date", "last_name", "first_name", "id", "gender", "age")),
    _Delivery("signups-2024-06.csv", 6, fields=(*_FIELDS[:3], "clinic", *_FIELDS[3:])),
    _Delivery("signups-2024-07.csv", 7, encoding="cp1252"),
    _Delivery("signups-2024-08.csv.gz", 8, dates="%m/%d/%Y"),
    _Delivery("signups-2024-09.csv", 9, dates="%Y-%m-%d 00:00:00"),
    _Delivery("signups-2024-10.csv", 10),
    _Delivery("signups-2024-11.csv", 11, fields=("id", "first_name", "last_name", "age", "visit_date")),
    _Delivery("signups-2024-12.csv", 12, is_broken_off=True),
)
_CORRECTIONS = _Delivery("signups-2024-corrections.csv")
_REDELIVERED, _REDELIVERED_AS = "signups-2024-05.csv", "signups-2024-05 (1).csv"
_EMPTY, _HEADER_ONLY = "signups-2025-01.csv", _Delivery("signups-2025-02.csv")
# In the order of delivery, and of names and times: corrections are newer than what they correct.
_MONTHS = tuple(delivery.name for delivery in _DELIVERIES)
_FILES = (*_MONTHS, _CORRECTIONS.name, _REDELIVERED_AS, _EMPTY, _HEADER_ONLY.name)


def write(folder: Path, rows: int = 20_000, seed: int = 7) -> SampleCounts:
    """Write the sample into `folder` (made if need be): `rows` lines, less headers, in all distinct files together.

    The same rows and seed give the same bytes. Raises ValueError if `rows` is outside 200..5,000,000.
    """
    if not MINIMUM_ROWS <= rows <= MAXIMUM_ROWS:
        raise ValueError(f"rows must be from {MINIMUM_ROWS:,} to {MAXIMUM_ROWS:,}, not {rows:,}")
    rng = random.Random(seed)
    corrections = rows // LINES_PER_CORRECTION
    days = _people_per_day(rng, rows - corrections)
    plans = _plans(rng, [sum(counts.values()) for counts in days], rows)
    people = _people(rng)
    correctable: list[_Row] = []
    folder.mkdir(parents=True, exist_ok=True)
    for delivery, counts, plan in zip(_DELIVERIES, days, plans, strict=True):
        _write(folder, delivery, _lines(rng, delivery, counts, plan, people, correctable))
    newer = [_corrected(rng, row) for row in rng.sample(correctable, corrections)]
    _write(folder, _CORRECTIONS, (list(row.values()) for row in newer))
    with arriving(folder / _REDELIVERED_AS) as copy, (folder / _REDELIVERED).open("rb") as original:
        shutil.copyfileobj(original, copy)
    with arriving(folder / _EMPTY):
        pass
    _write(folder, _HEADER_ONLY, iter(()))
    return _counts(rows, corrections, plans)


def _counts(rows: int, corrections: int, plans: list[dict[int, str]]) -> SampleCounts:
    lines = Counter(kind for plan in plans for kind in plan.values())
    bad = {kind: lines[kind] for kind in (_MALFORMED, *_BAD)}
    superseded = lines[_AGAIN] + corrections
    return SampleCounts(
        lines=rows,
        valid=rows - superseded - sum(bad.values()),
        duplicates=0,
        bad=bad,
        warned={kind: lines[kind] for kind in _WARNED},
        files=_FILES,
        superseded=superseded,
    )


def _people_per_day(rng: random.Random, rows: int) -> list[dict[date, int]]:
    """Per month: day -> how many lines, `rows` in all. A day may have none."""
    days = [_FIRST_DAY + timedelta(days=number) for number in range(_DAYS)]
    weights = [
        _WEEKDAY_LOAD[day.weekday()] * (1 + _GROWTH * number / _DAYS) * rng.uniform(0.9, 1.1)
        for number, day in enumerate(days)
    ]
    ends = [round(rows * weight / sum(weights)) for weight in accumulate(weights, initial=0.0)]
    counts = dict(zip(days, (end - start for start, end in pairwise(ends)), strict=True))
    return [{day: n for day, n in counts.items() if day.month == delivery.month} for delivery in _DELIVERIES]


def _plans(rng: random.Random, sizes: list[int], rows: int) -> list[dict[int, str]]:
    """Per file: line number -> what is special about that line. The first is not, so that there is one to repeat."""
    takers = [number for number, delivery in enumerate(_DELIVERIES) if delivery.takes_special_lines]
    kinds: list[list[str]] = [[] for _ in sizes]
    quota = max(1, rows // LINES_PER_FLAW)
    for offset, kind in enumerate((_MALFORMED, *_FLAWS, _AGAIN)):
        for number in range(quota):
            kinds[takers[(2 * offset + number) % len(takers)]].append(kind)
    plans = []
    for delivery, size, special in zip(_DELIVERIES, sizes, kinds, strict=True):
        plan = dict(zip(rng.sample(range(1, size - 1), len(special)), special, strict=True))
        if delivery.is_broken_off:
            plan[size - 1] = _MALFORMED
        plans.append(plan)
    return plans


def _people(rng: random.Random) -> Iterator[_Row]:
    """New people without end, no two with the same id; the date is yet to be set."""
    for user_id in range(1000, 2**63):
        four = user_id % len(LAST_FOURS)
        sharing = 2 if rng.random() < 0.03 else 1
        for last_four in islice(LAST_FOURS * 2, four, four + sharing):
            yield {
                "id": f"{user_id} {last_four}",
                "first_name": _one_of(rng, _FIRST),
                "last_name": _one_of(rng, _LAST),
                "age": _one_of(rng, [str(min(int(rng.gammavariate(6, 7)), 110))]),
                "gender": _one_of(rng, _GENDERS),
                "visit_date": "",
            }


def _one_of(rng: random.Random, values: tuple[str, ...] | list[str]) -> str:
    return rng.choice(_MISSING) if rng.random() < 0.02 else rng.choice(values)


def _lines(
    rng: random.Random,
    delivery: _Delivery,
    counts: dict[date, int],
    plan: dict[int, str],
    people: Iterator[_Row],
    correctable: list[_Row],
) -> Iterator[list[str]]:
    """The fields of each line of one file. Adds some of the good ones to `correctable`, in the common form."""
    dates = chain.from_iterable([day] * count for day, count in counts.items())
    good: list[_Row] = []
    for number, day in enumerate(dates):
        kind = plan.get(number)
        row = next(people) if kind != _AGAIN else dict(rng.choice(good))
        row["visit_date"] = day.strftime(delivery.dates)
        if kind == _AGAIN:
            # Either line may be the later one: the date decides, not the order.
            row["visit_date"] = rng.choice([day, day.replace(day=1)]).strftime(delivery.dates)
            row["age"] = str(rng.randint(18, 80))
        elif kind in _FLAWS:
            field, values = _FLAWS[kind]
            row[field] = rng.choice(values)
        elif kind is None and delivery.takes_special_lines and (number == 0 or rng.random() < 0.1):
            good.append(row)
            correctable.append({**row, "visit_date": str(day)})
        fields = [row.get(field, "north") for field in delivery.fields]
        if kind == _MALFORMED:
            is_last = delivery.is_broken_off and number == sum(counts.values()) - 1
            fields = fields[:2] if is_last or rng.random() < 0.5 else [*fields, "?"]
        yield fields


def _corrected(rng: random.Random, row: _Row) -> _Row:
    """The signup as it should have been: another last name, age or day."""
    moved = date.fromisoformat(row["visit_date"]) + timedelta(days=rng.choice([-1, 1]))
    last_day = _FIRST_DAY + timedelta(days=_DAYS - 1)
    corrections = {
        "last_name": _one_of(rng, _LAST),
        "age": str(rng.randint(18, 80)),
        "visit_date": str(min(max(moved, _FIRST_DAY), last_day)),
    }
    field = rng.choice(list(corrections))
    return {**row, field: corrections[field]}


def _write(folder: Path, delivery: _Delivery, lines: Iterator[list[str]]) -> None:
    with arriving(folder / delivery.name) as file, compressed(file, delivery.name) as stream:
        _write_lines(stream, delivery, chain([list(delivery.fields)], lines))


def _write_lines(stream: BinaryIO, delivery: _Delivery, lines: Iterator[list[str]]) -> None:
    """A byte order mark only at the start, a line end between lines, and one at the end unless the file breaks off."""
    before = "\ufeff" if delivery.encoding == "utf-8-sig" else ""
    encoding = delivery.encoding.removesuffix("-sig")
    while chunk := list(islice(lines, 5_000)):
        text = io.StringIO()
        csv.writer(text, lineterminator=delivery.newline).writerows(chunk)
        stream.write((before + text.getvalue().removesuffix(delivery.newline)).encode(encoding))
        before = delivery.newline
    if not delivery.is_broken_off:
        stream.write(before.encode(encoding))
