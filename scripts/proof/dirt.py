"""Feeds damaged raw files of all sources to Assay: no run may fail, and every file and row must be accounted for.

    .venv/bin/python -m scripts.proof.dirt --files 300 --seed 7

Each file is a piece of a sample file, damaged once or twice: bytes flipped, lines cut, columns moved, encodings changed
and so on. Ends with 1, and says which file it was, if a run fails or a file is neither accounted for nor set aside.
"""

import argparse
import bz2
import gzip
import importlib
import io
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from jobs.engine.context import start_run
from jobs.engine.database import Database
from jobs.engine.errors import AssayError
from jobs.engine.settings import Settings
from jobs.engine.sources import Source, load_sources
from jobs.layers.run import run_sources
from scripts.proof.world import ground, postgres_settings

Damage = Callable[[random.Random, bytes], bytes]
_LINES_PER_FILE = 60


@dataclass(frozen=True)
class Finding:
    """What became of one source's damaged files."""

    source: str
    files: int
    set_aside: int
    rows_read: int
    rows_quarantined: int
    wrong: list[str]


# -- damage --


def _flip(chance: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(1, 20)):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut_end(chance: random.Random, content: bytes) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _cut_lines(chance: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(line[: chance.randrange(len(line) + 1)] if chance.random() < 0.1 else line for line in lines)


def _without_first_line(_: random.Random, content: bytes) -> bytes:
    return content.partition(b"\n")[2]


def _first_line_again(chance: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines, *chance.choices(lines[:1] or [b""], k=3)])


