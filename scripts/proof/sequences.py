"""Random sequences of deliveries, a run after each: what they end in must be what a new lakehouse makes of all files.

    .venv/bin/python -m scripts.proof.sequences --sequences 20 --runs 5 --seed 7

Before a run, files arrive (some of them damaged), are replaced in place, are copied under another name, or none does; a
run or two are cut short, each at some step, and more may arrive after each; a rule is dropped and its rows are
replayed, all batches are refined anew, the lakehouse is maintained. Every table counts as large, so each is brought up
to date by what changed wherever that is possible. Ends with 1, and says what was done and what differs, if published
tables, exports or documents are others than those of the new lakehouse.
"""

import argparse
import itertools
import os
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from jobs import replay
from jobs.engine.database import Database
from jobs.engine.errors import AssayError
from jobs.engine.sources import Source, load_sources
from jobs.engine.summary import Summary
from jobs.layers.run import run_sources
from jobs.maintain import maintain
from scripts.proof.crash import started
from scripts.proof.dirt import damaged_files
from scripts.proof.steps import watched
from scripts.proof.world import State, World, as_if_large, differences, ground, new_database, relaxed
from scripts.samples.interactions import INCOMPLETE_WORKBOOK

_DAMAGED = 0.25
_STEPS = 60  # of a run with news, about
_INCOMPLETE = INCOMPLETE_WORKBOOK.removesuffix(".xlsx")  # which is set aside, as it is
_FIRST_ARRIVAL = 1_700_000_000  # seconds since 1970; each file arrives ten seconds after the one before


@dataclass
class Sender:
    """Puts files into the landing folder of one source: always the same ones for a `chance` of the same seed."""

    folder: Path
    chance: random.Random
    files: Iterator[tuple[str, bytes]]
    good_files: Iterator[tuple[str, bytes]]
    count: int = 0

    def send(self) -> str:
        """Does one thing, and says what it was."""
        there = sorted(self.folder.iterdir())
        deed = self.chance.choices(["new", "replace", "copy"], [4, 2, 1])[0]
        if deed == "new" or not there:
            return f"{self._write(*next(self.files))} arrives"
        old = self.chance.choice(there)
        if deed == "copy" or old.suffix in (".gz", ".bz2"):  # no good file is compressed
            stem, ending = old.name.split(".", 1)
            return f"{self._write(f'{stem} again.{ending}', old.read_bytes())} is a copy"
        # By a good one: of a broken one the rows that are there stay, which a new lakehouse never had.
        name, content = next(file for file in self.good_files if _is_alike(file[0], old.name))
        return f"{self._write(old.name, content)} is replaced by {name}"

    def _write(self, name: str, content: bytes) -> str:
        self.count += 1
        (self.folder / name).write_bytes(content)
        os.utime(self.folder / name, (_FIRST_ARRIVAL + 10 * self.count,) * 2)
        return name


def _is_alike(name: str, other: str) -> bool:
    """Whether two files are of the same format and, by the beginning of their names, of the same raw table."""
    return name.split(".", 1)[1] == other.split(".", 1)[1] and name.split("-", 1)[0] == other.split("-", 1)[0]


class _CutShortError(BaseException):
    """No exception that a run could take for one of its own."""


@dataclass
class Sequence:
    """What was done in one sequence, in order, and how its end differs from that of the new lakehouse."""

    source: Source
    world: World
    done: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    rows: int = 0

    def run(self, source: Source, how: str = "") -> None:
        """A run, raw to Postgres."""
        release = _run(self.world, source).release_id
        self.done.append(f"a run {how}".strip() + (f": release {release}" if release else ""))

    def cut_short(self, steps: int) -> None:
        """A run that ends after so many of its steps, at once, if it has as many."""
        passed = itertools.count()

        def passing(step: str) -> None:
            if next(passed) >= steps:  # and at any other that another thread of it comes to
                raise _CutShortError(step)

        try:
            with watched(str(self.world.lakehouse), passing):
                self.run(self.source)
        except _CutShortError as cut:
            self.done.append(f"a run is cut short {cut}")

    def drop_rule(self, rule: str) -> None:
        """Lets the rows in that one rule has held back."""
        without = relaxed(self.source, rule)
        replay.ask_replay(started(self.world), without, rule, None)
        try:
            self.run(without, f"without {rule}")
        except AssayError as error:  # such rows may fit no published table
            self.done.append(f"a run without {rule} fails: {error.message}")

    def refine_anew(self) -> None:
        """Has all rows checked by all rules again in the next run."""
        self.done.append("all batches are to be refined anew")
        replay.ask_backfill(started(self.world), self.source, date(2000, 1, 1), datetime.now(UTC).date())

    def maintain(self) -> None:
        self.done.append("maintenance")
        maintain(started(self.world), [self.source])


