"""What no source declares any longer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.engine.errors import ConfigurationError
from jobs.engine.postgres import ReleasedTable
from jobs.engine.sources import Source, load_sources
from jobs.layers import leftovers


def test_files_that_no_source_writes_any_longer_are_named(tmp_path: Path) -> None:
    """As tables are: of documents, people may ask that they are gone."""
    run: Any = SimpleNamespace(settings=SimpleNamespace(output=str(tmp_path)))
    assert leftovers.files_left(run, []) == []
    every = load_sources()
    (source,) = [source for source in every if source.documents]
    (document,) = source.documents.values()
    (export,) = next(source for source in every if source.exports).exports.values()
    for path in (
        f"exports/{export.file}", f"exports/.{export.file}.checksum", "exports/old.csv", "exports/.old.csv.checksum",
        "exports/.removed.csv.checksum", f"{document.folder}/{document.prefix}a.json",
        f"{document.folder}/.{document.prefix}documents", f"{document.folder}/old-a.json",
        f"{document.folder}/.old-documents", "others/x.json", "others/.documents",
    ):  # fmt: skip
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("")
    left = ["exports/old.csv", "others/*", f"{document.folder}/old-*"]
    assert leftovers.files_left(run, every) == leftovers.files_left(run, every[:1]) == left
    without = source.model_copy(update={"documents": {}})
    assert leftovers.files_left(run, [without]) == sorted([*left, f"{document.folder}/{document.prefix}*"])
    # Where the files that are written now begin as the others did, those are not meant.
    longer = document.model_copy(update={"prefix": f"{document.prefix}of-"})
    found = leftovers.files_left(run, [source.model_copy(update={"documents": {"d": longer}})])
    assert f"{document.folder}/{document.prefix}* (but for {document.folder}/{longer.prefix}*)" in found
    (tmp_path / f"{document.folder}/{document.prefix}a.json").rename(
        tmp_path / f"{document.folder}/{longer.prefix}a.json"
    )
    assert leftovers.files_left(run, [source.model_copy(update={"documents": {"d": longer}})]) == left
    run.settings.output = "s3a://bucket/out"
    assert leftovers.files_left(run, every) == []


def test_a_mistake_in_another_sources_file_is_no_reason_to_fail_after_a_release(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signups = load_sources(["signups"])
    last = {name: ReleasedTable(0, 0, "0", "d", None) for name in ("restricted.users", "gold.member", "gold.old")}
    assert leftovers.tables_left(last, signups) == ["gold.old"]

    def broken() -> list[Source]:
        raise ConfigurationError("conf/sources/credits.yaml, nonsense: no such setting")

    monkeypatch.setattr(leftovers, "load_sources", broken)
    assert leftovers.tables_left(last, signups) == []
