"""The published tables. Each answer comes from one statement, so that it and its release belong together.

Tables (schema gold): customer_channel_interactions has every known customer with every channel, zeros included;
customer_channel_daily_interactions (per day) and customer_channel_topics (per product) have no zeros;
product_customer_types has every product with every customer type, zeros included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

from psycopg.types.numeric import Int8

from api.database import Database, NotPublished, Row

Counts = dict[str, int]


def _newest(*tables: str) -> str:
    """The newest release, if it has all of these tables of gold: else they show rows of an earlier one.

    That happens after another lakehouse took over the database, until it publishes them as well.
    """
    names = ", ".join(f"'gold.{table}'" for table in tables)
    return f"""
WITH release AS (
  SELECT release_id, published_at FROM ops.releases
  WHERE release_id = (SELECT max(release_id) FROM ops.releases)
    AND (SELECT count(*) FROM ops.release_tables AS t
         WHERE t.release_id = releases.release_id AND t.table_name IN ({names})) = {len(tables)}
)"""


# Postgres looks for each table that a statement names, and whether the role may read it, also where it reads no row.
_RELEASE = (
    _newest(
        "customer_channel_interactions",
        "customer_channel_daily_interactions",
        "customer_channel_topics",
        "product_customer_types",
    )
    + """
SELECT release_id, published_at FROM release
WHERE NOT EXISTS (SELECT FROM gold.customer_channel_interactions WHERE false)
  AND NOT EXISTS (SELECT FROM gold.customer_channel_daily_interactions WHERE false)
  AND NOT EXISTS (SELECT FROM gold.customer_channel_topics WHERE false)
  AND NOT EXISTS (SELECT FROM gold.product_customer_types WHERE false)"""
)

# The order is by code point, whatever the database's own is.
_INTERACTIONS = (
    _newest("customer_channel_interactions")
    + """
SELECT release_id, published_at, c.channel, c.interaction_count
FROM release LEFT JOIN gold.customer_channel_interactions AS c ON c.customer_id = %(customer_id)s
ORDER BY c.channel COLLATE "C"
"""
)
_INTERACTIONS_IN_PERIOD = (
    _newest("customer_channel_interactions", "customer_channel_daily_interactions")
    + """
SELECT release_id, published_at, c.channel, coalesce(sum(d.interaction_count), 0)::bigint
FROM release
LEFT JOIN gold.customer_channel_interactions AS c ON c.customer_id = %(customer_id)s
LEFT JOIN gold.customer_channel_daily_interactions AS d
  ON d.customer_id = c.customer_id AND d.channel = c.channel
 AND d.interacted_on BETWEEN coalesce(%(first)s::date, '-infinity') AND coalesce(%(last)s::date, 'infinity')
GROUP BY release_id, published_at, c.channel
ORDER BY c.channel COLLATE "C"
"""
)
_TOPICS = (
    _newest("customer_channel_interactions", "customer_channel_topics")
    + """
SELECT release_id, published_at, c.channel, t.product, t.interaction_count
FROM release
LEFT JOIN gold.customer_channel_interactions AS c ON c.customer_id = %(customer_id)s
LEFT JOIN gold.customer_channel_topics AS t ON t.customer_id = c.customer_id AND t.channel = c.channel
ORDER BY c.channel COLLATE "C", t.product COLLATE "C"
"""
)
_CUSTOMER_TYPES = (
    _newest("product_customer_types")
    + """
SELECT release_id, published_at, t.product, t.customer_type, t.interaction_count
FROM release LEFT JOIN gold.product_customer_types AS t ON true
ORDER BY t.product COLLATE "C", t.customer_type COLLATE "C"
"""
)


@dataclass(frozen=True)
class Release:
    """What the tables show now."""

    number: int
    published_at: datetime


class Gold:
    """Questions to the published tables. All raise NotPublished and DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def release(self) -> Release:
        """The newest release. Raises also if it lacks a table that is served here, or that may not be read."""
        release, _ = await self._ask(_RELEASE, {})
        return release

    async def interactions(
        self, customer_id: int, first: date | None = None, last: date | None = None
    ) -> tuple[Release, Counts | None]:
        """Channel -> count, of the days from `first` up to and with `last`; None for an unknown customer."""
        parameters: dict[str, object] = {"customer_id": Int8(customer_id)}
        query = _INTERACTIONS
        if first or last:
            query = _INTERACTIONS_IN_PERIOD
            parameters |= {"first": first, "last": last}
        release, rows = await self._ask(query, parameters)
        counts = {channel: count for channel, count in rows if channel is not None}
        return release, counts or None

    async def topics(self, customer_id: int) -> tuple[Release, dict[str, Counts] | None]:
        """Channel -> product -> count, every channel; None for an unknown customer."""
        release, rows = await self._ask(_TOPICS, {"customer_id": Int8(customer_id)})
        return release, _nested(rows) or None

    async def customer_types(self) -> tuple[Release, dict[str, Counts]]:
        """Product -> customer type -> count."""
        release, rows = await self._ask(_CUSTOMER_TYPES, {})
        return release, _nested(rows)

    async def _ask(self, query: str, parameters: Mapping[str, object]) -> tuple[Release, list[Row]]:
        """The release and the rest of each row."""
        rows = await self._database.rows(query, parameters)
        if not rows:
            raise NotPublished("there is no release yet, or the newest one lacks a table that is served")
        # Postgres answers in the zone of the session, which server, database, role or PGTZ may have set.
        return Release(rows[0][0], rows[0][1].astimezone(UTC)), [row[2:] for row in rows]


def _nested(rows: list[Row]) -> dict[str, Counts]:
    """(outer, inner, count) rows; an outer one with nothing in it has an inner of NULL."""
    found: dict[str, Counts] = {}
    for outer, inner, count in rows:
        if outer is not None:
            counts = found.setdefault(outer, {})
            if inner is not None:
                counts[inner] = count
    return found
