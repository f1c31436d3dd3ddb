"""A gold table as files, one a row, written by the executors: each file is whole, and untouched while its row is."""

import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from jobs.engine.delta import Lakehouse
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.landing import local_path
from jobs.engine.sources import Document

_KEY = re.compile(r"[A-Za-z0-9_-]{1,200}")


def folder_of(output: str, document: Document) -> Path:
    """Where the files go. Raises ConfigurationError unless it is a folder that this machine has, or has mounted."""
    root = local_path(output)
    if root is None:
        raise ConfigurationError(
            f"documents are written to a folder, not to {output}",
            "let ASSAY_OUTPUT name a path that the driver and all executors have mounted",
        )
    return root / document.folder


def write(lake: Lakehouse, table: str, version: int, document: Document, output: str) -> tuple[int, int]:
    """Brings the files up to date with one version of a gold table; how many were looked at to write, and removed.

    A hidden file beside them says which version they are from, so that only rows that differ are touched. Without it,
    all are written, but for files that are the same already; then none is removed, for Assay may not own it.
    """
    folder = folder_of(output, document)
    mark = folder / f".{document.prefix}documents"
    identity = lake.identity(table)
    written = mark.read_text(encoding="utf-8").split() if mark.exists() else []
    if written == [identity, str(version)]:
        return 0, 0
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    rows = lake.read(table, version)
    counts = None
    if written[:1] == [identity]:
        # The older version may be gone, or damaged: what is needed is in this one.
        with suppress(PySparkException, Py4JJavaError):
            counts = _bring(_difference(rows, lake.read(table, int(written[1])), document.key), folder, document)
    counts = counts or _bring(rows.select(document.key, "document"), folder, document)
    _replace(mark, f"{identity} {version}")
    return counts


def _difference(new: DataFrame, old: DataFrame, key: str) -> DataFrame:
    """One row per key whose document is new, differs, or is gone: `document` is NULL then."""
    before = old.select(key, F.col("document").alias("before"))
    is_other = ~F.col("document").eqNullSafe(F.col("before"))
    return new.select(key, "document").join(before, key, "full").where(is_other).select(key, "document")


def _bring(rows: DataFrame, folder: Path, document: Document) -> tuple[int, int]:
    """Writes the documents, and removes those that are NULL; how many there were of either."""
    counts = rows.rdd.mapPartitions(partial(_bring_all, folder=folder, document=document)).collect()
    return sum(written for written, _ in counts), sum(removed for _, removed in counts)


# On the executors


def _bring_all(rows: Iterable[Row], folder: Path, document: Document) -> list[tuple[int, int]]:
    written = removed = 0
    for row in rows:
        file = _file(row, folder, document)
        if row["document"] is None:
            file.unlink(missing_ok=True)
            removed += 1
            continue
        written += 1
        with suppress(FileNotFoundError):
            if file.read_text(encoding="utf-8") == row["document"]:
                continue
        _replace(file, row["document"])
    # Once, and not for each file: what the hidden file is to say must be on the disk before it is written.
    if written or removed:
        os.sync()
    return [(written, removed)]


def _file(row: Row, folder: Path, document: Document) -> Path:
    key = str(row[document.key])
    if not _KEY.fullmatch(key):
        raise AssayError(f"documents of {document.folder}: a value of {document.key} cannot be part of a file's name")
    return folder / f"{document.prefix}{key}{document.suffix}"


def _replace(file: Path, text: str) -> None:
    """A reader sees the old file or the new one, never a part."""
    unfinished = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
