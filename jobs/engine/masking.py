"""Raw rows made fit to be shown: every letter is an x, every digit a 9; structure and the names of fields stay."""

import re
import unicodedata
from collections.abc import Collection

LONGEST = 300
# Possessive, so that no row makes a pattern backtrack. A text that is never closed goes on to the end.
_JSON = re.compile(r'"(?P<name>[^"\\]*+)"(?=\s*+:)|"(?:[^"\\]|\\(?:.|\Z))*+(?:"|\Z)|[^"]++', re.DOTALL)
_PAIRS = re.compile(r'(?P<name>[^\s"=|{}]++)(?=\s*+=)|"[^"]*+(?:"|\Z)|[^"]')
_IS_PAIRS = re.compile(r'\s*+\{\s*+[^\s"=|{}]++\s*+=')


def masked(row: str, names: Collection[str] = ()) -> str:
    """At most `LONGEST` characters of a row, without anything of its values but their shape.

    A word of `names` stays where it is the name of a field: in `{"name": ...}` before the colon, and in
    `{name=...|name=...}` before the `=`. Nothing else does: not within quotes, and not the same word as a value.
    What is neither letter, digit nor punctuation, such as an emoji or a control character, is shown as `?`.
    """
    cut, shown = row[:LONGEST], []
    pattern, opens = (_PAIRS, "{|") if _IS_PAIRS.match(cut) else (_JSON, "{,")
    before = ""  # the last character so far that is not white space
    for found in pattern.finditer(cut):
        piece, name = found[0], found["name"]
        is_name = name is not None and name in names and before != "" and before in opens
        shown.append(piece if is_name else "".join(map(_masked, piece)))
        before = piece.rstrip()[-1:] or before
    return "".join(shown) + ("..." if len(row) > LONGEST else "")


def _masked(character: str) -> str:
    kind = unicodedata.category(character)
    if kind[0] in "LM":
        return "x"
    if kind[0] == "N":
        return "9"
    # U+FFFD stands where the sender's bytes could not be read, which may be why the row is held back.
    is_structure = kind[0] == "P" or kind == "Zs" or character in "\t\ufffd" or (character.isascii() and kind[0] == "S")
    return character if is_structure else "?"
