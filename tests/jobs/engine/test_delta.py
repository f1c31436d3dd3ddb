"""Each write once: what was written is not written again, and a write that Delta drops is noticed."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.engine import delta
from jobs.engine.delta import Lakehouse
from jobs.engine.errors import AssayError


def test_a_number_is_written_once_and_one_that_delta_drops_is_an_error(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, rows = Lakehouse(spark, str(tmp_path)), spark.sql("SELECT 1L AS _batch_id, 'Ann' AS name")
    assert lake.append_once(rows, "t", "writer", 2)
    assert not lake.append_once(rows, "t", "writer", 2)
    assert lake.append_once(rows, "t", "other writer", 1)
    assert lake.replace_once(rows.where("false"), "t", [7], "writer", 3)
    assert (lake.read("t").count(), lake.written_through("t", "writer")) == (2, 3)

    # As when another process makes the same write after this one has looked: Delta says nothing and writes nothing.
    monkeypatch.setattr(delta, "_numbers", lambda _: {})
    blind = Lakehouse(spark, str(tmp_path))
    for write in (blind.append_once, blind.overwrite_once):
        with pytest.raises(AssayError, match="t: Delta dropped write 3 of writer, as if it had been made before"):
            write(rows, "t", "writer", 3)
    assert lake.read("t").count() == 2
