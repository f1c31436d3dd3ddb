"""Text as it arrives: trimmed, NULL where it says that there is no value, read as a number."""

from pyspark.sql import Column
from pyspark.sql import functions as F

# Decision: what stands for "no value" in every source, after trimming, in exactly this spelling ("Null" is a surname).
MISSING = ("", "NULL", "null", "N/A", "NaN")
# All that Unicode counts as white space: Spark's own trim takes off blanks only.
WHITESPACE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
# NUL, which Postgres cannot hold, and what a reader puts in place of bytes that are no character.
UNREADABLE = "[\\x00\ufffd]"


def trimmed(text: Column) -> Column:
    """`text` without the white space around it."""
    return F.btrim(text, F.lit(WHITESPACE))


def known(text: Column) -> Column:
    """A trimmed text; NULL if it is one of `MISSING`.

    Over many columns and rows, `trimmed` in one select and this in the next is faster: in one, all is trimmed twice.
    """
    return F.when(~text.isin(*MISSING), text)


def hashed(text: Column) -> Column:
    """The first 32 hexadecimal digits of a text's SHA-256: 128 bits, enough for an id."""
    return F.left(F.sha2(text, 256), F.lit(32))


def has_missing(texts: Column) -> Column:
    """Whether an array of trimmed texts has one of `MISSING` in it."""
    return F.arrays_overlap(texts, F.array(*[F.lit(value) for value in MISSING]))


def without_missing(texts: Column) -> Column:
    """An array of trimmed texts less those of `MISSING`."""
    kept = F.filter(texts, lambda text: ~text.isin(*MISSING))
    return F.when(has_missing(texts), kept).otherwise(texts)


def whole_number(text: Column) -> Column:
    """The INT that `text` writes, also as `2.0`; NULL for any other text, a fraction, or a number beyond INT."""
    return F.coalesce(text.try_cast("int"), F.regexp_extract(text, r"\A([+-]?\d+)\.0*\z", 1).try_cast("int"))
