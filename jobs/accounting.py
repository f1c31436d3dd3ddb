"""Where the rows of raw files went, table by table, and whether that agrees with what the tables hold."""

import difflib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, field
from fnmatch import fnmatchcase

from pyspark.sql import functions as F

from jobs.engine.batches import History
from jobs.engine.context import Run
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.listing import line, some, table
from jobs.engine.local_rows import local_rows
from jobs.engine.sources import Source
from jobs.layers.balance import verify_accounts
from jobs.layers.histories import decisions

# Of a batch with more files, the listing for people shows the sum; --file and --json show each.
FILES_SHOWN = 20
_LAYERS = ("bronze", "silver")


@dataclass(frozen=True)
class Account:
    """What became of the rows of one file of one batch in one table.

    `file` is below the landing folder; one that was named alone is below `/`.
    """

    source: str
    layer: str
    table: str
    batch: int
    file: str
    read: int
    written: int
    quarantined: int
    deduplicated: int
    superseded: int


@dataclass(frozen=True)
class Finding:
    """A file whose rows were not read: set aside, or delivered again; `why` says it in words."""

    source: str
    file: str
    batch: int
    status: str
    why: str


@dataclass
class Accounting:
    """The accounts in force; `findings` are files that were not read; `problems` is what does not balance or agree."""

    accounts: list[Account] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_of_files: bool = False

    def as_json(self) -> dict[str, object]:
        return {
            "accounts": [asdict(account) for account in self.accounts],
            "files_not_read": [asdict(finding) for finding in self.findings],
            "totals": [dict(zip(_TOTAL_COLUMNS, total, strict=True)) for total in _totals(self.accounts)],
            "problems": self.problems,
        }

    def as_text(self) -> str:
        lines = table(_COLUMNS, self._rows()) if self.accounts else []
        if len({(a.source, a.layer, a.table) for a in self.accounts}) < len(self.accounts):
            lines += ["", *table(_TOTAL_COLUMNS, _totals(self.accounts))]
        lines += [""] * bool(lines)
        for head, status in (("set aside", "rejected"), ("delivered again", "known")):
            found = [f"{f.file} (batch {f.batch}): {f.why}" for f in self.findings if f.status == status]
            if found:
                lines.append(line(head, some(found)))
        lines.append(line("accounts", self._verdict()))
        return "\n".join([*lines, "", line("next", self._next())])

    def _rows(self) -> list[list[object]]:
        batches: dict[tuple[str, str, str, int], list[Account]] = defaultdict(list)
        for account in self.accounts:
            batches[account.source, account.layer, account.table, account.batch].append(account)
        rows: list[list[object]] = []
        for batch, files in batches.items():
            if len(files) > FILES_SHOWN and not self.is_of_files:
                rows.append([*batch, f"{len(files):,} files", *_sums(files)])
            else:
                rows += [list(astuple(file)) for file in files]
        return rows

    def _verdict(self) -> str:
        if self.problems:
            return "do not balance, see below"
        if not self.accounts:
            return "no rows were read yet"
        return "balanced, and they agree with what the tables hold"

    def _next(self) -> str:
        if held := next((a.source for a in self.accounts if a.quarantined), None):
            return f"assay quarantine --source {held}      why rows were held back"
        return "assay plan      what the next run would do"


_FATES = ("read", "written", "quarantined", "deduplicated", "superseded")
_COLUMNS = ("source", "layer", "table", "batch", "file", *_FATES)
_TOTAL_COLUMNS = ("source", "layer", "table", "files", *_FATES)


def accounts_of(run: Run, sources: Sequence[Source], file: str | None) -> Accounting:
    """The accounts in force of all files, or of those that `file` names (a path, a glob or the end of a path).

    All tables of the sources are held against their accounts in either case. Raises ConfigurationError with close
    matches if no file is called so.
    """
    found = Accounting(is_of_files=file is not None)
    histories = {source.name: decisions(run, source) for source in sources}
    paths = {name: sorted(history.paths()) for name, history in histories.items()}
    wanted = paths if file is None else {name: matching_files(file, there) for name, there in paths.items()}
    if file is not None and not any(wanted.values()):
        raise ConfigurationError(f"no file that was ever delivered is called {file!r}", _close(file, paths.values()))
    for source in sources:
        if not paths[source.name]:
            continue
        found.accounts += _accounts(run, source, wanted[source.name] if file is not None else None)
        found.findings += _findings(source, histories[source.name], set(wanted[source.name]))
        try:
            verify_accounts(run, source)
        except AssayError as error:
            found.problems.append(error.message)
    return found


def _accounts(run: Run, source: Source, paths: list[str] | None) -> list[Account]:
    rows = run.ledger.accounts().where(F.col("source") == source.name)
    if paths is not None:
        asked = local_rows(run.spark, [{"source_file": path} for path in paths], "source_file STRING")
        rows = rows.join(F.broadcast(asked), "source_file", "left_semi")
    names = ["source", "layer", "table_name", "batch_id", "source_file", *[f"rows_{fate}" for fate in _FATES]]
    found = [Account(*row) for row in rows.select(*names).collect()]
    order = {name: number for number, name in enumerate([*source.raw, *source.tables])}
    last = len(order)  # tables that are no longer declared, or are called otherwise now
    return sorted(found, key=lambda a: (_LAYERS.index(a.layer), order.get(a.table, last), a.table, a.batch, a.file))


def _findings(source: Source, history: History, paths: set[str]) -> list[Finding]:
    """The files of which nothing was read the last time that they were delivered."""
    origin = {event.content_hash: event.source_file for event in history.loaded()}
    found = []
    for path, event in sorted(history.newest_versions().items()):
        if path not in paths or event.status == "loaded":
            continue
        why = event.why_known(origin.get(event.content_hash)) if event.status == "known" else event.reason or ""
        found.append(Finding(source.name, event.source_file, event.batch_id, event.status, why))
    return found


def matching_files(asked: str, paths: Iterable[str]) -> list[str]:
    """The files that are called so, or else match it as a glob, or else end in it."""
    there = list(paths)
    if asked in there:
        return [asked]
    return [path for path in there if fnmatchcase(path, asked)] or [path for path in there if path.endswith(asked)]


def _close(asked: str, paths: Iterable[Sequence[str]]) -> str:
    there = [path for group in paths for path in group]
    by_name = {path.rpartition("/")[2]: path for path in there}
    close = difflib.get_close_matches(asked, there, n=3) or [
        by_name[name] for name in difflib.get_close_matches(asked.rpartition("/")[2], by_name, n=3)
    ]
    if close:
        return f"did you mean {' or '.join(close)}?"
    return "assay accounts lists the files that there are" if there else "no file was delivered yet: assay run"


def _sums(accounts: Sequence[Account]) -> list[int]:
    return [sum(getattr(account, fate) for account in accounts) for fate in _FATES]


def _totals(accounts: Sequence[Account]) -> list[list[object]]:
    """One row per table: how many files it has rows of, and the sums."""
    groups: dict[tuple[str, str, str], list[Account]] = defaultdict(list)
    for account in accounts:
        groups[account.source, account.layer, account.table].append(account)
    return [[*name, len({account.file for account in group}), *_sums(group)] for name, group in groups.items()]
