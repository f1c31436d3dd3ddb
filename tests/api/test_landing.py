"""Group commit: many requests, one writer, few files."""

import asyncio
import errno
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from api import landing as landing_module
from api import parts
from api.landing import Landing

Story = Callable[[Landing], Awaitable[None]]


def play(folder: Path, story: Story, roll_bytes: int = 8 << 20, roll_seconds: float = 60.0) -> None:
    """Starts a landing, lets the story happen and stops it."""

    async def all_of_it() -> None:
        landing = Landing(folder, roll_bytes, roll_seconds)
        folder.mkdir(parents=True, exist_ok=True)
        await landing.start()
        try:
            await story(landing)
        finally:
            await landing.stop()

    asyncio.run(all_of_it())


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("[!.]*"))]


async def _await(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.01)


async def append(landing: Landing, lines: bytes) -> None:
    """As a request does, but with less patience."""
    async with asyncio.timeout(5):
        await landing.append(lines)


def test_a_thousand_requests_at_once_make_one_file_with_a_few_fsyncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, syncs = parts._sync, []
    monkeypatch.setattr(parts, "_sync", lambda descriptor: (syncs.append(descriptor), sync(descriptor)))

    async def story(landing: Landing) -> None:
        await asyncio.gather(*[landing.append(b"{a=%d}\n" % number) for number in range(1000)])

    play(tmp_path, story)
    (content,) = contents(tmp_path)
    assert content == b"".join(b"{a=%d}\n" % number for number in range(1000))
    assert len(syncs) < 10


def test_what_is_acknowledged_is_on_disk_already(tmp_path: Path) -> None:
    async def story(landing: Landing) -> None:
        for number in range(5):
            await landing.append(b"{a=%d}\n" % number)
            (hidden,) = tmp_path.glob(".received-*.part")
            assert hidden.read_bytes().endswith(b"{a=%d}\n" % number)

    play(tmp_path, story)


def test_a_file_is_sealed_when_it_is_large_enough(tmp_path: Path) -> None:
    async def story(landing: Landing) -> None:
        for _ in range(10):
            await landing.append(b"{a=%s}\n" % (b"x" * 400))

    play(tmp_path, story, roll_bytes=1000)
    assert [len(content) for content in contents(tmp_path)] == [1215, 1215, 1215, 405]


def test_a_file_is_sealed_some_time_after_its_first_entry_also_if_more_keep_coming(tmp_path: Path) -> None:
    async def story(landing: Landing) -> None:
        began = time.monotonic()
        while not contents(tmp_path):
            await landing.append(b"{a=1}\n")
            await asyncio.sleep(0.01)
            assert time.monotonic() < began + 10
        assert time.monotonic() > began + 0.3

    play(tmp_path, story, roll_seconds=0.3)


def test_a_file_is_sealed_in_time_when_nothing_more_comes(tmp_path: Path) -> None:
    async def story(landing: Landing) -> None:
        await landing.append(b"{a=1}\n")
        assert contents(tmp_path) == []
        await _await(lambda: contents(tmp_path) == [b"{a=1}\n"])

    play(tmp_path, story, roll_seconds=0.2)


def test_stopping_writes_what_waits_and_takes_nothing_more(tmp_path: Path) -> None:
    async def story(landing: Landing) -> None:
        waiting = [asyncio.create_task(landing.append(b"{a=%d}\n" % number)) for number in range(50)]
        await asyncio.sleep(0)
        await landing.stop()
        await asyncio.gather(*waiting)
        with pytest.raises(OSError, match="stopping"):
            await landing.append(b"{late=1}\n")

    play(tmp_path, story)
    assert contents(tmp_path) == [b"".join(b"{a=%d}\n" % number for number in range(50))]
    assert list(tmp_path.glob(".*")) == []


