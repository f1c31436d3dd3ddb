"""Transforms are called with what their parameters name."""

from collections.abc import Mapping

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from jobs.engine.errors import ConfigurationError
from jobs.engine.faults import explained
from jobs.engine.sources import SOURCES_FOLDER, Source, Transform, input_names, mistake


def call(
    function: Transform, tables: Mapping[str, DataFrame], source: Source, others: Mapping[str, object] | None = None
) -> DataFrame:
    """Calls a transform with what its parameters name: tables, settings of the source, or `others`.

    Raises ConfigurationError for a name that is neither, for a setting that the transform refuses (a ValueError), and
    for a mistake in its code.
    """
    available = {**source.settings(), **(others or {}), **tables}
    settings = f"{SOURCES_FOLDER / source.name}.yaml, parameters"
    names, code = input_names(function), f"transforms/{source.name}.py, {getattr(function, '__name__', function)}"
    if unknown := [name for name in names if name not in available]:
        where = f"{code}: no table or parameter is called {unknown[0]!r}"
        raise ConfigurationError(where, f"there are: {', '.join(sorted(available))}; parameters are set in {settings}")
    try:
        rows = function(*[available[name] for name in names])
    except (OSError, Py4JError):  # of Java, not of the code
        raise
    except Exception as error:
        if isinstance(error, ValueError) and not isinstance(error, PySparkException):
            raise ConfigurationError(f"{settings}: {error}") from None
        if explained(error):
            raise
        raise ConfigurationError(mistake(error, code)) from error
    if not isinstance(rows, DataFrame):
        raise ConfigurationError(f"{code}: returns {type(rows).__name__}, and a DataFrame is expected")
    return rows
