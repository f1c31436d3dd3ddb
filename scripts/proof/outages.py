"""Takes away what a run stands on, and compares the outcome of the next one with an undisturbed run.

    .venv/bin/python -m scripts.proof.outages             at every step: about half an hour
    .venv/bin/python -m scripts.proof.outages --every 4   at each fourth

Postgres is killed (-9) at each step of a publish, the disk of the lakehouse is full at many points of a run, and a
reader polls while ten releases are made. Ends with 1, and says what was wrong, if anything was.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from jobs.engine import embedded
from jobs.engine.errors import AssayError
from jobs.engine.faults import explained
from scripts.proof.crash import Bench, Outcome, finish, shown
from scripts.proof.polls import Polls, polling
from scripts.proof.steps import watched
from scripts.proof.world import SOURCES, World, entry, ground, land, person, with_header

KB = 1 << 10


def stop_postgres_at(bench: Bench, server: Path, step: str) -> Outcome:
    """Kills the embedded Postgres of the folder `server` at a step of a run; starts it again, and runs again."""
    with bench.world() as world:
        stopped: list[str] = []

        def passing(passed: str) -> None:
            if passed == step and not stopped:
                stopped.append(passed)
                os.kill(int((server / "data/postmaster.pid").read_text().split()[0]), signal.SIGKILL)

        with watched(str(world.lakehouse), passing):
            said = _failure(world)
        embedded.start(server)
        wrong = [] if said and "stopped or failed while it was used" in said else [f"the run said: {said}"]
        if world.published() not in (bench.before, {name: bench.expected[name] for name in bench.before}):
            wrong.append("half a release is published")
        return bench.finished(world, f"Postgres, {step}", len(stopped), wrong)


def fill_disk(bench: Bench, room: int) -> Outcome:
    """Leaves a run `room` bytes on the disk of its lakehouse; then makes room, and runs again."""
    with _small_disk(bench.folder / "disk") as disk, bench.world(disk / "world") as world:
        status = os.statvfs(disk)
        filler = disk / "filler"
        filler.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - room)))
        said = _failure(world)
        filler.unlink()
        wrong = [] if said is None or "no space is left" in said else [said]
        return bench.finished(world, f"disk full after {room // KB} KiB", int(said is not None), wrong)


def poll_while_releasing(bench: Bench, releases: int) -> Polls:
    """Makes releases, each with other rows in the tables of two sources, while a reader polls."""
    with bench.world() as world:
        finish(world)
        with polling(world.database) as polls:
            for number in range(releases):
                at = 1_700_001_000 + number
                land(world.landing, f"members/more-{number}.log", entry(f"{number:016x}", 20 + number), at)
                land(world.landing, f"signups/more-{number}.csv", with_header(person(100 + number, "Eve")), at)
                finish(world)
        return polls


def may_mount() -> bool:
    """Whether a small disk can be made here: that takes an administrator."""
    return sys.platform == "linux" and os.geteuid() == 0


def _failure(world: World) -> str | None:
    """How a run fails, in the words that a user sees; None if it does not."""
    try:
        finish(world)
    except AssayError as error:
        return str(error)
    except (Py4JJavaError, PySparkException, OSError) as error:
        return str(explained(error) or f"not explained: {error}")
    return None


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "assay-proof", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def outcomes(bench: Bench, server: Path, every: int) -> Iterator[Outcome]:
    passed: list[str] = []
    with bench.world() as world, watched(str(world.lakehouse), passed.append):
        finish(world)
    steps = [step for step in dict.fromkeys(passed) if "staging" in step or "transaction" in step]
    for step in steps[::every]:
        yield stop_postgres_at(bench, server, step)
    if not may_mount():
        print("a full disk is left out: only an administrator can mount a small one", flush=True)
        return
    for room in [0, 4, 8, 16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512, 640, 768][::every]:
        yield fill_disk(bench, room * KB)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="at every so many steps and sizes (1)")
    parser.add_argument("--source", nargs="+", default=SOURCES, help=f"of {', '.join(SOURCES)} (both)")
    parser.add_argument("--releases", type=int, default=10, help="made while a reader polls (10)")
    given = parser.parse_args()
    with ground() as (folder, spark, database):
        bench = Bench(folder, spark, World(folder / "base", database, tuple(given.source)))
        said, is_equal = shown(outcomes(bench, folder / "postgres", given.every))
        polls = poll_while_releasing(bench, given.releases)
    print(said)
    print(f"{polls.count:,} polls saw {len(polls.content)} releases, {len(polls.wrong)} contradictions")
    for line in polls.wrong[:10]:
        print(f"        {line}")
    sys.exit(0 if is_equal and not polls.wrong else 1)


if __name__ == "__main__":
    main()
