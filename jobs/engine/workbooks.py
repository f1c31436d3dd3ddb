"""Reading workbooks (.xlsx) as they came, on the executors: a sheet's columns by name, one row per row, nothing lost.

Spark has no reader for workbooks, so this is the one place where Python workers read rows.
"""

import datetime
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, iterparse

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from jobs.engine.readers import column_names, source_file, spark_paths

ROW_SCHEMA = "_raw STRING, _source_file STRING, _rescued STRING, _cells ARRAY<STRING>"
_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_WORKBOOK = "xl/workbook.xml"
_STRICT = b"http://purl.oclc.org/ooxml/spreadsheetml/main"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # how a file begins that is no .xlsx inside: encrypted, or an .xls
_MOST_ROWS = 1_048_576
_DATES_OF_EAST_ASIA = (*range(27, 37), *range(50, 59))  # formats that Excel has by number, and openpyxl does not know
_WAY_OUT = "open and save it in a spreadsheet program"


@dataclass(frozen=True)
class Sheet:
    """What is wanted of one sheet. `names`: what it may be called, compared without case, blanks and `_` alike.

    One that `needs_rows` is as good as empty with a header alone.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    required: tuple[str, ...]
    aliases: Mapping[str, str]
    needs_rows: bool = False


def inspect(spark: SparkSession, root: str, paths: Iterable[str], sheets: Sequence[Sheet]) -> dict[str, str]:
    """Why workbooks are unfit: a reason for each that cannot be opened, is a Strict Open XML one, lacks a sheet, a
    column or all rows, has a sheet or a column twice, or whose cells openpyxl would lose without a word: formulas
    without a value, rows and cells out of order, cells merged with those below them.

    Reasons never quote a cell: it may be personal data.
    """
    found = _contents(spark, root, paths).rdd.map(partial(_finding, sheets=tuple(sheets))).collect()
    return {path: reason for path, reason in found if reason is not None}


def read_workbooks(spark: SparkSession, root: str, paths: Iterable[str], sheet: Sheet) -> DataFrame:
    """One row per row below the sheet's header: `_raw`, `_source_file`, `_row_hash`, `_rescued`, `_is_malformed`, and
    the sheet's columns as STRING, as `read_csv` gives them.

    - `_raw`: the row's cells as a JSON array of texts; `_rescued`: a JSON object of the cells in unknown columns.
    - A date is ISO text (`2019-10-04T09:00:00`), a whole number has no fraction (`12`), a formula is its last value.
    - `_is_malformed` is false: cells cannot be misplaced. A row without any value is not a row.
    """
    rows = _contents(spark, root, paths).rdd.flatMap(partial(_rows, sheet=sheet))
    return spark.createDataFrame(rows, ROW_SCHEMA).select(
        "_raw",
        "_source_file",
        F.substring(F.sha2("_raw", 256), 1, 32).alias("_row_hash"),
        "_rescued",
        F.lit(False).alias("_is_malformed"),
        *[F.col("_cells")[number].alias(name) for number, name in enumerate(sheet.columns)],
    )


def _contents(spark: SparkSession, root: str, paths: Iterable[str]) -> DataFrame:
    """One row per file: `_source_file`, `content`."""
    files = spark.read.format("binaryFile").load(spark_paths(root, paths))
    return files.select(source_file(spark, root).alias("_source_file"), "content")


# On the executors


def _finding(file: Row, sheets: Sequence[Sheet]) -> tuple[str, str | None]:
    """The workbook's path, and why it is unfit, if it is."""
    path = file["_source_file"]
    try:
        if bytes(file["content"][: len(_OLE)]) == _OLE:
            return path, "it is protected with a password, or of Excel before 2007: save it as an ordinary .xlsx"
        if _is_strict(file["content"]):
            return path, "it is a Strict Open XML workbook: save it as an ordinary .xlsx"
        with _opened(file["content"]) as workbook:
            for sheet in sheets:
                found = _worksheets(workbook, sheet)
                if not found:
                    return path, f"it has no sheet called {' or '.join(sheet.names)}"
                if len(found) > 1:
                    titles = " and ".join(repr(worksheet.title) for worksheet in found)
                    return path, f"sheets {titles} all count as {sheet.names[0]}: remove or rename all but one"
                if flaw := _flaw(found[0]) or _flaw_of_table(_lines(found[0]), sheet):
                    return path, f"sheet {sheet.names[0]}: {flaw}"
    except Exception as error:  # openpyxl raises whatever the damage leads to
        return path, f"the workbook could not be read: {_kind(error)}"
    return path, None


def _flaw_of_table(lines: Iterator[list[str | None]], sheet: Sheet) -> str | None:
    """What is wrong with the sheet's header, or that it lacks rows. Reads all of the sheet."""
    from openpyxl.utils import get_column_letter

    names = column_names(_header_texts(next(lines, ())), sheet.columns, sheet.aliases)
    if missing := [name for name in sheet.required if name not in names]:
        return f"its header lacks required columns: {', '.join(missing)}"
    if twice := next((number for number, name in enumerate(names) if name in names[:number]), None):
        first, second = get_column_letter(names.index(names[twice]) + 1), get_column_letter(twice + 1)
        return f"columns {first} and {second} have the same name, or names of one column: rename or remove one"
    # All of it, so that damage further down is found before anything is written.
    if not sum(1 for _ in lines) and sheet.needs_rows:
        return "it is empty: it has no row below its header"
    return None


