"""conf/assay.yaml and the environment: what cannot be read or be right is named, with what was expected."""

from pathlib import Path

import pytest

from jobs.engine import settings
from jobs.engine.errors import ConfigurationError
from jobs.engine.yaml_files import read_yaml


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"- landing\n- output\n", "expected lines of `setting: value`"),
        (b"landing", "expected lines of `setting: value`"),
        (b"1: data/landing", "expected lines of `setting: value`"),
        (b"landing: caf\xe9", "expected text in UTF-8"),
        (b"landing: [", "not valid YAML"),
        (b"landign: raw", ", landign: no such setting"),
        (b"landing: a\nlogs: b\nlanding: c\n", "found the key 'landing' twice"),
        (b"spark: [1]", ", spark: expected settings of Spark, each with its value"),
        (b"landing: ~/raw", ", landing: expected a path or URI, written out"),
        (b"keep_ops_days: 999999", ", keep_ops_days: Input should be less than or equal to 36500"),
        (b"keep_days: 1.0e+9", ", keep_days: Input should be less than or equal to 36500"),
    ],
)
def test_a_file_that_cannot_be_right_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, says: str
) -> None:
    monkeypatch.setattr(settings, "PROJECT", tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/assay.yaml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"^conf/assay\.yaml") as refused:
        settings.load_settings()
    assert says in str(refused.value)


def test_settings_of_spark_may_be_numbers_and_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_SPARK", '{"spark.a": 16, "spark.b": true, "spark.c": 0.5, "spark.d": "x"}')
    assert settings.load_settings().spark == {"spark.a": "16", "spark.b": "true", "spark.c": "0.5", "spark.d": "x"}
    monkeypatch.setenv("ASSAY_SPARK", '{"spark.hadoop": {"fs.s3a.secret.key": "hidden"}}')
    with pytest.raises(ConfigurationError) as refused:
        settings.load_settings()
    assert (
        str(refused.value) == "environment variable ASSAY_SPARK: spark.hadoop: expected one value, as text or a number"
    )


def test_relative_paths_begin_at_the_project_and_places_elsewhere_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, is_path in {"data/x": True, "a:b/c": True, "dbfs:/lake": False, "s3a://lake/x": False}.items():
        monkeypatch.setenv("ASSAY_LAKEHOUSE", place)
        assert settings.load_settings().lakehouse == (f"{settings.PROJECT}/{place}" if is_path else place)


def test_keys_that_are_merged_from_elsewhere_may_be_given_again(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        "a: &a {x: 1}\nb:\n  c: &c\n    <<: *a\n    x: 2\nd:\n  <<: *c\n1: one\n'1': text\nday: 2024-02-30\n"
    )
    read = read_yaml(file, "x.yaml")
    assert read == {"a": {"x": 1}, "b": {"c": {"x": 2}}, "d": {"x": 2}, 1: "one", "1": "text", "day": "2024-02-30"}


@pytest.mark.parametrize("content", [None, b"", b"# landing: raw", "landing: donn\u00e9es".encode()])
def test_the_file_may_be_missing_or_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.delenv("ASSAY_LANDING", raising=False)
    monkeypatch.setattr(settings, "PROJECT", tmp_path)
    if content is not None:
        (tmp_path / "conf").mkdir()
        (tmp_path / "conf/assay.yaml").write_bytes(content)
    expected = "donn\u00e9es" if content and content.startswith(b"landing") else "data/landing"
    assert settings.load_settings().landing == str(tmp_path / expected)
