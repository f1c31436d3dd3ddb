"""What the service needs to know. Whoever starts it fills this in; nothing in `api` reads settings by itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from api.keys import Key

# Decision: far above what one process can answer, so that it only stops a caller who has run wild; lower it per site.
RATE_LIMIT = "10000/second"
ROLL_SECONDS = 5.0
ROLL_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class ServiceConfig:
    """`find_database` returns how to connect, anew at each connection: a restarted server may have another port.

    It runs in a thread and raises DatabaseUnavailable if there is no server. All tables are read in the role `role`.
    Without `keys`, `host` must be loopback.
    """

    landing: Path
    find_database: Callable[[], str]
    role: str = "analyst"
    host: str = "127.0.0.1"
    port: int = 5000
    keys: tuple[Key, ...] = ()
    rate_limit: str = RATE_LIMIT
    roll_seconds: float = ROLL_SECONDS
    roll_bytes: int = ROLL_BYTES
