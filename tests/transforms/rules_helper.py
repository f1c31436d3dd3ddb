"""The rules of a source's YAML file, evaluated over parsed rows as the engine does: only TRUE passes."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

SOURCES = Path(__file__).resolve().parents[2] / "conf/sources"


@cache
def declared(source: str) -> dict[str, Any]:
    """The content of conf/sources/<source>.yaml, to be looked at only."""
    content: dict[str, Any] = yaml.safe_load((SOURCES / f"{source}.yaml").read_text(encoding="utf-8"))
    return content


def rules(source: str, table: str) -> list[dict[str, Any]]:
    """The rules of one silver table, in the order declared."""
    found: list[dict[str, Any]] = declared(source)["tables"][table].get("rules", [])
    return found


def with_violations(parsed: DataFrame, source: str, table: str) -> DataFrame:
    """`parsed` with `violations`: the names of the rules that each row breaks, in the order declared."""
    names = [
        F.when(~F.coalesce(F.expr(rule["expression"]), F.lit(False)), F.lit(rule["name"]))
        for rule in rules(source, table)
    ]
    return parsed.withColumn("violations", F.array_compact(F.array(*names)))
