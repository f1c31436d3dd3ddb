"""The `assay` command, killed at a step: `python -m scripts.proof.victim "after save ops/files" run -s members`.

A step is the moment before or after something becomes lasting: each Delta or scratch write, each part of a release,
each file written. With the step `none` nothing is killed, and the steps passed are written to the file $PROOF_STEPS.
"""

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark import SparkContext
from pyspark.sql.readwriter import DataFrameWriter

from jobs.engine import documents, exports, postgres

_LOCK = threading.Lock()


def main() -> None:
    from jobs.cli import main as assay

    wanted, steps = sys.argv[1], os.environ.get("PROOF_STEPS")
    root = os.environ["ASSAY_LAKEHOUSE"].rstrip("/") + "/"

    def passing(step: str) -> None:
        with _LOCK:
            if step == wanted:
                _die()
            if wanted == "none" and steps:
                with Path(steps).open("a", encoding="utf-8") as file:
                    file.write(f"{step}\n")

    def watched(function: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            step = name(*args)
            passing(f"before {step}")
            result = function(*args, **kwargs)
            passing(f"after {step}")
            return result

        return wrapper

    def table(_writer: Any, path: str = "", *_: Any) -> str:
        return path.removeprefix(root)

    DataFrameWriter.save = watched(DataFrameWriter.save, lambda *a: f"save {table(*a)}")  # type: ignore[method-assign]
    DataFrameWriter.parquet = watched(DataFrameWriter.parquet, lambda *a: f"write {table(*a)}")  # type: ignore[method-assign]
    for function, name in (
        (postgres.create_staging, lambda _, item: f"create staging {item.full_name}"),
        (postgres.load_staging, lambda _frame, _database, item: f"load staging {item.full_name}"),
        (postgres.release, lambda *_: "release, in the transaction"),
        (postgres.copy_new, lambda _, target, *__: f"copy {target}, in the transaction"),
        (postgres.drop_staging, lambda *_: "drop staging, after the transaction"),
    ):
        setattr(postgres, function.__name__, watched(function, name))
    documents.write = watched(documents.write, lambda _lake, name, *_: f"documents {name}")
    exports.write = watched(exports.write, lambda _frame, _folder, export, *_: f"export {export.file}")
    del sys.argv[1]
    assay()


def _die() -> None:
    """As a machine that loses its power: the JVM must not finish what it was told to do."""
    gateway: Any = SparkContext._gateway
    if gateway is not None:
        os.kill(gateway.proc.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
