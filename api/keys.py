"""API keys: who may post entries, who may read."""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from api.errors import WrongConfigurationError

Right = Literal["read", "write"]
RIGHTS: tuple[Right, ...] = ("read", "write")
VARIABLE = "ASSAY_API_KEYS"
SHORTEST = 16
FORMAT = "write read:<key>, write:<key> or <key> (for both), separated by commas"

# What may follow `Bearer` in a header; it has no comma and no colon, so the list needs no quoting.
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]+")


@dataclass(frozen=True)
class Caller:
    """Who sent a request, as far as logs and limits may know: `name` tells keys apart and gives none away."""

    name: str
    rights: frozenset[Right]


@dataclass(frozen=True)
class Key:
    """Only the digest of a key is kept."""

    caller: Caller
    digest: bytes = field(repr=False)


ANYBODY = Caller("-", frozenset(RIGHTS))


def parse_keys(text: str) -> tuple[Key, ...]:
    """The keys of ASSAY_API_KEYS; none if it is empty. `key-2` is the name of the second one.

    Raises WrongConfigurationError that says which is wrong, and never quotes it.
    """
    if not text.strip():
        return ()
    keys = tuple(_parse_key(item.strip(), number) for number, item in enumerate(text.split(","), start=1))
    digests = [key.digest for key in keys]
    for number, digest in enumerate(digests, start=1):
        if digest in digests[: number - 1]:
            raise WrongConfigurationError(f"{VARIABLE}: key {number} is given twice", "give each key once")
    return keys


def identify(keys: Sequence[Key], headers: Mapping[bytes, bytes]) -> Caller | None:
    """The caller whose key is in the headers; None if there is none or it is unknown.

    Authorization alone counts if it is there. Every key is compared, in constant time, so that the time taken tells
    nothing about any.
    """
    if b"authorization" in headers:
        scheme, _, token = headers[b"authorization"].partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else b""
    else:
        given = headers.get(b"x-api-key", b"").strip()
    digest = hashlib.sha256(given).digest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key.caller
    return found


def _parse_key(item: str, number: int) -> Key:
    before, colon, after = item.rpartition(":")
    right: Right | None = next((known for known in RIGHTS if known == before), None)
    if colon and right is None:
        raise WrongConfigurationError(f"{VARIABLE}: key {number} has an unknown right before its colon", FORMAT)
    if len(after) < SHORTEST:
        raise WrongConfigurationError(
            f"{VARIABLE}: key {number} has {len(after)} characters; it needs at least {SHORTEST}",
            "make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    if not _KEY.fullmatch(after):
        raise WrongConfigurationError(
            f"{VARIABLE}: key {number} has a character that a header cannot carry",
            "use ASCII letters, digits and . _ ~ + / = -",
        )
    rights = frozenset([right]) if right else frozenset(RIGHTS)
    return Key(Caller(f"key-{number}", rights), hashlib.sha256(after.encode()).digest())
