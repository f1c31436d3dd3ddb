"""Passwords that Assay makes for itself, and how clients get them."""

import os
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
    for _ in range(2):
        address = postgres.url_with_password_file(file)
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
