"""Sample files of the credits source: CSV, one row an event of an invented platform's customers in 2024 Q4.

With the quirks of the real exports:
- a third of the rows have no readable time, the others have one of four shapes;
- every field is missing at times, in many spellings; texts come in upper case and with blanks around them;
- some users appear under two organisations, and some rows lack the organisation of a user who has one;
- identical rows within a file are separate events; the late file repeats rows of October's: those are no new events;
- files are plain, gzip, with BOM and CRLF, with semicolons and quotes, with other columns in another order; one is
  delivered again under another name; one has a header only; one breaks off in its last row.
Every bad row is bad for one reason, but for the rows in which everything is missing. Organisations and users are
numbers: nobody is meant.
"""

import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from scripts.samples import SampleCounts
from scripts.samples.files import arriving, compressed, shares

MINIMUM_ROWS = 100  # room for one row of every kind
MAXIMUM_ROWS = 1_000_000  # what is in a file must not come up by chance in another one, so all rows are remembered

_FIELDS = ("org_id", "user_id", "credit_type", "action", "credits", "timestamp")
_ORGS, _USERS, _USERS_OF_TWO = 10, 200, 16
_TYPES = ("api_call", "api_call", "api_call", "report_download", "data_export")
_MISSING = ("", "", "", " ", "NULL", "null", "N/A", "NaN")
_JUNK_TIMES = (*_MISSING, "not-a-date", "abc123", "32/13/2024")
_JUNK_CREDITS = (*_MISSING, "abc", "$5", "12 credits", "1e3")
_SHAPES = ("%Y-%m-%d %H:%M:%S", "%d-%m-%Y", "%m/%d/%Y %I:%M %p")
_UNDATED_SHARE = 1 / 3
_UNTIDY_SHARE = 0.03
_ROW_OF_USER_OF_TWO = 12  # one good row in so many
_QUARTER, _QUARTER_DAYS = datetime(2024, 10, 1), 92

_BAD_PER_THOUSAND = {
    "org_unknown": 8,
    "action_missing": 4,
    "action_unknown": 3,
    "credits_negative": 3,
    "malformed": 3,
    "everything_missing": 1,
}
_WARNED_PER_THOUSAND = {
    "org_inferred": 25,
    "credits_missing": 20,
    "credits_rounded": 3,
    "user_missing": 15,
    "credit_type_missing": 15,
    "credit_type_unexpected": 3,
    "out_of_period": 10,
}
# Kind -> the field that has the flaw, and its values.
_FLAWS = {
    "action_missing": ("action", _MISSING),
    "action_unknown": ("action", ("refund", "adjust", "credit")),
    "org_inferred": ("org_id", _MISSING),
    "credits_missing": ("credits", _JUNK_CREDITS),
    "user_missing": ("user_id", _MISSING),
    "credit_type_missing": ("credit_type", _MISSING),
    "credit_type_unexpected": ("credit_type", ("video_call", "batch_job")),
}
_REPEATED, _REPEATED_FROM_OCTOBER = "repeated", "repeated_from_october"
_REPEATS_PER_THOUSAND = {_REPEATED: 10, _REPEATED_FROM_OCTOBER: 10}

_Row = tuple[str, ...]


@dataclass(frozen=True)
class _Delivery:
    """One file and its share of the rows, in tenths."""

    name: str
    share: int
    columns: Sequence[str] = _FIELDS
    delimiter: str = ","
    start: str = ""
    newline: str = "\n"
    is_quoted: bool = False
    is_broken_off: bool = False


_DELIVERIES = (
    _Delivery("credits-2024-10.csv", 3),
    _Delivery("credits-2024-11.csv.gz", 3),
    _Delivery("credits-2024-12.csv", 2, start="\ufeff", newline="\r\n", is_broken_off=True),
    _Delivery("credits-2024-q4-partners.csv", 1, delimiter=";", is_quoted=True),
    _Delivery(
        "credits-2024-q4-late.csv", 1, ("timestamp", "region", "action", "credits", "user_id", "org_id", "credit_type")
    ),
)
_REDELIVERED, _REDELIVERED_AS = "credits-2024-10.csv", "credits-2024-10 (1).csv"
_HEADER_ONLY = "credits-2025-01.csv"


@dataclass
class _Story:
    """What the rows so far amount to."""

    earlier: set[_Row] = field(default_factory=set)
    """Trimmed rows of the files before this one: the same row in two files would be one event."""
    october: list[_Row] = field(default_factory=list)
    seen_users: list[int] = field(default_factory=list)
    """Users of one organisation with a row that names it."""
    rows_of_users_of_two: int = 0
    good_rows: int = 0
    lines: Counter[str] = field(default_factory=Counter)
    warned: Counter[str] = field(default_factory=Counter)
    cents: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Event:
    """A row, and what it stands for if it can be used."""

    row: _Row
    org: str
    cents: int = 0
    warnings: tuple[str, ...] = ()
    user: int | None = None
    """The user, if the row names both the user and their only organisation."""


