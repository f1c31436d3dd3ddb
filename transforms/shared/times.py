"""Times as text, read as instants in UTC."""

from pyspark.sql import Column
from pyspark.sql import functions as F

# Spark's cast also takes a year alone, and a time of day alone, to which it adds today's date.
_MINUTE = r"[1-9]\d{3}-\d{2}-\d{2}[T ]\d{2}:\d{2}"
_SECOND = r":\d{2}(?:\.\d{1,9})?"
_OFFSET = r" ?(?:Z|[+-]\d{2}(?::?\d{2})?)"
# After a date; perhaps none.
TIME_OF_DAY = r"(?:[T ](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,9})?)?)?"


def instant(text: Column, timezone: str) -> Column:
    """The TIMESTAMP of `2023-01-01 09:35:00` or `2023-01-01T09:35`, with or without a fraction of a second.

    An offset or `Z` after the seconds is honoured; without one it is the local time of `timezone`. A local time that
    occurs twice, when clocks go back, is the earlier instant; one that clocks skip is as far after the gap. Digits
    beyond microseconds are cut off. NULL for any other text and for a date or time that does not exist.
    Needs a session in UTC.
    """
    as_written = text.try_cast("timestamp")
    local = as_written if timezone == "UTC" else F.to_utc_timestamp(as_written, timezone)
    is_local, has_offset = text.rlike(rf"\A{_MINUTE}(?:{_SECOND})?\z"), text.rlike(rf"\A{_MINUTE}{_SECOND}{_OFFSET}\z")
    return F.when(is_local, local).when(has_offset, as_written)