def _rows(file: Row, sheet: Sheet) -> Iterator[tuple[str, str, str | None, list[str | None]]]:
    try:
        with _opened(file["content"]) as workbook:
            (worksheet,) = _worksheets(workbook, sheet)
            lines = _lines(worksheet)
            names = column_names(_header_texts(next(lines, ())), sheet.columns, sheet.aliases)
            place = {name: number for number, name in enumerate(names)}
            unknown = {name: number for name, number in place.items() if name not in sheet.columns}
            for cells in lines:
                beyond = {f"_column_{n + 1}": cells[n] for n in range(len(names), len(cells)) if cells[n] is not None}
                rescued = {name: cells[n] for name, n in unknown.items() if n < len(cells) and cells[n] is not None}
                rescued |= beyond
                values = [cells[place[c]] if c in place and place[c] < len(cells) else None for c in sheet.columns]
                text = json.dumps(cells, ensure_ascii=False)
                yield text, file["_source_file"], json.dumps(rescued, ensure_ascii=False) if rescued else None, values
    except Exception as error:
        # The wording is that of Spark's own readers, by which `failed_file` knows the file.
        message = f"Encountered error while reading file /{quote(file['_source_file'])}. Details: {_kind(error)}"
        raise RuntimeError(message) from None


def _is_strict(content: bytes | bytearray) -> bool:
    """Whether it is of Excel's other kind of .xlsx, in which openpyxl finds no sheets, or no rows."""
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        return _WORKBOOK in parts.namelist() and _STRICT in parts.read(_WORKBOOK)


@contextmanager
def _opened(content: bytes | bytearray) -> Iterator[Any]:
    """A workbook to read from."""
    from openpyxl import load_workbook

    workbook: Any = load_workbook(io.BytesIO(content), read_only=True, data_only=True, keep_links=False)
    styles = enumerate(workbook._cell_styles)
    workbook._date_formats.update(number for number, style in styles if style.numFmtId in _DATES_OF_EAST_ASIA)
    try:
        yield workbook
    finally:
        workbook.close()


def _worksheets(workbook: Any, sheet: Sheet) -> list[Any]:
    """Those that have one of the sheet's names; a sheet that is a chart is none."""
    wanted = {_normalised(name) for name in sheet.names}
    return [worksheet for worksheet in workbook.worksheets if _normalised(worksheet.title) in wanted]


def _flaw(worksheet: Any) -> str | None:
    """Why openpyxl would leave out cells without a word, if it would. Reads the sheet's XML, a row at a time.

    Of merged cells, the file has a value in the first alone: those below would be missing.
    """
    from openpyxl.utils.cell import range_boundaries

    row = 0
    merged: list[tuple[int, int]] = []
    with worksheet._get_source() as stream:
        for _, element in iterparse(stream):
            if element.tag == f"{_MAIN}row":
                above, row = row, int(float(element.get("r", row + 1)))
                if not above < row <= _MOST_ROWS or not _are_in_order(element):
                    return f"its rows, or the cells of a row, are not in order: {_WAY_OUT}"
                if any(_lacks_value(cell) for cell in element):
                    return f"formulas without values: {_WAY_OUT}"
                element.clear()
            elif element.tag == f"{_MAIN}mergeCell":
                _, first, _, last = range_boundaries(element.get("ref", ""))
                merged.append((first or 1, last or _MOST_ROWS))
    header = next((number for number, _ in _numbered_lines(worksheet)), 0) if merged else 0
    for first, last in merged:
        if last > max(first, header):
            return f"merged cells in rows {first} to {last}: unmerge and fill them"
    return None


def _are_in_order(cells: Iterable[Element]) -> bool:
    """Whether columns rise from cell to cell; one that does not say which it is in is in the next."""
    from openpyxl.utils.cell import coordinate_to_tuple

    column = 0
    for cell in cells:
        place = cell.get("r")
        left, column = column, coordinate_to_tuple(place)[1] if place else column + 1
        if column <= left:
            return False
    return True


def _lacks_value(cell: Element) -> bool:
    """Whether it is a formula that no program has calculated. The empty text is a value, but only of a text."""
    if cell.find(f"{_MAIN}f") is None or cell.find(f"{_MAIN}is") is not None:
        return False
    value = cell.findtext(f"{_MAIN}v")
    return value is None or (value == "" and cell.get("t") != "str")


def _lines(worksheet: Any) -> Iterator[list[str | None]]:
    """The sheet's rows that have any value, as texts; the first is its header."""
    return (cells for _, cells in _numbered_lines(worksheet))


def _numbered_lines(worksheet: Any) -> Iterator[tuple[int, list[str | None]]]:
    worksheet.reset_dimensions()  # some writers state them wrongly, and rows beyond them would be lost
    rows = ([_text(value) for value in row] for row in worksheet.iter_rows(values_only=True))
    numbered = enumerate(rows, 1)
    return ((number, row) for number, row in numbered if any(value is not None and value.strip() for value in row))


def _header_texts(cells: Iterable[str | None]) -> list[str]:
    return [cell or "" for cell in cells]


def _normalised(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).lower()


def _text(value: object) -> str | None:
    """A cell as text, with `_x000D_` as the character that it stands for.

    Half a surrogate pair, which is no character, and NUL, which Postgres cannot hold, become U+FFFD.
    """
    from openpyxl.utils.escape import unescape

    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    text = unescape(str(value)).replace("\0", "\ufffd")
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _kind(error: Exception) -> str:
    """What is wrong, without what the library quotes of the file."""
    if isinstance(error, zipfile.BadZipFile):
        return "it is no workbook, or it is cut off"
    return type(error).__name__
