"""CSV files as people send them. Each test: the bytes of the files beside the rows that come out."""

import bz2
import csv
import gzip
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import Row, SparkSession

from jobs.engine.csv_files import CsvForm, inspect, read_csv
from jobs.engine.landing import Unreadable, _head_hadoop

COLUMNS = ("id", "name", "city")
REQUIRED = ("id",)


class Landing:
    """A landing folder, and what the reader makes of it."""

    def __init__(self, root: Path, spark: SparkSession) -> None:
        self.root, self.spark = root, spark

    def write(self, files: dict[str, bytes]) -> list[str]:
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return list(files)

    def inspect(self, files: dict[str, bytes]) -> tuple[dict[str, CsvForm], dict[str, Unreadable]]:
        return inspect(self.spark, str(self.root), self.write(files), COLUMNS, REQUIRED)

    def rows(self, files: dict[str, bytes]) -> list[Row]:
        """The rows of all the files, none of which is set aside, by file and text."""
        forms, reasons = self.inspect(files)
        assert reasons == {}
        rows = read_csv(self.spark, str(self.root), forms, COLUMNS).collect()
        return sorted(rows, key=lambda row: (row["_source_file"], row["_raw"]))

    def values(self, files: dict[str, bytes]) -> dict[str, list[tuple[str | None, ...]]]:
        """Per file, the values of `COLUMNS`, row by row. No row may be malformed."""
        found: dict[str, list[tuple[str | None, ...]]] = {name: [] for name in files}
        for row in self.rows(files):
            assert not row["_is_malformed"], row["_raw"]
            found[row["_source_file"]].append(tuple(row[column] for column in COLUMNS))
        return found


@pytest.fixture
def landing(tmp_path: Path, spark: SparkSession) -> Landing:
    return Landing(tmp_path, spark)


def test_columns_are_matched_by_header_name_in_each_file(landing: Landing) -> None:
    row = ("1", "Ann", "Oslo")
    cases = {
        "in_order.csv": (b"id,name,city\n1,Ann,Oslo\n", row),
        "reordered.csv": (b"city,id,name\nOslo,1,Ann\n", row),
        "cased_and_padded.csv": (b' ID ,Name,"  CITY"\n1,Ann,Oslo\n', row),
        "missing_column.csv": (b"id,city\n1,Oslo\n", ("1", None, "Oslo")),
        "semicolons.csv": (b"id;name;city\n1;Ann;Oslo\n", row),
        "tabs.csv": (b"id\tname\tcity\n1\tAnn\tOslo\n", row),
        "pipes.csv": (b"id|name|city\n1|Ann|Oslo\n", row),
        "byte_order_mark.csv": (b"\xef\xbb\xbfid,name,city\n1,Ann,Oslo\n", row),
        "byte_order_mark_before_a_blank_line.csv": (b"\xef\xbb\xbf\r\nid,name,city\r\n1,Ann,Oslo\r\n", row),
        "crlf.csv": (b"id,name,city\r\n1,Ann,Oslo\r\n", row),
        "no_line_end_at_the_end.csv": (b"id,name,city\n1,Ann,Oslo", row),
        "blank_lines.csv": (b"\n \nid,name,city\n\r\n1,Ann,Oslo\n\n   \n", row),
        "white_space_is_kept.csv": (b"id,name,city\n 1 ,\t, Oslo\n", (" 1 ", "\t", " Oslo")),
        "empty_fields.csv": (b'id,name,city\n1,,""\n', ("1", None, None)),
        "utf_8.csv": ("id,name,city\n1,Zoë,東京\n".encode(), ("1", "Zoë", "東京")),
        "windows_1252.csv": ("id,name,city\n1,Zoë,5 €\n".encode("cp1252"), ("1", "Zoë", "5 €")),
        "gzip.csv.gz": (gzip.compress(b"id,name,city\n1,Ann,Oslo\n"), row),
        "bzip2.csv.bz2": (bz2.compress(b"id,name,city\n1,Ann,Oslo\n"), row),
        "2026/a [1] {b} *?+%20é.csv": (b"id,name,city\n1,Ann,Oslo\n", row),
        "hash_is_no_comment.csv": (b"id,name,city\n#1,Ann,Oslo\n", ("#1", "Ann", "Oslo")),
        "backslash_is_text.csv": (b'id,name,city\n1,"Ann\\",C:\\\n', ("1", "Ann\\", "C:\\")),
    }

    found = landing.values({name: content for name, (content, _) in cases.items()})

    assert found == {name: [values] for name, (_, values) in cases.items()}


