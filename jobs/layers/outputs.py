"""Exports and documents: files that show what is published."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from jobs.engine import documents, exports
from jobs.engine.context import Run
from jobs.engine.errors import AssayError
from jobs.engine.faults import explained
from jobs.engine.fingerprints import measured
from jobs.engine.postgres import DocumentName, DocumentVersion, ReleasedTable
from jobs.engine.sources import Source
from jobs.engine.versions import any_version, is_forgotten, is_gone
from jobs.layers.tables import gold_table

_SYSTEM_SAYS = re.compile(
    r"\[Errno (\d+)\]|Permission denied|Parent path is not a directory|Mkdirs failed to create|Read-only file system"
)
_ROLL_BACK = (
    "assay rollback to the newest release, or to another one whose versions are there (assay releases lists them)"
)


class ShownVersion(NamedTuple):
    """Which version of a published gold table is shown, and the checksum of its rows."""

    version: int
    checksum: str


@dataclass(frozen=True)
class Shown:
    """Which versions of its gold tables a source shows: of published tables, and of documents."""

    tables: Mapping[str, ShownVersion]
    documents: Mapping[str, int]


def newest(run: Run, source: Source) -> Shown:
    """The newest versions of the source's gold tables."""
    states = {
        name: state for name in source.gold_tables if (state := run.ledger.table_states().get(gold_table(source, name)))
    }
    tables = {name: ShownVersion(state.delta_version, state.checksum) for name, state in states.items()}
    return Shown(tables, {name: state.delta_version for name, state in states.items() if name in source.documents})


def shown_of(
    run: Run,
    source: Source,
    released: Mapping[str, ReleasedTable],
    documents_of: Mapping[DocumentName, DocumentVersion],
) -> Shown:
    """The versions of the source's gold tables that a release shows; without documents whose table was made anew."""
    names = {name: f"{table.schema_}.{name}" for name, table in source.publish.items()}
    found = {name: released[full] for name, full in names.items() if full in released}
    tables = {name: ShownVersion(table.delta_version, table.checksum) for name, table in found.items()}
    versions = {name: had for name in source.documents if (had := documents_of.get((source.name, name)))}
    present = {name: had.version for name, had in versions.items() if is_of_present_table(run, source, name, had)}
    return Shown(tables, present)


def document_versions(run: Run, sources: Sequence[Source]) -> dict[DocumentName, DocumentVersion]:
    """The newest version of each table of documents."""
    return {
        (source.name, name): DocumentVersion(version, run.lake.identity(gold_table(source, name)))
        for source in sources
        for name, version in newest(run, source).documents.items()
    }


def is_of_present_table(run: Run, source: Source, name: str, shown: DocumentVersion) -> bool:
    """Whether a version is of the table of documents that is there, not of one that was there before."""
    return shown.table in (None, run.lake.identity(gold_table(source, name)))


def write_files(run: Run, sources: Sequence[Source], shown: Mapping[str, Shown], release_id: int | None) -> list[str]:
    """Brings exports and documents up to date with what each source shows; says which documents were written, or went.

    Raises AssayError that tells of the release, if one was made: it is published by now. What could be written is.
    """
    said, failed = list[str](), list[AssayError]()
    for source in sources:
        try:
            said += _write_files(run, source, shown[source.name], release_id)
        except AssayError as error:
            failed.append(error)
    if failed:
        hints = dict.fromkeys(error.hint for error in failed if error.hint)
        raise AssayError("\n".join(error.message for error in failed), "; ".join(hints)) from failed[0]
    return said


def files_behind(run: Run, source: Source, shown: Shown) -> dict[str, str]:
    """The exports and folders of documents, below the output folder, that `write_files` would write: by gold table."""
    exported = _exports_behind(run, source, shown)
    behind = {name: f"exports/{source.exports[name].file}" for name, is_there in exported.items() if is_there}
    for name, version in shown.documents.items():
        document, table, checksum = source.documents[name], gold_table(source, name), _checksum(shown, name)
        if not documents.is_current(run.lake, table, version, document, run.settings.output, checksum):
            behind[name] = f"{document.folder}/"
    return behind


