"""The command line as a user meets it: help, exit codes, and errors that say what to do."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Never

import pytest
import typer
from rich.console import Console

from jobs import cli
from jobs.commands.options import new_console
from jobs.engine import context
from jobs.engine.errors import AssayError
from jobs.engine.lock import exclusive
from jobs.engine.settings import Settings
from jobs.engine.sources import Source, load_sources

PROJECT = Path(__file__).resolve().parents[2]
ASSAY = Path(sys.executable).with_name("assay")


def assay(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ASSAY_", "POSTGRES_"))}
    return subprocess.run(
        [ASSAY, *arguments], env=environment | variables, capture_output=True, text=True, timeout=120, cwd="/"
    )


def test_help_explains_every_option_with_an_example() -> None:
    shown = assay("run", "--help")
    assert (shown.returncode, "--until" in shown.stdout) == (0, True)

    def explained(command: Any, *names: str) -> Iterator[tuple[str, str | None]]:
        for name, further in getattr(command, "commands", {}).items():
            yield from explained(further, *names, name)
        if not hasattr(command, "commands"):
            yield " ".join(names), command.help
            yield from ((f"{' '.join(names)} {option.opts[0]}", option.help) for option in command.params)

    found = dict(explained(typer.main.get_command(cli.app)))
    assert len(found) > 50
    assert [name for name, said in found.items() if "Example: " not in (said or "")] == []


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        (
            ["run", "--source", "weather"],
            {},
            "no source is called 'weather'\n       sources: contacts, credits, interactions, members, signups",
        ),
        (["run", "--until", "platinum"], {}, "--until"),
        (["nonsense"], {}, "nonsense"),
        (["rollback", "--to", str(2**63)], {}, "'--to': Input should be less than or equal to 9223372036854775807"),
        (["run"], {"ASSAY_LANDIGN": "x"}, "environment variable ASSAY_LANDIGN: no such setting"),
        (
            ["run"],
            {"ASSAY_LANDING": "~/raw"},
            "environment variable ASSAY_LANDING: expected a path or URI",
        ),
        (
            ["run"],
            {"ASSAY_SPARK": "{bad"},
            "environment variable ASSAY_SPARK: expected a JSON object: Expecting property",
        ),
        (["run", "--take-over", "--until", "gold"], {}, "--take-over is for all sources, raw to Postgres"),
        (
            ["run", "--source", "contacts", "--from", "2026-11-10", "--to", "2026-11-01"],
            {},
            "--from 2026-11-10 is after --to 2026-11-01",
        ),
        (["run", "--source", "contacts", "--from", "9999-01-01"], {}, "--from 9999-01-01 is after today"),
        (["run"], {"POSTGRES_PORT": "many"}, "environment variable POSTGRES_PORT: Input should be a valid integer"),
        (["db", "url"], {"POSTGRES_HOST": "db.example"}, "POSTGRES_HOST is set"),
        (["run"], {"POSTGRES_HOST": "/run/postgresql"}, "POSTGRES_HOST: Spark publishes over TCP, and /run/postgresql"),
        (["sample"], {"ASSAY_LANDING": "s3a://bucket/raw"}, "local landing folder"),
        (["run", "--until", "gold"], {"ASSAY_LAKEHOUSE": "s3a://bucket/lake"}, "is locked through Postgres"),
        (["plan"], {"ASSAY_LOGS": "/proc/none/logs"}, "cannot be written: No such file or directory (/proc/none)"),
        (["sample", "--rows", "150"], {}, "'--rows': Input should be greater than or equal to 200"),
        (["sample", "--rows", "2000000"], {}, "--rows 2000000: credits has 1,000,000 sample rows at most"),
    ],
)
def test_wrong_usage_or_configuration_ends_with_2_and_says_what(
    arguments: list[str], variables: dict[str, str], says: str
) -> None:
    ended = assay(*arguments, **variables)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_host_without_its_password_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    ended = assay("run", POSTGRES_HOST="127.0.0.1", ASSAY_LAKEHOUSE=str(tmp_path / "lake"))
    assert (ended.returncode, (tmp_path / "lake").exists()) == (2, False)
    assert "POSTGRES_HOST is set and POSTGRES_PASSWORD is not" in ended.stderr


def test_sample_writes_what_it_says_and_the_same_again(tmp_path: Path) -> None:
    for folder in ("one", "two [/b]"):
        made = assay("sample", "--source", "contacts", "--rows", "200", ASSAY_LANDING=str(tmp_path / folder))
        assert made.returncode == 0
        assert "sample contacts: 200 lines in 15 files" in made.stdout
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 15
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two [/b]" / file).read_bytes() for file in files)


def test_sample_rows_join_no_real_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signups, console = load_sources(["signups"])[0], Console(quiet=True)
    here = Settings(landing=str(tmp_path / "landing"), lakehouse=str(tmp_path / "lakehouse"))
    made = list[str]()
    monkeypatch.setattr(cli, "_write_sample", lambda _, source, *__, **___: made.append(source))

    def sample_if_empty(**places: str) -> list[str]:
        made.clear()
        cli._sample_if_empty(here.model_copy(update=places), signups, console, is_named=False)
        return made

    assert sample_if_empty() == ["signups"]
    # What is elsewhere is not looked at, and may hold rows.
    assert sample_if_empty(landing="s3a://bucket/landing") == sample_if_empty(lakehouse="s3a://bucket/lake") == []
    with monkeypatch.context() as patch:
        patch.setenv("CSV_FILE", "/real/signups.csv")
        assert sample_if_empty() == []
    (tmp_path / "landing/signups").mkdir(parents=True)
    assert sample_if_empty() == ["signups"]
    (tmp_path / "landing/signups/real.csv").touch()
    assert sample_if_empty() == []
    (tmp_path / "landing/signups/real.csv").unlink()
    (tmp_path / "landing/signups/.unfinished").touch()
    assert sample_if_empty() == ["signups"]
    (tmp_path / "landing/signups/.received-1.part").touch()
    assert sample_if_empty() == []
    (tmp_path / "landing/signups/.received-1.part").unlink()
    (tmp_path / "lakehouse/bronze/signups").mkdir(parents=True)
    assert sample_if_empty() == []


@pytest.mark.parametrize(
    ("java", "says"),
    [(None, "found none"), ("echo 'openjdk version \"11.0.2\"' >&2", "found Java 11")],
    ids=["no Java", "an old Java"],
)
def test_without_java_17_set_up_says_how_to_install_it(tmp_path: Path, java: str | None, says: str) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("bash", "sed", "head", "dirname", "cat", "rm"):
        (commands / name).symlink_to(shutil.which(name) or "")
    (commands / "python3").symlink_to(sys.executable)
    if java:
        (commands / "java").write_text(f"#!/bin/sh\n{java}\n")
        (commands / "java").chmod(0o755)
    shutil.copytree(PROJECT / "scripts", tmp_path / "scripts")
    ended = subprocess.run(
        [commands / "bash", tmp_path / "scripts/setup.sh"],
        env={"PATH": str(commands), "UV": "uv", "UV_VERSION": "0"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 2
    assert says in ended.stderr
    assert all(word in ended.stderr for word in ("Java 17", "apt install", "dnf install", "brew install"))
    assert len(ended.stderr.strip().splitlines()) == 1


def test_an_error_that_nobody_expected_claims_nothing_of_the_release(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "load_settings", lambda: {}["a value of a row"])
    monkeypatch.setattr(sys, "argv", ["assay"])
    with pytest.raises(SystemExit, match="1"):
        cli.main(["run"])
    said = capsys.readouterr().err
    assert said.startswith("error: KeyError: this is a fault of Assay or of its surroundings\n")
    assert ("there whole or not at all (assay releases)" in said, "a value" in said) == (True, False)


def test_a_name_of_a_file_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    new_console().print("credits/q4:warning:.csv: its name has a colon: rename it", markup=False)
    assert capsys.readouterr().out == "credits/q4:warning:.csv: its name has a colon: rename it\n"


def test_a_rollback_where_nothing_was_published_makes_nothing(tmp_path: Path) -> None:
    places = {"ASSAY_LAKEHOUSE": str(tmp_path / "lake"), "ASSAY_DATABASE": str(tmp_path / "postgres")}
    ended = assay("rollback", "--to", "3", "--dry-run", **places)
    assert ended.returncode == 1
    assert "there is no release 3: nothing has been published here" in ended.stderr
    assert not any(tmp_path.iterdir())


def test_verbose_shows_the_stack_trace_and_keeps_the_exit_code() -> None:
    ended = assay("run", "--verbose", "--source", "weather")
    assert ended.returncode == 2
    assert ended.stderr.startswith("Traceback")
    assert "no source is called 'weather'" in ended.stderr


def test_the_job_of_a_layer_waits_for_another_run_as_long_as_it_is_told(tmp_path: Path) -> None:
    def no_database() -> Never:
        raise AssertionError("a local lakehouse needs no database to be locked")

    environment = os.environ | {"ASSAY_LAKEHOUSE": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    with exclusive(str(tmp_path), "assay run", database=no_database):
        command = [sys.executable, "jobs/bronze.py", "--wait", "0.1"]
        ended = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "wait for it, or: jobs/bronze.py --wait 600\n" in ended.stderr


@pytest.mark.parametrize("command", [partial(cli.main, ["run"]), partial(cli.run_layer, "silver")])
@pytest.mark.parametrize(("arguments", "times"), [([], 1), (["--wait", "5"], 2)])
def test_who_waits_for_another_run_works_by_what_is_declared_then(
    command: Callable[[], Never], arguments: list[str], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = list[list[str] | None]()

    def load(names: list[str] | None) -> list[Source]:
        loaded.append(names)
        return []

    def stop(*_: object, **__: object) -> None:
        raise AssayError("started")

    monkeypatch.setattr(cli, "load_sources", load)
    monkeypatch.setattr(cli, "alone", lambda *_: nullcontext())
    monkeypatch.setattr(context, "start_run", stop)
    monkeypatch.setattr(sys, "argv", ["", *arguments])
    with pytest.raises(SystemExit, match="1"):
        command()
    assert len(loaded) == times


def test_a_second_set_up_waits_for_the_first_and_does_not_do_it_again(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "scripts", tmp_path / "scripts")
    for name in ("requirements.lock", "pyproject.toml", "conf/jars.xml", "conf/jars-settings.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with (tmp_path / ".setup.lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = subprocess.Popen(
            ["bash", tmp_path / "scripts/setup.sh"],
            env={**os.environ, "PYTHON": sys.executable, "UV": "/none/uv", "UV_VERSION": "0"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(timeout=1.5)
        for folder in (".jars", ".venv"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / ".ready").touch()
    assert (second.communicate(timeout=60)[0], second.returncode) == ("setup: waiting for another one\n", 0)
