"""Lists that Python printed (`repr`) or JSON wrote, as text, read with built-in functions alone.

Regular expressions decide what is a list of what; their quantifiers are possessive, so that no text, however long or
odd, makes them backtrack or recurse.
"""

from decimal import Decimal

from pyspark.sql import Column
from pyspark.sql import functions as F

from transforms.shared.text import trimmed
from transforms.shared.times import instant

# Nearly every list is plain: single quotes, no escape, no white space in a text but single blanks between words. What
# is between its quotes is the text itself, which is faster to read. The commonest characters come first.
_WORD = r"[\]-~(-\[!#-&\u00a1-\u167f\u1681-\u1fff\u3001-\ud7ff]++"
_PLAIN_TEXT = rf"'{_WORD}(?: {_WORD})*+'"
_PLAIN_LIST = rf"\A\[{_PLAIN_TEXT}(?:, {_PLAIN_TEXT})*+\]\z"
# Any list of texts, with the escapes of JSON and Python. Not NUL, which Postgres cannot hold, nor half a surrogate
# pair, which is no character, nor U+FFFD, which stands for one, nor \UNNNNNNNN, for which Spark has no reader.
_ESCAPE = (
    r"""\\(?:['"\\/bfnrt]|x(?!00)[0-9a-fA-F]{2}|u(?!0000|[dD][89a-fA-F]|[fF]{3}[dD])[0-9a-fA-F]{4}"""
    r"""|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"""
)
_TEXT = rf"""(?:'(?:[^'\\\x00-\x1f]++|{_ESCAPE})*+'|"(?:[^"\\\x00-\x1f]++|{_ESCAPE})*+")"""
_TEXT_LIST = rf"\A\[\s*(?:{_TEXT}\s*(?:,\s*{_TEXT}\s*)*+)?\]\z"
_DATETIME = r"datetime\.datetime\([1-9]\d{3}(?:,\s*\d{1,2}){4}(?:,\s*[0-5]?\d(?:,\s*\d{1,6})?)?\)"
_DATETIME_LIST = rf"\A\[\s*{_DATETIME}\s*(?:,\s*{_DATETIME}\s*)*+\]\z"


def text_list(text: Column) -> Column:
    r"""The trimmed texts of `['Ann', "Bo O'Neil"]` in order, ARRAY<STRING>; NULL for anything but a list of texts.

    Also NULL for a list with an escape that cannot be read: NUL, half a surrogate pair, U+FFFD, `\UNNNNNNNN`.
    """
    between = F.substr(text, F.lit(3), F.length(text) - 4)
    plain = F.split(F.replace(between, F.lit("', '"), F.lit("\n")), "\n")
    # Of Python's escapes only \xNN is unknown to JSON. An even number of backslashes before it is text.
    as_json = F.regexp_replace(text, r"(?<!\\)((?:\\\\)*+)\\x([0-9a-fA-F]{2})", r"$1\\u00$2")
    lenient = {"allowSingleQuotes": "true", "allowBackslashEscapingAnyCharacter": "true"}
    escaped = F.transform(F.from_json(as_json, "array<string>", lenient), trimmed)
    return F.when(text.rlike(_PLAIN_LIST), plain).when(text.rlike(_TEXT_LIST), escaped)


def time_list(text: Column, timezone: str) -> Column:
    """The instants of `[datetime.datetime(2023, 1, 1, 9, 45)]` or `['2023-01-01 09:45:00']` in order, ARRAY<TIMESTAMP>.

    Times are read as `instant` reads them; one that cannot be read, or does not exist, is NULL in its place. NULL for
    anything but such a list.
    """
    arguments = F.regexp_extract_all(text, F.lit(r"\(([^)]*)\)"), F.lit(1))
    parts = F.transform(arguments, lambda entry: F.split(entry, ",").try_cast("array<int>"))
    datetimes = F.transform(parts, lambda entry: _datetime(entry, timezone))
    texts = F.transform(text_list(text), lambda entry: instant(entry, timezone))
    no_times = F.array().cast("array<timestamp>")
    is_datetimes = text.rlike(_DATETIME_LIST)
    return F.when(text == "[]", no_times).when(is_datetimes, datetimes).when(~is_datetimes, texts)


def _datetime(parts: Column, timezone: str) -> Column:
    """The instant of [2023, 1, 1, 9, 45], perhaps followed by seconds and microseconds, local to `timezone`."""
    year, month, day, hour, minute, second, micros = (F.coalesce(F.get(parts, F.lit(i)), F.lit(0)) for i in range(7))
    seconds = (second + micros * F.lit(Decimal("0.000001"))).cast("decimal(16,6)")
    return F.try_make_timestamp(year, month, day, hour, minute, seconds, F.lit(timezone))