def _shuffled_lines(chance: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    chance.shuffle(lines)
    return b"".join(lines)


def _moved_columns(chance: random.Random, content: bytes) -> bytes:
    rows = [line.split(b",") for line in content.splitlines()]
    order = list(range(max(map(len, rows), default=0)))
    chance.shuffle(order)
    return b"\n".join(b",".join(row[i] for i in order if i < len(row)) for row in rows) + b"\n"


def _other_delimiter(chance: random.Random, content: bytes) -> bytes:
    return content.replace(b",", chance.choice([b";", b"\t", b"|", b", ", b":"]))


def _quotes(chance: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(1, 5)):
        changed[chance.randrange(len(changed) + 1) : 0] = chance.choice([b'"', b'""', b"'", b'"\n'])
    return bytes(changed)


def _strange_bytes(chance: random.Random, content: bytes) -> bytes:
    place = chance.randrange(len(content) + 1)
    strange = chance.choice([b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\x1a", b"\xc3", b"\xe2\x80\xa8", b"\x85", b"\r"])
    return content[:place] + strange * chance.randint(1, 3) + content[place:]


def _other_encoding(chance: random.Random, content: bytes) -> bytes:
    text = content.decode("utf-8", "replace")
    return text.encode(chance.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-8-sig"]), "replace")


def _line_ends(chance: random.Random, content: bytes) -> bytes:
    return content.replace(b"\n", chance.choice([b"\r\n", b"\r", b"\n\n", b"\n \n", b"\r\r\n"]))


def _long_line(chance: random.Random, content: bytes) -> bytes:
    return content + chance.choice([b"x", b'"', b"[", b"\\", b"9"]) * 1_000_000 + b"\n"


def _odd_values(chance: random.Random, content: bytes) -> bytes:
    odd = [b"-1", b"1e999", b"NaN", b"Infinity", b"9" * 40, b"0000-00-00", b"9999-12-31 23:59:59", b"null", b"\\u0000"]
    pieces = content.split(b",")
    return b",".join(chance.choice(odd) if chance.random() < 0.05 else piece for piece in pieces)


DAMAGES: tuple[Damage, ...] = (
    _flip, _cut_end, _cut_lines, _without_first_line, _first_line_again, _shuffled_lines, _moved_columns,
    _other_delimiter, _quotes, _strange_bytes, _other_encoding, _line_ends, _long_line, _odd_values,
)  # fmt: skip


def _workbook_cells(chance: random.Random, content: bytes) -> bytes:
    """A workbook that opens, with odd values in its cells."""
    from openpyxl import load_workbook

    book = load_workbook(io.BytesIO(content))
    odd: list[object] = [None, -1, 1e300, True, "#N/A", "\u2028", "32/13/2024 25:61", "=1/0", "x" * 30_000, 3.7]
    for sheet in book.worksheets:
        for row in sheet.iter_rows():
            for cell in row:
                if chance.random() < 0.05:
                    cell.value = chance.choice(odd)  # type: ignore[assignment]
        if chance.random() < 0.2:
            sheet.title = chance.choice(["Sheet1", "Customers", sheet.title.upper()])
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


# -- files --


def damaged_files(source: str, count: int, seed: int, folder: Path, share: float = 1.0) -> Iterator[tuple[str, bytes]]:
    """`count` names and contents: pieces of the source's sample, each damaged once or twice, some compressed again.

    With a `share`, so many of them are damaged (0 to 1), the others are as they were.
    """
    chance = random.Random(f"{source} {seed}")
    importlib.import_module(f"scripts.samples.{source}").write(folder, rows=1_000, seed=seed)
    samples = [file for file in sorted(folder.iterdir()) if file.stat().st_size]
    for number in range(count):
        sample = chance.choice(samples)
        stem, ending = sample.name.split(".", 1)
        content = sample.read_bytes()
        is_damaged = chance.random() < share
        if ending.endswith("xlsx"):
            of_workbook: Damage = chance.choice([_flip, _cut_end, _workbook_cells, _workbook_cells])
            yield f"{stem}-{number:03d}.{ending}", of_workbook(chance, content) if is_damaged else content
            continue
        content = _piece(chance, _uncompressed(sample.name, content))
        ending = ending.removesuffix(".gz").removesuffix(".bz2")
        if not is_damaged:
            yield f"{stem}-{number:03d}.{ending}", content
            continue
        for damage in chance.sample(DAMAGES, chance.randint(1, 2)):
            content = damage(chance, content)
        compression = chance.random()
        if compression < 0.1:
            content, ending = gzip.compress(content, mtime=0), f"{ending}.gz"
            content = _flip(chance, content) if chance.random() < 0.5 else content
        elif compression < 0.15:
            content, ending = bz2.compress(content)[: chance.randrange(1, 10_000)], f"{ending}.bz2"
        yield f"{stem}-{number:03d}.{ending}", content


def _uncompressed(name: str, content: bytes) -> bytes:
    return (
        gzip.decompress(content)
        if name.endswith(".gz")
        else bz2.decompress(content)
        if name.endswith(".bz2")
        else content
    )


def _piece(chance: random.Random, content: bytes) -> bytes:
    """The first line, which may be a header, and some of the others."""
    lines = content.splitlines(keepends=True)
    start = chance.randrange(1, max(2, len(lines) - _LINES_PER_FILE))
    return b"".join([*lines[:1], *lines[start : start + _LINES_PER_FILE]])


# -- runs --


def feed(source: Source, count: int, seed: int, folder: Path, database: Database) -> Finding:
    """Runs Assay, raw to Postgres, on `count` damaged files of a source."""
    settings = Settings(
        landing=str(folder / "landing"),
        lakehouse=str(folder / "lakehouse"),
        output=str(folder / "output"),
        postgres=postgres_settings(database),
    )
    landing = folder / "landing" / source.name
    landing.mkdir(parents=True)
    names = []
    for number, (name, content) in enumerate(damaged_files(source.name, count, seed, folder / "sample")):
        (landing / name).write_bytes(content)
        os.utime(landing / name, (1_700_000_000 + number,) * 2)
        names.append(f"{source.name}/{name}")
    run = start_run(settings, Console(quiet=True), quiet=True)
    try:
        line = run_sources(run, [source], first="bronze", until="publish").sources[0]
    except AssayError as error:
        return Finding(source.name, count, 0, 0, 0, [f"the run failed: {error}"])
    rejected = {
        e.source_file for e in run.ledger.history(source.name).newest_versions().values() if e.status == "rejected"
    }
    accounts = run.ledger.accounts().where("layer = 'bronze'").collect()
    rows_read: dict[str, int] = {}
    for account in accounts:
        rows_read[account["source_file"]] = rows_read.get(account["source_file"], 0) + account["rows_read"]
    wrong = []
    for name in names:
        if name not in rows_read and name not in rejected:
            wrong.append(f"{name}: neither accounted for nor set aside")
        if source.raw.get(source.name) and source.raw[source.name].format == "lines" and name in rows_read:
            expected = _lines(folder / "landing" / name)
            if rows_read[name] != expected:
                wrong.append(f"{name}: {expected} lines, {rows_read[name]} rows read")
    return Finding(source.name, count, len(rejected), line.rows_in, line.quarantined, wrong)


def _lines(file: Path) -> int:
    """The lines of a text file, counted without Spark."""
    content = _uncompressed(file.name, file.read_bytes())
    return len(re.split(rb"\r\n|\n|\r", content)) - (content.endswith((b"\n", b"\r")) or not content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=300, help="damaged files, over all sources (300)")
    parser.add_argument("--seed", type=int, default=7, help="the same seed damages the same way (7)")
    given = parser.parse_args()
    sources = load_sources()
    with ground() as (folder, _, database):
        wrong = 0
        for source in sources:
            found = feed(source, given.files // len(sources), given.seed, folder / source.name, database)
            wrong += len(found.wrong)
            print(
                f"{found.source:<13} {found.files} files, {found.set_aside} set aside, "
                f"{found.rows_read:,} rows read, {found.rows_quarantined:,} quarantined",
                flush=True,
            )
            for text in found.wrong:
                print(f"              WRONG  {text}", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
