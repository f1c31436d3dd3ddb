"""The `assay` command. Exit codes: 0 done, 1 the run failed, 2 wrong usage or configuration, 3 a file was set aside."""

import json
import os
import sys
import traceback
from datetime import UTC, date, datetime
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from jobs.commands import look, releases
from jobs.commands.options import (
    LARGEST_NUMBER,
    JsonOption,
    SourceOption,
    VerboseOption,
    WaitOption,
    a_number,
    alone,
    new_console,
    show,
)
from jobs.engine import embedded
from jobs.engine.errors import AssayError, ConfigurationError
from jobs.engine.faults import explained
from jobs.engine.settings import Settings, load_settings
from jobs.engine.sources import Source, load_sources
from jobs.engine.summary import Layer, Summary

SET_ASIDE = 3

app = typer.Typer(
    help="Assay refines raw files into tables people trust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
db = typer.Typer(help="The embedded Postgres (used when POSTGRES_HOST is not set).", no_args_is_help=True)
app.add_typer(db, name="db")
look.register(app)
releases.register(app)


class Until(StrEnum):
    """The last layer of a run."""

    bronze = "bronze"
    silver = "silver"
    gold = "gold"
    publish = "publish"


class Role(StrEnum):
    """Who connects: the owner, or one of the two readers."""

    assay = "assay"
    analyst = "analyst"
    restricted_reader = "restricted_reader"


@app.command()
def run(
    source: SourceOption = None,
    until: Annotated[Until, typer.Option(help="Stop after this layer. Example: --until silver")] = Until.publish,
    sample_if_empty: Annotated[
        bool,
        typer.Option(
            "--sample-if-empty",
            help="Write sample files where a source's folder is empty. Example: assay run --sample-if-empty",
        ),
    ] = False,
    from_day: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            formats=["%Y-%m-%d"],
            help="Refine anew what was ingested from this day on, in UTC. Example: --source contacts --from 2026-11-01",
        ),
    ] = None,
    to_day: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="The last day for --from (none). Example: --to 2026-11-21"),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="Take the place of another lakehouse, or a newer copy, that has published there. Example: assay run "
            "--take-over",
        ),
    ] = False,
    wait: WaitOption = 0,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Refine raw files, raw to Postgres. Example: assay run --source contacts --until gold"""
    from jobs.engine.context import start_run
    from jobs.engine.destination import check_database
    from jobs.layers.run import run_sources
    from jobs.replay import ask_backfill

    settings, sources = load_settings(), load_sources(source)
    if until is Until.publish:
        check_database(settings)
    if take_over and (source or until is not Until.publish):
        raise ConfigurationError(
            "--take-over is for all sources, raw to Postgres", "leave --source and --until out: assay run --take-over"
        )
    if from_day is None and to_day is not None:
        raise ConfigurationError("--to goes with --from", "example: assay run --source contacts --from 2026-11-01")
    if from_day is not None and not source:
        raise ConfigurationError("--from needs --source", "example: assay run --source contacts --from 2026-11-01")
    if from_day is not None and (to_day or datetime.now(UTC)).date() < from_day.date():
        last_day = f"--to {to_day:%Y-%m-%d}" if to_day else "today (UTC)"
        raise ConfigurationError(f"--from {from_day:%Y-%m-%d} is after {last_day}", "give the earlier day to --from")
    console = new_console(to_stderr=as_json)
    with alone(settings, "assay run", wait):
        if wait:  # what was declared may have been changed meanwhile, and the code with it
            sources = load_sources(source)
        for one in sources if sample_if_empty else []:
            _sample_if_empty(settings, one, console, is_named=bool(source))
        started = start_run(settings, console, quiet=as_json, verbose=verbose)
        if from_day is not None:
            # A clock that was ahead once has dated what came after it ahead as well.
            last = to_day.date() if to_day else date.max
            for one in sources:
                if ask_backfill(started, one, from_day.date(), last) is None:
                    until_day = f" to {last}" if to_day else " on"
                    said = f"{one.name}: nothing was ingested from {from_day:%Y-%m-%d}{until_day}"
                    console.print(said, highlight=False)
        done = run_sources(started, sources, first="bronze", until=until.value, take_over=take_over)
        _print(done, console, as_json=as_json)


@app.command()
def replay(
    source: Annotated[str, typer.Option("--source", "-s", help="The source. Example: --source credits")],
    rule: Annotated[
        str | None, typer.Option(help="Only rows that this rule holds back. Example: --rule action_known")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_NUMBER, help="Only rows of this batch. Example: --batch 12")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would pass, write nothing. Example: --source credits --dry-run")
    ] = False,
    wait: WaitOption = 0,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Send quarantined rows through the present rules. Example: assay replay --source credits --rule action_known"""
    from jobs.engine.context import start_run
    from jobs.engine.destination import check_database
    from jobs.layers.run import run_sources
    from jobs.replay import ask_replay, preview

    settings, one = load_settings(), load_sources([source])[0]
    check_database(settings)
    console = new_console(to_stderr=as_json)
    if dry_run:
        found = preview(start_run(settings, console, quiet=as_json, verbose=verbose), one, rule, batch)
        show(found, as_json=as_json)
        return
    with alone(settings, "assay replay", wait):
        if wait:
            one = load_sources([source])[0]
        started = start_run(settings, console, quiet=as_json, verbose=verbose)
        if ask_replay(started, one, rule, batch) is None:
            console.print(f"{source}: no such rows are in quarantine", highlight=False, markup=False)
        # In either case: an earlier replay may have been cut short.
        _print(run_sources(started, [one], first="silver", until="publish"), console, as_json=as_json)


