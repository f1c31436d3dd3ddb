"""Sample files of the members source: one line an entry of an invented service's members in 2023.

One file a month and one of late entries, each of many lines, and a few hundred files of one line, `member-<id>.log`,
with the quirks of the real exports:
- members come back on other days and on the same day, also in another file; late entries are of days long past;
- fields come in another order, are missing in many spellings, or are ones that nobody announced; values are quoted
  where they usually are not, and the other way round; there are blanks, capitals and times of day;
- lines are repeated within a file, in the next one, and from the files of one line;
- files are plain, gzip, bzip2, or with BOM and CRLF; one is delivered again under another name; one is empty; one
  breaks off in its last line. Files are as old as what is in them: a month's file is of the first day after it.
Every bad line is bad for exactly one reason; reasons are the names of the rules in conf/sources/members.yaml. Members
are random numbers: nobody is meant.
"""

import os
import random
import shutil
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from pathlib import Path

from scripts.samples import SampleCounts
from scripts.samples.files import arriving, broken_off, compressed, shares, write_lines

MINIMUM_ROWS = 200  # room for one line of every kind
MAXIMUM_ROWS = 50_000_000  # one in four hundred is a file of its own
LINES_PER_FLAW = 1_000  # one line of every flaw in that many lines, and at least one
LINES_PER_FILE_OF_ONE_LINE = 400
REPEATS_PER_THOUSAND = {"repeated": 3, "repeated_from_last_file": 2}

# In a record, every value is the text that will stand in the line; None leaves the field out.
_Record = dict[str, str | None]
_MISSING = (None, "", '""', '" "', "NULL", "null", '"N/A"', "NaN")
_NOT_BOOLEAN = ("maybe", "1", '"yes"', "tru")
_NOT_NUMBER = ("abc", '"13,3"', "1.2.3", "Infinity", "-inf")
_NOT_WHOLE = ("abc", "1.5", '"1e1"', "99999999999")


def _of_field(name: str, values: Sequence[str | None]) -> list[_Record]:
    return [{name: value} for value in values]


# Rule -> fields of a good entry as they break it, and no other rule.
_BAD: dict[str, list[_Record]] = {
    "id_valid": _of_field(
        "id", (*_MISSING, '"ada6ee1abc22511"', '"ada6ee1abc22511c0"', '"gda6ee1abc22511c"', '"ada6ee1a-bc22511c"')
    ),
    "created_at_readable": _of_field(
        "created_at", (*_MISSING, '"2023-02-30"', '"27/06/2023"', '"2023-6-27"', '"not-a-date"', "1687824000")
    ),
}
_MALFORMED, _TWICE = "line_well_formed", "fields_unique"
_NOT_UTF8, _CONTRADICTION = "is_utf8", "follow_reco_above_50p_consistent"
_WARNED: dict[str, list[_Record]] = {
    "sex_readable": _of_field("sex", _NOT_WHOLE),
    "age_readable": _of_field("age", _NOT_WHOLE),
    "default_language_en_readable": _of_field("default_language_en", _NOT_BOOLEAN),
    "waiting_list_time_readable": _of_field("waiting_list_time", _NOT_NUMBER),
    "black_and_white_design_readable": _of_field("black_and_white_design", _NOT_BOOLEAN),
    "follow_reco_readable": _of_field("follow_reco", _NOT_NUMBER),
    "follow_reco_above_50p_readable": _of_field("follow_reco_above_50p", _NOT_BOOLEAN),
    _CONTRADICTION: [
        {"follow_reco": "50.1", "follow_reco_above_50p": "false"},
        {"follow_reco": "50", "follow_reco_above_50p": "true"},
    ],
    "sex_fits": _of_field("sex", ("40000", "-32769")),
    "age_fits": _of_field("age", ("32768", "2147483647")),
    "waiting_list_time_fits": _of_field("waiting_list_time", ("1000", "-12345.6", "1e10")),
    "follow_reco_fits": [
        {"follow_reco": "1250.75", "follow_reco_above_50p": "true"},
        {"follow_reco": "-1000", "follow_reco_above_50p": "false"},
    ],
}
_FLAWS = {**_BAD, **_WARNED}
_UNKNOWN = [{"channel": '"app|web"'}, {"note": '"a=b {c}"'}, {"clinic": "north"}]
_UNTIDY_SHARE = 0.04
_POOL = 5_000  # so many members may come back at any time

