"""How the commands that look write what they found: one head a line, few of many, columns that line up."""

from collections.abc import Sequence

SHOWN = 5  # of many things, in one line


def line(head: str, text: str) -> str:
    """One line of output; `head` is empty where it is that of the line before."""
    return f"{head:<16} {text}".rstrip()


def some(texts: Sequence[str], shown: int = SHOWN) -> str:
    """All of a few texts; of many, the first ones and how many more there are."""
    more = len(texts) - shown
    return ", ".join(texts[:shown]) + (f" and {more:,} more" if more > 0 else "")


def dotted(path: str) -> str:
    """A table of the lakehouse as people name it: `gold.contacts.contacts`."""
    return path.replace("/", ".")


def size(count: int) -> str:
    """Bytes as a person reads them: `52 kB`, `18.2 MB`."""
    if count < 1000:
        return f"{count} bytes"
    number, unit = count / 1000, "kB"
    for unit in ("kB", "MB", "GB", "TB"):
        if number < 999.5 or unit == "TB":
            break
        number /= 1000
    return f"{number:,.1f} {unit}" if number < 100 else f"{number:,.0f} {unit}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a table: numbers with commas and to the right, texts to the left."""
    cells = [list(head), *[[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]]
    is_number = [bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(head))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return [
        "  ".join(
            c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, is_number, strict=True)
        ).rstrip()
        for row in cells
    ]
