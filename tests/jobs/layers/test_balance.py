"""Rows and accounts that do not agree."""

import shutil

import pytest

from jobs import replay
from jobs.engine.errors import AssayError
from jobs.layers import run as run_job
from scripts.proof.world import entry
from tests.lab import Lab, forget_tables, with_gold


def test_rows_that_are_in_no_table_fail_a_run_that_changes_no_gold_table_too(lab: Lab) -> None:
    members = with_gold("members", "member")
    lab.land("members/a.log", entry("a" * 16, 40) + "junk\n")
    lab.run(members)
    shutil.rmtree(lab.lake.path("quarantine/members/member_entries"))
    forget_tables(lab.lake.spark)
    for _ in range(2):
        with pytest.raises(AssayError, match=r"quarantine.members.member_entries is not there any longer, and 1 "):
            lab.run(members)
    lab.land("members/b.log", entry("b" * 16, 41) + "more junk\n")
    with pytest.raises(AssayError, match=r"member_entries does not balance .*1 said to be quarantined and 0 in "):
        lab.run(members)  # there is a quarantine again, with the new row alone
    run = lab.start()
    assert replay.ask_backfill(run, members, run.started_at.date(), run.started_at.date())
    assert run_job.run_sources(run, [members], "bronze", "publish").release_id == 2
    assert lab.table("quarantine/members/member_entries").count() == 2

    # Nor can bronze be refined anew that lacks rows: silver would lose them, too.
    lab.table("bronze/members/members").limit(0).write.format("delta").mode("overwrite").save(
        lab.lake.path("bronze/members/members")
    )
    run = lab.start()
    with pytest.raises(AssayError, match=r"bronze.members.members does not balance") as refused:
        replay.ask_backfill(run, members, run.started_at.date(), run.started_at.date())
    assert "restore it; or refine what is in the landing folder into another lakehouse" in str(refused.value)
