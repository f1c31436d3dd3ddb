"""One source, raw files to gold with all layers kept: Assay against DuckDB and pandas, on the same files and cores."""

import argparse
import bz2
import gzip
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import duckdb

from jobs.engine.database import Database
from scripts.bench.measure import Measured, measure
from scripts.proof.world import postgres_variables
from scripts.samples import SampleCounts

_PEERS = Path(__file__).parent / "peers"
_LINES_PER_FILE = 500_000
_IN_UTC = " AT TIME ZONE 'UTC'"


@dataclass(frozen=True)
class Contest:
    """What is run: `peers/<source>_duckdb.sql` and `peers/<source>_pandas.py` do what Assay does with the source.

    `lines` makes so many raw lines, with a folder for scratch files; `header` and `ending` are those of the raw files.
    `answers` are the columns of each gold table that all must agree on, in SQL: not the ids that each makes in its own
    way. Times there are Assay's, which know their zone.
    """

    source: str
    lines: Callable[[Path, int], Iterator[str]]
    answers: Mapping[str, str]
    ending: str
    header: str = ""

    def raw_files(self, folder: Path, rows: int) -> list[Path]:
        """The sample as plain UTF-8 files of like size, which all can read; made once."""
        if files := sorted(folder.glob(f"*{self.ending}")):
            return files
        folder.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            lines = self.lines(Path(name), rows)
            for number in range(-(-rows // _LINES_PER_FILE)):
                with (folder / f"{self.source}-{number:03}.unfinished").open("w", encoding="utf-8") as file:
                    file.write(self.header)
                    file.writelines(islice(lines, _LINES_PER_FILE))
        for whole in folder.glob("*.unfinished"):
            whole.rename(whole.with_suffix(self.ending))
        return sorted(folder.glob(f"*{self.ending}"))

    def assay(self, landing: Path, folder: Path, database: Database | None = None) -> Measured:
        """A run up to gold or, with a database, up to Postgres."""
        settings = {"LANDING": landing, "LAKEHOUSE": folder / "lakehouse", "OUTPUT": folder, "LOGS": folder / "logs"}
        variables = {f"ASSAY_{name}": str(value) for name, value in settings.items()}
        if database:
            variables |= postgres_variables(database)
        until = "publish" if database else "gold"
        command = [sys.executable, "-m", "jobs.cli", "run", "--source", self.source, "--until", until]
        return measure(command, variables)

    def duckdb(self, files: list[Path], database: Path) -> Measured:
        script = (
            "import sys, duckdb; c = duckdb.connect(sys.argv[1]); c.execute('SET threads = 2'); "
            "c.execute('SET VARIABLE files = ' + repr(sys.argv[3:])); c.execute(open(sys.argv[2]).read())"
        )
        sql = _PEERS / f"{self.source}_duckdb.sql"
        return measure([sys.executable, "-c", script, str(database), str(sql), *map(str, files)])

    def pandas(self, files: list[Path], out: Path) -> Measured:
        module = f"scripts.bench.peers.{self.source}_pandas"
        return measure([sys.executable, "-m", module, str(out), *map(str, files)])

    def contradictions(self, lakehouse: Path, database: Path) -> list[str]:
        """One line for each gold table of which Assay and DuckDB have other rows."""
        found = []
        with duckdb.connect(str(database)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for table, columns in self.answers.items():
                ours = f"SELECT {columns} FROM read_parquet('{lakehouse}/gold/{self.source}/{table}/*.parquet')"
                theirs = f"SELECT {columns.replace(_IN_UTC, '')} FROM {table}"
                for one, other, who in ((ours, theirs, "Assay"), (theirs, ours, "DuckDB")):
                    row = connection.execute(f"SELECT count(*) FROM ({one} EXCEPT ALL {other})").fetchone()
                    if row and row[0]:
                        found.append(f"{table}: {row[0]:,} rows that only {who} has")
        return found


def sample_lines(
    folder: Path,
    rows: int,
    largest: int,
    write: Callable[..., SampleCounts],
    read: Callable[[IO[bytes]], Iterator[str]],
) -> Iterator[str]:
    """The lines of as many samples as it takes, none of more than `largest` rows, less the copy and the empty file."""
    for seed, start in enumerate(range(0, rows, largest), start=7):
        place = folder / str(seed)
        made = write(place, rows=min(largest, rows - start), seed=seed)
        for name in made.files[:-2]:
            with _opened(place / name) as file:
                yield from read(file)
        shutil.rmtree(place)


def _opened(path: Path) -> IO[bytes]:
    openers: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open}
    found: IO[bytes] = openers[path.suffix](path) if path.suffix in openers else path.open("rb")
    return found


def main(contest: Contest, rows: int, description: str | None) -> None:
    """The command line of one contest. Ends with 1 if the answers differ."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=rows, help=f"of the raw files ({rows})")
    parser.add_argument("--files", type=Path, default=Path("data/bench"), help="where raw files are kept (data/bench)")
    parser.add_argument("--without-pandas", action="store_true", help="leave out pandas")
    given = parser.parse_args()
    landing = given.files.resolve() / f"{contest.source}-{given.rows}"
    files = contest.raw_files(landing / contest.source, given.rows)
    size = sum(file.stat().st_size for file in files)
    print(f"{given.rows:,} rows, {size / 1e9:.2f} GB in {len(files)} files", flush=True)
    folder = Path(tempfile.mkdtemp(dir=given.files))
    try:
        ours = contest.assay(landing, folder)
        _show("assay", ours, ours)
        print(times(ours), flush=True)
        _show("duckdb", contest.duckdb(files, folder / "duckdb"), ours)
        found = contest.contradictions(folder / "lakehouse", folder / "duckdb")
        print("\n".join(["answers differ:", *found]) if found else "answers are the same as DuckDB's", flush=True)
        if not given.without_pandas:
            try:
                _show("pandas", contest.pandas(files, folder / "pandas"), ours)
            except RuntimeError as error:
                print(f"pandas failed: {str(error).splitlines()[0][-100:]}")
    finally:
        shutil.rmtree(folder)
    sys.exit(1 if found else 0)


def times(run: Measured) -> str:
    """The line of Assay's summary that says how long each step took."""
    return next((line for line in run.output.splitlines() if line.startswith("time ")), "")


def _show(who: str, measured: Measured, ours: Measured) -> None:
    ratio = f"assay takes {ours.seconds / measured.seconds:.2f} times as long" if measured is not ours else ""
    print(f"{who:<8} {measured.seconds:>7.1f} s  {measured.peak / 1e9:>5.1f} GB  {ratio}", flush=True)
