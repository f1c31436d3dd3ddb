"""Where each layer keeps its tables, under which name it marks what it has written, and what a row is known by."""

from jobs.engine.sources import Source

# What a row came with, and what tells it from others of its file (but for identical ones).
LINEAGE = ("_source_file", "_batch_id")
ROW = ("_batch_id", "_source_file", "_row_hash")


def bronze_table(source: Source, raw: str) -> str:
    return f"bronze/{source.name}/{raw}"


def bronze_writer(source: Source) -> str:
    return f"bronze:{source.name}"


def silver_table(source: Source, table: str) -> str:
    return f"silver/{source.name}/{table}"


def quarantine_table(source: Source, table: str) -> str:
    return f"quarantine/{source.name}/{table}"


def silver_writer(source: Source, table: str) -> str:
    return f"silver:{source.name}/{table}"


def gold_table(source: Source, table: str) -> str:
    return f"gold/{source.name}/{table}"
