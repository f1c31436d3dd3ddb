"""API keys as ASSAY_API_KEYS writes them, and as requests carry them."""

import pytest

from api.errors import WrongConfigurationError
from api.keys import identify, parse_keys

READ, WRITE, BOTH = "read-key-of-20-chars", "write-key-of-20-char", "c0ffee+/=~._-c0ffee="


def test_each_key_has_its_rights_and_a_name_that_gives_nothing_away() -> None:
    keys = parse_keys(f" read:{READ},write:{WRITE} ,{BOTH}")
    callers = [identify(keys, {b"x-api-key": key.encode()}) for key in (READ, WRITE, BOTH)]
    assert [(caller.name, sorted(caller.rights)) for caller in callers if caller] == [
        ("key-1", ["read"]),
        ("key-2", ["write"]),
        ("key-3", ["read", "write"]),
    ]
    assert not any(key in repr(keys) for key in (READ, WRITE, BOTH))


@pytest.mark.parametrize("text", ["", "  "])
def test_without_keys_there_are_none(text: str) -> None:
    assert parse_keys(text) == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("secretsecret", "key 1 has 12 characters; it needs at least 16"),
        (f"{BOTH},", "key 2 has 0 characters"),
        (",", "key 1 has 0 characters"),
        ("read:", "key 1 has 0 characters"),
        (f"{BOTH},read:secret", "key 2 has 6 characters"),
        ("secret:secretsecretsecret", "key 1 has an unknown right before its colon"),
        (f"READ:{READ}", "key 1 has an unknown right"),
        ("secretsecret secretsecret", "key 1 has a character that a header cannot carry"),
        ("sécretsecretsecret", "key 1 has a character that a header cannot carry"),
        (f"{BOTH},write:{BOTH}", "key 2 is given twice"),
    ],
)
def test_a_key_that_cannot_be_right_is_named_by_its_place_and_never_quoted(text: str, says: str) -> None:
    with pytest.raises(WrongConfigurationError) as refused:
        parse_keys(text)
    assert says in refused.value.message
    assert "secret" not in refused.value.message + refused.value.hint.replace("import secrets; print(secrets", "")


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({b"authorization": f"Bearer {READ}".encode()}, "key-1"),
        ({b"authorization": f"bearer   {READ} ".encode()}, "key-1"),
        ({b"x-api-key": READ.encode()}, "key-1"),
        ({b"authorization": b"Basic dTpw", b"x-api-key": READ.encode()}, None),
        ({b"authorization": f"Bearer {WRITE}".encode(), b"x-api-key": READ.encode()}, None),
        ({b"authorization": f"Basic {READ}".encode()}, None),
        ({b"authorization": READ.encode()}, None),
        ({b"authorization": b"Bearer"}, None),
        ({b"authorization": b"Bearer \xff\xfe"}, None),
        ({b"x-api-key": READ[:-1].encode()}, None),
        ({b"x-api-key": READ.upper().encode()}, None),
        ({b"x-api-key": b"read:" + READ.encode()}, None),
        ({b"x-api-key": b""}, None),
        ({}, None),
    ],
)
def test_a_key_comes_as_a_bearer_token_or_in_a_header_of_its_own(headers: dict[bytes, bytes], name: str | None) -> None:
    caller = identify(parse_keys(f"read:{READ}"), headers)
    assert (caller.name if caller else None) == name