def write(folder: Path, rows: int = 100_000, seed: int = 7) -> SampleCounts:
    """Write the sample into `folder` (made if need be): `rows` rows, headers aside, in all distinct files together.

    The same rows and seed give the same bytes. In the counts, header lines are not lines; a row can have several of the
    flaws in `warned`; `totals` is the credit balance of each organisation.
    Raises ValueError if `rows` is outside 100..1,000,000.
    """
    if not MINIMUM_ROWS <= rows <= MAXIMUM_ROWS:
        raise ValueError(f"rows must be from {MINIMUM_ROWS:,} to {MAXIMUM_ROWS:,}, not {rows:,}")
    rng, story = random.Random(seed), _Story()
    sizes = shares(rows, [delivery.share for delivery in _DELIVERIES])
    folder.mkdir(parents=True, exist_ok=True)
    for delivery, size, plan in zip(_DELIVERIES, sizes, _plans(rng, sizes), strict=True):
        lines = _lines(rng, delivery, size, plan, story)
        with arriving(folder / delivery.name) as file, compressed(file, delivery.name) as stream:
            for line in lines:
                stream.write(line.encode())
    with arriving(folder / _REDELIVERED_AS) as copy, (folder / _REDELIVERED).open("rb") as original:
        shutil.copyfileobj(original, copy)
    with arriving(folder / _HEADER_ONLY) as file:
        file.write((",".join(_FIELDS) + "\n").encode())
    return _counts(rows, story)


def _counts(rows: int, story: _Story) -> SampleCounts:
    bad = {kind: story.lines[kind] for kind in _BAD_PER_THOUSAND}
    duplicates = story.lines[_REPEATED_FROM_OCTOBER]
    return SampleCounts(
        lines=rows,
        valid=rows - duplicates - sum(bad.values()),
        duplicates=duplicates,
        bad=bad,
        warned=dict(story.warned),
        files=(*(delivery.name for delivery in _DELIVERIES), _REDELIVERED_AS, _HEADER_ONLY),
        totals={org: Decimal(cents).scaleb(-2) for org, cents in sorted(story.cents.items())},
    )


