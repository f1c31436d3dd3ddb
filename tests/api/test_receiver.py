"""`POST /member` and `POST /` over real HTTP: what is answered, and what is in the landing folder then."""

import json
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.service import Service

MIB = 1024 * 1024


def entry(**fields: object) -> str:
    """An entry that no other test has sent."""
    given = {"id": f'"{uuid.uuid4().hex[:16]}"', "created_at": '"2023-06-27"', **fields}
    return "{" + "|".join(f"{name}={value}" for name, value in given.items()) + "}"


def is_there(service: Service, line: str) -> bool:
    """Whether a line is on disk, in a file that is hidden or not."""
    return any(line.encode() in file.read_bytes() for file in service.hidden_files() + service.landed_files())


@pytest.mark.parametrize("path", ["/member", "/"])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain; charset=utf-8", None])
@pytest.mark.parametrize("form", ["text", "json"])
def test_an_entry_is_on_disk_when_it_is_acknowledged_whatever_its_content_type(
    service: Service, path: str, content_type: str | None, form: str
) -> None:
    line = entry()
    body = line if form == "text" else json.dumps({"member": line})
    headers = {"Content-Type": content_type} if content_type else {}
    answer = service.client.post(path, content=body, headers=headers)
    assert (answer.status_code, answer.json()) == (202, {"data": {"accepted": 1}})
    assert answer.headers["content-type"] == "application/json"
    assert is_there(service, line)


def test_curl_as_people_use_it_sends_a_form_which_is_taken_as_text(service: Service) -> None:
    line = entry()
    assert service.post(line, Content_Type="application/x-www-form-urlencoded").status_code == 202
    assert is_there(service, line)


@pytest.mark.parametrize("form", ["lines", "json"])
def test_a_batch_is_taken_as_a_whole(service: Service, form: str) -> None:
    entries = [entry(number=number) for number in range(5_000)]
    body = "\r\n".join(entries) if form == "lines" else json.dumps({"member": entries})
    answer = service.post(body)
    assert (answer.status_code, answer.json()) == (202, {"data": {"accepted": 5_000}})
    assert is_there(service, "\n".join(entries) + "\n")


@pytest.mark.parametrize(
    ("body", "status", "place"),
    [
        (entry(name="junk1") + "\njunk\n", 400, "line 2"),
        (json.dumps({"member": [entry(name="junk2"), "junk"]}), 400, "entry 2"),
        (json.dumps([{"member": entry(name="junk3")}, {"member": 1}]), 400, "entry 2"),
        (entry(name="junk4") + "\n" + entry(name="x" * 65_536), 413, "line 2"),
    ],
    ids=["lines", "one object", "objects", "a long line"],  # entries have ids of their own in every process
)
def test_of_a_batch_with_junk_nothing_lands(service: Service, body: str, status: int, place: str) -> None:
    answer = service.post(body)
    assert (answer.status_code, answer.json()["error"].startswith(place)) == (status, True)
    assert not is_there(service, "name=junk")


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("", 400, "the body is empty"),
        ("junk", 400, "the entry does not begin with { and end with }"),
        (b"\xff", 400, "the body is not valid UTF-8"),
        ('{"member": "', 400, "the body begins like JSON and is not valid JSON"),
        (entry(name="x" * 65_536), 413, "the entry is over 65,536 bytes"),
        (entry() + "\n" * (8 * MIB), 413, "the body is over 8 MiB"),
    ],
)
def test_what_is_refused_says_so_in_json_and_what_to_do(
    service: Service, body: str | bytes, status: int, error: str
) -> None:
    answer = service.post(body)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json()["hint"]
    assert answer.headers["content-type"] == "application/json"


def test_an_entry_of_64_KiB_is_taken_also_when_json_makes_it_longer(service: Service) -> None:  # noqa: N802
    line = entry(name="é" * 32_000)
    assert service.post(json.dumps({"member": line})).status_code == 202
    assert is_there(service, line)


def test_a_body_without_a_length_is_taken_and_cut_off_at_the_limit(service: Service) -> None:
    def chunks(line: str) -> Iterator[bytes]:
        yield line[:10].encode()
        yield line[10:].encode()

    def endless() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * MIB

    line = entry()
    assert service.client.post("/member", content=chunks(line)).status_code == 202
    assert is_there(service, line)
    answer = service.client.post("/member", content=endless())
    assert (answer.status_code, answer.json()["error"]) == (413, "the body is over 8 MiB")


def test_a_client_that_asks_first_is_refused_before_it_sends_its_body(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        head = "POST /member HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


def test_a_client_that_asks_first_and_may_gets_its_answer(service: Service) -> None:
    line = entry()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        head = (
            f"POST /member HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(line)}\r\nExpect: 100-continue\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(line.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 202 ")


def test_compressed_bodies_are_refused(service: Service) -> None:
    answer = service.post(b"\x1f\x8b", Content_Encoding="gzip")
    assert (answer.status_code, answer.json()["error"]) == (415, "compressed bodies are not taken")


def test_a_thousand_posts_from_32_clients_do_not_make_a_thousand_files(service: Service) -> None:
    before = len(service.landed_files())
    entries = [entry(number=number) for number in range(1_000)]
    with ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(lambda line: service.post(line).status_code, entries))
    assert statuses == [202] * 1_000
    give_up_at = time.monotonic() + 20
    while not (landed := set(entries) <= set(service.landed())) and time.monotonic() < give_up_at:
        time.sleep(0.1)
    assert landed
    assert len(service.landed_files()) - before < 10
