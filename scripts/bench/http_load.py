"""How fast is the HTTP service? Clients keep their connections, and send the next request when they have an answer.

    .venv/bin/python scripts/bench/http_load.py fill postgresql://...         100,000 customers into an empty database
    .venv/bin/python scripts/bench/http_load.py post http://127.0.0.1:5000    entries to POST /member, 32 clients
    .venv/bin/python scripts/bench/http_load.py get http://127.0.0.1:5000     GET /api/v1/interactions/{id}, 16 clients

The generator takes its share of the same processor, so a service on a machine of its own is faster than this says.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import psycopg

CHANNELS = ("Bird", "Boat", "Call", "Email", "Post")
FIRST_DAY, DAYS = "2024-01-01", 366

_FILL = """
CREATE SCHEMA IF NOT EXISTS gold;
CREATE SCHEMA IF NOT EXISTS ops;
CREATE TABLE ops.releases (
  release_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run_id text NOT NULL,
  published_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE ops.release_tables (release_id bigint, table_name text, PRIMARY KEY (release_id, table_name));
CREATE TABLE gold.customer_channel_daily_interactions (
  customer_id bigint, channel text, interacted_on date, interaction_count bigint,
  PRIMARY KEY (customer_id, channel, interacted_on));
CREATE TABLE gold.customer_channel_interactions (
  customer_id bigint, channel text, interaction_count bigint, PRIMARY KEY (customer_id, channel));
CREATE TABLE gold.customer_channel_topics (
  customer_id bigint, channel text, product text, interaction_count bigint,
  PRIMARY KEY (customer_id, channel, product));
CREATE TABLE gold.product_customer_types (
  product text, customer_type text, interaction_count bigint, PRIMARY KEY (product, customer_type));
INSERT INTO gold.customer_channel_daily_interactions
  SELECT customer_id, channel, date %(first_day)s + (customer_id * 7 + visit * 31 + place::int) %% %(days)s, 1 + visit
  FROM generate_series(1, %(customers)s) AS customer_id,
    unnest(%(channels)s::text[]) WITH ORDINALITY AS c (channel, place), generate_series(0, 2) AS visit;
INSERT INTO gold.customer_channel_interactions
  SELECT customer_id, channel, sum(interaction_count) FROM gold.customer_channel_daily_interactions GROUP BY 1, 2;
INSERT INTO gold.customer_channel_topics
  SELECT customer_id, channel, 'Loans', interaction_count FROM gold.customer_channel_interactions;
INSERT INTO gold.product_customer_types VALUES ('Loans', 'Business', 1), ('Loans', 'Private', 0);
INSERT INTO ops.releases (run_id) VALUES ('bench');
INSERT INTO ops.release_tables
  SELECT 1, 'gold.' || table_name FROM information_schema.tables WHERE table_schema = 'gold';
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'analyst') THEN CREATE ROLE analyst; END IF;
END $$;
GRANT USAGE ON SCHEMA gold, ops TO analyst;
GRANT SELECT ON ALL TABLES IN SCHEMA gold, ops TO analyst;
ANALYZE;
"""


@dataclass
class Result:
    """`seconds` holds how long each answer took."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0

    def as_text(self, took: float) -> str:
        times = sorted(self.seconds)
        if not times:
            return f"no answer in {took:.1f} s, {self.broken} broken connections"
        at = {share: times[min(len(times) - 1, int(len(times) * share))] * 1000 for share in (0.5, 0.9, 0.99, 0.999)}
        return (
            f"{len(times):,} answers in {took:.1f} s: {len(times) / took:,.0f} a second; "
            f"milliseconds: median {at[0.5]:.1f}, p90 {at[0.9]:.1f}, p99 {at[0.99]:.1f}, p99.9 {at[0.999]:.1f}, "
            f"max {times[-1] * 1000:.1f}; statuses {dict(sorted(self.statuses.items()))}; {self.broken} broken"
        )


