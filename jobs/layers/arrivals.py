"""What lies in the landing folder of a source, and what of it is new."""

import glob
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

from jobs.engine.batches import FileEvent, History, labelled, plan, vanished_or_changed
from jobs.engine.context import Run
from jobs.engine.errors import ConfigurationError
from jobs.engine.landing import (
    LandingFile,
    Unreadable,
    content_hashes,
    is_being_written,
    is_expected,
    is_there,
    list_files,
    passed_over,
)
from jobs.engine.places import local_path
from jobs.engine.readers import parent
from jobs.engine.sources import Source, load_sources
from jobs.layers.histories import tables_in

CHANGED = "the file was changed or taken away before it was read"
CHANGED_MEANWHILE = "the file was changed while it was read"


def listing(run: Run, source: Source) -> list[LandingFile]:
    """The source's files in the landing folder."""
    root, patterns = landing_of(run, source)
    return list_files(run.spark, root, patterns)


def ignored(run: Run, source: Source) -> list[str]:
    """What else is in the source's landing folders, of no source, and so is not read: files, folders, dead links."""
    if named_file(source):
        return []
    found = passed_over(run.spark, run.settings.landing, source.patterns)
    try:
        others = [other for other in load_sources() if other.name != source.name] if found else []
    except ConfigurationError:  # whose the files are cannot be told; that is no reason for this run to fail
        return []
    patterns = [pattern for other in others for pattern in other.patterns]
    return [path for path in found if not is_expected(path, patterns)]


def next_batch(run: Run, source: Source, decided: History, listed: Sequence[LandingFile]) -> list[FileEvent]:
    """What to take from the landing folder after all that was decided before; empty if nothing is new."""
    is_looked_for = partial(_is_looked_for, run, source, landing_of(run, source)[1])
    return plan(decided, listed, partial(_contents, run, source), partial(_is_as_it_was_read, source), is_looked_for)


def no_longer_as_planned(
    source: Source,
    files: Sequence[FileEvent],
    unread: Sequence[str],
    listed: Sequence[LandingFile],
    reason: str = CHANGED,
) -> list[FileEvent]:
    """Those files of a planned batch that were changed, or taken away, as set aside for `reason`.

    What was taken away with no rows in the `unread` raw tables was read to its end.
    """
    there = {file.path for file in listed}
    files = [e for e in files if e.source_file in there or any(raw in unread for raw in tables_in(source, e))]
    # Without its size the file is new to the next plan, even if it is back as it was by then.
    return [replace(e, size=-1, status="rejected", reason=reason) for e in vanished_or_changed(files, listed)]


def vanished(source: Source, decided: History, listed: Sequence[LandingFile]) -> list[FileEvent]:
    """The files that were taken in and are no longer in the landing folder, as they were last; their rows stay."""
    if named_file(source):
        return []
    there = {file.path for file in listed}
    return [e for path, e in sorted(decided.newest_versions(accepted=True).items()) if path not in there]


def named_file(source: Source) -> str | None:
    """The one file that the source's variable names, if it has one and it is set."""
    return os.environ.get(source.one_file) or None if source.one_file else None


def landing_of(run: Run, source: Source) -> tuple[str, list[str]]:
    """Where the source's files lie, and which they are; one file of its own if its variable names one."""
    named = named_file(source)
    if not named:
        return run.settings.landing, source.patterns
    file = Path(os.path.realpath(named))
    if not os.path.isfile(file):  # of a link to itself, or a closed folder, Path's own would raise
        raise ConfigurationError(f"environment variable {source.one_file}: there is no file {named} to be looked at")
    if is_being_written(file.name):
        raise ConfigurationError(
            f"environment variable {source.one_file}: {file.name} counts as still being written",
            "rename it once it is whole: names that begin with ., _ or ~$, or end in ._COPYING_, are passed over",
        )
    # From the root on: files of one name in two folders are two files.
    path = file.relative_to(file.anchor).as_posix()
    # What an earlier Assay has called so keeps the name: under another, its earlier rows would stay for ever.
    is_known = path in run.ledger.history(source.name).paths()
    if not is_known and (below := _below_landing(run, source, named)) is not None:
        return run.settings.landing, [glob.escape(below)]
    if is_expected(path, source.patterns):
        raise ConfigurationError(
            f"environment variable {source.one_file}: {named} would be taken for {path} of the landing folder",
            f"put it into another folder than /{parent(path)}",
        )
    return file.anchor, [glob.escape(path)]


def _below_landing(run: Run, source: Source, named: str) -> str | None:
    """The path below the landing folder of a file that is named alone, if runs without its name find it there, too."""
    landing = local_path(run.settings.landing)
    if landing is None:
        return None
    # Each folder may be a link to where the files really lie.
    folders = {folder for pattern in source.patterns if parent(pattern) for folder in landing.glob(parent(pattern))}
    places = [(folder, Path(at)) for folder in (landing, *sorted(folders)) for at in _names_of(folder)]
    for file, (folder, place) in product(map(Path, _names_of(named)), places):
        if file.is_relative_to(place):
            path = (folder.relative_to(landing) / file.relative_to(place)).as_posix()
            if is_expected(path, source.patterns):
                return path
    return None


def _names_of(place: str | Path) -> tuple[str, str]:
    """The whole path of a place, and the one that no link is left in."""
    return os.path.abspath(place), os.path.realpath(place)


def _is_looked_for(run: Run, source: Source, patterns: list[str], path: str) -> bool:
    """Whether a file would be listed if it were there: also one that is not there, whatever the patterns once were."""
    if is_expected(path, patterns):
        return True
    places = [f"{run.settings.landing}/{path}", *([f"/{path}"] if source.one_file else [])]
    return not any(is_there(run.spark, place) for place in places)


def _is_as_it_was_read(source: Source, event: FileEvent) -> bool:
    """Whether a file was read for the raw tables that the present patterns name; or was set aside unread."""
    if event.content_hash is None:
        return True
    named, present = event.raw_tables, source.raw_tables_of(event.source_file)
    if not named:  # it was read for one, which is among these
        return len(present) <= 1
    return len(source.raw) == 1 or not present or set(named) == set(present)


def _contents(run: Run, source: Source, paths: list[str]) -> dict[str, str | Unreadable]:
    """What is in each file: its hash; of a source with several raw tables, with those that the file has rows of."""
    hashes = content_hashes(run.spark, landing_of(run, source)[0], paths)
    if len(source.raw) == 1:
        return hashes
    return {
        path: found if isinstance(found, Unreadable) else labelled(found, source.raw_tables_of(path))
        for path, found in hashes.items()
    }
