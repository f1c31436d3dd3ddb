"""Entries: what a request's body holds, and what may land.

Whether an entry makes sense (its id, its date) is for the job to say, which quarantines with a reason. Here it only has
to be one line of the form `{key=value|key=value...}`, so that whatever was acknowledged can be read back line by line.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from api.errors import ApiError

MAX_BODY_BYTES = 8 * 1024 * 1024
BODY_SECONDS = 30.0
MAX_ENTRY_BYTES = 64 * 1024
MAX_ENTRIES = 10_000
FORM = 'send {key=value|key=value...} as text, or {"member": "{key=value|key=value...}"} as JSON'

_BLANKS = " \t\r\n"
# The control characters of Unicode, and its two line separators: an entry is one line, whoever reads it.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# As transforms/members.py reads a line: what it would hold back as malformed is not acknowledged.
_FIELD = r'\s*+[^\s"=|{}]++\s*+=\s*+(?:"[^"]*+"|[^"=|{}]*+)\s*+'
_ENTRY = re.compile(rf"\A\{{{_FIELD}(?:\|{_FIELD})*+\}}\Z", re.ASCII)
# Up to a comma of JSON that is in no text, or to the end. It matches everywhere, so no part is gone over twice.
_TO_COMMA = re.compile(r'(?:[^",]++|"(?:[^"\\]++|\\.)*+"?)*+(?:,|\Z)', re.DOTALL)


@dataclass(frozen=True)
class Batch:
    """Entries that land together or not at all: `lines` ends each with a line feed."""

    lines: bytes
    count: int


def read_batch(body: bytes) -> Batch:
    """The entries of a body, single or several.

    Decision: the form is told by how the body begins, whatever its Content-Type says: `[`, `"`, or `{` and then `"` or
    `}`, is JSON; all else is text, an entry a line. Senders get that header wrong often (curl's default is a form).
    Raises ApiError: 400 for junk (the place is named, the content is not), 413 for what is too large.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not valid UTF-8", FORM) from None
    text = text.rstrip(_BLANKS)
    bare = text.lstrip(_BLANKS)
    if not bare:
        raise ApiError(400, "the body is empty", FORM)
    found = list(islice(_of_json(bare) if _is_json(bare) else _of_text(text), MAX_ENTRIES + 1))
    if len(found) > MAX_ENTRIES:
        raise _too_many()
    if not found:
        raise ApiError(400, "the body has no entry", FORM)
    lines = [_checked(item, place if len(found) > 1 else "the entry") for place, item in found]
    return Batch(b"\n".join(lines) + b"\n", len(lines))


def _is_json(text: str) -> bool:
    return text[0] in '["' or (text[0] == "{" and text[1:].lstrip(_BLANKS)[:1] in ('"', "}"))


def _of_text(text: str) -> Iterator[tuple[str, object]]:
    if text.count("\n") >= MAX_ENTRIES:
        raise _too_many()
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip(_BLANKS):
            yield f"line {number}", line


def _of_json(text: str) -> Iterator[tuple[str, object]]:
    # Before it is parsed: of 8 MiB `[{},{},...`, that alone would take seconds, and hundreds of MB.
    if text.count(",") >= MAX_ENTRIES and _has_commas(text, MAX_ENTRIES):
        raise _too_many()
    try:
        document = json.loads(text, object_pairs_hook=_without_repeated_names)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body begins like JSON and is not valid JSON", FORM) from None
    number = 0
    for position, item in enumerate(document if isinstance(document, list) else [document], start=1):
        if isinstance(item, dict):
            # A further field would be acknowledged and lost.
            if item.keys() != {"member"}:
                raise ApiError(400, f'object {position} has not the field "member", or has others', FORM)
            item = item["member"]
        elif isinstance(item, list):
            raise ApiError(400, f"item {position} of the list is a list", FORM)
        for entry in item if isinstance(item, list) else [item]:
            number += 1
            yield f"entry {number}", entry


def _has_commas(text: str, count: int) -> bool:
    """Whether so many commas are outside of texts; between entries, there is one fewer than there are entries."""
    found = islice(_TO_COMMA.finditer(text), count)
    return sum(piece[0].endswith(",") for piece in found) == count


def _without_repeated_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of two fields with one name, Python would silently drop the first."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name is repeated")
    return fields


def _checked(item: object, place: str) -> bytes:
    if not isinstance(item, str):
        raise ApiError(400, f"{place} is not a text", FORM)
    text = item.strip(_BLANKS)
    try:
        line = text.encode()
    except UnicodeEncodeError:
        raise ApiError(400, f"{place} has half of a surrogate pair, which is not Unicode text", FORM) from None
    if len(line) > MAX_ENTRY_BYTES:
        raise ApiError(413, f"{place} is over {MAX_ENTRY_BYTES:,} bytes", "shorten it; nothing was kept")
    if problem := _problem(text):
        raise ApiError(400, f"{place} {problem}", f"{FORM}; nothing was kept")
    return line


def _problem(text: str) -> str | None:
    if _FORBIDDEN.search(text):
        return "has a line break or another control character in it"
    if not (text.startswith("{") and text.endswith("}")):
        return "does not begin with { and end with }"
    if _ENTRY.match(text):
        return None
    # `curl -d @file` takes line breaks out of a file.
    if "}{" in text:
        return "has an entry's end and another's beginning in it (with curl, use --data-binary)"
    return "has a part that is not of the form key=value, or a quote that is not closed"


def _too_many() -> ApiError:
    return ApiError(413, f"the body has more than {MAX_ENTRIES:,} entries or lines", "send them in several requests")