@app.command()
def sample(
    source: SourceOption = None,
    rows: Annotated[int, typer.Option(min=200, help="Rows per source. Example: --rows 1000000")] = 100_000,
    seed: Annotated[int, typer.Option(help="The same seed writes the same files. Example: --seed 7")] = 7,
    verbose: VerboseOption = False,
) -> None:
    """Write sample raw files into the landing folder. Example: assay sample --source contacts --rows 1000000"""
    del verbose  # main() looks for it
    settings, names = load_settings(), [s.name for s in load_sources(source)]
    for name in names:  # before any file is written
        most = getattr(_sample_of(name), "MAXIMUM_ROWS", rows)
        if rows > most:
            raise ConfigurationError(
                f"--rows {rows}: {name} has {most:,} sample rows at most", "name other sources: --source"
            )
    for name in names:
        _write_sample(settings, name, rows, seed, new_console(), is_named=bool(source))


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than loopback need API keys. Example: --host 0.0.0.0")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one. Example: --port 8000")] = 5000,
    rate_limit: Annotated[
        str, typer.Option(help="Requests per API key, or per address without one. Example: --rate-limit 100/second")
    ] = "10000/second",
    roll_seconds: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=86_400,
            callback=a_number,
            help="A run sees received entries after so long at most. Example: --roll-seconds 60",
        ),
    ] = 5.0,
    verbose: VerboseOption = False,
) -> None:
    """Receive members' entries and serve interactions over HTTP. API keys: ASSAY_API_KEYS. Example: assay serve -v"""
    from jobs.serve import serve as serve_http

    del verbose  # main() looks for it
    serve_http(load_settings(), host, port, os.environ.get("ASSAY_API_KEYS"), rate_limit, roll_seconds)


@db.command("start")
def db_start() -> None:
    """Start the embedded Postgres, if it is not running. Example: assay db start"""
    database = embedded.start(load_settings().database)
    print(f"Postgres listens on {database.host}:{database.port}, database {database.name}")


@db.command("stop")
def db_stop() -> None:
    """Stop the embedded Postgres; its data stays. Example: assay db stop"""
    print("stopped" if embedded.stop(load_settings().database) else "it was not running")


@db.command("url")
def db_url(
    role: Annotated[Role, typer.Option(help="Who connects. Example: --role analyst")] = Role.assay,
    password: Annotated[
        bool,
        typer.Option(
            "--password", help="With the password itself, for clients that read no file of it. Example: --password"
        ),
    ] = False,
) -> None:
    """Print a connection string; it names the file of the password. Example: psql "$(assay db url --role analyst)" """
    from jobs.engine.destination import reader_passwords

    settings = load_settings()
    if settings.postgres.host is not None:
        raise ConfigurationError("POSTGRES_HOST is set: passwords of that server are its administrator's")
    database = embedded.running(settings.database)
    if database is None:
        raise AssayError("the embedded Postgres is not running", "start it: assay db start")
    if role is not Role.assay:
        if not (settings.database / f"{role.value}.password").exists():
            raise AssayError(f"nothing has been published yet, so there is no role {role.value}", "first: assay run")
        database = database.as_user(role.value, reader_passwords(settings)[role.value])
    file = settings.database / f"{role.value}.pgpass"
    print(database.url(with_password=True) if password else database.url_with_password_file(file))


