"""`assay releases`, `assay rollback` and `assay maintain`."""

import json
from typing import Annotated

import typer

from jobs.commands.options import LARGEST_NUMBER, JsonOption, VerboseOption, WaitOption, alone, new_console, show
from jobs.engine.errors import AssayError
from jobs.engine.settings import load_settings
from jobs.engine.sources import load_sources


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (releases, rollback, maintain):
        app.command()(command)


def releases(
    limit: Annotated[
        int, typer.Option(min=1, max=LARGEST_NUMBER, help="Only the newest so many. Example: --limit 5")
    ] = 20,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """List the releases, newest first. Example: assay releases --limit 5"""
    from jobs.releases import existing_database, list_releases, releases_text

    del verbose  # main() looks for it
    target = existing_database(load_settings())
    found = list_releases(target, limit) if target else []
    print(json.dumps([r.as_json() for r in found], indent=2) if as_json else releases_text(found))


def rollback(
    to: Annotated[
        int, typer.Option("--to", min=1, max=LARGEST_NUMBER, help="The release to show again. Example: --to 3")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and say what would change. Example: --to 3 --dry-run")
    ] = False,
    wait: WaitOption = 0,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show the rows of an earlier release again, as a new release. Example: assay rollback --to 3"""
    from jobs.engine.context import start_run
    from jobs.engine.destination import check_database
    from jobs.releases import existing_database
    from jobs.releases import rollback as roll_back

    settings, sources = load_settings(), load_sources()
    check_database(settings)
    target = existing_database(settings)
    if target is None:
        raise AssayError(f"there is no release {to}: nothing has been published here", "publish it with `assay run`")
    with alone(settings, "assay rollback", wait):
        if wait:
            sources = load_sources()
        run = start_run(settings, new_console(to_stderr=as_json), quiet=as_json, verbose=verbose)
        report = roll_back(run, sources, target, to, dry_run=dry_run)
    show(report, as_json=as_json)


def maintain(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done. Example: assay maintain --dry-run")
    ] = False,
    wait: WaitOption = 0,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compact Delta tables and remove what no kept release needs. Example: assay maintain --wait 600"""
    from jobs.engine.context import start_run
    from jobs.maintain import maintain as do_maintain

    settings, sources = load_settings(), load_sources()
    with alone(settings, "assay maintain", wait):
        if wait:
            sources = load_sources()
        run = start_run(settings, new_console(to_stderr=as_json), quiet=as_json, verbose=verbose)
        report = do_maintain(run, sources, dry_run=dry_run)
    show(report, as_json=as_json)
