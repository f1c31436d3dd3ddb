"""Contacts, raw files to gold with all layers kept: Assay against DuckDB and pandas, on the same files and cores.

    pip install -r requirements-bench.txt
    .venv/bin/python -m scripts.bench.contacts --rows 1000000

Each is a process of its own, start-up included. The answers are compared, too: ends with 1 if they differ.
"""

import argparse
import bz2
import gzip
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import duckdb

from scripts.bench.measure import Measured, measure
from scripts.samples.contacts import write

HERE = Path(__file__).parent
_LINES_PER_FILE = 500_000
_LARGEST_SAMPLE = 5_000_000
# What both sides must agree on: the same columns, without the ids that each makes in its own way.
_IN_UTC = " AT TIME ZONE 'UTC'"
_ANSWERS = {
    "counselor_daily_cases": "counselor_name, day, number_of_cases, average_risk_level, average_rating",
    "pronoun_risk": "pronouns, contact_count, average_risk_level",
    "concurrency": "scope, max_concurrent_cases, reached_at AT TIME ZONE 'UTC'",
    "contacts": "started_at AT TIME ZONE 'UTC', ended_at AT TIME ZONE 'UTC', initial_counselor_name, transfer_count, "
    "call_rating, initial_risk_level",
    "transfers": "transferred_at AT TIME ZONE 'UTC', transfer_number",
    "counselors": "counselor_name",
}


def raw_files(folder: Path, rows: int) -> list[Path]:
    """The sample as plain UTF-8 files of like size, which all can read; made once."""
    files = sorted(folder.glob("*.jsonl"))
    if files:
        return files
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        lines = _lines(Path(name), rows)
        for number in range(-(-rows // _LINES_PER_FILE)):
            with (folder / f"contacts-{number:03}.unfinished").open("w", encoding="utf-8") as file:
                file.writelines(line for _, line in zip(range(_LINES_PER_FILE), lines, strict=False))
    for whole in folder.glob("*.unfinished"):
        whole.rename(whole.with_suffix(".jsonl"))
    return sorted(folder.glob("*.jsonl"))


def _lines(folder: Path, rows: int) -> Iterator[str]:
    for seed, start in enumerate(range(0, rows, _LARGEST_SAMPLE), start=7):
        made = write(folder / str(seed), rows=min(_LARGEST_SAMPLE, rows - start), seed=seed)
        for name in made.files[:-2]:  # less the copy and the empty file
            with _opened(folder / str(seed) / name) as file:
                for line in file:
                    yield line.decode("utf-8", "replace").strip("\ufeff\r\n") + "\n"


def _opened(path: Path) -> IO[bytes]:
    openers: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open}
    opened: IO[bytes] = openers[path.suffix](path) if path.suffix in openers else path.open("rb")
    return opened


def assay(landing: Path, folder: Path) -> Measured:
    settings = {"ASSAY_LANDING": landing, "ASSAY_LAKEHOUSE": folder / "lakehouse", "ASSAY_LOGS": folder / "logs"}
    command = [sys.executable, "-m", "jobs.cli", "run", "--source", "contacts", "--until", "gold"]
    return measure(command, {name: str(value) for name, value in settings.items()})


def with_duckdb(files: list[Path], database: Path) -> Measured:
    script = (
        "import sys, duckdb; c = duckdb.connect(sys.argv[1]); c.execute('SET threads = 2'); "
        "c.execute('SET VARIABLE files = ' + repr(sys.argv[3:])); c.execute(open(sys.argv[2]).read())"
    )
    sql = HERE / "peers/contacts_duckdb.sql"
    return measure([sys.executable, "-c", script, str(database), str(sql), *map(str, files)])


def with_pandas(files: list[Path], out: Path) -> Measured:
    return measure([sys.executable, "-m", "scripts.bench.peers.contacts_pandas", str(out), *map(str, files)])


def contradictions(lakehouse: Path, database: Path) -> list[str]:
    """One line for each gold table of which Assay and DuckDB have other rows."""
    found = []
    with duckdb.connect(str(database)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table, columns in _ANSWERS.items():
            ours = f"SELECT {columns} FROM read_parquet('{lakehouse}/gold/contacts/{table}/*.parquet')"
            theirs = f"SELECT {columns.replace(_IN_UTC, '')} FROM {table}"
            for one, other, who in ((ours, theirs, "Assay"), (theirs, ours, "DuckDB")):
                row = connection.execute(f"SELECT count(*) FROM ({one} EXCEPT ALL {other})").fetchone()
                if row and row[0]:
                    found.append(f"{table}: {row[0]:,} rows that only {who} has")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="contacts (1000000)")
    parser.add_argument("--files", type=Path, default=Path("data/bench"), help="where raw files are kept (data/bench)")
    parser.add_argument("--without-pandas", action="store_true", help="leave out pandas")
    given = parser.parse_args()
    landing = given.files.resolve() / f"contacts-{given.rows}"
    files = raw_files(landing / "contacts", given.rows)
    print(
        f"{given.rows:,} rows, {sum(file.stat().st_size for file in files) / 1e9:.2f} GB in {len(files)} files",
        flush=True,
    )
    folder = Path(tempfile.mkdtemp(dir=given.files))
    try:
        ours = assay(landing, folder)
        _show("assay", ours, ours)
        print(next((line for line in ours.output.splitlines() if line.startswith("time ")), ""), flush=True)
        _show("duckdb", with_duckdb(files, folder / "duckdb"), ours)
        found = contradictions(folder / "lakehouse", folder / "duckdb")
        print("\n".join(["answers differ:", *found]) if found else "answers are the same as DuckDB's", flush=True)
        if not given.without_pandas:
            try:
                _show("pandas", with_pandas(files, folder / "pandas"), ours)
            except RuntimeError as error:
                print(f"pandas failed: {str(error).splitlines()[0][-100:]}")
    finally:
        shutil.rmtree(folder)
    sys.exit(1 if found else 0)


def _show(who: str, measured: Measured, ours: Measured) -> None:
    ratio = f"assay takes {ours.seconds / measured.seconds:.2f} times as long" if measured is not ours else ""
    print(f"{who:<8} {measured.seconds:>7.1f} s  {measured.peak / 1e9:>5.1f} GB  {ratio}", flush=True)


if __name__ == "__main__":
    main()
