"""What was published once, and no source declares any longer."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from jobs.engine import documents, exports
from jobs.engine.context import Run
from jobs.engine.errors import ConfigurationError
from jobs.engine.places import local_path
from jobs.engine.postgres import ReleasedTable
from jobs.engine.sources import Source, load_sources


def tables_left(last: Mapping[str, ReleasedTable], sources: Sequence[Source]) -> list[str]:
    """The published tables that no source declares, be it one of this run or another one."""
    left = last.keys() - _declared(sources)
    # A mistake in what another source declares is no reason for this run to fail.
    with suppress(ConfigurationError):
        return sorted(left - _declared(load_sources())) if left else []
    return []


def files_left(run: Run, sources: Sequence[Source]) -> list[str]:
    """The exports and documents below the output folder that no source declares, be it one of this run or another one.

    They are found by the hidden files that Assay keeps beside them; of an output that is elsewhere, none are.
    """
    output = local_path(run.settings.output)
    if output is None:
        return []
    exports_there, documents_there = output.glob(f"exports/.*{exports.MARK}"), output.glob(f"*/.*{documents.MARK}")
    marked = {f"exports/{mark.name[1:].removesuffix(exports.MARK)}" for mark in exports_there}
    marked |= {f"{mark.parent.name}/{mark.name[1:].removesuffix(documents.MARK)}*" for mark in documents_there}
    if not marked - _written(sources):
        return []
    # A mistake in what another source declares is no reason for this run to fail.
    with suppress(ConfigurationError):
        names = {source.name for source in sources}
        written = _written([*sources, *[source for source in load_sources() if source.name not in names]])
        return sorted(left for pattern in marked - written if (left := _left_of(output, pattern, written)))
    return []


def _left_of(output: Path, pattern: str, written: Collection[str]) -> str:
    """The files that match a pattern and none of those that are written, in words; empty if there are none."""
    others = sorted(other for other in written if other != pattern and fnmatchcase(other, pattern))
    files = [f"{file.parent.name}/{file.name}" for file in output.glob(pattern) if not file.name.startswith(".")]
    if all(any(fnmatchcase(file, other) for other in others) for file in files):
        return ""
    return f"{pattern} (but for {', '.join(others)})" if others else pattern


def _written(sources: Sequence[Source]) -> set[str]:
    """The files below the output folder that sources write, documents as a pattern."""
    return {
        *(f"exports/{export.file}" for source in sources for export in source.exports.values()),
        *(f"{each.folder}/{each.prefix}*" for source in sources for each in source.documents.values()),
    }


def _declared(sources: Sequence[Source]) -> set[str]:
    """The published tables of some sources, with their schemas."""
    return {f"{table.schema_}.{name}" for source in sources for name, table in source.publish.items()}
