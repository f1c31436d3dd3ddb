"""Which databases a lakehouse was ever published to: their releases need versions of gold that no other place knows of.

A file `ops/published_to/<id>` for each, which has the database's address at that time. The id is the first run that
published to it: that stays whatever the address is, and whoever restores a copy.
"""

from contextlib import closing
from urllib.parse import quote, unquote

from jobs.engine.delta import Lakehouse
from jobs.engine.hadoop import located, read_text

FOLDER = "ops/published_to"


def remember(lake: Lakehouse, database: str, address: str) -> None:
    """Records a database by its id, unless it is recorded."""
    file_system, file = located(lake.spark, lake.path(f"{FOLDER}/{quote(database, safe='')}"))
    if not file_system.exists(file):
        with closing(file_system.create(file, True)) as stream:
            stream.write(bytearray(address, "utf-8"))


def databases(lake: Lakehouse) -> dict[str, str]:
    """The address of each database, by its id."""
    file_system, folder = located(lake.spark, lake.path(FOLDER))
    found: dict[str, str] = {}
    for status in file_system.listStatus(folder) if file_system.exists(folder) else []:
        name = str(status.getPath().getName())
        if not name.startswith("."):
            found[unquote(name)] = read_text(lake.spark, file_system, status.getPath())
    return found
