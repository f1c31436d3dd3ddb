"""What a run shows while it works: a live line per step on a terminal, one plain line per finished step elsewhere."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
    """Shows steps as they run, and remembers how long each took."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
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

    def seconds(self, source: str) -> float:
        """How long all steps of a source took."""
        return sum(step.seconds for step in self.finished if step.source == source)

    @contextmanager
    def _live(self, step: Step) -> Iterator[None]:
        if self._quiet or not self._console.is_terminal:
            yield
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[tasks]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            shown = progress.add_task(f"{step.source:<13} {step.layer:<8}", total=None, tasks="")
            ended = threading.Event()
            watcher = threading.Thread(target=self._watch, args=(progress, shown, ended), daemon=True)
            watcher.start()
            try:
                yield
            finally:
                ended.set()
                watcher.join(timeout=2)

    def _watch(self, progress: Progress, shown: object, ended: threading.Event) -> None:
        """Follows Spark's running stages: tasks done of tasks known so far in this step."""
        while not ended.wait(0.3):
            if self.spark is None:
                continue
            tracker = self.spark.sparkContext.statusTracker()
            stages = [info for stage in tracker.getActiveStageIds() if (info := tracker.getStageInfo(stage))]
            done, total = sum(s.numCompletedTasks for s in stages), sum(s.numTasks for s in stages)
            if total:
                progress.update(shown, completed=done, total=total, tasks=f"{done}/{total} tasks")  # type: ignore[arg-type]