_FIRST_DAY = date(2023, 1, 1)
_DAYS = [str(_FIRST_DAY + timedelta(days=number)) for number in range(365)]
_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True)
class _Delivery:
    """One file of many lines: its entries are of `days` days from `first_day` (0 = 1 January), at random if `late`."""

    name: str
    first_day: int
    days: int
    modified_at: datetime
    late: bool = False
    start: str = ""
    newline: str = "\n"
    is_broken_off: bool = False


def _moment(day: int) -> datetime:
    return datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=day)


_SUFFIXES = {2: ".gz", 3: ".bz2", 8: ".gz"}
_DELIVERIES = [
    *(
        _Delivery(
            name=f"members-2023-{month:02}.log{_SUFFIXES.get(month, '')}",
            first_day=first_day,
            days=_MONTH_DAYS[month - 1],
            modified_at=_moment(first_day + _MONTH_DAYS[month - 1]),
            start="\ufeff" if month == 4 else "",
            newline="\r\n" if month == 4 else "\n",
            is_broken_off=month == 12,
        )
        for month, first_day in enumerate(accumulate(_MONTH_DAYS[:-1], initial=0), start=1)
    ),
    _Delivery("members-2023-late.log", first_day=0, days=365, modified_at=_moment(370), late=True),
]
_LATE_SHARE_IN_DAYS = 7
_REDELIVERED, _REDELIVERED_AS, _REDELIVERED_AT = "members-2023-05.log", "members-2023-05 (1).log", _moment(371)
_EMPTY, _EMPTY_AT = "members-2024-01.log", _moment(396)


@dataclass(frozen=True)
class _Member:
    id: str
    sex: int
    age: int
    speaks_english: bool


@dataclass
class _Story:
    """The members so far, and lines that may be repeated."""

    rng: random.Random
    first_id: int
    members: int = 0
    pool: list[_Member] = field(default_factory=list)
    today: list[_Member] = field(default_factory=list)
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=500))

    def new_member(self) -> _Member:
        """Ids look random, and no two are alike: the multiplier is odd."""
        rng = self.rng
        number = (self.first_id + self.members * 0x9E3779B97F4A7C15) % 2**64
        member = _Member(
            f"{number:016x}",
            (1, 1, 1, 1, 2, 2, 2, 2, 0, 9)[int(rng.random() * 10)],
            18 + int(rng.random() * rng.random() * 80),
            rng.random() < 0.6,
        )
        self.members += 1
        if len(self.pool) < _POOL:
            self.pool.append(member)
        else:
            self.pool[int(rng.random() * _POOL)] = member
        return member

    def next_member(self) -> tuple[_Member, bool]:
        """Who has the next entry, and whether it is their first."""
        chance = self.rng.random()
        known = self.today if chance < 0.1 else self.pool
        if chance < 0.6 and known:
            return known[int(self.rng.random() * len(known))], False
        return self.new_member(), True


