"""Sample files of the contacts source: one JSON object a line, one line a contact of an invented crisis line in 2023.

One file a month and one of late entries, with the quirks of the real exports:
- lists are Python reprs inside JSON strings; a name with an apostrophe is in double quotes, a single transfer time
  is a `datetime.datetime(...)`, several are strings;
- contacts come back to a former counselor, cross midnight, begin at the same second, last no time at all;
- pronouns, issues, ratings, names and places are missing in many spellings; keys come in another order; from October
  on there is a key that nobody announced;
- files are plain, gzip, bzip2, or with BOM and CRLF; one escapes all but ASCII; one is delivered again under another
  name; one is empty; one breaks off in its last line;
- lines are repeated within a file and in the next one.
Every bad line is bad for exactly one reason. Counselors, clients and places are random combinations: nobody is meant.
"""

import json
import random
import re
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from pathlib import Path

from scripts.samples import SampleCounts
from scripts.samples.files import arriving, broken_off, shares, write_lines

MINIMUM_ROWS = 100  # room for one line of every kind
MAXIMUM_ROWS = 8_000_000  # contacts begin at even seconds of one year, late entries at odd ones: no two are alike
LINES_PER_FLAW = 10_000  # one line of every flaw in that many lines, and at least one
REPEATS_PER_THOUSAND = {"repeated": 3, "repeated_from_last_file": 2}

_FIRST = (
    "Adaeze", "Amélie", "Bo", "Callum", "Chidi", "Dina", "Emre", "Farah", "Frank", "Gwen", "Hana", "Ivo", "Jun",
    "Kofi", "Lena", "Mateo", "Nia", "Ola", "Priya", "Renée", "Susan", "Yan", "Yu", "Zoë",
)  # fmt: skip
_LAST = (
    "Abara", "Brontë", "D'Angelo", "Delacroix", "Fischer", "García", "Haddad", "Ito", "Jansen", "Kowalski",
    "Lindqvist", "López-Patel", "M'Bala", "Müller", "Nguyễn", "Novák", "O'Neil", "Okafor", "Petrov", "Quispe",
    "Silva", "Tanaka", "Virtanen", "Yamada",
)  # fmt: skip
_PLACES = ("Austin", "Coeur d'Alene", "Duluth", "Española", "Fargo", "Montréal", "New York", "Ojai", "Reno", "Xenia")
_ISSUES = ("Anxiety", "Bullying", "Family", "Grief", "Parent's illness", "Relationship", "School", "Self-harm", "Work")
_PRONOUNS: tuple[list[str], ...] = (
    *[["She/Her"]] * 8, *[["He/Him"]] * 7, *[["They/Them"]] * 4, *[["She/Her", "They/Them"]] * 2,
    ["They/Them", "She/Her"], ["He/Him", "They/Them"], ["Ze/Zir"], ["She/Her", "He/Him", "They/Them"], [],
)  # fmt: skip
_COUNSELORS = 60
# Calls per hour of the day: the evening is busy, so calls cross midnight.
_HOURLY_LOAD = (7, 5, 3, 2, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 6, 6, 7, 8, 9, 10, 11, 11, 10, 9)

# In a record, every value is the JSON text that will stand in the line; None leaves the key out.
_Record = dict[str, str | None]
_MISSING = (None, "null", '""', '" "', '"NULL"', '"N/A"', '"NaN"')
_JUNK_TIMES = (*_MISSING, '"not-a-date"', '"2023-02-30 10:00:00"')


@dataclass(frozen=True)
class _Flaw:
    """A good contact with that many transfers, spoiled by giving one field one of these values."""

    field: str
    values: Sequence[str | None]
    transfers: int = 0


_BAD = {
    "no_start": _Flaw("time_call_began", _JUNK_TIMES),
    "no_end": _Flaw("time_call_ended", _JUNK_TIMES),
    "end_before_start": _Flaw("time_call_ended", ['"2022-12-31 23:59:59"']),
    "no_counselor": _Flaw("counselors", (*_MISSING, '"[]"')),
    "transfer_count": _Flaw("transfer_timestamps", ['"[]"'], transfers=2),
    "transfer_outside_call": _Flaw(
        "transfer_timestamps",
        ['"[datetime.datetime(2022, 12, 31, 23, 59)]"', '"[datetime.datetime(2024, 2, 1, 0, 0, 0, 1)]"'],
        transfers=1,
    ),
}
_BAD_LINES = ("not_json", "not_utf8")
_WARNED = {
    "rating_out_of_range": _Flaw("call_rating", ["0", "6", "10", "-1"]),
    "risk_out_of_range": _Flaw("initial_risk_level", ["0", "6", "7", "-3"]),
}

