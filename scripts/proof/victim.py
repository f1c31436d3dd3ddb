"""The `assay` command, killed at a step: `python -m scripts.proof.victim "after save ops/files" run -s members`.

A step is the moment before or after something becomes lasting: each Delta or scratch write, each part of a release,
each file written. With the step `none` nothing is killed, and the steps passed are written to the file $PROOF_STEPS.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from pyspark import SparkContext

from scripts.proof.steps import watched
from scripts.proof.world import as_if_large

_LOCK = threading.Lock()


def main() -> None:
    from jobs.cli import main as assay

    wanted, steps = sys.argv[1], os.environ.get("PROOF_STEPS")

    def passing(step: str) -> None:
        with _LOCK:
            if step == wanted:
                _die()
            if wanted == "none" and steps:
                with Path(steps).open("a", encoding="utf-8") as file:
                    file.write(f"{step}\n")

    del sys.argv[1]
    as_if_large()
    with watched(os.environ["ASSAY_LAKEHOUSE"], passing):
        assay()


def _die() -> None:
    """As a machine that loses its power: the JVM must not finish what it was told to do."""
    gateway: Any = SparkContext._gateway
    if gateway is not None:
        os.kill(gateway.proc.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
