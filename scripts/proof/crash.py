"""Kills commands at each of their steps and at random moments, does them again, and compares the outcomes.

Runs, rollbacks, backfills, replays, and runs after settings were changed.

    .venv/bin/python -m scripts.proof.crash              every step once, and 10 random moments: over an hour
    .venv/bin/python -m scripts.proof.crash --every 10   each tenth step
    .venv/bin/python -m scripts.proof.crash --chain 4    four kills, one after the other, before a run may end
    .venv/bin/python -m scripts.proof.crash --source contacts --as-if-large    tables that are added to

Ends with 1, and says what differs, if one outcome is not that of the undisturbed run.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pyspark.sql import SparkSession
from rich.console import Console

from jobs import releases
from jobs.engine.context import Run, start_run
from jobs.engine.session import PROJECT
from jobs.engine.sources import Source, load_sources
from jobs.layers.run import run_sources
from jobs.releases import Rollback
from jobs.replay import ask_backfill, ask_replay
from scripts.proof.world import (
    SOURCES,
    World,
    as_if_large,
    differences,
    first_delivery,
    ground,
    new_database,
    second_delivery,
    set_otherwise,
    strict,
    third_delivery,
)

_TIME_LIMIT = 900


@dataclass(frozen=True)
class Outcome:
    """What became of one disturbed run, and how it differs from an undisturbed one once another has finished it."""

    what: str
    disturbances: int
    differences: list[str]


@dataclass(frozen=True)
class Deed:
    """What is disturbed: an `assay` command in a process of its own, and the same done in this one, which is warm.

    `before` is done to what has been delivered, if anything is.
    """

    arguments: Callable[[World], list[str]]
    do: Callable[[World], object]
    before: Callable[[World], object] | None = None


def finish(world: World, changed: Callable[[Source], Source] = lambda source: source) -> None:
    """Runs to the end, perhaps with other declarations."""
    run_sources(started(world), [*map(changed, load_sources(list(world.sources)))], "bronze", "publish")


def roll_back(world: World, to: int = 1) -> Rollback:
    return releases.rollback(started(world), load_sources(), world.database, to)


def started(world: World) -> Run:
    return start_run(world.settings(), Console(quiet=True), quiet=True)


def refine_anew(world: World) -> None:
    """All that was ever ingested, by a backfill."""
    run, sources = started(world), load_sources(list(world.sources))
    for source in sources:
        ask_backfill(run, source, _EVER, date.max)
    run_sources(run, sources, "bronze", "publish")


def replay_held(world: World) -> None:
    """All that is in quarantine of the first source."""
    run, (source,) = started(world), load_sources([world.sources[0]])
    ask_replay(run, source, None, None)
    run_sources(run, [source], "silver", "publish")


def set_otherwise_before_the_third_delivery(world: World) -> None:
    finish(world, set_otherwise)
    third_delivery(world.landing)


def _run(world: World) -> list[str]:
    return ["run", *[word for source in world.sources for word in ("-s", source)]]


_EVER = date(2000, 1, 1)
RUN = Deed(_run, finish)
ROLLBACK = Deed(lambda _: ["rollback", "--to", "1"], roll_back, finish)
BACKFILL = Deed(lambda world: [*_run(world), "--from", str(_EVER)], refine_anew, finish)
REPLAY = Deed(lambda world: ["replay", "-s", world.sources[0]], replay_held, lambda world: finish(world, strict))
SETTINGS = Deed(_run, finish, set_otherwise_before_the_third_delivery)
DEEDS = {"run": RUN, "rollback": ROLLBACK, "backfill": BACKFILL, "replay": REPLAY, "settings": SETTINGS}


class Bench:
    """A world with one delivery refined, in which the refinement of the next one is disturbed over and over.

    Or what is done about that once it is refined as well.
    """

    def __init__(self, folder: Path, spark: SparkSession, base: World, deed: Deed = RUN) -> None:
        self.folder, self.spark, self.base, self.deed = folder, spark, base, deed
        first_delivery(base.landing)
        finish(base)
        second_delivery(base.landing)
        if deed.before:
            deed.before(base)
        self.before = base.published()
        with self.world() as world:
            deed.do(world)
            self.expected = world.state(spark)

    def world(self, folder: Path | None = None) -> AbstractContextManager[World]:
        """The world, to be disturbed, in a folder that was not there before: Delta keeps in memory what it saw."""
        return self.base.copied(folder or self.folder / uuid.uuid4().hex[:8])

    def steps(self) -> tuple[list[str], float]:
        """The steps of an undisturbed run in a process of its own, and how many seconds it takes."""
        steps, began = self.folder / f"steps-{uuid.uuid4().hex[:8]}", time.monotonic()
        with self.world() as world:
            self._start(world, "none", {"PROOF_STEPS": str(steps)}).wait(_TIME_LIMIT)
        seconds = time.monotonic() - began
        return list(dict.fromkeys(steps.read_text(encoding="utf-8").splitlines())), seconds

    def kill_at(self, *steps: str) -> Outcome:
        """Kills a run at a step, and the one after it at the next, and so on; then lets one come to its end."""
        with self.world() as world:
            codes = [self._start(world, step).wait(_TIME_LIMIT) for step in steps]
            return self.finished(world, ", then ".join(steps), codes.count(-signal.SIGKILL))

    def kill_after(self, seconds: float) -> Outcome:
        """Kills a run, with its JVM, so long after its start."""
        with self.world() as world:
            victim = self._start(world, "none")
            try:
                victim.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(victim.pid, signal.SIGKILL)
            code = victim.wait(_TIME_LIMIT)
            return self.finished(world, f"after {seconds:.1f} s", int(code == -signal.SIGKILL))

    def finished(self, world: World, what: str, disturbances: int, wrong: Sequence[str] = ()) -> Outcome:
        """Does it once more in a disturbed world, and compares. `wrong` is what was seen before."""
        self.deed.do(world)
        return Outcome(what, disturbances, [*wrong, *differences(self.expected, world.state(self.spark))])

    def _start(self, world: World, step: str, more: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "scripts.proof.victim", step, *self.deed.arguments(world)],
            cwd=PROJECT,
            env=world.environment() | (more or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def outcomes(bench: Bench, every: int, chain: int, at_random: int, seed: int) -> Iterator[Outcome]:
    steps, seconds = bench.steps()
    what = " ".join(bench.deed.arguments(bench.base))
    print(f"assay {what}: {len(steps)} steps, {seconds:.0f} s undisturbed", flush=True)
    chance, chosen = random.Random(seed), steps[::every]
    links = -(-len(chosen) // chain)
    for first in range(links):
        yield bench.kill_at(*chosen[first::links])  # in the order of a run, so that each is still to come
    for _ in range(at_random):
        yield bench.kill_after(chance.uniform(0.2, 1.0) * seconds)


def shown(outcomes: Iterable[Outcome]) -> tuple[str, bool]:
    """Prints each outcome as it comes; then how many there were, and whether all are equal to the undisturbed one."""
    found = []
    for outcome in outcomes:
        found.append(outcome)
        print(f"disturbed {outcome.disturbances} times  {outcome.what}", flush=True)
        for line in outcome.differences:
            print(f"        DIFFERS  {line}", flush=True)
    disturbances, equal = sum(o.disturbances for o in found), sum(not o.differences for o in found)
    said = f"{disturbances} disturbances, {equal} of {len(found)} outcomes equal to the undisturbed one"
    return said, equal == len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="kill at every so many steps (1)")
    parser.add_argument("--chain", type=int, default=1, help="so many kills before one may end (1)")
    parser.add_argument("--source", nargs="+", default=SOURCES, help="of members, signups, contacts (the first two)")
    parser.add_argument("--random", type=int, default=10, help="and at so many random moments (10)")
    parser.add_argument("--seed", type=int, default=7, help="of the random moments (7)")
    parser.add_argument("--of", nargs="+", choices=DEEDS, default=list(DEEDS), help=f"{', '.join(DEEDS)} (all)")
    parser.add_argument("--as-if-large", action="store_true", help="bring tables up to date by what changed in others")
    given = parser.parse_args()
    as_if_large(given.as_if_large)

    def kills() -> Iterator[Outcome]:
        for name in given.of:
            world = World(folder / name, new_database(database, name), tuple(given.source))
            bench = Bench(folder, spark, world, DEEDS[name])
            yield from outcomes(bench, given.every, given.chain, given.random, given.seed)

    with ground() as (folder, spark, database):
        said, is_equal = shown(kills())
    print(said, flush=True)
    sys.exit(0 if is_equal else 1)


if __name__ == "__main__":
    main()
