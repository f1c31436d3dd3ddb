"""Invented raw files, one module per source: `write(folder, rows, seed)` fills the source's landing folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True)
class SampleCounts:
    """What a sample holds, known as it is written, so that a run over it can be checked row by row.

    A file delivered again under another name is listed in `files`, but its lines are counted nowhere.
    Always: lines = valid + duplicates + superseded + the sum of `bad`.
    """

    lines: int
    """Physical lines of all distinct files, without the headers that CSV files have."""
    valid: int
    """Distinct records that can be used, the warned ones included."""
    duplicates: int
    """Lines that repeat a valid record."""
    bad: Mapping[str, int]
    """Reason -> lines that cannot be used for this reason and no other."""
    warned: Mapping[str, int]
    """Reason -> valid records with this flaw and no other."""
    files: tuple[str, ...]
    """Names of the files written, in the order in which they were delivered."""
    superseded: int = 0
    """Lines that could be used, but of which a newer record with the same key takes the place."""
    totals: Mapping[str, Decimal] = field(default_factory=dict)
    """Sums over the valid records, by name, where a source has money."""
