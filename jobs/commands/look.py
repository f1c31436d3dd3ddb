"""The commands that look and change nothing: `plan`, `accounts`, `quarantine`, `rules`."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.options import JsonOption, SourceOption, VerboseOption, new_console, show
from jobs.engine.errors import AssayError
from jobs.engine.settings import load_settings
from jobs.engine.sources import load_sources

if TYPE_CHECKING:
    from jobs.engine.context import Run


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    for command in (plan, accounts, quarantine, rules):
        app.command()(command)


def plan(source: SourceOption = None, as_json: JsonOption = False, verbose: VerboseOption = False) -> None:
    """Say what the next run would do, and why, without writing. Example: assay plan --source contacts"""
    from jobs.planning import plan_sources

    sources = load_sources(source)
    show(plan_sources(_start(as_json, verbose), sources), as_json=as_json)


def accounts(
    source: SourceOption = None,
    file: Annotated[
        str | None,
        typer.Option(help="A path below the landing folder, a glob or its end. Example: --file 'credits/*.csv'"),
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show where the rows of each file went, and check it against the tables. Example: assay accounts --file q4.csv"""
    from jobs.accounting import accounts_of

    sources = load_sources(source)
    found = accounts_of(_start(as_json, verbose), sources, file)
    show(found, as_json=as_json)
    if found.problems:
        raise AssayError(
            "\n".join(found.problems),
            "let a run that is under way come to its end, and finish one that was cut short: assay run; if this stays, "
            "a table was changed from outside, or a transform loses or multiplies rows",
        )


def quarantine(
    source: SourceOption = None,
    reason: Annotated[
        str | None, typer.Option(help="Only rows that this rule holds back. Example: --reason action_known")
    ] = None,
    examples: Annotated[
        int, typer.Option(min=0, max=100, help="Masked rows to show for each rule. Example: --examples 10")
    ] = 3,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show which rows are held back and why, values masked. Example: assay quarantine --source credits"""
    from jobs.held_back import quarantine_of

    sources = load_sources(source)
    show(quarantine_of(_start(as_json, verbose), sources, reason, examples), as_json=as_json)


def rules(source: SourceOption = None, as_json: JsonOption = False) -> None:
    """List all rules, with the share of rows that violated them last. Example: assay rules --source credits"""
    from jobs.rulebook import rules_of

    show(rules_of(load_settings(), load_sources(source)), as_json=as_json)


def _start(as_json: bool, verbose: bool) -> "Run":
    from jobs.engine.context import start_run

    return start_run(load_settings(), new_console(to_stderr=True), quiet=as_json, verbose=verbose)
