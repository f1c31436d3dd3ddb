"""Reading CSV files as they came: columns by name, one row per record, nothing lost.

What is a row: every record but the file's first, which is its header. A header that is repeated further down is a row
like any other (its values will not pass the source's rules). A line of nothing but white space is not a row.

A record ends with LF or CRLF. Fields may be quoted with `"`; within quotes, `""` is a quote, and delimiters and line
ends are text. A quote inside an unquoted field (`5" pipe`) is text as well. An empty field, quoted or not, is NULL.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial, reduce

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.engine.landing import EMPTY, HEAD_BYTES, NO_TEXT, UTF_16_MARKS, Unreadable, head_of
from jobs.engine.local_rows import no_rows
from jobs.engine.readers import column_names, source_file, spark_paths, windows_1252

UTF_8, WINDOWS_1252 = "utf-8", "windows-1252"
_DELIMITERS = (",", ";", "\t", "|")
_BLANK = bytes(range(0x21))  # what Spark's reader counts as white space when it skips blank lines
_BLANK_LINES = re.compile(r"\A[\x00-\x20]*\n")
_NOT_BLANK = r"\A\x{feff}?+[\x00-\x20]*+[^\x00-\x20]"
_IN_QUOTES = r'(?:[^"]++|"")*+'
_LINES_OF_BLOCK = Decimal(1 << 63)  # more than the numbers that Spark gives to lines
_MAX_FIELDS = 20_000  # from_csv fails on a record with more than 20,480
# Delimiter and quote for reading whole lines: no text that was decoded as ISO-8859-1 holds them.
_NEVER, _NEVER_EITHER = "\u2401", "\u2402"


@dataclass(frozen=True)
class CsvForm:
    """How one file is written. `header` holds its column names in order, as `column_names` gives them.

    `needs_multiline`: a quoted field holds a line end, so that lines are not records.
    """

    delimiter: str
    header: tuple[str, ...]
    encoding: str
    needs_multiline: bool


@dataclass(frozen=True)
class _Header:
    """The first record of a file: what is between its fields, their names, how many lines it has that are not blank."""

    delimiter: str
    names: tuple[str, ...]
    lines: int


def inspect(
    spark: SparkSession,
    root: str,
    paths: Iterable[str],
    columns: Sequence[str],
    required: Sequence[str],
    aliases: Mapping[str, str] | None = None,
    *,
    needs_rows: bool = False,
) -> tuple[dict[str, CsvForm], dict[str, Unreadable]]:
    """The form of each file that can be read, and why each other file cannot.

    With `needs_rows`, a file with a header alone is as good as empty.

    Takes the head of every file, then one pass over all of them (encoding, line ends in quotes). Reasons never quote
    the file: the first line of one without a header is personal data.
    """
    paths = list(paths)
    headers: dict[str, _Header] = {}
    reasons: dict[str, Unreadable] = {}
    with ThreadPoolExecutor(max_workers=8) as pool:
        for path, head in zip(paths, pool.map(partial(head_of, spark, root), paths), strict=True):
            found = head if isinstance(head, Unreadable) else _read_header(head, columns, required, aliases or {})
            if isinstance(found, Unreadable):
                reasons[path] = found
            else:
                headers[path] = found
    forms = {}
    for path, form in _forms(spark, root, headers, needs_rows=needs_rows).items():
        if isinstance(form, Unreadable):
            reasons[path] = form
        else:
            forms[path] = form
    return forms, reasons


def read_csv(spark: SparkSession, root: str, forms: Mapping[str, CsvForm], columns: Sequence[str]) -> DataFrame:
    """One row per record: `_raw`, `_source_file`, `_row_hash`, `_rescued`, `_is_malformed`, and `columns` as STRING.

    - `_raw`: the record's text, without the line end; of a record over several lines, all of them.
    - `_rescued`: a JSON object of the columns that are not in `columns` (a column without a name is `_column_<number>`)
      and, if the record has bytes that its encoding does not know (U+FFFD in `_raw`), of `_raw_base64`; else NULL.
    - `_is_malformed`: too few or too many fields, a quote that is not closed, or what Spark misreads: U+FFFF, or NUL
      and a quote. Fields count from the left: what a malformed row has is shown (nothing, if it has U+FFFF or over
      20,000 fields), and `_raw` has it all.
    - A value is exactly what the file has, white space included. A column that the file lacks is NULL.

    A file is split for reading, unless it `needs_multiline`: then one task puts its lines in order.
    """
    paths_by_form = defaultdict(list)
    for path, form in forms.items():
        paths_by_form[form].append(path)
    frames = [_read_form(spark, root, form, paths, columns) for form, paths in paths_by_form.items()]
    return reduce(DataFrame.unionByName, frames) if frames else _no_records(spark, columns)


def _no_records(spark: SparkSession, columns: Sequence[str]) -> DataFrame:
    names = ["_raw", "_source_file", "_row_hash", "_rescued", "_is_malformed", *columns]
    types = ("BOOLEAN" if name == "_is_malformed" else "STRING" for name in names)
    return no_rows(spark, ", ".join(f"`{name}` {type_}" for name, type_ in zip(names, types, strict=True)))


# The head of a file


def _read_header(
    head: bytes, columns: Sequence[str], required: Sequence[str], aliases: Mapping[str, str]
) -> _Header | Unreadable:
    """The header of a file. Its delimiter is the one that makes most of the contract's names appear."""
    content = head.removeprefix(b"\xef\xbb\xbf")
    if not content.strip(_BLANK):
        return EMPTY
    text = _BLANK_LINES.sub("", content.decode("iso-8859-1"))
    if head.startswith(UTF_16_MARKS) or "\0" in text.partition("\n")[0]:
        return NO_TEXT
    known = {column.lower() for column in columns}
    found: list[_Header] = []
    for delimiter in _DELIMITERS:
        first = _first_record(text, delimiter, is_cut=len(head) == HEAD_BYTES)
        if isinstance(first, Unreadable):
            return first
        found.append(replace(first, names=tuple(column_names(first.names, columns, aliases))))
    chosen = max(found, key=lambda candidate: len(known.intersection(candidate.names)))
    header = chosen.names
    if not known.intersection(header):
        fields = max(len(candidate.names) for candidate in found)
        return Unreadable(
            f"none of the {fields} fields of its first line is a known column: it has no header, or is another kind of "
            f"file (required: {', '.join(required) or 'at least one known column'})"
        )
    if missing := [column for column in required if column.lower() not in header]:
        return Unreadable(f"its header lacks required columns: {', '.join(missing)}")
    if twice := next((i for i, name in enumerate(header) if name in header[:i]), None):
        places = f"columns {header.index(header[twice]) + 1} and {twice + 1}"
        return Unreadable(f"{places} of its header have the same name, or are names of one column")
    return chosen