_EPOCH = datetime(2023, 1, 1)
_DAY = 24 * 60 * 60
# Formatting a time anew in every line would cost more than all the rest of the line.
_DATES = [str((_EPOCH + timedelta(days=day)).date()) for day in range(367)]
_CLOCK = [f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}" for second in range(_DAY)]
# Seconds of the day between which equally many calls begin.
_LOAD_STEPS = [hour * 3600 + part * 3600 // load for hour, load in enumerate(_HOURLY_LOAD) for part in range(load)]
_LOAD_STEPS.append(_DAY)


@dataclass(frozen=True)
class _Delivery:
    """One file: its contacts begin on `days` days from `first_day` (0 = 1 January 2023), at odd seconds if `late`."""

    name: str
    first_day: int
    days: int
    late: bool = False
    start: str = ""
    newline: str = "\n"
    escaped: bool = False
    has_queue: bool = False
    is_broken_off: bool = False


_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_SUFFIXES = {2: ".gz", 3: ".bz2", 8: ".gz"}
_DELIVERIES = [
    *(
        _Delivery(
            name=f"contacts-2023-{month:02}.jsonl{_SUFFIXES.get(month, '')}",
            first_day=first_day,
            days=_MONTH_DAYS[month - 1],
            start="\ufeff" if month == 4 else "",
            newline="\r\n" if month == 4 else "\n",
            escaped=month == 6,
            has_queue=month >= 10,
            is_broken_off=month == 12,
        )
        for month, first_day in enumerate(accumulate(_MONTH_DAYS[:-1], initial=0), start=1)
    ),
    _Delivery("contacts-2023-late.jsonl", first_day=0, days=365, late=True),
]
_LATE_SHARE_IN_DAYS = 7
_REDELIVERED, _REDELIVERED_AS = "contacts-2023-05.jsonl", "contacts-2023-05 (1).jsonl"
_EMPTY = "contacts-2024-01.jsonl"


def write(folder: Path, rows: int = 100_000, seed: int = 7) -> SampleCounts:
    """Write the sample into `folder` (made if need be): `rows` lines in all distinct files together.

    The same rows and seed give the same bytes. Memory does not grow with `rows`, but for a list of the special lines.
    Raises ValueError if `rows` is outside 100..8,000,000.
    """
    if not MINIMUM_ROWS <= rows <= MAXIMUM_ROWS:
        raise ValueError(f"rows must be from {MINIMUM_ROWS:,} to {MAXIMUM_ROWS:,}, not {rows:,}")
    rng = random.Random(seed)
    names = _counselor_names(rng)
    sizes = shares(rows, [_LATE_SHARE_IN_DAYS if delivery.late else delivery.days for delivery in _DELIVERIES])
    plans = _plans(rng, sizes)
    folder.mkdir(parents=True, exist_ok=True)
    last_file: list[str] = []
    for delivery, size, plan in zip(_DELIVERIES, sizes, plans, strict=True):
        recent: deque[str] = deque(maxlen=500)
        texts = _Texts(names, escaped=delivery.escaped)
        lines = _lines(rng, delivery, size, plan, texts, recent, last_file)
        path, is_cut = folder / delivery.name, delivery.is_broken_off
        write_lines(path, lines, delivery.start, delivery.newline, is_broken_off=is_cut)
        last_file = list(recent)
    with arriving(folder / _REDELIVERED_AS) as copy, (folder / _REDELIVERED).open("rb") as original:
        shutil.copyfileobj(original, copy)
    with arriving(folder / _EMPTY):
        pass
    return _counts(rows, plans)


def _counts(rows: int, plans: list[dict[int, str]]) -> SampleCounts:
    lines = Counter(kind for plan in plans for kind in plan.values())
    bad = {kind: lines[kind] for kind in (*_BAD_LINES, *_BAD)}
    bad["not_json"] += lines["broken_off"]
    duplicates = sum(lines[kind] for kind in REPEATS_PER_THOUSAND)
    return SampleCounts(
        lines=rows,
        valid=rows - duplicates - sum(bad.values()),
        duplicates=duplicates,
        bad=bad,
        warned={kind: lines[kind] for kind in _WARNED},
        files=(*(delivery.name for delivery in _DELIVERIES), _REDELIVERED_AS, _EMPTY),
    )


def _plans(rng: random.Random, sizes: list[int]) -> list[dict[int, str]]:
    """Per file: line number -> what is special about that line. Every other line is a good new contact.

    The first line of a file is good, so that there is one to repeat; late entries are all good.
    """
    rows, months = sum(sizes), len(_MONTH_DAYS)
    quotas = {kind: max(1, rows // LINES_PER_FLAW) for kind in (*_BAD_LINES, *_BAD, *_WARNED)}
    quotas |= {kind: max(1, rows * share // 1000) for kind, share in REPEATS_PER_THOUSAND.items()}
    kinds: list[list[str]] = [[] for _ in sizes]
    for offset, (kind, quota) in enumerate(quotas.items()):
        first = 1 if kind == "repeated_from_last_file" else 0
        for number in range(quota):
            kinds[first + (offset + number) % (months - first)].append(kind)
    plans = []
    for delivery, size, special in zip(_DELIVERIES, sizes, kinds, strict=True):
        plan = dict(zip(rng.sample(range(1, max(1, size - 1)), len(special)), special, strict=True))
        if delivery.is_broken_off:
            plan[size - 1] = "broken_off"
        plans.append(plan)
    return plans


def _counselor_names(rng: random.Random) -> list[str]:
    """Every last name occurs, so the ones with an apostrophe or beyond ASCII do; no two people share a name."""
    first, last = rng.sample(_FIRST, len(_FIRST)), rng.sample(_LAST, len(_LAST))
    rounds = ((number // len(last), number % len(last)) for number in range(_COUNSELORS))
    return [f"{first[(index + turn) % len(first)]} {last[index]}" for turn, index in rounds]


class _Texts:
    """The values that recur, as JSON text, made once a file."""

    def __init__(self, counselors: list[str], *, escaped: bool) -> None:
        def text(value: object) -> str:
            return json.dumps(value, ensure_ascii=escaped)

        self.counselors = [text(repr(name))[1:-1] for name in counselors]
        self.latin = [number for number, name in enumerate(counselors) if _is_latin_beyond_ascii(name)]
        self.clients = [text(f"{first} {last}") for first in _FIRST for last in _LAST]
        self.places = [text(place) for place in _PLACES]
        self.pronouns = [text(repr(pronouns)) for pronouns in _PRONOUNS]
        one, two = [[issue] for issue in _ISSUES], [[a, b] for a in _ISSUES for b in _ISSUES if a != b]
        self.issues = [text(repr(issues)) for issues in ([], *one * 4, *two)]


def _is_latin_beyond_ascii(name: str) -> bool:
    return not name.isascii() and max(name) <= "\xff"


def _lines(
    rng: random.Random,
    delivery: _Delivery,
    size: int,
    plan: dict[int, str],
    texts: _Texts,
    recent: deque[str],
    last_file: list[str],
) -> Iterator[str]:
    """The lines of one file, without line ends; bytes that are not UTF-8 are in them as surrogate escapes.

    Leaves in `recent` the latest good lines; `last_file` holds those of the file before.
    """
    flaws, initial = _BAD | _WARNED, 0
    for number, (start, is_tied) in enumerate(_starts(rng, delivery, size)):
        # At the same second another counselor answers: no two contacts are alike by chance.
        initial = (initial + 1) % _COUNSELORS if is_tied else int(rng.random() * _COUNSELORS)
        kind = plan.get(number)
        if kind is None:
            line = _line(rng, _contact(rng, texts, delivery, start, initial))
            recent.append(line)
        elif kind in flaws:
            flaw = flaws[kind]
            record = _contact(rng, texts, delivery, start, initial, transfers=flaw.transfers)
            record[flaw.field] = rng.choice(flaw.values)
            line = _line(rng, record)
        elif kind == "repeated":
            line = rng.choice(recent)
        elif kind == "repeated_from_last_file":
            line = rng.choice(last_file)
        elif kind == "not_utf8":
            record = _contact(rng, texts, delivery, start, rng.choice(texts.latin), transfers=0)
            line = _as_latin_1(_line(rng, record))
        else:
            line = _line(rng, _contact(rng, texts, delivery, start, initial))
            line = broken_off(rng, line) if kind == "broken_off" else _not_json(rng, line)
        yield line


def _starts(rng: random.Random, delivery: _Delivery, size: int) -> Iterator[tuple[int, bool]]:
    """(second of 2023, whether it is that of the contact before), ascending; at most two contacts share a second."""
    steps, start, is_tied = len(_LOAD_STEPS) - 1, -2, False
    for number in range(size):
        is_tied = number > 0 and not is_tied and rng.random() < 0.01
        if not is_tied:
            day, part = divmod((number + rng.random()) / size * delivery.days, 1)
            step, part = divmod(part * steps, 1)
            before, after = _LOAD_STEPS[int(step)], _LOAD_STEPS[int(step) + 1]
            second = (delivery.first_day + int(day)) * _DAY + before + int((after - before) * part)
            start = max(start + 2, second - second % 2)
        yield start + delivery.late, is_tied


def _contact(
    rng: random.Random,
    texts: _Texts,
    delivery: _Delivery,
    start: int,
    initial: int,
    transfers: int | None = None,
) -> _Record:
    """A good contact: transfers one after the other and within the call, ratings 1..5 or missing."""
    chance = rng.random
    end = start + 60 * min(1 + int(rng.expovariate(1 / 24)), 240)
    if chance() < 0.5:
        end += -end % 60
    if transfers is None:
        transfers = (0, 0, 0, 0, 0, 0, 0, 1, 1, 2)[int(chance() * 10)]
        if transfers == 2 and chance() < 0.25:
            transfers = rng.randint(3, 5)
        elif transfers == 0 and chance() < 0.002:
            end = start
    holders = [initial]
    for _ in range(transfers):
        if holders[0] != holders[-1] and chance() < 0.3:
            holders.append(initial)
        else:
            holders.append((holders[-1] + 1 + int(chance() * (_COUNSELORS - 1))) % _COUNSELORS)
    record: _Record = {
        "time_call_began": f'"{_time(start)}"',
        "time_call_ended": f'"{_time(end)}"',
        "counselors": f'"[{", ".join([texts.counselors[holder] for holder in holders])}]"',
        "transfer_timestamps": f'"{_transfer_times(rng, start, end, transfers)}"',
        "issues_discussed": _one_of(chance, texts.issues, missing=0.02),
        "call_rating": _one_of(chance, ("1", "2", "3", "3", "4", "4", "5", "5"), missing=0.03),
        "initial_risk_level": _one_of(chance, ("1", "1", "1", "2", "2", "3", "4", "5"), missing=0.01),
        "client_pronouns": _one_of(chance, texts.pronouns, missing=0.08),
        "client_name": _one_of(chance, texts.clients, missing=0.02),
        "client_location": _one_of(chance, texts.places, missing=0.05),
    }
    if delivery.has_queue:
        record["queue"] = '"text"' if chance() < 0.4 else '"voice"'
    return record


def _one_of(chance: Callable[[], float], values: Sequence[str], missing: float) -> str | None:
    if chance() < missing:
        return _MISSING[int(chance() * len(_MISSING))]
    return values[int(chance() * len(values))]


def _time(second: int) -> str:
    return f"{_DATES[second // _DAY]} {_CLOCK[second % _DAY]}"


def _transfer_times(rng: random.Random, start: int, end: int, count: int) -> str:
    """The Python list that the exporter printed: one time as a datetime, several as strings."""
    if count == 0:
        return "[]"
    seconds = sorted(rng.sample(range(start + 1, end), count))
    if count > 1:
        return "[" + ", ".join([f"'{_time(second)}'" for second in seconds]) + "]"
    second, precision = seconds[0], rng.random()
    if precision < 0.6 and second - second % 60 > start:
        second -= second % 60
    microsecond = rng.randrange(1_000_000) if precision > 0.9 else 0
    return repr([_EPOCH + timedelta(seconds=second, microseconds=microsecond)])


def _line(rng: random.Random, record: _Record) -> str:
    keys = [f'"{key}": {value}' for key, value in record.items() if value is not None]
    if rng.random() < 0.01:
        rng.shuffle(keys)
    return "{" + ", ".join(keys) + "}"


def _not_json(rng: random.Random, line: str) -> str:
    request = f"{rng.getrandbits(64):016x}"
    return rng.choice(
        (broken_off(rng, line), f"ERROR: request {request} timed out", f"<html><p>503 {request}</p></html>")
    )


def _as_latin_1(line: str) -> str:
    """The line in Latin-1; in a file that escapes such characters, too."""
    line = re.sub(r"\\u00([0-9a-f]{2})", lambda escape: chr(int(escape[1], 16)), line)
    return line.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
