"""What lets a table grow: no transform brings rows to the driver, to one task or to a Python worker."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.engine import calls
from jobs.engine.csv_files import CsvForm, read_csv
from jobs.engine.readers import read_lines
from jobs.engine.session import PROJECT, java_class
from jobs.engine.sources import load_sources
from jobs.layers import parsing, shapes
from tests.lab import Lab

SOURCES = ("contacts", "credits", "interactions", "members", "signups")


def nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for children in (plan.children(), plan.innerChildren()):
        for number in range(children.size()):
            yield from nodes(children.apply(number))


def faults(frame: DataFrame) -> list[str]:
    """What in a frame's plan does not grow, on any number of cores."""
    plan = frame._jdf.queryExecution().analyzed()
    python = java_class(frame.sparkSession, "org.apache.spark.sql.catalyst.trees.TreePattern").PYTHON_UDF()
    found = [f"a window over {node.simpleString(1)}" for node in nodes(plan) if is_unpartitioned(node)]
    uses_python = plan.containsPattern(python) or any(re.search("Python|Pandas", n.nodeName()) for n in nodes(plan))
    return found + ["a Python worker"] * uses_python


def is_unpartitioned(node: Any) -> bool:
    return bool(node.nodeName() == "Window" and node.partitionSpec().isEmpty())


def frames(lab: Lab, name: str) -> dict[str, DataFrame]:
    """Each table of a source as its transform makes it, from tables without rows."""
    run, source = lab.start(), load_sources([name])[0]
    tables = shapes.gold_shapes(run, source) | shapes.silver_shapes(run, source)  # silver first, as for gold
    made = {table: parsing.shape(run, source, table) for table in source.parsed_tables}
    made |= {t: calls.call(source.silver_transform(t), tables, source) for t in source.derived_tables}
    return made | {f"gold.{t}": calls.call(source.gold_transform(t), tables, source) for t in source.gold_tables}


@pytest.mark.parametrize("source", SOURCES)
def test_every_table_can_grow(lab: Lab, source: str) -> None:
    made = frames(lab, source)
    assert len(made) > 3
    assert {table: faults(frame) for table, frame in made.items() if faults(frame)} == {}


@pytest.mark.parametrize("is_over_lines", [False, True])
def test_lines_and_csv_files_are_read_without_python(lab: Lab, is_over_lines: bool) -> None:
    lab.land("a.jsonl", "{}\n")
    lab.land("a.csv", "a,b\n1,2\n")
    root = str(lab.landing)
    assert faults(read_lines(lab.lake.spark, root, ["a.jsonl"], arrival_order=True)) == []
    form = CsvForm(",", ("a", "b"), "UTF-8", is_over_lines)
    assert faults(read_csv(lab.lake.spark, root, {"a.csv": form}, ["a", "b"])) == []


def test_a_fault_would_be_seen(lab: Lab) -> None:
    rows = lab.lake.spark.range(3)
    ranked = rows.select("id", F.row_number().over(Window.orderBy("id")).alias("n"))
    assert faults(ranked.where("n = 1"))[0].startswith("a window over Window")
    assert faults(rows.select(F.row_number().over(Window.partitionBy("id").orderBy("id")))) == []
    assert faults(rows.select(F.udf(lambda value: value, "BIGINT", useArrow=False)("id"))) == ["a Python worker"]


def test_no_transform_brings_rows_to_the_driver() -> None:
    taken = re.compile(r"\.(collect|take|head|first|tail|toPandas|toLocalIterator|rdd|foreach\w*)\b")
    files = sorted(Path(PROJECT, "transforms").rglob("*.py"))
    assert len(files) > 5
    assert {file.name: taken.findall(file.read_text(encoding="utf-8")) for file in files} == {f.name: [] for f in files}