def _first_record(text: str, delimiter: str, *, is_cut: bool) -> _Header | Unreadable:
    """The first record of `text` (bytes as ISO-8859-1), with its fields as they are."""
    stream = io.StringIO(text, newline="\n")
    try:
        fields = next(csv.reader(stream, delimiter=delimiter))
    except csv.Error:
        return Unreadable("its lines end in CR alone: they must end in LF or CRLF")
    end = stream.tell()
    is_whole_text = end == len(text)
    if is_whole_text and (is_cut or text.count('"') % 2):
        return Unreadable("its header does not end: a quote is not closed, or it is over 64 KiB")
    lines = sum(1 for line in text[:end].split("\n") if line.strip(_BLANK.decode("iso-8859-1")))
    return _Header(delimiter, tuple(_decoded(field) for field in fields), lines)


def _decoded(text: str) -> str:
    """Bytes that were read as ISO-8859-1, as UTF-8 or else as Windows-1252."""
    content = text.encode("iso-8859-1")
    try:
        return content.decode(UTF_8)
    except UnicodeDecodeError:
        return content.decode(WINDOWS_1252, "replace")


# The pass over all files


def _forms(
    spark: SparkSession, root: str, headers: Mapping[str, _Header], *, needs_rows: bool
) -> dict[str, CsvForm | Unreadable]:
    """The forms of files whose header is known: what only their whole content can tell."""
    if not headers:
        return {}
    paths_by_delimiter = defaultdict(list)
    for path, header in headers.items():
        paths_by_delimiter[header.delimiter].append(path)
    counts = [
        _counts(spark, root, paths, delimiter, with_lines=needs_rows) for delimiter, paths in paths_by_delimiter.items()
    ]
    forms: dict[str, CsvForm | Unreadable] = {}
    for row in reduce(DataFrame.unionByName, counts).collect():
        header = headers[row["_source_file"]]
        if needs_rows and row["lines"] <= header.lines:
            forms[row["_source_file"]] = Unreadable(f"{EMPTY.reason}: it has no row below its header")
            continue
        # A file in UTF-8 with some damage, such as an end in mid-character, remains UTF-8.
        encoding = WINDOWS_1252 if row["invalid_lines"] > row["multibyte_lines"] else UTF_8
        forms[row["_source_file"]] = CsvForm(header.delimiter, header.names, encoding, row["has_records_over_lines"])
    return forms


