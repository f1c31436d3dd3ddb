"""The log: one JSON object a line on stderr. It never holds bodies, keys, addresses, or ids of people."""

import json
import logging
import select
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime

_dropped = 0  # lines, since one was taken


def write_line(**fields: object) -> None:
    """One line, with the time in front. A log that nobody takes must not stop the service: then lines are dropped.

    The next one that is taken says how many.
    """
    global _dropped
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    with suppress(OSError, ValueError):
        if not _is_taken():
            _dropped += 1
            return
        before = {"dropped_before": _dropped} if _dropped else {}
        sys.stderr.write(json.dumps({"time": time, **fields, **before}) + "\n")
        sys.stderr.flush()
        _dropped = 0


def _is_taken() -> bool:
    """Whether a line can be written without waiting: a pipe takes 4 KiB then, which is more than a line has."""
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):  # what takes its place is no file of the system
        return True
    return bool(select.select([], [descriptor], [], 0)[1])


def write_event(event: str, **details: object) -> None:
    """Something an operator should know of."""
    write_line(event=event, **details)


def where(error: BaseException) -> str:
    """Type and place of an error. Its text is left out, for it may quote what somebody sent."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place


class LibraryHandler(logging.Handler):
    """What libraries log, from warnings on: first lines only, for details may quote what somebody sent."""

    def emit(self, record: logging.LogRecord) -> None:
        details = {"error": where(record.exc_info[1])} if record.exc_info and record.exc_info[1] else {}
        message = record.getMessage().partition("\n")[0][:200]
        write_event("library", logger=record.name, level=record.levelname, message=message, **details)