def write(folder: Path, rows: int = 100_000, seed: int = 7) -> SampleCounts:
    """Write the sample into `folder` (made if need be): `rows` lines in all distinct files together.

    The same rows and seed give the same bytes and times. Memory does not grow with `rows`, but for lists of the special
    lines and of the files. Raises ValueError if `rows` is outside 200..50,000,000.
    """
    if not MINIMUM_ROWS <= rows <= MAXIMUM_ROWS:
        raise ValueError(f"rows must be from {MINIMUM_ROWS:,} to {MAXIMUM_ROWS:,}, not {rows:,}")
    rng = random.Random(seed)
    story = _Story(rng, first_id=rng.getrandbits(64))
    ones = max(len(_MONTH_DAYS), rows // LINES_PER_FILE_OF_ONE_LINE)
    sizes = shares(rows - ones, [_LATE_SHARE_IN_DAYS if delivery.late else delivery.days for delivery in _DELIVERIES])
    plans = _plans(rng, sizes)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[str] = []
    for delivery, size, plan, count in zip(_DELIVERIES, sizes, plans, [*shares(ones, [1] * 12), 0], strict=True):
        last_file, story.recent = list(story.recent), deque(maxlen=500)
        alone = _write_files_of_one_line(folder, delivery, count, story)
        files += [*alone, delivery.name]
        members = defaultdict[int, list[_Member]](list)
        for day, member in alone.values():
            members[day].append(member)
        lines, path = _lines(delivery, size, plan, story, members, last_file), folder / delivery.name
        write_lines(path, lines, delivery.start, delivery.newline, is_broken_off=delivery.is_broken_off)
        _set_time(path, delivery.modified_at)
    with arriving(folder / _REDELIVERED_AS) as copy, (folder / _REDELIVERED).open("rb") as original:
        shutil.copyfileobj(original, copy)
    with arriving(folder / _EMPTY):
        pass
    _set_time(folder / _REDELIVERED_AS, _REDELIVERED_AT)
    _set_time(folder / _EMPTY, _EMPTY_AT)
    return _counts(rows, plans, (*files, _REDELIVERED_AS, _EMPTY))


def _counts(rows: int, plans: list[dict[int, str]], files: tuple[str, ...]) -> SampleCounts:
    lines = Counter(kind for plan in plans for kind in plan.values())
    bad = {kind: lines[kind] for kind in (_MALFORMED, _TWICE, *_BAD)}
    duplicates = sum(lines[kind] for kind in REPEATS_PER_THOUSAND)
    return SampleCounts(
        lines=rows,
        valid=rows - duplicates - sum(bad.values()),
        duplicates=duplicates,
        bad=bad,
        warned={kind: lines[kind] for kind in (_NOT_UTF8, *_WARNED)},
        files=files,
    )


def _plans(rng: random.Random, sizes: list[int]) -> list[dict[int, str]]:
    """Per file: line number -> what is special about that line. Every other line is a good entry.

    The first line of a file is good, so that there is one to repeat; late entries are all good.
    """
    rows, months = sum(sizes), len(_MONTH_DAYS)
    quotas = dict.fromkeys((_MALFORMED, _TWICE, _NOT_UTF8, *_FLAWS), max(1, rows // LINES_PER_FLAW))
    quotas |= {kind: max(1, rows * share // 1000) for kind, share in REPEATS_PER_THOUSAND.items()}
    kinds: list[list[str]] = [[] for _ in sizes]
    for offset, (kind, quota) in enumerate(quotas.items()):
        first = 1 if kind == "repeated_from_last_file" else 0
        for number in range(quota):
            kinds[first + (offset + number) % (months - first)].append(kind)
    plans = []
    for delivery, size, special in zip(_DELIVERIES, sizes, kinds, strict=True):
        plan = dict(zip(rng.sample(range(1, size - 1), len(special)), special, strict=True))
        if delivery.is_broken_off:
            plan[size - 1] = _MALFORMED
        plans.append(plan)
    return plans


def _write_files_of_one_line(
    folder: Path, delivery: _Delivery, count: int, story: _Story
) -> dict[str, tuple[int, _Member]]:
    """Writes the first entries of `count` new members, in that month, each into a file of its own. Their lines may be
    repeated in the month's file. Returns file -> (day, member), in order of time.
    """
    written: dict[str, tuple[int, _Member]] = {}
    for number in range(count):
        written_at = _moment(delivery.first_day) + timedelta(days=delivery.days) * number / count
        day, member = delivery.first_day + number * delivery.days // count, story.new_member()
        line = _line(story.rng, _entry(story.rng, member, day), is_first=True)
        story.recent.append(line)
        start, end, suffix = (("", "\n", ""), ("", "", ""), ("\ufeff", "\r\n", ""), ("", "\n", ".gz"))[number % 4]
        name = f"member-{member.id}.log{suffix}"
        with arriving(folder / name) as file, compressed(file, name) as stream:
            stream.write(f"{start}{line}{end}".encode())
        _set_time(folder / name, written_at)
        written[name] = (day, member)
    return written


def _lines(
    delivery: _Delivery,
    size: int,
    plan: dict[int, str],
    story: _Story,
    members: defaultdict[int, list[_Member]],
    last_file: list[str],
) -> Iterator[str]:
    """The lines of one file, without line ends; bytes that are not UTF-8 are in them as surrogate escapes.

    `members` were there earlier, day by day, in files of one line. Leaves in `story.recent` the latest good lines;
    `last_file` holds those of the month before.
    """
    rng, day = story.rng, -1
    for number in range(size):
        if delivery.late:
            day, story.today = int(rng.random() * delivery.days), []
        elif day != (today := delivery.first_day + number * delivery.days // size):
            day, story.today = today, members[today]
        kind = plan.get(number)
        # The texts of a flaw are few: two entries of a member could be alike.
        member, is_first = (story.new_member(), True) if kind in _FLAWS else story.next_member()
        story.today.append(member)
        record = _entry(rng, member, day)
        if kind is None:
            line = _line(rng, record, is_first=is_first)
            story.recent.append(line)
        elif kind in _FLAWS:
            line = _tidy_line(record | rng.choice(_FLAWS[kind]))
        elif kind == "repeated":
            line = rng.choice(story.recent)
        elif kind == "repeated_from_last_file":
            line = rng.choice(last_file)
        elif kind == _NOT_UTF8:
            line = _tidy_line(record | {"clinic": '"M\udcfcnster"'})
        elif kind == _TWICE:
            again = rng.choice(("id", "created_at", "age"))
            line = _tidy_line(record)[:-1] + f"|{again}={_entry(rng, story.new_member(), day - 1)[again]}}}"
        else:
            is_cut = delivery.is_broken_off and number == size - 1
            line = _tidy_line(record)
            line = broken_off(rng, line) if is_cut else _malformed(rng, line)
        yield line


def _entry(rng: random.Random, member: _Member, day: int) -> _Record:
    """A good entry. `follow_reco` has so many digits that no two entries of a member are alike."""
    follow_reco = round(rng.random() * 100, 13)
    return {
        "id": f'"{member.id}"',
        "created_at": f'"{_DAYS[day]}"',
        "sex": str(member.sex),
        "age": str(member.age),
        "default_language_en": "true" if member.speaks_english else "false",
        "waiting_list_time": f"{rng.expovariate(1 / 12):.1f}",
        "black_and_white_design": "true" if rng.random() < 0.5 else "false",
        "follow_reco": str(follow_reco),
        "follow_reco_above_50p": "true" if follow_reco > 50 else "false",
    }


def _line(rng: random.Random, record: _Record, *, is_first: bool) -> str:
    return _untidy_line(rng, record, is_first=is_first) if rng.random() < _UNTIDY_SHARE else _tidy_line(record)


def _tidy_line(record: _Record) -> str:
    return "{" + "|".join([f"{name}={value}" for name, value in record.items() if value is not None]) + "}"


def _untidy_line(rng: random.Random, record: _Record, *, is_first: bool) -> str:
    """The entry in an unusual form that says the same, or all but one value."""
    texts = {name: value or "" for name, value in record.items()}
    match rng.randrange(8):
        case 0:
            texts = {name: texts[name] for name in rng.sample(list(texts), len(texts))}
        case 1:
            # Without follow_reco, two entries of a member could be alike.
            missing = rng.choice([name for name in list(texts)[2:] if is_first or name != "follow_reco"])
            return _tidy_line(record | {missing: rng.choice(_MISSING)})
        case 2:
            texts |= rng.choice(_UNKNOWN)
        case 3:
            return " { " + " | ".join([f"{name} = {text}" for name, text in texts.items()]) + " } "
        case 4:
            texts = {name: f'"{text}"'.replace('""', '"') for name, text in texts.items()}
        case 5:
            texts = {name: text.strip('"') for name, text in texts.items()}
        case 6:
            texts = {name.title(): text.upper() for name, text in texts.items()}
        case 7:
            texts |= {"created_at": texts["created_at"][:-1] + ' 10:15:00"', "sex": texts["sex"] + ".0"}
    return _tidy_line({**texts})


def _malformed(rng: random.Random, line: str) -> str:
    request = f"{rng.getrandbits(64):016x}"
    return rng.choice(
        (
            "",
            broken_off(rng, line),
            f"ERROR: request {request} timed out",
            line[1:-1],
            line + line,
            line.replace("|", ","),
            line.replace("|age=", "age="),
            '{"id": "' + request + '", "created_at": "2023-06-27"}',
        )
    )


def _set_time(path: Path, moment: datetime) -> None:
    os.utime(path, (moment.timestamp(), moment.timestamp()))
