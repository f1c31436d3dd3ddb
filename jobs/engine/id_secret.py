"""The secret that a source's ids are made with: who sees only what is published cannot try out whose records they are.

It lies in the lakehouse, beside those records, and is as old as they are. A lakehouse that is to give the same records
the same ids gets a copy before its first run.
"""

import secrets
from contextlib import closing
from typing import Any

from py4j.java_gateway import is_instance_of

from jobs.engine.delta import Lakehouse
from jobs.engine.errors import AssayError
from jobs.engine.hadoop import located, read_text
from jobs.engine.session import java_class

PARAMETER = "id_secret"  # a transform that names it is given the secret
_BYTES = 32


def path(lake: Lakehouse, source: str) -> str:
    """Where the secret of a source lies."""
    return lake.path(f"ops/id_secrets/{source}")


def find(lake: Lakehouse, source: str) -> str | None:
    """The secret, as 64 hexadecimal digits; None if there is none yet. Raises AssayError if it is not whole."""
    file_system, file = _file(lake, path(lake, source))
    if not file_system.exists(file):
        return None
    text = read_text(lake.spark, file_system, file).strip()
    if len(text) != 2 * _BYTES or set(text) - set("0123456789abcdef"):
        raise AssayError(
            f"{path(lake, source)} does not hold {2 * _BYTES} hexadecimal digits: no ids can be made",
            f"{_WAY_OUT}, once the file is removed",
        )
    return text


def read(lake: Lakehouse, source: str) -> str:
    """The secret. Raises AssayError if it is not there, or not whole."""
    if (found := find(lake, source)) is None:
        raise AssayError(f"{path(lake, source)} is missing: no ids can be made", _WAY_OUT)
    return found


_WAY_OUT = "bring it back from a copy of the lakehouse; or `assay run` makes a new one, and new ids for all records"


def make(lake: Lakehouse, source: str) -> None:
    """Puts a new secret in place, whole or not at all, which only its owner may read. For a source that has none.

    Raises AssayError if the file system does not.
    """
    name, permission = path(lake, source), java_class(lake.spark, "org.apache.hadoop.fs.permission.FsPermission")
    (file_system, file), (_, new) = _file(lake, name), _file(lake, f"{name}.{secrets.token_hex(4)}")
    with closing(file_system.create(new, False)) as stream:
        file_system.setPermission(new, permission("600"))
        stream.writeBytes(secrets.token_hex(_BYTES))
    if not file_system.rename(new, file):  # which says no more than that
        file_system.delete(new, False)
        raise AssayError(
            f"{name}: the secret for ids could not be put there",
            "see that nothing else is at that place, and that its folder may be written to",
        )


def _file(lake: Lakehouse, path: str) -> tuple[Any, Any]:
    """A file and its file system; without Hadoop's checksums beside it, which a copy put in place would not fit."""
    found, file = located(lake.spark, path)
    gateway = lake.spark.sparkContext._gateway
    has_checksums = is_instance_of(gateway, found, "org.apache.hadoop.fs.ChecksumFileSystem")
    return (found.getRawFileSystem() if has_checksums else found), file
