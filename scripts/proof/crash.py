"""Kills runs of Assay at every step and at random moments, reruns them, and compares with an undisturbed run.

    .venv/bin/python -m scripts.proof.crash              every step once, and 10 random moments: about an hour
    .venv/bin/python -m scripts.proof.crash --every 10   each tenth step

Ends with 1, and says what differs, if one outcome is not that of the undisturbed run.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import SparkSession
from rich.console import Console

from jobs.engine import embedded
from jobs.engine.context import start_run
from jobs.engine.session import PROJECT, start_session
from jobs.engine.sources import load_sources
from jobs.run import run_sources
from scripts.proof.world import FOR_FEW_ROWS, SOURCES, World, differences, first_delivery, second_delivery

_RUN = ["run", *[argument for source in SOURCES for argument in ("-s", source)]]
_TIME_LIMIT = 900


@dataclass(frozen=True)
class Outcome:
    """What became of one killed run: where it was killed, and how the rerun differs from an undisturbed one."""

    kill: str
    was_killed: bool
    differences: list[str]


class Bench:
    """A world with one delivery refined, in which the refinement of the next one is disturbed over and over."""

    def __init__(self, folder: Path, spark: SparkSession, base: World) -> None:
        self.folder, self.spark, self.base = folder, spark, base
        first_delivery(base.landing)
        _finish(base)
        second_delivery(base.landing)
        with base.copied(self._fresh()) as world:
            _finish(world)
            self.expected = world.state(spark)

    def steps(self) -> tuple[list[str], float]:
        """The steps of an undisturbed run in a process of its own, and how many seconds it takes."""
        steps, began = self.folder / "steps", time.monotonic()
        with self.base.copied(self._fresh()) as world:
            _start(world, "none", {"PROOF_STEPS": str(steps)}).wait(_TIME_LIMIT)
        seconds = time.monotonic() - began
        return list(dict.fromkeys(steps.read_text(encoding="utf-8").splitlines())), seconds

    def _fresh(self) -> Path:
        """A folder that was not there before: Delta keeps in memory what it knows of a path."""
        return self.folder / uuid.uuid4().hex[:8]

    def kill_at(self, step: str) -> Outcome:
        """Kills a run at a step, and finishes it by another."""
        with self.base.copied(self._fresh()) as world:
            code = _start(world, step).wait(_TIME_LIMIT)
            _finish(world)
            return Outcome(step, code == -signal.SIGKILL, differences(self.expected, world.state(self.spark)))

    def kill_after(self, seconds: float) -> Outcome:
        """Kills a run, with its JVM, so long after its start."""
        with self.base.copied(self._fresh()) as world:
            victim = _start(world, "none")
            try:
                victim.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(victim.pid, signal.SIGKILL)
            code = victim.wait(_TIME_LIMIT)
            _finish(world)
            found = differences(self.expected, world.state(self.spark))
            return Outcome(f"after {seconds:.1f} s", code == -signal.SIGKILL, found)


def _start(world: World, step: str, more: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.proof.victim", step, *_RUN],
        cwd=PROJECT,
        env=world.environment() | (more or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _finish(world: World) -> None:
    """Runs to the end, in this process, whose session is warm."""
    run_sources(
        start_run(world.settings(), Console(quiet=True), quiet=True), load_sources(list(SOURCES)), "bronze", "publish"
    )


def outcomes(bench: Bench, every: int, at_random: int, seed: int) -> Iterator[Outcome]:
    steps, seconds = bench.steps()
    print(f"{len(steps)} steps, {seconds:.0f} s undisturbed", flush=True)
    chance = random.Random(seed)
    for step in steps[::every]:
        yield bench.kill_at(step)
    for _ in range(at_random):
        yield bench.kill_after(chance.uniform(0.2, 1.0) * seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="kill at every so many steps (1)")
    parser.add_argument("--random", type=int, default=10, help="and at so many random moments (10)")
    parser.add_argument("--seed", type=int, default=7, help="of the random moments (7)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spark = start_session(master="local[2]", spark_settings=FOR_FEW_ROWS, log=folder / "log")
        database = embedded.start(folder / "postgres")
        try:
            bench = Bench(folder, spark, World(folder / "base", database))
            found = []
            for outcome in outcomes(bench, given.every, given.random, given.seed):
                found.append(outcome)
                print(f"{'killed' if outcome.was_killed else 'ended '}  {outcome.kill}", flush=True)
                for line in outcome.differences:
                    print(f"        DIFFERS  {line}", flush=True)
        finally:
            embedded.stop(folder / "postgres")
            spark.stop()
    killed = sum(outcome.was_killed for outcome in found)
    equal = sum(not outcome.differences for outcome in found)
    print(f"{killed} kills, {equal} of {len(found)} outcomes equal to the undisturbed run", flush=True)
    sys.exit(0 if equal == len(found) else 1)


if __name__ == "__main__":
    main()
