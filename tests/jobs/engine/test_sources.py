"""A source's file is checked before any data is read, and a mistake in it is named by file, key and expectation."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession

from jobs.engine import rules, sources
from jobs.engine.errors import ConfigurationError
from jobs.engine.sources import Rule, load_sources

VALID: dict[str, Any] = {
    "landing": "things/*.txt",
    "format": "lines",
    "tables": {"things": {"key": ["id"]}},
    "publish": {"things": {"primary_key": ["id"], "description": "One row per thing.", "columns": {"id": "The thing"}}},
}


def load(folder: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    (folder / "conf/sources").mkdir(parents=True)
    (folder / "conf/sources/things.yaml").write_bytes(content.encode("utf-8", "surrogateescape"))
    monkeypatch.setattr(sources, "PROJECT", folder)
    load_sources()


def changed(**keys: Any) -> str:
    return yaml.safe_dump({**VALID, **keys})


RULE = {"name": "r", "expression": "id is not null", "action": "warn", "reason": "no id"}

REFERENCE = {"name": "known", "references": "bs(id)", "action": "warn", "reason": "unknown"}
LINES = {"format": "lines"}
SEVERAL: dict[str, Any] = {
    "raw": {"a": {"landing": "t/a*", **LINES}, "b": {"landing": "t/b*", **LINES}},
    "tables": {"as": {"raw": "a", "key": ["id"]}, "bs": {"raw": "b", "key": ["id"]}, "c": {"key": ["id"]}},
}


def several(**keys: Any) -> str:
    return yaml.safe_dump({**SEVERAL, **keys})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (changed(tmezone="UTC"), "conf/sources/things.yaml, tmezone: no such setting"),
        (changed(timezone="Mars/Base"), "timezone: no time zone is called 'Mars/Base'"),
        (changed(format="parquet"), "format: Input should be 'lines' or 'csv' (found: 'parquet')"),
        (changed(tables={}), "tables: "),
        (changed(tables={"things": {}}), "tables.things.key: missing"),
        (changed(tables={"things": {"key": ["id"], "rules": [RULE, RULE]}}), "two rules are called 'r'"),
        (
            changed(tables={"things": {"key": ["id"], "rules": [{**RULE, "action": "drop"}]}}),
            "tables.things.rules[0].action: Input should be 'warn', 'quarantine' or 'fail' (found: 'drop')",
        ),
        (
            changed(tables={"things": {"key": ["id"], "rules": [{**RULE, "max_rate": 2}]}}),
            "tables.things.rules[0].max_rate: Input should be less than or equal to 1 (found: 2)",
        ),
        (
            changed(publish={"things": {**VALID["publish"]["things"], "primary_key": ["ident"]}}),
            "publish.things: 'ident' is not among its columns (id)",
        ),
        (changed(exports={"other": {"file": "o.csv", "header": [], "order_by": []}}), "exports.other: no published"),
        (changed(columns=["a"]), "columns: the columns of the raw files, for format csv"),
        (
            changed(format="csv", columns=["a"], required_columns=["b"]),
            "required_columns: 'b' is not among columns (a)",
        ),
        (changed(landing=None), "conf/sources/things.yaml, landing: "),
        (changed(landing="things/**/*.txt"), "landing: a pattern of names in given folders, without **"),
        (
            changed(format="csv", columns=["a"], aliases={"b": "c"}),
            "things.yaml, aliases: 'c' is not among columns (a)",
        ),
        (changed(format="csv", columns=["a"], arrival_order=True), "arrival_order: for format lines only"),
        (changed(raw={"things": {"landing": "t/*", "format": "lines"}}), "landing: no such setting"),
        (several(tables={"things": {"key": ["id"]}}), "raw.a: expected one silver table with `raw: a`, found 0"),
        (several(tables={"things": {"key": ["id"], "raw": "c"}}), "tables: 'c' is not among the raw tables (a, b)"),
        (several(one_file="A_FILE"), "one_file: for a source with one raw table only"),
        (several(workbook="t/*.xlsx"), "raw.a.sheets: the sheet names in the source's workbooks"),
        (
            several(tables={**SEVERAL["tables"], "c": {"key": ["id"], "rules": [{**RULE, "action": "quarantine"}]}}),
            "tables.c.rules: 'r' cannot quarantine: the table is derived",
        ),
        (
            changed(tables={"things": {"key": ["id"], "rules": [{**RULE, "unique": ["id"]}]}}),
            "tables.things.rules[0]: expected one of expression, unique and references",
        ),
        (
            several(tables={**SEVERAL["tables"], "as": {"raw": "a", "key": ["id"], "rules": [REFERENCE]}}),
            "tables.as.rules: 'known' references 'bs', which is no silver table declared before as",
        ),
        (
            changed(publish={"things": {**VALID["publish"]["things"], "row_by_row": True, "slice_by": "id"}}),
            "publish.things: expected at most one of row_by_row, slice_by, group_by and (of silver tables) additive",
        ),
        (
            changed(publish={"things": {**VALID["publish"]["things"], "slice_by": "day"}}),
            "publish.things: 'day' is not among its columns (id)",
        ),
        (
            changed(tables={"things": {"key": ["id"], "row_by_row": True}}),
            "tables.things: row_by_row, slice_by, group_by and additive are for derived tables without rules",
        ),
        (
            several(tables={**SEVERAL["tables"], "c": {"key": ["id"], "slice_by": "id", "additive": True}}),
            "tables.c: expected at most one of row_by_row, slice_by, group_by and (of silver tables) additive",
        ),
        (
            several(tables={**SEVERAL["tables"], "c": {"key": ["id"], "slice_by": "day"}}),
            "tables.c: slice_by, group_by: 'day' is not in its key",
        ),
        (
            changed(
                documents={"papers": {"folder": "papers", "suffix": ".json", "key": "id", "slice_by": "day"}},
            ),
            "documents.papers: slice_by, group_by: expected its key (id), found 'day'",
        ),
        (changed(landing="/data/things/*.txt"), "landing: a pattern below the landing folder, such as weather/*.txt"),
        (changed(landing="../things/*.txt"), "landing: a pattern below the landing folder"),
        (
            changed(publish={"t" * 58: VALID["publish"]["things"]}),
            f"things.yaml, publish.{'t' * 58}: the name is too long for Postgres by 1",
        ),
        (
            changed(publish={"things": {**VALID["publish"]["things"], "indexes": [["id"], ["id"]]}}),
            "things.yaml, publish.things.indexes[1]: conf/sources/things.yaml, publish.things.indexes[0] ",
        ),
        (changed(name="others"), "conf/sources/things.yaml, name: no such setting"),
        (f"{changed()}\nformat: lines\n", "found the key 'format' twice"),
        (f"{changed()}\nparameters: {{a: 1, b: 2, a: 3}}\n", "found the key 'a' twice"),
        ("landing: [", "conf/sources/things.yaml: not valid YAML"),
        ("landing: caf\udce9", "conf/sources/things.yaml: expected text in UTF-8"),
        ("just text", "conf/sources/things.yaml: expected keys such as landing"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load(tmp_path, monkeypatch, content)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        (
            {"publish": VALID["publish"]},
            "things.yaml, publish.things: conf/sources/others.yaml, publish.things writes gold.things",
        ),
        (
            {"documents": {"papers": {"folder": "papers", "prefix": "p-", "suffix": ".json", "key": "id"}}},
            "things.yaml, documents.papers: conf/sources/others.yaml, documents.papers writes files papers/p-*",
        ),
        (
            {"publish": {"things_by_id": VALID["publish"]["things"]}},
            "things.yaml, publish.things.indexes[0]: conf/sources/others.yaml, publish.things_by_id ",
        ),
        (
            {
                "publish": {"others": VALID["publish"]["things"]},
                "exports": {"others": {"file": "x.csv", "header": ["ID"], "order_by": ["id"]}},
            },
            "things.yaml, exports.things: conf/sources/others.yaml, exports.others writes file x.csv, too",
        ),
    ],
)
@pytest.mark.parametrize("asked", [None, ["things"]])
def test_two_sources_do_not_write_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: dict[str, Any], says: str, asked: list[str] | None
) -> None:
    load(
        tmp_path,
        monkeypatch,
        changed(
            documents={"papers": {"folder": "papers", "prefix": "p-", "suffix": ".txt", "key": "id"}},
            exports={"things": {"file": "x.csv", "header": ["ID"], "order_by": ["id"]}},
            publish={"things": {**VALID["publish"]["things"], "indexes": [["id"]]}},
        ),
    )
    others = {"landing": "others/*.txt", "format": "lines", "tables": {"others": {"key": ["id"]}}, **declared}
    (tmp_path / "conf/sources/others.yaml").write_text(yaml.safe_dump(others))
    with pytest.raises(ConfigurationError) as error:
        load_sources(asked)
    assert says in str(error.value)
    # What is wrong with one that is not asked for is no reason to fail.
    (tmp_path / "conf/sources/others.yaml").write_text("landing: [")
    assert [source.name for source in load_sources(["things"])] == ["things"]


def test_what_is_right_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, monkeypatch, changed())


def test_a_file_belongs_to_the_raw_tables_whose_pattern_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, monkeypatch, several())
    source = load_sources()[0]
    assert source.parsed_tables == {"as": "a", "bs": "b"}
    assert source.derived_tables == ["c"]
    assert source.raw_tables_of("t/b1.txt") == ["b"]
    interactions = sources.Source.model_validate(
        {
            **SEVERAL,
            "name": "things",
            "workbook": "t/*.xlsx",
            "raw": {name: {**raw, "sheets": [name]} for name, raw in SEVERAL["raw"].items()},
        }
    )
    assert interactions.raw_tables_of("t/x.xlsx") == ["a", "b"]
    assert interactions.patterns == ["t/*.xlsx", "t/a*", "t/a*.gz", "t/a*.bz2", "t/b*", "t/b*.gz", "t/b*.bz2"]


def test_what_is_deployed_while_a_run_is_at_work_has_not_computed_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("conf/sources", "transforms"):
        shutil.copytree(sources.PROJECT / part, tmp_path / part)
    monkeypatch.setattr(sources, "PROJECT", tmp_path)
    (running,) = load_sources(["members"])
    before, transforms = running.logic(), tmp_path / "transforms/members.py"
    transforms.write_text(transforms.read_text() + "# other code\n")
    (next_one,) = load_sources(["members"])
    assert running.logic() == before != next_one.logic()


def test_every_declared_function_exists() -> None:
    for source in load_sources():
        for table in source.tables:
            assert source.silver_transform(table)
        for table in source.gold_tables:
            assert source.gold_transform(table)
        for check in source.checks:
            assert source.check_transform(check)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("acton = 'add'", "column 'acton' does not exist. Columns: action, credits\n       did you mean 'action'?"),
        ("credits + 1", "must be true or false for a row; 'credits + 1' is int"),
        ("action in (", "PARSE_SYNTAX_ERROR"),
    ],
)
def test_a_wrong_expression_is_a_configuration_error(spark: SparkSession, expression: str, says: str) -> None:
    frame = spark.createDataFrame([], "action STRING, credits INT")
    rule = Rule(name="r", expression=expression, action="warn", reason="because")
    with pytest.raises(ConfigurationError) as error:
        rules.check_expressions("credits", "credit_events", frame, [rule])
    assert "conf/sources/credits.yaml, tables.credit_events.rules[0].expression: " in str(error.value)
    assert says in str(error.value)
