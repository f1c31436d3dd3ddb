"""The OpenAPI description is true, and the page shows it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import validator_for

from api.description import ENTRIES_BODY, ENTRY
from api.entries import read_batch
from tests.api.conftest import BOTH
from tests.api.service import Service

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


def test_the_service_does_what_its_description_says(service: Service, tmp_path: Path) -> None:
    """schemathesis asks whatever the description allows, and what it does not, and checks status, shape and headers."""
    command = [SCHEMATHESIS, "run", f"{service.url}/openapi.json", "--max-examples", "20", "--seed", "7"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout[-5_000:]
    assert re.search(r"Tested: 7\b", ended.stdout)


def test_a_key_is_needed_wherever_the_description_says_so(service_with_keys: Service, service: Service) -> None:
    keys = ({}, {"X-API-Key": "x" * 20}, {"Authorization": "Basic x", "X-API-Key": BOTH})
    for name, operation in operations(service_with_keys):
        method, path = name.split()
        asked = [service_with_keys.client.request(method, path.format(customer_id=1), headers=key) for key in keys]
        is_open = name in ("GET /health", "GET /ready")
        assert {answer.status_code for answer in asked} == ({200} if is_open else {401}), name
        assert ("security" in operation) is not is_open
    assert not any("security" in operation for _, operation in operations(service))


def operations(service: Service) -> list[tuple[str, dict[str, Any]]]:
    description = service.get("/openapi.json").json()
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_endpoint_is_described_with_examples_and_its_errors_and_none_is_422(service: Service) -> None:
    found = dict(operations(service))
    assert set(found) == {
        "POST /member",
        "POST /",
        "GET /api/v1/interactions/{customer_id}",
        "GET /api/v1/interactions/{customer_id}/topics",
        "GET /api/v1/products/customer-types",
        "GET /health",
        "GET /ready",
    }
    for name, operation in found.items():
        assert operation["summary"], name
        assert "422" not in operation["responses"], name
        for status, response in operation["responses"].items():
            content = response["content"]["application/json"]
            assert content["example"].keys() == ({"data"} if status < "300" else {"error", "hint"}), (name, status)
    assert len({operation["operationId"] for operation in found.values()}) == len(found)


def test_the_examples_of_bodies_are_accepted(service: Service) -> None:
    for content in ENTRIES_BODY["content"].values():
        schema = validator_for(content["schema"])
        for example in content["examples"].values():
            assert schema.is_valid(example["value"])
            body = {"content": example["value"]} if isinstance(example["value"], str) else {"json": example["value"]}
            assert service.client.post("/member", **body).status_code == 202


@pytest.mark.parametrize(
    "entry", ["{a=1}", '{id="x"|b=2}', "{junk|a=}", "{a}", "{}", "{=1}", "a=1", "{a=\x01}", "{a=\u2028}", "{a b=1}"]
)
def test_the_pattern_of_entries_says_what_the_code_does(entry: str) -> None:
    body_schema = ENTRIES_BODY["content"]["text/plain"]["schema"]
    try:
        read_batch(entry.encode())
        is_taken = True
    except Exception:
        is_taken = False
    assert validator_for(body_schema).is_valid(entry) is is_taken


def test_an_entry_alone_is_a_body_of_json_too(service: Service) -> None:
    assert validator_for(ENTRIES_BODY["content"]["application/json"]["schema"]).is_valid(ENTRY)
    assert service.client.post("/member", json=ENTRY).status_code == 202


def test_the_page_shows_every_endpoint_and_works_without_the_network(service: Service) -> None:
    page = service.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name, operation in operations(service):
        method, path = name.split()
        assert f'<span class="method">{method}</span> {path}</code>' in page.text
        assert operation["summary"] in page.text
    assert "<script" not in page.text
    assert re.findall(r'(?:src|href)="([^"]*)"', page.text) == ["/openapi.json"]