def _plans(rng: random.Random, sizes: list[int]) -> list[dict[int, str]]:
    """Per file: row number -> what is special about that row. Every other row is a good one.

    The first row of a file is good, so that there is one to repeat.
    """
    per_thousand = {**_BAD_PER_THOUSAND, **_WARNED_PER_THOUSAND, **_REPEATS_PER_THOUSAND}
    kinds: list[list[str]] = [[] for _ in sizes]
    by_share = [number for number, delivery in enumerate(_DELIVERIES) for _ in range(delivery.share)]
    for offset, (kind, share) in enumerate(per_thousand.items()):
        for number in range(max(1, sum(sizes) * share // 1000)):
            is_late = kind == _REPEATED_FROM_OCTOBER
            kinds[-1 if is_late else by_share[(3 * offset + number) % len(by_share)]].append(kind)
    plans = []
    for delivery, size, special in zip(_DELIVERIES, sizes, kinds, strict=True):
        plan = dict(zip(rng.sample(range(1, size - 1), len(special)), special, strict=True))
        if delivery.is_broken_off:
            plan[size - 1] = "malformed"
        plans.append(plan)
    return plans


def _lines(rng: random.Random, delivery: _Delivery, size: int, plan: dict[int, str], story: _Story) -> Iterator[str]:
    """The lines of one file, with line ends; the story goes on with its rows."""
    yield delivery.start + delivery.delimiter.join(delivery.columns) + delivery.newline
    own: list[_Row] = []
    repeatable: list[_Event] = []
    october = iter(
        rng.sample(story.october, min(len(story.october), list(plan.values()).count(_REPEATED_FROM_OCTOBER)))
    )
    for number in range(size):
        kind = plan.get(number, "good")
        story.lines[kind] += 1
        if kind == _REPEATED_FROM_OCTOBER:
            row = next(october)
        else:
            if kind == _REPEATED and not repeatable:
                kind = "good"
            event = rng.choice(repeatable) if kind == _REPEATED else _new_event(rng, kind, story)
            row = event.row
            if kind not in _BAD_PER_THOUSAND:
                own.append(row)
                _tell(story, event)
            if event.user is not None and kind not in _BAD_PER_THOUSAND:
                repeatable.append(event)
        is_last_of_broken = delivery.is_broken_off and number == size - 1
        line = _line(rng, delivery, row, is_malformed=kind == "malformed", is_cut=is_last_of_broken)
        yield line if is_last_of_broken else line + delivery.newline
    story.earlier.update(_trimmed(row) for row in own)
    if delivery.name == _REDELIVERED:
        story.october = own


def _tell(story: _Story, event: _Event) -> None:
    story.warned.update(event.warnings)
    story.cents[event.org] += event.cents
    if event.user is not None:
        story.seen_users.append(event.user)


def _new_event(rng: random.Random, kind: str, story: _Story) -> _Event:
    """An event of that kind; a good one is no row of an earlier file."""
    user, org, flaws = _who(rng, kind, story)
    while True:
        event = _event(rng, kind, user, org, flaws)
        if kind in _BAD_PER_THOUSAND or _trimmed(event.row) not in story.earlier:
            return event


def _who(rng: random.Random, kind: str, story: _Story) -> tuple[int, str, tuple[str, ...]]:
    """User, organisation, and the warning that they make together.

    Of three rows of a user of two organisations, the first two are under the user's home: it always has the most.
    """
    if kind == "good":
        story.good_rows += 1
        # The first good row is not one of these, so that there is a user whose organisation can be inferred.
        if story.good_rows % _ROW_OF_USER_OF_TWO == 0:
            turn, story.rows_of_users_of_two = story.rows_of_users_of_two, story.rows_of_users_of_two + 1
            user = _USERS + turn // 3 % _USERS_OF_TWO
            is_away = turn % 3 == 2
            return user, _org(user + is_away), ("org_conflict",) if is_away else ()
    user = rng.choice(story.seen_users) if kind == "org_inferred" else rng.randrange(_USERS)
    return user, _org(user), ()


def _event(rng: random.Random, kind: str, user: int, org: str, flaws: tuple[str, ...]) -> _Event:
    action = "add" if rng.random() < 0.2 else "deduct"
    cents = rng.randrange(1, 500) * (1000 if action == "add" else 100)
    if rng.random() < 0.3:
        cents += rng.randrange(1, 100)
    time = _QUARTER + timedelta(days=rng.randrange(_QUARTER_DAYS), seconds=rng.randrange(24 * 60 * 60))
    row = {
        "org_id": org,
        "user_id": f"user_{user:03}",
        "credit_type": rng.choice(_TYPES),
        "action": action,
        "credits": str(cents / 100),
        "timestamp": _written(rng, time),
    }
    warnings = flaws + ((kind,) if kind in _WARNED_PER_THOUSAND else ())
    if kind == "out_of_period":
        row["timestamp"] = _written(rng, time.replace(year=time.year + rng.choice((-1, 1))))
    elif rng.random() < _UNDATED_SHARE:
        row["timestamp"] = rng.choice(_JUNK_TIMES)
        warnings += ("undated",)
    if kind == "credits_rounded":
        digits, more = rng.choice((("4", 0), ("5", 1), ("0000000001", 0), ("99", 1)))
        row["credits"], cents = f"{cents / 100:.2f}{digits}", cents + more
    elif kind == "credits_missing":
        cents = 0
    _spoil(rng, kind, row)
    _make_untidy(rng, row)
    is_named = kind not in ("org_inferred", "user_missing") and user < _USERS
    signed = cents if action == "add" else -cents
    return _Event(tuple(row.values()), org, signed, warnings, user if is_named else None)


def _spoil(rng: random.Random, kind: str, row: dict[str, str]) -> None:
    """Gives the row the flaw of that kind, if it is one of a single value."""
    if kind in _FLAWS:
        name, values = _FLAWS[kind]
        row[name] = rng.choice(values)
    elif kind == "credits_negative":
        row["credits"] = "-" + row["credits"]
    elif kind == "org_unknown":
        strangers = [f"user_{number}" for number in range(900, 910)]
        row |= {"org_id": rng.choice(_MISSING), "user_id": rng.choice([*_MISSING, *strangers])}
    elif kind == "everything_missing":
        row |= {name: rng.choice(_MISSING) for name in row}


def _make_untidy(rng: random.Random, row: dict[str, str]) -> None:
    if rng.random() < _UNTIDY_SHARE:
        name = rng.choice(_FIELDS[:4])
        tidy = row[name]
        row[name] = rng.choice((f" {tidy}", f"{tidy}\t", tidy if tidy.strip() in _MISSING else tidy.upper()))


def _org(user: int) -> str:
    return f"org_{user % _ORGS:03}"


def _written(rng: random.Random, time: datetime) -> str:
    shape = rng.choice((*_SHAPES, None))
    return str(int(time.replace(tzinfo=UTC).timestamp())) if shape is None else time.strftime(shape)


def _trimmed(row: _Row) -> _Row:
    return tuple(value.strip() for value in row)


def _line(rng: random.Random, delivery: _Delivery, row: _Row, *, is_malformed: bool, is_cut: bool) -> str:
    """The row in the file's layout. A malformed one has a field too few or too many; a cut one has too few."""
    values = dict(zip(_FIELDS, row, strict=True)) | {"region": rng.choice(("eu", "us"))}
    quote = '"' if delivery.is_quoted else ""
    cells = [f"{quote}{values[column]}{quote}" for column in delivery.columns]
    if is_malformed:
        cells = cells[:-1] if is_cut or rng.random() < 0.5 else [*cells, "0"]
    return delivery.delimiter.join(cells)
