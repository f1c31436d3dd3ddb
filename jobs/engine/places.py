"""Places as users name them: a path of this machine, or a URI of one of Hadoop's file systems."""

import re
from pathlib import Path

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def is_uri(place: str) -> bool:
    """Whether a place is named as Hadoop's file systems are, such as `hdfs:/lake` or `s3a://bucket/lake`."""
    return _SCHEME.match(place) is not None


def local_path(place: str) -> Path | None:
    """The place, if it is one of this machine; None for other file systems."""
    if place.startswith("file:"):
        return Path("/" + place.removeprefix("file:").lstrip("/"))
    return None if is_uri(place) else Path(place)