def _write_files(run: Run, source: Source, shown: Shown, release_id: int | None) -> list[str]:
    try:
        with any_version(run.spark):
            return [*_export(run, source, shown), *_write_documents(run, source, shown)]
    except (AssayError, OSError, PySparkException, Py4JJavaError) as error:
        done = f"release {release_id} is published" if release_id else "what is published stays as it was"
        known = error if isinstance(error, AssayError) else explained(error)
        why, way_out = (known.message, known.hint) if known else (_why_unwritten(error), None)
        if isinstance(error, (PySparkException, Py4JJavaError)) and _is_version_gone(run, source, shown, error):
            why, way_out = f"the version of gold that {source.name} shows is gone", _ROLL_BACK
        raise AssayError(
            f"{done}; files below {run.settings.output} could not be written: {why}",
            way_out or "mend the folder (ASSAY_OUTPUT), then run again: the next run writes them",
        ) from error


def _is_version_gone(run: Run, source: Source, shown: Shown, error: PySparkException | Py4JJavaError) -> bool:
    """Whether an error is about a version that a rollback has left to be shown, and not about the output folder."""
    is_of_gold = is_forgotten(error) or (is_gone(error) and f"/{gold_table(source, '')}" in str(error))
    return is_of_gold and shown != newest(run, source)


def _why_unwritten(error: Exception) -> str:
    """What the system says; no more of the error, whose text may quote rows."""
    found = _SYSTEM_SAYS.search(str(error))
    said = type(error).__name__ if found is None else os.strerror(int(found[1])) if found[1] else found[0]
    return f"{said} ({error.filename})" if isinstance(error, OSError) and error.filename else said


def _exports_behind(run: Run, source: Source, shown: Shown) -> dict[str, bool]:
    """The exports that are not of what is shown; with whether its rows are there, or the table was made anew since."""
    behind, present = dict[str, bool](), newest(run, source).tables
    for name, export in source.exports.items():
        if name not in shown.tables:
            continue
        version, checksum = shown.tables[name]
        if not exports.is_current(run.spark, _exports_folder(run), export, checksum):
            is_present = shown.tables[name] == present.get(name)
            behind[name] = is_present or _has_rows(run, gold_table(source, name), version, checksum)
    return behind


def _has_rows(run: Run, path: str, version: int, checksum: str) -> bool:
    """Whether the version is there, and has the rows with this checksum."""
    try:
        with any_version(run.spark):
            return measured(run.lake.read(path, version)).checksum == checksum
    except (PySparkException, Py4JJavaError) as error:
        if is_gone(error):
            return False
        raise


def _exports_folder(run: Run) -> str:
    return f"{run.settings.output.rstrip('/')}/exports"


def _export(run: Run, source: Source, shown: Shown) -> list[str]:
    """Writes the exports that are behind; says which cannot be, as their table was made anew since the release."""
    said = []
    for name, is_there in _exports_behind(run, source, shown).items():
        (version, checksum), export = shown.tables[name], source.exports[name]
        if is_there:
            exports.write(run.lake.read(gold_table(source, name), version), _exports_folder(run), export, checksum)
        else:
            said.append(f"exports/{export.file}: stays as it is, for the rows that are published are gone")
    return said


def _checksum(shown: Shown, document: str) -> str | None:
    """That of the rows that documents are made from; a release records it of published tables only."""
    return shown.tables[document].checksum if document in shown.tables else None


def _write_documents(run: Run, source: Source, shown: Shown) -> list[str]:
    said, output = [], run.settings.output
    for name, version in shown.documents.items():
        document = source.documents[name]
        table, checksum = gold_table(source, name), _checksum(shown, name)
        counts = documents.write(run.lake, table, version, document, output, checksum)
        if any(counts):
            said.append(f"{document.folder}/: {counts[0]:,} files brought up to date, {counts[1]:,} removed")
    return said
