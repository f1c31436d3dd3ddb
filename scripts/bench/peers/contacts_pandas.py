"""Contacts as an analyst would refine them with pandas: raw lines, clean tables, gold, all kept as Parquet files.

python -m scripts.bench.peers.contacts_pandas OUT FILE...
"""

import json
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

_MISSING = {"", "NULL", "null", "N/A", "NaN"}
_TEXT = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_FIELDS = (
    "time_call_began", "time_call_ended", "counselors", "transfer_timestamps", "issues_discussed", "call_rating",
    "initial_risk_level", "client_pronouns", "client_name", "client_location",
)  # fmt: skip


def texts(value: object) -> list[str]:
    return [(a or b).strip() for a, b in _TEXT.findall(value)] if isinstance(value, str) else []


def known(value: object) -> list[str]:
    return [text for text in texts(value) if text not in _MISSING]


def times(value: object) -> list[datetime | None]:
    if not isinstance(value, str) or value.strip() in _MISSING:
        return []
    if "datetime" in value:
        calls = [[int(part) for part in call.split(",")] for call in re.findall(r"\(([^)]*)\)", value)]
        return [datetime(*call[:5], *call[5:7]) for call in calls]  # type: ignore[arg-type]
    return [None if pd.isna(t := pd.to_datetime(text, errors="coerce")) else t for text in texts(value)]


def record(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return {name: found.get(name) for name in _FIELDS} if isinstance(found, dict) else None


def is_good(row: Any) -> bool:
    moved = row.transferred_at
    return (
        pd.notna(row.started_at)
        and pd.notna(row.ended_at)
        and row.started_at <= row.ended_at
        and len(row.counselors) > 0
        and len(moved) == len(row.counselors) - 1
        and None not in moved
        and all(row.started_at <= time <= row.ended_at for time in moved)
        and moved == sorted(moved)
    )


def mean(values: Any) -> Any:
    return values.mean().round(6)


def main() -> None:
    out, files = Path(sys.argv[1]), sys.argv[2:]
    out.mkdir(parents=True, exist_ok=True)
    lines = [(line, file) for file in files for line in Path(file).read_text(encoding="utf-8").split("\n")[:-1]]
    raw = pd.DataFrame(lines, columns=["line", "filename"])
    raw.to_parquet(out / "raw.parquet")

    parsed = pd.DataFrame([record(line) or dict.fromkeys(_FIELDS) for line in raw["line"]])
    parsed["started_at"] = pd.to_datetime(parsed.pop("time_call_began"), errors="coerce", format="mixed")
    parsed["ended_at"] = pd.to_datetime(parsed.pop("time_call_ended"), errors="coerce", format="mixed")
    parsed["transferred_at"] = parsed.pop("transfer_timestamps").map(times)
    parsed["counselors"] = parsed["counselors"].map(texts)
    parsed["issues"] = parsed.pop("issues_discussed").map(known)
    parsed["pronouns"] = parsed.pop("client_pronouns").map(known)
    for name in ("call_rating", "initial_risk_level"):
        parsed[name] = pd.to_numeric(parsed[name], errors="coerce")
    parsed["contact_id"] = pd.util.hash_pandas_object(parsed.astype(str).agg("|".join, axis=1), index=False)
    good = pd.Series([is_good(row) for row in parsed.itertuples()])
    raw[~good].to_parquet(out / "quarantine.parquet")
    clean = parsed[good].drop_duplicates("contact_id")
    del raw, parsed, lines
    clean.to_parquet(out / "clean.parquet")

    held = clean[["contact_id", "started_at", "ended_at", "call_rating", "initial_risk_level"]].copy()
    held["start"] = [[a, *moved] for a, moved in zip(clean["started_at"], clean["transferred_at"], strict=True)]
    held["end"] = [[*moved, b] for b, moved in zip(clean["ended_at"], clean["transferred_at"], strict=True)]
    held["counselor_name"] = clean["counselors"]
    assignments = held.explode(["counselor_name", "start", "end"])
    assignments["start"] = pd.to_datetime(assignments["start"])
    assignments["end"] = pd.to_datetime(assignments["end"])
    assignments.to_parquet(out / "assignments.parquet")
    clean[
        ["contact_id", "started_at", "ended_at", "call_rating", "initial_risk_level", "pronouns", "issues"]
    ].to_parquet(out / "contacts.parquet")
    pd.DataFrame({"counselor_name": assignments["counselor_name"].unique()}).to_parquet(out / "counselors.parquet")
    transfers = assignments[assignments.duplicated("contact_id")]
    transfers[["contact_id", "counselor_name", "start"]].to_parquet(out / "transfers.parquet")

    assignments["day"] = assignments["start"].dt.normalize()
    cases = assignments.drop_duplicates(["counselor_name", "contact_id"]).groupby(["counselor_name", "day"])
    daily = cases.agg(
        number_of_cases=("contact_id", "size"),
        average_risk_level=("initial_risk_level", "mean"),
        average_rating=("call_rating", "mean"),
    )
    daily.reset_index().to_parquet(out / "counselor_daily_cases.parquet")
    sets = clean["pronouns"].map(lambda found: " + ".join(sorted(set(found))) or "Unknown")
    both = clean["pronouns"].map(lambda found: {"She/Her", "They/Them"} <= set(found))
    risk = clean.groupby(sets)["initial_risk_level"].agg(contact_count="size", average_risk_level="mean").reset_index()
    she_they = clean[both]["initial_risk_level"]
    risk.loc[len(risk)] = ["She/They", len(she_they), she_they.mean()]
    risk.to_parquet(out / "pronoun_risk.parquet")

    line = clean[["started_at", "ended_at"]].set_axis(["start", "end"], axis=1).assign(scope="all")
    each = assignments[["start", "end"]].assign(scope=assignments["counselor_name"])
    spans = pd.concat([line, each])
    starts = pd.DataFrame({"scope": spans["scope"], "at": spans["start"], "change": 1})
    ends = pd.DataFrame({"scope": spans["scope"], "at": spans["end"], "change": -1})
    changes = pd.concat([starts, ends]).groupby(["scope", "at"])["change"].sum()
    peaks = changes.groupby(level="scope").cumsum().groupby(level="scope").agg(max_concurrent_cases="max")
    peaks.reset_index().to_parquet(out / "concurrency.parquet")


if __name__ == "__main__":
    main()
