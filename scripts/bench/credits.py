"""Credits, raw files to gold with all layers kept: Assay against DuckDB and pandas, on the same files and cores.

    uv pip install --python .venv/bin/python -r requirements-bench.txt    # or .tools/bin/uv
    .venv/bin/python -m scripts.bench.credits --rows 10000000

Each is a process of its own, start-up included. The answers are compared, too: ends with 1 if they differ.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from scripts.bench.contest import Contest, main, sample_lines
from scripts.samples.credits import MAXIMUM_ROWS, write

_FIELDS = ("org_id", "user_id", "credit_type", "action", "credits", "timestamp")
_ANSWERS = {
    "org_credit_balances": "org_id, credits_added, credits_deducted, credit_balance, disputed_credits, "
    "undated_event_count, quarantined_event_count, first_event_at AT TIME ZONE 'UTC', last_event_at AT TIME ZONE 'UTC'",
    "user_activity": "org_id, user_id, home_org_id, credit_type, action, credits, occurred_at AT TIME ZONE 'UTC', "
    "occurred_on",
    "user_daily_usage": "org_id, user_id, credit_type, action, occurred_on, event_count, credits",
}


def _read(file: IO[bytes]) -> Iterator[str]:
    """The rows of one sample file with the same columns and commas in all; a malformed one is a single field."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    header = text.readline().strip()
    delimiter = ";" if ";" in header else ","
    names = [name.strip().strip('"').lower() for name in header.split(delimiter)]
    places = [names.index(field) for field in _FIELDS]
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    for row in csv.reader(text, delimiter=delimiter):
        line.seek(0)
        line.truncate()
        writer.writerow([row[place] for place in places] if len(row) == len(names) else ["malformed"])
        yield line.getvalue()


def _lines(folder: Path, rows: int) -> Iterator[str]:
    yield from sample_lines(folder, rows, MAXIMUM_ROWS, write, _read)


if __name__ == "__main__":
    main(Contest("credits", _lines, _ANSWERS, ".csv", ",".join(_FIELDS) + "\n"), 10_000_000, __doc__)
