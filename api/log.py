"""The log: one JSON object a line on stderr. It never holds bodies, keys, addresses, or ids of people."""

import json
import logging
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime


def write_line(**fields: object) -> None:
    """One line, with the time in front. A log that nobody can take must not stop the service."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    with suppress(OSError, ValueError):
        sys.stderr.write(json.dumps({"time": time, **fields}) + "\n")
        sys.stderr.flush()


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