def _counts(spark: SparkSession, root: str, paths: list[str], delimiter: str, *, with_lines: bool) -> DataFrame:
    """One row per file: numbers of lines of the kinds that decide its encoding, and whether records span lines.

    With `with_lines`, also that of all lines that are not blank.
    """
    lines = _lines(spark, root, paths)
    is_closing, is_opening = _closes_a_quote(F.col("_line"), delimiter), _ends_in_quotes(F.col("_line"), delimiter)
    # A quote that no later line closes is damage (a file cut off, say), and must not swallow the lines below it.
    # As a number: of structs, Spark would sort all lines to find the least.
    place = F.col("_place.block").cast("decimal(19,0)") * F.lit(_LINES_OF_BLOCK) + F.col("_place.line")
    is_closed = F.min(F.when(is_opening, place)) < F.max(F.when(is_closing, place))
    is_valid = F.is_valid_utf8("_line")
    return lines.groupBy("_source_file").agg(
        F.count_if(~is_valid).alias("invalid_lines"),
        F.count_if(is_valid & (F.octet_length("_line") > F.char_length("_line"))).alias("multibyte_lines"),
        F.coalesce(is_closed, F.lit(False)).alias("has_records_over_lines"),
        *[F.count_if(F.col("_line").rlike(_NOT_BLANK)).alias("lines")] * with_lines,
    )


def _lines(spark: SparkSession, root: str, paths: list[str]) -> DataFrame:
    """One row per line: `_source_file`, `_line` (the file's bytes, with the CR), `_place` (its order in the file)."""
    return spark.read.text(spark_paths(root, paths), lineSep="\n").select(
        source_file(spark, root).alias("_source_file"),
        F.col("value").alias("_line"),
        F.struct(
            F.col("_metadata.file_block_start").alias("block"), F.monotonically_increasing_id().alias("line")
        ).alias("_place"),
    )


def _ends_in_quotes(text: Column, delimiter: str) -> Column:
    """Whether text that starts outside quotes ends inside them: after whole fields comes a quote that is not closed.

    Possessive throughout: the pattern neither backtracks nor recurses, however long the line.
    """
    d = re.escape(delimiter)
    quoted = f'"{_IN_QUOTES}'
    field = rf'(?:{quoted}"[^{d}]*+|[^"{d}][^{d}]*+|)'
    return F.contains(text, F.lit('"')) & text.rlike(rf"\A(?:{field}{d})*+{quoted}\z")


def _closes_a_quote(text: Column, delimiter: str) -> Column:
    """Whether the first quote in text that starts inside quotes is where a field ends."""
    return text.rlike(rf'\A{_IN_QUOTES}" *(?:{re.escape(delimiter)}|\r*\z)')


# The records of files of one form


def _read_form(spark: SparkSession, root: str, form: CsvForm, paths: list[str], columns: Sequence[str]) -> DataFrame:
    if form.needs_multiline:
        records = _records_over_lines(spark, root, paths, form.delimiter)
    else:
        records = _records_of_lines(spark, root, paths)
    return _parsed(_decoded_records(records, form), form, columns)


def _records_of_lines(spark: SparkSession, root: str, paths: list[str]) -> DataFrame:
    """One row per line but the header: `_source_file`, `_bytes`.

    Spark's CSV reader drops the header of each file while it splits large ones. It is given a delimiter that never
    occurs, so that its only column is the line; ISO-8859-1 carries any byte through.
    """
    lines = spark.read.csv(
        spark_paths(root, paths),
        schema="_line STRING",
        header=True,
        sep=_NEVER,
        quote=_NEVER_EITHER,
        escape=_NEVER_EITHER,
        lineSep="\n",
        encoding="ISO-8859-1",
    )
    return lines.select(source_file(spark, root).alias("_source_file"), F.encode("_line", "ISO-8859-1").alias("_bytes"))