def test_quoted_fields_hold_delimiters_quotes_and_line_ends(landing: Landing) -> None:
    header = b"id,name,city\n"
    cases = {
        "delimiter.csv": (header + b'1,"Ann, Bob",Oslo\n', ("1", "Ann, Bob", "Oslo")),
        "quotes.csv": (header + b'1,"Ann ""A"" Lee",""""\n', ("1", 'Ann "A" Lee', '"')),
        "line_end.csv": (header + b'1,"Ann\nLee",Oslo\n', ("1", "Ann\nLee", "Oslo")),
        "crlf.csv": (b'id,name,city\r\n1,"Ann\r\n\r\nLee",Oslo\r\n', ("1", "Ann\r\n\r\nLee", "Oslo")),
        "blank_lines.csv": (b'\n\nid,name,city\n\n1,"\n\nAnn",Oslo\n\n', ("1", "\n\nAnn", "Oslo")),
        "header.csv": (b'id,name,"more\nthan a line",city\n1,Ann,,Oslo\n', ("1", "Ann", "Oslo")),
        "inch_mark.csv": (header + b'1,5" pipe,Oslo\n', ("1", '5" pipe', "Oslo")),
        "inch_mark_and_line_end.csv": (header + b'1,5" pipe,"Os\nlo"\n', ("1", '5" pipe', "Os\nlo")),
        "cr_alone.csv": (header + b'1,Ann\rLee,"Os\rlo"\n', ("1", "Ann\rLee", "Os\rlo")),
        "semicolons.csv": (b'id;name;city\n1;"Ann;\nLee";Os,lo\n', ("1", "Ann;\nLee", "Os,lo")),
        "windows_1252.csv": ('id,name,city\n1,"Zoë\nLee",Oslo\n'.encode("cp1252"), ("1", "Zoë\nLee", "Oslo")),
        "gzip.csv.gz": (gzip.compress(header + b'1,"Ann\nLee",Oslo\n'), ("1", "Ann\nLee", "Oslo")),
    }

    found = landing.values({name: content for name, (content, _) in cases.items()})

    assert found == {name: [values] for name, (_, values) in cases.items()}


def test_the_raw_record_is_kept_with_its_hash_and_file(landing: Landing) -> None:
    rows = landing.rows(
        {
            "a.csv": b'\xef\xbb\xbfid,name,city\r\n1,"Ann",Oslo\r\n',
            "b.csv": b'id,name,city\r\n2,"Bo\r\nLi",Rome\r\n',
            "c.csv": b'id,name,city\n1,"Ann",Oslo\n',
        }
    )

    assert [(row["_source_file"], row["_raw"]) for row in rows] == [
        ("a.csv", '1,"Ann",Oslo'),
        ("b.csv", '2,"Bo\r\nLi",Rome'),
        ("c.csv", '1,"Ann",Oslo'),
    ]
    assert rows[0]["_row_hash"] == rows[2]["_row_hash"] != rows[1]["_row_hash"]
    assert {len(row["_row_hash"]) for row in rows} == {32}


def test_rows_with_too_few_or_too_many_fields_are_malformed_and_keep_their_text(landing: Landing) -> None:
    rows = landing.rows(
        {
            "fields.csv": b"id,name,city\n1,Ann\n2,Bo,Rome,Italy\n3,Cy,Bonn\n" + b"," * 30_000 + b"\n",
            "over_lines.csv": b'id,name,city\n1,"Ann\nLee"\n2,"Bo\nLi",Rome,Italy\n3,Cy,Bonn\n',
        }
    )

    found = [(row["_raw"][:20], row["_is_malformed"], row["id"], row["name"], row["city"]) for row in rows]
    assert found == [
        ("," * 20, True, None, None, None),
        ("1,Ann", True, "1", "Ann", None),
        ("2,Bo,Rome,Italy", True, "2", "Bo", "Rome"),
        ("3,Cy,Bonn", False, "3", "Cy", "Bonn"),
        ('1,"Ann\nLee"', True, "1", "Ann\nLee", None),
        ('2,"Bo\nLi",Rome,Italy', True, "2", "Bo\nLi", "Rome"),
        ("3,Cy,Bonn", False, "3", "Cy", "Bonn"),
    ]