def test_what_another_process_left_is_sealed_at_the_start_and_from_time_to_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing_module, "RECOVER_EVERY", 0.05)
    (tmp_path / ".received-1.part").write_bytes(b"{a=1}\n{a")

    async def story(landing: Landing) -> None:
        assert contents(tmp_path) == [b"{a=1}\n"]
        (tmp_path / ".received-2.part").write_bytes(b"{a=2}\n{a")
        await _await(lambda: contents(tmp_path) == [b"{a=1}\n", b"{a=2}\n"])

    play(tmp_path, story)


def test_when_the_disk_fails_the_request_is_told_and_the_next_one_gets_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    async def story(landing: Landing) -> None:
        await landing.append(b"{a=1}\n")
        with monkeypatch.context() as broken:
            broken.setattr(parts, "_sync", fail)
            for _ in range(3):
                with pytest.raises(OSError, match="broken"):
                    await landing.append(b"{a=2}\n")
        await landing.append(b"{a=3}\n")

    play(tmp_path, story)
    assert contents(tmp_path) == [b"{a=1}\n", b"{a=3}\n"]  # the stop brings forth what had to be abandoned, too
    said = capsys.readouterr().err
    assert said.count("entries cannot be written") == 1
    assert said.count("entries are written again") == 1
    assert '"error": "EIO"' in said


def test_a_file_that_can_be_neither_synced_nor_closed_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = os.close

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    def close_and_fail(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EIO, "the disk is broken")

    async def story(landing: Landing) -> None:
        await append(landing, b"{a=1}\n")
        with monkeypatch.context() as broken:
            broken.setattr(parts, "_sync", fail)
            broken.setattr(os, "close", close_and_fail)
            with pytest.raises(OSError, match="broken"):
                await append(landing, b"{a=2}\n")
        await append(landing, b"{a=3}\n")

    play(tmp_path, story)
    play(tmp_path, lambda _: asyncio.sleep(0))
    assert contents(tmp_path) == [b"{a=1}\n", b"{a=3}\n"]


@pytest.mark.parametrize(
    ("broken_step", "is_first"),
    [("_write", True), ("_write", False), ("_sync", True), ("_sync", False), ("_sync_folder", True)],
)
def test_whatever_goes_wrong_the_requests_are_told_nothing_of_theirs_lands_and_the_next_are_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken_step: str,
    is_first: bool,
) -> None:
    def fail(descriptor: int, lines: bytes = b"") -> None:
        if broken_step == "_write":
            os.write(descriptor, lines[:9])
        raise MemoryError

    async def story(landing: Landing) -> None:
        if not is_first:
            await append(landing, b"{a=1}\n")
        with monkeypatch.context() as broken:
            broken.setattr(parts, broken_step, fail)
            requests = [append(landing, b"{a=2}\n"), append(landing, b"{a=3}\n")]
            answers = await asyncio.gather(*requests, return_exceptions=True)
        assert [type(answer) for answer in answers] == [OSError] * 2
        await append(landing, b"{a=4}\n")

    play(tmp_path, story)
    play(tmp_path, lambda _: asyncio.sleep(0))
    assert b"".join(contents(tmp_path)) == (b"{a=4}\n" if is_first else b"{a=1}\n{a=4}\n")
    assert list(tmp_path.glob(".*")) == []
    assert '"error": "MemoryError at ' in capsys.readouterr().err


def test_a_file_that_cannot_be_sealed_for_whatever_reason_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path) -> Path:
        raise MemoryError

    async def story(landing: Landing) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(parts, "_visible", fail)
            await append(landing, b"{a=1}\n")
            await _await(lambda: "file not sealed" in capsys.readouterr().err)
        await append(landing, b"{a=2}\n")

    play(tmp_path, story, roll_bytes=1)
    play(tmp_path, lambda _: asyncio.sleep(0))
    assert contents(tmp_path) == [b"{a=1}\n", b"{a=2}\n"]


def test_a_folder_that_is_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "members"

    async def story(landing: Landing) -> None:
        await landing.append(b"{a=1}\n")
        shutil.rmtree(folder)
        with pytest.raises(FileNotFoundError):
            await landing.append(b"{a=2}\n")
        await landing.append(b"{a=3}\n")

    play(folder, story)
    assert contents(folder) == [b"{a=3}\n"]
