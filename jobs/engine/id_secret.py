"""The secret that a source's ids are made with: who sees only what is published cannot try out whose records they are.

It lies in the lakehouse, beside those records, and is as old as they are. A lakehouse that is to give the same records
the same ids gets a copy before its first run.
"""

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from jobs.engine.delta import Lakehouse
from jobs.engine.errors import AssayError
from jobs.engine.landing import hadoop_configuration, hadoop_path
from jobs.engine.session import jvm

PARAMETER = "id_secret"  # a transform that names it is given the secret
_BYTES = 32


def path(lake: Lakehouse, source: str) -> str:
    """Where the secret of a source lies."""
    return lake.path(f"ops/id_secrets/{source}")


def is_there(lake: Lakehouse, source: str) -> bool:
    """Whether the lakehouse has a secret for the source."""
    with _opened(lake, source) as (file_system, file):
        return bool(file_system.exists(file))


def read(lake: Lakehouse, source: str) -> str:
    """The secret, as 64 hexadecimal digits. Raises AssayError if it is not there, or not whole."""
    with _opened(lake, source) as (file_system, file):
        if not file_system.exists(file):
            raise AssayError(f"{path(lake, source)} is missing: no ids can be made", _WAY_OUT)
        with closing(file_system.open(file)) as stream:
            text = str(jvm(lake.spark).org.apache.commons.io.IOUtils.toString(stream, "UTF-8")).strip()
    if len(text) != 2 * _BYTES or set(text) - set("0123456789abcdef"):
        raise AssayError(
            f"{path(lake, source)} does not hold {2 * _BYTES} hexadecimal digits: no ids can be made",
            f"{_WAY_OUT}, once the file is removed",
        )
    return text


_WAY_OUT = "bring it back from a copy of the lakehouse; or `assay run` makes a new one, and new ids for all records"


def make(lake: Lakehouse, source: str) -> None:
    """Puts a new secret in place, whole or not at all, which only its owner may read. For a source that has none."""
    permissions = jvm(lake.spark).org.apache.hadoop.fs.permission
    with _opened(lake, source) as (file_system, file):
        new = hadoop_path(lake.spark, f"{path(lake, source)}.{secrets.token_hex(4)}")
        with closing(file_system.create(new, False)) as stream:
            file_system.setPermission(new, permissions.FsPermission("600"))
            stream.writeBytes(secrets.token_hex(_BYTES))
        file_system.rename(new, file)


@contextmanager
def _opened(lake: Lakehouse, source: str) -> Iterator[tuple[Any, Any]]:
    """The file system and the file. Without Hadoop's checksums beside it: a copy put in place would not fit those."""
    spark = lake.spark
    file = hadoop_path(spark, path(lake, source))
    opened = jvm(spark).org.apache.hadoop.fs.FileSystem.newInstance(file.toUri(), hadoop_configuration(spark))
    with closing(opened) as file_system:
        file_system.setWriteChecksum(False)
        file_system.setVerifyChecksum(False)
        yield file_system, file
