"""Workbooks: a sheet's columns by name, dates and numbers as text, and a reason for each file that does not suit."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, time
from pathlib import Path

import pytest
from openpyxl import Workbook
from pyspark.sql import SparkSession

from jobs.engine.readers import failed_file
from jobs.engine.workbooks import Sheet, inspect, read_workbooks

EVENTS = Sheet(
    names=("External interactions", "Interactions"),
    columns=("date_start", "interaction", "customers"),
    required=("date_start", "interaction"),
    aliases={"event": "interaction"},
)
PRODUCTS = Sheet(names=("Products",), columns=("date", "product"), required=("date",), aliases={})
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
HEADER = ["Date Start", "Interaction", "Customers"]


def workbook(sheets: Mapping[str, Sequence[Sequence[object]]]) -> bytes:
    book = Workbook()
    book.remove(book.worksheets[0])
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def changed(content: bytes, old: str, new: str) -> bytes:
    """The workbook with another text in all its parts."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as book, zipfile.ZipFile(stream, "w") as other:
        for name in book.namelist():
            other.writestr(name, book.read(name).decode().replace(old, new))
    return stream.getvalue()


def with_rows(rows: str) -> bytes:
    """A workbook with these `<row>` elements below the header, written as they are."""
    return changed(workbook({"Interactions": [HEADER]}), "</sheetData>", f"{rows}</sheetData>")


def with_merged(*ranges: str) -> bytes:
    """A workbook with a header in row 3 and cells that are merged."""
    elements = "".join(f'<mergeCell ref="{cells}"/>' for cells in ranges)
    content = workbook({"Interactions": [[], [], HEADER, ["x", "Email", 1], ["y", None, 2]]})
    return changed(content, "</sheetData>", f"</sheetData><mergeCells>{elements}</mergeCells>")


class Landing:
    def __init__(self, root: Path, spark: SparkSession) -> None:
        self.root, self.spark = root, spark

    def write(self, files: Mapping[str, bytes]) -> list[str]:
        for name, content in files.items():
            (self.root / name).write_bytes(content)
        return list(files)

    def inspect(self, files: Mapping[str, bytes], *sheets: Sheet) -> dict[str, str]:
        return inspect(self.spark, str(self.root), self.write(files), sheets or (EVENTS,))

    def rows(self, sheets: Mapping[str, Sequence[Sequence[object]]], sheet: Sheet = EVENTS) -> list[dict[str, object]]:
        paths = self.write({"book [1].xlsx": workbook(sheets)})
        assert inspect(self.spark, str(self.root), paths, (sheet,)) == {}
        return [row.asDict() for row in read_workbooks(self.spark, str(self.root), paths, sheet).collect()]

    def values(self, sheets: Mapping[str, Sequence[Sequence[object]]]) -> list[tuple[object, ...]]:
        return [tuple(row[name] for name in EVENTS.columns) for row in self.rows(sheets)]


@pytest.fixture
def landing(tmp_path: Path, spark: SparkSession) -> Landing:
    return Landing(tmp_path, spark)


def test_cells_become_the_text_that_a_csv_would_hold(landing: Landing) -> None:
    cells = [
        (datetime(2019, 10, 4, 9, 0), "2019-10-04T09:00:00"),
        (date(2019, 10, 4), "2019-10-04T00:00:00"),
        (time(9, 30), "09:30:00"),
        ("04/10/2019 09:00", "04/10/2019 09:00"),
        (12, "12"),
        (12.0, "12"),
        (12.5, "12.5"),
        (True, "true"),
        ("  ", "  "),
        ("", None),
        (None, None),
        ("#N/A", "#N/A"),
        ("Zoë ☂", "Zoë ☂"),
        ("Ann_x000D_\nLee_x000d_", "Ann\r\nLee\r"),
        ("_x005F_x000D_ _xD800_ _x0000_ _x00_", "_x000D_ \ufffd\ufffd\ufffd \ufffd _x00_"),
    ]
    found = landing.values({"Interactions": [HEADER, *[["x", "Email", value] for value, _ in cells]]})
    assert [row[2] for row in found] == [text for _, text in cells]


