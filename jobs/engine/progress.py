"""What a run shows while it works: a live line per step on a terminal, one plain line per finished step elsewhere."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@dataclass
class Step:
    """One step under way; `detail` is shown behind it when it has ended."""

    source: str
    layer: str
    detail: str = ""
    seconds: float = 0.0


class Steps:
    """Shows steps as they run, several at once, and remembers how long each took."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._is_live = console.is_terminal and not quiet
        self._quiet = quiet
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._running = 0
        self.finished: list[Step] = []
        self.spark: SparkSession | None = None

    @contextmanager
    def step(self, source: str, layer: str) -> Iterator[Step]:
        step, began = Step(source, layer), time.monotonic()
        with self._live(step):
            yield step
        step.seconds = time.monotonic() - began
        self.finished.append(step)
        if not self._quiet:
            self._console.print(f"{source:<13} {layer:<8} {step.seconds:6.1f}s  {step.detail}", highlight=False)

    def warn(self, text: str) -> None:
        """Says at once what a run that fails would not come to say, also where steps are not shown."""
        self._console.print(text, highlight=False, markup=False)

    def seconds(self, source: str) -> float:
        """How long all steps of a source took."""
        return sum(step.seconds for step in self.finished if step.source == source)

    @contextmanager
    def _live(self, step: Step) -> Iterator[None]:
        """A line for the step while it runs, below those of the other steps that run."""
        if not self._is_live:
            yield
            return
        with self._lock:
            self._running += 1
            if self._progress is None:
                self._progress = self._start()
            shown = self._progress.add_task(f"{step.source:<13} {step.layer:<8}", total=None, tasks="")
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                self._progress.remove_task(shown)
                if not self._running:
                    self._progress.stop()
                    self._progress = None

    def _start(self) -> Progress:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[tasks]}"),
            TimeElapsedColumn(),
        )
        progress = Progress(*columns, console=self._console, transient=True)
        progress.start()
        threading.Thread(target=self._watch, args=(progress,), daemon=True).start()
        return progress

    def _watch(self, progress: Progress) -> None:
        """Follows Spark's running stages: tasks done of tasks known so far, of all steps that run."""
        while self._progress is progress:
            time.sleep(0.3)
            if self.spark is None or self._progress is not progress:
                continue
            try:
                tracker = self.spark.sparkContext.statusTracker()
                stages = [info for stage in tracker.getActiveStageIds() if (info := tracker.getStageInfo(stage))]
            except (OSError, Py4JError):  # Java is gone, which those will say who wait for its answers
                return
            done, total = sum(s.numCompletedTasks for s in stages), sum(s.numTasks for s in stages)
            with self._lock:
                for shown in progress.task_ids if total else []:
                    progress.update(shown, completed=done, total=total, tasks=f"{done}/{total} tasks")
