"""Nothing that was acknowledged is lost: not when the service is killed, not when the disk is full."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from api.config import ServiceConfig
from api.errors import CannotStartError
from api.server import serve
from tests.api.service import Service
from tests.lab import Lab, with_gold

KILLS = 3


def entries_with_returning_ids(count: int) -> list[str]:
    """Each another moment of one of a few members."""
    chance = random.Random(7)
    return [
        f'{{id="{chance.randrange(count // 5):016x}"|created_at="2023-06-{number % 30 + 1:02}"|moment={number}}}'
        for number in range(count)
    ]


def emit(client: httpx.Client, entry: str) -> int:
    """Sends an entry until it is acknowledged, as a careful sender does; returns how often it was sent."""
    give_up_at = time.monotonic() + 120
    for attempt in range(1, 10_000):
        assert time.monotonic() < give_up_at
        try:
            if client.post("/member", content=entry).status_code == 202:
                return attempt
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError("not bounded by time")


def test_every_acknowledged_entry_is_in_gold_once_though_the_service_is_killed_again_and_again(
    tmp_path: Path, lab: Lab
) -> None:
    entries = entries_with_returning_ids(1_000)
    with (
        Service(tmp_path, "--roll-seconds", "0.5") as service,
        httpx.Client(base_url=service.url, trust_env=False, timeout=20) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        sent = [pool.submit(emit, client, entry) for entry in entries]
        for kill in range(1, KILLS + 1):
            give_up_at = time.monotonic() + 60
            while sum(one.done() for one in sent) < kill * len(entries) // (KILLS + 1):
                assert time.monotonic() < give_up_at
                time.sleep(0.005)
            service.kill()
            service.start()
        attempts = sum(one.result(timeout=120) for one in sent)
        assert service.stop() == 0
        landed = service.landed()
        assert service.hidden_files() == []
        assert len(service.landed_files()) < len(entries) / 4
    assert attempts > 1_000, "no request met a dead service: the test shows nothing"
    assert set(landed) == set(entries)
    # More often than once: written, but killed before the answer, and so sent again.
    assert landed.total() <= attempts

    lab.run(with_gold("members", "member"))
    members = {entry.split('"')[1] for entry in entries}
    assert {member for (member,) in lab.query("SELECT id FROM gold.member")} == members
    sums = "sum(rows_read), sum(rows_written), sum(rows_quarantined), sum(rows_deduplicated), sum(rows_superseded)"
    assert lab.query(f"SELECT {sums} FROM ops.row_accounts WHERE layer = 'silver'") == [
        (landed.total(), len(entries), 0, landed.total() - len(entries), 0)
    ]


def test_two_services_on_one_folder_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    landing = {"ASSAY_LANDING": str(tmp_path / "landing")}
    with (
        Service(tmp_path, "--roll-seconds", "600") as one,
        Service(tmp_path / "other", "--roll-seconds", "600", **landing) as other,
    ):
        for number in range(10):
            assert one.post(f"{{one={number}}}").status_code == 202
            assert other.post(f"{{other={number}}}").status_code == 202
        one.kill()
        one.start()
        assert one.landed() == Counter(f"{{one={number}}}" for number in range(10))
        assert len(one.hidden_files()) == 1
        assert other.post("{other=10}").status_code == 202
        assert other.stop() == 0
        assert one.landed() == Counter(f"{{{who}={n}}}" for who, c in (("one", 10), ("other", 11)) for n in range(c))


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGTERM], [signal.SIGINT] * 3, [signal.SIGHUP]],
    ids=["SIGTERM", "SIGINT, impatiently", "SIGHUP"],
)
def test_a_stop_answers_what_waits_and_makes_it_visible(tmp_path: Path, signals: list[signal.Signals]) -> None:
    with Service(tmp_path, "--roll-seconds", "600") as service, ThreadPoolExecutor(16) as pool:
        entries = [f"{{number={number}}}" for number in range(400)]
        sent = [pool.submit(service.post, entry) for entry in entries]
        while not sent[100].done():
            time.sleep(0.001)
        assert service.stop(*signals) == 0
        acknowledged = set()
        for entry, answer in zip(entries, sent, strict=True):
            if answer.exception() is None and answer.result().status_code == 202:
                acknowledged.add(entry)
        assert service.hidden_files() == []
        assert len(acknowledged) >= 50
        assert acknowledged <= set(service.landed())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    (place / "landing").mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "assay-test", str(place / "landing")]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only an administrator can make a file system")
    yield place
    subprocess.run(["umount", str(place / "landing")], check=True)


def fill(service: Service, status: int) -> list[str]:
    """Posts until that status is answered; returns what was acknowledged before."""
    acknowledged = []
    for number in range(200):
        entry = f"{{number={number}|text={'x' * 7_000}}}"
        answer = service.post(entry)
        if answer.status_code == status:
            assert answer.json()["error"] == "there is no room left for entries"
            assert answer.headers["retry-after"]
            return acknowledged
        assert answer.status_code == 202
        acknowledged.append(entry)
    raise AssertionError("the disk was never full")


def test_a_full_disk_answers_507_and_loses_nothing_and_takes_entries_again_once_there_is_room(
    small_disk: Path,
) -> None:
    ballast = small_disk / "landing" / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(b"x" * 300_000)
    with Service(small_disk, "--roll-seconds", "600") as service:
        assert service.post("{before=1}").status_code == 507
        assert service.get("/health").status_code == 200
        os.truncate(ballast, 100_000)
        acknowledged = fill(service, 507)
        assert service.post("{a=" + "y" * 60_000 + "}").status_code == 507
        ballast.unlink()
        assert service.post("{after=1}").status_code == 202
        assert service.stop() == 0
        assert len(acknowledged) > 10
        assert service.landed() == Counter([*acknowledged, "{after=1}"])
        events = [line["event"] for line in service.log() if "event" in line]
        assert events.count("entries cannot be written") == 2
        assert events.count("entries are written again") == 2


def test_a_landing_folder_that_is_read_only_is_found_out_at_the_start(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk / "landing")], check=True)
    config = ServiceConfig(small_disk / "landing", lambda: "", port=0)
    with pytest.raises(CannotStartError, match="may not write to the landing folder"):
        serve(config, print)


def test_a_limit_on_the_size_of_files_counts_as_full(tmp_path: Path) -> None:
    with Service(tmp_path, "--roll-seconds", "600", file_limit="100") as service:
        acknowledged = fill(service, 507)
        assert service.stop() == 0
        assert len(acknowledged) > 10
        assert service.landed() == Counter(acknowledged)


def test_a_folder_that_cannot_be_written_answers_503(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.folder.rmdir()
        service.folder.write_text("a file is in the folder's place")
        answer = service.post("{a=1}")
        assert (answer.status_code, answer.json()["error"]) == (503, "the entries cannot be written now")
        service.folder.unlink()
        assert service.post("{a=2}").status_code == 202
        assert service.stop() == 0
        assert service.landed() == Counter(["{a=2}"])
