"""Files of received lines: hidden while written, recovered after a crash, never taken from a living process."""

import errno
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from api import parts
from api.parts import Part, left_behind, recover


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def crashed(folder: Path, content: bytes) -> Path:
    """A file as a process that died left it: its lock is gone."""
    path = folder / ".received-20261121T081203.000001Z-0123abcd.part"
    path.write_bytes(content)
    return path


def test_a_file_is_hidden_until_it_is_sealed_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    part = Part.create(tmp_path / "members")
    part.append(b"{a=1}\n")
    part.append(b"{a=2}\n{a=3}\n")
    assert all(name.startswith(".") for name in names(tmp_path / "members"))
    part.seal()
    (name,) = names(tmp_path / "members")
    assert re.fullmatch(r"received-\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\.log", name)
    file = tmp_path / "members" / name
    assert file.read_bytes() == b"{a=1}\n{a=2}\n{a=3}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_names_sort_as_the_files_began(tmp_path: Path) -> None:
    for number in range(20):
        part = Part.create(tmp_path)
        part.append(b"{a=%d}\n" % number)
        part.seal()
    assert [(tmp_path / name).read_bytes() for name in names(tmp_path)] == [b"{a=%d}\n" % n for n in range(20)]


def test_an_empty_file_is_removed_instead_of_sealed(tmp_path: Path) -> None:
    Part.create(tmp_path).seal()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("left", "recovered"),
    [
        (b"{a=1}\n{a=2}\n", b"{a=1}\n{a=2}\n"),
        (b"{a=1}\n{a=", b"{a=1}\n"),
        (b"{a=1}\n{a=2}", b"{a=1}\n"),
        (b"{a=1}\n" + b"\x00" * 5000, b"{a=1}\n"),
        (b"{a=1}\n" + b"x" * 300_000, b"{a=1}\n"),
        (b"x" * 300_000 + b"\n" + b"y" * 65_535, b"x" * 300_000 + b"\n"),
        (b"{a=", None),
        (b"", None),
    ],
)
def test_of_what_a_crash_left_whole_lines_are_kept_and_a_torn_one_is_cut_off(
    tmp_path: Path, left: bytes, recovered: bytes | None
) -> None:
    crashed(tmp_path, left)
    assert recover(tmp_path) == (recovered is not None)
    found = [(name, (tmp_path / name).read_bytes()) for name in names(tmp_path)]
    assert found == ([("received-20261121T081203.000001Z-0123abcd.log", recovered)] if recovered else [])
    assert recover(tmp_path) == 0


def test_a_recovered_file_keeps_its_time_as_the_job_orders_by_it(tmp_path: Path) -> None:
    os.utime(crashed(tmp_path, b"{a=1}\n{a"), (1_000_000_000, 1_000_000_000))
    recover(tmp_path)
    assert (tmp_path / names(tmp_path)[0]).stat().st_mtime == 1_000_000_000


def test_the_file_of_a_living_process_is_left_alone_and_that_of_a_killed_one_is_not(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from api.parts import Part\n"
        "part = Part.create(Path(sys.argv[1])); part.append(b'{a=1}\\n'); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "ready\n"
        assert (recover(tmp_path), left_behind(tmp_path)) == (0, 0)
        assert names(tmp_path)[0].startswith(".received-")
        other.kill()
    assert (left_behind(tmp_path), left_behind(tmp_path / "none")) == (1, 0)
    assert (recover(tmp_path), left_behind(tmp_path)) == (1, 0)
    assert (tmp_path / names(tmp_path)[0]).read_bytes() == b"{a=1}\n"


def test_other_files_in_the_folder_are_nobodys_business(tmp_path: Path) -> None:
    for name in ("member-1.log", ".hidden", ".received-notes.txt", "received-x.log", "_SUCCESS"):
        (tmp_path / name).write_text("{a=1}\n{a")
    assert recover(tmp_path) == 0
    assert {(tmp_path / name).read_text() for name in names(tmp_path)} == {"{a=1}\n{a"}
    assert len(names(tmp_path)) == 5


def test_a_new_file_that_a_recovering_process_took_away_is_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, taken = parts._is_locked_by_us, []

    def lose_the_first(descriptor: int, path: Path) -> bool:
        if not taken:
            taken.append(path)
            recover(tmp_path)  # it is empty and not locked yet, so it is removed
        return lock(descriptor, path)

    monkeypatch.setattr(parts, "_is_locked_by_us", lose_the_first)
    part = Part.create(tmp_path)
    assert part.path != taken[0]
    part.append(b"{a=1}\n")
    part.seal()
    assert [(tmp_path / name).read_bytes() for name in names(tmp_path)] == [b"{a=1}\n"]


def test_after_a_failed_fsync_the_file_is_not_to_be_trusted_but_what_was_acknowledged_is_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Part.create(tmp_path)
    part.append(b"{a=1}\n")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    with monkeypatch.context() as broken:
        broken.setattr(parts, "_sync", fail)
        with pytest.raises(OSError, match="broken"):
            part.append(b"{a=2}\n")
    assert not part.is_sound
    part.abandon()
    assert recover(tmp_path) == 1
    assert (tmp_path / names(tmp_path)[0]).read_bytes() == b"{a=1}\n"


def test_nothing_is_acknowledged_into_a_file_that_somebody_has_removed(tmp_path: Path) -> None:
    part = Part.create(tmp_path)
    part.append(b"{a=1}\n")
    part.path.unlink()
    with pytest.raises(FileNotFoundError):
        part.append(b"{a=2}\n")
    assert not part.is_sound
