"""Members, raw lines to Postgres and to one file a member: order of arrival, entries again, very many small files."""

import gzip
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame

from jobs.layers import bronze
from tests.lab import Lab, with_gold

ANN, BOB, CYD = "ada6ee1abc22511c", "b0b6ee1abc22511c", "c1d6ee1abc22511c"


def entry(member: str, on: str = "2023-06-27", follow_reco: float = 63.6405580207529, **fields: object) -> str:
    values = {
        "sex": 1,
        "age": 48,
        "default_language_en": "false",
        "waiting_list_time": 13.3,
        "black_and_white_design": "true",
        "follow_reco": follow_reco,
        "follow_reco_above_50p": str(follow_reco > 50).lower(),
        **fields,
    }
    texts = "".join(f"|{name}={value}" for name, value in values.items())
    return f'{{id="{member}"|created_at="{on}"{texts}}}\n'


def documents(lab: Lab) -> dict[str, Path]:
    return {file.name: file for file in (lab.output / "processed").glob("[!.]*")}


def test_the_newest_entry_of_a_member_counts_and_only_changed_members_are_written(lab: Lab) -> None:
    # Of identical lines the first to arrive is the entry: in z.log, which is the older file.
    lab.land("members/z.log", entry(ANN, age=40) + entry(ANN, age=41) + entry(BOB) + "nonsense\n", at=1_700_000_000)
    late = entry(BOB, on="2023-06-26", follow_reco=80.25) + entry(ANN, age=40)
    lab.land(f"members/member-{BOB}.log", late, at=1_700_000_001)
    lab.land("members/.received-1.part", entry(CYD))
    first = lab.run("members")
    assert first.documents == ["processed/: 2 files brought up to date, 0 removed"]
    assert lab.query("SELECT id, age, waiting_list_time, follow_reco FROM gold.member ORDER BY id") == [
        (ANN, 41, Decimal("13.30"), Decimal("63.64")),
        (BOB, 48, Decimal("13.30"), Decimal("63.64")),
    ]
    assert lab.query("SELECT segment, member_count FROM gold.engagement_segments ORDER BY 1") == [
        ("High Engagement", 0), ("Low Engagement", 0), ("Moderate Engagement", 2),
    ]  # fmt: skip
    rolling = "SELECT member_id, entry_number, rolling_average FROM gold.member_follow_reco_rolling ORDER BY 1, 2"
    assert lab.query(rolling) == [(BOB, 1, None), (BOB, 2, 80.25)]
    assert lab.account("silver") == {"members/z.log": (4, 3, 1, 0, 0), f"members/member-{BOB}.log": (2, 1, 0, 1, 0)}
    ann = documents(lab)[f"member-{ANN}.json"]
    assert json.loads(ann.read_text()) == {
        "id": ANN,
        "created_at": "2023-06-27",
        "sex": 1,
        "age": 41,
        "default_language_en": False,
        "waiting_list_time": 13.3,
        "black_and_white_design": True,
        "reco": {"follow_reco": 63.6405580207529, "follow_reco_above_50p": True},
    }

    # An older day changes nothing, a line again is no entry, and a newer arrival of the same day is the newest.
    inode = ann.stat().st_ino
    late = entry(ANN, on="2020-01-01") + entry(ANN, age=41) + entry(BOB, age=50)
    lab.land("members/b.log", late + entry(CYD), at=1_600_000_000)
    members = with_gold("members", "member", "member_documents")
    second = lab.run(members)
    assert second.documents == ["processed/: 2 files brought up to date, 0 removed"]
    assert lab.query("SELECT id, age FROM gold.member ORDER BY id") == [(ANN, 41), (BOB, 50), (CYD, 48)]
    assert lab.account("silver")["members/b.log"] == (4, 3, 0, 1, 0)
    assert ann.stat().st_ino == inode
    assert len(documents(lab)) == 3

    # A file replaced in place takes its rows out, and with them a member.
    lab.land("members/b.log", entry(ANN, on="2020-01-01"))
    third = lab.run(members)
    assert third.documents == ["processed/: 1 files brought up to date, 1 removed"]
    assert lab.query("SELECT id, age FROM gold.member ORDER BY id") == [(ANN, 41), (BOB, 48)]
    assert sorted(documents(lab)) == [f"member-{ANN}.json", f"member-{BOB}.json"]


def test_in_a_folder_that_is_read_whole_a_broken_file_is_set_aside_and_the_others_go_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bronze, "MANY_FILES", 2)
    folders, read = list[Sequence[str]](), bronze.read_lines

    def watched(*args: Any, whole_folders: Sequence[str] = (), **others: Any) -> DataFrame:
        folders.append(whole_folders)
        return read(*args, whole_folders=whole_folders, **others)

    monkeypatch.setattr(bronze, "read_lines", watched)
    for member in (ANN, BOB, CYD):
        lab.land(f"members/member-{member}.log", entry(member))
    lab.land("members/cut.log.gz", gzip.compress(entry(ANN, age=50).encode() * 60)[:-20])
    summary = lab.run("members", until="bronze")
    assert folders[0] == ["members"]
    assert [text.partition(":")[0] for text in summary.set_aside] == ["members/cut.log.gz"]
    assert lab.account("bronze") == {f"members/member-{member}.log": (1, 1, 0, 0, 0) for member in (ANN, BOB, CYD)}
