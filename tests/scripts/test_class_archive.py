"""The archive of Java's classes: made by `make setup`, and missed by nobody where it cannot be made."""

import os
from pathlib import Path

import pytest

from jobs.engine.errors import ConfigurationError
from scripts import class_archive


def test_where_none_can_be_made_that_is_said_and_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(class_archive, "ARCHIVE", tmp_path / "classes.jsa")
    monkeypatch.setattr(class_archive, "start_session", lambda **_: 1 / 0)
    (tmp_path / "classes.jsa").write_bytes(b"of an earlier Java")
    class_archive.main()
    said = "setup: Java's classes could not be kept (ZeroDivisionError): runs work as well, and start slower\n"
    assert capsys.readouterr().out == said
    assert list(tmp_path.iterdir()) == []


def test_one_that_another_set_up_has_made_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "classes.jsa"
    monkeypatch.setattr(class_archive, "ARCHIVE", archive)
    monkeypatch.setattr(class_archive, "start_session", lambda **_: 1 / 0)
    for is_made_meanwhile in (True, False):
        archive.touch()
        os.utime(archive, (1, 1))
        with pytest.MonkeyPatch.context() as patch:
            if is_made_meanwhile:
                patch.setattr(class_archive.fcntl, "flock", lambda *_: os.utime(archive, (2, 2)))
            class_archive.main()
        assert (archive.exists(), capsys.readouterr().out == "") == (is_made_meanwhile, is_made_meanwhile)


def test_what_no_run_would_work_without_ends_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_jars(**_: object) -> None:
        raise ConfigurationError("no jars", "call make setup")

    monkeypatch.setattr(class_archive, "ARCHIVE", tmp_path / "classes.jsa")
    monkeypatch.setattr(class_archive, "start_session", without_jars)
    with pytest.raises(SystemExit, match="error: no jars\n       call make setup"):
        class_archive.main()