@pytest.mark.parametrize("number", [14, 27, 31, 36, 50, 58])
def test_a_date_is_one_also_in_a_format_that_excel_gives_no_name(landing: Landing, number: int) -> None:
    """Those of East Asia, which a workbook has by number alone."""
    book = Workbook()
    book.active.title = "Interactions"
    for row in (HEADER, [43742.375, "Email", 5]):
        book.active.append(row)
    book.active["A2"].number_format = "mm-dd-yy"  # 14
    stream = io.BytesIO()
    book.save(stream)
    paths = landing.write({"book.xlsx": changed(stream.getvalue(), 'numFmtId="14"', f'numFmtId="{number}"')})
    (read,) = read_workbooks(landing.spark, str(landing.root), paths, EVENTS).collect()
    assert (read["date_start"], read["customers"]) == ("2019-10-04T09:00:00", "5")


def test_columns_are_matched_by_name_and_others_are_rescued(landing: Landing) -> None:
    sheet = [
        [],
        ["note", " customers ", None, "EVENT", "date-start"],
        ["hello", "1;2", 5, "Email", "x", "beyond"],
        ["", "3"],
    ]
    first, second = landing.rows({"interactions": sheet})
    assert [first[name] for name in EVENTS.columns] == ["x", "Email", "1;2"]
    assert json.loads(str(first["_rescued"])) == {"note": "hello", "_column_3": "5", "_column_6": "beyond"}
    assert json.loads(str(first["_raw"])) == ["hello", "1;2", "5", "Email", "x", "beyond"]
    assert (first["_source_file"], first["_is_malformed"]) == ("book [1].xlsx", False)
    assert [second[name] for name in EVENTS.columns] == [None, None, "3"]
    assert second["_rescued"] is None
    assert first["_row_hash"] != second["_row_hash"]


def test_the_sheet_is_found_by_any_of_its_names_and_others_are_ignored(landing: Landing) -> None:
    row = ["x", "Email", "1"]
    notes = {"Notes": [["anything"], [1, 2, 3, 4, 5]]}
    assert landing.values({**notes, "external_INTERACTIONS ": [HEADER, row]}) == [tuple(row)]


def test_a_row_without_any_value_is_not_a_row(landing: Landing) -> None:
    sheet = [HEADER, ["a", "Email", 1], [None, None, None], ["", " ", None], ["b", "Email", 2]]
    assert [row[0] for row in landing.values({"Interactions": sheet})] == ["a", "b"]