def test_a_quote_that_is_not_closed_makes_its_row_malformed(landing: Landing) -> None:
    rows = landing.rows(
        {
            "below_another.csv": b'id,name,city\n1,"Ann\nLee",Oslo\n2,"Bo,Rome\n3,Cy,Bonn\n4,Di,Nice\n',
            "before_quotes.csv": b'id,name,city\n1,"Ann,Oslo\n2,Bo,Rome\n3,"Cy",Bonn\n4,5",Nice\n',
            "opened_again.csv": b'id,name,city\n1,"Ann\nLee","Oslo\n2,Bo,Rome\n3,"Cy\nOrr","Bo\nnn"\n',
            "cut_off.csv": b'id,name,city\n1,Ann,Oslo\n2,Bo,"Ro',
            "cut_off_over_lines.csv": b'id,name,city\n1,"Ann\nLee",Oslo\n2,Bo,"Ro',
            "in_the_middle.csv": b'id,name,city\n1,Ann,"Oslo\n2,Bo,Rome\n3,Cy,"Bonn"\n',
            "the_last_field.csv": b'id,name,city\n1,Ann,"\n2,Bo,Rome\n',
            "the_line.csv": b'id,name,city\n"\n2,Bo,Rome\n',
        }
    )

    assert [(row["_source_file"], row["_raw"], row["_is_malformed"]) for row in rows] == [
        ("before_quotes.csv", '1,"Ann,Oslo', True),
        ("before_quotes.csv", "2,Bo,Rome", False),
        ("before_quotes.csv", '3,"Cy",Bonn', False),
        ("before_quotes.csv", '4,5",Nice', False),
        ("below_another.csv", '1,"Ann\nLee",Oslo', False),
        ("below_another.csv", '2,"Bo,Rome', True),
        ("below_another.csv", "3,Cy,Bonn", False),
        ("below_another.csv", "4,Di,Nice", False),
        ("cut_off.csv", "1,Ann,Oslo", False),
        ("cut_off.csv", '2,Bo,"Ro', True),
        ("cut_off_over_lines.csv", '1,"Ann\nLee",Oslo', False),
        ("cut_off_over_lines.csv", '2,Bo,"Ro', True),
        ("in_the_middle.csv", '1,Ann,"Oslo', True),
        ("in_the_middle.csv", "2,Bo,Rome", False),
        ("in_the_middle.csv", '3,Cy,"Bonn"', False),
        ("opened_again.csv", '1,"Ann\nLee","Oslo', True),
        ("opened_again.csv", "2,Bo,Rome", False),
        ("opened_again.csv", '3,"Cy\nOrr","Bo\nnn"', False),
        ("the_last_field.csv", '1,Ann,"', True),
        ("the_last_field.csv", "2,Bo,Rome", False),
        ("the_line.csv", '"', True),
        ("the_line.csv", "2,Bo,Rome", False),
    ]


def test_characters_that_would_cut_or_change_a_value_make_its_row_malformed(landing: Landing) -> None:
    good = ["\0,Cy,Rome", "1,Ann,Os\0lo", "2,\0,\0Oslo\0", "3,Ann,Os\ufffelo"]
    bad = ["4,Ann,Os\ufffflo", '5,"Ann","Os\uffffl,o"', '6,Ann,"Os\0lo"', '7,"An\nn",\0', "8\uffff8,Ann,Oslo", "\uffff"]
    next_to_bad = [row for number, row in enumerate(bad) for row in (row, f"9{number},Bo,Bonn")]
    good += next_to_bad[1::2]

    rows = landing.rows({"a.csv": "\n".join(["id,name,city", *good[:4], *next_to_bad]).encode()})

    assert [row["_raw"] for row in rows if row["_is_malformed"]] == bad
    assert [",".join(row[column] for column in COLUMNS) for row in rows if not row["_is_malformed"]] == good


def test_only_the_first_record_is_the_header(landing: Landing) -> None:
    rows = landing.rows(
        {
            "lines.csv": b"id,name,city\nid,name,city\n1,Ann,Oslo\nid,name,city\n",
            "over_lines.csv": b'id,name,city\nid,name,city\n1,"Ann\nLee",Oslo\n',
        }
    )

    assert [row["_raw"] for row in rows] == [
        "1,Ann,Oslo",
        "id,name,city",
        "id,name,city",
        '1,"Ann\nLee",Oslo',
        "id,name,city",
    ]


def test_columns_that_the_contract_does_not_know_are_rescued(landing: Landing) -> None:
    rows = landing.rows({"a.csv": b'id,E-Mail,,name\n1,a@b.no,x,Ann\n2,,,Bo\n3,"say ""hi""",,Cy\n'})

    assert [row["_rescued"] and json.loads(row["_rescued"]) for row in rows] == [
        {"e-mail": "a@b.no", "_column_3": "x"},
        None,
        {"e-mail": 'say "hi"'},
    ]


