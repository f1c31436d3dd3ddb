"""Exports and documents that cannot be written."""

from typing import Any, cast

import pytest

from jobs.engine.errors import AssayError
from jobs.engine.sources import Source, load_sources
from jobs.layers import outputs


def test_files_of_one_source_that_cannot_be_written_keep_none_of_another_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write(_: object, source: Source, shown: str, release_id: int) -> list[str]:
        if source.name != "members":
            raise AssayError(f"release {release_id}: {source.name} {shown}", "mend the folder")
        return [f"{source.name} {shown}"]

    monkeypatch.setattr(outputs, "_write_files", write)
    sources, shown = load_sources(["contacts", "credits", "members"]), {"contacts": "1", "credits": "2", "members": "3"}
    assert outputs.write_files(cast("Any", None), sources[2:], cast("Any", shown), 7) == ["members 3"]
    with pytest.raises(AssayError) as unwritten:
        outputs.write_files(cast("Any", None), sources, cast("Any", shown), 7)
    assert (unwritten.value.message, unwritten.value.hint) == (
        "release 7: contacts 1\nrelease 7: credits 2",
        "mend the folder",
    )