def test_a_workbook_that_does_not_suit_is_named_with_its_reason(landing: Landing) -> None:
    good = {"Interactions": [HEADER, ["x", "Email", 1]], "Products": [["Date", "Product"]]}
    whole = workbook(good)
    files = {
        "good.xlsx": whole,
        "one sheet.xlsx": workbook({"Interactions": [HEADER]}),
        "no header.xlsx": workbook({**good, "Products": []}),
        "no column.xlsx": workbook({**good, "Interactions": [["Date Start", "Customers"], ["x", "y"]]}),
        "twice.xlsx": workbook({**good, "Interactions": [["Date Start", "Interaction", "event"], ["x", "y", "z"]]}),
        "unknown twice.xlsx": workbook({**good, "Products": [["Note", None, "Date", None, " note "], [1, 2, 3, 4, 5]]}),
        "same name.xlsx": workbook({**good, "interactions ": [HEADER, ["y", "Call", 2]]}),
        "both names.xlsx": workbook({**good, "External_Interactions": [HEADER]}),
        "strict.xlsx": changed(whole, MAIN, "http://purl.oclc.org/ooxml/spreadsheetml/main"),
        "locked.xlsx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000),
        "cut.xlsx": whole[: len(whole) // 2],
        "text.xlsx": b"date_start,interaction,customers\n",
    }
    twice = "have the same name, or names of one column: rename or remove one"
    counted = "all count as External interactions: remove or rename all but one"
    assert landing.inspect(files, EVENTS, PRODUCTS) == {
        "one sheet.xlsx": "it has no sheet called Products",
        "no header.xlsx": "sheet Products: its header lacks required columns: date",
        "no column.xlsx": "sheet External interactions: its header lacks required columns: interaction",
        "twice.xlsx": f"sheet External interactions: columns B and C {twice}",
        "unknown twice.xlsx": f"sheet Products: columns A and E {twice}",
        "same name.xlsx": f"sheets 'Interactions' and 'interactions ' {counted}",
        "both names.xlsx": f"sheets 'Interactions' and 'External_Interactions' {counted}",
        "strict.xlsx": "it is a Strict Open XML workbook: save it as an ordinary .xlsx",
        "locked.xlsx": "it is protected with a password, or of Excel before 2007: save it as an ordinary .xlsx",
        "cut.xlsx": "the workbook could not be read: it is no workbook, or it is cut off",
        "text.xlsx": "the workbook could not be read: it is no workbook, or it is cut off",
    }


def test_a_workbook_with_a_sheet_that_needs_rows_and_has_none_does_not_suit(landing: Landing) -> None:
    events, products = {"Interactions": [HEADER, ["x", "Email", 1]]}, [["Date", "Product"]]
    files = {
        "rows.xlsx": workbook({**events, "Products": [*products, ["10-2019", None]]}),
        "header.xlsx": workbook({**events, "Products": [*products, [None, " "]]}),
    }
    assert landing.inspect(files, EVENTS, replace(PRODUCTS, needs_rows=True)) == {
        "header.xlsx": "sheet Products: it is empty: it has no row below its header"
    }


def test_a_workbook_of_which_cells_would_be_lost_does_not_suit(landing: Landing) -> None:
    formulas = "formulas without values: open and save it in a spreadsheet program"
    order = "its rows, or the cells of a row, are not in order: open and save it in a spreadsheet program"
    merged = "merged cells in rows {} to {}: unmerge and fill them"
    value = "<c r='A{0}'><v>{0}</v></c>".format
    cases = {
        "no value.xlsx": ("<row r='2'><c r='A2'><f>1+1</f></c></row>", formulas),
        "no number.xlsx": (f"<row r='2'>{value(2)}<c r='B2'><f>1+1</f><v/></c></row>", formulas),
        "shared.xlsx": ("<row><c t='str'><f t='shared' si='0'/></c></row>", formulas),
        "same row.xlsx": (f"<row r='2'>{value(2)}</row><row r='2'>{value(3)}</row>", order),
        "row above.xlsx": (f"<row r='3'>{value(3)}</row><row r='2'>{value(2)}</row>", order),
        "the next row.xlsx": (f"<row>{value(2)}</row><row>{value(3)}</row><row r='3'>{value(4)}</row>", order),
        "row 0.xlsx": (f"<row r='0'>{value(2)}</row>", order),
        "far below.xlsx": (f"<row r='1048577'>{value(2)}</row>", order),
        "cell to the left.xlsx": (f"<row r='2'><c r='C2'><v>2</v></c>{value(2)}</row>", order),
        "same cell.xlsx": (f"<row r='2'>{value(2)}<c><v>1</v></c><c r='B2'><v>2</v></c></row>", order),
    }
    good = {
        "value.xlsx": "<row><c><f>1+1</f><v>2</v></c></row>",
        "empty text.xlsx": "<row r='2'><c t='str'><f>A1</f><v></v></c><c t='str'><f>A1</f><v/></c></row>",
        "in line.xlsx": "<row r='2'><c t='inlineStr'><f>A1</f><is><t>x</t></is></c></row>",
        "gaps.xlsx": f"<row r='3' spans='1:3'/><row>{value(4)}<c/><c r='AA4'><v>4</v></c></row><row r='9.0'/>",
        "prefix.xlsx": f"<x:row xmlns:x='{MAIN}' r='2'><x:c r='A2'><x:v>2</x:v></x:c></x:row>",
    }
    others = {
        "openpyxl.xlsx": (workbook({"Interactions": [HEADER, ["x", "Email", "=1+1"]]}), formulas),
        "merged.xlsx": (with_merged("A4:C4", "B4:B5"), merged.format(4, 5)),
        "merged with the header.xlsx": (with_merged("A1:C2", "A2:A4"), merged.format(2, 4)),
    }
    files = {name: with_rows(rows) for name, (rows, _) in cases.items()} | {n: book for n, (book, _) in others.items()}
    fine = {name: with_rows(rows) for name, rows in good.items()} | {
        "merged above the header.xlsx": with_merged("A1:C2", "B5:C5")
    }
    assert landing.inspect({**files, **fine}) == {
        name: f"sheet External interactions: {reason}" for name, (_, reason) in {**cases, **others}.items()
    }


def test_a_workbook_that_breaks_after_it_was_inspected_is_named(landing: Landing) -> None:
    for name in ("broken.xlsx", "Q4 100%25 [é].xlsx"):
        paths = landing.write({"good.xlsx": workbook({"Interactions": [HEADER]}), name: b"PK broken"})
        with pytest.raises(Exception) as error:  # noqa: PT011 - what Spark makes of it
            read_workbooks(landing.spark, str(landing.root), paths, EVENTS).collect()
        assert failed_file(error.value, paths) == (name, "it is no workbook, or it is cut off")