def try_sequence(source: Source, runs: int, seed: int, folder: Path, server: Database) -> Sequence:
    """Does one sequence of so many runs in a folder of its own."""
    chance = random.Random(f"{source.name} {seed}")
    sequence = Sequence(source, _new_world(folder / "world", source, server))
    landing = sequence.world.landing / source.name
    landing.mkdir(parents=True)
    files = damaged_files(source.name, 1_000, seed, folder / "files", _DAMAGED)
    undamaged = damaged_files(source.name, 1_000, seed + 1_000_000, folder / "good files", 0)
    good_files = ((name, content) for name, content in undamaged if not name.startswith(_INCOMPLETE))
    try:
        _do(sequence, runs, chance, Sender(landing, chance, files, good_files))
        new = _new_world(folder / "new", source, server)
        new.landing.symlink_to(sequence.world.landing, target_is_directory=True)
        _share_secrets(sequence.world, new)
        sequence.rows = sum(line.rows_in for line in _run(new, source).sources)
        sequence.differences = differences(_results(new), _results(sequence.world))
    except AssayError as error:
        sequence.differences = [f"failed: {error}"]
    return sequence


def _do(sequence: Sequence, runs: int, chance: random.Random, sender: Sender) -> None:
    rules = [r.name for table in sequence.source.tables.values() for r in table.rules if r.action == "quarantine"]
    is_relaxed = False
    for number in range(runs):
        sequence.done += [sender.send() for _ in range(chance.randint(0, 2) if number else 2)]
        deed = chance.choices(["", "drop a rule", "refine anew", "maintain"], [6, 2, 1, 1])[0]
        if is_relaxed or deed == "refine anew":
            sequence.refine_anew()
        for _ in range(chance.choice([0, 0, 1, 2])):
            sequence.cut_short(chance.randint(1, _STEPS))
            sequence.done += [sender.send() for _ in range(chance.randint(0, 1))]
        sequence.run(sequence.source)
        is_relaxed = deed == "drop a rule"
        if is_relaxed:
            sequence.drop_rule(chance.choice(rules))
        if deed == "maintain":
            sequence.maintain()
    if is_relaxed:
        sequence.refine_anew()
        sequence.run(sequence.source)


def _new_world(folder: Path, source: Source, server: Database) -> World:
    folder.mkdir()
    name = f"{source.name}_{folder.parent.name}_{folder.name}".replace("-", "_").lower()
    return World(folder, new_database(server, name), (source.name,))


def _share_secrets(world: World, other: World) -> None:
    """Lets another lakehouse give the same ids to the same records."""
    secrets = world.lakehouse / "ops/id_secrets"
    if secrets.exists():
        shutil.copytree(secrets, other.lakehouse / "ops/id_secrets")


def _run(world: World, source: Source) -> Summary:
    return run_sources(started(world), [source], first="bronze", until="publish")


def _results(world: World) -> State:
    return {**world.published(), **world.files()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", nargs="+", help="those alone (all)")
    parser.add_argument("--sequences", type=int, default=10, help="of each source (10)")
    parser.add_argument("--runs", type=int, default=5, help="in a sequence, at the least (5)")
    parser.add_argument("--seed", type=int, default=7, help="of the first; the others have the next numbers (7)")
    given = parser.parse_args()
    as_if_large(True)
    differing = 0
    with ground() as (top, _, server):
        for seed in range(given.seed, given.seed + given.sequences):
            for source in load_sources(given.source):
                folder = top / f"{source.name}-{seed}"
                folder.mkdir()
                found = try_sequence(source, given.runs, seed, folder, server)
                differing += bool(found.differences)
                verdict = "DIFFERS" if found.differences else "as a new lakehouse"
                print(
                    f"{source.name:<13} seed {seed}: {len(found.done)} steps, {found.rows} rows, {verdict}", flush=True
                )
                for text in [*found.done, *found.differences] if found.differences else []:
                    print(f"              {text}", flush=True)
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
