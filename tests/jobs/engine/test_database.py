"""Passwords that Assay makes for itself, and how clients get them."""

import os
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from jobs.engine.database import Database, kept_password


def test_a_password_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "password"
    made = kept_password(file)
    assert (len(made) >= 24, kept_password(file), file.stat().st_mode & 0o777) == (True, made, 0o600)
    assert list(tmp_path.iterdir()) == [file]


def test_of_a_password_that_could_not_be_written_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.touch()  # as an earlier Assay left it on a full disk

    def refuse(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="No space left"):
            kept_password(file)
    assert list(tmp_path.iterdir()) == []
    assert len(kept_password(file)) >= 24


def test_a_connection_string_without_the_password_is_enough(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a b&c.pgpass"
    for is_there in (False, True):
        if is_there:  # another psql may be reading it
            os.utime(file, (1, 1))
        address = postgres.url_with_password_file(file)
        assert (file.stat().st_mtime == 1) == is_there
        assert postgres.password not in address
        assert file.stat().st_mode & 0o777 == 0o600
    # What the shell says is of other servers.
    for name, value in {
        "PGPASSWORD": "other",
        "PGSSLMODE": "require",
        "PGHOSTADDR": "127.0.0.9",
        "PGGSSENCMODE": "require",
    }.items():
        monkeypatch.setenv(name, value)
    with psycopg.connect(address) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (postgres.user,)


def test_texts_are_texts_whatever_the_database_says_of_them(postgres: Database) -> None:
    """In one made under LANG=C, psycopg would take them for bytes."""
    name = "of_no_encoding"
    with psycopg.connect(postgres.conninfo(), autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'"
        )
        try:
            with psycopg.connect(replace(postgres, name=name).conninfo()) as plain:
                assert plain.execute("SELECT 'é'::text, relkind FROM pg_class LIMIT 1").fetchone() == ("é", "r")
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