def _records_over_lines(spark: SparkSession, root: str, paths: list[str], delimiter: str) -> DataFrame:
    """One row per record but the header: `_source_file`, `_bytes` (its lines, joined as they were in the file).

    What a line does to "inside quotes" is known without the lines before it: it ends inside or outside whatever came
    before, or it leaves that as it is, or it flips it. So the last line that settles it and the flips since tell.

    A quote opens only what is closed as it should be: if the next line with a quote in it closes no field with it, the
    line before spoils itself alone, and must not swallow those below it.
    """
    in_file = Window.partitionBy("_source_file").orderBy("_place")
    so_far = in_file.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    is_settled = F.col("_from_outside") == F.col("_from_inside")
    is_flip = F.col("_from_outside") & ~F.col("_from_inside")
    settled = F.when(is_settled, F.col("_from_outside").cast("int") + F.col("_flips"))
    is_blank = ~F.col("_line").rlike(r"[^\x00-\x20]")
    stays_inside = F.col("_line").rlike(rf"\A{_IN_QUOTES}\z")
    # Backwards, for with all rows that follow as its frame a window takes the square of their number.
    below = Window.partitionBy("_source_file").orderBy(F.col("_place").desc())
    below = below.rowsBetween(Window.unboundedPreceding, -1)
    next_quote_closes = F.last(F.when(~stays_inside, _closes_a_quote(F.col("_line"), delimiter)), True).over(below)
    lines = (
        _lines(spark, root, paths)
        .withColumn("_may_open", F.coalesce(next_quote_closes, F.lit(False)))
        .withColumn("_from_outside", F.col("_may_open") & _ends_in_quotes(F.col("_line"), delimiter))
        .withColumn(
            "_from_inside",
            stays_inside | (F.col("_may_open") & _ends_in_quotes(F.concat(F.lit('"'), "_line"), delimiter)),
        )
        .withColumn("_flips", F.sum(is_flip.cast("int")).over(so_far))
        .withColumn("_inside", (F.coalesce(F.last(settled, True).over(so_far), F.lit(0)) + F.col("_flips")) % 2)
        .withColumn("_is_first", F.lag("_inside", 1, 0).over(in_file) == 0)
        .where(~(F.col("_is_first") & is_blank))
        .withColumn("_record", F.count_if("_is_first").over(so_far))
    )
    record = F.transform(F.array_sort(F.collect_list(F.struct("_place", "_line"))), lambda line: line["_line"])
    return (
        lines.where(F.col("_record") > 1)
        .groupBy("_source_file", "_record")
        .agg(F.array_join(record, "\n").cast("binary").alias("_bytes"))
    )


def _decoded_records(records: DataFrame, form: CsvForm) -> DataFrame:
    """`_raw`, `_source_file`, `_raw_base64` (the record's bytes, if its encoding does not know them all)."""
    if form.encoding == UTF_8:
        text = F.make_valid_utf8(F.col("_bytes").cast("string"))
        is_damaged = ~F.is_valid_utf8(F.col("_bytes").cast("string"))
    else:
        text = windows_1252(F.col("_bytes"))
        is_damaged = F.contains(text, F.lit("\ufffd"))
    return records.select(
        F.rtrim(text, F.lit("\r")).alias("_raw"),
        "_source_file",
        F.when(is_damaged, F.base64("_bytes")).alias("_raw_base64"),
    )


def _parsed(records: DataFrame, form: CsvForm, columns: Sequence[str]) -> DataFrame:
    """The rows of `read_csv`."""
    position = {name: number for number, name in enumerate(form.header)}
    schema = ", ".join([*(f"_{number} STRING" for number in position.values()), "_corrupt STRING"])
    options = {"sep": form.delimiter, "quote": '"', "escape": '"', "columnNameOfCorruptRecord": "_corrupt"}
    # Spark's parser takes U+FFFF for the end of the text, and reads the next record from the middle on.
    has_end = F.contains("_raw", F.lit("\uffff"))
    is_parseable = ~has_end & (F.substring_index("_raw", form.delimiter, _MAX_FIELDS) == F.col("_raw"))
    fields = F.from_csv(F.when(is_parseable, F.col("_raw")), schema, options)

    def field(name: str) -> Column:
        return F.col(f"_fields._{position[name]}") if name in position else F.lit(None).cast("string")

    known = {column.lower() for column in columns}
    unknown = [field(name).alias(name) for name in form.header if name not in known]
    rescued = F.to_json(F.struct(*unknown, "_raw_base64"), {"ignoreNullFields": "true"})
    has_wrong_fields = F.col("_fields").isNull() | F.col("_fields._corrupt").isNotNull()
    # Spark's parser may drop NUL within quotes.
    is_misread = F.contains("_raw", F.lit("\0")) & F.contains("_raw", F.lit('"'))
    return records.withColumn("_fields", fields).select(
        "_raw",
        "_source_file",
        F.substring(F.sha2("_raw", 256), 1, 32).alias("_row_hash"),
        F.nullif(rescued, F.lit("{}")).alias("_rescued"),
        (has_wrong_fields | is_misread | _ends_in_quotes(F.col("_raw"), form.delimiter)).alias("_is_malformed"),
        *[field(column.lower()).alias(column) for column in columns],
    )
