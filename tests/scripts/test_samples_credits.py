"""The credits sample, read back without Spark by a reader that shares nothing with the writer."""

import csv
import gzip
import hashlib
import io
from collections import Counter, defaultdict
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.samples import SampleCounts
from scripts.samples.credits import MAXIMUM_ROWS, write

COPY, ORIGINAL, HEADER_ONLY = "credits-2024-10 (1).csv", "credits-2024-10.csv", "credits-2025-01.csv"
LATE, PARTNERS, DECEMBER = "credits-2024-q4-late.csv", "credits-2024-q4-partners.csv", "credits-2024-12.csv"
FIELDS = ["org_id", "user_id", "credit_type", "action", "credits", "timestamp"]
MISSING = {"", "null", "n/a", "nan"}
TYPES = {"api_call", "report_download", "data_export"}
FORMS = ("%Y-%m-%d %H:%M:%S", "%d-%m-%Y", "%m/%d/%Y %I:%M %p")
CENT = Decimal("0.01")

Row = dict[str, str] | None


def read_rows(path: Path) -> list[Row]:
    """The data rows of a file, trimmed, None for one with too few or too many fields."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in text.splitlines()[0] else ",")
    return [
        {name: value.strip() for name, value in zip(header, row, strict=True) if name in FIELDS}
        if len(row) == len(header)
        else None
        for row in rows
    ]


def known(text: str) -> str | None:
    return None if text.lower() in MISSING else text.lower()


def read_time(text: str) -> datetime | None:
    for form in FORMS:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            pass
    return datetime.fromtimestamp(int(text), UTC) if text.isdigit() else None


def read_credits(text: str) -> Decimal | None:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and "e" not in text else None


def organisations(rows: list[Row]) -> dict[str, set[str]]:
    found = defaultdict(set)
    for row in filter(None, rows):
        if (user := known(row["user_id"])) and (org := known(row["org_id"])):
            found[user].add(org)
    return found


def reason(row: Row, orgs: dict[str, set[str]]) -> str | None:
    """Why the row cannot be used; one reason at most, but for a row without any value."""
    if row is None:
        return "malformed"
    if not any(map(known, row.values())):
        return "everything_missing"
    amount, action = read_credits(row["credits"]), known(row["action"])
    reasons = []
    if known(row["org_id"]) is None and len(orgs.get(known(row["user_id"]) or "", ())) != 1:
        reasons.append("org_unknown")
    if action not in ("add", "deduct"):
        reasons.append("action_unknown" if action else "action_missing")
    if amount is not None and amount < 0:
        reasons.append("credits_negative")
    assert len(reasons) < 2, row
    return reasons[0] if reasons else None


def warnings(row: dict[str, str], home: str | None) -> list[str]:
    amount, time, kind = read_credits(row["credits"]), read_time(row["timestamp"]), known(row["credit_type"])
    org, user = known(row["org_id"]), known(row["user_id"])
    found = {
        "org_inferred": org is None,
        "org_conflict": user is not None and org is not None and org != home,
        "user_missing": user is None,
        "credit_type_missing": kind is None,
        "credit_type_unexpected": kind is not None and kind not in TYPES,
        "credits_missing": amount is None,
        "credits_rounded": amount is not None and amount != amount.quantize(CENT),
        "undated": time is None,
        "out_of_period": time is not None and not (time.year == 2024 and time.month >= 10),
    }
    return [name for name, is_found in found.items() if is_found]


def count_again(folder: Path, files: tuple[str, ...]) -> SampleCounts:
    by_file = {name: read_rows(folder / name) for name in files if name != COPY}
    everything = [row for rows in by_file.values() for row in rows]
    orgs, bad, duplicates = organisations(everything), Counter[str](), 0
    copies, valid = Counter[tuple[str, ...]](), list[dict[str, str]]()
    for rows in by_file.values():
        in_file = Counter[tuple[str, ...]]()
        for row in rows:
            why = reason(row, orgs)
            if row is None or why:
                bad[why or ""] += 1
                continue
            content = tuple(row[name] for name in FIELDS)
            in_file[content] += 1
            if in_file[content] > copies[content]:
                valid.append(row)
            else:
                duplicates += 1
        copies |= in_file
    events = Counter((known(row["user_id"]), known(row["org_id"])) for row in valid if known(row["org_id"]))
    homes: dict[str | None, str | None] = {}
    for (user, org), count in events.items():
        others = [n for (other, elsewhere), n in events.items() if other == user and elsewhere != org]
        assert user is None or count not in others, "no home depends on a tie"
        if all(count > n for n in others):
            homes[user] = org
    warned, totals = Counter[str](), defaultdict[str, Decimal](Decimal)
    for row in valid:
        warned.update(warnings(row, homes.get(known(row["user_id"]))))
        org = known(row["org_id"]) or next(iter(orgs[known(row["user_id"]) or ""]))
        amount = (read_credits(row["credits"]) or Decimal(0)).quantize(CENT, ROUND_HALF_UP)
        totals[org] += amount if known(row["action"]) == "add" else -amount
    return SampleCounts(len(everything), len(valid), duplicates, dict(bad), dict(warned), files, totals=dict(totals))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SampleCounts]:
    folder = tmp_path_factory.mktemp("landing") / "credits"
    return folder, write(folder, rows=5_001)


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
    assert len(counts.warned) == 9
    assert min(counts.duplicates, *counts.bad.values(), *counts.warned.values()) > 0


def test_a_third_of_the_rows_is_undated(sample: tuple[Path, SampleCounts]) -> None:
    _, counts = sample
    assert 0.30 < counts.warned["undated"] / counts.valid < 0.37


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_same_rows_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a", 1_000, seed=3) == write(tmp_path / "b", 1_000, seed=3)
    write(tmp_path / "c", 1_000, seed=4)
    first, second, other_seed = digests(tmp_path / "a"), digests(tmp_path / "b"), digests(tmp_path / "c")
    assert first == second
    assert {name for name in first if first[name] == other_seed[name]} == {HEADER_ONLY}


def test_only_whole_files_are_left(tmp_path: Path) -> None:
    counts = write(tmp_path, 500)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(counts.files)


@pytest.mark.parametrize("rows", [0, 99, MAXIMUM_ROWS + 1])
def test_a_size_that_cannot_be_made_is_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(ValueError, match="rows must be from 100 to 1,000,000"):
        write(tmp_path / "credits", rows)
    assert not (tmp_path / "credits").exists()


def test_files_come_in_every_form(sample: tuple[Path, SampleCounts]) -> None:
    folder, _ = sample
    header = ",".join(FIELDS).encode()
    assert (folder / ORIGINAL).read_bytes().startswith(header + b"\n")
    assert gzip.decompress((folder / "credits-2024-11.csv.gz").read_bytes()).startswith(header + b"\n")
    december = (folder / DECEMBER).read_bytes()
    assert december.startswith(b"\xef\xbb\xbf" + header + b"\r\n")
    assert december.count(b"\n") == december.count(b"\r\n")
    assert not december.endswith(b"\n")
    assert (folder / PARTNERS).read_bytes().startswith(header.replace(b",", b";"))
    late = (folder / LATE).read_text().splitlines()[0].split(",")
    assert sorted(late) == sorted([*FIELDS, "region"])
    assert [name for name in late if name in FIELDS] != FIELDS
    assert (folder / COPY).read_bytes() == (folder / ORIGINAL).read_bytes()
    assert (folder / HEADER_ONLY).read_bytes() == header + b"\n"


def test_rows_are_repeated_within_a_file_and_in_the_late_one_only(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    by_file = {
        name: Counter(
            tuple(row[field] for field in FIELDS) for row in read_rows(folder / name) if row and any(row.values())
        )
        for name in counts.files
        if name != COPY
    }
    assert any(count > 1 for count in by_file[ORIGINAL].values())
    shared = by_file[ORIGINAL].keys() & by_file[LATE].keys()
    assert shared
    assert all(by_file[LATE][content] <= by_file[ORIGINAL][content] for content in shared)


def test_times_come_in_four_shapes_and_as_junk(sample: tuple[Path, SampleCounts]) -> None:
    folder, _ = sample
    texts = {row["timestamp"] for row in read_rows(folder / ORIGINAL) if row}
    assert {"not-a-date", "abc123", "32/13/2024", ""} < texts
    assert any(text.isdigit() for text in texts)
    for form in FORMS:
        assert any(is_written(text, form) for text in texts)


def is_written(text: str, form: str) -> bool:
    try:
        datetime.strptime(text, form)
    except ValueError:
        return False
    return True


def test_users_appear_under_two_organisations(sample: tuple[Path, SampleCounts]) -> None:
    folder, counts = sample
    orgs = organisations([row for name in counts.files for row in read_rows(folder / name)])
    assert {len(found) for found in orgs.values()} == {1, 2}
    assert len(counts.totals) == 10
