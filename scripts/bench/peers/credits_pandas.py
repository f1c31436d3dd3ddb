"""Credits as an analyst would refine them with pandas: raw rows, clean tables, gold, all kept as Parquet files.

python -m scripts.bench.peers.credits_pandas OUT FILE...
"""

import sys
from pathlib import Path

import pandas as pd

_FIELDS = ["org_id", "user_id", "credit_type", "action", "credits", "timestamp"]
_SHAPES = {
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": "%Y-%m-%d %H:%M:%S",
    r"\d\d-\d\d-\d{4}": "%d-%m-%Y",
    r"\d\d/\d\d/\d{4} \d\d:\d\d [AP]M": "%m/%d/%Y %I:%M %p",
}


def ids(texts: "pd.Series[str]") -> "pd.Series[str]":
    lowered = texts.str.lower()
    return lowered.mask(lowered.isin(["", "null", "n/a", "nan"]))


def main() -> None:
    out, files = Path(sys.argv[1]), sys.argv[2:]
    out.mkdir(parents=True, exist_ok=True)
    parts = [pd.read_csv(file, dtype=str, keep_default_na=False).assign(filename=file) for file in files]
    raw = pd.concat(parts, ignore_index=True)
    raw.to_parquet(out / "raw.parquet")
    del parts

    raw["is_malformed"] = raw["org_id"] == "malformed"
    for field in _FIELDS:
        raw[field] = raw[field].fillna("").str.strip()
    number = raw.groupby(["filename", *_FIELDS]).cumcount().astype(str)
    raw["event_id"] = pd.util.hash_pandas_object(raw[_FIELDS].agg("|".join, axis=1) + "#" + number, index=False)
    written = raw.pop("timestamp").str.upper()
    occurred_at = pd.to_datetime(pd.to_numeric(written.where(written.str.fullmatch(r"[1-9]\d{9}(?:\.0+)?"))), unit="s")
    for shape, form in _SHAPES.items():
        found = pd.to_datetime(written.where(written.str.fullmatch(shape)), format=form, errors="coerce")
        occurred_at = occurred_at.fillna(found)
    raw["occurred_at"] = occurred_at
    amount = raw.pop("credits")
    is_number = amount.str.fullmatch(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")
    # Cents, for money in floating point would not add up.
    raw["cents"] = (pd.to_numeric(amount.where(is_number)).fillna(0) * 100).round().astype("int64")
    named, user = ids(raw["org_id"]), ids(raw["user_id"])
    raw["user_id"] = user.fillna("unknown")
    raw["credit_type"], raw["action"] = ids(raw["credit_type"]).fillna("unknown"), ids(raw["action"])

    orgs = named[~raw["is_malformed"] & user.notna() & named.notna()].groupby(user).agg(["min", "max"])
    only = orgs[orgs["min"] == orgs["max"]]["min"]
    raw["named_org"], raw["org_id"] = named, named.fillna(user.map(only))
    is_good = ~raw["is_malformed"] & raw["org_id"].notna() & raw["action"].isin(["add", "deduct"]) & (raw["cents"] >= 0)
    quarantine = raw[~is_good]
    quarantine.to_parquet(out / "quarantine.parquet")
    clean = raw[is_good].drop_duplicates("event_id")
    del raw
    clean.to_parquet(out / "clean.parquet")

    each = clean[clean["user_id"] != "unknown"].groupby(["user_id", "org_id"])["occurred_at"].agg(["size", "min"])
    ordered = each.reset_index().sort_values(["user_id", "size", "min", "org_id"], ascending=[True, False, True, True])
    homes = ordered.drop_duplicates("user_id").set_index("user_id")["org_id"]
    homes.rename("home_org_id").reset_index().to_parquet(out / "homes.parquet")
    activity = clean[["event_id", "org_id", "user_id", "credit_type", "action", "cents", "occurred_at"]].copy()
    activity["home_org_id"] = activity["user_id"].map(homes)
    activity["occurred_on"] = activity["occurred_at"].dt.normalize()
    activity.to_parquet(out / "user_activity.parquet")
    daily = activity.groupby(["org_id", "user_id", "credit_type", "action", "occurred_on"], dropna=False)["cents"]
    daily.agg(event_count="size", cents="sum").reset_index().to_parquet(out / "user_daily_usage.parquet")

    is_added = activity["action"] == "add"
    signed = activity["cents"].where(is_added, -activity["cents"])
    is_disputed = activity["home_org_id"].notna() & (activity["home_org_id"] != activity["org_id"])
    sums = pd.DataFrame(
        {
            "credits_added": activity["cents"].where(is_added, 0),
            "credits_deducted": activity["cents"].where(~is_added, 0),
            "disputed_credits": signed.where(is_disputed, 0),
            "undated_event_count": activity["occurred_at"].isna(),
        }
    )
    balances = sums.groupby(activity["org_id"]).sum()
    balances["credit_balance"] = balances["credits_added"] - balances["credits_deducted"]
    times = activity.groupby("org_id")["occurred_at"].agg(first_event_at="min", last_event_at="max")
    held = quarantine[~quarantine["is_malformed"]].groupby("named_org")["event_id"].nunique()
    balances.join(times).join(held.rename("quarantined_event_count"), how="outer").to_parquet(out / "balances.parquet")


if __name__ == "__main__":
    main()
