"""What went wrong below Assay, in words a user can act on: a damaged file, a full disk, another process.

The texts of Spark and Delta may quote values of rows, so nothing of them is repeated but paths and kinds.
"""

import re
from urllib.parse import unquote

from jobs.engine.errors import AssayError

FAILED_FILE = re.compile(r"Encountered error while reading file (\S+)\.\s")
NO_FILE = re.compile(r"\[PATH_NOT_FOUND\] Path does not exist: (.+?)\. SQLSTATE")
_LOG_GAP = re.compile(r"\[(DELTA_VERSIONS_NOT_CONTIGUOUS|DELTA_TRUNCATED_TRANSACTION_LOG)[.\w]*\]")
_NO_COLUMN = re.compile(r"\[UNRESOLVED_COLUMN[.\w]*\] A column, variable, or function parameter with name (`[^`]+`)")
_CAUSE = re.compile(r"^Caused by: ([\w.$]+)", re.MULTILINE)
_NO_SPACE = "No space left on device"
# What a text says, and how a person would.
_KINDS = {
    "ChecksumException": "it is not as it was written (its checksum differs)",
    "is not a Parquet file": "it is not a Parquet file",
    "FILE_NOT_EXIST": "it is gone",
    "MALFORMED_RECORD": "it is not whole lines of JSON",
}
_WAY_OUT = (
    "no release is half made; restore the file from a backup; or, if its table is below gold/, remove the table's "
    "folder: the next run makes it anew; or refine the raw files into a new lakehouse (ASSAY_LAKEHOUSE), which "
    "is then to take over (assay run --take-over)"
)
# The last two: it has made the table, or has given it other columns.
_CONFLICTS = ("CONCURRENT_", "PROTOCOL_CHANGED", "METADATA_CHANGED")
LET_IT_END = "another run writes to this lakehouse at the same time; let it end, then run again"


def explained(error: BaseException) -> AssayError | None:
    """The error as one that a user can act on; None if it is not of a kind that is known."""
    text = str(error)
    if _NO_SPACE in text:
        return AssayError(
            "no space is left on the device of the lakehouse, of the temporary files or of the output",
            "no release is half made; make room (assay maintain removes what no kept release needs), then run again: "
            "it goes on where this one stopped",
        )
    if found := FAILED_FILE.search(text):
        kind = next((said for sign, said in _KINDS.items() if sign in text), None) or _innermost(text)
        return AssayError(f"cannot read {unquote(found.group(1))}: {kind}", _WAY_OUT)
    if found := NO_FILE.search(text):
        return AssayError(f"cannot read {found.group(1)}: it is gone", _WAY_OUT)
    if found := _NO_COLUMN.search(text):
        return AssayError(
            f"a transform or a rule names the column {found.group(1)}, which a table that it reads does not have",
            "if it is new in a silver table, the rows that are there have to be refined anew: assay run --source ... "
            "--from <the first day of all>; or else mend the transform",
        )
    if any(f"[DELTA_{kind}" in text for kind in _CONFLICTS):
        return AssayError("another process wrote to a table of the lakehouse while this one did", LET_IT_END)
    return None


def log_problem(table: str, error: BaseException) -> AssayError | None:
    """The error as one about the Delta log of a table, if it is."""
    found = _LOG_GAP.search(str(error))
    if found is None:
        return None
    return AssayError(
        f"the Delta log of {table} has a gap: files of {table}/_delta_log are gone ({found[1]})", _WAY_OUT
    )


def log_contradiction(path: str, version: int) -> AssayError:
    """The Delta log of the table at `path` has lost something."""
    return AssayError(
        f"the Delta log of {path} is damaged: it does not have the files that {version:020}.crc sums up; its newest "
        f"commit, {version:020}.json, or one before it is perhaps empty",
        _WAY_OUT,
    )


def _innermost(text: str) -> str:
    causes = _CAUSE.findall(text)
    return causes[-1].rpartition(".")[2] if causes else "unknown cause"
