"""Options that several commands have, how they keep others off, and where they print."""

import json
from contextlib import AbstractContextManager
from math import isnan
from typing import Annotated, Protocol

import typer
from rich.console import Console

from jobs.engine.settings import Settings

LARGEST_NUMBER = 2**63 - 1  # that Postgres and Delta can count to

SourceOption = Annotated[
    list[str] | None,
    typer.Option("--source", "-s", help="Only this source; may be repeated. Example: --source contacts"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines. Example: --json | jq")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show Spark's warnings and stack traces. Example: -v")
]


def a_number(value: float) -> float:
    """The value, unless it is `nan`, which is no smaller and no larger than any limit."""
    if isnan(value):
        raise typer.BadParameter("nan is no number of seconds")
    return value


WaitOption = Annotated[
    float,
    typer.Option(
        "--wait",
        min=0,
        callback=a_number,
        help="Wait so many seconds for another run to end, instead of giving up. Example: --wait 600",
    ),
]


def alone(settings: Settings, what: str, wait: float) -> AbstractContextManager[None]:
    """Keeps other runs off the lakehouse meanwhile; taken before Spark starts, which a second run need not do."""
    from jobs.engine.destination import check_lock, database
    from jobs.engine.lock import exclusive

    check_lock(settings)
    return exclusive(settings.lakehouse, what, wait, database=lambda: database(settings))


class _Result(Protocol):
    def as_json(self) -> dict[str, object]: ...

    def as_text(self) -> str: ...


def show(result: _Result, *, as_json: bool) -> None:
    """Prints what a command found: for people, or for machines."""
    print(json.dumps(result.as_json(), indent=2) if as_json else result.as_text())


def new_console(*, to_stderr: bool = False) -> Console:
    """Where a command shows what it does. Names of files are shown as they are: `:warning:` is no picture in them."""
    return Console(stderr=to_stderr, soft_wrap=True, emoji=False)
