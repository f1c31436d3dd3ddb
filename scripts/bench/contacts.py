"""Contacts, raw files to gold with all layers kept: Assay against DuckDB and pandas, on the same files and cores.

    uv pip install --python .venv/bin/python -r requirements-bench.txt    # or .tools/bin/uv
    .venv/bin/python -m scripts.bench.contacts --rows 1000000

Each is a process of its own, start-up included. The answers are compared, too: ends with 1 if they differ.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from scripts.bench.contest import Contest, main, sample_lines
from scripts.samples.contacts import write

_LARGEST_SAMPLE = 5_000_000
_ANSWERS = {
    "counselor_daily_cases": "counselor_name, day, number_of_cases, average_risk_level, average_rating",
    "pronoun_risk": "pronouns, contact_count, average_risk_level",
    "concurrency": "scope, max_concurrent_cases, reached_at AT TIME ZONE 'UTC'",
    "contacts": "started_at AT TIME ZONE 'UTC', ended_at AT TIME ZONE 'UTC', initial_counselor_name, transfer_count, "
    "call_rating, initial_risk_level",
    "transfers": "transferred_at AT TIME ZONE 'UTC', transfer_number",
    "counselors": "counselor_name",
}


def plain(file: IO[bytes]) -> Iterator[str]:
    """The lines of a sample file as UTF-8 with plain line ends; bytes that are not are left out, as peers read any."""
    for line in file:
        yield line.decode("utf-8", "ignore").strip("\ufeff\r\n") + "\n"


def _lines(folder: Path, rows: int) -> Iterator[str]:
    yield from sample_lines(folder, rows, _LARGEST_SAMPLE, write, plain)


CONTEST = Contest("contacts", _lines, _ANSWERS, ".jsonl")

if __name__ == "__main__":
    main(CONTEST, 1_000_000, __doc__)