def run_layer(layer: Layer) -> NoReturn:
    """The command line of one job, e.g. `spark-submit jobs/silver.py --source contacts`: that layer alone."""
    job = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @job.command()
    def _job(source: SourceOption = None, wait: WaitOption = 0, verbose: VerboseOption = False) -> None:
        from jobs.engine.context import start_run
        from jobs.layers.run import run_sources

        console, settings, sources = new_console(), load_settings(), load_sources(source)
        with alone(settings, f"jobs/{layer}.py", wait):
            if wait:
                sources = load_sources(source)
            started = start_run(settings, console, verbose=verbose)
            _print(run_sources(started, sources, first=layer, until=layer), console, as_json=False)

    main([], job)


def main(arguments: list[str] | None = None, command: typer.Typer = app) -> NoReturn:
    """Runs the command; an error that a user can act on is printed as such, without a stack trace.

    With --verbose any error is its stack trace; the exit code is the same.
    """
    given = [*(arguments or []), *sys.argv[1:]]
    try:
        command(given, standalone_mode=True)
    except Exception as error:
        known = error if isinstance(error, AssayError) else explained(error) or _unexpected(error)
        if "--verbose" in given or "-v" in given:
            traceback.print_exc()
        else:
            print(f"error: {known}", file=sys.stderr)
        sys.exit(known.exit_code)
    sys.exit(0)


def _unexpected(error: Exception) -> AssayError:
    # Its text may quote raw values, so it is not shown unless asked for.
    return AssayError(
        f"{type(error).__name__}: this is a fault of Assay or of its surroundings",
        "a release is there whole or not at all (assay releases); run again with --verbose to see all of it",
    )


def _print(summary: Summary, console: Console, *, as_json: bool) -> None:
    """Prints the summary; exits with SET_ASIDE if a file was."""
    if as_json:
        print(json.dumps(summary.as_json(), indent=2))
    else:
        console.print(f"\n{summary.as_text()}", highlight=False, markup=False)
    if summary.set_aside:
        raise typer.Exit(SET_ASIDE)


def _sample_if_empty(settings: Settings, source: Source, console: Console, *, is_named: bool) -> None:
    """Sample files for a source that has no files yet, and never had any: sample rows would join real ones."""
    from api.parts import PREFIX
    from jobs.engine.places import local_path
    from jobs.layers.arrivals import named_file

    landing, bronze = (local_path(place) for place in (settings.landing, f"{settings.lakehouse}/bronze/{source.name}"))
    if landing is None or bronze is None or bronze.exists() or named_file(source):
        return
    # What the service has received is under a hidden name for a while.
    folder = landing / source.name
    if not any(chain(folder.glob("[!._]*"), folder.glob(f".{PREFIX}*"))):
        _write_sample(settings, source.name, 100_000, 7, console, is_named=is_named)


def _write_sample(settings: Settings, source: str, rows: int, seed: int, console: Console, *, is_named: bool) -> None:
    """Sample files of a source; one that has no sample is passed over, unless the user has named it."""
    folder, made = _landing_folder(settings, source), _sample_of(source)
    if made is None:
        if is_named:
            hint = f"put files of your own into {folder}, or add scripts/samples/{source}.py"
            raise ConfigurationError(f"{source} has no sample data", hint)
        console.print(f"sample {source}: there is none", highlight=False)
        return
    try:
        counts = made.write(folder, rows=rows, seed=seed)
    except ValueError as error:  # how few rows there can be depends on the source
        raise ConfigurationError(f"sample {source}: {error}") from None
    said = f"sample {source}: {counts.lines:,} lines in {len(counts.files)} files, {folder}"
    console.print(said, highlight=False, markup=False)


def _sample_of(source: str) -> Any:
    """The module that writes a source's sample, if it has one."""
    import importlib.util

    name = f"scripts.samples.{source}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def _landing_folder(settings: Settings, source: str) -> Path:
    from jobs.engine.places import local_path

    root = local_path(settings.landing)
    if root is None:
        raise ConfigurationError(f"sample data can only be written to a local landing folder, not {settings.landing}")
    return root / source


if __name__ == "__main__":
    main()
