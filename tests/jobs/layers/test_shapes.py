"""Mistakes in a source's code and declaration are named by file and line or key, before a row is read."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import transforms.contacts
from jobs.engine import calls, sources
from jobs.engine.errors import ConfigurationError
from jobs.engine.rules import RuleResult
from jobs.engine.sources import Rule, Source, load_sources
from jobs.layers import shapes
from jobs.layers.silver import SilverReport
from tests.lab import Lab


def declared(**tables: Any) -> Source:
    """Contacts with other silver tables beside or in place of its own."""
    content = load_sources(["contacts"])[0].model_dump(by_alias=True)
    content["tables"] = {name: table for name, table in {**content["tables"], **tables}.items() if table}
    return Source.model_validate(content)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(ConfigurationError) as refused:
        action()
    return str(refused.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raw.select('*')", "transforms/contacts.py, parse: returns NoneType, and a DataFrame is expected"),
        ("return raw.selct('*')", "transforms/things.py, line 2: PySparkAttributeError: [ATTRIBUTE_NOT_SUPPORTED]"),
        ("return raw.where('a = (')", "transforms/things.py, line 2: ParseException: \n"),
        ("return raw + 1", "transforms/things.py, line 2: TypeError: unsupported operand"),
        ("raise ValueError('no such model')", "conf/sources/contacts.yaml, parameters: no such model"),
    ],
)
def test_a_mistake_in_a_transform_is_named_by_its_line(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    code, contacts = dict[str, Any](), load_sources(["contacts"])[0]
    monkeypatch.setattr(sources, "PROJECT", tmp_path)
    exec(compile(f"def parse(raw):\n    {body}\n", str(tmp_path / "transforms/things.py"), "exec"), code)
    said = refusal(lambda: calls.call(code["parse"], {"raw": spark.range(1)}, contacts))
    assert said.startswith(says.removesuffix("\n"))


def test_a_column_that_silver_lacks_is_perhaps_new_and_so_no_mistake(spark: SparkSession) -> None:
    def published(contacts: DataFrame) -> DataFrame:
        return contacts.select("new_column")

    with pytest.raises(AnalysisException, match="UNRESOLVED_COLUMN"):
        calls.call(published, {"contacts": spark.range(1)}, load_sources(["contacts"])[0])


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (None, "transforms/things.py: ModuleNotFoundError: No module named 'transforms.things'"),
        ("import nothing_of_that_name", "transforms/things.py, line 1: ModuleNotFoundError: No module named 'nothing_"),
        ("def things(raw)\n", "transforms/things.py: SyntaxError: expected ':' (things.py, line 1)"),
        ("x = 1\ny = z\n", "transforms/things.py, line 2: NameError: name 'z' is not defined"),
    ],
)
def test_code_that_cannot_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str | None, says: str
) -> None:
    (tmp_path / "transforms").mkdir()
    if code:
        (tmp_path / "transforms/things.py").write_text(code)
    monkeypatch.setattr(transforms, "__path__", [str(tmp_path / "transforms")])
    monkeypatch.setattr(sources, "PROJECT", tmp_path)
    things = Source.model_validate(
        {"name": "things", "landing": "things/*.txt", "format": "lines", "tables": {"things": {"key": ["id"]}}}
    )
    assert refusal(lambda: things.silver_transform("things")).startswith(says)


def test_columns_that_parsed_rows_lack_are_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    run, contacts = lab.start(), load_sources(["contacts"])[0].model_dump(by_alias=True)["tables"]["contacts"]
    monkeypatch.setattr(transforms.contacts, "lossy", lambda raw: raw.select("_source_file"), raising=False)
    said = refusal(lambda: shapes.check(run, declared(contacts={**contacts, "transform": "lossy"})))
    assert said.startswith("transforms/contacts.py, lossy: returns no column '_row_hash'\n")
    for key, names in {"key": ["id"], "order_by": ["contact_id", "id"]}.items():
        said = refusal(lambda key=key, names=names: shapes.check(run, declared(contacts={**contacts, key: names})))  # type: ignore[misc]
        assert said.startswith(f"conf/sources/contacts.yaml, tables.contacts.{key}: 'id' is not among the columns of ")


def test_derived_tables_may_be_declared_in_any_order(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    run, usual = lab.start(), load_sources(["contacts"])[0]
    content = usual.model_dump(by_alias=True)
    content["tables"] = dict(reversed(content["tables"].items()))
    columns = {table: rows.columns for table, rows in shapes.silver_shapes(run, usual).items()}
    assert {t: rows.columns for t, rows in shapes.silver_shapes(run, Source.model_validate(content)).items()} == columns

    def held(quarantined: DataFrame) -> DataFrame:
        return quarantined.groupBy(F.col("_source_file").alias("file")).count()

    monkeypatch.setattr(transforms.contacts, "held", held, raising=False)
    rule = {"name": "any", "expression": "count > 0", "action": "warn", "reason": "none"}
    shapes.check(run, declared(held={"key": ["file"], "rules": [rule]}))

    # What a rule refers to comes first, too.
    monkeypatch.setattr(transforms.contacts, "names", partial(lambda table: table), raising=False)
    refers = {"name": "known", "references": "named(counselor_id)", "action": "warn", "reason": "unknown"}
    named = {"transform": "counselors", "key": ["counselor_id"]}
    of_names = {"transform": "transfers", "key": ["contact_id"], "rules": [refers]}
    shapes.check(run, declared(counselors=None, named=named, of_names=of_names, transfers=None))

    monkeypatch.setattr(transforms.contacts, "egg", lambda hen: hen, raising=False)
    monkeypatch.setattr(transforms.contacts, "hen", lambda egg: egg, raising=False)
    said = refusal(
        lambda: shapes.silver_shapes(run, declared(egg={"key": ["contact_id"]}, hen={"key": ["contact_id"]}))
    )
    assert said == "conf/sources/contacts.yaml, tables: these are computed from each other: egg, hen"


def test_what_a_rule_found_in_two_passes_is_one_result() -> None:
    one, other = (Rule(name=name, expression="x", action="warn", reason="y") for name in ("one", "other"))
    first = SilverReport(3, 2, 1, rules=[RuleResult("t", one, 1, 3), RuleResult("t", other, 0, 3)])
    both = first.plus(SilverReport(2, 2, 0, rules=[RuleResult("t", one, 2, 2), RuleResult("u", one, 1, 2)]))
    assert (both.rows_read, both.rows_written, both.rows_quarantined) == (5, 4, 1)
    assert [(r.table, r.rule.name, r.violations, r.rows) for r in both.rules] == [
        ("t", "one", 3, 5), ("t", "other", 0, 3), ("u", "one", 1, 2),
    ]  # fmt: skip
