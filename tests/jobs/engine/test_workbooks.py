"""Workbooks: a sheet's columns by name, dates and numbers as text, and a reason for each file that does not suit."""

import io
import json
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
        ("=1+1", None),  # a formula that no program has computed yet
    ]
    found = landing.values({"Interactions": [HEADER, *[["x", "Email", value] for value, _ in cells]]})
    assert [row[2] for row in found] == [text for _, text in cells]


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
    both = {"Interactions": [HEADER, ["other", "Call", "2"]], "External interactions": [HEADER, row]}
    assert landing.values(both) == [tuple(row)]


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
        "cut.xlsx": whole[: len(whole) // 2],
        "text.xlsx": b"date_start,interaction,customers\n",
    }
    assert landing.inspect(files, EVENTS, PRODUCTS) == {
        "one sheet.xlsx": "it has no sheet called Products",
        "no header.xlsx": "sheet Products: its header lacks required columns: date",
        "no column.xlsx": "sheet External interactions: its header lacks required columns: interaction",
        "twice.xlsx": "sheet External interactions: two columns are interaction",
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
        "header.xlsx": "sheet Products is empty: it has no row below its header"
    }


def test_a_workbook_that_breaks_after_it_was_inspected_is_named(landing: Landing) -> None:
    paths = landing.write({"good.xlsx": workbook({"Interactions": [HEADER]}), "broken.xlsx": b"PK broken"})
    with pytest.raises(Exception) as error:  # noqa: PT011 - what Spark makes of it
        read_workbooks(landing.spark, str(landing.root), paths, EVENTS).collect()
    assert (failed_file(error.value, paths) or [None])[0] == "broken.xlsx"
