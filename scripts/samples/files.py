"""Files as they arrive: under their name only when whole, compressed by their ending, the same bytes every time."""

import bz2
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
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
