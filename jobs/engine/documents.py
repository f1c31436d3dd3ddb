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
from jobs.engine.fingerprints import measured
from jobs.engine.places import local_path
from jobs.engine.sources import Document

KEY = re.compile(r"[A-Za-z0-9_-]{1,200}")
MARK = "documents"  # how the name of the hidden file ends
_CHECKSUM = 2  # of its words, which one; in that of an earlier Assay the last, or not there


def folder_of(output: str, document: Document) -> Path:
    """Where the files go. Raises ConfigurationError unless it is a folder that this machine has, or has mounted."""
    root = local_path(output)
    if root is None:
        raise ConfigurationError(
            f"documents are written to a folder, not to {output}",
            "let ASSAY_OUTPUT name a path that the driver and all executors have mounted",
        )
    return root / document.folder


def is_current(
    lake: Lakehouse, table: str, version: int, document: Document, output: str, checksum: str | None
) -> bool:
    """Whether the files are from that version of a gold table, by the hidden file beside them, as `write` reads it."""
    written = _origin(_mark(folder_of(output, document), document), document)
    return _is_from(written, _origin_now(lake, table, version, checksum, document))


def write(
    lake: Lakehouse, table: str, version: int, document: Document, output: str, checksum: str | None
) -> tuple[int, int]:
    """Brings the files up to date with one version of a gold table; how many were looked at to write, and removed.

    A hidden file beside them says which version they are from, and the `checksum` of its rows (None: not known), so
    that only rows that differ are touched. The number alone does not tell: in a lakehouse that was restored it comes
    again, with other rows. Where that version is not there to be compared with, all are written, but for files that are
    the same already, and those of other keys are removed; but none without the hidden file, for Assay may not own it.
    Without one, Assay owns a folder in which no file is named as they are. So it is, too, where key or ending of the
    files have been declared anew; those of a former ending are removed in the end.
    """
    folder = folder_of(output, document)
    mark = _mark(folder, document)
    is_marked, written = mark.exists(), _origin(mark, document)
    now = _origin_now(lake, table, version, checksum, document)
    if _is_from(written, now):
        return 0, 0
    former = sorted({word for word in written if word.startswith(".")} - {document.suffix})
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    shown, counts = lake.read(table, version), (0, 0)
    now[_CHECKSUM] = checksum or measured(shown).checksum
    if written[_CHECKSUM:] != now[_CHECKSUM:]:
        rows, before = _texts(shown, document), _before(lake, table, written, now)
        if before is not None:
            rows = _difference(rows, _texts(before, document), document.key)
        elif is_marked:
            rows = _with_those_gone(rows, folder, document)
        if is_marked or not _keys_there(folder, document):
            # Until all is done, the files are from no version: a crash must not pass for the one before.
            _replace(mark, " ".join(["unfinished", document.suffix, *former]))
            os.sync()
        counts = _bring(rows, folder, document)
    for suffix in former:
        counts = counts[0], counts[1] + _remove_all(folder, document.model_copy(update={"suffix": suffix}))
    _replace(mark, " ".join(now))
    return counts


def _mark(folder: Path, document: Document) -> Path:
    return folder / f".{document.prefix}{MARK}"


def _origin(mark: Path, document: Document) -> list[str]:
    """What the hidden file says; nothing, if there is none."""
    words = mark.read_text(encoding="utf-8", errors="replace").split() if mark.exists() else []
    return [*words, document.suffix, document.key] if len(words) == _CHECKSUM + 1 else words


def _origin_now(lake: Lakehouse, table: str, version: int, checksum: str | None, document: Document) -> list[str]:
    """What the hidden file says of files that are up to date: table, version, checksum, and how they are named."""
    return [lake.identity(table), str(version), checksum or "", document.suffix, document.key]


def _is_from(written: list[str], now: list[str]) -> bool:
    """Whether the files are from what they are to be from now; its checksum may be unknown."""
    return len(written) == len(now) and written == [new or old for old, new in zip(written, now, strict=True)]


def _texts(rows: DataFrame, document: Document) -> DataFrame:
    """One row per file: the key as its name has it, and the text."""
    return rows.select(F.col(document.key).cast("string").alias(document.key), "document")


def _before(lake: Lakehouse, table: str, written: list[str], now: list[str]) -> DataFrame | None:
    """The rows that the files were written from; None if they are not known, or no longer there as they were."""
    if len(written) == len(now) and written[0] == now[0] and written[_CHECKSUM + 1 :] == now[_CHECKSUM + 1 :]:
        # That version may be gone, or damaged: what is needed is in the new one.
        with suppress(PySparkException, Py4JJavaError, ValueError):
            rows = lake.read(table, int(written[1]))
            return rows if measured(rows).checksum == written[_CHECKSUM] else None
    return None


def _difference(new: DataFrame, old: DataFrame, key: str) -> DataFrame:
    """One row per key whose document is new, differs, or is gone: `document` is NULL then."""
    before = old.select(key, F.col("document").alias("before"))
    is_other = ~F.col("document").eqNullSafe(F.col("before"))
    return new.join(before, key, "full").where(is_other).select(key, "document")


def _with_those_gone(rows: DataFrame, folder: Path, document: Document) -> DataFrame:
    """The rows, and one for each file that is there for another key: its `document` is NULL."""
    there = [(key,) for key in _keys_there(folder, document)]
    return rows.join(rows.sparkSession.createDataFrame(there, f"{document.key} STRING"), document.key, "full")


def _keys_there(folder: Path, document: Document) -> list[str]:
    """The keys of the files that are there; names that begin as those of other documents beside them are theirs."""
    prefixes = [mark.name.removeprefix(".").removesuffix(MARK) for mark in folder.glob(f".*{MARK}")]
    others = tuple(prefix for prefix in prefixes if len(prefix) > len(document.prefix))
    ours = re.compile(f"{re.escape(document.prefix)}({KEY.pattern}){re.escape(document.suffix)}")
    names = [ours.fullmatch(name) for name in os.listdir(folder) if not name.startswith(others)]
    return [name[1] for name in names if name]


def _remove_all(folder: Path, document: Document) -> int:
    """Removes the files that are named as the document's; how many there were."""
    keys = _keys_there(folder, document)
    for key in keys:
        (folder / f"{document.prefix}{key}{document.suffix}").unlink(missing_ok=True)
    return len(keys)


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
            if file.read_bytes() == row["document"].encode():
                continue
        _replace(file, row["document"])
    # Once, and not for each file: what the hidden file is to say must be on the disk before it is written.
    if written or removed:
        os.sync()
    return [(written, removed)]


def _file(row: Row, folder: Path, document: Document) -> Path:
    key = str(row[document.key])
    if not KEY.fullmatch(key):
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