def test_bytes_that_the_encoding_does_not_know_are_rescued(landing: Landing) -> None:
    """One bad line does not turn a file in UTF-8 into another encoding."""
    rows = landing.rows(
        {
            "utf_8.csv": "id,name,city\n1,Zoë,Oslo\n2,Bør,Rome\n".encode() + b"3,C\xc3,Bonn\n",
            "windows_1252.csv": b"id,name,city\n1,Zo\xeb,Oslo\n2,B\x81,Rome\n",
        }
    )

    assert [(row["name"], row["_rescued"]) for row in rows] == [
        ("Zoë", None),
        ("Bør", None),
        ("C\ufffd", '{"_raw_base64":"MyxDwyxCb25u"}'),
        ("Zoë", None),
        ("B\ufffd", '{"_raw_base64":"MixCgSxSb21l"}'),
    ]


def test_a_file_with_a_header_alone_has_no_rows(landing: Landing) -> None:
    files = {"a.csv": b"id,name,city\n", "b.csv": b"\xef\xbb\xbfid,name,city", "c.csv.gz": gzip.compress(b"id\r\n")}

    assert landing.rows(files) == []


def test_where_rows_are_needed_a_header_alone_is_as_good_as_empty(landing: Landing) -> None:
    header_alone = {
        "a.csv": b"id,name,city\n",
        "b.csv": b"\xef\xbb\xbf\r\nid,name,city",
        "c.csv.gz": gzip.compress(b"\n id\r\n"),
        "over_lines.csv": b'id,"more\n\nthan a line"\n',
        "blank_lines.csv": b"id;name\n" + b" \r\n" * 40_000,
    }
    with_rows = {
        "row.csv": b"id,name,city\n1,Ann,Oslo",
        "row_far_below.csv": b"id;name\n" + b" \r\n" * 40_000 + b"1;Ann\n",
        "row_below_lines.csv": b'\xef\xbb\xbfid,"more\n\nthan a line"\n1,\n',
    }
    paths = landing.write({**header_alone, **with_rows})

    forms, reasons = inspect(landing.spark, str(landing.root), paths, COLUMNS, REQUIRED, needs_rows=True)

    assert forms.keys() == with_rows.keys()
    assert reasons == dict.fromkeys(header_alone, Unreadable("the file is empty: it has no row below its header"))


def test_no_files_make_no_rows_with_the_same_columns(landing: Landing) -> None:
    forms, _ = landing.inspect({"a.csv": b"id,name,city\n"})

    none = read_csv(landing.spark, str(landing.root), {}, COLUMNS)

    assert none.collect() == []
    assert none.dtypes == read_csv(landing.spark, str(landing.root), forms, COLUMNS).dtypes


def test_files_that_cannot_be_read_are_set_aside_with_a_reason(landing: Landing) -> None:
    no_header = "its first line is a known column: it has no header, or is another kind of file (required: id)"
    unfinished = "its header does not end: a quote is not closed, or it is over 64 KiB"
    not_text = "the file is UTF-16, or not text: it must be UTF-8 or Windows-1252"
    cases = {
        "empty.csv": (b"", "the file is empty"),
        "blank.csv": (b"\xef\xbb\xbf\r\n \n", "the file is empty"),
        "empty.csv.gz": (gzip.compress(b""), "the file is empty"),
        "no_header.csv": (b"7,Ann Lee,Oslo\n8,Bo,Rome\n", f"none of the 3 fields of {no_header}"),
        "required_column_missing.csv": (b"name,city\nAnn,Oslo\n", "its header lacks required columns: id"),
        "same_name_twice.csv": (
            b"id,name,x,Name \n",
            "columns 2 and 4 of its header have the same name, or are names of one column",
        ),
        "utf_16.csv": ("id,name,city\n1,Ann,Oslo\n".encode("utf-16"), not_text),
        "utf_16_without_mark.csv": ("id,name,city\n1,Ann,Oslo\n".encode("utf-16-le"), not_text),
        "cr_alone.csv": (b"id,name,city\r1,Ann,Oslo\r", "its lines end in CR alone: they must end in LF or CRLF"),
        "open_quote.csv": (b'id,"name,city\n1,Ann,Oslo\n', unfinished),
        "endless.csv": (b"id,name," + b"x" * 100_000 + b"\n", unfinished),
        "cut.csv.gz": (
            gzip.compress(b"id,name\n" * 9)[:-9],
            "the file could not be read: Compressed file ended before the end-of-stream marker was reached",
        ),
    }

    forms, reasons = landing.inspect({name: content for name, (content, _) in cases.items()})

    assert forms == {}
    # What could be hashed a moment ago and not be read now may be readable the next time.
    assert reasons == {name: Unreadable(reason, name == "cut.csv.gz") for name, (_, reason) in cases.items()}