class Client(asyncio.Protocol):
    """One connection. It reads just enough of an answer to know where it ends: all of them have a Content-Length."""

    def __init__(self, requests: Iterator[bytes], result: Result, until: float, ended: asyncio.Future[None]) -> None:
        self._requests = requests
        self._result = result
        self._until = until
        self._ended = ended
        self._buffer = b""
        self._sent_at = 0.0
        self._is_waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if len(body) < int(length or b"0"):
            return
        self._result.seconds.append(time.perf_counter() - self._sent_at)
        self._result.statuses[int(head[9:12])] += 1
        self._buffer = b""
        self._is_waiting = False
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._result.broken += self._is_waiting
        self._ended.set_result(None)

    def _send(self) -> None:
        if time.perf_counter() >= self._until:
            self._transport.close()
            return
        self._is_waiting = True
        self._sent_at = time.perf_counter()
        self._transport.write(next(self._requests))


async def load(url: str, requests: Iterator[bytes], clients: int, seconds: float) -> tuple[Result, float]:
    """What so many clients saw in so many seconds, and how long it took in fact."""
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    result, began, loop = Result(), time.perf_counter(), asyncio.get_running_loop()
    ended: list[asyncio.Future[None]] = [loop.create_future() for _ in range(clients)]
    for end in ended:
        await loop.create_connection(partial(Client, requests, result, began + seconds, end), host, port)
    await asyncio.wait(ended, timeout=seconds + 30)
    return result, time.perf_counter() - began


def posts(url: str, key: str | None) -> Iterator[bytes]:
    """Entries as members send them, each another one, one a request."""
    chance = random.Random(7)
    for number in itertools.count():
        entry = (
            f'{{id="{number % 50_000:016x}"|created_at="2023-{number % 12 + 1:02}-{number % 28 + 1:02}"'
            f"|sex={number % 2}|age={chance.randrange(18, 90)}|default_language_en=false"
            f"|waiting_list_time={chance.uniform(0, 40):.1f}|black_and_white_design=true"
            f"|follow_reco={chance.uniform(0, 100)}|follow_reco_above_50p=true}}"
        )
        yield _request("POST", url, "/member", key, json.dumps({"member": entry}).encode())


def gets(url: str, key: str | None, customers: int, is_in_period: bool) -> Iterator[bytes]:
    """Questions for customers at random."""
    chance = random.Random(7)
    period = "?start_date=2024-03-01&end_date=2024-05-31" if is_in_period else ""
    while True:
        yield _request("GET", url, f"/api/v1/interactions/{chance.randint(1, customers)}{period}", key)


def fill(conninfo: str, customers: int) -> None:
    """Makes the tables; an error if there are any of them, so that no real ones are changed."""
    with psycopg.connect(conninfo) as connection:
        values = {"customers": customers, "channels": list(CHANNELS), "first_day": FIRST_DAY, "days": DAYS}
        psycopg.ClientCursor(connection).execute(_FILL, values)


def _request(method: str, url: str, path: str, key: str | None, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fill", "post", "get"])
    parser.add_argument("where", help="the service's address; for fill, how to connect to Postgres")
    parser.add_argument("--clients", type=int, help="32 for post, 16 for get")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--key", help="an API key")
    parser.add_argument("--period", action="store_true", help="get: three months instead of all time")
    given = parser.parse_args()
    if given.what == "fill":
        fill(given.where, given.customers)
        return 0
    with suppress(ImportError):
        import uvloop

        uvloop.install()
    if given.what == "post":
        requests, clients = posts(given.where, given.key), given.clients or 32
    else:
        requests, clients = gets(given.where, given.key, given.customers, given.period), given.clients or 16
    try:
        result, took = asyncio.run(load(given.where, requests, clients, given.seconds))
    except OSError as error:
        print(f"nothing answers at {given.where}: {error}", file=sys.stderr)
        return 1
    print(f"{given.what}, {clients} clients: {result.as_text(took)}")
    return 0 if result.statuses and all(status < 300 for status in result.statuses) and not result.broken else 1


if __name__ == "__main__":
    sys.exit(main())
