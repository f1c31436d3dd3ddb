"""Which databases a lakehouse was ever published to: their releases need versions of gold that no other place knows of.

A file `ops/published_to/<id>` for each, which has the database's address at that time. The id is the first run that
published to it: that stays whatever the address is, and whoever restores a copy.
"""

from contextlib import closing
from urllib.parse import quote, unquote

from jobs.engine.delta import Lakehouse
from jobs.engine.landing import hadoop_configuration, hadoop_path, read_text

FOLDER = "ops/published_to"


def remember(lake: Lakehouse, database: str, address: str) -> None:
    """Records a database by its id, unless it is recorded."""
    file = hadoop_path(lake.spark, lake.path(f"{FOLDER}/{quote(database, safe='')}"))
    file_system = file.getFileSystem(hadoop_configuration(lake.spark))
    if not file_system.exists(file):
        with closing(file_system.create(file, True)) as stream:
            stream.write(bytearray(address, "utf-8"))


def databases(lake: Lakehouse) -> dict[str, str]:
    """The address of each database, by its id."""
    folder = hadoop_path(lake.spark, lake.path(FOLDER))
    file_system = folder.getFileSystem(hadoop_configuration(lake.spark))
    found: dict[str, str] = {}
    for status in file_system.listStatus(folder) if file_system.exists(folder) else []:
        name = str(status.getPath().getName())
        if not name.startswith("."):
            found[unquote(name)] = read_text(lake.spark, file_system, status.getPath())
    return found