def test_a_file_that_is_gone_is_set_aside(landing: Landing) -> None:
    _, reasons = inspect(landing.spark, str(landing.root), ["gone.csv"], COLUMNS, REQUIRED)

    gone = Unreadable("the file could not be read: No such file or directory", may_pass=True)
    assert reasons == {"gone.csv": gone}


def test_the_head_is_read_through_hadoop_from_other_file_systems(landing: Landing) -> None:
    landing.write({"a.csv": b"id\n1\n", "b.csv.gz": gzip.compress(b"id\n" * 50_000)})

    assert _head_hadoop(landing.spark, f"file://{landing.root}/a.csv") == b"id\n1\n"
    assert _head_hadoop(landing.spark, f"file://{landing.root}/b.csv.gz") == (b"id\n" * 50_000)[: 64 * 1024]
    with pytest.raises(OSError, match="does not exist"):
        _head_hadoop(landing.spark, f"file://{landing.root}/gone.csv")


def test_a_large_file_is_read_in_parts_and_records_over_lines_stay_whole(landing: Landing) -> None:
    header = b"id,name,city\n"
    one_line = header + b"".join(b"%d,Ann Lee,Oslo\n" % n for n in range(2_000))
    over_lines = header + b"".join(b'%d,"Ann\nLee ""A"", \n","\n"\n' % n for n in range(2_000))
    landing.write({"one_line.csv": one_line, "over_lines.csv": over_lines})
    session = landing.spark.newSession()
    session.conf.set("spark.sql.files.maxPartitionBytes", "10000")
    session.conf.set("spark.sql.files.openCostInBytes", "0")
    session.conf.set("spark.sql.files.minPartitionNum", "1")

    forms, _ = inspect(session, str(landing.root), ["one_line.csv", "over_lines.csv"], COLUMNS, REQUIRED)
    by_line = read_csv(session, str(landing.root), {"one_line.csv": forms["one_line.csv"]}, COLUMNS)
    whole = read_csv(session, str(landing.root), {"over_lines.csv": forms["over_lines.csv"]}, COLUMNS)

    assert [forms[name].needs_multiline for name in ("one_line.csv", "over_lines.csv")] == [False, True]
    assert by_line.rdd.getNumPartitions() > 1
    expected = {(str(n), "Ann Lee", "Oslo") for n in range(2_000)}
    assert Counter(map(tuple, by_line.select(*COLUMNS).collect())) == Counter(expected)
    expected = {(str(n), 'Ann\nLee "A", \n', "\n") for n in range(2_000)}
    assert Counter(map(tuple, whole.select(*COLUMNS).collect())) == Counter(expected)


# Any character but NUL and U+FFFF, which make rows malformed.
TEXT = st.text(
    st.one_of(
        st.sampled_from(" \t\n\r\"',;|\\#\ufeff"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0\uffff"),
    ),
    max_size=6,
)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """One file's rows and how Python's csv module is to write them."""
    quoting, line_end = draw(
        st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\n"), (csv.QUOTE_ALL, "\r\n")])
    )
    names = draw(st.lists(st.tuples(TEXT, TEXT), max_size=5))
    return {
        "rows": [(str(number), name or None, city or None) for number, (name, city) in enumerate(names)],
        "order": draw(st.sampled_from([(0, 1, 2), (2, 0, 1)])),
        "dialect": {"delimiter": draw(st.sampled_from(",;\t|")), "quoting": quoting, "lineterminator": line_end},
    }


def written(table: dict[str, Any]) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, **table["dialect"])
    for row in [COLUMNS, *table["rows"]]:
        writer.writerow([row[position] for position in table["order"]])
    return stream.getvalue().encode()


@settings(
    max_examples=2,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(tables(), min_size=30, max_size=30))
def test_what_pythons_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, spark: SparkSession, written_tables: list[dict[str, Any]]
) -> None:
    """Thirty files a read: Spark's jobs cost far more than rows."""
    landing = Landing(tmp_path_factory.mktemp("landing"), spark)
    by_name = {f"{number}.csv": table for number, table in enumerate(written_tables)}

    found = landing.values({name: written(table) for name, table in by_name.items()})

    assert {name: sorted(rows, key=str) for name, rows in found.items()} == {
        name: sorted(table["rows"], key=str) for name, table in by_name.items()
    }
