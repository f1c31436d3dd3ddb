"""New contacts on top of many: what a run with news costs, raw to Postgres, against the run that made everything.

    uv pip install --python .venv/bin/python -r requirements-bench.txt    # or .tools/bin/uv
    .venv/bin/python -m scripts.bench.increment --rows 10000000 --news 100000

Each run is a process of its own, start-up included; the embedded Postgres is running already. The news are of the 31
days after the year that is there, every fiftieth a late one of that year. In the end a run makes everything anew from
the same files, elsewhere: ends with 1 if its tables differ.
"""

import argparse
import re
import shutil
import sys
import tempfile
from itertools import islice
from pathlib import Path

import psycopg

from jobs.engine import embedded
from jobs.engine.database import Database
from scripts.bench.contacts import CONTEST, plain
from scripts.bench.contest import times
from scripts.bench.measure import Measured
from scripts.proof.world import new_database
from scripts.samples.contacts import write

_LATE = 50
_SEED = 99  # other contacts than those that are there
_SECRETS = "lakehouse/ops/id_secrets"


def news(folder: Path, rows: int) -> str:
    """So many raw lines: those of a sample's January, most of them a year later."""
    made = write(folder / "sample", rows=13 * rows, seed=_SEED)
    with (folder / "sample" / made.files[0]).open("rb") as file:
        lines = list(islice(plain(file), rows))
    shutil.rmtree(folder / "sample")
    return "".join(
        line
        if number % _LATE == 0
        else re.sub("2023-0([123])-", r"2024-0\1-", line).replace("datetime(2023,", "datetime(2024,")
        for number, line in enumerate(lines)
    )


def run(landing: Path, folder: Path, database: Database) -> Measured:
    """One run of contacts."""
    measured = CONTEST.assay(landing, folder, database)
    print(times(measured), flush=True)
    return measured


def contradictions(one: Database, other: Database) -> list[str]:
    """One line for each published table that is not the same in both databases."""
    found = []
    for table in CONTEST.answers:
        statement = f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM gold.{table} AS t"
        answers = []
        for database in (one, other):
            with psycopg.connect(database.conninfo()) as connection:
                answers.append(connection.execute(statement).fetchone())
        if answers[0] != answers[1]:
            found.append(f"gold.{table}: {answers[0]} after the increment, {answers[1]} computed as a whole")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="contacts that are there (1000000)")
    parser.add_argument("--news", type=int, default=10_000, help="new contacts (10000)")
    parser.add_argument("--files", type=Path, default=Path("data/bench"), help="where raw files are kept (data/bench)")
    parser.add_argument("--without-check", action="store_true", help="do not make everything anew in the end")
    given = parser.parse_args()
    raw = CONTEST.raw_files(given.files.resolve() / f"contacts-{given.rows}" / "contacts", given.rows)
    folder = Path(tempfile.mkdtemp(dir=given.files))
    landing = folder / "landing/contacts"
    landing.mkdir(parents=True)
    found: list[str] = []
    try:
        for file in raw:
            (landing / file.name).symlink_to(file)
        server = embedded.start(folder / "postgres")
        databases = [new_database(server, name) for name in ("increment", "whole")]
        whole = run(landing.parent, folder / "increment", databases[0])
        print(f"{given.rows:>12,} rows, all of them new     {whole.seconds:>7.1f} s  {whole.peak / 1e9:>5.1f} GB")
        (landing / "news.jsonl").write_text(news(folder, given.news), encoding="utf-8")
        part = run(landing.parent, folder / "increment", databases[0])
        print(
            f"{given.news:>12,} rows on top of them       {part.seconds:>7.1f} s  {part.peak / 1e9:>5.1f} GB  "
            f"{part.seconds / whole.seconds:.1%} of that",
            flush=True,
        )
        if not given.without_check:
            # The same contacts get the same ids where the secret is the same.
            shutil.copytree(folder / "increment" / _SECRETS, folder / "whole" / _SECRETS)
            run(landing.parent, folder / "whole", databases[1])
            found = contradictions(*databases)
            print("\n".join(["tables differ:", *found]) if found else "tables are those of a run that made all anew")
    finally:
        embedded.stop(folder / "postgres")
        shutil.rmtree(folder)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
