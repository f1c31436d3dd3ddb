"""The lasting steps of a run: every write to a table, a file or Postgres, before and after it is made."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql.readwriter import DataFrameWriter

from jobs.engine import delta_log, documents, exports, postgres


@contextmanager
def watched(root: str, passing: Callable[[str], None]) -> Iterator[None]:
    """Calls `passing` with the name of each step of the runs in this process, on the lakehouse at `root`."""

    def table(path: str) -> str:
        return path.removeprefix(root.rstrip("/") + "/")

    def commit(kind: str) -> Callable[..., str]:
        return lambda _spark, _rows, log, *_: f"{kind} {table(log.dataPath().toUri().getPath())}"

    names: list[tuple[Any, str, Callable[..., str]]] = [
        # Without a path: into Postgres.
        (DataFrameWriter, "save", lambda _, path="": f"save {table(path)}"),
        (delta_log, "create", commit("create")),
        (delta_log, "overwrite", commit("overwrite")),
        (delta_log, "append", commit("append")),
        (DataFrameWriter, "parquet", lambda _, path: f"write {table(path)}"),
        (postgres, "create_staging", lambda _, item: f"create staging {item.full_name}"),
        (postgres, "load_staging", lambda _frame, _database, item: f"load staging {item.full_name}"),
        (postgres, "release", lambda *_: "release, in the transaction"),
        (postgres, "copy_new", lambda _, target, *__: f"copy {target}, in the transaction"),
        (postgres, "drop_staging", lambda *_: "drop staging, after the transaction"),
        (documents, "write", lambda _lake, name, *_: f"documents {name}"),
        (exports, "write", lambda _frame, _folder, export, *_: f"export {export.file}"),
    ]
    originals = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in names]
    for owner, attribute, name in names:
        setattr(owner, attribute, _telling(getattr(owner, attribute), name, passing))
    try:
        yield
    finally:
        for owner, attribute, original in originals:
            setattr(owner, attribute, original)


def _telling(function: Callable[..., Any], name: Callable[..., str], passing: Callable[[str], None]) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        step = name(*args)
        passing(f"before {step}")
        result = function(*args, **kwargs)
        passing(f"after {step}")
        return result

    return wrapper
