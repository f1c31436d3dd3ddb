"""Files as they arrive: under their name only when whole, compressed by their ending, the same bytes every time."""

import bz2
import gzip
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import BinaryIO, cast


@contextmanager
def arriving(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that appears under its name only when it is whole."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def compressed(file: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """`file` to write to: what is written is compressed if `name` ends in .gz or .bz2."""
    if name.endswith(".gz"):
        # Neither name nor time in the header: they would make the same content differ.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as stream:
            yield cast(BinaryIO, stream)
    elif name.endswith(".bz2"):
        with bz2.BZ2File(file, "wb") as stream:
            yield cast(BinaryIO, stream)
    else:
        yield file


def write_lines(path: Path, lines: Iterator[str], start: str, newline: str, *, is_broken_off: bool) -> None:
    """A file of lines in UTF-8 (surrogates stand for other bytes) after `start`, perhaps broken off in the last one."""
    before = start
    with arriving(path) as file, compressed(file, path.name) as stream:
        while chunk := list(islice(lines, 5_000)):
            stream.write((before + newline.join(chunk)).encode("utf-8", "surrogateescape"))
            before = newline
        if not is_broken_off:
            stream.write(newline.encode())


def shares(rows: int, weights: Sequence[int]) -> list[int]:
    """`rows` split in proportion to the weights, to the last row."""
    ends = [rows * weight // sum(weights) for weight in accumulate(weights, initial=0)]
    return [end - start for start, end in pairwise(ends)]


def broken_off(rng: random.Random, line: str) -> str:
    """The beginning of a line, at least half of it."""
    return line[: rng.randint(len(line) // 2, len(line) - 2)]
